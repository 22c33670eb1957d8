/* SPDX-License-Identifier: Apache-2.0 */
/* A request for answers, from its body to the last token: what is asked of the service. Of the
 * gateway's thread. */
#ifndef ISTHMUS_CONTROL_GATEWAY_COMPLETION_H
#define ISTHMUS_CONTROL_GATEWAY_COMPLETION_H

#include <stdbool.h>
#include <stdint.h>

#include "control/gateway/answer.h"
#include "control/gateway/api.h"
#include "control/gateway/out.h"
#include "control/model.h"
#include "control/service/service.h"

/* What all requests share. */
struct completion_context {
    struct service *service;
    const struct model *model;
    const char *model_id;
    uint32_t answer_tokens; /* of a chat that gives no max_tokens */
    struct chime *chime;
};

struct completion_prompt {
    int32_t *ids;
    uint32_t n;
};

struct completion {
    const struct completion_context *c;
    struct api_request request;
    struct completion_prompt *prompts;
    uint32_t context; /* that it may have, whatever the service says later */
    uint32_t n_prompts;
    struct answer **answers; /* request.n of the first prompt, then the next one's */
    uint32_t n_answers, n_made;
    char id[40];        /* "chatcmpl-..." */
    int64_t created_s;
    uint64_t asked_ns; /* all its answers' time counts from then */
    char client[SERVICE_CLIENT];
    struct out head;  /* of a stream: what each of its events begins with */
    bool failed;      /* *error says why; no answer is wanted any more */
    struct api_error error;
    bool began;       /* a stream: its first bytes are made */
    bool ended;       /* a stream: its last bytes are made */
};

/*
 * Parse and submit: 0, or -1 with m->error. In either case completion_free is due, once nothing of it
 * runs. answers' owner is `owner`. m must stay where it is.
 */
int completion_open(struct completion *m, const struct completion_context *c, enum api_kind kind,
                    const char *body, size_t n, const char *client, void *owner);

/* After one of its answers has rung, and again where it returned true a while before: submits what
 * waits for a prompt's first answer. True: it wants to be called again, the service was full. */
bool completion_advance(struct completion *m);

void completion_cancel(struct completion *m);

/* Whether the engine may still call. */
bool completion_runs(const struct completion *m);

/* The engine has ended all answers (a stop string comes a step before that, and usage is not known
 * then), or it has failed. */
bool completion_is_whole(const struct completion *m);

/* A stream has something to say that was not said. */
bool completion_has_news(const struct completion *m);

void completion_free(struct completion *m);

/* --- in words: reply.c -------------------------------------------------------------------------- */

/* The whole answer as JSON. */
void reply_whole(struct out *o, const struct completion *m);
/* What is new, as server-sent events. */
void reply_events(struct out *o, struct completion *m);
/* {"error": {...}} */
void reply_error(struct out *o, const struct api_error *e);

#endif
