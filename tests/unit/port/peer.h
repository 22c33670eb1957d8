/* SPDX-License-Identifier: Apache-2.0 */
/* The other process of a memif test: this same executable, started with a role to play. */
#ifndef ISTHMUS_TESTS_PORT_PEER_H
#define ISTHMUS_TESTS_PORT_PEER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "dataplane/port.h"

/* Start it. `play`: "echo" (send back what comes until the other side leaves), "nap" (echo, with
 * random sleeps before it waits), "flood" (send and receive without end), "idle" (only be there).
 */
pid_t peer_start(const char *play, enum port_role role, const char *uri);
/* kill -9 and reap. */
void peer_kill(pid_t pid);
/* Reap; its exit status, or -signal. It is killed after 10 s. */
int peer_end(pid_t pid);

/* main() of the peer: call first; returns if argv is not a peer's. */
void peer_main(int argc, char **argv);

/* port_alive(p) == want within ms milliseconds (receiving nothing). */
bool peer_await(struct port *p, int want, unsigned ms);

uint64_t random_u64(uint64_t *state);

#endif
