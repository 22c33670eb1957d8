/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for panels. Huge pages make streaming a matrix 14 to 29 % faster, but most matrices of a
 * small model are shorter than one. So panels are cut one after another from large reserved
 * regions: consecutive matrices share huge pages, and at most the last page of a region is partly
 * unused. Only what is touched becomes resident, on the nodes that kernels_mem_place named.
 */
#include <errno.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "compute/kernels/internal.h"

#define HUGE_BYTES   ((size_t)2 << 20)
#define REGION_BYTES ((size_t)256 << 20)

struct region {
    struct region *next;
    uint8_t *base;
    size_t bytes, used, live; /* live: allocations not yet freed */
    size_t locked;            /* bytes from base on that stay in memory */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct region *regions; /* newest first */
static struct team_nodes nodes;

static size_t align_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* One node is preferred, so that a full one is no failure; of several each takes its turn. */
static int bind_to(void *base, size_t bytes, const struct team_nodes *to)
{
    if (to->n == 0)
        return 0;
    long rc = syscall(SYS_mbind, base, bytes, to->n == 1 ? MPOL_PREFERRED : MPOL_INTERLEAVE,
                      to->bits, (unsigned long)TEAM_NODES_MAX + 1, 0);
    return rc ? -errno : 0;
}

int kernels_mem_place(const struct team_nodes *to)
{
    const size_t page = 4096;
    int rc = 0;

    if (to->n) { /* whether it can be had at all: some containers forbid it */
        void *probe = mmap(NULL, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (probe == MAP_FAILED)
            return -errno;
        rc = bind_to(probe, page, to);
        munmap(probe, page);
    }
    pthread_mutex_lock(&lock);
    nodes = rc ? (struct team_nodes){.n = 0} : *to;
    pthread_mutex_unlock(&lock);
    return rc;
}

/* Map `bytes` at a huge-page boundary. */
static uint8_t *map_aligned(size_t bytes)
{
    size_t padded = bytes + HUGE_BYTES;
    uint8_t *p = mmap(NULL, padded, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    uint8_t *base = (uint8_t *)align_up((uintptr_t)p, HUGE_BYTES);
    if (base > p)
        munmap(p, (size_t)(base - p));
    size_t tail = (size_t)(p + padded - (base + bytes));
    if (tail)
        munmap(base + bytes, tail);
    madvise(base, bytes, MADV_HUGEPAGE); /* hints: without them only speed suffers */
    bind_to(base, bytes, &nodes);
    return base;
}

static struct region *region_new(size_t need)
{
    struct region *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    r->bytes = need > REGION_BYTES ? align_up(need, HUGE_BYTES) : REGION_BYTES;
    r->base = map_aligned(r->bytes);
    if (!r->base) { /* address space is limited: take no more than needed */
        r->bytes = align_up(need, 4096);
        r->base = map_aligned(r->bytes);
    }
    if (!r->base) {
        free(r);
        return NULL;
    }
    r->next = regions;
    regions = r;
    return r;
}

void *kernels_mem_alloc(size_t bytes)
{
    void *p = NULL;

    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = align_up(bytes, 64);
    pthread_mutex_lock(&lock);
    struct region *r = regions;
    while (r && r->bytes - r->used < bytes)
        r = r->next;
    if (!r)
        r = region_new(bytes);
    if (r) {
        p = r->base + r->used;
        r->used += bytes;
        r->live++;
    }
    pthread_mutex_unlock(&lock);
    return p;
}

void kernels_mem_free(void *p, size_t bytes)
{
    if (!p)
        return;
    pthread_mutex_lock(&lock);
    struct region **at = &regions;
    while ((uint8_t *)p < (*at)->base || (uint8_t *)p >= (*at)->base + (*at)->bytes)
        at = &(*at)->next;
    struct region *r = *at;
    if (--r->live == 0) {
        *at = r->next;
        munmap(r->base, r->bytes);
        free(r);
    } else { /* give back the whole pages inside; the place is not used again */
        uint8_t *from = (uint8_t *)align_up((uintptr_t)p, 4096);
        uint8_t *to = (uint8_t *)(((uintptr_t)p + align_up(bytes, 64)) & ~(uintptr_t)4095);
        if (from < to) {
            if (r->locked)
                munlock(from, (size_t)(to - from));
            madvise(from, (size_t)(to - from), MADV_DONTNEED);
        }
    }
    pthread_mutex_unlock(&lock);
}

int kernels_mem_lock(size_t *bytes)
{
    int rc = 0;

    *bytes = 0;
    pthread_mutex_lock(&lock);
    for (struct region *r = regions; r; r = r->next) {
        size_t want = align_up(r->used, HUGE_BYTES); /* huge pages stay whole */

        want = want < r->bytes ? want : r->bytes;
        *bytes += want;
        /* Those that are there: what was freed in between does not come back. */
        if (rc == 0 && want > r->locked) {
            if (mlock2(r->base, want, MLOCK_ONFAULT))
                rc = -errno;
            else
                r->locked = want;
        }
    }
    pthread_mutex_unlock(&lock);
    return rc;
}
