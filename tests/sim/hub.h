/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One port for many networks: what a cloud listens at when each edge comes over a network of its own.
 * Sides 0 are the edges', with an address each; what the port sends goes by its destination.
 */
#ifndef ISTHMUS_TESTS_SIM_HUB_H
#define ISTHMUS_TESTS_SIM_HUB_H

#include "tests/sim/network.h"

#define HUB_NETWORKS 64u

struct hub;

struct hub *hub_open(uint32_t pool_packets, uint32_t mtu_bytes);
void hub_close(struct hub *h); /* aborts when packets are still out */
/* The network's side 0 gets an address of its own; it stays the caller's. */
void hub_add(struct hub *h, struct network *n);
struct port *hub_port(struct hub *h);

#endif
