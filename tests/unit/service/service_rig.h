/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the service stand on: an engine without a model in a thread of its own, and
 * what became of an answer. */
#ifndef ISTHMUS_TESTS_SERVICE_RIG_H
#define ISTHMUS_TESTS_SERVICE_RIG_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "control/cmd.h"
#include "control/service/service.h"
#include "tests/unit/service/fake_engine.h"

#define SECOND_NS UINT64_C(1000000000)
#define N_TOP     3u

struct answer {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int32_t ids[FAKE_CTX];
    uint32_t n;
    unsigned done;
    struct edge_result result;
    uint64_t first_ns;
};

void answer_init(struct answer *a);
void on_token(void *arg, const struct token_sample *t);
void on_done(void *arg, const struct edge_result *r);
void await_tokens(struct answer *a, uint32_t n); /* or its end */
enum edge_finish await_done(struct answer *a);

/* A request of one token for n; what service_submit says. */
int submit_as(struct service *s, struct answer *a, int32_t first, uint32_t n, const char *client,
              uint64_t *id);
uint64_t submit(struct service *s, struct answer *a, int32_t first, uint32_t n);

/* The engine's thread, which opens the service, too. */
struct rig {
    struct fake_engine engine;
    struct service *service;
    struct service_params params;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t opened;
    int rc;
    atomic_uint reloads;
    uint64_t (*tick)(void *arg, uint64_t now_ns);
    atomic_uint ticks;
};

void rig_start(struct rig *r, uint32_t sessions, uint32_t max_waiting);
int rig_join(struct rig *r); /* what service_run came to */
int rig_end(struct rig *r);  /* the same, by SIGTERM */

void nap(uint64_t ns);
struct service_stats stats(struct rig *r);
void await_running(struct rig *r, uint32_t running, uint32_t waiting);
void nothing(void *arg, struct front *f); /* arg: counts calls; or NULL */

/* Signals are counted by the process: each test has one to itself. */
void in_child(void (*test)(struct rig *r));
#define IN_CHILD(name)                                                                             \
    static void name##_child(void **state)                                                         \
    {                                                                                              \
        (void)state;                                                                               \
        in_child(name);                                                                            \
    }

#endif
