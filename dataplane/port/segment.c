/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/segment.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4 /* since Linux 6.2 */
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

#define TCP_FIN 0x01u
#define TCP_PSH 0x08u
#define TCP_CWR 0x80u

static uint32_t get16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | p[1];
}

static void put16(uint8_t *p, uint32_t x)
{
    p[0] = (uint8_t)(x >> 8);
    p[1] = (uint8_t)x;
}

static uint32_t get32(const uint8_t *p)
{
    return get16(p) << 16 | get16(p + 2);
}

static void put32(uint8_t *p, uint32_t x)
{
    put16(p, x >> 16);
    put16(p + 2, x & 0xffff);
}

/* The Internet checksum (RFC 1071), before it is inverted. */
static uint64_t sum(uint64_t start, const uint8_t *p, uint32_t len)
{
    for (; len > 1; p += 2, len -= 2)
        start += get16(p);
    return len ? start + ((uint64_t)p[0] << 8) : start;
}

static uint32_t inverted(uint64_t x)
{
    while (x >> 16)
        x = (x & 0xffff) + (x >> 16);
    return (uint32_t)~x & 0xffff;
}

/* The sender has put the pseudo-header's sum where the checksum goes. */
static int complete(const struct virtio_net_hdr *h, uint8_t *frame, uint32_t len)
{
    const uint32_t at = (uint32_t)h->csum_start + h->csum_offset;
    if (h->csum_start > len || at + 2 > len)
        return -EINVAL;
    const uint32_t x = inverted(sum(0, frame + h->csum_start, len - h->csum_start));
    put16(frame + at, x ? x : 0xffff); /* 0 would say that UDP has none */
    return 0;
}

/* Where the headers of a super-frame are. */
struct headers {
    bool v6, tcp;
    uint32_t ip, transport, end;
};

static int find_headers(const struct virtio_net_hdr *h, const uint8_t *f, uint32_t len,
                        struct headers *at)
{
    const uint8_t type = h->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
    uint32_t ip = ETH_HLEN;
    if (type != VIRTIO_NET_HDR_GSO_TCPV4 && type != VIRTIO_NET_HDR_GSO_TCPV6 &&
        type != VIRTIO_NET_HDR_GSO_UDP_L4)
        return -ENOTSUP;
    if (!(h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || !h->gso_size)
        return -EINVAL;
    while (ip + 4 <= len && ip < ETH_HLEN + 8 &&
           (get16(f + ip - 2) == ETH_P_8021Q || get16(f + ip - 2) == ETH_P_8021AD))
        ip += 4;
    if (ip > len)
        return -EINVAL;
    const uint32_t ether_type = get16(f + ip - 2);
    if (ether_type != ETH_P_IP && ether_type != ETH_P_IPV6)
        return -ENOTSUP;
    if (ip + (ether_type == ETH_P_IP ? 20 : 40) > len)
        return -EINVAL;
    const uint32_t protocol = f[ip + (ether_type == ETH_P_IP ? 9 : 6)];
    *at = (struct headers){.v6 = ether_type == ETH_P_IPV6,
                           .tcp = type != VIRTIO_NET_HDR_GSO_UDP_L4,
                           .ip = ip,
                           .transport = h->csum_start};
    const uint32_t ip_bytes = at->v6 ? 40 : (f[ip] & 15u) * 4;
    if (protocol != (at->tcp ? IPPROTO_TCP : IPPROTO_UDP) || ip_bytes < 20 ||
        at->transport != ip + ip_bytes)
        return -ENOTSUP;
    if (at->transport + (at->tcp ? 20 : 8) > len)
        return -EINVAL;
    const uint32_t transport_bytes = at->tcp ? (f[at->transport + 12] >> 4) * 4u : 8;
    at->end = at->transport + transport_bytes;
    return transport_bytes < (at->tcp ? 20 : 8) || at->end > len || at->end > SEGMENT_HEADERS_MAX
               ? -EINVAL
               : 0;
}

/* Checksums and lengths of one segment whose headers were those of the whole. */
static void mend(const struct headers *at, uint8_t *f, uint32_t len, uint32_t n)
{
    uint8_t *ip = f + at->ip, *transport = f + at->transport;
    const uint32_t transport_bytes = len - at->transport;
    if (at->v6) {
        put16(ip + 4, len - at->ip - 40);
    } else {
        put16(ip + 2, len - at->ip);
        put16(ip + 4, (get16(ip + 4) + n) & 0xffff);
        put16(ip + 10, 0);
        put16(ip + 10, inverted(sum(0, ip, at->transport - at->ip)));
    }
    uint8_t *checksum = transport + (at->tcp ? 16 : 6);
    if (!at->tcp)
        put16(transport + 4, transport_bytes);
    put16(checksum, 0);
    uint64_t s = transport_bytes + (at->tcp ? IPPROTO_TCP : IPPROTO_UDP);
    s = sum(s, at->v6 ? ip + 8 : ip + 12, at->v6 ? 32 : 8);
    const uint32_t x = inverted(sum(s, transport, transport_bytes));
    put16(checksum, x ? x : 0xffff);
}

static int cut(const struct virtio_net_hdr *h, const struct headers *at, const uint8_t *frame,
               uint32_t len, uint8_t *scratch, segment_fn *each, void *arg)
{
    int n = 0;
    for (uint32_t from = at->end; from < len || n == 0; n++) {
        const uint32_t bytes = len - from < h->gso_size ? len - from : h->gso_size;
        const bool last = from + bytes == len;
        uint8_t *tcp = scratch + at->transport;
        memcpy(scratch, frame, at->end);
        memcpy(scratch + at->end, frame + from, bytes);
        if (at->tcp) {
            put32(tcp + 4, get32(tcp + 4) + (from - at->end));
            if (!last)
                tcp[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
            if (n > 0)
                tcp[13] &= (uint8_t)~TCP_CWR;
        }
        mend(at, scratch, at->end + bytes, (uint32_t)n);
        each(arg, scratch, at->end + bytes);
        from += bytes;
    }
    return n;
}

int segment_frame(const struct virtio_net_hdr *h, uint8_t *frame, uint32_t len, uint8_t *scratch,
                  segment_fn *each, void *arg)
{
    int rc = 0;
    if (h->gso_type != VIRTIO_NET_HDR_GSO_NONE) {
        struct headers at;
        rc = find_headers(h, frame, len, &at);
        return rc < 0 ? rc : cut(h, &at, frame, len, scratch, each, arg);
    }
    if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
        rc = complete(h, frame, len);
    if (rc < 0)
        return rc;
    each(arg, frame, len);
    return 1;
}
