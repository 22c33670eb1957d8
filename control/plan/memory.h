/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two processes of a split keep resident: M(l, Q) and B_kv of the founding paper
 * (docs/planner.md has each term's source), and what an implementation has beside them.
 */
#ifndef ISTHMUS_CONTROL_PLAN_MEMORY_H
#define ISTHMUS_CONTROL_PLAN_MEMORY_H

#include "compute/kernels/attend.h"
#include "control/plan/model.h"

/* Where keys and values of the cloud's layers are kept: the paper's I_kv. At the edge they would
 * travel up for every row and those of the row back; this runtime can't, it is only planned. */
enum plan_kv_home { PLAN_KV_CLOUD, PLAN_KV_EDGE, PLAN_KV_HOMES };

/* Packets of a port that are touched, and its driver. Measured: UDP's lie in a heap and are taken
 * from the end that was given back last, so that few are; DPDK touches its pools when it makes
 * them. Those of an Ethernet port are its own to say (ether_memory_bytes). */
#define PLAN_UDP_BYTES   UINT64_C(700000)
#define PLAN_MEMIF_BYTES UINT64_C(8600000)

/* The coarsest keys and values that new sessions get when --memory-budget is short, unless told
 * otherwise: those of q4 cost a text a good deal more. */
#define PLAN_KV_LEAST KV_K8V4

/* Caches whose pages are large lie on these, and are resident by whole ones. */
#define PLAN_HUGE_BYTES (UINT64_C(2) << 20)

/* Of the program's and its libraries' files, what is resident: processes of one host share it. */
#define PLAN_CODE_BYTES UINT64_C(15300000)

struct plan_memory_case {
    uint32_t split;
    enum plan_scheme front, back;
    enum kv_format kv;
    enum plan_kv_home home;
    uint32_t context;                 /* tokens of a session at its longest */
    uint32_t sessions;                /* at once */
    uint32_t edge_chunk, cloud_chunk; /* rows of a step, without decode's */
    uint32_t edge_threads, cloud_threads;
    double row_bytes; /* of a coded row, as the history keeps it; 0: no histories */
    bool profile;     /* the codec has one: a transform of d_model */
    bool serves;      /* the edge, HTTP */
    bool cloud_held; /* by --memory-budget, which keeps room for drafts' logits, and for sessions of
                      * other formats than kv */
    uint64_t packet_bytes; /* of each half's port */
};

enum plan_memory_term {
    PLAN_PROGRAM,   /* code and libraries that are touched, their heaps, thread stacks */
    PLAN_TOKENIZER, /* the edge's */
    PLAN_PANELS,    /* the layers' weights */
    PLAN_HEAD,      /* the cloud's: output norm and matrix; the embedding stays in its file */
    PLAN_KV,
    PLAN_SCRATCH, /* activations of a step, the pipeline's rows */
    PLAN_LOGITS,  /* and the sampler's table */
    PLAN_CODEC,
    PLAN_HISTORY, /* coded rows kept for another cloud */
    PLAN_PACKETS, /* pools and driver of the port */
    PLAN_MEMORY_TERMS,
};
const char *plan_memory_term_name(enum plan_memory_term t);

struct plan_memory {
    uint64_t term[PLAN_MEMORY_TERMS];
    uint64_t bytes;         /* their sum */
    uint64_t kv_unit_bytes; /* the cache is resident by whole ones: huge pages, or 1 */
};

/* One process, a half of a model or all of it, by what it is to hold: the one account that `plan`,
 * the check at a start and --memory-budget are made of. */
struct plan_process {
    bool faces_users; /* it has the tokenizer: an edge, or a whole model */
    bool serves;      /* HTTP */
    uint32_t layers;
    uint64_t weight_bytes, head_bytes; /* of its layers, and of the head, which may be with them */
    uint32_t kv_layers;
    enum kv_format kv;
    uint32_t other_formats; /* of keys and values, that sessions may have: a huge page of each */
    uint64_t kv_bytes;
    uint32_t rows; /* of a step */
    uint32_t context, threads;
    uint32_t logit_rows; /* 0: the head is elsewhere */
    bool profile;        /* of the codec */
    uint64_t history_bytes, packet_bytes;
};
void plan_memory_process(const struct plan_model *m, const struct plan_process *p,
                         struct plan_memory *out);

void plan_memory_edge(const struct plan_model *m, const struct plan_memory_case *c,
                      struct plan_memory *out);
void plan_memory_cloud(const struct plan_model *m, const struct plan_memory_case *c,
                       struct plan_memory *out);

/* Coded rows of so many sessions, whose mean takes row_bytes: what plan -o gives --history. */
uint64_t plan_history_bytes(double row_bytes, uint32_t context, uint32_t sessions);

/* Of `layers` layers, for one sequence of `tokens`; whole pages of the cache. */
uint64_t plan_kv_bytes(const struct plan_model *m, uint32_t layers, enum kv_format kv,
                       uint32_t tokens);

/* A stage's own account of its scratch (stage_info) for steps of max_rows rows. */
uint64_t plan_scratch_bytes(const struct plan_model *m, uint32_t layers, uint32_t max_rows,
                            uint32_t context, uint32_t threads);

#endif
