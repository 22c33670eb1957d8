/* SPDX-License-Identifier: Apache-2.0 */
/* Handshakes of one side: the initiator's one, or the responder's many; frames in, frames out. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "dataplane/link/bytes.h"
#include "dataplane/range.h"
#include "dataplane/secure/handshake_impl.h"

#define MS_NS         1000000ull
#define GIVE_UP_NS    (5000 * MS_NS)
#define DENY_NS       (10 * MS_NS) /* a signature costs some 20 us */
#define PROOF_NS      (10 * MS_NS) /* and to look at one 60 */
#define EVICT_NS      (2000 * MS_NS) /* the least an unfinished one is given when many come */
#define HALF_OPEN_MAX 64u
#define ACK_BYTES     4u
#define DATAGRAM_MAX  1400u
#define PAYLOAD_MIN   300u
#define DENIAL_LABEL  "isthmus: no such connection" /* with the zero */
#define DENIAL_BYTES  (sizeof DENIAL_LABEL + 5 + WIRE_TAG_BYTES)

static void advance(struct handshake *h, uint64_t now_ns)
{
    if (now_ns > h->now_ns)
        h->now_ns = now_ns;
}

/* --- life ----------------------------------------------------------------------------------------
 */

static int attempt(struct handshake *h)
{
    struct session *s;
    int rc = session_open(h->context, &s);

    if (rc)
        return rc;
    exchange_forget(h, &h->exchanges[0]);
    exchange_begin(h, &h->exchanges[0], h->p.connection, ++h->attempt, &h->path, s);
    h->retry_ns = 0;
    exchange_run(h, &h->exchanges[0]);
    return 0;
}

int handshake_open(const struct handshake_params *p, uint64_t now_ns, struct handshake **out)
{
    struct session_params sp = {
        .identity = p->identity,
        .admits = p->admits,
        .arg = p->arg,
        .initiator = p->initiator,
    };
    struct handshake *h;
    int rc;

    if (!p->identity || !p->admits || p->payload_max_bytes < PAYLOAD_MIN ||
        p->initiator != (p->connection != 0) || (p->initiator && !p->path))
        return -EINVAL;
    h = calloc(1, sizeof *h);
    if (!h)
        return -ENOMEM;
    h->p = *p;
    h->now_ns = now_ns;
    if (p->path)
        h->path = *p->path;
    h->p.give_up_ns = p->give_up_ns ? p->give_up_ns : GIVE_UP_NS;
    h->n = p->initiator ? 1 : p->half_open_max ? p->half_open_max : HALF_OPEN_MAX;
    h->exchanges = calloc(h->n, sizeof h->exchanges[0]);
    sp.datagram_max_bytes = p->payload_max_bytes - ACK_BYTES;
    if (sp.datagram_max_bytes > DATAGRAM_MAX)
        sp.datagram_max_bytes = DATAGRAM_MAX;
    rc = h->exchanges ? session_context_open(&sp, &h->context) : -ENOMEM;
    if (!rc)
        rc = p->initiator ? attempt(h) : session_open(h->context, &h->listener);
    if (rc) {
        handshake_close(h);
        return rc;
    }
    *out = h;
    return 0;
}

void handshake_close(struct handshake *h)
{
    if (!h)
        return;
    for (uint32_t i = 0; h->exchanges && i < h->n; i++)
        exchange_forget(h, &h->exchanges[i]);
    free(h->exchanges);
    session_close(h->listener);
    session_context_close(h->context);
    EVP_PKEY_free(h->peer_key);
    free(h);
}

void handshake_wipe(struct handshake_result *r)
{
    OPENSSL_cleanse(r, sizeof *r);
}

bool handshake_take(struct handshake *h, struct handshake_result *r)
{
    for (uint32_t i = 0; h->n_busy && i < h->n; i++) {
        struct exchange *e = &h->exchanges[i];

        if (e->state != DONE)
            continue;
        *r = e->result;
        handshake_wipe(&e->result);
        e->state = TAKEN;
        exchange_settle(e);
        return true;
    }
    return false;
}

void handshake_confirm(struct handshake *h, uint32_t connection)
{
    for (uint32_t i = 0; i < h->n && !h->p.initiator; i++) {
        if (h->exchanges[i].state == TAKEN && h->exchanges[i].connection == connection)
            exchange_forget(h, &h->exchanges[i]);
    }
}

const char *handshake_error(const struct handshake *h)
{
    return h->error;
}

uint64_t handshake_refused(const struct handshake *h, struct fingerprint *last)
{
    *last = h->last_refused;
    return h->stats.refused;
}

void handshake_stats(const struct handshake *h, struct handshake_stats *s)
{
    *s = h->stats;
    for (uint32_t i = 0; i < h->n; i++)
        s->half_open += h->exchanges[i].state == RUNNING;
}

/* --- arrival -------------------------------------------------------------------------------------
 */

/* A place for one more, at the cost of one that has had its time. NULL: none. */
static struct exchange *place(struct handshake *h)
{
    struct exchange *oldest = NULL;

    for (uint32_t i = 0; i < h->n; i++) {
        struct exchange *e = &h->exchanges[i];

        if (e->state == FRESH)
            return e;
        if (e->state == DONE)
            continue;
        if (!oldest || e->began_ns < oldest->began_ns)
            oldest = e;
    }
    if (!oldest || h->now_ns - oldest->began_ns < EVICT_NS) {
        h->stats.crowded++;
        return NULL;
    }
    exchange_forget(h, oldest);
    return oldest;
}

/* From an initiator of whom nothing is known: with a good cookie an exchange begins, without one it
 * gets a verify request. */
static void knock(struct handshake *h, const struct wire_header *hd, const struct wire_path *path,
                  const uint8_t *datagram, size_t n)
{
    struct session_peer who = {
        .path = *path, .connection = hd->connection, .attempt = hd->session, .now_ns = h->now_ns};
    struct session *fresh;
    struct exchange *e;
    struct answer *a;
    int rc;

    if (hd->message < 1 || hd->message > 2)
        return;
    /* Each costs some 10 us of DTLS, which a flood must not take from the stage. */
    if (h->n_knocks == HANDSHAKE_KNOCKS_MAX) {
        h->stats.crowded++;
        return;
    }
    h->n_knocks++;
    rc = session_listen(h->listener, &who, datagram, n);
    if (rc == 0) {
        if (h->n_answers == HANDSHAKE_ANSWERS_MAX)
            return;
        a = &h->answers[h->n_answers];
        *a = (struct answer){.path = *path,
                             .connection = hd->connection,
                             .attempt = hd->session,
                             .number = hd->message};
        a->bytes = (uint16_t)session_answer(h->listener, a->datagram, sizeof a->datagram);
        h->n_answers += a->bytes > 0;
        h->stats.verify_requests += a->bytes > 0;
        return;
    }
    if (rc < 0)
        return;
    e = place(h);
    if (!e || session_open(h->context, &fresh))
        return; /* the listener begins anew with the next */
    exchange_begin(h, e, hd->connection, hd->session, path, h->listener);
    h->listener = fresh;
    e->heard = hd->message;
    e->ack_due = true;
    exchange_run(h, e);
}

/* --- denial --------------------------------------------------------------------------------------
 */

/* What is signed. */
static void write_denial(const struct handshake *h, uint32_t connection,
                         const uint8_t tag[WIRE_TAG_BYTES], uint8_t text[DENIAL_BYTES])
{
    memcpy(text, DENIAL_LABEL, sizeof DENIAL_LABEL);
    text += sizeof DENIAL_LABEL;
    put_be32(text, connection);
    text[4] = h->p.hop;
    memcpy(text + 5, tag, WIRE_TAG_BYTES);
}

void handshake_deny(struct handshake *h, const struct pkt *frame)
{
    struct wire_header hd;
    struct stray s;

    if (h->p.initiator || h->n_strays == HANDSHAKE_DENIALS_MAX ||
        wire_peek(frame->data, frame->len, &hd) || hd.hop != h->p.hop || !hd.connection ||
        !(hd.flags & WIRE_FLAG_INITIATOR) || (hd.type != WIRE_DATA && hd.type != WIRE_PING))
        return;
    outer_way_back(frame->data, &s.path);
    for (uint32_t i = 0; i < h->n_strays; i++) {
        if (outer_same_hosts(&h->strays[i].path, &s.path))
            return;
    }
    s.connection = hd.connection;
    memcpy(s.tag, frame->data + WIRE_PAYLOAD_AT + hd.payload_bytes, WIRE_TAG_BYTES);
    h->strays[h->n_strays++] = s;
}

static bool may_deny(const struct handshake *h)
{
    return h->n_strays && h->now_ns >= h->deny_ns;
}

static void read_denial(struct handshake *h, const uint8_t *bytes, size_t n)
{
    const size_t signature = n > WIRE_TAG_BYTES ? n - WIRE_TAG_BYTES : 0;

    if (h->n_knocks == HANDSHAKE_KNOCKS_MAX)
        return;
    h->n_knocks++;
    h->denied = true;
    h->denial = (struct handshake_denial){0};
    if (!signature || signature > sizeof h->denial.signature)
        return;
    memcpy(h->denial.tag, bytes, WIRE_TAG_BYTES);
    memcpy(h->denial.signature, bytes + WIRE_TAG_BYTES, signature);
    h->denial.signature_bytes = (uint16_t)signature;
}

bool handshake_denied(struct handshake *h, struct handshake_denial *d)
{
    bool denied = h->denied;

    *d = h->denial;
    h->denied = false;
    return denied;
}

bool handshake_denial_counts(const struct handshake *h, const struct handshake_denial *d)
{
    return h->peer_key && d->signature_bytes && h->now_ns >= h->proof_ns;
}

bool handshake_denial_proved(struct handshake *h, const struct handshake_denial *d, bool sent)
{
    uint8_t text[DENIAL_BYTES];

    write_denial(h, h->p.connection, d->tag, text);
    if (sent && identity_signed(h->peer_key, text, sizeof text, d->signature, d->signature_bytes))
        return true;
    h->proof_ns = h->now_ns + PROOF_NS;
    return false;
}

/* --- all ----------------------------------------------------------------------------------------
 */

static struct exchange *find(struct handshake *h, const struct wire_header *hd,
                             const struct wire_path *path)
{
    for (uint32_t i = 0; i < h->n; i++) {
        struct exchange *e = &h->exchanges[i];

        if (e->state != FRESH && e->connection == hd->connection && e->attempt == hd->session &&
            (h->p.initiator || outer_same_path(&e->path, path)))
            return e;
    }
    return NULL;
}

void handshake_input(struct handshake *h, struct pkt *p, uint64_t now_ns)
{
    struct wire_header hd;
    struct wire_path path;
    const uint8_t *payload;
    struct exchange *e;

    advance(h, now_ns);
    if (wire_open(NULL, p->data, p->len, &hd, &payload) || hd.type != WIRE_HANDSHAKE ||
        hd.hop != h->p.hop || !hd.connection || hd.payload_bytes < ACK_BYTES ||
        !(hd.flags & WIRE_FLAG_INITIATOR) != h->p.initiator)
        goto out;
    outer_way_back(p->data, &path);
    e = find(h, &hd, &path);
    if (h->p.initiator && hd.session == 0 && hd.connection == h->p.connection)
        read_denial(h, payload + ACK_BYTES, hd.payload_bytes - ACK_BYTES);
    else if (e)
        exchange_take(h, e, hd.message, get_be32(payload), payload + ACK_BYTES,
                      hd.payload_bytes - ACK_BYTES);
    else if (!h->p.initiator)
        knock(h, &hd, &path, payload + ACK_BYTES, hd.payload_bytes - ACK_BYTES);
out:
    pkt_unref(p);
}

/* --- time ----------------------------------------------------------------------------------------
 */

void handshake_tick(struct handshake *h, uint64_t now_ns, uint64_t *deadline_ns)
{
    advance(h, now_ns);
    for (uint32_t i = 0; h->n_busy && i < h->n; i++)
        exchange_tick(h, &h->exchanges[i]);
    if (h->retry_ns && h->now_ns >= h->retry_ns)
        (void)attempt(h); /* for want of memory: at the next call */
    *deadline_ns = handshake_deadline(h);
}

uint64_t handshake_deadline(const struct handshake *h)
{
    uint64_t at = h->retry_ns ? h->retry_ns : UINT64_MAX;

    if (h->n_strays)
        at = least(at, h->deny_ns);
    for (uint32_t i = 0; h->n_busy && i < h->n; i++)
        at = least(at, exchange_deadline(h, &h->exchanges[i]));
    return at;
}

/* --- departure -----------------------------------------------------------------------------------
 */

/* number 0 without a datagram: an acknowledgement. */
static struct pkt *frame(struct handshake *h, struct pkt_pool *pool, const struct wire_path *path,
                         uint32_t connection, uint32_t attempt, uint32_t number, uint32_t ack,
                         const uint8_t *datagram, size_t n)
{
    struct wire_header hd = {
        .type = WIRE_HANDSHAKE,
        .flags = h->p.initiator ? WIRE_FLAG_INITIATOR : 0,
        .connection = connection,
        .message = number,
        .n_fragments = 1,
        .session = attempt,
        .hop = h->p.hop,
        .cls = WIRE_CONTROL,
        .payload_bytes = (uint16_t)(ACK_BYTES + n),
    };
    struct pkt *p = pool->room >= WIRE_OVERHEAD + ACK_BYTES + n ? pkt_alloc(pool) : NULL;

    if (!p)
        return NULL;
    put_be32(p->data + WIRE_PAYLOAD_AT, ack);
    if (n)
        memcpy(p->data + WIRE_PAYLOAD_AT + ACK_BYTES, datagram, n);
    (void)wire_seal(NULL, p, path, &hd); /* cannot fail: the room was asked for */
    return p;
}

/* Attempt 0 is nobody's: by it a responder says that it knows no such connection. Without a packet
 * the stray keeps its place. */
static struct pkt *deny_oldest(struct handshake *h, struct pkt_pool *pool)
{
    const struct stray s = h->strays[0];
    uint8_t text[DENIAL_BYTES], bytes[WIRE_TAG_BYTES + IDENTITY_SIGNATURE_MAX];
    struct pkt *p;
    size_t n;

    h->deny_ns = h->now_ns + DENY_NS;
    write_denial(h, s.connection, s.tag, text);
    memcpy(bytes, s.tag, WIRE_TAG_BYTES);
    n = identity_sign(h->p.identity, text, sizeof text, bytes + WIRE_TAG_BYTES);
    p = frame(h, pool, &s.path, s.connection, 0, 0, 0, bytes, n ? WIRE_TAG_BYTES + n : 0);
    if (p)
        memmove(h->strays, h->strays + 1, --h->n_strays * sizeof s);
    return p;
}

static struct pkt *next_of(struct handshake *h, struct exchange *e, struct pkt_pool *pool)
{
    uint32_t number = exchange_next(e);
    const uint8_t *datagram = NULL;
    struct pkt *p;
    size_t n = 0;

    if (number)
        datagram = session_datagram(e->session, number, &n);
    p = frame(h, pool, &e->path, e->connection, e->attempt, number, e->heard, datagram, n);
    if (p && number)
        e->next++;
    if (p)
        e->ack_due = false;
    return p;
}

int handshake_output(struct handshake *h, struct pkt **out, int n, struct pkt_pool *pool,
                     uint64_t now_ns)
{
    int count = 0;

    advance(h, now_ns);
    h->n_knocks = 0;
    if (n && may_deny(h)) {
        out[0] = deny_oldest(h, pool);
        count += out[0] != NULL;
    }
    while (count < n && h->n_answers) {
        const struct answer *a = &h->answers[h->n_answers - 1];
        struct pkt *p = frame(h, pool, &a->path, a->connection, a->attempt, 0, a->number,
                              a->datagram, a->bytes);

        if (!p)
            return count;
        h->n_answers--;
        out[count++] = p;
    }
    for (uint32_t i = 0; h->n_busy && i < h->n; i++) {
        struct exchange *e = &h->exchanges[i];

        while (count < n && exchange_has_output(e)) {
            struct pkt *p = next_of(h, e, pool);

            if (!p)
                return count;
            out[count++] = p;
        }
    }
    return count;
}

bool handshake_has_output(const struct handshake *h)
{
    if (h->n_answers || may_deny(h))
        return true;
    for (uint32_t i = 0; h->n_busy && i < h->n; i++) {
        if (exchange_has_output(&h->exchanges[i]))
            return true;
    }
    return false;
}
