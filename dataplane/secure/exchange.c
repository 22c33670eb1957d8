/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One exchange: numbered packets around a DTLS session (session.c). Each side numbers its packets
 * from 1 and says in each up to which the other's have arrived; packets that arrive out of order
 * are dropped, for they come again. A verify request (cookie) has number 0 and is kept by nobody.
 */
#include <string.h>

#include "dataplane/range.h"
#include "dataplane/secure/handshake_impl.h"

#define MS_NS      1000000ull
#define RTO_MIN_NS (20 * MS_NS)
#define RTO_MAX_NS (320 * MS_NS)
#define AGAIN_NS   (300 * MS_NS) /* from a refusal to the next try */
#define TRIES      3u
#define AGE_FACTOR 4u /* a responder's exchange lives this many times the silence it may keep */

void exchange_forget(struct handshake *h, struct exchange *e)
{
    h->n_busy -= e->state != FRESH;
    session_close(e->session);
    handshake_wipe(&e->result);
    *e = (struct exchange){.state = FRESH};
}

static uint32_t sent_up_to(const struct exchange *e)
{
    return e->session ? session_written(e->session) : e->acked;
}

void exchange_settle(struct exchange *e)
{
    if ((e->state == TAKEN || e->state == FAILED) && e->session &&
        e->acked == session_written(e->session)) {
        session_close(e->session);
        e->session = NULL;
    }
}

/* What is not acknowledged goes at once; then again and again. */
static void send_from(struct handshake *h, struct exchange *e)
{
    e->next = e->acked + 1;
    e->again_ns = h->now_ns + e->rto_ns;
}

void exchange_begin(struct handshake *h, struct exchange *e, uint32_t connection, uint32_t attempt,
                    const struct wire_path *path, struct session *s)
{
    *e = (struct exchange){
        .state = RUNNING,
        .session = s,
        .connection = connection,
        .attempt = attempt,
        .path = *path,
        .began_ns = h->now_ns,
        .heard_ns = h->now_ns,
        .rto_ns = RTO_MIN_NS,
    };
    h->n_busy++;
    send_from(h, e);
}

static int finish(struct handshake *h, struct exchange *e)
{
    e->result.connection = e->connection;
    e->result.path = e->path;
    if (session_result(e->session, e->connection, &e->result.peer, e->result.initiator,
                       e->result.responder))
        return -1;
    if (h->p.initiator && !h->peer_key)
        h->peer_key = session_peer_key(e->session);
    e->state = DONE;
    h->stats.finished++;
    return 1;
}

/* Why it failed, to an initiator; and when it tries again. */
static void fail(struct handshake *h, struct exchange *e)
{
    e->state = FAILED;
    h->stats.failed++;
    if (session_refused(e->session, &h->last_refused))
        h->stats.refused++;
    if (!h->p.initiator)
        return;
    if (++h->failures < TRIES) {
        h->retry_ns = h->now_ns + AGAIN_NS;
    } else {
        session_error(e->session, h->error_text, sizeof h->error_text);
        h->error = h->error_text;
    }
}

void exchange_run(struct handshake *h, struct exchange *e)
{
    int rc = session_run(e->session);

    e->rto_ns = RTO_MIN_NS;
    e->again_ns = h->now_ns + e->rto_ns;
    if (rc > 0)
        rc = finish(h, e);
    if (rc < 0)
        fail(h, e);
}

static void acknowledged(struct handshake *h, struct exchange *e, uint32_t up_to)
{
    if (!e->session || up_to <= e->acked || up_to > session_written(e->session))
        return;
    e->acked = up_to;
    session_forget(e->session, up_to);
    e->rto_ns = RTO_MIN_NS;
    e->again_ns = h->now_ns + e->rto_ns;
    if (e->next <= up_to)
        e->next = up_to + 1;
    exchange_settle(e);
}

void exchange_take(struct handshake *h, struct exchange *e, uint32_t number, uint32_t ack,
                   const uint8_t *datagram, size_t n)
{
    bool verify = h->p.initiator && number == 0 && n;

    acknowledged(h, e, ack);
    if (!n)
        return;
    if (verify ? e->verified || e->heard : number != e->heard + 1) {
        e->ack_due = e->ack_due || (!verify && number <= e->heard); /* ours was lost */
        return;
    }
    if (verify)
        e->verified = true;
    else
        e->heard = number;
    e->heard_ns = h->now_ns;
    e->ack_due = true;
    if (e->state == RUNNING) {
        session_feed(e->session, datagram, n);
        exchange_run(h, e);
    }
}

/* --- time ----------------------------------------------------------------------------------------
 */

static bool unacknowledged(const struct exchange *e)
{
    return sent_up_to(e) > e->acked;
}

/* When the exchange has had its time; UINT64_MAX: it stays. */
static uint64_t over_at(const struct handshake *h, const struct exchange *e)
{
    if (e->state == FRESH || e->state == DONE)
        return UINT64_MAX;
    if (h->p.initiator && (e->state != RUNNING || h->error)) /* stays, to acknowledge */
        return UINT64_MAX;
    if (h->p.initiator)
        return e->heard_ns + h->p.give_up_ns;
    /* A stranger's junk in the right order is heard, too: it must not keep a place for ever. */
    return least(e->heard_ns + h->p.give_up_ns, e->began_ns + AGE_FACTOR * h->p.give_up_ns);
}

void exchange_tick(struct handshake *h, struct exchange *e)
{
    if (h->now_ns >= over_at(h, e)) {
        if (h->p.initiator) {
            h->retry_ns = h->now_ns;
            e->heard_ns = h->now_ns; /* if the attempt can't begin now, for want of memory */
        } else {
            exchange_forget(h, e);
        }
        return;
    }
    if (e->state != FRESH && unacknowledged(e) && h->now_ns >= e->again_ns) {
        e->rto_ns = least(2 * e->rto_ns, RTO_MAX_NS);
        send_from(h, e);
    }
}

uint64_t exchange_deadline(const struct handshake *h, const struct exchange *e)
{
    uint64_t at = over_at(h, e);

    return e->state != FRESH && unacknowledged(e) ? least(at, e->again_ns) : at;
}

/* --- departure -----------------------------------------------------------------------------------
 */

bool exchange_has_output(const struct exchange *e)
{
    return e->state != FRESH && (e->ack_due || e->next <= sent_up_to(e));
}

uint32_t exchange_next(const struct exchange *e)
{
    return e->next <= sent_up_to(e) ? e->next : 0;
}
