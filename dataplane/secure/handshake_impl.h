/* SPDX-License-Identifier: Apache-2.0 */
/* The handshake's inside: exchange.c (one handshake with one peer), handshake.c (all of a side's). */
#ifndef ISTHMUS_DATAPLANE_SECURE_HANDSHAKE_IMPL_H
#define ISTHMUS_DATAPLANE_SECURE_HANDSHAKE_IMPL_H

#include "dataplane/secure/handshake.h"
#include "dataplane/secure/session.h"

#define HANDSHAKE_ANSWERS_MAX  64u /* verify requests that wait to be sent */
#define HANDSHAKE_ANSWER_BYTES 128u
#define HANDSHAKE_KNOCKS_MAX   64u /* first packets, and denials, looked at between two outputs */
#define HANDSHAKE_DENIALS_MAX  64u /* hosts whose frame of an unknown connection waits for its denial */

enum exchange_state { FRESH, RUNNING, DONE, TAKEN, FAILED };

/* One handshake with one peer. */
struct exchange {
    enum exchange_state state;
    struct session *session; /* NULL: not needed any more */
    uint32_t connection, attempt;
    struct wire_path path;
    uint64_t began_ns, heard_ns; /* heard: of progress */
    uint32_t heard;              /* peer's packets below and at this have arrived */
    bool verified;               /* initiator: the cookie came */
    uint32_t acked;              /* ours up to this one have arrived there */
    bool ack_due;
    uint32_t next;             /* next of ours in this burst; acked + 1 ... */
    uint64_t again_ns, rto_ns; /* when to send again what is not acknowledged */
    struct handshake_result result;
};

/* A verify request: made, sent and forgotten. */
struct answer {
    struct wire_path path;
    uint32_t connection, attempt, number;
    uint16_t bytes;
    uint8_t datagram[HANDSHAKE_ANSWER_BYTES];
};

/* A frame of an unknown connection. */
struct stray {
    struct wire_path path; /* back to where it came from */
    uint32_t connection;
    uint8_t tag[WIRE_TAG_BYTES];
};

struct handshake {
    struct handshake_params p;
    struct wire_path path;
    struct session_context *context;
    struct exchange *exchanges; /* initiator: one; responder: [half_open_max] */
    uint32_t n;
    uint32_t n_busy;          /* of these, not FRESH: mostly none, and then nothing is looked at */
    struct session *listener; /* responder: for those of whom nothing is known */
    struct answer answers[HANDSHAKE_ANSWERS_MAX];
    uint32_t n_answers;
    uint32_t n_knocks; /* since the last output */
    bool denied;               /* initiator: by this one */
    struct handshake_denial denial;
    struct evp_pkey_st *peer_key; /* initiator: of the peer, once it was met */
    uint64_t proof_ns;            /* initiator: when a signature may be looked at again */
    uint64_t deny_ns;             /* responder: when it may say so again */
    struct stray strays[HANDSHAKE_DENIALS_MAX]; /* one of a host, the oldest first */
    uint32_t n_strays;
    uint64_t now_ns, retry_ns; /* initiator: when the next attempt begins; 0: one runs */
    uint32_t attempt, failures;
    const char *error; /* NULL or error_text */
    char error_text[256];
    struct handshake_stats stats;
    struct fingerprint last_refused;
};

/* Begin one with a session that has not run yet: what it writes goes to path. */
void exchange_begin(struct handshake *h, struct exchange *e, uint32_t connection, uint32_t attempt,
                    const struct wire_path *path, struct session *s);
void exchange_forget(struct handshake *h, struct exchange *e);
/* Let DTLS do what it can with the packet it was given, or without one at first. */
void exchange_run(struct handshake *h, struct exchange *e);
/* A packet of this exchange's peer: its number, what it acknowledges, its datagram. */
void exchange_take(struct handshake *h, struct exchange *e, uint32_t number, uint32_t ack,
                   const uint8_t *datagram, size_t n);
/* Give up DTLS's memory once all is said and heard. */
void exchange_settle(struct exchange *e);

void exchange_tick(struct handshake *h, struct exchange *e);
/* When exchange_tick has something to do; UINT64_MAX: never. */
uint64_t exchange_deadline(const struct handshake *h, const struct exchange *e);

/* Whether it has a packet to send now: an acknowledgement, or datagram exchange_next() if not 0. */
bool exchange_has_output(const struct exchange *e);
uint32_t exchange_next(const struct exchange *e);

#endif
