/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the peer is. A frame from a new address proves that the peer sent it, not that the peer is
 * there: anybody on the way can send a copy from elsewhere. So a new address gets a challenge, and
 * is followed when its answer, a frame of the peer's, comes from there (after RFC 9000, 8.2
 * and 9.3). All else goes where it went meanwhile. Nothing is kept for the addresses that were
 * asked: a challenge is made of the address, so that only who got it there can answer from there.
 */
#include "dataplane/link/impl.h"

#include <errno.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "dataplane/link/bytes.h"

#define TRIES        2u /* challenges for one frame from there: no more bytes than came, by much */
#define RETRY_MIN_NS (20u * 1000000ull)
#define LEFT_MIN_NS  (100u * 1000000ull)
#define LEFT_MAX_NS  1000000000u

static bool token_of(struct link *l, const struct wire_path *path, uint8_t token[PATH_TOKEN_BYTES])
{
    uint8_t text[28], digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;

    if (!l->has_path_secret && RAND_bytes(l->path_secret, sizeof l->path_secret) != 1)
        return false;
    l->has_path_secret = true;
    memcpy(text, path->src_mac, 6);
    memcpy(text + 6, path->dst_mac, 6);
    put_be32(text + 12, path->src_ip);
    put_be32(text + 16, path->dst_ip);
    put_be16(text + 20, path->src_port);
    put_be16(text + 22, path->dst_port);
    put_be32(text + 24, l->moves); /* what was proved once is not proved for ever */
    if (!HMAC(EVP_sha256(), l->path_secret, sizeof l->path_secret, text, sizeof text, digest, &n))
        return false;
    memcpy(token, digest, PATH_TOKEN_BYTES);
    return true;
}

static uint64_t retry_ns(const struct link *l)
{
    return 2 * l->srtt_ns > RETRY_MIN_NS ? 2 * l->srtt_ns : RETRY_MIN_NS;
}

/* How long frames of the way that was left may still come; who holds them up can't make that long. */
static uint64_t left_ns(const struct link *l)
{
    return clamp(4 * l->srtt_ns, LEFT_MIN_NS, LEFT_MAX_NS);
}

static void move_to(struct link *l, const struct wire_path *path)
{
    const bool other = path->dst_ip != l->path.dst_ip; /* else a NAT forgot: the same path */

    if (other)
        pace_forget(&l->pace);
    l->left = l->path;
    l->left_until_ns = l->now_ns + left_ns(l);
    l->path = *path;
    l->moves++;
    if (other && l->heard)
        mtu_moved(l);
    l->asking.left = 0;
    l->asking.pending = false;
}

/* A valid frame came from there: perhaps not for the first time, so it proves little. */
void path_seen(struct link *l, const uint8_t *frame)
{
    struct wire_path path;

    outer_way_back(frame, &path);
    if (outer_same_path(&path, &l->path))
        return;
    if (!l->heard && !l->path_proved) { /* its first word: there is no other address of it */
        move_to(l, &path);
        return;
    }
    /* Where a move is also one of ours in the peer's eyes, as by one wrong bit of our MAC, it follows.
     * What it sent before it did must not make us move back, nor it follow again, and so on for ever. */
    if (!l->p.initiator && l->now_ns < l->left_until_ns && outer_same_path(&path, &l->left))
        return;
    if (l->asking.left && outer_same_path(&path, &l->asking.to) &&
        l->now_ns < l->asking.asked_ns + retry_ns(l))
        return;
    if (!l->asking.left || !outer_same_path(&path, &l->asking.to))
        l->asking.since_ns = l->now_ns;
    l->asking.to = path;
    l->asking.left = TRIES;
    l->asking.pending = true;
}

void link_met_at(struct link *l, const struct wire_path *path)
{
    l->path = *path;
    l->path_proved = true;
}

size_t path_write_challenge(struct link *l, uint8_t *payload)
{
    l->asking.left -= l->asking.left > 0; /* 0: the port refused the last one */
    l->asking.asked_ns = l->now_ns;
    return token_of(l, &l->asking.to, payload) ? PATH_TOKEN_BYTES : 0; /* 0: nobody can answer it */
}

int path_read_challenge(struct link *l, const uint8_t *frame, const uint8_t *payload, size_t n)
{
    if (n != PATH_TOKEN_BYTES)
        return -EBADMSG;
    memcpy(l->answer.token, payload, n);
    outer_way_back(frame, &l->answer.to);
    l->answer.pending = true;
    return 0;
}

int path_read_answer(struct link *l, const uint8_t *frame, const uint8_t *payload, size_t n)
{
    uint8_t token[PATH_TOKEN_BYTES];
    uint64_t since_ns = l->asking.since_ns;
    struct wire_path path;

    if (n != PATH_TOKEN_BYTES)
        return -EBADMSG;
    outer_way_back(frame, &path);
    if (outer_same_path(&path, &l->path) || !token_of(l, &path, token) ||
        CRYPTO_memcmp(token, payload, n))
        return 0; /* an answer to an old question, or from another place */
    move_to(l, &path);
    l->stats.moves++;
    loss_moved(l, since_ns);
    l->ack_now = true; /* so may be the last acknowledgement */
    return 0;
}

void path_tick(struct link *l)
{
    if (l->now_ns >= path_deadline(l))
        l->asking.pending = true;
}

uint64_t path_deadline(const struct link *l)
{
    return l->asking.left && !l->asking.pending ? l->asking.asked_ns + retry_ns(l) : UINT64_MAX;
}
