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
#include "dataplane/pipeline/links.h"
#include "dataplane/port/uri.h"

#define BURST       32
#define STEP_NS     200000000u /* how long a wait may last before signals are looked at */
#define BOUNCE_NS   1000000u   /* while packets without the link come, nothing else is looked at */
#define BOUNCES_MAX 100000u    /* then signals are looked at, too */
#define ASKERS_MAX  2u         /* one, and one that was killed and is not known to be */

/*
 * A port that keeps packets without the link to itself. They are turned round where they arrive,
 * for as long as there are any: this is the floor, and the link's loop is no part of it. Only those
 * that come from where a link has its peer, which has proved who it is: this reflects nothing for
 * others.
 */
struct bounce {
    struct port port; /* first */
    struct port *inner;
    const struct links *links;
    uint64_t sunk;
    struct gaps gaps;
};

static bool is_raw(const struct pkt *p)
{
    return p->len >= TRANSPORT_RAW_HEAD_AT + TRANSPORT_HEAD_BYTES &&
           p->data[WIRE_L2L4_BYTES] == TRANSPORT_RAW_MARK;
}

static bool has_peer_at(const struct links *l, const struct wire_path *path)
{
    for (uint32_t i = 0; i < l->n_used; i++) {
        const struct links_peer *p = &l->peers[i];

        if (links_is_live(p) && p->heard && outer_same_path(path, link_path(p->pump.link)))
            return true;
    }
    return false;
}

/* Counted, or made ready to go back: then true. */
static bool turn_round(struct bounce *b, struct pkt *p)
{
    struct transport_head h;
    struct wire_path back;
    size_t bytes;

    if (transport_get_head(p->data + TRANSPORT_RAW_HEAD_AT, &h) ||
        !outer_check(p->data, p->len, &bytes))
        return false;
    outer_way_back(p->data, &back);
    if (!has_peer_at(b->links, &back))
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
        const int came = port_rx(b->inner, pkts, n);
        bool any;

        kept = keep_from(b, pkts, came, &any);
        if (any)
            until_ns = port_now_ns() + BOUNCE_NS;
        if (until_ns) /* else whoever receives looks at the clock */
            gaps_turn(&b->gaps, port_now_ns(), (uint64_t)came, false);
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

/* An answer that finds no packets waits, and so does what came after it. */
struct asker {
    uint64_t serial; /* of its link */
    struct link_message waiting;
    bool is_waiting;
};

struct peer {
    struct bounce bounce;
    struct links links;
    struct asker askers[ASKERS_MAX + LINKS_AWAY];
    struct transport_told floors; /* counted by their threads */
    bool once;                    /* for one asker */
    uint64_t sunk;
};

static uint64_t clock_ns(void *arg)
{
    (void)arg;
    return port_now_ns();
}

static void tell(struct peer *p, struct pump *pump, const struct link_message *m)
{
    uint8_t bytes[TRANSPORT_HEAD_BYTES + TRANSPORT_TOLD_BYTES];
    struct transport_told t = {
        .cpu_ns = transport_cpu_ns(),
        .sunk = {[TRANSPORT_LINK] = p->sunk, [TRANSPORT_RAW] = p->bounce.sunk},
        .floors_ip = p->floors.floors_ip,
        .udp_port = p->floors.udp_port,
        .tcp_port = p->floors.tcp_port,
        .tls_port = p->floors.tls_port,
    };

    t.gaps_known = p->bounce.gaps.known;
    t.n_gaps = (uint16_t)gaps_take(&p->bounce.gaps, t.gaps, TRANSPORT_TOLD_GAPS);
    for (unsigned k = TRANSPORT_UDP; k < TRANSPORT_KINDS; k++)
        t.sunk[k] = __atomic_load_n(&p->floors.sunk[k], __ATOMIC_RELAXED);
    transport_put_head(bytes,
                       &(struct transport_head){.verb = TRANSPORT_TOLD, .bytes = sizeof bytes});
    transport_put_told(bytes + TRANSPORT_HEAD_BYTES, &t);
    pump_send(pump, m->session, WIRE_DECODE, m->message, bytes, sizeof bytes);
}

/* False: no packets for it now. */
static bool send_back(struct pump *pump, const struct link_message *m)
{
    struct pkt *pkts[LINK_FRAGMENTS_MAX];
    uint16_t bytes[LINK_FRAGMENTS_MAX];

    if (!pump_can_alloc(pump, m->n_fragments))
        return false;
    for (uint16_t i = 0; i < m->n_fragments; i++) {
        size_t len;
        const uint8_t *from = link_message_payload(m, i, &len);

        pkts[i] = pump_alloc(pump);
        bytes[i] = (uint16_t)smaller((uint32_t)len, transport_packet_bytes(pump->port));
        memcpy(pkts[i]->data + WIRE_PAYLOAD_AT + link_payload_offset(true, i), from, bytes[i]);
    }
    const int64_t rc =
        link_send(pump->link, m->session, WIRE_DECODE, m->message, pkts, bytes, m->n_fragments);
    if (rc < 0 && rc != -ENOBUFS)
        pump_link_ended(pump);
    return rc != -ENOBUFS;
}

/* False: it has to wait. */
static bool answer(struct peer *p, struct pump *pump, const struct link_message *m)
{
    struct transport_head h;
    size_t len;
    const uint8_t *payload = link_message_payload(m, 0, &len);

    if (len < TRANSPORT_HEAD_BYTES || transport_get_head(payload, &h))
        return true; /* of no kind we know: nothing to answer */
    if (h.verb == TRANSPORT_ECHO)
        return send_back(pump, m);
    if (h.verb == TRANSPORT_SINK)
        p->sunk++;
    else if (h.verb == TRANSPORT_ASK)
        tell(p, pump, m);
    return true;
}

static void answer_all(struct peer *p, struct asker *a, struct pump *pump)
{
    while (!pump->dead) {
        if (!a->is_waiting && !link_recv(pump->link, &a->waiting))
            return;
        a->is_waiting = !answer(p, pump, &a->waiting);
        if (a->is_waiting)
            return;
        link_message_free(&a->waiting);
    }
}

/* --- loop --------------------------------------------------------------------------------------
 */

static void drop_waiting(struct asker *a)
{
    if (a->is_waiting)
        link_message_free(&a->waiting);
    a->is_waiting = false;
}

/* One asker's turn. True: it had been heard, and is gone. */
static bool serve_one(struct peer *p, uint32_t i, bool port_gone)
{
    struct links_peer *l = &p->links.peers[i];
    struct asker *a = &p->askers[i];
    const bool heard = l->heard;

    if (a->serial != l->serial) {
        drop_waiting(a);
        a->serial = l->serial;
        link_set_idle(l->pump.link, true); /* while it measures something else it is silent */
    }
    l->active = true;
    answer_all(p, a, &l->pump);
    if (port_gone && !l->pump.dead)
        l->pump.dead = "the other end of the port is gone";
    if (!l->pump.dead)
        return false;
    if (!p->once)
        log_info("%s: waiting for the next", l->pump.dead);
    drop_waiting(a);
    links_end(&p->links, l);
    return heard;
}

struct turn {
    uint64_t from_ns;
    uint64_t sleeps, received, packets; /* of the port, at its end */
    uint64_t work;                      /* packets that came and went in it */
};

/* The turn before this one ended with a wait. What it waited for may just not have been sent,
 * unless several packets were there then. */
static void look_back(struct peer *p, struct turn *t)
{
    const struct port_stats *s = &p->bounce.inner->stats;
    const uint64_t packets = s->rx_packets + s->tx_packets;
    const bool idle = s->sleeps != t->sleeps || s->rx_packets - t->received < 2;

    gaps_turn(&p->bounce.gaps, t->from_ns, t->work, idle);
    t->sleeps = s->sleeps;
    t->received = s->rx_packets;
    t->work = packets - t->packets;
    t->packets = packets;
}

static int serve(struct peer *p)
{
    struct port *port = &p->bounce.port;
    struct turn turn = {.from_ns = port_now_ns()};

    while (!signals_caught()) {
        links_in(&p->links, turn.from_ns);
        const bool gone = port_alive(port) == -EPIPE;
        for (uint32_t i = 0; i < p->links.n_used; i++)
            if (links_is_live(&p->links.peers[i]) && serve_one(p, i, gone) && p->once)
                return EXIT_OK; /* whoever started us knows more */
        links_out(&p->links);
        uint64_t at = links_deadline(&p->links);
        const uint64_t now_ns = port_now_ns();
        if (at > now_ns + STEP_NS)
            at = now_ns + STEP_NS;
        look_back(p, &turn);
        port_wait(port, at);
        turn.from_ns = port_now_ns();
    }
    return EXIT_OK;
}

int transport_peer(const char *uri, const struct security *security,
                   const struct netem_options *netem, uint32_t floors_ip, bool once)
{
    static struct peer p; /* for the floors' threads, which outlive this call */
    struct port *port = NULL;
    char ip[URI_IP_TEXT];
    int rc = 0;

    p.floors.floors_ip = floors_ip;
    p.once = once;
    signals_catch(); /* from here on the port leaves something to clean up */
    if (floors_ip)   /* before the port, for DPDK pins the threads that come after it */
        rc = floors_start(&p.floors);
    if (rc < 0) {
        log_error("plain UDP, TCP and TLS at %s: %s", port_uri_ip(floors_ip, ip), strerror(-rc));
        return EXIT_FAILED;
    }
    rc = port_arg_open(uri, PORT_SERVER, security, netem, &port);
    if (rc == EXIT_OK)
        rc = privileges_drop_brief(uri, security->user);
    if (rc != EXIT_OK) {
        port_close(port);
        return rc;
    }
    p.bounce = (struct bounce){
        .port = {.ops = &bounce_ops, .caps = port->caps, .pool = port->pool, .path = port->path},
        .inner = port,
        .links = &p.links,
        .gaps.queued = gaps_queued};
    const struct links_params params = {
        .port = &p.bounce.port, .security = security_of(security), .max = ASKERS_MAX};
    rc = links_open(&p.links, &params, port_now_ns());
    if (rc < 0) {
        log_error("port %s: %s", uri, strerror(-rc));
        rc = EXIT_FAILED;
        goto out;
    }
    p.links.clock = clock_ns;
    if (floors_ip && !once)
        log_info("plain UDP, TCP and TLS at %s, ports %u, %u and %u, for anybody",
                 port_uri_ip(floors_ip, ip), p.floors.udp_port, p.floors.tcp_port,
                 p.floors.tls_port);
    if (!once)
        log_info("answering at %s", uri);
    rc = serve(&p);
    for (uint32_t i = 0; i < p.links.n_used; i++)
        drop_waiting(&p.askers[i]);
    links_close(&p.links);
out:
    port_close(port);
    return rc;
}
