/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The answering process: sends back what comes over the link, as the cloud answers rows, and turns
 * round what comes without it.
 */
#include <errno.h>
#include <string.h>

#include "control/bench/transport.h"
#include "control/cmd.h"
#include "control/log.h"
#include "control/port_arg.h"
#include "control/privileges.h"
#include "control/signals.h"
#include "dataplane/pipeline/pump.h"

#define BURST       32
#define STEP_NS     200000000u /* how long a wait may last before signals are looked at */
#define BOUNCE_NS   1000000u   /* while packets without the link come, nothing else is looked at */
#define BOUNCES_MAX 100000u    /* then signals are looked at, too */

/*
 * A port that keeps packets without the link to itself. They are turned round where they arrive,
 * for as long as there are any: this is the floor, and the link's loop is no part of it. Only those
 * that come from where the link has its peer, which has proved who it is: this reflects nothing for
 * others.
 */
struct bounce {
    struct port port; /* first */
    struct port *inner;
    const struct pump *pump;
    uint64_t sunk;
};

static bool is_raw(const struct pkt *p)
{
    return p->len >= TRANSPORT_RAW_HEAD_AT + TRANSPORT_HEAD_BYTES &&
           p->data[WIRE_L2L4_BYTES] == TRANSPORT_RAW_MARK;
}

/* Counted, or made ready to go back: then true. */
static bool turn_round(struct bounce *b, struct pkt *p)
{
    const struct link *link = b->pump->link;
    struct transport_head h;
    struct wire_path back;
    size_t bytes;

    if (transport_get_head(p->data + TRANSPORT_RAW_HEAD_AT, &h) ||
        !outer_check(p->data, p->len, &bytes))
        return false;
    outer_way_back(p->data, &back);
    if (!link || !link_heard(link) || !outer_same_path(&back, link_path(link)))
        return false;
    b->sunk += h.verb == TRANSPORT_SINK;
    outer_readdress(p->data, &back);
    return h.verb == TRANSPORT_ECHO;
}

/* What a full port does not take for so long is lost: without the link nothing is sent later. */
static void send_all(struct port *port, struct pkt **pkts, int n)
{
    const uint64_t until_ns = n ? port_now_ns() + BOUNCE_NS : 0;

    for (int sent = 0; sent < n && port_now_ns() < until_ns;)
        sent += port_tx(port, pkts + sent, n - sent);
}

/* Those without the link go no further; how many are left. */
static int keep_from(struct bounce *b, struct pkt **pkts, int n, bool *any)
{
    struct pkt *back[BURST], *done[BURST];
    int kept = 0, n_back = 0, n_done = 0;

    for (int i = 0; i < n; i++) {
        if (!is_raw(pkts[i])) {
            pkts[kept++] = pkts[i];
            continue;
        }
        if (turn_round(b, pkts[i]))
            back[n_back++] = pkts[i];
        done[n_done++] = pkts[i];
    }
    send_all(b->inner, back, n_back);
    for (int i = 0; i < n_done; i++)
        pkt_unref(done[i]);
    *any = n_done > 0;
    return kept;
}

static int bounce_rx(struct port *port, struct pkt **pkts, int n)
{
    struct bounce *b = (struct bounce *)port;
    uint64_t until_ns = 0;
    uint32_t rounds = 0;
    int kept = 0;

    if (n > BURST)
        n = BURST;
    do {
        bool any;

        kept = keep_from(b, pkts, port_rx(b->inner, pkts, n), &any);
        if (any)
            until_ns = port_now_ns() + BOUNCE_NS;
    } while (!kept && ++rounds < BOUNCES_MAX && until_ns && port_now_ns() < until_ns);
    return kept;
}

static int bounce_tx(struct port *port, struct pkt **pkts, int n)
{
    return port_tx(((struct bounce *)port)->inner, pkts, n);
}

static int bounce_wait(struct port *port, uint64_t deadline_ns)
{
    return port_wait(((struct bounce *)port)->inner, deadline_ns);
}

static int bounce_alive(struct port *port)
{
    return port_alive(((struct bounce *)port)->inner);
}

static void bounce_close(struct port *port)
{
    port_close(((struct bounce *)port)->inner);
}

static const struct port_ops bounce_ops = {bounce_rx, bounce_tx, bounce_wait, bounce_alive,
                                           bounce_close};

/* --- answers -----------------------------------------------------------------------------------
 */

struct peer {
    struct bounce bounce;
    struct pump pump;
    struct transport_told floors; /* counted by their threads */
    bool once;                    /* for one asker */
    uint64_t sunk;
    struct link_message waiting; /* an answer that finds no packets */
    bool is_waiting;
};

static uint64_t clock_ns(void *arg)
{
    (void)arg;
    return port_now_ns();
}

static void tell(struct peer *p, const struct link_message *m)
{
    uint8_t bytes[TRANSPORT_HEAD_BYTES + TRANSPORT_TOLD_BYTES];
    struct transport_told t = {
        .cpu_ns = transport_cpu_ns(),
        .sunk = {[TRANSPORT_LINK] = p->sunk, [TRANSPORT_RAW] = p->bounce.sunk},
        .udp_port = p->floors.udp_port,
        .tcp_port = p->floors.tcp_port,
    };

    for (unsigned k = TRANSPORT_UDP; k < TRANSPORT_KINDS; k++)
        t.sunk[k] = __atomic_load_n(&p->floors.sunk[k], __ATOMIC_RELAXED);
    transport_put_head(bytes,
                       &(struct transport_head){.verb = TRANSPORT_TOLD, .bytes = sizeof bytes});
    transport_put_told(bytes + TRANSPORT_HEAD_BYTES, &t);
    pump_send(&p->pump, m->session, WIRE_DECODE, m->message, bytes, sizeof bytes);
}

/* False: no packets for it now. */
static bool send_back(struct peer *p, const struct link_message *m)
{
    struct pkt *pkts[LINK_FRAGMENTS_MAX];
    uint16_t bytes[LINK_FRAGMENTS_MAX];

    if (!pump_can_alloc(&p->pump, m->n_fragments))
        return false;
    for (uint16_t i = 0; i < m->n_fragments; i++) {
        size_t len;
        const uint8_t *from = link_message_payload(m, i, &len);

        pkts[i] = pump_alloc(&p->pump);
        bytes[i] = (uint16_t)smaller((uint32_t)len, transport_packet_bytes(p->pump.port));
        memcpy(pkts[i]->data + WIRE_PAYLOAD_AT + link_payload_offset(true, i), from, bytes[i]);
    }
    const int64_t rc =
        link_send(p->pump.link, m->session, WIRE_DECODE, m->message, pkts, bytes, m->n_fragments);
    if (rc < 0 && rc != -ENOBUFS)
        pump_link_ended(&p->pump);
    return rc != -ENOBUFS;
}

/* False: it has to wait. */
static bool answer(struct peer *p, const struct link_message *m)
{
    struct transport_head h;
    size_t len;
    const uint8_t *payload = link_message_payload(m, 0, &len);

    if (len < TRANSPORT_HEAD_BYTES || transport_get_head(payload, &h))
        return true; /* of no kind we know: nothing to answer */
    if (h.verb == TRANSPORT_ECHO)
        return send_back(p, m);
    if (h.verb == TRANSPORT_SINK)
        p->sunk++;
    else if (h.verb == TRANSPORT_ASK)
        tell(p, m);
    return true;
}

static void answer_all(struct peer *p)
{
    while (!p->pump.dead) {
        if (!p->is_waiting && !link_recv(p->pump.link, &p->waiting))
            return;
        p->is_waiting = !answer(p, &p->waiting);
        if (p->is_waiting)
            return;
        link_message_free(&p->waiting);
    }
}

/* --- loop --------------------------------------------------------------------------------------
 */

static int next_asker(struct peer *p, const char *why)
{
    log_info("%s: waiting for the next", why);
    if (p->is_waiting)
        link_message_free(&p->waiting);
    p->is_waiting = false;
    const int rc = pump_renew(&p->pump, port_now_ns());
    if (rc < 0)
        log_error("%s", strerror(-rc));
    else
        link_set_idle(p->pump.link, true);
    return rc;
}

static int serve(struct peer *p)
{
    struct port *port = &p->bounce.port;

    link_set_idle(p->pump.link, true); /* while the asker measures something else it is silent */
    while (!signals_caught()) {
        pump_in(&p->pump, port_now_ns());
        answer_all(p);
        const bool gone = port_alive(port) == -EPIPE && link_heard(p->pump.link);
        if ((p->pump.dead || gone) && p->once)
            return EXIT_OK; /* whoever started us knows more */
        if ((p->pump.dead || gone) &&
            next_asker(p, p->pump.dead ? p->pump.dead : "the other end of the port is gone") < 0)
            return EXIT_FAILED;
        pump_out(&p->pump);
        uint64_t at = pump_deadline(&p->pump);
        const uint64_t now_ns = port_now_ns();
        if (at > now_ns + STEP_NS)
            at = now_ns + STEP_NS;
        port_wait(port, at);
    }
    return EXIT_OK;
}

int transport_peer(const char *uri, const struct security *security,
                   const struct netem_options *netem, bool floors)
{
    static struct peer p; /* for the floors' threads, which outlive this call */
    const struct link_params params = {.epoch = 0};
    const struct pipeline_security s = security_of(security);
    struct port *port = NULL;
    int rc = 0;

    signals_catch(); /* from here on the port leaves something to clean up */
    if (floors)      /* before the port, for DPDK pins the threads that come after it */
        rc = floors_start(&p.floors.sunk[TRANSPORT_UDP], &p.floors.sunk[TRANSPORT_TCP],
                          &p.floors.udp_port, &p.floors.tcp_port);
    if (rc < 0) {
        log_error("plain UDP and TCP on 127.0.0.1: %s", strerror(-rc));
        return EXIT_FAILED;
    }
    rc = port_arg_open(uri, PORT_SERVER, security, netem, &port);
    if (rc == EXIT_OK)
        rc = privileges_drop(uri, security->user);
    if (rc != EXIT_OK) {
        port_close(port);
        return rc;
    }
    p.bounce = (struct bounce){
        .port = {.ops = &bounce_ops, .caps = port->caps, .pool = port->pool, .path = port->path},
        .inner = port,
        .pump = &p.pump};
    rc = pump_open(&p.pump, &p.bounce.port, &params, &s, &wire_path_cloud, 0, port_now_ns());
    if (rc < 0) {
        log_error("port %s: %s", uri, strerror(-rc));
        rc = EXIT_FAILED;
        goto out;
    }
    p.pump.clock = clock_ns;
    p.once = floors;
    if (!floors)
        log_info("answering at %s", uri);
    rc = serve(&p);
    link_shutdown(p.pump.link);
    pump_out(&p.pump);
    if (p.is_waiting)
        link_message_free(&p.waiting);
    pump_close(&p.pump);
out:
    port_close(port);
    return rc;
}
