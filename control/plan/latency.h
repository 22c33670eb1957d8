/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long a split takes: to the first token of a prompt (TTFT) and from token to token (TPOT),
 * from profiles of both hosts and of the link. The pipeline's own rules are followed: a prompt goes
 * in chunks, the first of half size, and the edge computes the next while the cloud is at the last,
 * up to four ahead (dataplane/pipeline/edge_batch.c).
 */
#ifndef ISTHMUS_CONTROL_PLAN_LATENCY_H
#define ISTHMUS_CONTROL_PLAN_LATENCY_H

#include "control/plan/host.h"
#include "control/plan/memory.h"

/* A host's times of a model's layers, in sums over layers: each question is answered at once.
 * Refers to both. */
struct plan_speed;
int plan_speed_open(const struct plan_model *m, const struct plan_host *h, struct plan_speed **out);
void plan_speed_close(struct plan_speed *s);
const struct plan_host *plan_speed_host(const struct plan_speed *s);

/* One step of `rows` rows through layers [first, end) stored as a scheme, next to no cache before
 * them; rested: decode's, else one of many of a prompt. 0; -ENOENT: the profile has no times of
 * that storage; -ENOMEM. */
int plan_speed_layers(struct plan_speed *s, uint32_t first, uint32_t end, enum plan_scheme scheme,
                      uint32_t rows, bool rested, double *time_s);
/* What attention to `depth` tokens before adds, for `rows` rows of one sequence. -ENOENT: the
 * profile has no times of that cache. */
int plan_speed_attend(const struct plan_speed *s, uint32_t layers, enum kv_format kv, uint32_t rows,
                      double depth, double *time_s);
double plan_speed_head(const struct plan_speed *s, uint32_t rows);

struct plan_latency_case {
    struct plan_speed *edge, *cloud;
    const struct plan_link *link;
    bool beside; /* both on one host: what one does slows the other down */
    uint32_t split;
    enum plan_scheme front, back;
    enum kv_format kv;
    enum plan_kv_home home;
    uint32_t sessions;             /* that decode together */
    uint32_t chunk, prompt, depth; /* tokens: of a chunk; of the prompt; before a decoded one */
    double decode_bytes, prefill_bytes; /* of a row's tile */
};

struct plan_latency {
    double ttft_s, tpot_s;
    /* what tpot_s is made of */
    double edge_s, up_s, rtt_s, cloud_s, head_s, wake_s;
    double wire_bytes; /* up, of a decoded token, with all headers */
};

/* 0 or as plan_speed_layers. */
int plan_latency(const struct plan_model *m, const struct plan_latency_case *c,
                 struct plan_latency *out);
/* The same without ttft_s, which takes longer: 0 there; and what is missing then. */
int plan_latency_decode(const struct plan_model *m, const struct plan_latency_case *c,
                        struct plan_latency *out);
int plan_latency_prompt(const struct plan_model *m, const struct plan_latency_case *c,
                        struct plan_latency *out);

/*
 * The least that plan_latency_prompt can say, from sums: each of edge, link and cloud takes all of
 * the prompt, and the others the first or last chunk; and the last chunk waits for every fourth
 * before it. What one of the three contributes does not depend on how the others are stored.
 */
struct plan_chunks {
    uint32_t n, first, chunk, last; /* chunks; rows of the first, of those between, of the last */
    double before, last_before;     /* tokens before those between, summed; before the last */
    uint32_t n_chain;               /* those between that the last waits for */
    double chain_before;
    bool chain_first; /* the first is of them */
};

/* Of the case's prompt and chunk; the rest of it is not read. */
void plan_chunks_of(const struct plan_latency_case *c, struct plan_chunks *out);

/* Seconds for the first chunk, the last, all, and the last with those that it waits for. */
struct plan_part {
    double first_s, last_s, all_s, chain_s;
};

/* 0 or as plan_speed_layers. Read of the case: split, cache, chunk and prompt, and front (edge),
 * back (cloud), bytes and home (link). */
int plan_part_edge(const struct plan_model *m, const struct plan_latency_case *c,
                   const struct plan_chunks *k, struct plan_part *out);
int plan_part_cloud(const struct plan_model *m, const struct plan_latency_case *c,
                    const struct plan_chunks *k, struct plan_part *out);
void plan_part_link(const struct plan_model *m, const struct plan_latency_case *c,
                    const struct plan_chunks *k, struct plan_part *out);

/* Never more than ttft_s, whatever is rounded. */
double plan_latency_least_prompt(const struct plan_latency_case *c, const struct plan_part *edge,
                                 const struct plan_part *link, const struct plan_part *cloud);

/* Bytes on the wire of a message of n rows, each of so many bytes. */
double plan_wire_bytes(const struct plan_link *l, uint32_t n, double row_bytes);

#endif
