/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The edge's inside: edge.c (sessions, and the loop), edge_message.c (what clouds say),
 * edge_uplink.c (its clouds), edge_place.c (which session is at which), edge_join.c (a cloud's
 * connection), edge_batch.c (what to compute, and sending it), edge_head.c (ids of hidden
 * states), edge_replay.c, edge_share.c.
 */
#ifndef ISTHMUS_DATAPLANE_PIPELINE_EDGE_IMPL_H
#define ISTHMUS_DATAPLANE_PIPELINE_EDGE_IMPL_H

#include "dataplane/pipeline/find.h"
#include "dataplane/pipeline/mix.h"
#include "dataplane/pipeline/pipeline.h"
#include "dataplane/pipeline/proto.h"
#include "dataplane/pipeline/pump.h"

/* The tiles of a session's rows as they were sent, in order, each behind its length (2 bytes). Rows
 * that were taken back are in it still: the tiles after them begin at an earlier row. */
struct edge_history {
    uint8_t *bytes;
    size_t n, room;
    size_t last;              /* where the last message's tiles begin */
    uint32_t last_position;   /* and its first row */
    struct codec_rate last_rate; /* and what it was encoded by */
    bool dropped;             /* no memory was left for it */
};

/* From EDGE_WAITING on it is busy. */
enum edge_state {
    EDGE_FREE,
    EDGE_LINGERING, /* it has ended; others may begin like it */
    EDGE_WAITING,   /* for another to compute what they have in common, for a cloud, or for room: seq
                     * -1 */
    EDGE_OPENING,   /* the cloud is asked, or will be */
    EDGE_RUNNING,
};

struct edge_session {
    enum edge_state state;
    uint32_t id;
    struct edge_uplink *uplink; /* where it is, or will be; NULL: nowhere yet */
    const struct edge_uplink *last_uplink; /* where it was before: to compare only */
    uint64_t nowhere_ns;      /* since when it has none, though clouds are there; 0: it has, or none is */
    uint32_t number;          /* that it has there; no other ever has. 0: nowhere */
    int seq;                  /* of the stage */
    enum kv_format kv;        /* of its cache here and at every cloud */
    bool kv_settled;          /* it was placed: kv is what it will always be */
    struct edge_request r;    /* prompt_ids points at ids, drafts at a copy */
    int32_t *ids;             /* prompt, then what was generated */
    int32_t *drafts;
    uint32_t n_ids;
    uint32_t computed;        /* rows in the stage's cache */
    uint32_t sent;            /* of these, rows that the cloud was sent */
    uint32_t confirmed;       /* of these, rows that it has for good, as its answers say */
    bool reviving;            /* its cloud doesn't have what was sent: a replay is due or under way */
    bool plain;               /* it never had a target: its rows are coded as any session's */
    bool moved;               /* its target has changed: rows as they were sent can't be made again */
    bool alone;               /* the cloud could not begin it like another: not asked again */
    uint32_t like, n_like;    /* number of the session that it asks to begin like, and tokens of it */
    uint64_t used;            /* lingering: when it was last of use, counted */
    uint64_t retry_ns;        /* opening: when to ask the cloud again that had no room; 0: not */
    uint64_t give_up_ns;      /* and until when */
    uint32_t prefill_end;     /* rows below this are computed in chunks: the prompt, or, computed again,
                               * all that was known */
    uint32_t drafted;         /* of these, guesses not answered yet */
    uint32_t unanswered;      /* ROWS messages without their TOKENS */
    bool wants_id;            /* the last of these will bring an id */
    bool head_due;            /* it brought hidden states, of which ids are yet to be made */
    struct edge_history history;
    size_t replayed;          /* bytes of it that this connection's cloud was given */
    bool replaying;           /* it has not all of it yet */
    bool replay_begun;        /* its turn has come */
    int64_t to_answer;        /* TOKENS message that the next ROWS acknowledges, or -1 */
    bool cancelled;
    struct codec_rate rate; /* no target: the edge's codec parameters */
    uint64_t sent_ns;       /* its last message */
    uint32_t sent_bytes, sent_after; /* of its tiles; and of what was sent with it before */
    uint64_t asked_ns;      /* a message that is watched until its answer comes; 0: none is */
    uint32_t asked_to;      /* the end of its rows */
    struct edge_result result;
};

/* Rows of one session computed together: they travel as one message. */
struct edge_item {
    struct edge_session *session;
    uint32_t number; /* of the session then: it may have ended meanwhile, or moved */
    uint32_t first; /* row of the panel */
    struct proto_rows head;
    enum wire_class cls;
};

/* An answer that brings ids, or what they are made of, as it came. */
struct edge_answer {
    struct edge_session *session;
    uint32_t number;   /* of the session then */
    uint32_t message;  /* that the next ROWS acknowledge */
    uint64_t at_ns;    /* it came */
    uint32_t held_ns;  /* the cloud had the rows; UINT32_MAX: it does not say */
    uint32_t first, n; /* of the hidden rows */
};

/* The head at the edge: what came and waits for it. */
struct edge_head {
    struct sampler *sampler; /* NULL: the clouds have the head */
    float *rows;             /* [max_rows][d_model] */
    float *logits;           /* [max_rows][n_vocab] */
    uint32_t n_rows, max_rows;
    struct edge_answer *answers; /* [max_sessions] */
    uint32_t n_answers;
};

/* One of the clouds, and the connection to it. */
struct edge_uplink {
    struct edge *edge;
    uint32_t index;
    char name[EDGE_UPLINK_NAME]; /* "": it has none */
    struct port *port;           /* the present one, or NULL */
    struct pipeline_security security;
    struct port *(*next_port)(void *arg);
    void *next_arg;
    bool goes_on;                /* though its cloud was never met and turns us away */
    bool asks;                   /* its cloud is asked how it is, for no OPEN would be the first word */
    struct pump pump;
    uint32_t n_sessions;         /* placed here, and busy */
    uint32_t chunk_rows;         /* rows of a prefill message at most; known when opened */
    uint32_t cloud_rows, cloud_fragments; /* what the cloud takes in a message */
    uint32_t hidden_rows;        /* that it gives in one, if the head is here */
    uint32_t packets;            /* that the rows being put together take at most */
    bool packets_short;          /* rows or a replay wait for packets */
    uint32_t run_bytes;          /* of frames with rows of the last run, so far */
    const struct edge_session *oldest, *shortest; /* whose prompts alone go on; NULL: all may */
    bool behind;                 /* its cloud, with the prompts it was sent */
    bool draining;               /* as asked for */
    bool unfit;                  /* its cloud is of another kind */
    uint64_t full_until_ns;      /* its cloud had no room */
    struct proto_status status;  /* as this connection's cloud said last */
    bool has_status;

    /* edge_join.c */
    bool joined;                 /* the pump is open: there is a connection, or one in the making */
    bool met;                    /* and the cloud was heard on it */
    uint64_t met_ns;             /* since then */
    bool ever_met;
    const char *port_name;
    char port_text[96];          /* and the address that it tries */
    char where[EDGE_UPLINK_NAME + 98]; /* for people: the name, too */
    uint64_t attempt_ns;         /* when this connection, or the wait for its port, began */
    uint64_t retry_ns;           /* not joined: when to go on */
    bool narrow_said;            /* that a port is too narrow was said */
    uint64_t lost_ns;            /* when the connection before was lost */
    char lost_why[PIPELINE_ERR];
    char refused_why[PIPELINE_ERR]; /* by one that was tried since; "": none did */
    struct link_stats past;      /* of connections before */
    uint64_t port_copied_before; /* by this port, before this connection */

    uint64_t reconnections, replayed_bytes, replayed_rows, moved;
};

struct edge {
    struct edge_params p;        /* port: not used */
    const struct stage_info *info;
    struct edge_uplink *uplinks[EDGE_UPLINKS_MAX]; /* NULL: none of this index */
    uint32_t n_uplinks;          /* of them */
    uint32_t end_uplinks;        /* all indices are below */
    struct codec *codec;
    size_t tile_capacity;        /* in packets that any path takes; 0: no port yet that would say */
    uint32_t row_cuts;           /* column ranges a row is cut into */
    uint32_t packet_rows;        /* rows that surely fit one packet; 1 when cut */
    struct edge_session *sessions; /* [n_places] */
    uint32_t n_places;
    struct find by_number;       /* those that have one */
    uint32_t n_busy, last_id, last_number;
    uint64_t uses;
    const struct edge_session *like; /* not to be given up now */
    bool any_cancelled;          /* sessions are to end */
    bool any_waiting;            /* sessions wait, or will ask their cloud again */
    bool news;                   /* something happened that sessions may wait for */
    uint64_t place_ns;           /* when to look for a place again; 0: none has none */
    bool busy_said;
    bool lost;                   /* for good */
    bool ever_joined, ever_met;
    uint64_t connect_by_ns;      /* none met by then: lost. Until an id came: a cloud that is there for
                                  * a moment, again and again, is none. 0: nobody waits */
    char error[PIPELINE_ERR];
    struct link_stats past;      /* of all connections before */
    size_t history_bytes;        /* of all sessions */
    bool history_full;           /* that it is was said */
    uint64_t now_ns;
    uint64_t (*clock)(void *arg);
    void *clock_arg;
    void (*told)(void *arg);
    void *told_arg;

    float *panel;                /* [max_rows][d_model]: the stage's output */
    int32_t *batch_ids;          /* [max_rows] */
    struct stage_rows *batch;    /* [max_sessions] */
    struct edge_item *items;     /* [max_sessions], those from next_item on not sent yet */
    struct pkt **pkts;           /* [LINK_FRAGMENTS_MAX] */
    uint32_t n_items, next_item;
    struct edge_head head;
    struct mix mix;
    uint32_t turn_decode, turn_prefill; /* sessions to look at first */
    uint32_t max_chunk_tokens;   /* as it was opened with */
    struct edge_turn turns[EDGE_TURNS]; /* a ring */
    uint32_t n_turns, turns_taken; /* so far */

    struct edge_stats stats;
};

/* for (struct edge_uplink *u = edge_next_uplink(e, 0); u; u = edge_next_uplink(e, u->index + 1)) */
static inline struct edge_uplink *edge_next_uplink(const struct edge *e, uint32_t from)
{
    while (from < e->end_uplinks && !e->uplinks[from])
        from++;
    return from < e->end_uplinks ? e->uplinks[from] : NULL;
}

static inline bool edge_is_busy(const struct edge_session *s)
{
    return s->state >= EDGE_WAITING;
}

/* Whether a session whose history was dropped can't be computed again from its ids: its parameters
 * follow from the messages, or have changed on the way. */
static inline bool edge_needs_history(const struct edge_session *s)
{
    return s->moved || s->rate.target.kind == CODEC_RATE_BYTES;
}

/* edge.c */
/* The clock's time, or the latest given. */
uint64_t edge_now(struct edge *e);
/* For people, a line. */
void edge_say(struct edge *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The place is free for another; nobody is told. */
void edge_free_session(struct edge *e, struct edge_session *s);
void edge_end_session(struct edge *e, struct edge_session *s, enum edge_finish finish,
                      const char *error);
/* Where it is placed, once there is a connection; before, nothing. */
void edge_send_open(struct edge *e, const struct edge_session *s);
void edge_send_close(struct edge *e, const struct edge_session *s, bool linger);
/* Every session ends; no other can begin, unless the edge is to go on forever. */
void edge_lose(struct edge *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The port says how much goes into a packet, unless another did. 0, or -EINVAL with err. */
int edge_pack_for(struct edge *e, const struct port *port, char *err);

/* edge_message.c: what a cloud says. */
void edge_on_message(struct edge_uplink *u, const struct link_message *m);
/* The ids of an answer; m->n is not 0. NULL, or what the session is to end with. */
const char *edge_take_tokens(struct edge *e, struct edge_session *s, const struct proto_tokens *m,
                             const struct edge_answer *answer);

/* edge_head.c: ids out of hidden states; nothing where the clouds have the head. */
int edge_head_open(struct edge *e); /* 0 or -ENOMEM */
void edge_head_close(struct edge *e);
/* Rows that a HIDDEN message of this cloud can have: at least 1. */
uint32_t edge_head_rows(const struct edge_uplink *u);
/* HIDDEN: what it brings waits. NULL, or what the session is to end with. */
const char *edge_on_hidden(struct edge *e, struct edge_session *s, const struct link_message *m);
/* Ids of all that waits. */
void edge_head_step(struct edge *e);

/* edge_uplink.c: the clouds. */
/* As edge_uplink_add does; rejoin's fields for the first. NULL: no memory, or no index. */
struct edge_uplink *edge_uplink_new(struct edge *e, const struct edge_uplink_params *p);
void edge_uplink_name_port(struct edge_uplink *u);
const char *edge_uplink_title(const struct edge_uplink *u); /* its name, or where it is */
void edge_uplink_free(struct edge_uplink *u); /* no session is there */
bool edge_any_met(const struct edge *e);
/* It may take sessions: met, known by its STATUS or silent about it for long, fit, not draining; the only one
 * may in any case, unless told to drain. */
bool edge_uplink_open(const struct edge_uplink *u);
void edge_ask(struct edge_uplink *u);
void edge_on_status(struct edge_uplink *u, const uint8_t *p, size_t len);
/* What all of the edge's OPENs have. */
struct proto_open edge_needs(const struct edge *e);
/* It gets no sessions in this connection, for its cloud is of another kind. False: there is no
 * other that may do, so that sessions are to be told why. */
bool edge_uplink_leave_out(struct edge_uplink *u, const char *why);

/* edge_place.c: which session is at which cloud. */
#define EDGE_STATUS_NS 3000000000u /* what a STATUS is waited for: it may be lost some times over */
#define EDGE_REPLAYS 4u /* sessions that are replayed at once to a cloud */
/* The uplink that takes the session, or NULL: none now. */
struct edge_uplink *edge_choose(struct edge *e, struct edge_session *s);
bool edge_uplink_full(const struct edge_uplink *u);
/* The format that the cloud asks new sessions to have, as far as they may; KV_F16: any. */
enum kv_format edge_kv_asked(const struct edge_uplink *u);
/* That the session has, or would have if it began there. */
enum kv_format edge_kv_at(const struct edge_session *s, const struct edge_uplink *u);
/* Tokens of sessions of this format that its cloud has room for, as it says of its own format. */
uint64_t edge_free_tokens(const struct edge_uplink *u, enum kv_format kv);
/* There it is from now on. The first time that settles its format: where that becomes another, a
 * sequence that it had is given up. */
void edge_place(struct edge *e, struct edge_session *s, struct edge_uplink *u);
void edge_unplace(struct edge_session *s);
/* The session is to go on elsewhere, or at a new connection: back to what was sent, at no uplink.
 * Ends it with `why` where it can't. */
void edge_leave(struct edge *e, struct edge_session *s, const char *why);
/* Place those that are nowhere, move those whose uplink drains. */
void edge_place_step(struct edge *e);

/* edge_join.c: the connection, and the next one. */
int edge_join(struct edge_uplink *u, uint64_t now_ns); /* on its port, by a new connection number */
/* Is it still there? Else: what follows from that. */
void edge_check_peer(struct edge_uplink *u);
/* Ends it; its sessions are at no uplink then. */
void edge_part(struct edge_uplink *u, const char *why);
/* While there is none: a step to the next. */
void edge_poll_apart(struct edge_uplink *u);
uint64_t edge_join_deadline(const struct edge_uplink *u);
/* Somebody waits from now on. */
void edge_await(struct edge *e);
/* Has waited for too long: then it is over. */
void edge_check_wait(struct edge *e);

/* edge_share.c: sessions that begin alike, and those that wait for room. */
/* Give up the session that lingers and was of no use for longest, but e->like. False: there is none.
 * arg: the edge. */
bool edge_evict(void *arg);
/* All, or those that are at an uplink. */
void edge_evict_all(struct edge *e, const struct edge_uplink *at);
/* Tokens of the session's beginning that other sessions at the uplink have, or will have. */
uint32_t edge_shared_at(struct edge *e, const struct edge_session *s, const struct edge_uplink *at);
/* Whether a session that ends so is worth keeping. */
bool edge_lingers(const struct edge *e, const struct edge_session *s, enum edge_finish finish);
/* A new session: a cloud, a sequence, and what it can begin like; the cloud is asked if there is
 * one. 0, or as stage_seq_open. */
int edge_share_begin(struct edge *e, struct edge_session *s);
/* The cloud could not: all rows are computed and sent. */
void edge_share_undo(struct edge *e, struct edge_session *s);
/* It gives up its sequence, and waits for room. */
void edge_share_wait(struct edge *e, struct edge_session *s);
/* The cloud has no room now: true when it will be asked again. */
bool edge_share_busy(struct edge *e, struct edge_session *s);
/* Open what waited, where that makes sense now. */
void edge_share_step(struct edge *e);
uint64_t edge_share_deadline(const struct edge *e);

/* edge_turns.c: how long ids are waited for. */
void edge_note_sent(struct edge *e, struct edge_session *s, const struct proto_rows *head,
                    uint64_t tile_bytes, int n_packets);
/* An answer without ids: the cloud has its prompt up to there. */
void edge_note_part(struct edge *e, struct edge_session *s, uint32_t position);
/* Before the ids of an answer are taken. */
void edge_note_answer(struct edge *e, const struct edge_session *s, const struct edge_answer *a);

/* edge_replay.c: what a cloud that knows nothing of a session is told. */
/* Keep a message's tiles, which lie in e->pkts; reply: as it is sent. */
void edge_history_keep(struct edge *e, struct edge_session *s, const struct proto_rows *head,
                       bool reply, int n, const uint16_t *payload_bytes);
/* The message kept last was not sent. */
void edge_history_unkeep(struct edge_session *s);
/* What a cloud needs to know of `from` for its first n_rows; s has nothing yet. */
void edge_history_copy(struct edge *e, struct edge_session *s, const struct edge_session *from,
                       uint32_t n_rows);
void edge_history_free(struct edge *e, struct edge_session *s);
/* Another cloud is to go on: back to what was sent, or to nothing. False: the session can't. */
bool edge_rewind(struct edge *e, struct edge_session *s);
/* The session is open at a cloud, which is to be told what it was: now, or when it has its turn. */
void edge_replay_begin(struct edge *e, struct edge_session *s);
/* Send what may be sent now. Whether anything was. */
bool edge_replay_step(struct edge *e);

/* edge_batch.c */
#define EDGE_CHUNKS_AHEAD 4u /* ROWS messages of a prompt that the cloud has not answered */
void edge_packing(struct edge *e); /* sets row_cuts and packet_rows */
/* Rows of a prefill message, for a cloud that takes so many rows and packets in one. */
uint32_t edge_chunk_rows(const struct edge_uplink *u, uint32_t max_rows, uint32_t max_fragments);
/* Sessions, at this uplink if not NULL, that wait for their next id, or for their turn to ask for
 * it. */
uint32_t edge_decoding(const struct edge *e, const struct edge_uplink *at);
/* The session is open: what was computed ahead is cut to chunk_rows. 0, or stage_seq_truncate's. */
int edge_batch_opened(struct edge *e, struct edge_session *s);
/* What was computed ahead is given up: others need the room. 0, or stage_seq_truncate's. */
int edge_batch_unpick(struct edge *e, struct edge_session *s);
/* Send what was computed, then compute one batch more. Whether anything was done. */
bool edge_batch_step(struct edge *e);

#endif
