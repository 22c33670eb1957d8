/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arbitrary frames into wire_open and a link. As most would stop at the tag, the input is also read
 * as a script of frames that are well sealed for the connection but otherwise anything, between
 * ordinary use of the link, which looks for the path's MTU; with keys or without.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/link.h"
#include "dataplane/link/bytes.h"

#define ROOM     1700u
#define MTU_SURE 1120u
#define MTU_MOST 1600u

struct script {
    const uint8_t *p;
    size_t left;
};

static uint8_t next(struct script *s)
{
    if (!s->left)
        return 0;
    s->left--;
    return *s->p++;
}

static void give_raw(struct link *l, struct pkt_pool *pool, struct script *s, size_t n,
                     uint64_t now)
{
    struct pkt *p = pkt_alloc(pool);

    if (!p)
        return;
    n = n < s->left ? n : s->left;
    n = n < ROOM ? n : ROOM;
    memcpy(p->data, s->p, n);
    p->len = (uint32_t)n;
    s->p += n;
    s->left -= n;
    (void)link_input(l, p, now);
}

static struct keys *fresh_keys(bool initiator)
{
    static const uint8_t up[KEYS_SECRET_BYTES] = {1}, down[KEYS_SECRET_BYTES] = {2};
    struct keys_params p = {.initiator = initiator, .worn_packets = 20};
    struct keys *k;

    if (keys_open(&p, &k) || keys_set(k, up, down))
        abort();
    return k;
}

/* Of a frame that is likely to be completed by others. */
static uint16_t make_piece(struct script *s, uint8_t *payload)
{
    static const uint16_t bytes[] = {500, 1024, 2000, 16384};
    const uint8_t which = next(s), i = next(s) % 3;
    const uint16_t whole = bytes[which % 4], left = (uint16_t)(whole - 1024 * i);

    memset(payload, next(s), 10 + 1024);
    put_be32(payload, next(s));
    put_be16(payload + 4, which / 4 % 4);
    put_be16(payload + 6, whole);
    put_be16(payload + 8, i);
    return (uint16_t)(10 + (whole <= 1024 * i ? next(s) : left < 1024 ? left : 1024));
}

/* theirs: the peer's keys, or NULL. */
static void give_sealed(struct link *l, struct pkt_pool *pool, struct script *s,
                        struct keys *theirs, bool from_initiator, uint64_t now)
{
    struct pkt *p = pkt_alloc(pool);
    struct wire_header h = {.connection = 7};
    struct link_stats stats;
    struct wire_path path = wire_path_edge;
    uint8_t where;

    if (!p)
        return;
    h.type = next(s) % 11;
    h.flags = (uint8_t)((next(s) & 3) | (from_initiator ? WIRE_FLAG_INITIATOR : 0));
    h.message = next(s) == 255 ? UINT32_MAX - next(s) : next(s);
    h.fragment = next(s) % 16;
    h.n_fragments = (uint16_t)(next(s) * (h.fragment == 15 ? 3 : 1));
    where = next(s);
    h.session = where % 4;
    path.src_port = (uint16_t)(path.src_port + where / 4 % 4); /* to be challenged from there */
    h.cls = next(s) % 5;
    h.payload_bytes = next(s);
    for (unsigned i = 0; i < h.payload_bytes; i++)
        p->data[WIRE_PAYLOAD_AT + i] = next(s);
    if (h.type == WIRE_PIECE)
        h.payload_bytes = make_piece(s, p->data + WIRE_PAYLOAD_AT);
    if (theirs && keys_worn(theirs) && keys_advance(theirs))
        abort();
    link_stats(l, &stats);
    if (theirs)
        h.epoch = keys_epoch(theirs);
    else
        h.epoch = h.flags & WIRE_FLAG_HELLO ? 1 : stats.epoch;
    if (wire_seal(theirs, p, &path, &h))
        abort();
    (void)link_input(l, p, now);
}

static void use(struct link *l, struct pkt_pool *pool, struct script *s, uint64_t now)
{
    struct link_message m;
    struct pkt *pkts[8];
    const uint8_t how = next(s);
    const uint16_t part = how & 4 ? 1450 : 4; /* a long one may be too long for the path */
    uint16_t bytes[4] = {part, part, part, part}, n = (uint16_t)(1 + how % 4);
    uint64_t deadline;
    int count;

    while (link_recv(l, &m)) {
        for (uint16_t i = 0; i < m.n_fragments; i++) {
            size_t len;
            const uint8_t *p = link_message_payload(&m, i, &len);

            if (len > UINT16_MAX || (len && p[len - 1] == p[0] && !l))
                abort();
        }
        link_message_free(&m);
    }
    for (uint16_t i = 0; i < n; i++) {
        pkts[i] = pkt_alloc(pool);
        if (!pkts[i])
            n = i;
        else
            memset(pkts[i]->data, 0, ROOM);
    }
    if (n)
        (void)link_send(l, next(s) % 4, (enum wire_class)(next(s) % 4), next(s) % 8 - 1, pkts,
                        bytes, n);
    (void)link_tick(l, now, &deadline);
    count = link_output(l, pkts, 8, pool, now);
    for (int i = 0; i < count; i++) {
        if (next(s) & 1)
            link_output_refused(l, pkts[i], now);
        else
            pkt_unref(pkts[i]);
    }
}

static void run_script(struct script s, bool initiator, bool keyed)
{
    struct keys *ours = keyed ? fresh_keys(initiator) : NULL;
    struct keys *theirs = keyed ? fresh_keys(!initiator) : NULL;
    struct pkt_pool *pool = pkt_pool_heap(400, ROOM);
    struct link_params params = {.path = initiator ? &wire_path_edge : &wire_path_cloud,
                                 .initiator = initiator,
                                 .connection = initiator ? 7 : 0,
                                 .epoch = initiator ? 1 : 0,
                                 .keys = ours,
                                 .rx_budget_packets = 20,
                                 .mtu_bytes = MTU_MOST,
                                 .mtu_sure_bytes = MTU_SURE};
    struct link *l;
    uint64_t now = 0;

    if (link_open(&params, 0, &l))
        abort();
    while (s.left) {
        switch (next(&s) % 4) {
        case 0:
            give_raw(l, pool, &s, next(&s), now);
            break;
        case 1:
        case 2:
            give_sealed(l, pool, &s, theirs, !initiator, now);
            break;
        default:
            now += (uint64_t)next(&s) * 1000000u;
            use(l, pool, &s, now);
            break;
        }
    }
    link_close(l);
    keys_close(ours);
    keys_close(theirs);
    if (pool->n_free != pool->n_total)
        abort();
    pkt_pool_heap_close(pool);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *frame = malloc(size ? size : 1);
    struct wire_header h;
    const uint8_t *payload;

    if (!frame)
        return 0;
    memcpy(frame, data, size);
    if (wire_open(NULL, frame, size, &h, &payload) == 0 &&
        (payload < frame || payload + h.payload_bytes + WIRE_TAG_BYTES > frame + size))
        abort();
    free(frame);
    run_script((struct script){data, size}, size & 1, size & 2);
    return 0;
}
