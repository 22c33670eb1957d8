/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handshake frames of any content, to a responder and to an initiator. The input is a script of
 * frames: each says for whom, where in the exchange it stands, and whether it is one that the other
 * side really wrote, with some bytes changed, so that DTLS's messages are reached behind records
 * and cookies.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/link/bytes.h"
#include "dataplane/secure/handshake.h"

#define ROOM 1500u
#define MS   1000000ull

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

static bool admits(void *arg, const struct fingerprint *peer)
{
    return fingerprint_equal(arg, peer);
}

static struct identity *ids[2];
static struct pkt_pool *pool;

static struct handshake *side(bool initiator)
{
    struct handshake_params p = {
        .identity = ids[!initiator],
        .admits = admits,
        .arg = (void *)identity_fingerprint(ids[initiator]),
        .initiator = initiator,
        .connection = initiator ? 7 : 0,
        .path = &wire_path_edge,
        .payload_max_bytes = 1000,
        .half_open_max = 4,
    };
    struct handshake *h;

    if (handshake_open(&p, 0, &h))
        abort();
    return h;
}

/* A frame of the script's own. */
static void give_any(struct handshake *h, bool to_initiator, struct script *s, uint64_t now)
{
    struct pkt *p = pkt_alloc(pool);
    struct wire_header hd = {.type = WIRE_HANDSHAKE,
                             .flags = to_initiator ? 0 : WIRE_FLAG_INITIATOR,
                             .connection = 7,
                             .message = next(s) % 8,
                             .n_fragments = 1,
                             .session = next(s) % 3,
                             .cls = WIRE_CONTROL,
                             .payload_bytes = next(s)};

    for (unsigned i = 0; i < hd.payload_bytes; i++)
        p->data[WIRE_PAYLOAD_AT + i] = next(s);
    if (wire_seal(NULL, p, to_initiator ? &wire_path_cloud : &wire_path_edge, &hd))
        abort();
    handshake_input(h, p, now);
}

/* What one side wrote, on to the other: whole, dropped, or with bytes changed and the tag made
 * right. */
static void carry(struct handshake *from, struct handshake *to, struct script *s, uint64_t now)
{
    struct pkt *p[8];
    int n = handshake_output(from, p, 8, pool, now);

    for (int i = 0; i < n; i++) {
        uint8_t what = next(s);
        struct wire_header hd;
        const uint8_t *payload;

        if (what % 8 == 7) {
            pkt_unref(p[i]);
            continue;
        }
        if (wire_open(NULL, p[i]->data, p[i]->len, &hd, &payload))
            abort();
        for (unsigned k = what % 8 == 6 ? 1 + next(s) % 4 : 0; k && hd.payload_bytes; k--) {
            uint32_t at = (uint32_t)(next(s) << 8 | next(s)) % hd.payload_bytes;

            p[i]->data[WIRE_PAYLOAD_AT + at] = next(s);
        }
        if (what % 64 == 5)
            hd.payload_bytes = (uint16_t)(next(s) % (hd.payload_bytes + 1));
        if (wire_seal(NULL, p[i],
                      hd.flags & WIRE_FLAG_INITIATOR ? &wire_path_edge : &wire_path_cloud, &hd))
            abort();
        handshake_input(to, p[i], now);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct script s = {data, size};
    struct handshake_result r[2] = {0};
    struct handshake *a, *b;
    bool done[2] = {false, false};
    uint64_t now = MS, deadline;

    if (!pool) {
        pool = pkt_pool_heap(256, ROOM);
        if (identity_new(&ids[0]) || identity_new(&ids[1]))
            abort();
    }
    a = side(true);
    b = side(false);
    for (unsigned i = 0; i < 40 && (s.left || i < 8); i++) {
        uint8_t what = next(&s);

        if (what % 8 == 1)
            give_any(a, true, &s, now);
        else if (what % 8 == 2)
            give_any(b, false, &s, now);
        carry(a, b, &s, now);
        carry(b, a, &s, now);
        done[0] = handshake_take(a, &r[0]) || done[0];
        done[1] = handshake_take(b, &r[1]) || done[1];
        now += (uint64_t)(1 + what) * MS;
        handshake_tick(a, now, &deadline);
        handshake_tick(b, now, &deadline);
    }
    /* Whatever came between: who is taken for the peer is the peer. */
    if ((done[0] && !fingerprint_equal(&r[0].peer, identity_fingerprint(ids[1]))) ||
        (done[1] && !fingerprint_equal(&r[1].peer, identity_fingerprint(ids[0]))))
        abort();
    handshake_close(a);
    handshake_close(b);
    if (pool->n_free != pool->n_total)
        abort();
    return 0;
}
