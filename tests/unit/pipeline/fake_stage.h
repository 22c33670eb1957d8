/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stage of hashes: what a row gives depends on all rows of its sequence before it, so that a lost,
 * repeated or misplaced row and a cache that was not truncated change every later token.
 */
#ifndef ISTHMUS_TESTS_FAKE_STAGE_H
#define ISTHMUS_TESTS_FAKE_STAGE_H

#include "compute/sampler.h"
#include "compute/stage.h"

#define FAKE_LAYERS 12u
#define FAKE_SPLIT  5u
#define FAKE_VOCAB  257u
#define FAKE_CTX    2048u

struct fake_params {
    uint32_t d_model; /* 0: 64 */
    uint32_t max_rows, max_seqs;
    uint64_t *now_ns;  /* virtual clock that a run moves on; may be NULL */
    uint64_t run_ns, row_ns; /* a run's time */
    uint32_t fail_at;  /* position at which stage_run fails; 0: none */
    size_t kv_budget_bytes;  /* 0: none */
    enum kv_format kv;       /* of sequences, unless told otherwise; results differ */
    uint32_t kv_formats;     /* 0: all */
    bool stingy;             /* no room to cut a sequence within what it shares */
    uint32_t nan_at;   /* position whose row, or hidden state, holds a NaN; 0: none */
    enum stage_head head;
};

#define FAKE_TOKEN_BYTES 8u /* of the KV budget; a fork pays for what is shared too */

struct fake_counts {
    uint64_t runs, rows, largest_batch, open_seqs, truncated;
    uint64_t heads, largest_head; /* runs of the head alone, and rows of one */
};

/* cloud: layers [split, n) instead of [0, split). info may be changed before it is used. */
struct stage *fake_open(bool cloud, const struct fake_params *p, struct stage_info **info);
const struct fake_counts *fake_counts(const struct stage *s);

/* What an unsplit run gives: n_predict ids (fewer when `stop` is sampled; -1: none). Returns how
 * many. top: NULL, or room for n_top alternatives of each. */
uint32_t fake_reference(const int32_t *prompt, uint32_t n_prompt, uint32_t n_predict,
                        const struct sampler_params *sampler, int32_t stop, uint32_t d_model,
                        int32_t *ids, struct sampler_top *top, uint32_t n_top);
/* The same, with a cache of another format than f16. */
uint32_t fake_reference_as(enum kv_format kv, const int32_t *prompt, uint32_t n_prompt,
                           uint32_t n_predict, const struct sampler_params *sampler, int32_t stop,
                           uint32_t d_model, int32_t *ids, struct sampler_top *top, uint32_t n_top);

#endif
