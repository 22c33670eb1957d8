/* SPDX-License-Identifier: Apache-2.0 */
/* Super-frames are cut to what a wire would carry: lengths, numbers, flags and checksums. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "dataplane/port/segment.h"

#define GSO_UDP_L4 5 /* linux/virtio_net.h has it since 6.2 */

static uint8_t frame[66000], scratch[SEGMENT_HEADERS_MAX + 65536];

static unsigned get16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

static unsigned fold(const uint8_t *p, uint32_t len, unsigned s)
{
    for (uint32_t i = 0; i < len; i++)
        s += i % 2 ? p[i] : (unsigned)p[i] << 8;
    while (s >> 16)
        s = (s & 0xffff) + (s >> 16);
    return s;
}

struct kind {
    bool v6, tcp, tagged;
};

/* Ethernet, IP, TCP (with 12 bytes of options) or UDP around `bytes` of payload. */
static uint32_t build(struct kind k, uint32_t bytes, struct virtio_net_hdr *h, uint16_t gso_size)
{
    uint32_t ip = k.tagged ? 18 : 14, transport = ip + (k.v6 ? 40 : 20),
             end = transport + (k.tcp ? 32 : 8);
    const uint32_t len = end + bytes;
    memset(frame, 0, sizeof frame);
    memcpy(frame, "\1\2\3\4\5\6\1\2\3\4\5\7", 12);
    memcpy(frame + ip - 2, k.v6 ? "\x86\xdd" : "\x08\0", 2);
    if (k.tagged)
        memcpy(frame + 12, "\x81\0\0\x2a", 4);
    uint8_t *p = frame + ip;
    if (k.v6) {
        p[0] = 0x60;
        p[6] = k.tcp ? 6 : 17;
        memset(p + 8, 0x11, 32);
    } else {
        p[0] = 0x45;
        p[4] = 0xff, p[5] = 0xff; /* the id wraps */
        p[9] = k.tcp ? 6 : 17;
        memcpy(p + 12, "\xa\7\0\1\xa\7\0\2", 8);
    }
    p = frame + transport;
    if (k.tcp) {
        memcpy(p + 4, "\xff\xff\xff\0", 4); /* the sequence number wraps */
        p[12] = 0x80;
        p[13] = 0x01 | 0x08 | 0x10 | 0x80; /* FIN, PSH, ACK, CWR */
    }
    for (uint32_t i = 0; i < bytes; i++)
        frame[end + i] = (uint8_t)(i * 31 + i / 256);
    *h = (struct virtio_net_hdr){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                 .gso_type = !k.tcp ? GSO_UDP_L4
                                             : k.v6 ? VIRTIO_NET_HDR_GSO_TCPV6
                                                    : VIRTIO_NET_HDR_GSO_TCPV4,
                                 .gso_size = gso_size,
                                 .csum_start = (uint16_t)transport,
                                 .csum_offset = k.tcp ? 16 : 6};
    return len;
}

struct check {
    struct kind kind;
    uint32_t bytes, gso_size, seen;
    unsigned n;
};

static void check_segment(void *arg, const uint8_t *f, uint32_t len)
{
    struct check *c = arg;
    const uint32_t ip = c->kind.tagged ? 18 : 14, transport = ip + (c->kind.v6 ? 40 : 20),
                   end = transport + (c->kind.tcp ? 32 : 8);
    const uint32_t expected = c->bytes - c->seen < c->gso_size ? c->bytes - c->seen : c->gso_size;
    assert_int_equal(len, end + expected);
    for (uint32_t i = 0; i < expected; i++)
        assert_int_equal(f[end + i], (uint8_t)((c->seen + i) * 31 + (c->seen + i) / 256));
    const uint8_t *t = f + transport;
    unsigned pseudo = len - transport + (c->kind.tcp ? 6 : 17);
    if (c->kind.v6) {
        assert_int_equal(get16(f + ip + 4), len - transport);
        pseudo = fold(f + ip + 8, 32, pseudo);
    } else {
        assert_int_equal(get16(f + ip + 2), len - ip);
        assert_int_equal(get16(f + ip + 4), (0xffff + c->n) & 0xffff);
        assert_int_equal(fold(f + ip, 20, 0), 0xffff);
        pseudo = fold(f + ip + 12, 8, pseudo);
    }
    assert_int_equal(fold(t, len - transport, pseudo), 0xffff);
    c->seen += expected;
    if (c->kind.tcp) {
        const bool last = c->seen == c->bytes;
        const uint32_t number = (uint32_t)get16(t + 4) << 16 | get16(t + 6);
        assert_int_equal(number, 0xffffff00u + (c->seen - expected));
        assert_int_equal(t[13], 0x10 | (last ? 0x09 : 0) | (c->n == 0 ? 0x80 : 0));
    } else {
        assert_int_equal(get16(t + 4), len - transport);
    }
    c->n++;
}

static void super_frames_are_cut(void **state)
{
    for (int kind = 0; kind < 8; kind++) {
        const struct kind k = {kind & 1, kind & 2, kind & 4};
        static const uint32_t sizes[][2] = {
            {1448, 1448}, {1449, 1448}, {64000, 1448}, {7, 1}, {65000, 9000}};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            struct virtio_net_hdr h;
            const uint32_t len = build(k, sizes[i][0], &h, (uint16_t)sizes[i][1]);
            struct check c = {.kind = k, .bytes = sizes[i][0], .gso_size = sizes[i][1]};
            if (i % 2)
                h.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
            const int n = segment_frame(&h, frame, len, scratch, check_segment, &c);
            assert_int_equal(n, (sizes[i][0] + sizes[i][1] - 1) / sizes[i][1]);
            assert_int_equal(c.n, n);
            assert_int_equal(c.seen, c.bytes);
        }
    }
}

static void count_frames(void *arg, const uint8_t *f, uint32_t len)
{
    (void)f;
    *(uint32_t *)arg += len;
}

static void checksums_are_completed(void **state)
{
    for (int odd = 0; odd < 2; odd++) {
        struct virtio_net_hdr h;
        const uint32_t len = build((struct kind){.tcp = true}, 100 + (uint32_t)odd, &h, 0);
        uint32_t seen = 0;
        h.gso_type = VIRTIO_NET_HDR_GSO_NONE;
        const unsigned pseudo = fold(frame + 26, 8, len - 34 + 6); /* as a kernel begins it */
        frame[50] = (uint8_t)(pseudo >> 8), frame[51] = (uint8_t)pseudo;
        assert_int_equal(segment_frame(&h, frame, len, scratch, count_frames, &seen), 1);
        assert_int_equal(seen, len);
        assert_int_equal(fold(frame + 34, len - 34, pseudo), 0xffff);
        h.flags = 0; /* complete already: not touched */
        const uint8_t before = frame[50]++;
        assert_int_equal(segment_frame(&h, frame, len, scratch, count_frames, &seen), 1);
        assert_int_equal(frame[50], (uint8_t)(before + 1));
    }
}

static void contradictions_are_refused(void **state)
{
    struct virtio_net_hdr good, h;
    uint32_t seen = 0;
    const uint32_t len = build((struct kind){.tcp = true}, 3000, &good, 1000);
#define REFUSED(rc, change)                                                                        \
    do {                                                                                           \
        h = good;                                                                                  \
        build((struct kind){.tcp = true}, 3000, &(struct virtio_net_hdr){0}, 1000);                \
        change;                                                                                    \
        assert_int_equal(segment_frame(&h, frame, len, scratch, count_frames, &seen), rc);         \
        assert_int_equal(seen, 0);                                                                 \
    } while (0)
    REFUSED(-EINVAL, h.gso_size = 0);
    REFUSED(-EINVAL, h.flags = 0);
    REFUSED(-EINVAL, frame[34 + 12] = 0x40); /* a TCP header of 16 bytes */
    REFUSED(-ENOTSUP, h.csum_start = 60);
    REFUSED(-ENOTSUP, h.gso_type = VIRTIO_NET_HDR_GSO_UDP); /* fragments of IP */
    REFUSED(-ENOTSUP, frame[14 + 9] = 47);                  /* GRE */
    REFUSED(-ENOTSUP, frame[13] = 6);                       /* ARP */
    REFUSED(-EINVAL, h.gso_type = 0; h.csum_start = 65535);
    REFUSED(-EINVAL, h.gso_type = 0; h.csum_offset = (uint16_t)(len - 34 - 1));
    h = good;
    for (uint32_t cut = 0; cut < 66; cut++) /* a header that is not all there */
        assert_true(segment_frame(&h, frame, cut, scratch, count_frames, &seen) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(super_frames_are_cut),
        cmocka_unit_test(checksums_are_completed),
        cmocka_unit_test(contradictions_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
