/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plain UDP and TCP, as a program would use them that does nothing else: one system
 * call a message (TCP: as many as it takes), no acknowledgements or keys of its own; and TCP with
 * OpenSSL's TLS, a record a message (as many as it takes). Both ends poll
 * their sockets while something is under way, so that a floor is not the time that sleepers take to
 * wake.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/bench/transport.h"
#include "control/bench/transport_tls.h"
#include "control/signals.h"

#define DATAGRAM_MAX 65507u
#define STREAM_ROOM  (1u << 18)
#define POLL_NS      1000000u /* a server's socket is polled so long after the last message */

static int wait_for(int fd, short events, uint64_t deadline_ns)
{
    const uint64_t now_ns = port_now_ns();
    const uint64_t ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
    struct pollfd p = {.fd = fd, .events = events};

    return ppoll(&p, 1,
                 &(struct timespec){.tv_sec = (time_t)(ns / 1000000000u),
                                    .tv_nsec = (long)(ns % 1000000000u)},
                 NULL);
}

/* Of a stream, with TLS or without: as send and recv with MSG_DONTWAIT. */
static ssize_t stream_send(int fd, struct tls *tls, const void *from, size_t n)
{
    return tls ? tls_write(tls, from, n) : send(fd, from, n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static ssize_t stream_recv(int fd, struct tls *tls, void *to, size_t room)
{
    return tls ? tls_read(tls, to, room) : recv(fd, to, room, MSG_DONTWAIT);
}

/* --- asking ------------------------------------------------------------------------------------
 */

struct kernel_way {
    struct way way; /* first */
    int fd;
    struct tls *tls;          /* NULL: without */
    uint8_t *out, *in;        /* TCP: what is under way */
    size_t out_at, out_bytes; /* of one message, not yet taken by the socket */
    size_t in_bytes;          /* of messages, not yet looked at */
};

static int lost(struct kernel_way *k, const char *what)
{
    k->way.trouble = what;
    return -EPIPE;
}

static bool is_full(int error)
{
    return error == EAGAIN || error == EINTR || error == ENOBUFS;
}

static int udp_send(struct way *w, uint32_t session, const struct transport_head *h)
{
    struct kernel_way *k = (struct kernel_way *)w;

    (void)session;
    transport_put_head(k->out, h);
    if (send(k->fd, k->out, h->bytes, MSG_DONTWAIT) >= 0)
        return 1;
    return is_full(errno) ? 0 : lost(k, "its plain UDP socket is gone");
}

static int udp_flush(struct way *w)
{
    (void)w;
    return 0;
}

static int udp_poll(struct way *w)
{
    struct kernel_way *k = (struct kernel_way *)w;
    struct transport_head h;
    int n = 0;

    for (; n < 32; n++) {
        const ssize_t got = recv(k->fd, k->in, DATAGRAM_MAX, MSG_DONTWAIT);

        if (got < 0)
            return is_full(errno) ? n : lost(k, "its plain UDP socket is gone");
        if ((size_t)got >= TRANSPORT_HEAD_BYTES && !transport_get_head(k->in, &h) && w->answer)
            w->answer(w->arg, &h);
    }
    return n;
}

static void kernel_wait(struct way *w, uint64_t deadline_ns)
{
    struct kernel_way *k = (struct kernel_way *)w;

    if (!k->tls || !tls_has_more(k->tls))
        wait_for(k->fd, (short)(POLLIN | (k->out_bytes ? POLLOUT : 0)), deadline_ns);
}

static int tcp_flush(struct way *w)
{
    struct kernel_way *k = (struct kernel_way *)w;

    while (k->out_bytes) {
        const ssize_t n = stream_send(k->fd, k->tls, k->out + k->out_at, k->out_bytes);

        if (n < 0)
            return is_full(errno) ? 0 : lost(k, "its end of the stream is gone");
        k->out_at += (size_t)n;
        k->out_bytes -= (size_t)n;
    }
    return 0;
}

static int tcp_send(struct way *w, uint32_t session, const struct transport_head *h)
{
    struct kernel_way *k = (struct kernel_way *)w;

    (void)session;
    if (tcp_flush(w))
        return -EPIPE;
    if (k->out_bytes)
        return 0;
    transport_put_head(k->out, h);
    k->out_at = 0;
    k->out_bytes = h->bytes;
    return tcp_flush(w) ? -EPIPE : 1;
}

/* Give each whole message at the head of `in` to `each`; how many bytes those were, or SIZE_MAX
 * when they are none. */
static size_t cut(const uint8_t *in, size_t n, size_t bytes_max,
                  void (*each)(void *arg, const uint8_t *bytes, const struct transport_head *h),
                  void *arg)
{
    struct transport_head h;
    size_t at = 0;

    while (n - at >= TRANSPORT_HEAD_BYTES) {
        if (transport_get_head(in + at, &h) || h.bytes > bytes_max)
            return SIZE_MAX;
        if (n - at < h.bytes)
            break;
        each(arg, in + at, &h);
        at += h.bytes;
    }
    return at;
}

static void tcp_answer(void *arg, const uint8_t *bytes, const struct transport_head *h)
{
    struct way *w = arg;

    (void)bytes;
    if (w->answer)
        w->answer(w->arg, h);
}

static int tcp_poll(struct way *w)
{
    struct kernel_way *k = (struct kernel_way *)w;
    const size_t room = STREAM_ROOM + w->bytes_max;
    const ssize_t got = stream_recv(k->fd, k->tls, k->in + k->in_bytes, room - k->in_bytes);

    if (got < 0)
        return is_full(errno) ? 0 : lost(k, "its end of the stream is gone");
    if (got == 0)
        return lost(k, "it closed the stream");
    k->in_bytes += (size_t)got;
    const size_t used = cut(k->in, k->in_bytes, w->bytes_max, tcp_answer, w);
    if (used == SIZE_MAX)
        return lost(k, "it sent garbage over the stream");
    memmove(k->in, k->in + used, k->in_bytes - used);
    k->in_bytes -= used;
    return 1;
}

static const struct way_ops udp_ops = {udp_send, udp_flush, udp_poll, kernel_wait};
static const struct way_ops tcp_ops = {tcp_send, tcp_flush, tcp_poll, kernel_wait};

static int encrypt(struct kernel_way *k)
{
    struct tls_side *client = NULL;
    int rc = tls_side_open(false, &client);

    if (!rc)
        rc = tls_open(client, k->fd, &k->tls);
    tls_side_close(client);
    return rc;
}

static int kernel_open(int type, uint32_t ip, uint16_t port, const struct way *way,
                       struct way **out)
{
    const struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(ip)};
    struct kernel_way *k = calloc(1, sizeof *k);
    const size_t room = (size_t)STREAM_ROOM + way->bytes_max;

    if (!k)
        return -ENOMEM;
    k->way = *way;
    k->fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    k->out = calloc(1, room);
    k->in = calloc(1, room);
    int rc = !k->out || !k->in ? -ENOMEM : k->fd < 0 ? -errno : 0;
    if (!rc && connect(k->fd, (const struct sockaddr *)&to, sizeof to) < 0)
        rc = -errno;
    if (!rc && type == SOCK_STREAM &&
        setsockopt(k->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)) < 0)
        rc = -errno;
    if (!rc && way->kind == TRANSPORT_TLS)
        rc = encrypt(k);
    if (rc) {
        way_kernel_close(&k->way);
        return rc;
    }
    *out = &k->way;
    return 0;
}

int way_udp_open(const struct transport_told *at, bool far, uint32_t bytes_max, struct way **out)
{
    const struct way w = {.ops = &udp_ops,
                          .kind = TRANSPORT_UDP,
                          .lost_ns = far ? TRANSPORT_LOST_FAR_NS : TRANSPORT_LOST_NS,
                          .bytes_max = bytes_max < DATAGRAM_MAX ? bytes_max : DATAGRAM_MAX};

    return kernel_open(SOCK_DGRAM, at->floors_ip, at->udp_port, &w, out);
}

int way_tcp_open(const struct transport_told *at, uint32_t bytes_max, struct way **out)
{
    const struct way w = {.ops = &tcp_ops, .kind = TRANSPORT_TCP, .bytes_max = bytes_max};

    return kernel_open(SOCK_STREAM, at->floors_ip, at->tcp_port, &w, out);
}

int way_tls_open(const struct transport_told *at, uint32_t bytes_max, struct way **out)
{
    const struct way w = {.ops = &tcp_ops, .kind = TRANSPORT_TLS, .bytes_max = bytes_max};

    return kernel_open(SOCK_STREAM, at->floors_ip, at->tls_port, &w, out);
}

void way_kernel_close(struct way *w)
{
    struct kernel_way *k = (struct kernel_way *)w;

    if (!k)
        return;
    tls_close(k->tls);
    if (k->fd >= 0)
        close(k->fd);
    free(k->out);
    free(k->in);
    free(k);
}

/* --- answering ---------------------------------------------------------------------------------
 */

struct server {
    int fd;
    uint64_t *sunk;
    struct tls_side *tls; /* NULL: without */
};

/* As recvfrom, but polls for a moment after the last message before it sleeps. */
static ssize_t receive(int fd, void *to, size_t room, struct sockaddr_in *from, uint64_t *last_ns)
{
    for (;;) {
        socklen_t len = sizeof *from;
        const bool sleeps = port_now_ns() > *last_ns + POLL_NS;
        const ssize_t n =
            recvfrom(fd, to, room, sleeps ? 0 : MSG_DONTWAIT, (struct sockaddr *)from, &len);

        if (n >= 0) {
            *last_ns = port_now_ns();
            return n;
        }
        if (!is_full(errno))
            return n;
    }
}

static void count(uint64_t *sunk)
{
    __atomic_fetch_add(sunk, 1, __ATOMIC_RELAXED);
}

static void *serve_udp(void *arg)
{
    const struct server *s = arg;
    static uint8_t bytes[DATAGRAM_MAX];
    struct sockaddr_in from;
    struct transport_head h;
    uint64_t last_ns = 0;

    for (;;) {
        const ssize_t n = receive(s->fd, bytes, sizeof bytes, &from, &last_ns);

        if (n < (ssize_t)TRANSPORT_HEAD_BYTES || transport_get_head(bytes, &h))
            continue; /* errors of a socket that sent to one who is gone are not ours */
        if (h.verb == TRANSPORT_SINK)
            count(s->sunk);
        else if (h.verb == TRANSPORT_ECHO)
            (void)sendto(s->fd, bytes, (size_t)n, 0, (struct sockaddr *)&from, sizeof from);
    }
    return NULL;
}

struct stream_peer {
    const struct server *server;
    int fd;
    struct tls *tls;
    bool gone;
};

static void stream_message(void *arg, const uint8_t *bytes, const struct transport_head *h)
{
    struct stream_peer *p = arg;

    if (h->verb == TRANSPORT_SINK)
        count(p->server->sunk);
    for (size_t at = 0; h->verb == TRANSPORT_ECHO && at < h->bytes && !p->gone;) {
        const ssize_t n = stream_send(p->fd, p->tls, bytes + at, h->bytes - at);

        if (n >= 0)
            at += (size_t)n;
        else if (is_full(errno))
            wait_for(p->fd, POLLOUT, UINT64_MAX);
        else
            p->gone = true;
    }
}

static ssize_t stream_receive(const struct stream_peer *p, void *to, size_t room, uint64_t *last_ns)
{
    for (;;) {
        const ssize_t n = stream_recv(p->fd, p->tls, to, room);

        if (n >= 0)
            *last_ns = port_now_ns();
        if (n >= 0 || !is_full(errno))
            return n;
        if (port_now_ns() > *last_ns + POLL_NS)
            wait_for(p->fd, POLLIN, UINT64_MAX);
    }
}

static void serve_stream(struct stream_peer *p, uint8_t *bytes, size_t room)
{
    uint64_t last_ns = 0;
    size_t have = 0;

    while (!p->gone) {
        const ssize_t n = stream_receive(p, bytes + have, room - have, &last_ns);

        if (n <= 0)
            return;
        have += (size_t)n;
        const size_t used = cut(bytes, have, room, stream_message, p);
        if (used == SIZE_MAX)
            return;
        memmove(bytes, bytes + used, have - used);
        have -= used;
    }
}

static void *serve_tcp(void *arg)
{
    const struct server *s = arg;
    const size_t room = 2 * STREAM_ROOM + (1u << 20);
    uint8_t *bytes = malloc(room);

    while (bytes) {
        const int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);
        struct stream_peer p = {.server = s, .fd = fd};

        if (fd < 0)
            continue;
        if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)) == 0 &&
            (!s->tls || tls_open(s->tls, fd, &p.tls) == 0))
            serve_stream(&p, bytes, room);
        tls_close(p.tls);
        close(fd);
    }
    return NULL;
}

static int start(int type, const char *name, void *(*run)(void *arg), struct server *s, uint32_t ip,
                 uint16_t *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(ip)};
    socklen_t len = sizeof at;
    pthread_t thread;

    s->fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (s->fd < 0 || bind(s->fd, (struct sockaddr *)&at, sizeof at) < 0 ||
        (type == SOCK_STREAM && listen(s->fd, 1) < 0) ||
        getsockname(s->fd, (struct sockaddr *)&at, &len) < 0)
        return -errno;
    *port = ntohs(at.sin_port);
    const int rc = signals_thread(&thread, name, run, s);
    if (!rc)
        pthread_detach(thread);
    return rc;
}

int floors_start(struct transport_told *floors)
{
    static struct server udp, tcp, tls;
    const uint32_t ip = floors->floors_ip;

    udp.sunk = &floors->sunk[TRANSPORT_UDP];
    tcp.sunk = &floors->sunk[TRANSPORT_TCP];
    tls.sunk = &floors->sunk[TRANSPORT_TLS];
    int rc = tls_side_open(true, &tls.tls);
    if (!rc)
        rc = start(SOCK_DGRAM, "plain-udp", serve_udp, &udp, ip, &floors->udp_port);
    if (!rc)
        rc = start(SOCK_STREAM, "plain-tcp", serve_tcp, &tcp, ip, &floors->tcp_port);
    return rc ? rc : start(SOCK_STREAM, "tls", serve_tcp, &tls, ip, &floors->tls_port);
}
