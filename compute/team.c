/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compute/barrier.h"
#include "compute/placement.h"
#include "compute/team.h"
#include "compute/topology.h"

/* How long to spin, in pauses of the CPU. A virtual CPU that fell asleep takes 50 to 200 us to come
 * back, so members of a running step, and of one that follows soon, wait about as long awake. Where
 * steps are far apart, as in a half that waits for the other one, somebody else may want the core.
 */
#define SPINS_STEP 3000
#define SPINS_SOON 10000
#define SPINS_LATE 1000
#define SOON_NS    200000 /* between steps */

struct team {
    struct barrier barrier; /* first: it wants its alignment */
    unsigned size;
    unsigned patience;     /* spins of members that wait for the next step */
    uint64_t last_step_ns; /* when it ended */
    team_fn fn;            /* of this step; NULL: the team ends */
    void *arg;
    bool pinned;
    cpu_set_t before; /* the leader's affinity, put back at close */
    char cpus[TEAM_TEXT];
    struct team_nodes nodes;
    pthread_mutex_t starting; /* held until all members are there */
    struct member {
        struct team *team;
        pthread_t thread;
    } members[]; /* [size], the leader's is not used */
};

/* --- steps -------------------------------------------------------------------------------------
 * The one barrier serves all: members wait at it for a step, meet there within it, and at its end.
 */

static void *serve(void *arg)
{
    struct member *m = arg;
    struct team *t = m->team;
    const unsigned part = (unsigned)(m - t->members);
    unsigned patience = SPINS_LATE;

    pthread_mutex_lock(&t->starting);
    pthread_mutex_unlock(&t->starting);
    for (;;) {
        team_barrier_wait(&t->barrier, patience);
        if (!t->fn)
            return NULL;
        patience = t->patience;
        t->fn(t->arg, part, t->size);
        team_barrier_wait(&t->barrier, SPINS_STEP);
    }
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void team_run(struct team *t, team_fn fn, void *arg)
{
    if (t->size == 1) {
        fn(arg, 0, 1);
        return;
    }
    t->fn = fn;
    t->arg = arg;
    t->patience = now_ns() - t->last_step_ns < SOON_NS ? SPINS_SOON : SPINS_LATE;
    team_barrier_wait(&t->barrier, SPINS_STEP);
    fn(arg, 0, t->size);
    team_barrier_wait(&t->barrier, SPINS_STEP);
    t->last_step_ns = now_ns();
}

void team_barrier(struct team *t)
{
    if (t->size > 1)
        team_barrier_wait(&t->barrier, SPINS_STEP);
}

/* --- opening and closing -----------------------------------------------------------------------
 */

static void end_members(struct team *t)
{
    if (t->size == 1)
        return;
    t->fn = NULL;
    team_barrier_wait(&t->barrier, SPINS_STEP);
    for (unsigned i = 1; i < t->size; i++)
        pthread_join(t->members[i].thread, NULL);
    t->size = 1;
}

/* All or none. */
static int start_members(struct team *t, unsigned n)
{
    sigset_t all, before;
    int rc = 0;

    pthread_mutex_init(&t->starting, NULL);
    pthread_mutex_lock(&t->starting);
    sigfillset(&all); /* signals are for the leader */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (t->size = 1; t->size < n; t->size++) {
        struct member *m = &t->members[t->size];

        m->team = t;
        rc = -pthread_create(&m->thread, NULL, serve, m);
        if (rc)
            break;
        pthread_setname_np(m->thread, "isthmus-team");
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    team_barrier_init(&t->barrier, t->size);
    pthread_mutex_unlock(&t->starting);
    if (rc)
        end_members(t);
    return rc;
}

struct pinning {
    hwloc_topology_t topo;
    const struct placement *place;
};

static void pin_member(void *arg, unsigned part, unsigned parts)
{
    const struct pinning *p = arg;

    /* A wish: unpinned is right too. */
    hwloc_set_cpubind(p->topo, p->place->pus[part], HWLOC_CPUBIND_THREAD);
}

static int all_cpus(const struct placement *place, char text[TEAM_TEXT])
{
    hwloc_bitmap_t all = hwloc_bitmap_alloc();

    if (!all)
        return -ENOMEM;
    for (unsigned i = 0; i < place->n; i++)
        hwloc_bitmap_or(all, all, place->pus[i]);
    hwloc_bitmap_list_snprintf(text, TEAM_TEXT, all);
    hwloc_bitmap_free(all);
    return 0;
}

static void note_nodes(hwloc_topology_t topo, const struct placement *place,
                       struct team_nodes *nodes)
{
    unsigned node;

    if (hwloc_get_nbobjs_by_type(topo, HWLOC_OBJ_NUMANODE) < 2)
        return;
    hwloc_bitmap_foreach_begin(node, place->nodes)
    {
        const unsigned width = 8 * sizeof(nodes->bits[0]);
        if (node < TEAM_NODES_MAX) {
            nodes->bits[node / width] |= 1ul << node % width;
            nodes->n++;
        }
    }
    hwloc_bitmap_foreach_end();
}

static int pin(struct team *t, hwloc_topology_t topo, const struct placement *place)
{
    struct pinning p = {topo, place};

    if (all_cpus(place, t->cpus))
        return -ENOMEM;
    note_nodes(topo, place, &t->nodes);
    t->pinned = sched_getaffinity(0, sizeof(t->before), &t->before) == 0;
    team_run(t, pin_member, &p);
    return 0;
}

static int open_at(const struct team_params *p, hwloc_topology_t topo,
                   const struct placement *place, struct team **out)
{
    /* Of whole cache lines, as aligned_alloc wants it. */
    size_t bytes = sizeof(struct team) + place->n * sizeof(struct member);
    struct team *t = aligned_alloc(_Alignof(struct team),
                                   (bytes + _Alignof(struct team) - 1) & -_Alignof(struct team));
    if (!t)
        return -ENOMEM;
    memset(t, 0, bytes);
    int rc = start_members(t, place->n);
    if (rc == 0 && p->first_core >= 0)
        rc = pin(t, topo, place);
    if (rc) {
        team_close(t);
        return rc;
    }
    *out = t;
    return 0;
}

/* The machine, and the places chosen there. To be freed in either case, unless it is not 0. */
static int look(const struct team_params *p, hwloc_topology_t *topo, hwloc_bitmap_t *allowed,
                struct placement *place, char err[TEAM_ERR])
{
    err[0] = '\0';
    if (p->first_core < -1)
        return -EINVAL;
    int rc = topology_load(topo, allowed);
    if (rc)
        return rc;
    rc = placement_choose(*topo, *allowed, p, place, err);
    if (rc) {
        placement_free(place);
        topology_unload(*topo, *allowed);
    }
    return rc;
}

static int explain(int rc, char err[TEAM_ERR])
{
    if (rc && !err[0])
        snprintf(err, TEAM_ERR, "%s", strerror(-rc));
    return rc;
}

int team_open_placed(const struct team_params *p, struct team **out, char err[TEAM_ERR])
{
    hwloc_topology_t topo;
    hwloc_bitmap_t allowed;
    struct placement place;

    *out = NULL;
    int rc = look(p, &topo, &allowed, &place, err);
    if (rc == 0) {
        rc = open_at(p, topo, &place, out);
        placement_free(&place);
        topology_unload(topo, allowed);
    }
    return explain(rc, err);
}

int team_open(unsigned n_threads, int first_core, struct team **out, unsigned *n_used)
{
    const struct team_params p = {
        .n_threads = n_threads, .first_core = first_core, .numa_node = -1, .near_numa_node = -1};
    char err[TEAM_ERR];
    int rc = team_open_placed(&p, out, err);

    if (rc == 0 && n_used)
        *n_used = team_size(*out);
    return rc;
}

void team_close(struct team *t)
{
    if (!t)
        return;
    end_members(t);
    if (t->pinned)
        sched_setaffinity(0, sizeof(t->before), &t->before);
    pthread_mutex_destroy(&t->starting);
    free(t);
}

int team_plan(const struct team_params *p, struct team_plan *plan, char err[TEAM_ERR])
{
    hwloc_topology_t topo;
    hwloc_bitmap_t allowed;
    struct placement place;
    int rc = look(p, &topo, &allowed, &place, err);

    *plan = (struct team_plan){0};
    if (rc == 0) {
        plan->threads = place.n;
        plan->available = place.available;
        if (hwloc_get_nbobjs_by_type(topo, HWLOC_OBJ_NUMANODE) > 1)
            hwloc_bitmap_list_snprintf(plan->nodes, TEAM_TEXT, place.nodes);
        rc = all_cpus(&place, plan->cpus);
        placement_free(&place);
        topology_unload(topo, allowed);
    }
    return explain(rc, err);
}

/* --- what a team is ----------------------------------------------------------------------------
 */

unsigned team_size(const struct team *t)
{
    return t->size;
}

const char *team_cpus(const struct team *t)
{
    return t->cpus;
}

const struct team_nodes *team_nodes(const struct team *t)
{
    return &t->nodes;
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
