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
#define PAGES_MOST  (UINT32_MAX / 2)   /* of a format */

/* Of one format: places for pages, in chunks of address space that grow with what is reserved. */
struct pool {
    size_t tiles_bytes, page_bytes;
    uint8_t **chunks;
    uint32_t n_chunks, places_per_chunk;
    uint32_t *holders; /* [places] */
    uint32_t *unused;  /* [places] a stack of those without a holder */
    uint32_t n_unused;
    uint64_t n_held, n_promised, n_shared; /* pages */
};

struct kv_seq {
    enum kv_format format;
    uint8_t **pages;  /* [max_pages]; NULL: the id is free */
    uint32_t *places; /* [max_pages] their places in the pool */
    uint32_t max_pages, n_pages;
    uint32_t max_tokens, n_tokens;
};

struct kv {
    struct kv_shape shape;
    uint32_t max_seqs;
    size_t budget_bytes; /* held and promised pages of all pools are no more */
    struct pool pools[KV_FORMATS];
    struct kv_seq seqs[];
};

/* Of one head in one layer. */
static size_t tiles_bytes(const struct kv_shape *s, enum kv_format f)
{
    return kv_key_bytes(f, s->head_dim) + kv_value_bytes(f, s->head_dim);
}

static size_t page_bytes(const struct kv_shape *s, enum kv_format f)
{
    const size_t os_page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t bytes = (size_t)s->n_layers * s->n_kv_heads * tiles_bytes(s, f);

    return (bytes + os_page - 1) / os_page * os_page;
}

static uint32_t pages_for(uint32_t n_tokens)
{
    return n_tokens / KV_PAGE + (n_tokens % KV_PAGE != 0);
}

bool kv_shape_takes(const struct kv_shape *shape, enum kv_format f)
{
    return f < KV_FORMATS && (kv_value_code(f) != KV_CODE_Q4 || shape->head_dim % 32 == 0);
}

size_t kv_bytes_for(const struct kv_shape *shape, enum kv_format f, uint32_t n_tokens)
{
    return page_bytes(shape, f) * pages_for(n_tokens);
}

/* --- the pools ------------------------------------------------------------------------------- */

static size_t reserved_bytes(const struct kv *kv)
{
    size_t bytes = 0;

    for (unsigned f = 0; f < KV_FORMATS; f++)
        bytes += (kv->pools[f].n_held + kv->pools[f].n_promised) * kv->pools[f].page_bytes;
    return bytes;
}

static size_t chunk_bytes(const struct pool *p)
{
    return p->page_bytes * p->places_per_chunk;
}

static int add_chunk(struct pool *p)
{
    const size_t n = (size_t)p->n_chunks + 1, places = n * p->places_per_chunk;
    const size_t bytes = chunk_bytes(p);
    uint8_t **chunks = realloc(p->chunks, n * sizeof(*chunks));

    if (chunks)
        p->chunks = chunks;
    uint32_t *holders = realloc(p->holders, places * sizeof(*holders));
    if (holders)
        p->holders = holders;
    uint32_t *unused = realloc(p->unused, places * sizeof(*unused));
    if (unused)
        p->unused = unused;
    if (!chunks || !holders || !unused)
        return -ENOMEM;

    uint8_t *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return -ENOMEM;
    /* Huge pages read faster, but make their neighbours resident: not where pages are small. */
    madvise(base, bytes, p->page_bytes >= HUGE_BYTES / 8 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    p->chunks[p->n_chunks++] = base;
    for (size_t place = places; place-- > places - p->places_per_chunk;) {
        p->holders[place] = 0;
        p->unused[p->n_unused++] = (uint32_t)place;
    }
    return 0;
}

static uint8_t *place_at(const struct pool *p, uint32_t place)
{
    return p->chunks[place / p->places_per_chunk] + place % p->places_per_chunk * p->page_bytes;
}

/* Promise n more pages of a format: 0, -ENOSPC or -ENOMEM. */
static int promise(struct kv *kv, struct pool *p, uint64_t n)
{
    if (n > (kv->budget_bytes - reserved_bytes(kv)) / p->page_bytes ||
        n > PAGES_MOST - p->n_held - p->n_promised)
        return -ENOSPC;
    while (p->n_promised + n > p->n_unused) {
        int rc = add_chunk(p);
        if (rc)
            return rc;
    }
    p->n_promised += n;
    return 0;
}

/* The next page of a sequence, of those promised. */
static uint8_t *take(struct pool *p, struct kv_seq *s)
{
    const uint32_t place = p->unused[--p->n_unused];

    p->n_promised--;
    p->n_held++;
    p->holders[place] = 1;
    s->places[s->n_pages] = place;
    return s->pages[s->n_pages++] = place_at(p, place);
}

static void share(struct pool *p, struct kv_seq *to, const struct kv_seq *from, uint32_t page)
{
    const uint32_t place = from->places[page];

    if (p->holders[place]++ == 1)
        p->n_shared++;
    to->places[to->n_pages] = place;
    to->pages[to->n_pages++] = from->pages[page];
}

/* Drop the last page of a sequence. */
static void drop(struct pool *p, struct kv_seq *s)
{
    const uint32_t place = s->places[--s->n_pages];
    const uint32_t left = --p->holders[place];

    if (left == 1)
        p->n_shared--;
    if (left)
        return;
    p->n_held--;
    p->unused[p->n_unused++] = place;
    madvise(s->pages[s->n_pages], p->page_bytes, MADV_DONTNEED);
}

/* --- open, close ----------------------------------------------------------------------------- */

int kv_open(const struct kv_shape *shape, uint32_t max_seqs, size_t budget_bytes, struct kv **out)
{
    struct kv *kv = calloc(1, sizeof(*kv) + max_seqs * sizeof(kv->seqs[0]));

    *out = kv;
    if (!kv)
        return -ENOMEM;
    kv->shape = *shape;
    kv->max_seqs = max_seqs;
    kv->budget_bytes = budget_bytes;
    for (unsigned f = 0; f < KV_FORMATS; f++) {
        struct pool *p = &kv->pools[f];

        p->tiles_bytes = tiles_bytes(shape, (enum kv_format)f);
        p->page_bytes = page_bytes(shape, (enum kv_format)f);
        p->places_per_chunk = (uint32_t)((CHUNK_BYTES + p->page_bytes - 1) / p->page_bytes);
    }
    return 0;
}

void kv_close(struct kv *kv)
{
    if (!kv)
        return;
    for (uint32_t i = 0; i < kv->max_seqs; i++)
        kv_seq_close(kv, (int)i);
    for (unsigned f = 0; f < KV_FORMATS; f++) {
        struct pool *p = &kv->pools[f];

        for (uint32_t i = 0; i < p->n_chunks; i++)
            munmap(p->chunks[i], chunk_bytes(p));
        free(p->chunks);
        free(p->holders);
        free(p->unused);
    }
    free(kv);
}

/* --- sequences ------------------------------------------------------------------------------- */

static struct kv_seq *find(const struct kv *kv, int seq)
{
    if (seq < 0 || (uint32_t)seq >= kv->max_seqs || !kv->seqs[seq].pages)
        return NULL;
    return (struct kv_seq *)&kv->seqs[seq];
}

static struct pool *pool_of(struct kv *kv, const struct kv_seq *s)
{
    return &kv->pools[s->format];
}

/* Its first n_shared pages come from another sequence. */
static int open_seq(struct kv *kv, enum kv_format f, uint32_t max_tokens, uint32_t n_shared)
{
    const uint32_t max_pages = pages_for(max_tokens);
    uint32_t id = 0;

    if (max_tokens == 0 || !kv_shape_takes(&kv->shape, f))
        return -EINVAL;
    while (id < kv->max_seqs && kv->seqs[id].pages)
        id++;
    if (id == kv->max_seqs)
        return -ENOSPC;

    uint8_t **pages = malloc(max_pages * sizeof(*pages));
    uint32_t *places = malloc(max_pages * sizeof(*places));
    int rc = pages && places ? promise(kv, &kv->pools[f], max_pages - n_shared) : -ENOMEM;
    if (rc) {
        free(pages);
        free(places);
        return rc;
    }
    kv->seqs[id] = (struct kv_seq){
        .format = f,
        .pages = pages,
        .places = places,
        .max_pages = max_pages,
        .max_tokens = max_tokens,
    };
    return (int)id;
}

int kv_seq_open(struct kv *kv, enum kv_format f, uint32_t max_tokens)
{
    return open_seq(kv, f, max_tokens, 0);
}

int kv_seq_fork(struct kv *kv, int seq, uint32_t n_tokens, uint32_t max_tokens)
{
    const struct kv_seq *from = find(kv, seq);
    const uint32_t full = n_tokens / KV_PAGE;

    if (!from || n_tokens > from->n_tokens || n_tokens > max_tokens)
        return -EINVAL;
    int id = open_seq(kv, from->format, max_tokens, full);
    if (id < 0)
        return id;

    struct kv_seq *to = &kv->seqs[id];
    struct pool *p = pool_of(kv, to);
    for (uint32_t page = 0; page < full; page++)
        share(p, to, from, page);
    if (n_tokens % KV_PAGE)
        memcpy(take(p, to), from->pages[full], p->page_bytes);
    to->n_tokens = n_tokens;
    return id;
}

void kv_seq_close(struct kv *kv, int seq)
{
    struct kv_seq *s = find(kv, seq);

    if (!s)
        return;
    struct pool *p = pool_of(kv, s);
    p->n_promised -= s->max_pages - s->n_pages;
    while (s->n_pages)
        drop(p, s);
    free(s->pages);
    free(s->places);
    *s = (struct kv_seq){0};
}

enum kv_format kv_seq_format(const struct kv *kv, int seq)
{
    return kv->seqs[seq].format;
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
    size_t pages;

    if (!s)
        return 0;
    const struct pool *p = &kv->pools[s->format];
    pages = s->max_pages - s->n_pages;
    for (uint32_t i = 0; i < s->n_pages; i++)
        pages += p->holders[s->places[i]] == 1;
    return pages * p->page_bytes;
}

int kv_seq_append(struct kv *kv, int seq, uint32_t n)
{
    struct kv_seq *s = find(kv, seq);

    if (!s || n > s->max_tokens - s->n_tokens)
        return -EINVAL;
    s->n_tokens += n;
    while (s->n_pages < pages_for(s->n_tokens))
        take(pool_of(kv, s), s);
    return 0;
}

/* The last page that stays is written again: it must be the sequence's own. */
static void own_last(struct pool *p, struct kv_seq *s)
{
    const uint8_t *shared = s->pages[s->n_pages - 1];

    drop(p, s);
    memcpy(take(p, s), shared, p->page_bytes);
}

int kv_seq_truncate(struct kv *kv, int seq, uint32_t n_tokens)
{
    struct kv_seq *s = find(kv, seq);

    if (!s || n_tokens > s->n_tokens)
        return -EINVAL;
    struct pool *p = pool_of(kv, s);
    const uint32_t kept = pages_for(n_tokens);
    const bool copy = n_tokens % KV_PAGE && p->holders[s->places[kept - 1]] > 1;
    uint32_t shared = copy;
    for (uint32_t page = kept; page < s->n_pages; page++)
        shared += p->holders[s->places[page]] > 1;
    /* Pages dropped are promised again: those that go unheld make the room for it themselves. */
    int rc = promise(kv, p, shared);
    if (rc)
        return rc;
    p->n_promised += s->n_pages - kept + copy - shared;
    while (s->n_pages > kept)
        drop(p, s);
    if (copy)
        own_last(p, s);
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
    const struct kv_seq *s = &kv->seqs[seq];

    return s->pages[page] +
           ((size_t)layer * kv->shape.n_kv_heads + head) * kv->pools[s->format].tiles_bytes;
}

struct kv_account kv_account(const struct kv *kv)
{
    struct kv_account a = {.budget_bytes = kv->budget_bytes, .reserved_bytes = reserved_bytes(kv)};

    for (unsigned f = 0; f < KV_FORMATS; f++) {
        a.resident_bytes += kv->pools[f].n_held * kv->pools[f].page_bytes;
        a.shared_bytes += kv->pools[f].n_shared * kv->pools[f].page_bytes;
    }
    return a;
}
