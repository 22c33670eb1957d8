/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel UDP by plain system calls, several datagrams each. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>

#include "dataplane/port/udp.h"

#define BUFFERS 16u
#define SEND    16

struct mmsg {
    struct mmsghdr headers[BUFFERS];
    struct iovec iov[BUFFERS];
    struct sockaddr_in6 from[BUFFERS];
    _Alignas(struct cmsghdr) char control[BUFFERS][CMSG_SPACE(sizeof(int))];
    unsigned n, next; /* received, handed out */
    struct udp_message out[SEND];
    uint8_t bytes[BUFFERS][UDP_DATAGRAM_MAX];
};

static void receive(struct udp *u, struct mmsg *m)
{
    for (unsigned i = 0; i < BUFFERS; i++) {
        m->iov[i] = (struct iovec){m->bytes[i], UDP_DATAGRAM_MAX};
        m->headers[i].msg_hdr = (struct msghdr){.msg_name = &m->from[i],
                                                .msg_namelen = sizeof(m->from[i]),
                                                .msg_iov = &m->iov[i],
                                                .msg_iovlen = 1,
                                                .msg_control = m->control[i],
                                                .msg_controllen = sizeof(m->control[i])};
    }
    int n = recvmmsg(u->fd, m->headers, BUFFERS, MSG_DONTWAIT, NULL);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        udp_read_errors(u);
    m->next = 0;
    m->n = n > 0 ? (unsigned)n : 0;
}

static bool mmsg_fetch(struct udp *u, struct udp_received *r)
{
    struct mmsg *m = u->engine_data;
    if (m->next == m->n)
        receive(u, m);
    if (m->next == m->n)
        return false;
    unsigned i = m->next++;
    *r = (struct udp_received){.bytes = m->bytes[i],
                               .n = m->headers[i].msg_len,
                               .segment_bytes = udp_joined_bytes(&m->headers[i].msg_hdr),
                               .from = m->from[i],
                               .buffer = i};
    return true;
}

static void mmsg_recycle(struct udp *u, const struct udp_received *r)
{
    (void)u;
    (void)r; /* the buffers are filled again when all were handed out */
}

static int mmsg_send(struct udp *u, const struct udp_group *groups, int n)
{
    struct mmsg *m = u->engine_data;
    struct mmsghdr headers[SEND];
    int sent = 0;
    while (sent < n) {
        int k = n - sent < SEND ? n - sent : SEND;
        for (int i = 0; i < k; i++) {
            udp_message(&m->out[i], &groups[sent + i]);
            headers[i] = (struct mmsghdr){.msg_hdr = m->out[i].msg};
        }
        int rc = sendmmsg(u->fd, headers, (unsigned)k, MSG_DONTWAIT);
        if (rc > 0) {
            sent += rc;
        } else if (errno == EAGAIN || errno == ENOBUFS) {
            break;
        } else if (errno != EINTR) { /* the first is lost; the others are tried */
            udp_send_failed(u, errno, &headers[0].msg_hdr);
            sent++;
        }
    }
    return sent;
}

static int mmsg_sleep(struct udp *u, uint64_t now, uint64_t until)
{
    struct pollfd fds[] = {{.fd = u->fd, .events = POLLIN},
                           {.fd = port_wake_fd(), .events = POLLIN}};
    uint64_t ns = until > now ? until - now : 0;
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    int k = ppoll(fds, 2, &t, NULL);
    if (k > 0 && fds[0].revents & POLLERR)
        udp_read_errors(u);
    return k < 0 && errno == EINTR ? -EINTR : 0;
}

static int mmsg_pollable(struct udp *u)
{
    return u->fd;
}

static void mmsg_close(struct udp *u)
{
    free(u->engine_data);
}

static const struct udp_engine mmsg_engine = {mmsg_fetch, mmsg_recycle,  mmsg_send,
                                              mmsg_sleep, mmsg_pollable, mmsg_close};

int udp_mmsg_open(struct udp *u)
{
    u->engine_data = calloc(1, sizeof(struct mmsg)); /* pages that are never used stay away */
    if (!u->engine_data)
        return -ENOMEM;
    u->engine = &mmsg_engine;
    return 0;
}
