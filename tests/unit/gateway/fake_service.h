/* SPDX-License-Identifier: Apache-2.0 */
/* A service that answers each prompt with its own ids, again and again, in a thread of its own. */
#ifndef ISTHMUS_TESTS_FAKE_SERVICE_H
#define ISTHMUS_TESTS_FAKE_SERVICE_H

#include <math.h>

#include "control/service/service.h"

#define FAKE_JOBS     256u
#define FAKE_CONTEXT  512u
#define FAKE_REFUSED  7 /* a prompt that begins with this id is refused while it runs */
#define FAKE_SHARED   3u
/* The likeliest ids at every place; a vocabulary of so many. 256 and 257 are control tokens, 0xc3
 * and 0xe2 bytes that begin a character. */
#define FAKE_TOP 6u
#define FAKE_TOPS                                                                                  \
    {                                                                                              \
        {'a', -.5f}, {'b', -1}, {257, -2}, {0xc3, -3}, {'"', -4},                                  \
        {                                                                                          \
            0xe2, -INFINITY                                                                        \
        }                                                                                          \
    }

struct fake_job {
    uint64_t id;
    int32_t *ids;
    uint32_t n_prompt, n_predict, n_generated;
    struct service_request r;
    bool cancelled;
};

struct fake_service_params {
    uint32_t max_jobs; /* beyond: -EAGAIN */
    uint32_t token_us; /* a step's time */
};

struct service *fake_open(const struct fake_service_params *p);
void fake_close(struct service *s);

void fake_set_health(struct service *s, enum service_health h); /* draining: -ESHUTDOWN */
/* Of new requests; FAKE_CONTEXT at first, and at most. Too long for what was promised: -ERANGE. */
void fake_set_context(struct service *s, uint32_t tokens);
/* -ETIMEDOUT for what was asked for so long ago; 0, as at first: no limit. None that runs ends. */
void fake_set_timeout(struct service *s, uint64_t timeout_ns);
uint32_t fake_running(struct service *s);
uint64_t fake_submitted(struct service *s);
uint64_t fake_cancelled(struct service *s);
uint64_t fake_rejected(struct service *s); /* -EAGAIN, but for who comes again */
/* Of the last submitted ones: their seeds, newest last. */
void fake_seeds(struct service *s, uint64_t *seeds, uint32_t n);
/* Whose the last one was. */
const char *fake_client(struct service *s);
const struct sampler_params *fake_sampler(struct service *s);

#endif
