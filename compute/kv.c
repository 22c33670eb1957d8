/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/kv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct kv_seq {
    uint16_t *base;      /* NULL: the id is free */
    size_t region_bytes; /* of one head's keys, or values */
    uint32_t max_tokens;
    uint32_t n_tokens;
    uint32_t touched; /* most tokens it ever held: truncation keeps the pages, they are paid */
};

struct kv {
    struct kv_shape shape;
    uint32_t max_seqs;
    size_t budget_bytes, reserved_bytes;
    struct kv_seq seqs[];
};

static size_t region_bytes(const struct kv_shape *shape, uint32_t n_tokens)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t bytes = (size_t)n_tokens * shape->head_dim * sizeof(uint16_t);

    return (bytes + page - 1) / page * page;
}

size_t kv_bytes_for(const struct kv_shape *shape, uint32_t n_tokens)
{
    return region_bytes(shape, n_tokens) * 2 * shape->n_layers * shape->n_kv_heads;
}

int kv_open(const struct kv_shape *shape, uint32_t max_seqs, size_t budget_bytes, struct kv **out)
{
    struct kv *kv = calloc(1, sizeof(*kv) + max_seqs * sizeof(kv->seqs[0]));

    *out = kv;
    if (!kv)
        return -ENOMEM;
    kv->shape = *shape;
    kv->max_seqs = max_seqs;
    kv->budget_bytes = budget_bytes;
    return 0;
}

void kv_close(struct kv *kv)
{
    if (!kv)
        return;
    for (uint32_t i = 0; i < kv->max_seqs; i++)
        kv_seq_close(kv, (int)i);
    free(kv);
}

static struct kv_seq *find(const struct kv *kv, int seq)
{
    if (seq < 0 || (uint32_t)seq >= kv->max_seqs || !kv->seqs[seq].base)
        return NULL;
    return (struct kv_seq *)&kv->seqs[seq];
}

int kv_seq_open(struct kv *kv, uint32_t max_tokens)
{
    size_t bytes = kv_bytes_for(&kv->shape, max_tokens);
    uint32_t id = 0;

    while (id < kv->max_seqs && kv->seqs[id].base)
        id++;
    if (id == kv->max_seqs || bytes > kv->budget_bytes - kv->reserved_bytes)
        return -ENOSPC;
    if (bytes == 0)
        return -EINVAL;

    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return -ENOMEM;
    /* Many short regions lie side by side: a huge page would make all of them resident at once. */
    madvise(base, bytes, MADV_NOHUGEPAGE);
    kv->seqs[id] = (struct kv_seq){
        .base = base,
        .region_bytes = region_bytes(&kv->shape, max_tokens),
        .max_tokens = max_tokens,
    };
    kv->reserved_bytes += bytes;
    return (int)id;
}

int kv_seq_fork(struct kv *kv, int seq, uint32_t n_tokens, uint32_t max_tokens)
{
    const struct kv_seq *from = find(kv, seq);

    if (!from || n_tokens > from->n_tokens || n_tokens > max_tokens)
        return -EINVAL;
    int id = kv_seq_open(kv, max_tokens);
    if (id < 0)
        return id;

    struct kv_seq *to = &kv->seqs[id];
    size_t n_regions = (size_t)2 * kv->shape.n_layers * kv->shape.n_kv_heads;
    size_t bytes = (size_t)n_tokens * kv->shape.head_dim * sizeof(uint16_t);
    for (size_t i = 0; i < n_regions; i++)
        memcpy((char *)to->base + i * to->region_bytes,
               (const char *)from->base + i * from->region_bytes, bytes);
    to->n_tokens = to->touched = n_tokens;
    return id;
}

void kv_seq_close(struct kv *kv, int seq)
{
    struct kv_seq *s = find(kv, seq);

    if (!s)
        return;
    size_t bytes = kv_bytes_for(&kv->shape, s->max_tokens);
    munmap(s->base, bytes);
    kv->reserved_bytes -= bytes;
    s->base = NULL;
}

int64_t kv_tokens(const struct kv *kv, int seq)
{
    const struct kv_seq *s = find(kv, seq);

    return s ? (int64_t)s->n_tokens : -EINVAL;
}

int64_t kv_max_tokens(const struct kv *kv, int seq)
{
    const struct kv_seq *s = find(kv, seq);

    return s ? (int64_t)s->max_tokens : -EINVAL;
}

int kv_set_tokens(struct kv *kv, int seq, uint32_t n_tokens)
{
    struct kv_seq *s = find(kv, seq);

    if (!s || n_tokens > s->max_tokens)
        return -EINVAL;
    s->n_tokens = n_tokens;
    if (n_tokens > s->touched)
        s->touched = n_tokens;
    return 0;
}

static uint16_t *region(const struct kv *kv, int seq, uint32_t layer, uint32_t head, uint32_t kind)
{
    const struct kv_seq *s = &kv->seqs[seq];
    size_t index = ((size_t)layer * kv->shape.n_kv_heads + head) * 2 + kind;

    return (uint16_t *)(void *)((char *)s->base + index * s->region_bytes);
}

uint16_t *kv_keys(const struct kv *kv, int seq, uint32_t layer, uint32_t head)
{
    return region(kv, seq, layer, head, 0);
}

uint16_t *kv_values(const struct kv *kv, int seq, uint32_t layer, uint32_t head)
{
    return region(kv, seq, layer, head, 1);
}

size_t kv_resident_bytes(const struct kv *kv)
{
    size_t bytes = 0;

    for (uint32_t i = 0; i < kv->max_seqs; i++)
        if (kv->seqs[i].base)
            bytes += kv_bytes_for(&kv->shape, kv->seqs[i].touched);
    return bytes;
}
