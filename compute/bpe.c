/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merging a word: its bytes are a linked list of symbols, the possible merges a heap by rank and
 * position, so that a word of n bytes costs n log n.
 */
#include <errno.h>
#include <stdlib.h>

#include "compute/tokenizer_impl.h"

#define NONE UINT32_MAX

struct symbol {
    int32_t id; /* -1: merged away, or a byte the vocabulary has no token for */
    uint32_t prev, next;
};

static int reserve(struct bpe *b, size_t len)
{
    if (len <= b->room)
        return 0;
    size_t room = len < 64 ? 64 : len + len / 2;
    tok_bpe_free(b);
    /* A merge leaves at most two new pairs and takes one: the heap sees less than 3 a byte. */
    b->symbols = reallocarray(NULL, room, sizeof *b->symbols);
    b->heap = reallocarray(NULL, room, 3 * sizeof *b->heap);
    b->ids = reallocarray(NULL, room, sizeof *b->ids);
    if (!b->symbols || !b->heap || !b->ids) {
        tok_bpe_free(b);
        return -ENOMEM;
    }
    b->room = room;
    return 0;
}

void tok_bpe_free(struct bpe *b)
{
    free(b->symbols);
    free(b->heap);
    free(b->ids);
    *b = (struct bpe){0};
}

static void heap_push(uint64_t *heap, size_t *n, uint64_t v)
{
    size_t i = (*n)++;
    for (size_t up; i && heap[up = (i - 1) / 2] > v; i = up)
        heap[i] = heap[up];
    heap[i] = v;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n)
{
    uint64_t top = heap[0], last = heap[--*n];
    size_t i = 0, down;
    while ((down = 2 * i + 1) < *n) {
        if (down + 1 < *n && heap[down + 1] < heap[down])
            down++;
        if (heap[down] >= last)
            break;
        heap[i] = heap[down];
        i = down;
    }
    heap[i] = last;
    return top;
}

/* Lowest rank first, then leftmost: rank above, position below. */
static void offer(const struct tokenizer *t, struct bpe *b, size_t *n_heap, uint32_t left)
{
    uint32_t right = left == NONE ? NONE : b->symbols[left].next;
    if (right == NONE)
        return;
    const struct merge *m = tok_find_merge(t, b->symbols[left].id, b->symbols[right].id);
    if (m)
        heap_push(b->heap, n_heap, (uint64_t)(m - t->merges) << 32 | left);
}

static void spell(const struct tokenizer *t, struct symbol *symbols, const char *word, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++)
        symbols[i] = (struct symbol){t->byte_id[(uint8_t)word[i]], i - 1, i + 1};
    symbols[0].prev = NONE;
    symbols[len - 1].next = NONE;
}

int64_t tok_bpe(const struct tokenizer *t, struct bpe *b, const char *word, size_t len)
{
    int rc = reserve(b, len);
    if (rc)
        return rc;
    struct symbol *s = b->symbols;
    size_t n_heap = 0;
    spell(t, s, word, (uint32_t)len);
    for (uint32_t i = 0; i + 1 < len; i++)
        offer(t, b, &n_heap, i);
    while (n_heap) {
        uint64_t top = heap_pop(b->heap, &n_heap);
        const struct merge *m = &t->merges[top >> 32];
        uint32_t left = (uint32_t)top, right = s[left].next;
        /* The pair may be gone since it was offered: merged with others. */
        if (s[left].id != m->left || right == NONE || s[right].id != m->right)
            continue;
        s[left].id = m->result;
        s[left].next = s[right].next;
        if (s[left].next != NONE)
            s[s[left].next].prev = left;
        s[right].id = -1;
        offer(t, b, &n_heap, s[left].prev);
        offer(t, b, &n_heap, left);
    }
    int64_t n_ids = 0;
    for (uint32_t i = 0; i != NONE; i = s[i].next)
        if (s[i].id >= 0) /* a byte without a token is lost, but nothing merges across it */
            b->ids[n_ids++] = s[i].id;
    return n_ids;
}
