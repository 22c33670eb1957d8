/* SPDX-License-Identifier: Apache-2.0 */
/* The edge's inside: edge.c (sessions and messages), edge_batch.c (what to compute, and sending it). */
#ifndef ISTHMUS_DATAPLANE_PIPELINE_EDGE_IMPL_H
#define ISTHMUS_DATAPLANE_PIPELINE_EDGE_IMPL_H

#include "dataplane/pipeline/pipeline.h"
#include "dataplane/pipeline/proto.h"
#include "dataplane/pipeline/pump.h"

enum edge_state { EDGE_FREE, EDGE_OPENING, EDGE_RUNNING };

struct edge_session {
    enum edge_state state;
    uint32_t id;
    int seq;                  /* of the stage */
    struct edge_request r;    /* prompt_ids points at ids, drafts at a copy */
    int32_t *ids;             /* prompt, then what was generated */
    int32_t *drafts;
    uint32_t n_ids;
    uint32_t computed;        /* rows in the stage's cache */
    uint32_t drafted;         /* of these, guesses not answered yet */
    uint32_t unanswered;      /* ROWS messages without their TOKENS */
    int64_t to_answer;        /* TOKENS message that the next ROWS acknowledges, or -1 */
    bool cancelled;
    struct codec_rate rate; /* no target: the edge's codec parameters */
    struct edge_result result;
};

/* Rows of one session computed together: they travel as one message. */
struct edge_item {
    struct edge_session *session;
    uint32_t id; /* of the session then: it may have ended meanwhile */
    uint32_t first; /* row of the panel */
    struct proto_rows head;
    enum wire_class cls;
};

struct edge {
    struct edge_params p;
    const struct stage_info *info;
    struct pump pump;
    struct codec *codec;
    size_t tile_capacity;
    uint32_t row_cuts;           /* column ranges a row is cut into */
    uint32_t packet_rows;        /* rows that surely fit one packet; 1 when cut */
    uint32_t chunk_rows;         /* rows of a prefill message at most; known when opened */
    struct edge_session *sessions;
    uint32_t n_busy, last_id;
    uint64_t connect_by_ns;      /* 0: nobody waits yet */
    bool lost;
    char error[PIPELINE_ERR];

    float *panel;                /* [max_rows][d_model]: the stage's output */
    int32_t *batch_ids;          /* [max_rows] */
    struct stage_rows *batch;    /* [max_sessions] */
    struct edge_item *items;     /* [max_sessions], those from next_item on not sent yet */
    struct pkt **pkts;           /* [LINK_FRAGMENTS_MAX] */
    uint32_t n_items, next_item;
    uint32_t turn;               /* session to look at first */
    uint32_t prefill_waited;     /* stage runs for decode since prefill could have run */

    struct edge_stats stats;
};

/* edge.c */
void edge_end_session(struct edge *e, struct edge_session *s, enum edge_finish finish,
                      const char *error);

/* edge_batch.c */
void edge_packing(struct edge *e); /* sets row_cuts and packet_rows */
/* Rows of a prefill message, for a cloud that takes so many rows and packets in one. */
uint32_t edge_chunk_rows(const struct edge *e, uint32_t max_rows, uint32_t max_fragments);
/* The session is open: what was computed ahead is cut to chunk_rows. 0, or stage_seq_truncate's. */
int edge_batch_opened(struct edge *e, struct edge_session *s);
/* Send what was computed, then compute one batch more. Whether anything was done. */
bool edge_batch_step(struct edge *e);

#endif
