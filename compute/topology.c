/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "compute/topology.h"

int topology_load(hwloc_topology_t *topo, hwloc_bitmap_t *allowed)
{
    /* Only what is counted or bound to: a whole topology with devices costs time and memory. */
    static const hwloc_obj_type_t kept[] = {HWLOC_OBJ_PACKAGE, HWLOC_OBJ_CORE, HWLOC_OBJ_L2CACHE,
                                            HWLOC_OBJ_L3CACHE};
    hwloc_topology_t t;

    *allowed = NULL;
    if (hwloc_topology_init(&t))
        return -ENOMEM;
    hwloc_topology_set_flags(t, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
    hwloc_topology_set_all_types_filter(t, HWLOC_TYPE_FILTER_KEEP_NONE);
    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
        hwloc_topology_set_type_filter(t, kept[i], HWLOC_TYPE_FILTER_KEEP_ALL);
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

unsigned topology_cores(hwloc_topology_t t, hwloc_const_bitmap_t allowed, int nth,
                        hwloc_bitmap_t set)
{
    /* Some virtual machines report no cores: then every PU stands for one. */
    hwloc_obj_type_t type = count(t, HWLOC_OBJ_CORE) ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
    unsigned n = 0;

    for (hwloc_obj_t o = NULL; (o = hwloc_get_next_obj_by_type(t, type, o));) {
        if (!hwloc_bitmap_intersects(o->cpuset, allowed))
            continue;
        if ((int)n == nth)
            hwloc_bitmap_and(set, o->cpuset, allowed);
        n++;
    }
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
    t->cores = topology_cores(topo, hwloc_topology_get_topology_cpuset(topo), -1, NULL);
    t->allowed_cores = topology_cores(topo, allowed, -1, NULL);
    t->allowed_pus = (unsigned)hwloc_bitmap_weight(allowed);
    t->l2_bytes = cache_bytes(topo, HWLOC_OBJ_L2CACHE);
    t->l3_bytes = cache_bytes(topo, HWLOC_OBJ_L3CACHE);
    topology_unload(topo, allowed);
    return 0;
}

int topology_bind(unsigned nth)
{
    hwloc_topology_t topo;
    hwloc_bitmap_t allowed, set;
    int rc = topology_load(&topo, &allowed);

    if (rc)
        return rc;
    set = hwloc_bitmap_alloc();
    if (!set)
        rc = -ENOMEM;
    else if (topology_cores(topo, allowed, (int)nth, set) <= nth)
        rc = -ENOENT;
    else if (hwloc_set_cpubind(topo, set, HWLOC_CPUBIND_THREAD))
        rc = errno ? -errno : -EIO;
    hwloc_bitmap_free(set);
    topology_unload(topo, allowed);
    return rc;
}
