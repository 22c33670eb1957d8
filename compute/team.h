/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Thread team: pinned compute threads (hwloc for where, OpenMP for running). The caller's thread is
 * part 0, the leader. One fork per step: inside a step the members meet at team_barrier().
 *
 * What is allowed is read from the calling thread's affinity, which children and later threads
 * inherit: start child processes, and read the topology for a report, before team_open; open the
 * team before anything else pins the thread (EAL does).
 *
 * libgomp's own waiting, at the fork and join of a step, spins for milliseconds unless told
 * otherwise, and two processes that share cores then starve each other. It reads GOMP_SPINCOUNT
 * when it is loaded, so whoever starts the process must have set it (1000 is right; with
 * OMP_WAIT_POLICY=passive every step costs a wake-up, .03 ms).
 */
#ifndef ISTHMUS_COMPUTE_TEAM_H
#define ISTHMUS_COMPUTE_TEAM_H

#include <stddef.h>

struct team;

/* n_threads: 0 = one per allowed physical core. first_core: index of the first core to use among
 * the allowed ones, so that two processes on one host can take different cores (it wraps round:
 * the second process of a one-core host gets that core too); -1: do not pin.
 * Clamps to the cores allowed (cgroup, affinity) and says so through *n_used.
 * 0, -EINVAL, -ENOMEM, or -errno of reading the topology. The calling thread is pinned too, until
 * team_close. */
int team_open(unsigned n_threads, int first_core, struct team **out, unsigned *n_used);
void team_close(struct team *t);
unsigned team_size(const struct team *t);

/* Run fn(arg, part, parts) on every member at once; returns when all are done. */
typedef void (*team_fn)(void *arg, unsigned part, unsigned parts);
void team_run(struct team *t, team_fn fn, void *arg);

/* All members of the running step meet here. Spins briefly, then sleeps (futex), so that an
 * over-subscribed host is not burnt. Must be reached by all or none. */
void team_barrier(struct team *t);

/* Split [0, n) in units of `grain` fairly: this part's [*from, *to). */
void team_share(size_t n, size_t grain, unsigned part, unsigned parts, size_t *from, size_t *to);

/* --- topology ---------------------------------------------------------------------------------- */

struct topology {
    unsigned sockets, numa_nodes, cores, pus; /* of the machine */
    unsigned allowed_cores, allowed_pus;      /* what this process may use */
    size_t l2_bytes, l3_bytes;                /* per instance; 0 unknown */
};

/* 0 or -errno. */
int topology_read(struct topology *t);

/* Bind this thread, and those that it starts from then on, to the nth (from 0) of the cores it may use.
 * 0, -ENOENT (it has fewer), or -errno. */
int topology_bind(unsigned nth);

#endif
