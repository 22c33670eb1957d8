/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The asking end: messages of the link, by the pump that edge and cloud use, and packets of the
 * same port without it.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control/bench/transport.h"
#include "dataplane/link/bytes.h"
#include "dataplane/pipeline/pump.h"

#define BURST         32
#define ASK_STEP_NS   5000000u
#define SETTLE_NS     15000000u /* longer than an acknowledgement is held back */
#define SETTLE_MAX_NS 1000000000u

/* --- what is said ------------------------------------------------------------------------------
 */

const char *transport_kind_name(enum transport_kind k)
{
    static const char *const names[TRANSPORT_KINDS] = {"link", "raw", "udp", "tcp", "tls"};

    return names[k];
}

void transport_put_head(uint8_t *to, const struct transport_head *h)
{
    memset(to, 0, TRANSPORT_HEAD_BYTES);
    to[0] = (uint8_t)h->verb;
    put_be32(to + 4, h->bytes);
    put_be32(to + 8, h->slot);
    put_be64(to + 16, h->stamp_ns);
}

int transport_get_head(const uint8_t *from, struct transport_head *h)
{
    *h = (struct transport_head){.verb = (enum transport_verb)from[0],
                                 .bytes = get_be32(from + 4),
                                 .slot = get_be32(from + 8),
                                 .stamp_ns = get_be64(from + 16)};
    return from[0] >= TRANSPORT_ECHO && from[0] <= TRANSPORT_TOLD &&
                   h->bytes >= TRANSPORT_HEAD_BYTES
               ? 0
               : -EBADMSG;
}

void transport_put_told(uint8_t *to, const struct transport_told *t)
{
    put_be64(to, t->cpu_ns);
    for (unsigned k = 0; k < TRANSPORT_KINDS; k++)
        put_be64(to + 8 + 8 * k, t->sunk[k]);
    put_be32(to + 8 + 8 * TRANSPORT_KINDS, t->floors_ip);
    put_be16(to + 12 + 8 * TRANSPORT_KINDS, t->udp_port);
    put_be16(to + 14 + 8 * TRANSPORT_KINDS, t->tcp_port);
    put_be16(to + 16 + 8 * TRANSPORT_KINDS, t->tls_port);
    put_be16(to + 18 + 8 * TRANSPORT_KINDS, t->n_gaps);
    put_be16(to + 20 + 8 * TRANSPORT_KINDS, t->gaps_known);
    for (unsigned i = 0; i < TRANSPORT_TOLD_GAPS; i++) {
        put_be64(to + 22 + 8 * TRANSPORT_KINDS + 16 * i, t->gaps[i].from_ns);
        put_be64(to + 30 + 8 * TRANSPORT_KINDS + 16 * i, t->gaps[i].to_ns);
    }
}

void transport_get_told(const uint8_t *from, struct transport_told *t)
{
    t->cpu_ns = get_be64(from);
    for (unsigned k = 0; k < TRANSPORT_KINDS; k++)
        t->sunk[k] = get_be64(from + 8 + 8 * k);
    t->floors_ip = get_be32(from + 8 + 8 * TRANSPORT_KINDS);
    t->udp_port = get_be16(from + 12 + 8 * TRANSPORT_KINDS);
    t->tcp_port = get_be16(from + 14 + 8 * TRANSPORT_KINDS);
    t->tls_port = get_be16(from + 16 + 8 * TRANSPORT_KINDS);
    t->n_gaps = (uint16_t)smaller(get_be16(from + 18 + 8 * TRANSPORT_KINDS), TRANSPORT_TOLD_GAPS);
    t->gaps_known = get_be16(from + 20 + 8 * TRANSPORT_KINDS) != 0;
    for (unsigned i = 0; i < TRANSPORT_TOLD_GAPS; i++) {
        t->gaps[i].from_ns = get_be64(from + 22 + 8 * TRANSPORT_KINDS + 16 * i);
        t->gaps[i].to_ns = get_be64(from + 30 + 8 * TRANSPORT_KINDS + 16 * i);
    }
}

uint64_t transport_cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint32_t transport_packet_bytes(const struct port *port)
{
    return (uint32_t)pump_payload_most(port) - LINK_REPLY_PREFIX_BYTES;
}

/* --- the asker ---------------------------------------------------------------------------------
 */

struct asker {
    struct port *port;
    const char *cipher;
    struct pump pump;
    struct way link, raw;
    struct pkt *queued[BURST]; /* of raw: they go in bursts */
    int n_queued;
    struct transport_told told; /* the latest */
    bool was_told;
};

static uint64_t clock_ns(void *arg)
{
    (void)arg;
    return port_now_ns();
}

/* The connection is over: why, or NULL. */
static const char *over(struct asker *a)
{
    if (pump_refused(&a->pump))
        return pump_refused(&a->pump);
    if (a->pump.dead)
        return a->pump.dead;
    return port_alive(a->port) == -EPIPE && link_heard(a->pump.link) ? "its end of the port is gone"
                                                                     : NULL;
}

uint32_t asker_packet_bytes(const struct asker *a)
{
    return (uint32_t)pump_payload(&a->pump) - LINK_REPLY_PREFIX_BYTES;
}

uint32_t asker_mtu(const struct asker *a)
{
    return link_mtu(a->pump.link);
}

/* --- messages of the link ----------------------------------------------------------------------
 */

static struct asker *of_link(struct way *w)
{
    return (struct asker *)((char *)w - offsetof(struct asker, link));
}

/* The payload of a message's i-th packet is made where it is sent: a head, then what lies there. */
static void make_payload(struct pkt *p, uint32_t i, const struct transport_head *h)
{
    uint8_t *at = p->data + WIRE_PAYLOAD_AT + link_payload_offset(false, i);

    if (i == 0)
        transport_put_head(at, h);
    pkt_made(p, at);
}

static int message_send(struct way *w, uint32_t session, const struct transport_head *h)
{
    struct asker *a = of_link(w);
    struct pkt *pkts[LINK_FRAGMENTS_MAX];
    uint16_t bytes[LINK_FRAGMENTS_MAX];
    const uint32_t most = transport_packet_bytes(a->port), now = asker_packet_bytes(a);
    /* As long as a path that takes less in a packet lets it be one message. */
    const uint32_t room = h->bytes <= now * pump_max_fragments(&a->pump) ? now : most;
    const uint16_t n = (uint16_t)((h->bytes + room - 1) / room);

    if (!link_window_left(a->pump.link) || !pump_can_alloc(&a->pump, n))
        return 0;
    for (uint32_t i = 0; i < n; i++) {
        pkts[i] = pump_alloc(&a->pump);
        make_payload(pkts[i], i, h);
        bytes[i] = (uint16_t)(i + 1u < n ? room : h->bytes - i * room);
    }
    const int64_t rc = link_send(a->pump.link, session, WIRE_DECODE, -1, pkts, bytes, n);
    if (rc == -ENOBUFS)
        return 0;
    if (rc < 0) {
        pump_link_ended(&a->pump);
        w->trouble = a->pump.dead;
        return -EPIPE;
    }
    return 1;
}

static int message_flush(struct way *w)
{
    struct asker *a = of_link(w);

    pump_out(&a->pump);
    w->trouble = a->pump.dead;
    return a->pump.dead ? -EPIPE : 0;
}

static void take(struct asker *a, const struct link_message *m)
{
    struct transport_head h;
    size_t len;
    const uint8_t *p = link_message_payload(m, 0, &len);

    if (len < TRANSPORT_HEAD_BYTES || transport_get_head(p, &h))
        return;
    if (h.verb == TRANSPORT_TOLD && len >= TRANSPORT_HEAD_BYTES + TRANSPORT_TOLD_BYTES) {
        transport_get_told(p + TRANSPORT_HEAD_BYTES, &a->told);
        a->was_told = true;
    } else if (h.verb == TRANSPORT_ECHO && a->link.answer) {
        a->link.answer(a->link.arg, &h);
    }
}

static int message_poll(struct way *w)
{
    struct asker *a = of_link(w);
    struct link_message m;
    int n = 0;

    pump_in(&a->pump, port_now_ns());
    for (; link_recv(a->pump.link, &m); n++) {
        take(a, &m);
        link_message_free(&m);
    }
    w->trouble = over(a);
    return w->trouble ? -EPIPE : n;
}

static void message_wait(struct way *w, uint64_t deadline_ns)
{
    struct asker *a = of_link(w);
    const uint64_t at = pump_deadline(&a->pump);

    port_wait(a->port, at < deadline_ns ? at : deadline_ns);
}

static const struct way_ops message_ops = {message_send, message_flush, message_poll, message_wait};

/* --- packets without it ------------------------------------------------------------------------
 */

static struct asker *of_raw(struct way *w)
{
    return (struct asker *)((char *)w - offsetof(struct asker, raw));
}

static int packet_flush(struct way *w)
{
    struct asker *a = of_raw(w);
    const int taken = a->n_queued ? port_tx(a->port, a->queued, a->n_queued) : 0;

    for (int i = 0; i < taken; i++)
        pkt_unref(a->queued[i]);
    a->n_queued -= taken;
    memmove(a->queued, a->queued + taken, (size_t)a->n_queued * sizeof a->queued[0]);
    return 0;
}

static int packet_send(struct way *w, uint32_t session, const struct transport_head *h)
{
    struct asker *a = of_raw(w);
    struct pkt *p;

    (void)session;
    if (a->n_queued == BURST)
        packet_flush(w);
    p = a->n_queued < BURST ? pump_alloc(&a->pump) : NULL;
    if (!p)
        return 0;
    p->len = WIRE_OVERHEAD + LINK_PREFIX_BYTES + h->bytes;
    outer_write(p->data, link_path(a->pump.link), (uint16_t)(p->len - OUTER_BYTES + 8));
    p->data[WIRE_L2L4_BYTES] = TRANSPORT_RAW_MARK;
    transport_put_head(p->data + TRANSPORT_RAW_HEAD_AT, h);
    a->queued[a->n_queued++] = p;
    return 1;
}

static int packet_poll(struct way *w)
{
    struct asker *a = of_raw(w);
    struct pkt *pkts[BURST];
    struct transport_head h;
    const int n = port_rx(a->port, pkts, BURST);

    /* Packets of the link may be among them, though it rests: it sends them again. */
    for (int i = 0; i < n; i++) {
        if (w->answer && pkts[i]->len >= TRANSPORT_RAW_HEAD_AT + TRANSPORT_HEAD_BYTES &&
            pkts[i]->data[WIRE_L2L4_BYTES] == TRANSPORT_RAW_MARK &&
            !transport_get_head(pkts[i]->data + TRANSPORT_RAW_HEAD_AT, &h))
            w->answer(w->arg, &h);
        pkt_unref(pkts[i]);
    }
    if (!n && port_alive(a->port) == -EPIPE) {
        w->trouble = "its end of the port is gone";
        return -EPIPE;
    }
    return n;
}

static void packet_wait(struct way *w, uint64_t deadline_ns)
{
    port_wait(of_raw(w)->port, deadline_ns);
}

static const struct way_ops packet_ops = {packet_send, packet_flush, packet_poll, packet_wait};

/* --- life --------------------------------------------------------------------------------------
 */

int asker_open(struct port *port, const struct security *security, bool far, struct asker **out)
{
    struct asker *a = calloc(1, sizeof *a);
    const struct link_params params = {
        .epoch = 1, .first_word_ns = 2 * (far ? TRANSPORT_LOST_FAR_NS : TRANSPORT_LOST_NS)};
    const struct pipeline_security s = security_of(security);
    uint32_t connection;
    int rc = a ? pump_draw_connection(&connection) : -ENOMEM;

    if (!rc)
        rc = pump_open(&a->pump, port, &params, &s, &wire_path_edge, connection, port_now_ns());
    if (rc) {
        free(a);
        return rc;
    }
    a->port = port;
    a->cipher = pipeline_cipher(&s);
    a->pump.clock = clock_ns;
    const uint32_t packet = transport_packet_bytes(port);
    a->link = (struct way){.ops = &message_ops,
                           .kind = TRANSPORT_LINK,
                           .bytes_max = packet * pump_max_fragments(&a->pump)};
    a->raw = (struct way){.ops = &packet_ops,
                          .kind = TRANSPORT_RAW,
                          .lost_ns = far ? TRANSPORT_LOST_FAR_NS : TRANSPORT_LOST_NS,
                          .bytes_max = packet};
    *out = a;
    return 0;
}

void asker_close(struct asker *a)
{
    if (!a)
        return;
    for (int i = 0; i < a->n_queued; i++)
        pkt_unref(a->queued[i]);
    link_shutdown(a->pump.link);
    pump_out(&a->pump);
    pump_close(&a->pump);
    free(a);
}

struct way *asker_way(struct asker *a, enum transport_kind k)
{
    return k == TRANSPORT_RAW ? &a->raw : &a->link;
}

const char *asker_cipher(const struct asker *a)
{
    return a->cipher;
}

uint64_t asker_copied_bytes(const struct asker *a)
{
    struct link_stats s;

    link_stats(a->pump.link, &s);
    return s.copied_bytes[WIRE_DECODE] + a->port->stats.copied_bytes;
}

uint64_t asker_driver_copied_bytes(const struct asker *a)
{
    return port_driver_copied_bytes(a->port);
}

uint64_t asker_retransmits(const struct asker *a)
{
    struct link_stats s;

    link_stats(a->pump.link, &s);
    return s.retransmits;
}

int asker_ask(struct asker *a, uint64_t timeout_ns, const char *(*gone)(void *arg), void *arg,
              struct transport_told *told, const char **why)
{
    const struct transport_head h = {.verb = TRANSPORT_ASK, .bytes = TRANSPORT_HEAD_BYTES};
    const uint64_t until = port_now_ns() + timeout_ns;
    uint64_t now_ns = port_now_ns(), look_ns = now_ns + ASK_STEP_NS;
    int sent = 0, rc;

    a->was_told = false;
    while (!a->was_told) {
        if (message_poll(&a->link) < 0 || (!sent && (sent = message_send(&a->link, 0, &h)) < 0) ||
            message_flush(&a->link) < 0) {
            *why = a->link.trouble;
            return -EPIPE;
        }
        if (a->was_told)
            break;
        message_wait(&a->link, now_ns + ASK_STEP_NS);
        now_ns = port_now_ns();
        if (now_ns < look_ns)
            continue;
        look_ns = now_ns + ASK_STEP_NS;
        rc = gone && (*why = gone(arg)) ? -EPIPE : now_ns > until ? -ETIMEDOUT : 0;
        if (rc == -ETIMEDOUT)
            *why = "it does not answer";
        if (rc)
            return rc;
    }
    *told = a->told;
    return 0;
}

void asker_settle(struct asker *a)
{
    const uint64_t start = port_now_ns();

    for (uint64_t now_ns = start;
         now_ns < start + SETTLE_NS || (!link_idle(a->pump.link) && now_ns < start + SETTLE_MAX_NS);
         now_ns = port_now_ns()) {
        if (message_poll(&a->link) < 0 || message_flush(&a->link) < 0)
            return; /* what comes next finds it, too */
        message_wait(&a->link, now_ns + ASK_STEP_NS);
    }
}
