/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention of a decoder's rows: rotation, the KV cache's writing and reading. It owns its scratch,
 * and nothing else.
 */
#ifndef ISTHMUS_COMPUTE_ATTENTION_H
#define ISTHMUS_COMPUTE_ATTENTION_H

#include "compute/arch/decoder.h"

struct attention;

struct attention_params {
    const struct hparams *hp;
    const struct weights *w;
    struct kv *kv;
    struct team *team;
    uint32_t max_rows, n_ctx;
    /* Called by every part for what it has done, in multiply-adds; see decoder_set_poll. */
    void (*worked)(void *arg, unsigned part, uint64_t macs);
    void *arg;
};

/* All pointers must outlive it. 0 or -ENOMEM. */
int attention_open(const struct attention_params *p, struct attention **out);
void attention_close(struct attention *a);
size_t attention_bytes(const struct attention *a);

/* The rows of a run; they stay where they are until its end. */
void attention_begin(struct attention *a, const struct decoder_row *rows, uint32_t n_rows);
/* Once a run, by every part, before the first layer; a barrier must follow. */
void attention_angles(struct attention *a, unsigned part, unsigned parts);

/*
 * One layer, by every part, each after a barrier and followed by one:
 *   q             f32[rows][n_heads][head_dim], as multiplied; then the result in its place
 *   keys, values  f32[rows][n_kv_heads][head_dim], as multiplied; overwritten
 */
void attention_run(struct attention *a, uint32_t layer, float *q, float *keys, float *values,
                   unsigned part, unsigned parts);

#endif
