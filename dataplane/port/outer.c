/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/outer.h"

#include <string.h>

#define IP_BYTES         20u
#define UDP_BYTES        8u
#define IP_AT            OUTER_ETHERNET_BYTES
#define UDP_AT           (IP_AT + IP_BYTES)
#define ETHERTYPE        0x0800u
#define IP_VERSION       0x45u /* IPv4, five words: no options */
#define IP_DONT_FRAGMENT 0x4000u
#define IP_TTL           64u
#define IP_PROTOCOL      17u

static void put16(uint8_t *p, uint32_t x)
{
    p[0] = (uint8_t)(x >> 8);
    p[1] = (uint8_t)x;
}

static void put32(uint8_t *p, uint32_t x)
{
    put16(p, x >> 16);
    put16(p + 2, x);
}

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

/* Sum of the header's 16-bit words in ones' complement: 0xffff when its checksum is right. */
static uint16_t ip_sum(const uint8_t *ip)
{
    uint32_t sum = 0;

    for (unsigned i = 0; i < IP_BYTES; i += 2)
        sum += get16(ip + i);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

void outer_write(uint8_t *frame, const struct wire_path *path, uint16_t udp_bytes)
{
    uint8_t *ip = frame + IP_AT, *udp = frame + UDP_AT;

    memcpy(frame, path->dst_mac, 6);
    memcpy(frame + 6, path->src_mac, 6);
    put16(frame + 12, ETHERTYPE);

    ip[0] = IP_VERSION;
    ip[1] = 0;
    put16(ip + 2, IP_BYTES + udp_bytes);
    put16(ip + 4, 0); /* identification: never fragmented (RFC 6864) */
    put16(ip + 6, IP_DONT_FRAGMENT);
    ip[8] = IP_TTL;
    ip[9] = IP_PROTOCOL;
    put16(ip + 10, 0);
    put32(ip + 12, path->src_ip);
    put32(ip + 16, path->dst_ip);
    put16(ip + 10, (uint16_t)~ip_sum(ip));

    put16(udp, path->src_port);
    put16(udp + 2, path->dst_port);
    put16(udp + 4, udp_bytes);
    put16(udp + 6, 0); /* no UDP checksum: the tag covers more */
}

void outer_readdress(uint8_t *frame, const struct wire_path *path)
{
    outer_write(frame, path, get16(frame + UDP_AT + 4));
}

bool outer_check(const uint8_t *frame, size_t len, size_t *udp_bytes)
{
    const uint8_t *ip = frame + IP_AT;
    size_t ip_bytes;

    if (len < OUTER_BYTES)
        return false;
    if (get16(frame + 12) != ETHERTYPE || ip[0] != IP_VERSION || ip[9] != IP_PROTOCOL)
        return false;
    if (get16(ip + 6) & 0x3fffu) /* more fragments, or not the first */
        return false;
    ip_bytes = get16(ip + 2);
    *udp_bytes = get16(frame + UDP_AT + 4);
    return *udp_bytes >= UDP_BYTES && ip_bytes <= len - OUTER_ETHERNET_BYTES &&
           ip_bytes == IP_BYTES + *udp_bytes && ip_sum(ip) == 0xffff;
}

void outer_way_back(const uint8_t *frame, struct wire_path *path)
{
    memcpy(path->src_mac, frame, 6);
    memcpy(path->dst_mac, frame + 6, 6);
    path->src_ip = get32(frame + IP_AT + 16);
    path->dst_ip = get32(frame + IP_AT + 12);
    path->src_port = get16(frame + UDP_AT + 2);
    path->dst_port = get16(frame + UDP_AT);
}

bool outer_same_path(const struct wire_path *a, const struct wire_path *b)
{
    return outer_same_hosts(a, b) && a->src_port == b->src_port && a->dst_port == b->dst_port;
}

bool outer_same_hosts(const struct wire_path *a, const struct wire_path *b)
{
    return memcmp(a->src_mac, b->src_mac, 6) == 0 && memcmp(a->dst_mac, b->dst_mac, 6) == 0 &&
           a->src_ip == b->src_ip && a->dst_ip == b->dst_ip;
}
