/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Thread team: pinned compute threads, placed by hwloc (compute/placement.h). The caller's thread
 * is part 0, the leader. One fork per step: inside a step the members meet at team_barrier().
 *
 * What is allowed is read from the calling thread's affinity, which children and later threads
 * inherit: start child processes, and read the topology for a report, before team_open; open the
 * team before anything else pins the thread (EAL does).
 */
#ifndef ISTHMUS_COMPUTE_TEAM_H
#define ISTHMUS_COMPUTE_TEAM_H

#include <stddef.h>

struct team;

#define TEAM_ERR  320
#define TEAM_TEXT 160

struct team_params {
    unsigned n_threads; /* 0: one for each allowed core, or for each of cpus */
    int first_core; /* how many cores, in the order in which teams take them, are left to others, so
                     * that two processes on one host can have different ones (it wraps round: the
                     * second process of a one-core host gets that core too); -1: do not pin */
    const char *cpus;   /* "0-3,8": only these PUs, a thread on each; NULL: all that are allowed, a
                         * thread on a core, whatever its siblings */
    int numa_node;      /* only cores of this node; -1: any */
    int near_numa_node; /* rather cores of this node, the network card's; -1: any */
};

/* Clamps to the cores there are to use (cgroup, affinity, cpus, numa_node): see team_size. The
 * calling thread is pinned too, until team_close. Where it is pinned, its memory should be:
 * team_nodes. 0, -EINVAL or another -errno, with what is wrong in err. */
int team_open_placed(const struct team_params *p, struct team **out, char err[TEAM_ERR]);

/* The same with none of cpus, numa_node, near_numa_node. How many threads it has goes to *n_used.
 */
int team_open(unsigned n_threads, int first_core, struct team **out, unsigned *n_used);
void team_close(struct team *t);
unsigned team_size(const struct team *t);

/* "0-3": the CPUs that the team is pinned to; "" when it is not. */
const char *team_cpus(const struct team *t);

/* The NUMA nodes beside them, bit i node i: 0 when it is not pinned, or the machine has only one.
 */
#define TEAM_NODES_MAX 1024u
struct team_nodes {
    unsigned long bits[TEAM_NODES_MAX / (8 * sizeof(unsigned long))];
    unsigned n;
};
const struct team_nodes *team_nodes(const struct team *t);

/* Run fn(arg, part, parts) on every member at once; returns when all are done. */
typedef void (*team_fn)(void *arg, unsigned part, unsigned parts);
void team_run(struct team *t, team_fn fn, void *arg);

/* All members of the running step meet here. Spins briefly, then sleeps (futex), so that an
 * over-subscribed host is not burnt. Must be reached by all or none. */
void team_barrier(struct team *t);

/* Split [0, n) in units of `grain` fairly: this part's [*from, *to). */
void team_share(size_t n, size_t grain, unsigned part, unsigned parts, size_t *from, size_t *to);

/* --- topology ----------------------------------------------------------------------------------
 */

struct topology {
    unsigned sockets, numa_nodes, cores, pus; /* of the machine */
    unsigned allowed_cores, allowed_pus;      /* what this process may use */
    size_t l2_bytes, l3_bytes;                /* per instance; 0 unknown */
};

/* 0 or -errno. */
int topology_read(struct topology *t);

/* What team_open_placed would do, for a report: CPUs as team_cpus, nodes as "0", "" where
 * the machine has but one. 0, or -errno with err. */
struct team_plan {
    unsigned threads, available;
    char cpus[TEAM_TEXT], nodes[TEAM_TEXT];
};
int team_plan(const struct team_params *p, struct team_plan *plan, char err[TEAM_ERR]);

/* Bind this thread, and those that it starts from then on, to the nth (from 0) of the cores it may
 * use, in the order in which teams take them. 0, -ENOENT (it has fewer), or -errno. */
int topology_bind(unsigned nth);

#endif
