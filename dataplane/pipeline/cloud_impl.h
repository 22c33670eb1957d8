/* SPDX-License-Identifier: Apache-2.0 */
/* The cloud's inside: cloud.c (life, sessions, messages), cloud_open.c (who gets a session), cloud_edge.c
 * (edges that come and go, what each may use and is told), cloud_batch.c (compute, sample, answer). */
#ifndef ISTHMUS_DATAPLANE_PIPELINE_CLOUD_IMPL_H
#define ISTHMUS_DATAPLANE_PIPELINE_CLOUD_IMPL_H

#include "dataplane/pipeline/find.h"
#include "dataplane/pipeline/links.h"
#include "dataplane/pipeline/mix.h"
#include "dataplane/pipeline/pipeline.h"
#include "dataplane/pipeline/proto.h"

#define CLOUD_QUEUE 8u /* ROWS messages of a session that wait; an edge sends fewer ahead */

struct cloud_session {
    uint32_t id;   /* 0: free */
    uint32_t edge; /* whose: several edges may count alike */
    int seq;       /* of the stage */
    enum kv_format kv; /* seq's, as the edge asked for */
    bool lingers;  /* it has ended; seq stays for others to begin like */
    uint64_t used; /* of those that linger: when it was last of use, counted */
    struct sampler_params sampler;
    uint8_t n_top; /* alternatives of each id that it wants */
    bool edge_has_head; /* it gets hidden states, and its ids are known there only */
    uint32_t max_tokens;
    uint64_t kv_bytes;  /* that it may take of the cache, as if it shared nothing */
    uint32_t n_kv;      /* rows in the stage's cache */
    int32_t *generated; /* [max_tokens]; NULL: edge_has_head */
    uint32_t n_generated; /* edge_has_head: 1 from the first answer with hidden states on */
    bool replays; /* its latest rows were of a replay: what it was given does not mean that it decodes */
    struct link_message queue[CLOUD_QUEUE];
    uint32_t queue_head, queue_count;
    bool in_batch;
    bool decodes; /* counted so */
    bool ready;   /* it is among those of its edge, */
    enum mix_rank ready_rank; /* with a message of this rank */
    struct cloud_session *before, *after; /* there */
};

/* Sessions with something to compute, as they came to it. */
struct cloud_ready {
    struct cloud_session *first, *last;
};

/* What an identity may still send, by its rate=. */
struct cloud_bucket {
    double level; /* bytes or rows; below 0: it waits */
    uint64_t at_ns;
};

/* The edge of the link at the same place in links.peers. */
struct cloud_edge {
    uint64_t serial;     /* of that link; else it has another since, which we have not seen yet */
    bool joined;         /* it was heard, which was said */
    char name[AUTHORIZED_NAME];
    uint32_t n_sessions; /* busy ones */
    uint64_t kv_bytes, kv_lingering; /* of these, and of its others */
    uint32_t held;       /* packets in its sessions' queues */
    struct cloud_ready ready[MIX_RANKS];
    bool may_run;        /* its rate lets it */
    struct cloud_bucket bucket;
    struct proto_status told; /* the latest */
    uint64_t told_version, told_ns; /* 0: none yet */
    uint64_t rows, tokens;
};

/* One message in the batch that is being computed. */
struct cloud_item {
    struct cloud_session *session;
    uint32_t message; /* to answer */
    enum wire_class cls;
    struct proto_rows head;
    uint32_t n_rows;       /* of its rows: all, or a part */
    bool last;             /* they are its last: it is answered */
    uint32_t first_wanted; /* row of the logits, or of the hidden states */
};

/* A message that is computed in parts, for others decode. One at a time. */
struct cloud_cut {
    struct cloud_session *session; /* NULL: there is none */
    uint32_t message;
    enum wire_class cls;
    struct proto_rows head;
    uint32_t done; /* rows that were computed, or are in the batch */
    float *rows;   /* [max_rows][d_model] */
};

struct cloud {
    struct cloud_params p;
    const struct stage_info *info;
    struct links links;
    struct cloud_edge *edges; /* [links.n_places] */
    struct link_stats past;   /* of links that ended */
    bool draining;
    bool full;           /* cloud_set_limits */
    uint32_t tokens_max; /* of a new session beside others; 0: all that the stage takes */
    enum kv_format kv_asked; /* cloud_ask_kv */
    uint64_t version;         /* of what STATUS tells, counted from 1 */
    uint64_t tell_at_ns;      /* when somebody is due a STATUS again */
    uint64_t rate_at_ns;      /* when one that waits by its rate= may go on; UINT64_MAX: none waits */
    struct codec *codec;
    struct sampler *sampler;
    struct cloud_session *sessions; /* [n_places] */
    uint32_t n_places;
    struct find by_id;   /* those in use */
    uint32_t n_sessions; /* busy ones */
    uint32_t n_decoding; /* of these, those that get ids one after the other */
    uint64_t kv_bytes;   /* theirs */
    uint64_t uses;
    const struct cloud_session *like; /* not to be given up now */
    uint32_t message_rows; /* of one message at most: a run has room for decode rows beside it */
    uint32_t held;     /* packets in the sessions' queues */
    uint32_t held_max; /* above it messages are taken only from who has none there */

    float *panel;  /* [max_rows][d_model]: the stage's input; then the hidden states wanted of it */
    float *logits; /* [max_logits][n_vocab]; NULL: no head here */
    uint32_t max_logits; /* rows of which something is wanted */
    struct stage_rows *batch; /* [max_sessions] */
    struct cloud_item *items; /* [max_sessions] */
    uint32_t n_items;
    struct cloud_cut cut;
    struct mix mix;
    uint32_t turn[MIX_RANKS]; /* edges to look at first */
    uint32_t turn_in;         /* and to take messages from */

    struct cloud_stats stats;
};

static inline struct links_peer *cloud_peer(struct cloud *c, const struct cloud_edge *e)
{
    return &c->links.peers[e - c->edges];
}

/* Edges count their sessions each for itself. */
static inline uint32_t cloud_find_key(uint32_t edge, uint32_t id)
{
    return id + edge * 0x9e3779b1u;
}

/* cloud.c */
void cloud_end_session(struct cloud *c, struct cloud_session *s);
/* Tell the edge why, and end the session. */
void cloud_break_session(struct cloud *c, struct cloud_session *s, enum proto_reason reason,
                         const char *text);
/* A small message to an edge. */
void cloud_send(struct cloud *c, const struct cloud_edge *e, uint32_t session, enum wire_class cls,
                int64_t reply_to, const uint8_t *bytes, size_t n);
/* Lingering ones too; NULL: none of this edge. */
struct cloud_session *cloud_find(struct cloud *c, const struct cloud_edge *e, uint32_t id);
/* Give up the one that lingers and was of no use for longest; of that edge, NULL: of any. */
bool cloud_evict(struct cloud *c, const struct cloud_edge *of);

/* cloud_open.c */
void cloud_on_open(struct cloud *c, struct cloud_edge *e, uint32_t number, const uint8_t *p, size_t len);

/* cloud_edge.c */
/* Who came and who is gone since the last call. */
void cloud_meet_edges(struct cloud *c);
void cloud_lose_edges(struct cloud *c);
/* What its identity has in all links; NULL who: what it has itself. */
struct cloud_usage {
    uint32_t sessions;
    uint64_t kv_bytes, kv_lingering;
};
struct cloud_usage cloud_usage(struct cloud *c, const struct cloud_edge *e);
/* Whether its rate lets it have rows computed now, and that it had some. */
bool cloud_rate_lets(struct cloud *c, const struct cloud_edge *e);
void cloud_rate_take(struct cloud *c, const struct cloud_edge *e, uint64_t bytes, uint32_t rows);
/* What STATUS says of the cloud itself; the rest of it is zero. */
struct proto_status cloud_serves(const struct cloud *c);
/* STATUS to who is due one; tell_at_ns: when to look again. */
void cloud_tell(struct cloud *c);
void cloud_answer_ask(struct cloud *c, struct cloud_edge *e, uint32_t number);

/* cloud_batch.c */
static inline const struct link_message *cloud_waiting(const struct cloud_session *s)
{
    return s->id && s->queue_count ? &s->queue[s->queue_head] : NULL;
}
/* Something of it has changed: it is counted anew, and is among those of its edge that are ready
 * while a message waits that may be computed next. */
void cloud_note(struct cloud *c, struct cloud_session *s);
/* It ends, or computes no more. */
void cloud_forget(struct cloud *c, struct cloud_session *s);
/* Compute one batch of what waits, and answer. Whether anything was done. */
bool cloud_batch_step(struct cloud *c);

#endif
