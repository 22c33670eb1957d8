/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream by TLS 1.3, as any program has it of OpenSSL: over a TCP socket, by AES-128-GCM, which
 * is the link's cipher too. The server's certificate is made on the spot, in memory, and who the
 * server is nobody asks: this is a measure of what encryption costs.
 */
#ifndef ISTHMUS_CONTROL_BENCH_TRANSPORT_TLS_H
#define ISTHMUS_CONTROL_BENCH_TRANSPORT_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define TLS_CIPHER "AES-128-GCM"

/* What connections of one side have in common; it has to outlive none of them. */
struct tls_side;
/* 0, or -EIO: OpenSSL can't. */
int tls_side_open(bool server, struct tls_side **out);
void tls_side_close(struct tls_side *s);

struct tls;
/* Shake hands over a connected socket, which does not block from then on and stays the caller's. 0,
 * -EIO (no TLS there), -ETIMEDOUT (nothing for ten seconds), -errno. */
int tls_open(struct tls_side *s, int fd, struct tls **out);
void tls_close(struct tls *t);

/* As send() and recv() with MSG_DONTWAIT: -1 and errno, EAGAIN where a socket has it. A write that
 * found no room has to come again with the same bytes. */
ssize_t tls_write(struct tls *t, const void *from, size_t n);
ssize_t tls_read(struct tls *t, void *to, size_t room);
/* The last tls_read left something behind: the socket need not be readable for the next. */
bool tls_has_more(const struct tls *t);

#endif
