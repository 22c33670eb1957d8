/* SPDX-License-Identifier: Apache-2.0 */
/* The frame: headers written and checked in place. docs/wire.md has the byte table. */
#include "dataplane/wire.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include <xxhash.h>

#include "dataplane/link/bytes.h"

#define UDP_BYTES 8u
#define HEADER_AT WIRE_L2L4_BYTES

const struct wire_path wire_path_edge = {
    .src_mac = {0x02, 'i', 's', 't', 'h', 0x01},
    .dst_mac = {0x02, 'i', 's', 't', 'h', 0x02},
    .src_ip = 0x0a490001, /* 10.73.0.1 */
    .dst_ip = 0x0a490002,
    .src_port = 7300,
    .dst_port = 7300,
};
const struct wire_path wire_path_cloud = {
    .src_mac = {0x02, 'i', 's', 't', 'h', 0x02},
    .dst_mac = {0x02, 'i', 's', 't', 'h', 0x01},
    .src_ip = 0x0a490002,
    .dst_ip = 0x0a490001,
    .src_port = 7300,
    .dst_port = 7300,
};

static void write_header(uint8_t *b, const struct wire_header *h)
{
    b[0] = (uint8_t)(WIRE_VERSION << 4 | (h->type & 15u));
    b[1] = h->flags;
    put_be32(b + 2, h->connection);
    put_be16(b + 6, h->epoch);
    put_be32(b + 8, h->message);
    put_be16(b + 12, h->fragment);
    put_be16(b + 14, h->n_fragments);
    put_be32(b + 16, h->session);
    b[20] = h->hop;
    b[21] = h->cls;
    put_be16(b + 22, h->payload_bytes);
}

static void read_header(const uint8_t *b, struct wire_header *h)
{
    h->version = b[0] >> 4;
    h->type = b[0] & 15u;
    h->flags = b[1];
    h->connection = get_be32(b + 2);
    h->epoch = get_be16(b + 6);
    h->message = get_be32(b + 8);
    h->fragment = get_be16(b + 12);
    h->n_fragments = get_be16(b + 14);
    h->session = get_be32(b + 16);
    h->hop = b[20];
    h->cls = b[21];
    h->payload_bytes = get_be16(b + 22);
}

static void tag_of(const uint8_t *header, size_t bytes, uint8_t tag[WIRE_TAG_BYTES])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(header, bytes));
    memcpy(tag, canonical.digest, WIRE_TAG_BYTES);
}

static struct keys_place place_of(const struct wire_header *h)
{
    return (struct keys_place){
        .type = h->type, .epoch = h->epoch, .message = h->message, .fragment = h->fragment};
}

int wire_seal(struct keys *keys, struct pkt *p, const struct wire_path *path,
              const struct wire_header *h)
{
    size_t covered = WIRE_HEADER_BYTES + (size_t)h->payload_bytes;
    size_t bytes = WIRE_OVERHEAD + (size_t)h->payload_bytes;
    uint8_t *header = p->data + HEADER_AT;

    if (bytes > p->room || bytes - OUTER_ETHERNET_BYTES > UINT16_MAX)
        return -ENOSPC;
    assert((!p->made || (p->made >= p->data + WIRE_PAYLOAD_AT &&
                         p->made < p->data + WIRE_PAYLOAD_AT + h->payload_bytes)) &&
           "sealed where it was written");
    outer_write(p->data, path, (uint16_t)(UDP_BYTES + covered + WIRE_TAG_BYTES));
    write_header(header, h);
    if (keys) {
        struct keys_place at = place_of(h);
        int rc = keys_seal(keys, &at, header, WIRE_HEADER_BYTES, header + WIRE_HEADER_BYTES,
                           h->payload_bytes, header + covered);

        if (rc)
            return rc;
    } else {
        tag_of(header, covered, header + covered);
    }
    p->len = (uint32_t)bytes;
    return 0;
}

static bool header_ok(const struct wire_header *h)
{
    if (h->version != WIRE_VERSION || h->type > WIRE_PIECE || h->cls > WIRE_CONTROL)
        return false;
    if (h->flags & ~(WIRE_FLAG_REPLY | WIRE_FLAG_HELLO | WIRE_FLAG_INITIATOR))
        return false;
    if (h->type != WIRE_DATA && (h->n_fragments != 1 || h->flags & ~WIRE_FLAG_INITIATOR))
        return false;
    return h->fragment < h->n_fragments;
}

int wire_peek(const uint8_t *frame, size_t len, struct wire_header *h)
{
    size_t udp_bytes;

    if (!outer_check(frame, len, &udp_bytes))
        return -EBADMSG;
    if (udp_bytes < UDP_BYTES + WIRE_HEADER_BYTES + WIRE_TAG_BYTES)
        return -EBADMSG;
    read_header(frame + HEADER_AT, h);
    if (!header_ok(h) ||
        h->payload_bytes != udp_bytes - UDP_BYTES - WIRE_TAG_BYTES - WIRE_HEADER_BYTES)
        return -EBADMSG;
    return 0;
}

static bool tag_ok(const uint8_t *header, size_t covered)
{
    uint8_t tag[WIRE_TAG_BYTES];

    tag_of(header, covered, tag);
    return !memcmp(tag, header + covered, WIRE_TAG_BYTES);
}

int wire_open(struct keys *keys, uint8_t *frame, size_t len, struct wire_header *h,
              const uint8_t **payload)
{
    uint8_t *header = frame + HEADER_AT;
    size_t covered;

    if (wire_peek(frame, len, h))
        return -EBADMSG;
    covered = WIRE_HEADER_BYTES + (size_t)h->payload_bytes;
    if (keys) {
        struct keys_place at = place_of(h);

        if (h->type == WIRE_HANDSHAKE ||
            keys_unseal(keys, &at, header, WIRE_HEADER_BYTES, header + WIRE_HEADER_BYTES,
                        h->payload_bytes, header + covered))
            return -EBADMSG;
    } else if (!tag_ok(header, covered)) {
        return -EBADMSG;
    }
    *payload = frame + WIRE_PAYLOAD_AT;
    return 0;
}
