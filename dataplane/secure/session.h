/* SPDX-License-Identifier: Apache-2.0 */
/* One DTLS 1.2 session of OpenSSL, without I/O or time: datagrams in, datagrams out. For handshake.c. */
#ifndef ISTHMUS_DATAPLANE_SECURE_SESSION_H
#define ISTHMUS_DATAPLANE_SECURE_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane/outer.h"
#include "dataplane/secure/identity.h"
#include "dataplane/secure/keys.h"

struct session_params {
    const struct identity *identity;
    bool (*admits)(void *arg, const struct fingerprint *peer);
    void *arg;
    bool initiator;
    uint32_t datagram_max_bytes;
};

/* What all sessions of one side share. */
struct session_context;
int session_context_open(const struct session_params *p, struct session_context **out);
void session_context_close(struct session_context *c);

struct session;
int session_open(struct session_context *c, struct session **out);
void session_close(struct session *s);

/* What a cookie is bound to, and the time, of which it is valid for 16 to 32 s. */
struct session_peer {
    struct wire_path path; /* all of it: an IPv6 address lies in several fields */
    uint32_t connection, attempt;
    uint64_t now_ns;
};

/* A first packet for a responder's session. 1: it has a good cookie, go on with session_run; 0:
 * session_answer has the verify request; negative: it is none. Unless it was 1 the session is as new. */
int session_listen(struct session *s, const struct session_peer *who, const uint8_t *datagram,
                   size_t n);
size_t session_answer(struct session *s, uint8_t *to, size_t room);

/* Give it a packet, which must stay until session_run. Then 1: the handshake is finished, 0: it goes
 * on, negative: it failed. */
void session_feed(struct session *s, const uint8_t *datagram, size_t n);
int session_run(struct session *s);

/* Packets it wrote, numbered from 1, kept until forgotten. */
uint32_t session_written(const struct session *s);
const uint8_t *session_datagram(const struct session *s, uint32_t number, size_t *n);
void session_forget(struct session *s, uint32_t up_to);

/* After 1 of session_run. 0 or -EPROTO. */
int session_result(struct session *s, uint32_t connection, struct fingerprint *peer,
                   uint8_t initiator[KEYS_SECRET_BYTES], uint8_t responder[KEYS_SECRET_BYTES]);
/* Then: the peer's public key, with a reference; NULL: there is none. */
struct evp_pkey_st *session_peer_key(const struct session *s);
/* After it failed: the peer showed this identity, and was not admitted. */
bool session_refused(const struct session *s, struct fingerprint *peer);
void session_error(const struct session *s, char *text, size_t room);

#endif
