/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/kv.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_BYTES  ((size_t)2 << 20)
#define CHUNK_BYTES ((size_t)16 << 20) /* of address space taken at once, at least */

struct kv_seq {
    uint8_t **pages;  /* [max_pages]; NULL: the id is free */
    uint32_t *places; /* [max_pages] their places in the pool */
    uint32_t max_pages, n_pages;
    uint32_t max_tokens, n_tokens;
};

struct kv {
    struct kv_shape shape;
    size_t tiles_bytes, page_bytes;
    uint32_t max_seqs;
    size_t budget_bytes;

    /* The pool: places for pages, in chunks of address space that grow with what is reserved. */
    uint8_t **chunks;
    uint32_t n_chunks, places_per_chunk;
    uint32_t *holders; /* [places] */
    uint32_t *unused;  /* [places] a stack of those without a holder */
    uint32_t n_unused;

    /* In pages. n_held + n_promised <= n_budget */
    uint64_t n_budget, n_held, n_promised, n_shared;
    struct kv_seq seqs[];
};

/* Of one head in one layer. */
static size_t tiles_bytes(const struct kv_shape *s)
{
    return kv_key_bytes(s->format, s->head_dim) + kv_value_bytes(s->format, s->head_dim);
}

static size_t page_bytes(const struct kv_shape *s)
{
    const size_t os_page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t bytes = (size_t)s->n_layers * s->n_kv_heads * tiles_bytes(s);

    return (bytes + os_page - 1) / os_page * os_page;
}

static uint32_t pages_for(uint32_t n_tokens)
{
    return n_tokens / KV_PAGE + (n_tokens % KV_PAGE != 0);
}

size_t kv_bytes_for(const struct kv_shape *shape, uint32_t n_tokens)
{
    return page_bytes(shape) * pages_for(n_tokens);
}

/* --- the pool -------------------------------------------------------------------------------- */

static size_t chunk_bytes(const struct kv *kv)
{
    return kv->page_bytes * kv->places_per_chunk;
}

static int add_chunk(struct kv *kv)
{
    const size_t n = (size_t)kv->n_chunks + 1, places = n * kv->places_per_chunk;
    const size_t bytes = chunk_bytes(kv);
    uint8_t **chunks = realloc(kv->chunks, n * sizeof(*chunks));

    if (chunks)
        kv->chunks = chunks;
    uint32_t *holders = realloc(kv->holders, places * sizeof(*holders));
    if (holders)
        kv->holders = holders;
    uint32_t *unused = realloc(kv->unused, places * sizeof(*unused));
    if (unused)
        kv->unused = unused;
    if (!chunks || !holders || !unused)
        return -ENOMEM;

    uint8_t *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return -ENOMEM;
    /* Huge pages read faster, but make their neighbours resident: not where pages are small. */
    madvise(base, bytes, kv->page_bytes >= HUGE_BYTES / 8 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    kv->chunks[kv->n_chunks++] = base;
    for (size_t place = places; place-- > places - kv->places_per_chunk;) {
        kv->holders[place] = 0;
        kv->unused[kv->n_unused++] = (uint32_t)place;
    }
    return 0;
}

static uint8_t *place_at(const struct kv *kv, uint32_t place)
{
    return kv->chunks[place / kv->places_per_chunk] + place % kv->places_per_chunk * kv->page_bytes;
}

/* Promise n more pages: 0, -ENOSPC or -ENOMEM. */
static int promise(struct kv *kv, uint64_t n)
{
    if (n > kv->n_budget - kv->n_held - kv->n_promised)
        return -ENOSPC;
    while (kv->n_promised + n > kv->n_unused) {
        int rc = add_chunk(kv);
        if (rc)
            return rc;
    }
    kv->n_promised += n;
    return 0;
}

/* The next page of a sequence, of those promised. */
static uint8_t *take(struct kv *kv, struct kv_seq *s)
{
    const uint32_t place = kv->unused[--kv->n_unused];

    kv->n_promised--;
    kv->n_held++;
    kv->holders[place] = 1;
    s->places[s->n_pages] = place;
    return s->pages[s->n_pages++] = place_at(kv, place);
}

static void share(struct kv *kv, struct kv_seq *to, const struct kv_seq *from, uint32_t page)
{
    const uint32_t place = from->places[page];

    if (kv->holders[place]++ == 1)
        kv->n_shared++;
    to->places[to->n_pages] = place;
    to->pages[to->n_pages++] = from->pages[page];
}

/* Drop the last page of a sequence. */
static void drop(struct kv *kv, struct kv_seq *s)
{
    const uint32_t place = s->places[--s->n_pages];
    const uint32_t left = --kv->holders[place];

    if (left == 1)
        kv->n_shared--;
    if (left)
        return;
    kv->n_held--;
    kv->unused[kv->n_unused++] = place;
    madvise(s->pages[s->n_pages], kv->page_bytes, MADV_DONTNEED);
}

/* --- open, close ----------------------------------------------------------------------------- */

int kv_open(const struct kv_shape *shape, uint32_t max_seqs, size_t budget_bytes, struct kv **out)
{
    struct kv *kv = calloc(1, sizeof(*kv) + max_seqs * sizeof(kv->seqs[0]));

    *out = kv;
    if (!kv)
        return -ENOMEM;
    kv->shape = *shape;
    kv->tiles_bytes = tiles_bytes(shape);
    kv->page_bytes = page_bytes(shape);
    kv->max_seqs = max_seqs;
    kv->budget_bytes = budget_bytes;
    kv->n_budget = budget_bytes / kv->page_bytes;
    if (kv->n_budget > UINT32_MAX / 2)
        kv->n_budget = UINT32_MAX / 2;
    kv->places_per_chunk = (uint32_t)((CHUNK_BYTES + kv->page_bytes - 1) / kv->page_bytes);
    return 0;
}

void kv_close(struct kv *kv)
{
    if (!kv)
        return;
    for (uint32_t i = 0; i < kv->max_seqs; i++)
        kv_seq_close(kv, (int)i);
    for (uint32_t i = 0; i < kv->n_chunks; i++)
        munmap(kv->chunks[i], chunk_bytes(kv));
    free(kv->chunks);
    free(kv->holders);
    free(kv->unused);
    free(kv);
}

/* --- sequences ------------------------------------------------------------------------------- */

static struct kv_seq *find(const struct kv *kv, int seq)
{
    if (seq < 0 || (uint32_t)seq >= kv->max_seqs || !kv->seqs[seq].pages)
        return NULL;
    return (struct kv_seq *)&kv->seqs[seq];
}

/* Its first n_shared pages come from another sequence. */
static int open_seq(struct kv *kv, uint32_t max_tokens, uint32_t n_shared)
{
    const uint32_t max_pages = pages_for(max_tokens);
    uint32_t id = 0;

    if (max_tokens == 0)
        return -EINVAL;
    while (id < kv->max_seqs && kv->seqs[id].pages)
        id++;
    if (id == kv->max_seqs)
        return -ENOSPC;

    uint8_t **pages = malloc(max_pages * sizeof(*pages));
    uint32_t *places = malloc(max_pages * sizeof(*places));
    int rc = pages && places ? promise(kv, max_pages - n_shared) : -ENOMEM;
    if (rc) {
        free(pages);
        free(places);
        return rc;
    }
    kv->seqs[id] = (struct kv_seq){
        .pages = pages,
        .places = places,
        .max_pages = max_pages,
        .max_tokens = max_tokens,
    };
    return (int)id;
}

int kv_seq_open(struct kv *kv, uint32_t max_tokens)
{
    return open_seq(kv, max_tokens, 0);
}

int kv_seq_fork(struct kv *kv, int seq, uint32_t n_tokens, uint32_t max_tokens)
{
    const struct kv_seq *from = find(kv, seq);
    const uint32_t full = n_tokens / KV_PAGE;

    if (!from || n_tokens > from->n_tokens || n_tokens > max_tokens)
        return -EINVAL;
    int id = open_seq(kv, max_tokens, full);
    if (id < 0)
        return id;

    struct kv_seq *to = &kv->seqs[id];
    for (uint32_t page = 0; page < full; page++)
        share(kv, to, from, page);
    if (n_tokens % KV_PAGE)
        memcpy(take(kv, to), from->pages[full], kv->page_bytes);
    to->n_tokens = n_tokens;
    return id;
}

void kv_seq_close(struct kv *kv, int seq)
{
    struct kv_seq *s = find(kv, seq);

    if (!s)
        return;
    kv->n_promised -= s->max_pages - s->n_pages;
    while (s->n_pages)
        drop(kv, s);
    free(s->pages);
    free(s->places);
    *s = (struct kv_seq){0};
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

size_t kv_own_bytes(const struct kv *kv, int seq)
{
    const struct kv_seq *s = find(kv, seq);
    size_t pages = s ? s->max_pages - s->n_pages : 0;

    for (uint32_t i = 0; s && i < s->n_pages; i++)
        pages += kv->holders[s->places[i]] == 1;
    return pages * kv->page_bytes;
}

int kv_seq_append(struct kv *kv, int seq, uint32_t n)
{
    struct kv_seq *s = find(kv, seq);

    if (!s || n > s->max_tokens - s->n_tokens)
        return -EINVAL;
    s->n_tokens += n;
    while (s->n_pages < pages_for(s->n_tokens))
        take(kv, s);
    return 0;
}

/* The last page that stays is written again: it must be the sequence's own. */
static void own_last(struct kv *kv, struct kv_seq *s)
{
    const uint8_t *shared = s->pages[s->n_pages - 1];

    drop(kv, s);
    memcpy(take(kv, s), shared, kv->page_bytes);
}

int kv_seq_truncate(struct kv *kv, int seq, uint32_t n_tokens)
{
    struct kv_seq *s = find(kv, seq);

    if (!s || n_tokens > s->n_tokens)
        return -EINVAL;
    const uint32_t kept = pages_for(n_tokens);
    const bool copy = n_tokens % KV_PAGE && kv->holders[s->places[kept - 1]] > 1;
    uint32_t shared = copy;
    for (uint32_t page = kept; page < s->n_pages; page++)
        shared += kv->holders[s->places[page]] > 1;
    /* Pages dropped are promised again: those that go unheld make the room for it themselves. */
    int rc = promise(kv, shared);
    if (rc)
        return rc;
    kv->n_promised += s->n_pages - kept + copy - shared;
    while (s->n_pages > kept)
        drop(kv, s);
    if (copy)
        own_last(kv, s);
    s->n_tokens = n_tokens;
    return 0;
}

/* --- reading --------------------------------------------------------------------------------- */

const struct kv_shape *kv_shape(const struct kv *kv)
{
    return &kv->shape;
}

uint8_t *kv_tiles(const struct kv *kv, int seq, uint32_t page, uint32_t layer, uint32_t head)
{
    return kv->seqs[seq].pages[page] +
           ((size_t)layer * kv->shape.n_kv_heads + head) * kv->tiles_bytes;
}

struct kv_account kv_account(const struct kv *kv)
{
    return (struct kv_account){
        .budget_bytes = kv->budget_bytes,
        .reserved_bytes = (kv->n_held + kv->n_promised) * kv->page_bytes,
        .resident_bytes = kv->n_held * kv->page_bytes,
        .shared_bytes = kv->n_shared * kv->page_bytes,
    };
}
