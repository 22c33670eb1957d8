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
 * decode is the case of no guesses. docs/wire.md has the message formats.
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
                                    * is computed again from its ids, or, with a target of bytes, ends */
    /* The port of the next address to try, or the same one again; whichever it gave before is not
     * used any more. NULL: none can be opened just now. NULL function: always edge_params' port. */
    struct port *(*next_port)(void *arg);
    /* What users should know, a line: lost, waiting, gone on. */
    void (*say)(void *arg, const char *line);
    void *arg;
};

struct edge_params {
    struct stage *stage;           /* layers [0, split); not owned */
    struct port *port;             /* not owned */
    struct codec_params codec;
    const struct codec_profile_curve *curve; /* of codec's mode, borrowed; NULL: no targets */
    struct codec_rate_target target; /* of every session, kept by its own controller from `codec`'s
                                      * other parameters; CODEC_RATE_NONE: `codec` as it is */
    struct link_params link;       /* path, keys, initiator and connection are filled in */
    struct pipeline_security security;
    uint32_t chunk_tokens;         /* prefill chunk; 0: 64 */
    uint32_t max_sessions;         /* 0: 1 */
    bool no_prefix;                /* sessions share nothing, and none lingers to be begun like */
    uint64_t connect_timeout_ns;   /* no peer by then: error; 0: 10 s */
    struct edge_rejoin rejoin;
};

enum edge_finish { EDGE_LENGTH, EDGE_STOP, EDGE_CANCELLED, EDGE_REFUSED, EDGE_LOST };

struct edge_result {
    enum edge_finish finish;
    char error[PIPELINE_ERR];      /* EDGE_REFUSED, EDGE_LOST: why, in one line */
    uint32_t n_prompt, n_generated;
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
    bool (*is_stop)(void *arg, int32_t id); /* end-of-generation ids; NULL: none. The stop id is
                                             * reported by on_token */
    void (*on_token)(void *arg, int32_t id, float logprob);
    void (*on_done)(void *arg, const struct edge_result *r);
    void *arg;
    struct codec_rate_target target; /* of this session; CODEC_RATE_NONE: the edge's */
    const int32_t *drafts;         /* tests: guessed continuation, NULL: none. */
    uint32_t n_drafts, draft_len;  /* guesses sent per ROWS message */
};

struct edge_stats {
    struct link_stats link; /* packets and bytes: of all connections; the rest: of the last */
    const char *cipher; /* see pipeline_cipher */
    const char *port;   /* caps.name of the last one */
    uint64_t reconnections, replayed_rows, replayed_bytes; /* bytes of tiles */
    uint64_t history_bytes; /* memory that histories take now */
    uint64_t kept_bytes;    /* of tiles copied into histories, so far */
    uint64_t copied_bytes;  /* of rows copied on their way to the port: none, by design */
    uint64_t port_copied_bytes; /* of payload, by the port itself, both ways: port_stats */
    uint64_t tokens, rows_up; /* tiles and their bytes: codec */
    struct codec_rate_range parameter; /* the step or delta of messages under a target */
    struct codec_stats codec;
    uint64_t shared_rows; /* that sessions began with, of others: neither computed nor sent */
    uint32_t sessions;    /* busy ones */
    uint32_t lingering;   /* that have ended, for others to begin like */
    bool connected;       /* a cloud is there, as far as is known */
};

int edge_open(const struct edge_params *p, uint64_t now_ns, struct edge **out, char *err);
void edge_close(struct edge *e); /* CLOSE is sent as well as one burst can; sessions end CANCELLED */

/* Queue a request: session id > 0; -EAGAIN when max_sessions are busy, -ERANGE when
 * n_prompt + n_predict exceeds the stage's context, -EINVAL for an id outside the vocabulary or a
 * target without a curve. */
int64_t edge_submit(struct edge *e, const struct edge_request *r, uint64_t now_ns);
int edge_cancel(struct edge *e, int64_t session);

/* Another target for a session from its next message on: the link has changed. A target of bytes
 * counts what tile_bytes_up counts. 0, -ENOENT, or -EINVAL as edge_submit. */
int edge_retarget(struct edge *e, int64_t session, struct codec_rate_target target);

/* Its result so far, and the step or delta of its last message under a target (else 0). 0 or
 * -ENOENT. */
int edge_progress(const struct edge *e, int64_t session, struct edge_result *r, float *parameter);

/* Do what can be done now: packets, then at most one stage run. *deadline_ns: when to call again if
 * no packet comes (now_ns: at once, there is work). Returns the number of busy sessions, or -EPIPE
 * when the peer is lost for good (every session has ended EDGE_LOST, err says why). Callbacks run
 * inside. */
int edge_poll(struct edge *e, uint64_t now_ns, uint64_t *deadline_ns);
const char *edge_error(const struct edge *e);
/* The port to wait on; NULL: there is none just now (edge_rejoin). */
struct port *edge_port(const struct edge *e);
void edge_stats(const struct edge *e, struct edge_stats *s);

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

#endif
