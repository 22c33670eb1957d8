/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Netem: an impaired path, one way, as a pure state machine: no clock, no I/O. Frames are put in
 * and taken out when they are due. `--netem` puts one behind a port (port_netem, dataplane/port.h),
 * `isthmus netem` two between interfaces (dataplane/port/bridge.h).
 *
 * What a frame meets, in this order:
 * - mtu: a packet that is longer, with its IP header, is gone, and nobody is told
 * - rate, queue: the bottleneck: len * 8 / rate seconds each, exactly (the remainder of a
 *   nanosecond is carried on); who must wait waits in the queue, and who finds it full is gone
 *   (tail drop). Bytes are those of the frame, Ethernet header and all, without preamble, checksum
 *   and gap
 * - drop, burst: lost on the way, so its time on the bottleneck was used. Each by itself, or with
 *   burst=B by a two-state Markov chain (Gilbert-Elliott: nothing passes in the bad state,
 *   everything in the good one): from bad to good with 1/B, from good to bad with
 *   drop / (B (1 - drop)), so that B is the mean length of a burst and drop the fraction lost
 * - corrupt: one bit flipped, behind the headers that say where the frame goes
 * - delay, jitter: delay plus or minus jitter, uniform. Order is kept: a frame never overtakes the
 *   one before it, but waits for it
 * - duplicate: leaves twice
 * - reorder: held back until 1..depth frames that came later have left, or NETEM_REORDER_MAX_NS
 *   have passed
 *
 * Rate, delay and mtu may change once frames go: rate@5s=4mbit is the rate from five seconds after the first
 * frame on, for frames that enter then.
 *
 * The fate of the i-th frame is a function of (seed, i) alone: the same seed gives the same fate to
 * the same sequence of frames, whatever their times and lengths. Only mtu and the queue look at those.
 */
#ifndef ISTHMUS_DATAPLANE_NETEM_H
#define ISTHMUS_DATAPLANE_NETEM_H

#include <stdbool.h>
#include <stdint.h>

#define NETEM_ERR            256
#define NETEM_DEPTH_MAX      64u
#define NETEM_DELAY_MAX_NS   UINT64_C(60000000000)
#define NETEM_RATE_MIN       UINT64_C(1000)          /* bit/s */
#define NETEM_RATE_MAX       UINT64_C(1000000000000) /* bit/s */
#define NETEM_QUEUE_PACKETS  1000u                   /* when only a rate is given */
#define NETEM_REORDER_MAX_NS UINT64_C(10000000)
#define NETEM_MTU_MIN        68u /* IPv4's */
#define NETEM_MTU_MAX        65535u
#define NETEM_HELD_MAX_BYTES (UINT64_C(256) << 20) /* on the way; the rest overflows */

#define NETEM_CHANGES_MAX 32u

struct netem_change {
    uint64_t at_ns; /* since the first frame */
    enum netem_what { NETEM_RATE, NETEM_DELAY, NETEM_MTU } what;
    uint64_t value;
};

/* Zeros: nothing happens. Fractions in [0, 1]. */
struct netem_params {
    double drop, duplicate, reorder, corrupt;
    double burst;                 /* mean length of a burst of drops; 0: each by itself */
    uint32_t reorder_depth;       /* 0: 4 */
    uint64_t delay_ns, jitter_ns; /* jitter <= delay */
    uint64_t rate_bit_per_s;      /* 0: no bottleneck */
    uint64_t queue_bytes;         /* 0: no limit in bytes */
    uint64_t queue_packets; /* 0: none in packets; NETEM_QUEUE_PACKETS when neither is given */
    uint64_t mtu_bytes; /* longest IP packet; 0: any */
    uint64_t seed;
    struct netem_change changes[NETEM_CHANGES_MAX]; /* in order of time */
    uint32_t n_changes;
};

/*
 * "delay=25ms,jitter=2ms,rate=20mbit,queue=100kB,drop=1%,burst=4,dup=.1,reorder=20%,depth=3,
 * corrupt=.1%,mtu=1400,seed=7" -> params. Every key at most once, but rate@TIME, delay@TIME and mtu@TIME, in
 * order of time. err: NETEM_ERR bytes, a line that names
 * the key and what it takes. 0 or -EINVAL.
 */
int netem_parse(const char *text, struct netem_params *p, char *err);

/* 0, or -EINVAL and a line in err (NETEM_ERR bytes) when the values do not fit together. */
int netem_check(const struct netem_params *p, char *err);

/* Whether it is, or comes to be, narrower than what is sent may be. */
bool netem_is_narrow(const struct netem_params *p);

/* Whether anything in it takes time. If not, every call may say that it is time 0. */
bool netem_is_timed(const struct netem_params *p);

struct netem_stats {
    uint64_t packets, bytes;         /* put in */
    uint64_t out_packets, out_bytes; /* taken out, duplicates and all */
    uint64_t dropped;                /* by drop and burst */
    uint64_t overflowed;             /* found the queue, or the memory, full */
    uint64_t too_long;               /* by mtu */
    uint64_t duplicated, reordered, corrupted;
    uint64_t queue_max_packets, queue_max_bytes; /* most that ever waited for the bottleneck */
};

struct netem_line;

/* A frame that left; its bytes are valid until netem_line_pop. */
struct netem_frame {
    uint32_t len;
    const uint8_t *bytes;
};

/* keep_bytes: so many at a frame's front are never corrupted. 0, -EINVAL (netem_check), -ENOMEM. */
int netem_line_open(const struct netem_params *p, uint32_t keep_bytes, struct netem_line **out);
void netem_line_close(struct netem_line *l);

/* A frame of len >= 1 bytes enters; it is copied. now_ns never goes back. 0, or -ENOMEM: it did not
 * enter, and its fate stays open. */
int netem_line_put(struct netem_line *l, uint64_t now_ns, const uint8_t *bytes, uint32_t len);

/* The frame that leaves next, when one is due at now_ns: the same one until it is popped. NULL:
 * none. */
const struct netem_frame *netem_line_due(struct netem_line *l, uint64_t now_ns);
void netem_line_pop(struct netem_line *l); /* that one has gone */

/* When something is due if nothing more enters; UINT64_MAX: nothing is on the way. */
uint64_t netem_line_next_ns(const struct netem_line *l);

/* What is held back for others to overtake it waits for them no longer. */
void netem_line_stop_waiting(struct netem_line *l);

const struct netem_stats *netem_line_stats(const struct netem_line *l);

#endif
