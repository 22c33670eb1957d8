/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Session loops of the edge and the cloud: they join a stage, a codec and a link over a port.
 * Both are driven by poll(now_ns) and never block or read a clock, so that on a loop port with a
 * fake stage both run in one thread of a test.
 *
 *   session: OPEN -> OPENED | REFUSED, then ROWS (n rows up) -> TOKENS (m <= n ids down), CLOSE.
 *
 * A ROWS message may end in rows whose input ids were guessed (drafts): the cloud samples after the
 * row before the first guess, goes on while its sample equals the next guess, answers the accepted
 * ids plus the one that ends them, and both sides truncate their KV to what was accepted. Plain
 * decode is the case of no guesses. An edge whose stage has the head does all of that itself: the
 * cloud answers by hidden states, and is told no id. docs/wire.md has the message formats.
 */
#ifndef ISTHMUS_DATAPLANE_PIPELINE_H
#define ISTHMUS_DATAPLANE_PIPELINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codec/codec.h"
#include "codec/rate.h"
#include "compute/sampler.h"
#include "compute/stage.h"
#include "dataplane/link.h"
#include "dataplane/port.h"
#include "dataplane/secure/authorized.h"
#include "dataplane/secure/handshake.h"
#include "dataplane/secure/identity.h"

#define PIPELINE_ERR 320

/* Who we are and whom we speak to; both are borrowed. identity NULL: frames are not encrypted, which
 * is for processes of one host. An edge's peers is the one cloud. */
struct pipeline_security {
    const struct identity *identity;
    const struct authorized *peers;
};

/* "AES-128-GCM" or "none". */
static inline const char *pipeline_cipher(const struct pipeline_security *s)
{
    return s->identity ? "AES-128-GCM" : "none";
}

/* --- edge --------------------------------------------------------------------------------------- */

struct edge;

/*
 * An edge may be joined to several clouds at once: each connection is an uplink, known by its index
 * from 0 on. One front stage computes for all of them, and rows of sessions at different clouds go
 * through it together. A session is at one uplink at a time, where `place` put it. It is moved, by
 * replaying its history elsewhere, when its uplink is lost, drains or is removed; its ids stay what
 * they would have been. A cloud that is silent for 3 s, unless `link` says otherwise, counts as lost.
 * Only where no uplink is left do sessions wait, as edge_rejoin says.
 */
#define EDGE_UPLINKS_MAX 64u
#define EDGE_UPLINK_NAME 64u /* bytes, with the zero */

/* An uplink that could take a session now: its cloud was heard, fits, and does not drain. */
struct edge_uplink_view {
    uint32_t index;
    const char *name;
    uint32_t sessions; /* of ours there */
    uint32_t shared;   /* tokens of the session's beginning that this cloud has or will have */
    uint64_t rtt_ns;   /* median; 0: not known yet */
    bool full;         /* it had no room a moment ago */
    bool has_status;   /* the cloud said the following, lately */
    uint32_t free_sessions;
    uint64_t free_tokens; /* of its KV budget */
};

struct edge_uplink_params {
    const char *name;                  /* for people; copied; NULL: the port's name */
    struct port *port;                 /* not owned; NULL: next_port gives it */
    struct pipeline_security security; /* borrowed, as edge_params' */
    /* As edge_rejoin's, for this uplink. NULL function: always `port`. */
    struct port *(*next_port)(void *arg);
    void *arg;
};

enum edge_uplink_state {
    EDGE_UPLINK_APART,   /* no connection; the next is tried soon */
    EDGE_UPLINK_JOINING, /* the cloud was not heard yet */
    EDGE_UPLINK_JOINED,
    EDGE_UPLINK_UNFIT, /* joined, but another model, split, codec or arithmetic: `why` */
};

struct edge_uplink_stats {
    uint32_t index;
    char name[EDGE_UPLINK_NAME]; /* or, without one, the address or the port's */
    char port[96]; /* and the address it tries */
    enum edge_uplink_state state;
    bool draining;     /* asked for by edge_uplink_drain */
    bool drains;       /* the cloud said that it does */
    uint32_t sessions; /* placed there, replaying ones too */
    uint32_t replaying;
    uint64_t rtt_ns; /* median of this connection; 0: not known */
    uint64_t reconnections, replayed_bytes, replayed_rows;
    uint64_t moved;         /* sessions that were at another uplink before */
    struct link_stats link; /* as edge_stats' */
    const char *cipher;
    bool has_status; /* the cloud said: */
    uint32_t free_sessions;
    uint64_t free_tokens;
    enum kv_format kv_asked; /* of new sessions, at least; KV_F16: any */
    char why[PIPELINE_ERR]; /* why it was last lost, or is unfit; "": it never was */
};

/*
 * How an edge goes on when its cloud is lost: it connects again, to the same cloud or another, and
 * gives it each session's compressed history, the very tiles that were sent, so that the ids that
 * follow are those that would have. All zero: it doesn't go on, and every session ends EDGE_LOST.
 */
struct edge_rejoin {
    uint64_t timeout_ns;           /* what sessions wait for a cloud before they end */
    uint64_t attempt_timeout_ns;   /* of that, for one address; 0: 10 s */
    bool several;                  /* next_port has more than one: when first joining, too, the next
                                    * is tried where one does not answer in attempt_timeout_ns */
    size_t history_bytes;          /* memory for histories. A session that finds no room has none: it
                                    * is computed again from its ids, or, with a target of
                                    * bytes or one that has changed, ends */
    bool endless;                  /* sessions that waited in vain end, but the edge goes on looking */
    /* The port of the next address to try, or the same one again; whichever it gave before is not
     * used any more. NULL: none can be opened just now. NULL function: always edge_params' port. */
    struct port *(*next_port)(void *arg);
    /* What users should know, a line: lost, waiting, gone on. */
    void (*say)(void *arg, const char *line);
    void *arg;
};

struct edge_params {
    struct stage *stage;           /* layers [0, split); not owned. With the head: clouds, which need
                                    * none then, send hidden states, and no id leaves the edge */
    struct port *port;             /* uplink 0's, not owned. NULL: uplinks come by edge_uplink_add */
    const char *name;              /* uplink 0's, for people; NULL: the port's name */
    struct codec_params codec;
    const struct codec_profile_curve *curve; /* of codec's mode, borrowed; NULL: no targets */
    struct codec_rate_target target; /* of every session, kept by its own controller from `codec`'s
                                      * other parameters; CODEC_RATE_NONE: `codec` as it is */
    struct link_params link;       /* path, keys, initiator and connection are filled in */
    struct pipeline_security security;
    uint32_t chunk_tokens;         /* prefill chunk; 0: 64 */
    uint32_t max_sessions;         /* 0: 1 */
    bool no_prefix;                /* sessions share nothing, and none lingers to be begun like */
    enum kv_format kv_most;        /* the coarsest that sessions get where their first cloud asks for
                                    * coarser keys and values than their request; KV_F16: none get
                                    * any other than that */
    uint64_t connect_timeout_ns;   /* no peer by then: error; 0: 10 s */
    struct edge_rejoin rejoin;     /* next_port and several: of uplink 0 */
    /*
     * Which of n >= 1 uplinks takes the session: a position in views, or -1: it waits and is asked
     * for again when something changed, or after a tenth of a second. Not asked where the edge has
     * one uplink. NULL: one that has its beginning, unless it has far more sessions than another;
     * else the one with the fewest. Must not call the edge.
     */
    int (*place)(void *arg, const struct edge_uplink_view *views, uint32_t n, int64_t session);
    void *place_arg;
};

enum edge_finish { EDGE_LENGTH, EDGE_STOP, EDGE_CANCELLED, EDGE_REFUSED, EDGE_LOST };

struct edge_result {
    enum edge_finish finish;
    char error[PIPELINE_ERR];      /* EDGE_REFUSED, EDGE_LOST: why, in one line */
    uint32_t n_prompt, n_generated;
    enum kv_format kv;             /* of its cache: for good once it was at a cloud */
    uint32_t n_shared;             /* of the prompt: begun as another session's, not computed */
    uint64_t submitted_ns, first_token_ns, last_token_ns; /* in now_ns's clock */
    uint64_t tile_bytes_up;        /* tiles with their headers, no other heads */
    uint64_t rows_up;              /* rows those bytes carried */
};

struct edge_request {
    const int32_t *prompt_ids;     /* copied */
    uint32_t n_prompt;
    uint32_t n_predict;            /* most ids to generate, >= 1 */
    struct sampler_params sampler;
    uint32_t n_top; /* alternatives that on_token is given with each id; the vocabulary
                     * may have fewer */
    bool (*is_stop)(void *arg, int32_t id); /* end-of-generation ids; NULL: none. The stop id is
                                             * reported by on_token */
    void (*on_token)(void *arg, const struct token_sample *t);
    void (*on_done)(void *arg, const struct edge_result *r);
    void *arg;
    struct codec_rate_target target; /* of this session; CODEC_RATE_NONE: the edge's */
    uint32_t kv;                     /* 1 + the enum kv_format of its cache, at both halves, unless its
                                      * cloud asks for a coarser one (kv_most); 0: that of the edge's
                                      * stage. Only sessions of one format share */
    const int32_t *drafts;         /* tests: guessed continuation, NULL: none. */
    uint32_t n_drafts, draft_len;  /* guesses sent per ROWS message */
};

static inline enum kv_format edge_request_kv(const struct edge_request *r,
                                             const struct stage_info *info)
{
    return r->kv ? (enum kv_format)(r->kv - 1) : info->kv_format;
}

struct edge_stats {
    struct link_stats link; /* packets and bytes: of all connections; the rest: of the last of the
                             * first uplink */
    const char *cipher; /* see pipeline_cipher; of the first uplink */
    const char *port;   /* caps.name of its last one */
    uint64_t reconnections, replayed_rows, replayed_bytes; /* bytes of tiles */
    uint64_t history_bytes; /* memory that histories take now */
    uint64_t history_busy_bytes; /* of it, of sessions that have not ended */
    uint64_t kv_busy_bytes; /* that these may take of the stage's cache */
    uint64_t kept_bytes;    /* of tiles copied into histories, so far */
    uint64_t copied_bytes;  /* of rows copied on their way to the port: none, by design */
    uint64_t port_copied_bytes; /* of payload, by the port itself, both ways: port_stats */
    bool driver_copies; /* of all uplinks' ports: port_caps */
    uint64_t tokens, rows_up; /* tiles and their bytes: codec */
    uint64_t runs, compute_ns; /* of the stage */
    uint64_t decode_rows, bulk_rows; /* that these had; bulk: of prompts */
    uint32_t decoding, reading; /* busy sessions: those that wait for ids; whose prompt is not sent */
    struct codec_rate_range parameter; /* the step or delta of messages under a target */
    struct codec_stats codec;
    uint64_t shared_rows; /* that sessions began with, of others: neither computed nor sent */
    uint32_t uplinks, uplinks_joined; /* all; those whose cloud was heard on this connection */
    uint64_t moved;       /* times that a session went on at another uplink */
    uint32_t sessions;    /* busy ones */
    uint32_t lingering;   /* that have ended, for others to begin like */
    bool connected;       /* a cloud is there, as far as is known */
};

int edge_open(const struct edge_params *p, uint64_t now_ns, struct edge **out, char *err);
void edge_close(struct edge *e); /* CLOSE is sent as well as one burst can; sessions end CANCELLED */

/* Queue a request: session id > 0; -EAGAIN when max_sessions are busy, -ERANGE when
 * n_prompt + n_predict exceeds the stage's context, -EINVAL for an id outside the vocabulary, a
 * target without a curve, a format of the cache that the stage hasn't, or more alternatives than
 * SAMPLER_TOP_MAX. */
int64_t edge_submit(struct edge *e, const struct edge_request *r, uint64_t now_ns);
int edge_cancel(struct edge *e, int64_t session);

/* Another target for a session from its next message on: the link has changed. A target of bytes
 * counts what tile_bytes_up counts. 0, -ENOENT, or -EINVAL as edge_submit. */
int edge_retarget(struct edge *e, int64_t session, struct codec_rate_target target);

/* The target of new sessions from now on, and of all that have none of their own, by their request or
 * by edge_retarget. 0, or -EINVAL as edge_submit. */
int edge_set_target(struct edge *e, struct codec_rate_target target);

/* Give up the session that has ended, lingers and was of no use for longest. False: there is none.
 */
bool edge_make_room(struct edge *e);

/* Most rows of a prompt in a message, no more than edge_params said; and beside decode in a run of the
 * stage, 0: as mix.h has it. From the next run on; no id changes by it. */
void edge_set_rows(struct edge *e, uint32_t chunk_tokens, uint32_t bulk_rows);

/* What was waited for an id. */
#define EDGE_TURNS 256u
struct edge_turn {
    uint64_t at_ns;   /* it came */
    uint64_t gap_ns;  /* since the one before; 0: it is the first */
    uint64_t turn_ns; /* since its rows were sent; of a first one, since it was asked for */
    uint64_t path_ns; /* of that, on the way to the cloud and back, as it says; 0: it does not */
    uint32_t bytes;   /* of the message's tiles; of a first one: rows of the prompt that were sent */
    uint32_t before;  /* bytes of messages to the same cloud that were sent together with it, and before */
};
/* Takes those since the last call, oldest first, of which the newest EDGE_TURNS are kept: how many were
 * written, max at most. */
uint32_t edge_take_turns(struct edge *e, struct edge_turn *list, uint32_t max);

/* Its result so far, and the step or delta of its last message under a target (else 0). 0 or
 * -ENOENT. */
int edge_progress(const struct edge *e, int64_t session, struct edge_result *r, float *parameter);

/* Do what can be done now: packets, then at most one stage run. *deadline_ns: when to call again if
 * no packet comes (now_ns: at once, there is work). Returns the number of busy sessions, or -EPIPE
 * when the peer is lost for good (every session has ended EDGE_LOST, err says why). Callbacks run
 * inside. */
int edge_poll(struct edge *e, uint64_t now_ns, uint64_t *deadline_ns);
const char *edge_error(const struct edge *e);
/* The ports to wait on (port_wait_any): up to max are written; how many there are. 0: none just now
 * (edge_rejoin). */
uint32_t edge_ports(const struct edge *e, struct port **ports, uint32_t max);
void edge_stats(const struct edge *e, struct edge_stats *s);

/*
 * One uplink more, from any moment on, except in a callback. Needs edge_params.rejoin.timeout_ns:
 * sessions must have histories to be moved. The first of all, if edge_params had no port, needs a
 * port, which says how much goes into a packet: later ones that carry less are left out, and that
 * is said. Returns its index; that of a removed one may come again. -EINVAL, -ENOSPC
 * (EDGE_UPLINKS_MAX), -ENOMEM; err: PIPELINE_ERR bytes.
 */
int edge_uplink_add(struct edge *e, const struct edge_uplink_params *p, uint64_t now_ns, char *err);
/* No new sessions there, and those it has move, a few at a time, as others can take them; while
 * none can they stay. False: as any other again. 0 or -ENOENT. */
int edge_uplink_drain(struct edge *e, uint32_t index, bool drain);
/* Goodbye is said; its sessions go on elsewhere, or wait. Its port is not used any more. Not in a
 * callback. 0 or -ENOENT. */
int edge_uplink_remove(struct edge *e, uint32_t index, uint64_t now_ns);
/* 0, or -ENOENT: there is none of this index; all are below EDGE_UPLINKS_MAX. */
int edge_uplink_stats(const struct edge *e, uint32_t index, struct edge_uplink_stats *s);
/* Where a busy session is: an index, or -ENOENT: nowhere just now. */
int edge_session_uplink(const struct edge *e, int64_t session);

/* --- cloud -------------------------------------------------------------------------------------- */

struct cloud;

struct cloud_params {
    struct stage *stage;           /* layers [split, n); not owned */
    struct port *port;             /* not owned */
    struct codec_params codec;     /* mode must agree with the edges' */
    struct link_params link;       /* of each edge's link */
    struct pipeline_security security; /* without: edges are known by their connection only */
    uint32_t max_sessions;         /* of all edges; 0: 1. What the stage has of sequences beyond these
                                    * is for sessions that have ended, for others to begin like */
    uint32_t max_edges;            /* at once, to LINKS_MAX (256); 0: 64. Others are turned away */
    /* What users should know, a line: who joined, who is gone and why. NULL: nobody wants to. */
    void (*say)(void *arg, const char *line);
    void *say_arg;
};

struct cloud_stats {
    struct link_stats link; /* of all links so far; no times and rates: cloud_links has them */
    uint64_t rows, tokens, refused;
    uint64_t shared; /* rows that sessions began with, of others */
    uint32_t sessions, lingering;
    uint64_t kv_bytes; /* that busy sessions may take of the cache */
    uint32_t edges;    /* joined now */
    uint64_t edges_joined, edges_left, turned_away; /* so far; turned away: for want of max_edges */
    bool draining;
};

/* An edge that has joined. */
struct cloud_link {
    bool encrypted;             /* else name and peer say nothing */
    char name[AUTHORIZED_NAME]; /* as the list of those admitted has it */
    struct fingerprint peer;
    uint32_t connection;
    struct wire_path path;      /* as frames to it are addressed */
    uint64_t joined_ns, silent_ns;
    uint32_t sessions, lingering;
    uint64_t kv_bytes;
    uint32_t held_packets;      /* of messages that wait to be computed */
    uint64_t rows, tokens;
    struct link_stats link;
};

int cloud_open(const struct cloud_params *p, uint64_t now_ns, struct cloud **out, char *err);
void cloud_close(struct cloud *c);

/* As edge_poll. Returns the number of open sessions. An edge that leaves or dies takes its own
 * sessions with it and nothing else. */
int cloud_poll(struct cloud *c, uint64_t now_ns, uint64_t *deadline_ns);
/* Draining: no new sessions, which all edges are told; who has another cloud moves there. */
void cloud_drain(struct cloud *c, bool draining);
/* While sessions are there, new ones of more tokens wait, or all, of which edges are told: for a
 * budget of memory. tokens 0, at first: all that the stage takes. */
void cloud_set_limits(struct cloud *c, uint32_t tokens, bool full);
/* New sessions should keep keys and values in this format, or a coarser one, of which edges are told;
 * those that may not are let in all the same. KV_F16, at first: in any. */
void cloud_ask_kv(struct cloud *c, enum kv_format f);
/* A session that has ended gives up its cache; false: there is none. */
bool cloud_make_room(struct cloud *c);
/* Another list of edges admitted, with other limits, borrowed from now on; who is not on it is cut off
 * by the next poll. Only with encryption. */
void cloud_set_peers(struct cloud *c, const struct authorized *peers);
void cloud_stats(const struct cloud *c, struct cloud_stats *s);
/* The edges that have joined: how many were written to list, max at most. */
uint32_t cloud_links(const struct cloud *c, struct cloud_link *list, uint32_t max);
/* As stats.edges_left, but cheap. */
uint64_t cloud_edges_left(const struct cloud *c);
/* Edges that were not admitted; if any, who was the last. Cheap, too. */
uint64_t cloud_strangers(const struct cloud *c, struct fingerprint *last);

/* During a stage run the loops keep the link alive through stage_set_poll; `clock` gives them the
 * time there (control passes port_now_ns; tests a virtual clock). */
void edge_set_clock(struct edge *e, uint64_t (*clock)(void *arg), void *arg);
void cloud_set_clock(struct cloud *c, uint64_t (*clock)(void *arg), void *arg);

/* `told` is called in edge_poll when callbacks of requests may have been called, and before rows are
 * computed: what they collected is to go on. */
void edge_on_told(struct edge *e, void (*told)(void *arg), void *arg);

#endif
