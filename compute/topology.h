/* SPDX-License-Identifier: Apache-2.0 */
/* hwloc for the team's own files; everyone else reads struct topology in team.h. */
#ifndef ISTHMUS_COMPUTE_TOPOLOGY_H
#define ISTHMUS_COMPUTE_TOPOLOGY_H

#include <hwloc.h>

#include "compute/team.h"

/* Load the machine's cores and caches, and the set of PUs that both the cgroup and the calling
 * thread's affinity allow. 0 or -errno; topology_unload frees both. */
int topology_load(hwloc_topology_t *topo, hwloc_bitmap_t *allowed);
void topology_unload(hwloc_topology_t topo, hwloc_bitmap_t allowed);

/* How many cores have an allowed PU. The nth one's allowed PUs go to `set` (nth < 0: none). */
unsigned topology_cores(hwloc_topology_t topo, hwloc_const_bitmap_t allowed, int nth,
                        hwloc_bitmap_t set);

#endif
