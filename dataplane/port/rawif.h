/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network interface by AF_PACKET sockets: all that arrives at it, and frames sent out of it as
 * they are. Frames are whole: super-frames are cut and checksums completed (segment.h), VLAN tags
 * that the kernel took off are put back. The interface is set to promiscuous mode while it is open.
 * Needs CAP_NET_RAW.
 */
#ifndef ISTHMUS_DATAPLANE_PORT_RAWIF_H
#define ISTHMUS_DATAPLANE_PORT_RAWIF_H

#include <stdint.h>

#include "dataplane/port/segment.h"

#define RAWIF_ERR 256

struct rawif;

struct rawif_stats {
    uint64_t super_frames; /* received and cut */
    uint64_t
        unreadable; /* super-frames that the kernel or we could not cut, frames over 64 kB: lost */
    uint64_t kernel_dropped; /* received while we did not keep up: lost */
    uint64_t send_failed;    /* longer than the interface takes, or it is down: lost */
};

/* err: RAWIF_ERR bytes. 0, -ENODEV, -EPERM, -ENOMEM, or what a socket gave. */
int rawif_open(const char *name, struct rawif **out, char *err);
void rawif_close(struct rawif *r);

/* Readable when frames are there; the one for sending, writable when they can be sent. */
int rawif_receive_fd(const struct rawif *r);
int rawif_send_fd(const struct rawif *r);

/* Some of what arrived, each frame given to `each`, valid for that call. Never blocks. The number
 * of frames read (0: none is there), or -ENODEV: the interface is gone. A down interface is only
 * silent. */
int rawif_receive(struct rawif *r, segment_fn *each, void *arg);

/* 0: sent, or lost and counted; -EAGAIN: the kernel takes no more just now. */
int rawif_send(struct rawif *r, const uint8_t *frame, uint32_t len);

void rawif_stats(struct rawif *r, struct rawif_stats *s);

#endif
