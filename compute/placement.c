/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/placement.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#define CPU_MAX 65535u /* more than any Linux has */

struct place {
    hwloc_bitmap_t pus;
    hwloc_const_nodeset_t nodes; /* of its core */
    hwloc_obj_t package;         /* NULL: not known */
    unsigned sibling;            /* 0: the core's first PU, or the whole core */
    unsigned distance;           /* 0: beside the network card, 1: in its package, 2: elsewhere */
    int kind;                    /* rank of the core's kind, fastest highest; -1: not known */
    unsigned node, nth;          /* order of the machine */
};

struct places {
    unsigned n;
    struct place *at;
};

/* --- what was asked for ------------------------------------------------------------------------
 */

/* "0-3,8" as taskset has it. */
static bool parse_cpus(const char *text, hwloc_bitmap_t cpus)
{
    for (const char *at = text;; at++) {
        unsigned long from, to;
        char *end;

        if (*at < '0' || *at > '9')
            return false;
        from = to = strtoul(at, &end, 10);
        if (*end == '-') {
            if (end[1] < '0' || end[1] > '9')
                return false;
            to = strtoul(end + 1, &end, 10);
        }
        if (from > to || to > CPU_MAX)
            return false;
        hwloc_bitmap_set_range(cpus, (unsigned)from, (int)to);
        if (!*end)
            return true;
        if (*end != ',')
            return false;
        at = end;
    }
}

#define LIST_BYTES 100

static const char *list(hwloc_const_bitmap_t set, char buf[LIST_BYTES])
{
    hwloc_bitmap_list_snprintf(buf, LIST_BYTES, set);
    return buf;
}

/* cpus := the PUs named, all of them there and allowed. */
static int take_cpus(hwloc_topology_t topo, hwloc_const_bitmap_t allowed, const char *text,
                     hwloc_bitmap_t cpus, char *err)
{
    hwloc_const_bitmap_t all = hwloc_topology_get_topology_cpuset(topo);
    char some[LIST_BYTES], there[LIST_BYTES];

    if (!parse_cpus(text, cpus)) {
        snprintf(err, TEAM_ERR, "must be numbers and ranges of CPUs, like 0-3,8");
        return -EINVAL;
    }
    if (!hwloc_bitmap_isincluded(cpus, all)) {
        hwloc_bitmap_andnot(cpus, cpus, all);
        snprintf(err, TEAM_ERR, "this machine has no CPU %s: it has %s", list(cpus, some),
                 list(all, there));
        return -EINVAL;
    }
    if (!hwloc_bitmap_isincluded(cpus, allowed)) {
        hwloc_bitmap_andnot(cpus, cpus, allowed);
        snprintf(err, TEAM_ERR, "CPU %s is not allowed to this process: %s are (cgroup, taskset)",
                 list(cpus, some), list(allowed, there));
        return -EINVAL;
    }
    return 0;
}

/* cpus := those of them in this node. */
static int take_node(hwloc_topology_t topo, int node, hwloc_bitmap_t cpus, char *err)
{
    hwloc_obj_t o = hwloc_get_numanode_obj_by_os_index(topo, (unsigned)node);
    char text[LIST_BYTES];

    if (!o) {
        snprintf(err, TEAM_ERR, "this machine has no NUMA node %d: it has %s", node,
                 list(hwloc_topology_get_topology_nodeset(topo), text));
        return -EINVAL;
    }
    hwloc_bitmap_and(cpus, cpus, o->cpuset);
    if (hwloc_bitmap_iszero(cpus)) {
        snprintf(err, TEAM_ERR, "no CPU of NUMA node %d (%s) is among those to be used", node,
                 list(o->cpuset, text));
        return -EINVAL;
    }
    return 0;
}

/* --- places in order ---------------------------------------------------------------------------
 */

static unsigned distance(hwloc_topology_t topo, const struct place *p, int near)
{
    hwloc_obj_t node = near < 0 ? NULL : hwloc_get_numanode_obj_by_os_index(topo, (unsigned)near);

    if (!node)
        return 0;
    if (hwloc_bitmap_isset(p->nodes, (unsigned)near))
        return 0;
    hwloc_obj_t package = hwloc_get_ancestor_obj_by_type(topo, HWLOC_OBJ_PACKAGE, node);
    return package && package == p->package ? 1 : 2;
}

static int add_place(hwloc_topology_t topo, struct places *s, hwloc_obj_t core, hwloc_bitmap_t pus,
                     unsigned sibling, int near)
{
    if (!pus)
        return -ENOMEM;
    struct place *p = &s->at[s->n];
    *p = (struct place){
        .pus = pus,
        .nodes = core->nodeset,
        .package = hwloc_get_ancestor_obj_by_type(topo, HWLOC_OBJ_PACKAGE, core),
        .sibling = sibling,
        .kind = hwloc_cpukinds_get_by_cpuset(topo, core->cpuset, 0),
        .nth = s->n,
    };
    p->distance = distance(topo, p, near);
    int efficiency = -1;
    if (p->kind >= 0)
        hwloc_cpukinds_get_info(topo, (unsigned)p->kind, NULL, &efficiency, NULL, NULL, 0);
    if (efficiency < 0)
        p->kind = -1; /* kinds that nobody ranked */
    /* One place for each set of nodes, in the order in which they come. */
    for (p->node = 0; p->node < s->n; p->node++)
        if (hwloc_bitmap_isequal(s->at[p->node].nodes, p->nodes))
            break;
    s->n++;
    return 0;
}

/* Of one core: itself, or each PU that was named. */
static int add_core(hwloc_topology_t topo, struct places *s, hwloc_obj_t core,
                    hwloc_const_bitmap_t cpus, bool named, int near)
{
    unsigned sibling = 0, pu;
    hwloc_bitmap_t here = hwloc_bitmap_alloc();
    int rc = 0;

    if (!here)
        return -ENOMEM;
    hwloc_bitmap_and(here, core->cpuset, cpus);
    if (!named)
        return add_place(topo, s, core, here, 0, near);
    hwloc_bitmap_foreach_begin(pu, here)
    {
        hwloc_bitmap_t one = rc ? NULL : hwloc_bitmap_alloc();
        if (one)
            hwloc_bitmap_only(one, pu);
        rc = add_place(topo, s, core, one, sibling++, near);
    }
    hwloc_bitmap_foreach_end();
    hwloc_bitmap_free(here);
    return rc;
}

static int in_order(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    if (x->sibling != y->sibling)
        return x->sibling < y->sibling ? -1 : 1;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    if (x->node != y->node)
        return x->node < y->node ? -1 : 1;
    if (x->kind != y->kind)
        return x->kind > y->kind ? -1 : 1;
    return x->nth < y->nth ? -1 : x->nth > y->nth;
}

static int find_places(hwloc_topology_t topo, hwloc_const_bitmap_t cpus, bool named, int near,
                       struct places *s)
{
    /* Some virtual machines report no cores: then every PU stands for one. */
    hwloc_obj_type_t type =
        hwloc_get_nbobjs_by_type(topo, HWLOC_OBJ_CORE) > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
    int rc = 0;

    s->n = 0;
    s->at = calloc((size_t)hwloc_bitmap_weight(cpus) + 1, sizeof(*s->at));
    if (!s->at)
        return -ENOMEM;
    for (hwloc_obj_t o = NULL; rc == 0 && (o = hwloc_get_next_obj_by_type(topo, type, o));)
        if (hwloc_bitmap_intersects(o->cpuset, cpus))
            rc = add_core(topo, s, o, cpus, named, near);
    qsort(s->at, s->n, sizeof(*s->at), in_order);
    return rc;
}

static void free_places(struct places *s)
{
    for (unsigned i = 0; i < s->n; i++)
        hwloc_bitmap_free(s->at[i].pus);
    free(s->at);
}

/* --- the choice --------------------------------------------------------------------------------
 */

static bool together(const struct place *a, const struct place *b, bool whole_package)
{
    return a->sibling == b->sibling &&
           (whole_package ? a->package && a->package == b->package : a->node == b->node);
}

/* The first place from `from` on that begins n places together, or s->n. */
static unsigned find_run(const struct places *s, unsigned from, unsigned n, bool whole_package)
{
    for (unsigned begin = from; begin < s->n; begin++) {
        unsigned end = begin;
        while (end < s->n && end - begin < n && together(&s->at[begin], &s->at[end], whole_package))
            end++;
        if (end - begin == n)
            return begin;
    }
    return s->n;
}

static int take_places(const struct places *s, unsigned n, unsigned from, struct placement *out)
{
    unsigned begin = find_run(s, from, n, false);

    if (begin == s->n)
        begin = find_run(s, from, n, true);
    if (begin == s->n)
        begin = from;
    out->nodes = hwloc_bitmap_alloc();
    out->pus = calloc(n, sizeof(hwloc_bitmap_t));
    if (!out->nodes || !out->pus)
        return -ENOMEM;
    for (; out->n < n; out->n++) {
        const struct place *p = &s->at[(begin + out->n) % s->n];
        out->pus[out->n] = hwloc_bitmap_dup(p->pus);
        if (!out->pus[out->n])
            return -ENOMEM;
        hwloc_bitmap_or(out->nodes, out->nodes, p->nodes);
    }
    return 0;
}

int placement_choose(hwloc_topology_t topo, hwloc_const_bitmap_t allowed,
                     const struct team_params *p, struct placement *out, char err[TEAM_ERR])
{
    hwloc_bitmap_t cpus = hwloc_bitmap_dup(allowed);
    struct places places = {0};
    int rc = cpus ? 0 : -ENOMEM;

    *out = (struct placement){0};
    err[0] = '\0';
    if (rc == 0 && p->cpus) {
        hwloc_bitmap_zero(cpus);
        rc = take_cpus(topo, allowed, p->cpus, cpus, err);
    }
    if (rc == 0 && p->numa_node >= 0)
        rc = take_node(topo, p->numa_node, cpus, err);
    if (rc == 0)
        rc = find_places(topo, cpus, p->cpus != NULL, p->near_numa_node, &places);
    if (rc == 0 && places.n == 0) {
        snprintf(err, TEAM_ERR, "no CPU is allowed to this process");
        rc = -EINVAL;
    }
    if (rc == 0) {
        unsigned n = p->n_threads && p->n_threads < places.n ? p->n_threads : places.n;

        out->available = places.n;
        rc = take_places(&places, n, p->first_core > 0 ? (unsigned)p->first_core % places.n : 0,
                         out);
    }
    if (rc == 0)
        hwloc_bitmap_and(out->nodes, out->nodes, hwloc_topology_get_allowed_nodeset(topo));
    free_places(&places);
    hwloc_bitmap_free(cpus);
    return rc;
}

void placement_free(struct placement *pl)
{
    for (unsigned i = 0; i < pl->n; i++)
        hwloc_bitmap_free(pl->pus[i]);
    free(pl->pus);
    hwloc_bitmap_free(pl->nodes);
    *pl = (struct placement){0};
}
