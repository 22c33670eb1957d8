/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/link/pace.h"

#include "dataplane/range.h"

#define MS           1000000ull
#define NS_PER_S     1000000000ull
#define PACKET       1500u          /* a full one, for bounds */
#define FIRST_BYTES  (16u * PACKET) /* under way before anything is known */
#define LEAST_BYTES  (4u * PACKET)
#define ACK_BYTES    (16u * PACKET) /* packets that one acknowledgement may stand for */
#define QUANTUM_NS   MS /* what was not used goes later at once: so late may a caller be */
#define QUANTUM_MIN  (2u * PACKET)
#define RATE_MIN     8000u      /* byte/s */
#define RATE_KEPT_NS (250 * MS) /* or ten round trips: how long a rate counts */
#define RTT_KEPT_NS  (10000 * MS)
#define PHASE_MIN_NS MS
#define QUEUE_MIN_NS (2 * MS) /* round trips longer by less are no sign of a queue */
#define DOWN_PHASES  4u
#define QUEUE_RTTS   8u
#define NO_WINDOW    (UINT64_C(1) << 40)
#define FULL_ROUNDS  3u

/* Gains, in 1/256. */
#define ONE 256u
#define STARTUP_GAIN                                                                               \
    709u /* 2.77: the rate doubles each round though what was sent is spread over it */
#define DRAIN_GAIN     92u
#define WINDOW_GAIN    512u
#define PROBE_RTT_GAIN 128u
#define MARGIN         254u /* a little below the rate, so that an old queue goes away */

/* One part up, to see whether there is more; one down, so that its queue goes; six as they are. */
static const uint32_t cycle_gain[8] = {320, 192, ONE, ONE, ONE, ONE, ONE, ONE};

/* Bytes in a time at the known rate. */
static uint64_t bytes_in(const struct pace *p, uint64_t ns)
{
    return (uint64_t)((unsigned __int128)pace_rate(p) * ns / NS_PER_S);
}

/* Under way beside what the path holds: callers and acknowledgements come in lumps. */
static uint64_t lumps(const struct pace *p)
{
    return bytes_in(p, QUANTUM_NS) + least(bytes_in(p, p->ack_delay_ns), ACK_BYTES) + PACKET;
}

static uint64_t path_bytes(const struct pace *p, uint32_t gain)
{
    return bytes_in(p, p->rtt_min_ns) * gain / ONE;
}

/* So little that no queue can be. */
static uint64_t probe_rtt_bytes(const struct pace *p)
{
    return most(path_bytes(p, PROBE_RTT_GAIN), LEAST_BYTES);
}

static void set_limits(struct pace *p)
{
    uint32_t gain = MARGIN;
    uint64_t rate;

    if (p->unpaced) {
        p->window_bytes = NO_WINDOW;
        return;
    }
    p->window_bytes = path_bytes(p, WINDOW_GAIN) + lumps(p) + LEAST_BYTES;
    if (p->phase == PACE_STARTUP) {
        gain = STARTUP_GAIN;
        p->window_bytes = most(p->window_bytes, FIRST_BYTES);
    } else if (p->phase == PACE_DRAIN) {
        gain = DRAIN_GAIN;
    } else if (p->phase == PACE_CRUISE) {
        gain = p->cycle == 0 ? cycle_gain[0] : cycle_gain[p->cycle] * MARGIN / ONE;
    } else {
        p->window_bytes = probe_rtt_bytes(p);
    }
    rate = pace_rate(p);
    if (p->phase == PACE_STARTUP && p->rtt_min_ns)
        rate = most(rate, FIRST_BYTES * NS_PER_S / p->rtt_min_ns);
    rate = rate * gain / ONE;
    p->ns_per_byte_q20 = rate ? (NS_PER_S << 20) / most(rate, RATE_MIN) : 0;
}

void pace_init(struct pace *p, uint64_t ack_delay_ns, bool unpaced)
{
    *p = (struct pace){.ack_delay_ns = ack_delay_ns, .unpaced = unpaced};
    set_limits(p);
}

void pace_forget(struct pace *p)
{
    p->rate_now = p->rate_before = 0;
    p->rtt_min_ns = p->round_rtt_min_ns = p->last_round_rtt_min_ns = 0;
    p->full_bytes_per_s = p->full_rounds = p->round_rtts = 0;
    p->round_end_bytes =
        p->delivered_bytes + p->pipe_bytes; /* what is under way tells of the old */
    p->phase = PACE_STARTUP;
    set_limits(p);
}

/* --- packets ---------------------------------------------------------------------------------- */

static uint64_t cost_ns(const struct pace *p, uint32_t bytes)
{
    return bytes * p->ns_per_byte_q20 >> 20;
}

void pace_sent(struct pace *p, struct pace_mark *m, uint32_t bytes, uint64_t now_ns)
{
    uint64_t kept = most(QUANTUM_NS, cost_ns(p, QUANTUM_MIN));

    if (!p->pipe_bytes)
        p->first_sent_ns = p->delivered_ns = now_ns;
    *m = (struct pace_mark){p->delivered_bytes, p->delivered_ns, p->first_sent_ns,
                            p->limited ? (uint8_t)p->limit : PACE_BY_PATH};
    p->pipe_bytes += bytes;
    if (now_ns > kept && p->next_ns < now_ns - kept)
        p->next_ns = now_ns - kept;
    p->next_ns += cost_ns(p, bytes);
}

void pace_refused(struct pace *p, uint32_t bytes)
{
    p->pipe_bytes -= bytes;
    p->next_ns -= least(p->next_ns, cost_ns(p, bytes));
}

void pace_lost(struct pace *p, uint32_t bytes)
{
    p->pipe_bytes -= bytes;
    p->lost = true;
}

void pace_starved(struct pace *p, enum pace_limit by)
{
    p->limited = most(p->delivered_bytes + p->pipe_bytes, 1);
    p->limit = by;
}

void pace_acked(struct pace *p, const struct pace_mark *m, uint64_t sent_ns, uint64_t order,
                uint32_t bytes, bool in_pipe, bool late, uint64_t now_ns)
{
    if (in_pipe)
        p->pipe_bytes -= bytes;
    p->delivered_bytes += bytes;
    p->delivered_ns = now_ns;
    if (late || (p->acked && order < p->newest_order))
        return;
    p->acked = true;
    p->newest = *m;
    p->newest_order = order;
    p->newest_sent_ns = sent_ns;
    p->first_sent_ns = sent_ns;
}

/* --- the path --------------------------------------------------------------------------------- */

/* The highest of this half of the time that counts, or of the half before. Both stay while nothing
 * is asked for. */
static void rate_sample(struct pace *p, uint64_t rate, uint64_t now_ns)
{
    const uint64_t half =
        most(RATE_KEPT_NS, 10 * most(p->rtt_min_ns, p->last_round_rtt_min_ns)) / 2;
    const uint64_t age = now_ns - p->rate_from_ns;

    if (age > half) {
        p->rate_before = age > 2 * half ? rate : p->rate_now;
        p->rate_now = 0;
        p->rate_from_ns = now_ns;
    }
    p->rate_now = most(p->rate_now, rate);
}

void pace_rtt(struct pace *p, uint64_t rtt_ns, uint64_t now_ns)
{
    const uint64_t rtt = most(rtt_ns, 1);

    p->round_rtts++;
    if (!p->round_rtt_min_ns || rtt < p->round_rtt_min_ns)
        p->round_rtt_min_ns = rtt;
    if (p->rtt_min_ns && rtt > p->rtt_min_ns && now_ns - p->rtt_min_at_ns < RTT_KEPT_NS)
        return;
    if (p->rtt_min_ns && rtt > p->rtt_min_ns && p->phase == PACE_CRUISE) {
        p->phase = PACE_PROBE_RTT; /* is the path longer now, or is it our own queue? */
        p->probe_end_ns = 0;
    }
    p->rtt_min_ns = rtt;
    p->rtt_min_at_ns = now_ns;
}

/* --- what to make of it ----------------------------------------------------------------------- */

static void cruise(struct pace *p, uint32_t part, uint64_t now_ns)
{
    p->phase = PACE_CRUISE;
    p->cycle = part;
    p->cycle_ns = now_ns;
    p->lost = false;
}

/* All round trips of the round so far were longer than the path's shortest: there is a queue. Where
 * little is sent it may as well be the peer, who computes and looks late. */
static bool is_queued(const struct pace *p)
{
    return p->rtt_min_ns && p->round_limit != PACE_BY_OWNER &&
           p->round_rtt_min_ns > p->rtt_min_ns + most(p->rtt_min_ns / 4, QUEUE_MIN_NS);
}

/* A round that waited in a queue all the time, or three without much more than before: that is the
 * path's rate. */
static void look_for_full(struct pace *p)
{
    if (is_queued(p)) {
        p->phase = PACE_DRAIN;
        return;
    }
    if (p->round_limit != PACE_BY_PATH)
        return;
    if (pace_rate(p) >= p->full_bytes_per_s + p->full_bytes_per_s / 4) {
        p->full_bytes_per_s = pace_rate(p);
        p->full_rounds = 0;
    } else if (++p->full_rounds >= FULL_ROUNDS) {
        p->phase = PACE_DRAIN;
    }
}

static void step(struct pace *p, uint64_t now_ns)
{
    const uint64_t path = path_bytes(p, ONE) + lumps(p);
    const bool over = now_ns - p->cycle_ns > most(p->rtt_min_ns, PHASE_MIN_NS);

    if (p->phase == PACE_STARTUP && p->round_rtts >= QUEUE_RTTS && is_queued(p))
        p->phase = PACE_DRAIN; /* before the round is over: it gets longer with the queue */
    if (p->phase == PACE_DRAIN && p->pipe_bytes <= path)
        cruise(p, 2, now_ns);
    if (p->phase == PACE_CRUISE) {
        bool next = over;

        if (p->cycle ==
            0) /* until the queue is there that it makes, or that is seen to be too much */
            next = over && (p->lost || p->pipe_bytes >= path_bytes(p, cycle_gain[0]));
        else if (p->cycle == 1) /* until it is gone */
            next = p->pipe_bytes <= path ||
                   now_ns - p->cycle_ns > DOWN_PHASES * most(p->rtt_min_ns, PHASE_MIN_NS);
        if (next)
            cruise(p, (p->cycle + 1) % 8, now_ns);
    } else if (p->phase == PACE_PROBE_RTT) {
        if (!p->probe_end_ns && p->pipe_bytes <= probe_rtt_bytes(p)) {
            p->probe_end_ns = now_ns + most(p->rtt_min_ns, PHASE_MIN_NS);
            p->rtt_min_at_ns = now_ns;
        } else if (p->probe_end_ns && now_ns >= p->probe_end_ns)
            cruise(p, 2, now_ns);
    }
}

static void end_round(struct pace *p)
{
    p->round_end_bytes = p->delivered_bytes;
    if (p->phase == PACE_STARTUP)
        look_for_full(p);
    if (p->round_rtt_min_ns)
        p->last_round_rtt_min_ns = p->round_rtt_min_ns;
    p->round_rtt_min_ns = p->round_rtts = 0;
    p->round_limit = PACE_BY_PATH;
}

void pace_update(struct pace *p, uint64_t now_ns)
{
    const struct pace_mark *m = &p->newest;
    uint64_t took;

    if (!p->acked)
        return;
    p->acked = false;
    if (p->limited && p->delivered_bytes > p->limited)
        p->limited = 0;
    took = most(p->newest_sent_ns - m->first_sent_ns, now_ns - m->delivered_ns);
    p->round_limit = m->limit > p->round_limit ? m->limit : p->round_limit;
    if (took && took >= p->rtt_min_ns) {
        uint64_t rate = (uint64_t)((unsigned __int128)(p->delivered_bytes - m->delivered_bytes) *
                                   NS_PER_S / took);

        if (rate && (m->limit == PACE_BY_PATH || rate >= pace_rate(p)))
            rate_sample(p, rate, now_ns);
    }
    if (m->delivered_bytes >= p->round_end_bytes)
        end_round(p);
    if (p->unpaced)
        return;
    step(p, now_ns);
    set_limits(p);
}
