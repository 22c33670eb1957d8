/* SPDX-License-Identifier: Apache-2.0 */
/* A link's life: connection, control frames, time, death. */
#include "dataplane/link/impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "dataplane/link/bytes.h"

#define MS_NS 1000000ull

/* A peer that another wants to replace has this many ping intervals to say that it is there. */
#define CONTEST_PINGS 4u

static void advance(struct link *l, uint64_t now_ns)
{
    if (now_ns > l->now_ns)
        l->now_ns = now_ns;
}

static void set_defaults(struct link_params *p)
{
    p->window_packets = p->window_packets ? p->window_packets : 2048;
    p->rx_budget_packets = p->rx_budget_packets ? p->rx_budget_packets : 2048;
    p->rto_min_ns = p->rto_min_ns ? p->rto_min_ns : 20 * MS_NS;
    p->rto_max_ns = p->rto_max_ns ? p->rto_max_ns : 300 * MS_NS;
    p->ack_delay_ns = p->ack_delay_ns ? p->ack_delay_ns : 10 * MS_NS;
    p->ping_interval_ns = p->ping_interval_ns ? p->ping_interval_ns : 500 * MS_NS;
    p->dead_after_ns = p->dead_after_ns ? p->dead_after_ns : 10000 * MS_NS;
    p->first_word_ns = p->first_word_ns ? p->first_word_ns : p->dead_after_ns;
}

/* What is sure takes a piece. */
static bool mtu_fits(const struct link_params *p)
{
    return !p->mtu_sure_bytes || p->mtu_sure_bytes == p->mtu_bytes ||
           (p->mtu_sure_bytes < p->mtu_bytes &&
            p->mtu_sure_bytes + OUTER_ETHERNET_BYTES >= PIECE_FRAME_MAX);
}

/* What tells a responder from one that had the same connection before a restart. */
static int draw_epoch(struct link *l)
{
    unsigned char bytes[2];

    if (l->p.initiator || l->p.keys)
        return 0;
    if (RAND_bytes(bytes, sizeof bytes) != 1)
        return -EIO;
    l->hello_epoch = l->p.epoch;
    l->p.epoch = get_be16(bytes);
    return 0;
}

int link_open(const struct link_params *p, uint64_t now_ns, struct link **out)
{
    struct link *l;
    int rc;

    if (!p->path || (p->initiator && !p->connection))
        return -EINVAL;
    l = calloc(1, sizeof *l);
    if (!l)
        return -ENOMEM;
    l->p = *p;
    l->path = *p->path;
    set_defaults(&l->p);
    if (l->p.rto_min_ns > l->p.rto_max_ns || !mtu_fits(&l->p)) {
        free(l);
        return -EINVAL;
    }
    rc = draw_epoch(l);
    if (rc) {
        free(l);
        return rc;
    }
    l->now_ns = l->heard_ns = l->pinged_ns = l->ticked_ns = now_ns;
    l->tx_base = l->tx_next = l->rx_base = l->rx_end = 1;
    l->credit = FIRST_CREDIT;
    l->control_bits = 1; /* numbers count from 1 */
    l->reorder_quarters = 1;
    mtu_init(l);
    pace_init(&l->pace, l->p.ack_delay_ns, l->p.unpaced);
    l->credit_told = l->p.rx_budget_packets;
    send_drop_all(l); /* makes the lists */
    receive_drop_all(l);
    *out = l;
    return 0;
}

void link_close(struct link *l)
{
    if (!l)
        return;
    send_drop_all(l);
    receive_drop_all(l);
    free(l);
}

void link_end(struct link *l, enum link_end how)
{
    if (l->end == LINK_ALIVE)
        l->end = how;
    l->ack_now = l->ping_pending = l->asking.pending = l->answer.pending = false;
    l->mtu.pending = l->mtu.answer_pending = false;
    l->asking.left = 0;
    send_drop_all(l);
}

void link_shutdown(struct link *l)
{
    if (l->end == LINK_ALIVE && l->p.connection)
        l->close_pending = true;
    link_end(l, LINK_SHUT);
}

const char *link_why_dead(const struct link *l)
{
    static const char *const why[] = {
        [LINK_ALIVE] = NULL,
        [LINK_SILENT] = "the peer fell silent",
        [LINK_RESET] = "the peer does not know this connection (it restarted, or serves another)",
        [LINK_CLOSED] = "the peer closed the connection",
        [LINK_SHUT] = "the connection was closed here",
        [LINK_WORN_OUT] = "the connection used up its packet numbers or keys",
    };
    return why[l->end];
}

void link_forgotten(struct link *l)
{
    link_end(l, LINK_RESET);
}

void link_set_budget(struct link *l, uint32_t rx_packets)
{
    if (rx_packets == l->p.rx_budget_packets)
        return;
    l->p.rx_budget_packets = rx_packets;
    l->ack_now |= l->heard && l->end == LINK_ALIVE; /* tells the credit */
}

const struct wire_path *link_path(const struct link *l)
{
    return &l->path;
}

bool link_heard(const struct link *l)
{
    return l->heard;
}

uint64_t link_silent_ns(const struct link *l)
{
    return l->now_ns - l->heard_ns;
}

/* --- arrival ---------------------------------------------------------------------------------- */

static void queue_reset(struct link *l, const struct wire_header *h, const uint8_t *frame)
{
    if (h->type != WIRE_DATA && h->type != WIRE_PING)
        return; /* never answer a RESET with one; a CLOSE or ACK needs none */
    l->reset_pending = true;
    outer_way_back(frame, &l->reset_path);
    l->reset_connection = h->connection;
    l->reset_epoch = h->epoch;
    l->stats.resets++;
}

static uint64_t contest_ns(const struct link *l)
{
    return CONTEST_PINGS * l->p.ping_interval_ns;
}

bool link_contested(const struct link *l)
{
    return l->contested_ns && l->heard_ns <= l->contested_ns;
}

void link_doubt(struct link *l, uint64_t now_ns)
{
    advance(l, now_ns);
    if (!l->contested_ns || l->now_ns - l->contested_ns > contest_ns(l)) {
        l->contested_ns = l->pinged_ns = l->now_ns;
        l->ping_pending = true;
    }
}

/*
 * Another initiator knocks. Where the port does not tell that a peer is gone, ours may be: ask it,
 * and let the other one try again meanwhile. True: it shall wait.
 */
bool link_contest(struct link *l)
{
    if (!l->p.idle_dead_after_ns)
        return false;
    link_doubt(l, l->now_ns);
    return link_contested(l);
}

/* Without keys. Who has not heard us closes, but sends no other control frame. */
static bool is_epoch(const struct link *l, const struct wire_header *h)
{
    if (l->p.initiator && !l->heard && h->type != WIRE_RESET)
        return true; /* it is learnt */
    if (!l->p.initiator && h->flags & WIRE_FLAG_HELLO)
        return h->epoch == l->hello_epoch;
    return h->epoch == l->p.epoch ||
           (!l->p.initiator && h->type == WIRE_CLOSE && h->epoch == l->hello_epoch);
}

/*
 * Whether the frame belongs to this connection. A responder takes the connection of the first
 * message 1 it sees, of a sender that has not heard it. Later messages of a peer that has not heard
 * us yet may overtake that one and are dropped (they will be sent again); anything else is from a
 * connection we don't know.
 */
static bool is_ours(struct link *l, const struct wire_header *h, const uint8_t *frame)
{
    bool from_initiator = h->flags & WIRE_FLAG_INITIATOR;

    if (h->hop == l->p.hop && h->connection && from_initiator != l->p.initiator) {
        if (!l->p.connection && h->type == WIRE_DATA && h->message == 1 &&
            (l->p.keys || h->flags & WIRE_FLAG_HELLO)) {
            l->p.connection = h->connection;
            l->hello_epoch = h->epoch;
        }
        if (h->connection == l->p.connection && (l->p.keys || is_epoch(l, h)))
            return true;
        if (!l->p.keys && (h->flags & WIRE_FLAG_HELLO ? l->p.connection && !link_contest(l) : true))
            queue_reset(l, h, frame);
    }
    l->stats.strangers++;
    return false;
}

/*
 * Whether a control frame with this number came before, or so late that nobody can tell (after RFC
 * 6479). A RESET without keys comes from a peer that counts anew, and is no threat that forging one
 * would not be.
 */
static bool is_replay(struct link *l, const struct wire_header *h)
{
    uint32_t behind = l->control_seen - h->message;

    if (h->type == WIRE_RESET)
        return false;
    if (h->message > l->control_seen) {
        uint32_t ahead = h->message - l->control_seen;

        l->control_bits = (ahead < 64 ? l->control_bits << ahead : 0) | 1;
        l->control_seen = h->message;
        return false;
    }
    if (behind >= 64 || l->control_bits >> behind & 1)
        return true;
    l->control_bits |= 1ull << behind;
    return false;
}

/* It came just now, from a peer that lives: not an old frame that came again. */
static void hear(struct link *l, const struct wire_header *h)
{
    if (!l->heard && l->p.initiator)
        l->p.epoch = h->epoch;
    l->heard = true;
    l->mtu.heard = true;
    l->heard_ns = l->now_ns;
    l->backoff = 0; /* the peer is not busy or gone: what is missing was lost */
}

/* whole: a frame of which this was the last piece; it is the caller's. */
static int control_frame(struct link *l, const struct wire_header *h, const uint8_t *frame,
                         const uint8_t *payload, struct pkt **whole)
{
    bool newest = h->message > l->control_seen;

    if (is_replay(l, h)) {
        l->stats.replays++;
        return 0;
    }
    if (newest && h->type != WIRE_RESET && h->type != WIRE_ANSWER)
        path_seen(l, frame);
    hear(l, h);
    switch (h->type) {
    case WIRE_ACK:
        return loss_read_ack(l, h->message, payload, h->payload_bytes);
    case WIRE_PING:
        l->ack_now = true;
        return 0;
    case WIRE_CHALLENGE:
        return path_read_challenge(l, frame, payload, h->payload_bytes);
    case WIRE_ANSWER:
        return path_read_answer(l, frame, payload, h->payload_bytes);
    case WIRE_PROBE:
        l->mtu.answer_pending = true;
        l->mtu.answer = h->message;
        return 0;
    case WIRE_PROBED:
        return mtu_read_probed(l, payload, h->payload_bytes);
    case WIRE_PIECE:
        return piece_read(l, frame, payload, h->payload_bytes, whole);
    case WIRE_RESET:
        l->stats.resets++;
        link_end(l, LINK_RESET);
        return 0;
    default:
        link_end(l, LINK_CLOSED);
        return 0;
    }
}

static int data_frame(struct link *l, struct pkt *p, const struct wire_header *h,
                      const uint8_t *payload)
{
    bool fresh = receive_is_new(l, h);

    /* What came before may be all that the peer has to say until it hears from us. */
    if (fresh || l->heard)
        path_seen(l, p->data);
    if (fresh)
        hear(l, h);
    return receive_data(l, p, h, payload);
}

/* A frame that came in pieces, which were ours. */
static int whole_frame(struct link *l, struct pkt *p)
{
    const uint8_t *payload;
    struct wire_header h;

    if (!wire_open(l->p.keys, p->data, p->len, &h, &payload) && h.type == WIRE_DATA &&
        is_ours(l, &h, p->data))
        return data_frame(l, p, &h, payload);
    pkt_unref(p);
    return -EBADMSG;
}

int link_input(struct link *l, struct pkt *p, uint64_t now_ns)
{
    struct pkt *whole = NULL;
    const uint8_t *payload;
    struct wire_header h;
    int err = 0;

    advance(l, now_ns);
    if (wire_open(l->p.keys, p->data, p->len, &h, &payload) || h.type == WIRE_HANDSHAKE ||
        (l->p.keys && h.type == WIRE_RESET)) { /* with keys who knows no connection can't seal */
        l->stats.bad_frames++;
        pkt_unref(p);
        return -EBADMSG;
    }
    l->stats.rx_packets++;
    l->stats.rx_bytes += p->len;
    if (!is_ours(l, &h, p->data) || l->end != LINK_ALIVE) {
        if (l->end == LINK_SHUT && h.type != WIRE_CLOSE && h.type != WIRE_RESET)
            l->close_pending = l->p.connection != 0; /* the first one was lost */
        pkt_unref(p);
        return 0;
    }
    if (h.type == WIRE_DATA) {
        err = data_frame(l, p, &h, payload);
    } else {
        err = control_frame(l, &h, p->data, payload, &whole);
        pkt_unref(p);
        if (whole)
            err = whole_frame(l, whole);
    }
    if (err)
        l->stats.bad_frames++;
    pace_update(&l->pace, l->now_ns);
    return err;
}

/* --- departure -------------------------------------------------------------------------------- */

/*
 * The keys are changed as soon as they are worn and nothing of the epoch before is left to be sent
 * again. With the limits of keys.h that is at once: fewer than 2^20 packets wait for
 * acknowledgement.
 */
uint16_t link_next_epoch(struct link *l)
{
    if (!l->p.keys)
        return l->p.epoch;
    if (keys_worn(l->p.keys) && !l->sealed[(keys_epoch(l->p.keys) + 1u) % 2])
        (void)keys_advance(l->p.keys); /* where it fails, link_output sees keys_spent */
    return keys_epoch(l->p.keys);
}

/* With keys: they are there, and not used up. */
static bool may_seal(const struct link *l)
{
    return !l->p.keys || (keys_ready(l->p.keys) && !keys_spent(l->p.keys));
}

/* Where a control frame goes. */
static const struct wire_path *path_of(const struct link *l, enum wire_type type)
{
    switch (type) {
    case WIRE_RESET:
        return &l->reset_path;
    case WIRE_CHALLENGE:
        return &l->asking.to;
    case WIRE_ANSWER:
        return &l->answer.to;
    default:
        return &l->path;
    }
}

static uint16_t write_control(struct link *l, enum wire_type type, struct pkt *p)
{
    uint8_t *payload = p->data + WIRE_PAYLOAD_AT;

    switch (type) {
    case WIRE_ACK:
        return (uint16_t)receive_write_ack(l, payload, ACK_BYTES_MAX);
    case WIRE_CHALLENGE:
        return (uint16_t)path_write_challenge(l, payload);
    case WIRE_ANSWER:
        memcpy(payload, l->answer.token, PATH_TOKEN_BYTES);
        return PATH_TOKEN_BYTES;
    case WIRE_PROBE:
        memset(payload, 0, mtu_probe_bytes(l));
        return (uint16_t)mtu_probe_bytes(l);
    case WIRE_PROBED:
        put_be32(payload, l->mtu.answer);
        return PROBED_BYTES;
    default:
        return 0;
    }
}

int link_seal_control(struct link *l, struct pkt *p, enum wire_type type, uint16_t payload_bytes)
{
    struct wire_header h = {
        .type = (uint8_t)type,
        .flags = l->p.initiator ? WIRE_FLAG_INITIATOR : 0,
        .connection = type == WIRE_RESET ? l->reset_connection : l->p.connection,
        .epoch = type == WIRE_RESET ? l->reset_epoch : link_next_epoch(l),
        .message = l->control_number + 1,
        .n_fragments = 1,
        .hop = l->p.hop,
        .cls = WIRE_CONTROL,
        .payload_bytes = payload_bytes,
    };
    int rc;

    l->control_number++; /* used up, whatever comes */
    rc = wire_seal(l->p.keys, p, path_of(l, type), &h);
    if (rc)
        return rc;
    if (type == WIRE_PING) {
        memcpy(l->ping_tag, p->data + p->len - WIRE_TAG_BYTES, WIRE_TAG_BYTES);
        l->has_pinged = true;
    }
    l->stats.tx_packets++;
    l->stats.tx_bytes += p->len;
    return 0;
}

/* One control frame; NULL: no packet to be had, or no number left. */
static struct pkt *control_packet(struct link *l, struct pkt_pool *pool, enum wire_type type)
{
    const uint32_t most = type == WIRE_PROBE ? mtu_probe_bytes(l) : ACK_BYTES_MAX;
    struct pkt *p;

    if (l->control_number == UINT32_MAX) {
        link_end(l, LINK_WORN_OUT);
        return NULL;
    }
    p = pool->room >= WIRE_OVERHEAD + most ? pkt_alloc(pool) : NULL;
    if (!p)
        return NULL;
    if (link_seal_control(l, p, type, write_control(l, type, p))) {
        pkt_unref(p);
        return NULL;
    }
    if (type == WIRE_PROBE)
        mtu_probe_sent(l);
    return p;
}

/* The flag of a control frame that waits to be sent, in the order they go. */
static bool *pending(struct link *l, enum wire_type type)
{
    switch (type) {
    case WIRE_RESET:
        return &l->reset_pending;
    case WIRE_CLOSE:
        return &l->close_pending;
    case WIRE_ACK:
        return &l->ack_now;
    case WIRE_CHALLENGE:
        return &l->asking.pending;
    case WIRE_ANSWER:
        return &l->answer.pending;
    case WIRE_PROBE:
        return &l->mtu.pending;
    case WIRE_PROBED:
        return &l->mtu.answer_pending;
    default:
        return &l->ping_pending;
    }
}

int link_output(struct link *l, struct pkt **out, int n, struct pkt_pool *pool, uint64_t now_ns)
{
    static const enum wire_type order[] = {WIRE_RESET, WIRE_CLOSE, WIRE_ANSWER, WIRE_CHALLENGE,
                                           WIRE_ACK,   WIRE_PING,  WIRE_PROBED, WIRE_PROBE};
    int count = 0;

    advance(l, now_ns);
    if (!may_seal(l)) {
        if (keys_ready(l->p.keys))
            link_end(l, LINK_WORN_OUT);
        return 0;
    }
    for (unsigned i = 0; i < sizeof order / sizeof order[0] && count < n; i++) {
        struct pkt *p = *pending(l, order[i]) ? control_packet(l, pool, order[i]) : NULL;

        if (!p)
            continue;
        *pending(l, order[i]) = false;
        out[count++] = p;
    }
    count += piece_output(l, out + count, n - count);
    if (l->end == LINK_ALIVE)
        count += send_output(l, out + count, n - count, pool);
    return count;
}

void link_output_refused(struct link *l, struct pkt *p, uint64_t now_ns)
{
    enum wire_type type = p->data[WIRE_L2L4_BYTES] & 15u;

    advance(l, now_ns);
    if (type == WIRE_PIECE) {
        piece_refused(l, p);
        return;
    }
    if (type != WIRE_DATA) {
        *pending(l, type) = true; /* made anew: a held acknowledgement would be stale */
        l->stats.tx_packets--;
        l->stats.tx_bytes -= p->len;
    } else {
        /* The latest sent lie at the end. It is not there if the link ended meanwhile. */
        for (struct list_node *node = l->sent.prev; node != &l->sent; node = node->prev) {
            struct tx_fragment *f = (struct tx_fragment *)node;

            if (f->pkt == p) {
                send_refused(l, f);
                break;
            }
        }
    }
    pkt_unref(p);
}

bool link_has_output(const struct link *l)
{
    if (!may_seal(l))
        return false;
    if (l->reset_pending || l->close_pending || l->ack_now || l->ping_pending ||
        l->asking.pending || l->answer.pending || l->mtu.pending || l->mtu.answer_pending ||
        l->n_pieces)
        return true;
    return l->end == LINK_ALIVE && send_has_output(l);
}

/* --- time ------------------------------------------------------------------------------------- */

/* Whether the peer's silence means something: it has spoken before, or we asked. */
static bool expects_peer(const struct link *l)
{
    return (!l->idle || l->p.idle_dead_after_ns) && (l->heard || l->order);
}

static uint64_t ping_after(const struct link *l)
{
    return l->idle && !link_contested(l) ? l->p.idle_ping_ns : l->p.ping_interval_ns;
}

static uint64_t dead_at(const struct link *l)
{
    uint64_t after = l->idle ? l->p.idle_dead_after_ns : l->p.dead_after_ns;
    uint64_t at = l->heard_ns + (l->heard ? after : l->p.first_word_ns);

    if (link_contested(l))
        at = least(at, l->contested_ns + contest_ns(l));
    return at;
}

void link_set_idle(struct link *l, bool idle)
{
    if (l->idle && !idle)
        l->heard_ns = l->now_ns;
    l->idle = idle;
}

static void tick_silence(struct link *l, uint64_t away_ns)
{
    uint64_t usual_ns = l->p.ping_interval_ns;

    if (l->idle && l->p.idle_ping_ns > usual_ns)
        usual_ns = l->p.idle_ping_ns;
    if (away_ns > usual_ns) /* what the peer said meanwhile may have been lost here */
        l->heard_ns = least(l->heard_ns + away_ns - usual_ns, l->now_ns);
    if (!expects_peer(l))
        return;
    if (l->now_ns >= dead_at(l)) {
        link_end(l, LINK_SILENT);
        return;
    }
    if (l->heard && l->now_ns - l->heard_ns >= ping_after(l) &&
        l->now_ns - l->pinged_ns >= ping_after(l)) {
        l->pinged_ns = l->now_ns;
        l->ping_pending = true;
    }
}

static uint64_t silence_deadline(const struct link *l)
{
    uint64_t ping, from = l->heard_ns > l->pinged_ns ? l->heard_ns : l->pinged_ns;

    if (!expects_peer(l))
        return UINT64_MAX;
    ping = from + ping_after(l);
    return least(ping > l->now_ns ? ping : UINT64_MAX, dead_at(l));
}

uint64_t link_deadline(const struct link *l)
{
    uint64_t at;

    if (l->end != LINK_ALIVE)
        return UINT64_MAX;
    at = least(least(loss_deadline(l), silence_deadline(l)), send_deadline(l));
    at = least(at, least(path_deadline(l), mtu_deadline(l)));
    return l->ack_now ? at : least(at, receive_ack_deadline(l));
}

int link_tick(struct link *l, uint64_t now_ns, uint64_t *deadline_ns)
{
    uint64_t before = l->ticked_ns;

    advance(l, now_ns);
    l->ticked_ns = l->now_ns;
    if (deadline_ns)
        *deadline_ns = UINT64_MAX;
    if (l->end != LINK_ALIVE)
        return -EPIPE;
    tick_silence(l, l->now_ns - before);
    if (l->end != LINK_ALIVE)
        return -EPIPE;
    loss_tick(l);
    path_tick(l);
    mtu_tick(l);
    if (l->now_ns >= receive_ack_deadline(l))
        l->ack_now = true;
    if (deadline_ns)
        *deadline_ns = link_deadline(l);
    return 0;
}

void link_stats(const struct link *l, struct link_stats *s)
{
    *s = l->stats;
    s->srtt_ns = l->srtt_ns;
    s->rtt_min_ns = l->rtt_min_ns;
    s->rtt_p50_ns = loss_rtt_p50(l);
    s->in_flight_packets = l->in_flight;
    s->rate_byte_per_s = pace_rate(&l->pace);
    s->path_rtt_ns = l->pace.rtt_min_ns;
    s->mtu_bytes = l->mtu.known;
    s->epoch = l->p.keys ? keys_epoch(l->p.keys) : l->p.epoch;
}

void link_stats_add(struct link_stats *to, const struct link_stats *s)
{
    to->tx_packets += s->tx_packets;
    to->tx_bytes += s->tx_bytes;
    to->tx_messages += s->tx_messages;
    to->retransmits += s->retransmits;
    to->spurious += s->spurious;
    to->rx_packets += s->rx_packets;
    to->rx_bytes += s->rx_bytes;
    to->rx_messages += s->rx_messages;
    to->duplicates += s->duplicates;
    to->bad_frames += s->bad_frames;
    to->over_budget += s->over_budget;
    to->resets += s->resets;
    to->strangers += s->strangers;
    to->moves += s->moves;
    to->replays += s->replays;
    to->mtu_probes += s->mtu_probes;
    to->mtu_falls += s->mtu_falls;
    to->cut += s->cut;
    for (unsigned i = 0; i < sizeof s->copied_bytes / sizeof s->copied_bytes[0]; i++)
        to->copied_bytes[i] += s->copied_bytes[i];
}
