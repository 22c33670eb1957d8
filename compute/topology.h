/* SPDX-License-Identifier: Apache-2.0 */
/* hwloc for the team's own files; everyone else reads struct topology in team.h. */
#ifndef ISTHMUS_COMPUTE_TOPOLOGY_H
#define ISTHMUS_COMPUTE_TOPOLOGY_H

#include <hwloc.h>

#include "compute/team.h"

/* Before a topology is loaded: only what is counted or bound to. A whole one, with devices, costs
 * time and memory. */
void topology_keep(hwloc_topology_t topo);

/* Load the machine's nodes, cores and caches, and the set of PUs that both the cgroup and the
 * calling thread's affinity allow. 0 or -errno; topology_unload frees both. */
int topology_load(hwloc_topology_t *topo, hwloc_bitmap_t *allowed);
void topology_unload(hwloc_topology_t topo, hwloc_bitmap_t allowed);

#endif
