/* SPDX-License-Identifier: Apache-2.0 */
/* The link's inside, shared by link.c (life), send.c, receive.c, loss.c, path.c, mtu.c and piece.c. */
#ifndef ISTHMUS_DATAPLANE_LINK_IMPL_H
#define ISTHMUS_DATAPLANE_LINK_IMPL_H

#include "dataplane/link.h"
#include "dataplane/link/list.h"
#include "dataplane/link/pace.h"
#include "dataplane/range.h"

#define RING_MASK       (LINK_MESSAGES_MAX - 1u)
#define N_CLASSES       4u
#define SESSION_BUCKETS 256u
#define RTT_SAMPLES     128u
#define OWED_MAX        8u  /* messages with packets not yet acknowledged */
#define ACK_EVERY       16u /* packets */
#define ACK_PARTS_NS    1000000ull
#define ACK_BYTES_MAX   512u
#define ACK_RUN         UINT16_MAX /* instead of `first`: so many messages in a row are whole */

#define PATH_TOKEN_BYTES 16u
#define PROBED_BYTES     4u

#define PIECE_BYTES      1024u /* of a frame, in one piece; fewer in the last */
#define PIECE_HEAD_BYTES 10u
#define PIECES_MAX       16u /* of a frame: the longest that a port has takes 9 */
#define PIECES_QUEUE     128u
#define PIECE_FRAME_MAX  (WIRE_OVERHEAD + PIECE_HEAD_BYTES + PIECE_BYTES)
#define PARTIAL_MAX      16u /* frames of which some pieces have come */

#define HOLD_UNKNOWN    UINT32_MAX
#define ACK_HEAD_BYTES  20u
#define FIRST_CREDIT    32u /* packets, until the receiver has said what it allows */

enum tx_state { TX_QUEUED, TX_SENT, TX_LOST, TX_REFUSED, TX_ACKED };

/* One packet of a message on its way out: in exactly one list until it is acknowledged. */
struct tx_fragment {
    struct list_node node;
    struct tx_message *message;
    struct pkt *pkt;
    uint64_t sent_ns, order; /* of the last transmission; order counts all transmissions */
    uint32_t n_sent;
    uint32_t moves; /* of the link when it was addressed */
    uint16_t fragment, payload_bytes;
    uint16_t epoch; /* sealed in */
    uint8_t state;
    uint8_t more; /* pieces that it went in, beyond one */
    struct pace_mark mark;
};

struct tx_message {
    uint32_t number, session;
    uint32_t reply_to;
    uint32_t older; /* message before this one in the same session bucket */
    uint8_t cls;
    bool is_reply;
    uint16_t n, n_started, n_acked, first_unacked;
    struct tx_fragment fragments[];
};

struct rx_message {
    uint32_t number, session, reply_to, prev;
    uint8_t cls;
    bool is_reply;
    uint16_t n, n_have;
    uint32_t n_packets; /* that it counts as: fragments, and pieces where these came in such */
    uint16_t leading;        /* fragments below this have all arrived */
    uint16_t end;            /* no fragment at or above this has arrived */
    struct rx_message *next; /* in a ready queue */
    uint64_t have[LINK_FRAGMENTS_MAX / 64];
    struct pkt *pkts[];
};

/* A message number from rx_base on. */
struct rx_slot {
    struct rx_message *message;  /* incomplete, or complete and waiting for an earlier one */
    uint32_t follower;           /* the message that follows it in its session; 0: not seen yet */
    uint8_t complete, delivered; /* delivered: in a ready queue or taken */
};

struct rx_queue {
    struct rx_message *head, **tail;
};

/* What the path takes: mtu.c. Lengths of IP packets, but for frames. */
struct mtu {
    uint32_t known;                 /* it takes these */
    uint32_t frame_max, frame_sure; /* longest frames: of the known, of what it takes in any case */
    uint32_t n;                     /* the sizes to try are numbered from 0, the sure one, to n */
    uint32_t low, high;             /* it takes this one; it does not take this one, n + 1: unknown */
    uint32_t at;                    /* being tried */
    uint32_t tries;                 /* lost so far */
    uint32_t first_number, number;  /* PROBEs that tried it */
    bool pending;                   /* one is to be sent */
    bool waiting;                   /* one was */
    bool doubting;                  /* the known one is tried */
    bool raising;                   /* ... before greater ones, after a rest */
    uint64_t due_ns;                /* lost if not answered by then; or, not waiting, when to begin */
    bool heard;                     /* something was, since the latest was sent */
    uint64_t doubted_ns;            /* the latest doubt began, or ended well */
    bool answer_pending;
    uint32_t answer;                /* number of the peer's PROBE */
};

/* A frame that comes in pieces. */
struct partial {
    struct pkt *pkt; /* NULL: free */
    uint32_t message;
    uint16_t fragment, bytes;
    uint32_t have; /* pieces */
};

enum link_end { LINK_ALIVE, LINK_SILENT, LINK_RESET, LINK_CLOSED, LINK_SHUT, LINK_WORN_OUT };

struct link {
    struct link_params p;
    uint64_t now_ns, heard_ns, pinged_ns, ticked_ns;
    enum link_end end;
    bool heard, idle;
    uint16_t hello_epoch;   /* without keys, of a responder: in frames of who has not heard it */
    struct wire_path path;
    uint32_t moves;         /* changes of it */
    struct wire_path left;  /* the one before, */
    uint64_t left_until_ns; /* from where frames may still come that were sent before the change */
    bool path_proved;       /* before anything was heard: by the handshake */
    bool has_path_secret;
    uint8_t path_secret[32];
    struct {
        struct wire_path to;
        uint64_t since_ns, asked_ns;
        uint32_t left; /* challenges to send; 0: nobody is asked */
        bool pending;
    } asking;
    struct {
        struct wire_path to;
        uint8_t token[PATH_TOKEN_BYTES];
        bool pending;
    } answer;
    uint64_t contested_ns;  /* since when another initiator asks to be taken; 0: none does */
    uint8_t ping_tag[WIRE_TAG_BYTES]; /* of the latest PING, */
    bool has_pinged;                  /* which was sent */

    /* control frames to send */
    bool ack_now, ping_pending, close_pending, reset_pending;
    uint32_t control_number;
    struct wire_path reset_path;
    uint32_t control_seen;  /* the peer's highest control number */
    uint64_t control_bits;  /* bit i: control_seen - i was received */
    uint32_t reset_connection;
    uint16_t reset_epoch;

    /* sending */
    struct tx_message *tx_ring[LINK_MESSAGES_MAX];
    uint32_t tx_base, tx_next; /* oldest not wholly acknowledged; next number */
    uint32_t newest[SESSION_BUCKETS];
    struct list_node queued[N_CLASSES], lost[N_CLASSES], refused, sent;
    uint32_t n_queued, in_flight;
    uint32_t in_flight_more; /* of those in flight, pieces beyond one: the receiver counts each */
    uint64_t queued_bytes; /* of payload */
    uint64_t gone_bytes;   /* all that was sent, again or not */
    uint64_t served_at[N_CLASSES]; /* gone_bytes when the class last sent, or began to wait */
    struct pace pace;
    uint32_t probes;    /* packets that go whatever the pace, after a timeout */
    uint32_t sealed[2]; /* packets not acknowledged, by epoch % 2: at most two epochs are about */
    uint32_t credit, credit_number;

    /* loss */
    uint64_t order, rack_order, rack_rtt_ns, rto_from_ns;
    uint32_t backoff;
    /* Packets acknowledged since one that was sent once only; and AMBIGUOUS_STEP for each that a
     * timeout sent again needlessly. */
    uint32_t n_ambiguous;
    uint32_t n_probes; /* packets that timeouts sent again, not told of as needless yet */
    uint32_t n_again, n_needless; /* that timeouts sent again, and that were told of as needless, since
                                   * a packet that was sent once was acknowledged */
    uint32_t lateness; /* how often the time that a peer may be late was too short: it doubles */
    uint32_t reorder_quarters, n_acked;
    uint64_t srtt_ns, rttvar_ns, rtt_min_ns;
    uint64_t rtt_samples[RTT_SAMPLES];
    uint32_t n_rtt_samples;

    /* receiving */
    struct rx_slot rx_ring[LINK_MESSAGES_MAX];
    uint32_t rx_base, rx_end; /* oldest not complete; above the newest seen */
    uint32_t rx_held;         /* packets of incomplete and undelivered messages */
    struct rx_queue ready_decode, ready_other;

    /* acknowledgement owed */
    struct {
        uint32_t message;
        uint64_t at_ns; /* its last packet's arrival */
    } owed[OWED_MAX];
    uint32_t n_owed, owed_packets;
    uint64_t owed_since_ns;
    uint32_t echo_message; /* last packet that arrived; 0: none since the last acknowledgement */
    uint16_t echo_fragment;
    uint64_t echo_ns;
    uint32_t credit_told;
    uint32_t
        ack_from; /* where the next list begins when the last one had no room for all; 0: base */

    struct mtu mtu;
    struct pkt *pieces[PIECES_QUEUE]; /* to be sent, from next_piece on */
    uint32_t n_pieces, next_piece;
    struct partial partials[PARTIAL_MAX];

    struct link_stats stats;
};

/* link.c */
uint16_t link_next_epoch(struct link *l); /* of the frame that is sealed next */
void link_end(struct link *l, enum link_end how);
/* A control frame whose payload stands in the packet; its number is l->control_number then. */
int link_seal_control(struct link *l, struct pkt *p, enum wire_type type, uint16_t payload_bytes);

/* send.c */
struct tx_message *send_find(struct link *l, uint32_t number);
struct tx_fragment *send_oldest(struct link *l, enum tx_state state);
void send_waits(struct link *l, unsigned cls); /* something of the class is about to */
void send_release(struct link *l);
void send_drop_all(struct link *l);
int send_output(struct link *l, struct pkt **out, int n, struct pkt_pool *pool);
void send_refused(struct link *l, struct tx_fragment *f);
bool send_has_output(const struct link *l);
uint64_t send_deadline(const struct link *l); /* when the pace lets something go */

/* loss.c */
void loss_acked(struct link *l, struct tx_fragment *f, uint64_t hold_ns, bool sample);
void loss_message_acked(struct link *l, struct tx_message *m, uint32_t hold_ns);
void loss_below_acked(struct link *l, uint32_t below);
int loss_read_ack(struct link *l, uint32_t control_number, const uint8_t *payload, size_t len);
void loss_tick(struct link *l);
void loss_moved(struct link *l, uint64_t since_ns); /* what was sent since then went astray */
void loss_too_long(struct link *l); /* and what is longer than the path takes now */
uint64_t loss_deadline(const struct link *l);
uint64_t loss_rtt_p50(const struct link *l);

/* path.c */
void path_seen(struct link *l, const uint8_t *frame);
size_t path_write_challenge(struct link *l, uint8_t *payload);
int path_read_challenge(struct link *l, const uint8_t *frame, const uint8_t *payload, size_t n);
int path_read_answer(struct link *l, const uint8_t *frame, const uint8_t *payload, size_t n);
void path_tick(struct link *l);
uint64_t path_deadline(const struct link *l);

/* mtu.c */
void mtu_init(struct link *l);
void mtu_moved(struct link *l); /* another path: nothing is known of it */
/* A packet that only a path of more than the sure size takes was lost again and again. */
void mtu_doubt(struct link *l);
uint32_t mtu_probe_bytes(const struct link *l); /* of payload, in the PROBE to be sent */
void mtu_probe_sent(struct link *l); /* its number is l->control_number */
int mtu_read_probed(struct link *l, const uint8_t *payload, size_t n);
void mtu_tick(struct link *l);
uint64_t mtu_deadline(const struct link *l);

/* piece.c */
/* A frame with so much payload can go in pieces. */
bool piece_takes(const struct link *l, uint32_t payload_bytes);
uint32_t piece_count(const struct pkt *frame);
/* Queue the pieces of a sealed frame; where packets are short it is lost. */
void piece_cut(struct link *l, const struct pkt *frame, struct pkt_pool *pool);
int piece_output(struct link *l, struct pkt **out, int n);
void piece_refused(struct link *l, struct pkt *p); /* takes over the packet */
/* A piece came in this frame: the whole, when it was the last that was missing, else NULL. */
int piece_read(struct link *l, const uint8_t *frame, const uint8_t *payload, size_t n,
               struct pkt **whole);
void piece_drop_queued(struct link *l);
void piece_drop_partial(struct link *l);

/* receive.c */
bool receive_is_new(struct link *l, const struct wire_header *h);
int receive_data(struct link *l, struct pkt *p, const struct wire_header *h,
                 const uint8_t *payload);
void receive_drop_all(struct link *l);
size_t receive_write_ack(struct link *l, uint8_t *payload, size_t capacity);
uint32_t receive_answered(struct link *l, uint32_t message);
void receive_replied(struct link *l);
uint32_t receive_credit(const struct link *l);
uint64_t receive_ack_deadline(const struct link *l);

#endif
