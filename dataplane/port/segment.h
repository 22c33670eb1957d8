/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a kernel leaves to its network card, done in software: checksums that are only begun, and
 * TCP or UDP data of up to 64 kB in one super-frame. Between namespaces nothing does it: frames
 * cross a veth as they are, and an impairment that took a super-frame for a packet would lose forty
 * at once. Interfaces that merge what they receive (GRO) give the same.
 */
#ifndef ISTHMUS_DATAPLANE_PORT_SEGMENT_H
#define ISTHMUS_DATAPLANE_PORT_SEGMENT_H

#include <linux/virtio_net.h>
#include <stdint.h>

#define SEGMENT_HEADERS_MAX 256u

typedef void segment_fn(void *arg, const uint8_t *frame, uint32_t len);

/*
 * A frame as an AF_PACKET socket with PACKET_VNET_HDR gives it -> frames as they would be on a
 * wire, in order, each given to `each`, valid for that call. `frame` is overwritten; scratch: room
 * for SEGMENT_HEADERS_MAX + h->gso_size bytes. The number of frames; -EINVAL: header and frame
 * contradict each other; -ENOTSUP: a super-frame of a kind that we cannot cut (inside a tunnel,
 * IPv6 with extension headers). Then none was given.
 */
int segment_frame(const struct virtio_net_hdr *h, uint8_t *frame, uint32_t len, uint8_t *scratch,
                  segment_fn *each, void *arg);

#endif
