/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention of a decoder's rows: rotation, the KV cache's writing and reading. It owns its scratch,
 * and nothing else.
 */
#ifndef ISTHMUS_COMPUTE_ATTENTION_H
#define ISTHMUS_COMPUTE_ATTENTION_H

#include <stdbool.h>

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

/* The rows of a run, and those of them that something is wanted of (ascending numbers); both stay
 * where they are until its end. */
void attention_begin(struct attention *a, const struct decoder_row *rows, uint32_t n_rows,
                     const uint32_t *wanted, uint32_t n_wanted);
/* Once a run, by every part, before the first layer; a barrier must follow. */
void attention_angles(struct attention *a, unsigned part, unsigned parts);

/*
 * A layer, by every part: both after a barrier, together or one after the other, and followed by
 * one.
 *   keys, values  f32[rows][n_kv_heads][head_dim], as multiplied; overwritten
 *   q             f32[rows][n_heads][head_dim], as multiplied; then the result in its place.
 *                 wanted: of those rows alone, one after another
 */
void attention_keep(struct attention *a, uint32_t layer, float *keys, float *values, unsigned part,
                    unsigned parts);
void attention_ask(struct attention *a, uint32_t layer, bool wanted, float *q, unsigned part,
                   unsigned parts);

#endif
