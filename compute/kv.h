/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KV cache: keys and values of the layers of one stage, in pages of KV_PAGE tokens of all layers,
 * under a hard budget. Each sequence has a format, and pages of that; the budget is one for all.
 *
 * A sequence reserves the pages of its longest length when it is opened, and takes them as it
 * grows: what was admitted never fails later. Sequences that begin alike share pages: a full page
 * is never written again and may have any number of holders; the last, partial page of a sequence
 * is its own. Shared pages are reserved once. A page that nobody holds is given back to the kernel.
 *
 * Not thread-safe: one thread opens, forks, cuts and appends, while none attends.
 */
#ifndef ISTHMUS_COMPUTE_KV_H
#define ISTHMUS_COMPUTE_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compute/kernels/attend.h"

struct kv_shape {
    uint32_t n_layers, n_kv_heads, head_dim;
};

/* Whether heads are of dims that the format can have. */
bool kv_shape_takes(const struct kv_shape *shape, enum kv_format f);

/* Bytes that a sequence of n_tokens takes, whole pages. */
size_t kv_bytes_for(const struct kv_shape *shape, enum kv_format f, uint32_t n_tokens);

struct kv;

/* 0 or -ENOMEM. */
int kv_open(const struct kv_shape *shape, uint32_t max_seqs, size_t budget_bytes, struct kv **out);
void kv_close(struct kv *kv);

/* A new empty sequence: its id, -ENOSPC (no free id, or the budget), -EINVAL (no tokens, or a
 * format that the shape does not take) or -ENOMEM. */
int kv_seq_open(struct kv *kv, enum kv_format f, uint32_t max_tokens);
/* The same, of seq's format, beginning with its first n_tokens; their full pages are shared.
 * -EINVAL: seq has fewer, or they don't fit. */
int kv_seq_fork(struct kv *kv, int seq, uint32_t n_tokens, uint32_t max_tokens);
/* Ids that are not open are ignored. */
void kv_seq_close(struct kv *kv, int seq);

const struct kv_shape *kv_shape(const struct kv *kv);

/* Of an open sequence. */
enum kv_format kv_seq_format(const struct kv *kv, int seq);

/* -EINVAL: no such sequence. */
int64_t kv_tokens(const struct kv *kv, int seq);
int64_t kv_max_tokens(const struct kv *kv, int seq);

/* What closing seq would give back: what it may still take, and its pages that nobody else holds.
 * 0: no such sequence. */
size_t kv_own_bytes(const struct kv *kv, int seq);

/* Make room for n more tokens, about to be written. 0, or -EINVAL: past what seq may grow to. */
int kv_seq_append(struct kv *kv, int seq, uint32_t n);
/* Forget all but the first n_tokens. 0, -EINVAL, or, when that leaves pages that others hold too
 * and the budget has no room for pages in their place, -ENOSPC; nothing changed then. */
int kv_seq_truncate(struct kv *kv, int seq, uint32_t n_tokens);

/* Tiles of one head in page `page` of seq: keys, and kv_key_bytes() on, values. `layer` counts from
 * the stage's first. Tokens past the sequence's have numbers, not NaNs, in all formats. */
uint8_t *kv_tiles(const struct kv *kv, int seq, uint32_t page, uint32_t layer, uint32_t head);

/* Of all formats together. */
struct kv_account {
    size_t budget_bytes;
    size_t reserved_bytes; /* resident, and what the open sequences may still take */
    size_t resident_bytes; /* in pages that sequences hold */
    size_t shared_bytes;   /* of those, in pages with more than one holder, each counted once */
};

struct kv_account kv_account(const struct kv *kv);

#endif
