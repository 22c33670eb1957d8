/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ARP (RFC 826) as a pure state machine: who asks for our address is answered, whom we want to
 * reach is asked for. It reads no clock and sends nothing: frames go in, frames come out.
 */
#ifndef ISTHMUS_DATAPLANE_PORT_ARP_H
#define ISTHMUS_DATAPLANE_PORT_ARP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARP_NEIGHBOURS  64u
#define ARP_FRAME_BYTES 60u /* Ethernet's least, without its checksum */

enum arp_state { ARP_FREE, ARP_ASKED, ARP_KNOWN };

struct arp_neighbour {
    uint32_t ip; /* host order, as all here */
    uint8_t mac[6];
    uint8_t state;
    uint8_t tries;     /* questions since it was last heard */
    uint64_t asked_ns; /* the last question; 0: none yet */
    uint64_t heard_ns;
    uint64_t used_ns; /* when it was last looked up */
};

struct arp {
    uint8_t mac[6];
    uint32_t ip, netmask;
    struct arp_neighbour neighbours[ARP_NEIGHBOURS];
    uint64_t conflicts; /* frames of another host with our address */
};

void arp_init(struct arp *a, const uint8_t mac[6], uint32_t ip, uint32_t netmask);

/*
 * A frame that came. Bytes to send, in `reply` (ARP_FRAME_BYTES), or 0. Frames that are not sound
 * ARP, of hosts outside our network, or of no concern to us change nothing. A neighbour's entry
 * begins when it asks for us or we for it, and follows whatever it says of itself later.
 */
size_t arp_input(struct arp *a, const uint8_t *frame, size_t len, uint64_t now_ns, uint8_t *reply);

/* Where ip, in our network, is; false: not known (yet): it is being asked for. */
bool arp_find(struct arp *a, uint32_t ip, uint64_t now_ns, uint8_t mac[6]);

/*
 * What is due: bytes to send, in `request` (ARP_FRAME_BYTES), or 0. Call it until it gives 0; then
 * *deadline_ns is when to call again at the latest (UINT64_MAX: never). Neighbours in use are asked
 * again now and then; who does not answer is no longer known.
 */
size_t arp_poll(struct arp *a, uint64_t now_ns, uint8_t *request, uint64_t *deadline_ns);

#endif
