/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/transport_tls.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "dataplane/secure/identity.h"

#define READ_BYTES  (1u << 18) /* of records, with one system call */
#define HANDSHAKE_S 10

struct tls_side {
    SSL_CTX *context;
    bool server;
};

struct tls {
    SSL *ssl;
    bool more;
};

/* OpenSSL copies what it needs of the identity. */
static bool certify(SSL_CTX *c)
{
    struct identity *id;

    if (identity_new(&id))
        return false;
    const bool good = SSL_CTX_use_certificate(c, identity_certificate(id)) == 1 &&
                      SSL_CTX_use_PrivateKey(c, identity_key(id)) == 1;
    identity_close(id);
    return good;
}

int tls_side_open(bool server, struct tls_side **out)
{
    struct tls_side *s = calloc(1, sizeof *s);
    SSL_CTX *c = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());

    /* Without tickets nothing but the stream follows the handshake. */
    if (!s || !c || SSL_CTX_set_min_proto_version(c, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(c, "TLS_AES_128_GCM_SHA256") != 1 ||
        SSL_CTX_set_num_tickets(c, 0) != 1 || (server && !certify(c))) {
        ERR_clear_error();
        SSL_CTX_free(c);
        free(s);
        return -EIO;
    }
    SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE);
    SSL_CTX_set_read_ahead(c, 1);
    SSL_CTX_set_default_read_buffer_len(c, READ_BYTES);
    *s = (struct tls_side){.context = c, .server = server};
    *out = s;
    return 0;
}

void tls_side_close(struct tls_side *s)
{
    if (!s)
        return;
    SSL_CTX_free(s->context);
    free(s);
}

static int limit_waits(int fd, time_t s)
{
    const struct timeval t = {.tv_sec = s};

    return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t) < 0 ||
                   setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t) < 0
               ? -errno
               : 0;
}

static int shake_hands(SSL *ssl, bool server)
{
    ERR_clear_error();
    const int rc = server ? SSL_accept(ssl) : SSL_connect(ssl), why = SSL_get_error(ssl, rc);

    ERR_clear_error();
    if (rc == 1)
        return 0;
    return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? -ETIMEDOUT : -EIO;
}

int tls_open(struct tls_side *s, int fd, struct tls **out)
{
    struct tls *t = calloc(1, sizeof *t);
    int rc = t ? limit_waits(fd, HANDSHAKE_S) : -ENOMEM;

    if (!rc) {
        t->ssl = SSL_new(s->context);
        rc = t->ssl && SSL_set_fd(t->ssl, fd) == 1 ? shake_hands(t->ssl, s->server) : -EIO;
    }
    if (!rc)
        rc = limit_waits(fd, 0);
    if (!rc && fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        rc = -errno;
    if (rc) {
        tls_close(t);
        return rc;
    }
    *out = t;
    return 0;
}

void tls_close(struct tls *t)
{
    if (!t)
        return;
    SSL_free(t->ssl);
    free(t);
}

/* After a call that did not succeed: 0 at the stream's end, else -1 and errno. */
static ssize_t failed(struct tls *t)
{
    const int why = SSL_get_error(t->ssl, 0);

    if (why == SSL_ERROR_ZERO_RETURN)
        return 0;
    errno = why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? EAGAIN : EPIPE;
    return -1;
}

ssize_t tls_write(struct tls *t, const void *from, size_t n)
{
    size_t sent;

    ERR_clear_error();
    return SSL_write_ex(t->ssl, from, n, &sent) == 1 ? (ssize_t)sent : failed(t);
}

ssize_t tls_read(struct tls *t, void *to, size_t room)
{
    size_t n = 0, got;

    ERR_clear_error();
    while (n < room && SSL_read_ex(t->ssl, (char *)to + n, room - n, &got) == 1)
        n += got; /* of one record */
    t->more = n == room;
    return n ? (ssize_t)n : failed(t);
}

bool tls_has_more(const struct tls *t)
{
    return t->more;
}
