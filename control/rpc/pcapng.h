/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks of a pcapng file (draft-ietf-opsawg-pcapng), little-endian, times in nanoseconds of the
 * wall clock. Each returns the bytes written, 0 when they don't fit.
 */
#ifndef ISTHMUS_CONTROL_RPC_PCAPNG_H
#define ISTHMUS_CONTROL_RPC_PCAPNG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PCAPNG_HEAD_BYTES 256u /* a section's or interface's, at most */

/* First in a file. */
size_t pcapng_section(uint8_t *to, size_t room, const char *program);

/* The first has the id 0, the next 1. snap_bytes: the longest a packet is kept; 0: whole. */
size_t pcapng_interface(uint8_t *to, size_t room, const char *name, uint32_t snap_bytes);

/* The first kept_bytes of an Ethernet frame of frame_bytes. */
size_t pcapng_packet(uint8_t *to, size_t room, uint32_t interface, uint64_t wall_ns, bool sent,
                     const uint8_t *frame, uint32_t kept_bytes, uint32_t frame_bytes);

/* At the end: what came by and was not kept. */
size_t pcapng_statistics(uint8_t *to, size_t room, uint32_t interface, uint64_t wall_ns,
                         uint64_t received, uint64_t dropped);

#endif
