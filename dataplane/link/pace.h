/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast, and how much at once: from what was acknowledged in which time
 * (draft-cheng-iccrg-delivery-rate-estimation) a model of the path, its rate and its shortest round
 * trip, and from those a rate to send at and a bound for what is under way (after BBR,
 * draft-cardwell-iccrg-bbr-congestion-control). Losses say nothing about the rate, so a path that
 * loses by chance is used in full, and the queue before its bottleneck stays short.
 */
#ifndef ISTHMUS_DATAPLANE_LINK_PACE_H
#define ISTHMUS_DATAPLANE_LINK_PACE_H

#include <stdbool.h>
#include <stdint.h>

/* What kept more from being sent: the path, as far as is known; the receiver's credit or our own
 * window; there was nothing to send. */
enum pace_limit { PACE_BY_PATH, PACE_BY_CREDIT, PACE_BY_OWNER };

struct pace_mark { /* of a packet: how things stood when it was sent */
    uint64_t delivered_bytes, delivered_ns, first_sent_ns;
    uint8_t limit;
};

enum pace_phase { PACE_STARTUP, PACE_DRAIN, PACE_CRUISE, PACE_PROBE_RTT };

struct pace {
    uint64_t ack_delay_ns; /* how long the peer may wait to acknowledge */
    bool unpaced;          /* the path is measured, and nothing is made of it */
    /* what went and came */
    uint64_t pipe_bytes; /* sent, not acknowledged, not known to be lost */
    uint64_t delivered_bytes, delivered_ns, first_sent_ns;
    uint64_t limited; /* until so many bytes are delivered samples say what was asked for, not what
                       * the path takes; 0: they say that */
    enum pace_limit limit;
    /* the newest packet that this input acknowledged */
    struct pace_mark newest;
    uint64_t newest_sent_ns, newest_order;
    bool acked;
    /* the path */
    uint64_t rate_now, rate_before, rate_from_ns; /* byte/s, highest of late: pace_rate */
    uint64_t rtt_min_ns, rtt_min_at_ns;           /* 0: not known */
    uint64_t round_rtt_min_ns, last_round_rtt_min_ns;
    uint32_t round_rtts;      /* of this round */
    uint64_t round_end_bytes; /* a round ends when something sent after its start is acknowledged */
    uint8_t round_limit;
    /* what is made of it */
    enum pace_phase phase;
    uint64_t full_bytes_per_s; /* start-up: the highest rate so far, */
    uint32_t full_rounds;      /* and rounds without much more */
    uint32_t cycle;            /* cruise: which part of the cycle */
    uint64_t cycle_ns;         /* since when */
    bool lost;                 /* something, in it */
    uint64_t probe_end_ns;     /* shortest round trip: until then; 0: not drained yet */
    uint64_t ns_per_byte_q20;  /* 0: no limit */
    uint64_t window_bytes;
    uint64_t next_ns; /* when the next packet may go */
};

void pace_init(struct pace *p, uint64_t ack_delay_ns, bool unpaced);
/* Another path: nothing is known of it. */
void pace_forget(struct pace *p);

/* A packet went. */
void pace_sent(struct pace *p, struct pace_mark *m, uint32_t bytes, uint64_t now_ns);
/* The port did not take it. */
void pace_refused(struct pace *p, uint32_t bytes);
void pace_lost(struct pace *p, uint32_t bytes);
/* It arrived. in_pipe: it did not count as lost. late: it was sent twice, and which of them came is
 * not known. */
void pace_acked(struct pace *p, const struct pace_mark *m, uint64_t sent_ns, uint64_t order,
                uint32_t bytes, bool in_pipe, bool late, uint64_t now_ns);
void pace_rtt(struct pace *p, uint64_t rtt_ns, uint64_t now_ns);
/* All that this input acknowledged was told. */
void pace_update(struct pace *p, uint64_t now_ns);
/* No more is sent now, though the path would take it. */
void pace_starved(struct pace *p, enum pace_limit by);

/* As much is under way as should be. */
static inline bool pace_is_full(const struct pace *p)
{
    return p->pipe_bytes >= p->window_bytes;
}

/* Highest rate of late; 0: not known. */
static inline uint64_t pace_rate(const struct pace *p)
{
    return p->rate_now > p->rate_before ? p->rate_now : p->rate_before;
}

#endif
