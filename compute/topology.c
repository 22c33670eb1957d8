/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "compute/placement.h"
#include "compute/topology.h"

void topology_keep(hwloc_topology_t t)
{
    static const hwloc_obj_type_t kept[] = {HWLOC_OBJ_PACKAGE, HWLOC_OBJ_CORE, HWLOC_OBJ_L2CACHE,
                                            HWLOC_OBJ_L3CACHE};

    hwloc_topology_set_flags(t, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
    hwloc_topology_set_all_types_filter(t, HWLOC_TYPE_FILTER_KEEP_NONE);
    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
        hwloc_topology_set_type_filter(t, kept[i], HWLOC_TYPE_FILTER_KEEP_ALL);
    /* Without groups the nodes of a package that has several would all lie beside all its cores. */
    hwloc_topology_set_type_filter(t, HWLOC_OBJ_GROUP, HWLOC_TYPE_FILTER_KEEP_STRUCTURE);
}

int topology_load(hwloc_topology_t *topo, hwloc_bitmap_t *allowed)
{
    hwloc_topology_t t;

    *allowed = NULL;
    if (hwloc_topology_init(&t))
        return -ENOMEM;
    topology_keep(t);
    if (hwloc_topology_load(t)) {
        int rc = errno ? -errno : -EIO;
        hwloc_topology_destroy(t);
        return rc;
    }
    *allowed = hwloc_bitmap_alloc();
    if (!*allowed) {
        hwloc_topology_destroy(t);
        return -ENOMEM;
    }
    hwloc_const_cpuset_t cgroup = hwloc_topology_get_allowed_cpuset(t);
    if (hwloc_get_cpubind(t, *allowed, HWLOC_CPUBIND_THREAD))
        hwloc_bitmap_copy(*allowed, cgroup); /* no affinity to be had: the cgroup's alone */
    else
        hwloc_bitmap_and(*allowed, *allowed, cgroup);
    *topo = t;
    return 0;
}

void topology_unload(hwloc_topology_t topo, hwloc_bitmap_t allowed)
{
    hwloc_bitmap_free(allowed);
    hwloc_topology_destroy(topo);
}

static unsigned count(hwloc_topology_t t, hwloc_obj_type_t type)
{
    int n = hwloc_get_nbobjs_by_type(t, type);
    return n > 0 ? (unsigned)n : 0;
}

static size_t cache_bytes(hwloc_topology_t t, hwloc_obj_type_t type)
{
    hwloc_obj_t o = hwloc_get_obj_by_type(t, type, 0);
    return o ? (size_t)o->attr->cache.size : 0;
}

/* Cores with a PU in cpus. Some virtual machines report no cores: then every PU stands for one. */
static unsigned cores_in(hwloc_topology_t t, hwloc_const_bitmap_t cpus)
{
    hwloc_obj_type_t type = count(t, HWLOC_OBJ_CORE) ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
    unsigned n = 0;

    for (hwloc_obj_t o = NULL; (o = hwloc_get_next_obj_by_type(t, type, o));)
        n += hwloc_bitmap_intersects(o->cpuset, cpus) != 0;
    return n;
}

int topology_read(struct topology *t)
{
    hwloc_topology_t topo;
    hwloc_bitmap_t allowed;

    memset(t, 0, sizeof(*t));
    int rc = topology_load(&topo, &allowed);
    if (rc)
        return rc;
    t->sockets = count(topo, HWLOC_OBJ_PACKAGE);
    t->numa_nodes = count(topo, HWLOC_OBJ_NUMANODE);
    t->pus = count(topo, HWLOC_OBJ_PU);
    t->cores = cores_in(topo, hwloc_topology_get_topology_cpuset(topo));
    t->allowed_cores = cores_in(topo, allowed);
    t->allowed_pus = (unsigned)hwloc_bitmap_weight(allowed);
    t->l2_bytes = cache_bytes(topo, HWLOC_OBJ_L2CACHE);
    t->l3_bytes = cache_bytes(topo, HWLOC_OBJ_L3CACHE);
    topology_unload(topo, allowed);
    return 0;
}

int topology_bind(unsigned nth)
{
    const struct team_params p = {
        .n_threads = 1, .first_core = (int)nth, .numa_node = -1, .near_numa_node = -1};
    hwloc_topology_t topo;
    hwloc_bitmap_t allowed;
    struct placement place;
    char err[TEAM_ERR];
    int rc = topology_load(&topo, &allowed);

    if (rc)
        return rc;
    rc = placement_choose(topo, allowed, &p, &place, err);
    if (rc == 0 && place.available <= nth)
        rc = -ENOENT;
    if (rc == 0 && hwloc_set_cpubind(topo, place.pus[0], HWLOC_CPUBIND_THREAD))
        rc = errno ? -errno : -EIO;
    placement_free(&place);
    topology_unload(topo, allowed);
    return rc;
}
