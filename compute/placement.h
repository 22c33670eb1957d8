/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which cores a team gets. Pure functions of an hwloc topology, so that machines we do not have are
 * tested by their descriptions.
 *
 * A place is where one thread may run: a core's allowed PUs, so that no two threads share a core;
 * or one PU where the operator named PUs, who then gets a thread for each. Places come in order:
 * first PUs of cores before their siblings; the node nearest to the network card before its
 * package's other nodes, and those before all others; in a node fast cores before slow ones. A team
 * takes the first that are all in one NUMA node, else in one package, else just the first.
 */
#ifndef ISTHMUS_COMPUTE_PLACEMENT_H
#define ISTHMUS_COMPUTE_PLACEMENT_H

#include <hwloc.h>

#include "compute/team.h"

struct placement {
    unsigned available;   /* places there are */
    unsigned n;           /* places taken: at most so many */
    hwloc_bitmap_t *pus;  /* [n]: the PUs each thread may run on */
    hwloc_bitmap_t nodes; /* the NUMA nodes beside them; memory may be taken there */
};

/* n_threads and first_core (< 0: 0) as team_open has them. 0, -ENOMEM, or -EINVAL with what is
 * wrong with cpus or numa in err. Free with placement_free, also after an error. */
int placement_choose(hwloc_topology_t topo, hwloc_const_bitmap_t allowed,
                     const struct team_params *p, struct placement *out, char err[TEAM_ERR]);
void placement_free(struct placement *pl);

#endif
