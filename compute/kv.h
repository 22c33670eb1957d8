/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KV cache: f16 keys and values of the layers of one stage, for a fixed number of sequences.
 *
 * A sequence reserves address space for its longest length, and budget with it; the kernel gives it
 * memory page by page as it grows. So the rows of one (layer, head) are contiguous for the
 * attention kernel, nothing moves when a sequence grows, and what was admitted never fails later.
 */
#ifndef ISTHMUS_COMPUTE_KV_H
#define ISTHMUS_COMPUTE_KV_H

#include <stddef.h>
#include <stdint.h>

struct kv_shape {
    uint32_t n_layers, n_kv_heads, head_dim;
};

/* Bytes that a sequence of n_tokens takes, whole pages. */
size_t kv_bytes_for(const struct kv_shape *shape, uint32_t n_tokens);

struct kv;

int kv_open(const struct kv_shape *shape, uint32_t max_seqs, size_t budget_bytes, struct kv **out);
void kv_close(struct kv *kv);

/* A new empty sequence: its id, -ENOSPC (no free id, or the budget) or -ENOMEM. */
int kv_seq_open(struct kv *kv, uint32_t max_tokens);
/* The same, beginning with the first n_tokens of seq. -EINVAL: seq has fewer, or they don't fit. */
int kv_seq_fork(struct kv *kv, int seq, uint32_t n_tokens, uint32_t max_tokens);
/* Ids that are not open are ignored. */
void kv_seq_close(struct kv *kv, int seq);

/* -EINVAL: no such sequence. */
int64_t kv_tokens(const struct kv *kv, int seq);
int64_t kv_max_tokens(const struct kv *kv, int seq);

/* Set the length; tokens past the present one are rows about to be written. 0 or -EINVAL. */
int kv_set_tokens(struct kv *kv, int seq, uint32_t n_tokens);

/* Rows of one head, f16[max_tokens][head_dim]. `layer` counts from the stage's first. */
uint16_t *kv_keys(const struct kv *kv, int seq, uint32_t layer, uint32_t head);
uint16_t *kv_values(const struct kv *kv, int seq, uint32_t layer, uint32_t head);

/* Bytes in pages that the open sequences have written so far. */
size_t kv_resident_bytes(const struct kv *kv);

#endif
