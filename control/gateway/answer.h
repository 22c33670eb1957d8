/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One answer of a request (a choice, in OpenAI's words): ids come from the engine's thread into room
 * that was made before, text is made of them in the gateway's.
 */
#ifndef ISTHMUS_CONTROL_GATEWAY_ANSWER_H
#define ISTHMUS_CONTROL_GATEWAY_ANSWER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "compute/tokenizer.h"
#include "control/gateway/chime.h"
#include "control/gateway/text.h"
#include "control/service/service.h"

struct answer_token {
    int32_t id;
    float logprob;
};

enum answer_state {
    ANSWER_LATER,   /* to be submitted once the prompt's first has begun: it shares its cache then */
    ANSWER_RUNNING, /* the engine may call */
    ANSWER_ENDED,   /* by the engine, or never submitted */
};

struct answer {
    void *owner; /* the gateway's */
    const struct tokenizer *tok;
    struct chime *chime;

    /* written by the engine's thread */
    struct answer_token *tokens; /* [max_tokens] */
    struct sampler_top *top;     /* [max_tokens][n_top]; id -1: the vocabulary has no more */
    uint32_t max_tokens, n_top;
    _Atomic uint32_t n_tokens;
    atomic_bool rung; /* `news` is on its way */
    struct rung news, end;
    struct edge_result result; /* once `end` was taken */
    bool orphan;               /* the gateway is closed: freed at the end */

    /* the gateway's */
    enum answer_state state;
    uint64_t id;
    bool cancelled;
    uint32_t n_taken; /* tokens that are in the text */
    uint32_t *ends;   /* [max_tokens], text's bytes after each; NULL: nobody wants to know */
    struct text text;
    bool out_of_memory;
    size_t n_sent;         /* bytes of text */
    uint32_t n_sent_tokens; /* whose log-probabilities were sent */
    bool begun, closed;    /* its first, its last chunk is written */
    int error;             /* -errno of service_submit */
};

/* max_tokens as the context leaves; with_ends for log-probabilities, n_top alternatives with each.
 * NULL: out of memory. */
struct answer *answer_new(uint32_t max_tokens, bool with_ends, uint32_t n_top);
void answer_free(struct answer *a);

/* 0: running. -errno as service_submit. r's callbacks and n_predict are filled in. */
int answer_submit(struct answer *a, struct service *s, struct service_request *r);

/* What rang: takes its tokens into the text, and notes whether it has ended. At a stop string it is
 * cancelled. Free it only when all rungs that were taken with it are done. */
struct answer *answer_rung(struct rung *r, struct service *s);

/* Nobody wants it any more. */
void answer_cancel(struct answer *a, struct service *s);

/* Nothing comes any more: ended, or at a stop string. */
static inline bool answer_complete(const struct answer *a)
{
    return a->state == ANSWER_ENDED || a->text.stopped;
}

/* "stop" or "length"; NULL: it failed, and *why says how. */
const char *answer_finish(const struct answer *a, const char **why);

/* How many of its tokens are of text[0, to): their log-probabilities go with it. The one that ended
 * the answer has no text and does not count. */
uint32_t answer_tokens_until(const struct answer *a, size_t to);

/* For usage: those that made the text, the last id included. */
uint32_t answer_n_generated(const struct answer *a);

#endif
