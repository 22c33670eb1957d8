/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network between two sides under a virtual clock: drops, duplicates, delays (and so reorders),
 * damages and replays frames, all by one seed. Each side is also a port.
 */
#ifndef ISTHMUS_TESTS_SIM_NETWORK_H
#define ISTHMUS_TESTS_SIM_NETWORK_H

#include <stdint.h>

#include "dataplane/port.h"

/* splitmix64: small, seeded, good enough to choose fates. */
struct dice {
    uint64_t state;
};
uint64_t dice_next(struct dice *d);
uint64_t dice_below(struct dice *d, uint64_t n);              /* [0, n) */
uint64_t dice_between(struct dice *d, uint64_t a, uint64_t b); /* [a, b] */
bool dice_chance(struct dice *d, double p);

struct network_params {
    double drop, duplicate;
    double flip;      /* a copy with one bit changed comes too */
    double replay;    /* some earlier frame comes again */
    double noise;     /* a frame of random bytes comes too */
    double rebind;    /* a NAT before side 0 takes another port; what goes to the old one is lost */
    double steal;     /* a copy of side 0's frame comes from another host, sooner than it */
    double refuse;    /* the port takes no more in this call */
    uint32_t mtu_bytes;      /* of the path: longer packets are lost; 0: the ports' */
    uint32_t mtu_sure_bytes; /* the ports say that it is at least this; 0: nothing. Of network_open */
    uint64_t delay_min_ns, delay_max_ns;
};

struct network;

/* Frames of any kind but challenges and answers that side 1 sent where side 0 never was. */
uint64_t network_misled(const struct network *n);

struct network *network_open(uint64_t seed, const struct network_params *p, uint32_t pool_packets,
                             uint32_t mtu_bytes);
void network_close(struct network *n); /* closes the ports too; aborts when packets are still out */
void network_set_params(struct network *n, const struct network_params *p);
void network_set_now(struct network *n, uint64_t now_ns);
uint64_t network_now(const struct network *n);
/* When the next frame arrives at a side: UINT64_MAX when none is under way. */
uint64_t network_next(const struct network *n, int side);
/* Frames a side may have waiting are thrown away, as when a host was down. */
void network_clear(struct network *n);
/* What has arrived at a side that nobody polls is thrown away. */
void network_drain(struct network *n, int side);
/* What was under way stays; a side's port says once that its peer is gone. */
void network_lose_peer(struct network *n, int side);
struct port *network_port(struct network *n, int side);

#endif
