/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/arp.h"

#include <string.h>

#include <rte_arp.h>
#include <rte_byteorder.h>
#include <rte_ether.h>

#define SECOND      1000000000ull
#define FIRST_NS    (SECOND / 5) /* until the second question */
#define AGAIN_NS    SECOND /* between further ones: RFC 1122 wants no more than one a second */
#define STALE_NS    (30 * SECOND) /* heard longer ago: ask whether it is still so */
#define UNUSED_NS   (60 * SECOND) /* not looked up for so long: not asked about any more */
#define TRIES       3u            /* unanswered questions until a neighbour is no longer known */
#define FRAME_LEAST (sizeof(struct rte_ether_hdr) + sizeof(struct rte_arp_hdr))

struct frame {
    struct rte_ether_hdr ether;
    struct rte_arp_hdr arp;
} __attribute__((packed, aligned(2)));

void arp_init(struct arp *a, const uint8_t mac[6], uint32_t ip, uint32_t netmask)
{
    *a = (struct arp){.ip = ip, .netmask = netmask};
    memcpy(a->mac, mac, 6);
}

static struct arp_neighbour *find(struct arp *a, uint32_t ip)
{
    for (unsigned i = 0; i < ARP_NEIGHBOURS; i++)
        if (a->neighbours[i].state != ARP_FREE && a->neighbours[i].ip == ip)
            return &a->neighbours[i];
    return NULL;
}

/* A place for a new one: a free one, or that of the one longest unused. */
static struct arp_neighbour *make(struct arp *a, uint32_t ip)
{
    struct arp_neighbour *n = &a->neighbours[0];
    for (unsigned i = 0; i < ARP_NEIGHBOURS && n->state != ARP_FREE; i++) {
        struct arp_neighbour *other = &a->neighbours[i];
        if (other->state == ARP_FREE || other->used_ns < n->used_ns)
            n = other;
    }
    *n = (struct arp_neighbour){.ip = ip, .state = ARP_ASKED};
    return n;
}

static bool on_link(const struct arp *a, uint32_t ip)
{
    return ((ip ^ a->ip) & a->netmask) == 0;
}

static size_t write_frame(const struct arp *a, uint16_t opcode, const uint8_t to[6], uint32_t to_ip,
                          uint8_t *out)
{
    struct frame f = {
        .ether = {.ether_type = rte_cpu_to_be_16(RTE_ETHER_TYPE_ARP)},
        .arp = {.arp_hardware = rte_cpu_to_be_16(RTE_ARP_HRD_ETHER),
                .arp_protocol = rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV4),
                .arp_hlen = RTE_ETHER_ADDR_LEN,
                .arp_plen = sizeof(uint32_t),
                .arp_opcode = rte_cpu_to_be_16(opcode)},
    };
    bool ask = opcode == RTE_ARP_OP_REQUEST;
    memcpy(f.ether.src_addr.addr_bytes, a->mac, 6);
    memcpy(f.arp.arp_data.arp_sha.addr_bytes, a->mac, 6);
    f.arp.arp_data.arp_sip = rte_cpu_to_be_32(a->ip);
    f.arp.arp_data.arp_tip = rte_cpu_to_be_32(to_ip);
    if (ask) {
        memset(f.ether.dst_addr.addr_bytes, 0xff, 6);
    } else {
        memcpy(f.ether.dst_addr.addr_bytes, to, 6);
        memcpy(f.arp.arp_data.arp_tha.addr_bytes, to, 6);
    }
    memset(out, 0, ARP_FRAME_BYTES);
    memcpy(out, &f, sizeof(f));
    return ARP_FRAME_BYTES;
}

/* ARP for IPv4 over Ethernet, said by a single host. */
static bool is_sound(const struct frame *f)
{
    uint16_t op = rte_be_to_cpu_16(f->arp.arp_opcode);
    return rte_be_to_cpu_16(f->ether.ether_type) == RTE_ETHER_TYPE_ARP &&
           rte_be_to_cpu_16(f->arp.arp_hardware) == RTE_ARP_HRD_ETHER &&
           rte_be_to_cpu_16(f->arp.arp_protocol) == RTE_ETHER_TYPE_IPV4 &&
           f->arp.arp_hlen == RTE_ETHER_ADDR_LEN && f->arp.arp_plen == sizeof(uint32_t) &&
           (op == RTE_ARP_OP_REQUEST || op == RTE_ARP_OP_REPLY) &&
           rte_is_valid_assigned_ether_addr(&f->arp.arp_data.arp_sha);
}

size_t arp_input(struct arp *a, const uint8_t *bytes, size_t len, uint64_t now, uint8_t *reply)
{
    struct frame f;
    if (len < FRAME_LEAST)
        return 0;
    memcpy(&f, bytes, sizeof(f));
    if (!is_sound(&f))
        return 0;
    const uint8_t *mac = f.arp.arp_data.arp_sha.addr_bytes;
    uint32_t from = rte_be_to_cpu_32(f.arp.arp_data.arp_sip);
    bool asks_us = rte_be_to_cpu_32(f.arp.arp_data.arp_tip) == a->ip &&
                   rte_be_to_cpu_16(f.arp.arp_opcode) == RTE_ARP_OP_REQUEST;
    if (memcmp(mac, a->mac, 6) == 0)
        return 0; /* our own, come back */
    if (from == a->ip)
        a->conflicts++;
    else if (from != 0 && on_link(a, from)) { /* 0: it looks whether the address is taken */
        struct arp_neighbour *n = find(a, from);
        if (!n && asks_us) {
            n = make(a, from);
            n->used_ns = now;
        }
        if (n) {
            memcpy(n->mac, mac, 6);
            n->state = ARP_KNOWN;
            n->tries = 0;
            n->heard_ns = now;
        }
    } else if (from != 0) {
        return 0;
    }
    return asks_us ? write_frame(a, RTE_ARP_OP_REPLY, mac, from, reply) : 0;
}

bool arp_find(struct arp *a, uint32_t ip, uint64_t now, uint8_t mac[6])
{
    struct arp_neighbour *n = find(a, ip);
    if (!n)
        n = make(a, ip);
    n->used_ns = now;
    if (n->state != ARP_KNOWN)
        return false;
    memcpy(mac, n->mac, 6);
    return true;
}

/* When to ask for it next. */
static uint64_t due(const struct arp_neighbour *n)
{
    if (n->state == ARP_FREE)
        return UINT64_MAX;
    if (n->state == ARP_KNOWN && n->tries == 0)
        return n->used_ns > n->heard_ns ? n->heard_ns + STALE_NS : UINT64_MAX;
    if (!n->asked_ns)
        return 0;
    return n->asked_ns + (n->tries == 1 ? FIRST_NS : AGAIN_NS);
}

size_t arp_poll(struct arp *a, uint64_t now, uint8_t *request, uint64_t *deadline)
{
    *deadline = UINT64_MAX;
    for (unsigned i = 0; i < ARP_NEIGHBOURS; i++) {
        struct arp_neighbour *n = &a->neighbours[i];
        if (n->state != ARP_FREE && now > n->used_ns && now - n->used_ns > UNUSED_NS)
            n->state = ARP_FREE;
        uint64_t at = due(n);
        if (at > now) {
            *deadline = at < *deadline ? at : *deadline;
            continue;
        }
        if (n->state == ARP_KNOWN && n->tries >= TRIES)
            n->state = ARP_ASKED;
        if (n->tries < UINT8_MAX)
            n->tries++;
        n->asked_ns = now;
        return write_frame(a, RTE_ARP_OP_REQUEST, NULL, n->ip, request);
    }
    return 0;
}
