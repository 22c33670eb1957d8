/* SPDX-License-Identifier: Apache-2.0 */
/* The cloud's inside: cloud.c (sessions and messages), cloud_batch.c (compute, sample, answer). */
#ifndef ISTHMUS_DATAPLANE_PIPELINE_CLOUD_IMPL_H
#define ISTHMUS_DATAPLANE_PIPELINE_CLOUD_IMPL_H

#include "dataplane/pipeline/mix.h"
#include "dataplane/pipeline/pipeline.h"
#include "dataplane/pipeline/proto.h"
#include "dataplane/pipeline/pump.h"

#define CLOUD_QUEUE 8u /* ROWS messages of a session that wait; an edge sends fewer ahead */

struct cloud_session {
    uint32_t id;   /* 0: free */
    int seq;       /* of the stage */
    bool lingers;  /* it has ended; seq stays for others to begin like */
    uint64_t used; /* of those that linger: when it was last of use, counted */
    struct sampler_params sampler;
    uint32_t max_tokens;
    uint32_t n_kv;      /* rows in the stage's cache */
    int32_t *generated; /* [max_tokens] */
    uint32_t n_generated;
    struct link_message queue[CLOUD_QUEUE];
    uint32_t queue_head, queue_count;
    bool in_batch;
};

/* One message in the batch that is being computed. */
struct cloud_item {
    struct cloud_session *session;
    uint32_t message; /* to answer */
    enum wire_class cls;
    struct proto_rows head;
    uint32_t first_logits; /* row of the logits */
};

struct cloud {
    struct cloud_params p;
    const struct stage_info *info;
    struct pump pump;
    struct codec *codec;
    struct sampler *sampler;
    struct cloud_session *sessions; /* [n_places] */
    uint32_t n_places;
    uint32_t n_sessions; /* busy ones */
    uint64_t uses;
    const struct cloud_session *like; /* not to be given up now */
    uint32_t message_rows; /* of one message at most: a run has room for decode rows beside it */
    uint32_t held;     /* packets in the sessions' queues */
    uint32_t held_max; /* above it no message is taken from the link */
    char error[PIPELINE_ERR];

    float *panel;  /* [max_rows][d_model]: the stage's input */
    float *logits; /* [max_logits][n_vocab] */
    uint32_t max_logits;
    struct stage_rows *batch; /* [max_sessions] */
    struct cloud_item *items; /* [max_sessions] */
    uint32_t n_items;
    struct mix mix;
    uint32_t turn[MIX_RANKS]; /* sessions to look at first */

    struct cloud_stats stats;
};

/* cloud.c */
void cloud_end_session(struct cloud *c, struct cloud_session *s);
/* Tell the edge why, and end the session. */
void cloud_break_session(struct cloud *c, struct cloud_session *s, enum proto_reason reason,
                         const char *text);

/* cloud_batch.c */
/* Compute one batch of what waits, and answer. Whether anything was done. */
bool cloud_batch_step(struct cloud *c);

#endif
