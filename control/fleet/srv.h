/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers of a name server, as bytes: SRV records and the addresses of their targets. What is wrong
 * in one is left out with it; nothing is believed of lengths.
 */
#ifndef ISTHMUS_CONTROL_FLEET_SRV_H
#define ISTHMUS_CONTROL_FLEET_SRV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/fleet/workers.h"

#define SRV_ADDRESS 48u /* an IPv6 address as text */

struct srv_target {
    char name[WORKER_PORT]; /* without the last dot */
    uint16_t port;
    char address[SRV_ADDRESS]; /* "": the answer doesn't say */
};

struct srv_answer {
    uint32_t ttl_s; /* the least of the records; 0: none */
    size_t n;
    struct srv_target *targets; /* in the order of names and ports, each once */
};

/* 0, -EINVAL (no answer to anything), -ENOMEM. A target "." is none. */
int srv_parse(const uint8_t *answer, size_t len, struct srv_answer *out);
void srv_free(struct srv_answer *a);
/* The first address of an A or AAAA answer; false: it has none. */
bool srv_parse_address(const uint8_t *answer, size_t len, char address[SRV_ADDRESS],
                       uint32_t *ttl_s);

/* Workers named by the first labels of their targets, with ":PORT" where several have the same.
 * Targets without an address are left out. 0 or -ENOMEM. */
int srv_workers(const struct srv_answer *a, struct workers *out);

#endif
