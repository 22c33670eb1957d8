/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <omp.h>
#include <sched.h>
#include <stdlib.h>

#include "compute/barrier.h"
#include "compute/team.h"
#include "compute/topology.h"

struct team {
    struct barrier barrier; /* first: it wants its alignment */
    unsigned size;
    int first_core;
    hwloc_topology_t topo; /* while pinning only */
    hwloc_bitmap_t allowed;
    int pinned;
    cpu_set_t before; /* the caller's affinity, put back at close */
    team_fn fn;
    void *arg;
    /* libgomp's fork and join order memory, but ThreadSanitizer cannot see it. These two do it once
     * more, for a few nanoseconds a step. */
    _Atomic unsigned forks, joins;
};

static void member(struct team *t, unsigned part)
{
    atomic_load_explicit(&t->forks, memory_order_acquire);
    t->fn(t->arg, part, t->size);
    atomic_fetch_add_explicit(&t->joins, 1, memory_order_release);
}

/* Not instrumented: the shared frame that OpenMP passes to members is ordered by libgomp. */
__attribute__((no_sanitize("thread"))) static void fork_members(struct team *t)
{
#pragma omp parallel num_threads(t->size)
    member(t, (unsigned)omp_get_thread_num());
}

void team_run(struct team *t, team_fn fn, void *arg)
{
    if (t->size == 1) {
        fn(arg, 0, 1);
        return;
    }
    t->fn = fn;
    t->arg = arg;
    atomic_fetch_add_explicit(&t->forks, 1, memory_order_release);
    fork_members(t);
    atomic_load_explicit(&t->joins, memory_order_acquire);
}

void team_barrier(struct team *t)
{
    if (t->size > 1)
        team_barrier_wait(&t->barrier);
}

unsigned team_size(const struct team *t)
{
    return t->size;
}

static void pin_member(void *arg, unsigned part, unsigned parts)
{
    struct team *t = arg;
    hwloc_bitmap_t set = hwloc_bitmap_alloc();

    if (!set)
        return;
    unsigned cores = topology_cores(t->topo, t->allowed, -1, NULL);
    topology_cores(t->topo, t->allowed, (int)(((unsigned)t->first_core + part) % cores), set);
    hwloc_set_cpubind(t->topo, set, HWLOC_CPUBIND_THREAD); /* a wish: unpinned is right too */
    hwloc_bitmap_free(set);
}

/* OpenMP keeps its threads: the next team must not find them where this one pinned them. */
static void unpin_member(void *arg, unsigned part, unsigned parts)
{
    struct team *t = arg;
    sched_setaffinity(0, sizeof(t->before), &t->before);
}

/* The threads OpenMP really gives (OMP_THREAD_LIMIT may say fewer). */
static unsigned granted(unsigned n)
{
    unsigned got = 1;

    omp_set_dynamic(0);
    if (n > 1) {
#pragma omp parallel num_threads(n)
        if (omp_get_thread_num() == 0)
            got = (unsigned)omp_get_num_threads();
    }
    return got;
}

int team_open(unsigned n_threads, int first_core, struct team **out, unsigned *n_used)
{
    *out = NULL;
    if (first_core < -1)
        return -EINVAL;
    struct team *t = aligned_alloc(_Alignof(struct team), sizeof(*t));
    if (!t)
        return -ENOMEM;
    *t = (struct team){.first_core = first_core};
    int rc = topology_load(&t->topo, &t->allowed);
    if (rc) {
        free(t);
        return rc;
    }
    unsigned cores = topology_cores(t->topo, t->allowed, -1, NULL);
    if (n_threads == 0 || n_threads > cores)
        n_threads = cores ? cores : 1;
    t->size = granted(n_threads);
    team_barrier_init(&t->barrier, t->size);
    if (first_core >= 0 && cores) {
        t->pinned = sched_getaffinity(0, sizeof(t->before), &t->before) == 0;
        team_run(t, pin_member, t);
    }
    topology_unload(t->topo, t->allowed);
    if (n_used)
        *n_used = t->size;
    *out = t;
    return 0;
}

void team_close(struct team *t)
{
    if (!t)
        return;
    if (t->pinned)
        team_run(t, unpin_member, t);
    free(t);
}

void team_share(size_t n, size_t grain, unsigned part, unsigned parts, size_t *from, size_t *to)
{
    size_t units = n / grain + (n % grain != 0);

    *from = units * part / parts * grain;
    *to = units * (part + 1) / parts * grain;
    if (*from > n)
        *from = n;
    if (*to > n)
        *to = n;
}
