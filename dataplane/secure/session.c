/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/secure/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>

#include "dataplane/link/bytes.h"

#define OUT_MAX            32u /* datagrams; a flight has at most ten at the smallest MTU */
#define ANSWER_BYTES       128u
#define COOKIE_BYTES       32u
#define SLOT_NS            (16ull * 1000000000)
#define NEVER_US           (3600u * 1000000u)
#define CERTIFICATES_BYTES 4096 /* ours has some 300; OpenSSL would hold 100 kB of a stranger's */
#define LABEL              "EXPORTER-isthmus-link-1"

struct session_context {
    struct session_params p;
    SSL_CTX *ssl;
    BIO_METHOD *method;
    BIO_ADDR *nobody; /* for DTLSv1_listen, which wants to tell an address */
    uint8_t cookie_secret[32];
};

struct datagram {
    uint8_t *bytes;
    uint16_t n;
};

struct session {
    struct session_context *c;
    SSL *ssl;
    const uint8_t *in; /* NULL: nothing to read */
    size_t n_in;
    struct datagram out[OUT_MAX]; /* by number % OUT_MAX */
    uint32_t written, forgotten;
    bool listening;
    struct session_peer who;
    uint8_t answer[ANSWER_BYTES];
    size_t n_answer;
    struct fingerprint peer;
    bool peer_shown, peer_refused;
    int alert; /* a fatal one that the peer sent; -1: none */
};

/* --- datagrams -----------------------------------------------------------------------------------
 */

static int bio_write(BIO *b, const char *bytes, int n)
{
    struct session *s = BIO_get_data(b);
    struct datagram *d;

    BIO_clear_retry_flags(b);
    if (s->listening) {
        s->n_answer = (size_t)n <= sizeof s->answer ? (size_t)n : 0;
        memcpy(s->answer, bytes, s->n_answer);
        return n;
    }
    if (s->written - s->forgotten == OUT_MAX || n > UINT16_MAX)
        return -1;
    d = &s->out[(s->written + 1) % OUT_MAX];
    d->bytes = malloc((size_t)n);
    if (!d->bytes)
        return -1;
    memcpy(d->bytes, bytes, (size_t)n);
    d->n = (uint16_t)n;
    s->written++;
    return n;
}

static int bio_read(BIO *b, char *to, int room)
{
    struct session *s = BIO_get_data(b);
    size_t n = s->n_in < (size_t)room ? s->n_in : (size_t)room;

    BIO_clear_retry_flags(b);
    if (!s->in) {
        BIO_set_retry_read(b);
        return -1;
    }
    memcpy(to, s->in, n);
    s->in = NULL;
    return (int)n;
}

static long bio_ctrl(BIO *b, int command, long number, void *pointer)
{
    struct session *s = BIO_get_data(b);

    switch (command) {
    case BIO_CTRL_FLUSH:
        return 1;
    case BIO_CTRL_DGRAM_QUERY_MTU:
    case BIO_CTRL_DGRAM_GET_FALLBACK_MTU:
    case BIO_CTRL_DGRAM_GET_MTU:
        return (long)s->c->p.datagram_max_bytes;
    default:
        return 0;
    }
}

/* --- who is there --------------------------------------------------------------------------------
 */

/* In place of OpenSSL's check of chains, names and dates: the key is admitted or not. */
static int verify(X509_STORE_CTX *store, void *arg)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct session *s = SSL_get_app_data(ssl);
    X509 *certificate = X509_STORE_CTX_get0_cert(store);

    if (!certificate || fingerprint_of_certificate(certificate, &s->peer)) {
        X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
        return 0;
    }
    s->peer_shown = true;
    if (!s->c->p.admits(s->c->p.arg, &s->peer)) {
        s->peer_refused = true;
        X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
        return 0;
    }
    X509_STORE_CTX_set_error(store, X509_V_OK);
    return 1;
}

static void info(const SSL *ssl, int where, int value)
{
    struct session *s = SSL_get_app_data(ssl);

    if (s && where & SSL_CB_ALERT && where & SSL_CB_READ && value >> 8 == SSL3_AL_FATAL)
        s->alert = value & 255;
}

static void make_cookie(const struct session *s, uint64_t slot, uint8_t cookie[COOKIE_BYTES])
{
    uint8_t text[16 + OUTER_BYTES];

    put_be32(text, (uint32_t)(slot >> 32));
    put_be32(text + 4, (uint32_t)slot);
    put_be32(text + 8, s->who.connection);
    put_be32(text + 12, s->who.attempt);
    outer_write(text + 16, &s->who.path, 8);
    HMAC(EVP_sha256(), s->c->cookie_secret, sizeof s->c->cookie_secret, text, sizeof text, cookie,
         NULL);
}

static int give_cookie(SSL *ssl, unsigned char *cookie, unsigned *n)
{
    const struct session *s = SSL_get_app_data(ssl);

    make_cookie(s, s->who.now_ns / SLOT_NS, cookie);
    *n = COOKIE_BYTES;
    return 1;
}

static int check_cookie(SSL *ssl, const unsigned char *cookie, unsigned n)
{
    const struct session *s = SSL_get_app_data(ssl);
    uint64_t slot = s->who.now_ns / SLOT_NS;
    uint8_t right[COOKIE_BYTES];

    for (unsigned old = 0; old < 2 && n == COOKIE_BYTES && old <= slot; old++) {
        make_cookie(s, slot - old, right);
        if (!CRYPTO_memcmp(cookie, right, sizeof right))
            return 1;
    }
    return 0;
}

/* --- context -------------------------------------------------------------------------------------
 */

static BIO_METHOD *new_method(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "isthmus frames");

    if (!m || BIO_meth_set_write(m, bio_write) != 1 || BIO_meth_set_read(m, bio_read) != 1 ||
        BIO_meth_set_ctrl(m, bio_ctrl) != 1) {
        BIO_meth_free(m);
        return NULL;
    }
    return m;
}

static SSL_CTX *new_context(const struct session_params *p)
{
    SSL_CTX *c = SSL_CTX_new(DTLS_method());

    if (!c || SSL_CTX_set_min_proto_version(c, DTLS1_2_VERSION) != 1 ||
        SSL_CTX_set_max_proto_version(c, DTLS1_2_VERSION) != 1 ||
        SSL_CTX_set_cipher_list(c, "ECDHE-ECDSA-AES128-GCM-SHA256") != 1 ||
        SSL_CTX_set1_groups_list(c, "X25519:P-256") != 1 ||
        SSL_CTX_set1_sigalgs_list(c, "ECDSA+SHA256") != 1 ||
        SSL_CTX_use_certificate(c, identity_certificate(p->identity)) != 1 ||
        SSL_CTX_use_PrivateKey(c, identity_key(p->identity)) != 1) {
        SSL_CTX_free(c);
        return NULL;
    }
    SSL_CTX_set_options(c, SSL_OP_NO_QUERY_MTU | SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION |
                               SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_verify(c, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_max_cert_list(c, CERTIFICATES_BYTES);
    SSL_CTX_set_cert_verify_callback(c, verify, NULL);
    SSL_CTX_set_info_callback(c, info);
    SSL_CTX_set_cookie_generate_cb(c, give_cookie);
    SSL_CTX_set_cookie_verify_cb(c, check_cookie);
    return c;
}

int session_context_open(const struct session_params *p, struct session_context **out)
{
    struct session_context *c = calloc(1, sizeof *c);

    if (!c)
        return -ENOMEM;
    c->p = *p;
    c->method = new_method();
    c->ssl = new_context(p);
    c->nobody = BIO_ADDR_new();
    if (!c->method || !c->ssl || !c->nobody ||
        RAND_bytes(c->cookie_secret, sizeof c->cookie_secret) != 1) {
        session_context_close(c);
        return -ENOMEM;
    }
    *out = c;
    return 0;
}

void session_context_close(struct session_context *c)
{
    if (!c)
        return;
    SSL_CTX_free(c->ssl);
    BIO_meth_free(c->method);
    BIO_ADDR_free(c->nobody);
    OPENSSL_cleanse(c, sizeof *c);
    free(c);
}

/* --- sessions ------------------------------------------------------------------------------------
 */

/* Packets are sent again by handshake.c. */
static unsigned timer_never(SSL *ssl, unsigned us)
{
    return NEVER_US;
}

int session_open(struct session_context *c, struct session **out)
{
    struct session *s = calloc(1, sizeof *s);
    BIO *b = s ? BIO_new(c->method) : NULL;

    if (!b) {
        free(s);
        return -ENOMEM;
    }
    s->c = c;
    s->alert = -1;
    s->ssl = SSL_new(c->ssl);
    if (!s->ssl) {
        BIO_free(b);
        free(s);
        return -ENOMEM;
    }
    BIO_set_data(b, s);
    BIO_set_init(b, 1);
    SSL_set_bio(s->ssl, b, b);
    SSL_set_app_data(s->ssl, s);
    SSL_set_mtu(s->ssl, c->p.datagram_max_bytes);
    DTLS_set_timer_cb(s->ssl, timer_never);
    if (c->p.initiator)
        SSL_set_connect_state(s->ssl);
    else
        SSL_set_accept_state(s->ssl);
    *out = s;
    return 0;
}

void session_close(struct session *s)
{
    if (!s)
        return;
    session_forget(s, s->written);
    SSL_free(s->ssl);
    free(s);
}

int session_listen(struct session *s, const struct session_peer *who, const uint8_t *datagram,
                   size_t n)
{
    int rc;

    s->who = *who;
    s->in = datagram;
    s->n_in = n;
    s->n_answer = 0;
    s->listening = true;
    ERR_clear_error();
    rc = DTLSv1_listen(s->ssl, s->c->nobody);
    s->listening = false;
    s->in = NULL;
    if (rc > 0)
        return 1;
    return s->n_answer ? 0 : -EBADMSG;
}

size_t session_answer(struct session *s, uint8_t *to, size_t room)
{
    size_t n = s->n_answer <= room ? s->n_answer : 0;

    memcpy(to, s->answer, n);
    s->n_answer = 0;
    return n;
}

void session_feed(struct session *s, const uint8_t *datagram, size_t n)
{
    s->in = datagram;
    s->n_in = n;
}

int session_run(struct session *s)
{
    int rc;

    ERR_clear_error();
    rc = SSL_do_handshake(s->ssl);
    s->in = NULL;
    if (rc == 1)
        return 1;
    switch (SSL_get_error(s->ssl, rc)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return 0;
    default:
        ERR_clear_error();
        return -EPROTO;
    }
}

uint32_t session_written(const struct session *s)
{
    return s->written;
}

const uint8_t *session_datagram(const struct session *s, uint32_t number, size_t *n)
{
    const struct datagram *d = &s->out[number % OUT_MAX];

    *n = d->n;
    return d->bytes;
}

void session_forget(struct session *s, uint32_t up_to)
{
    while (s->forgotten < up_to && s->forgotten < s->written) {
        struct datagram *d = &s->out[++s->forgotten % OUT_MAX];

        free(d->bytes);
        *d = (struct datagram){0};
    }
}

int session_result(struct session *s, uint32_t connection, struct fingerprint *peer,
                   uint8_t initiator[KEYS_SECRET_BYTES], uint8_t responder[KEYS_SECRET_BYTES])
{
    uint8_t secrets[2 * KEYS_SECRET_BYTES], context[4];
    int rc = -EPROTO;

    put_be32(context, connection);
    /* Without the extended master secret (RFC 7627) exported secrets may be another session's too.
     */
    if (SSL_is_init_finished(s->ssl) && s->peer_shown && !s->peer_refused &&
        SSL_get_extms_support(s->ssl) == 1 &&
        SSL_export_keying_material(s->ssl, secrets, sizeof secrets, LABEL, sizeof LABEL - 1,
                                   context, sizeof context, 1) == 1) {
        *peer = s->peer;
        memcpy(initiator, secrets, KEYS_SECRET_BYTES);
        memcpy(responder, secrets + KEYS_SECRET_BYTES, KEYS_SECRET_BYTES);
        rc = 0;
    }
    OPENSSL_cleanse(secrets, sizeof secrets);
    return rc;
}

struct evp_pkey_st *session_peer_key(const struct session *s)
{
    X509 *certificate = SSL_get0_peer_certificate(s->ssl);

    return certificate ? X509_get_pubkey(certificate) : NULL;
}

bool session_refused(const struct session *s, struct fingerprint *peer)
{
    if (s->peer_refused)
        *peer = s->peer;
    return s->peer_refused;
}

void session_error(const struct session *s, char *text, size_t room)
{
    char print[FINGERPRINT_TEXT];

    if (s->peer_refused)
        snprintf(text, room, "its identity is %s, not the one asked for",
                 fingerprint_format(&s->peer, print));
    else if (s->alert == SSL_AD_BAD_CERTIFICATE)
        snprintf(text, room, "it does not admit our identity, %s",
                 fingerprint_format(identity_fingerprint(s->c->p.identity), print));
    else if (s->alert >= 0)
        snprintf(text, room, "it refused the handshake (%s)", SSL_alert_desc_string_long(s->alert));
    else
        snprintf(text, room, "it does not speak this program's DTLS 1.2");
}
