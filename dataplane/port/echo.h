/* SPDX-License-Identifier: Apache-2.0 */
/* Answers to pings, as a pure function. */
#ifndef ISTHMUS_DATAPLANE_PORT_ECHO_H
#define ISTHMUS_DATAPLANE_PORT_ECHO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* If the frame is a whole ICMP echo request (RFC 792) to `ip` (host order), without IP options or
 * fragments, it becomes its reply, from `mac`. Else it stays as it is, and false. */
bool echo_reply(uint8_t *frame, size_t len, uint32_t ip, const uint8_t mac[6]);

#endif
