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

/* Ports differ in what their packets and drivers take. A card's (pci:) is planned as an interface's
 * by AF_PACKET sockets. */
enum plan_port { PLAN_PORT_UDP, PLAN_PORT_MEMIF, PLAN_PORT_PACKET, PLAN_PORT_XDP, PLAN_PORTS };

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
    enum plan_port port;
    uint32_t rx_queues; /* that PLAN_PORT_XDP reads; 0: one */
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
    uint64_t bytes; /* their sum */
};

void plan_memory_edge(const struct plan_model *m, const struct plan_memory_case *c,
                      struct plan_memory *out);
void plan_memory_cloud(const struct plan_model *m, const struct plan_memory_case *c,
                       struct plan_memory *out);

/* Of `layers` layers, for one sequence of `tokens`; whole pages of the cache. */
uint64_t plan_kv_bytes(const struct plan_model *m, uint32_t layers, enum kv_format kv,
                       uint32_t tokens);

/* A stage's own account of its scratch (stage_info) for steps of max_rows rows. */
uint64_t plan_scratch_bytes(const struct plan_model *m, uint32_t layers, uint32_t max_rows,
                            uint32_t context, uint32_t threads);

#endif
