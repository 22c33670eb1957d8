/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections, and those that are too slow. What MHD cannot tell - that the first byte of a head has
 * come, that the client takes what is sent - the kernel's counts of bytes do.
 */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "control/gateway/impl.h"
#include "dataplane/port.h"

#define LINGER_NS 1000000000u /* for a refused client to read why */

static uint64_t ns(uint32_t ms)
{
    return (uint64_t)ms * 1000000u;
}

/* Bytes received so far, and those that the client has acknowledged. */
static void count_bytes(int fd, uint64_t *received, uint64_t *acknowledged)
{
    struct tcp_info info = {0};
    socklen_t n = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) < 0)
        info = (struct tcp_info){0};
    *received = info.tcpi_bytes_received;
    *acknowledged = info.tcpi_bytes_acked;
}

void clients_on_connection(void *arg, struct MHD_Connection *mc, void **socket_context,
                           enum MHD_ConnectionNotificationCode code)
{
    struct gateway *g = arg;
    struct client *c = *socket_context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        *socket_context = c = calloc(1, sizeof *c);
        if (!c)
            return; /* its requests are refused */
        c->fd = MHD_get_connection_info(mc, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        c->since_ns = port_now_ns();
        c->next = g->clients;
        if (c->next)
            c->next->prev = c;
        g->clients = c;
        g->n_clients++;
        g->counts.connections++;
    } else if (c) {
        if (c->next)
            c->next->prev = c->prev;
        if (c->prev)
            c->prev->next = c->next;
        else
            g->clients = c->next;
        g->n_clients--;
        free(c);
        *socket_context = NULL;
    }
}

void client_enter(struct client *c, enum client_state state, uint64_t now_ns)
{
    uint64_t received, acknowledged;
    if (c->state == CLIENT_REFUSED)
        return;
    c->state = state;
    c->since_ns = now_ns;
    c->head_ns = 0;
    if (state == CLIENT_IDLE || state == CLIENT_BUSY) {
        count_bytes(c->fd, &received, &acknowledged);
        c->bytes = state == CLIENT_IDLE ? received : acknowledged;
    }
}

void client_refuse(struct gateway *g, struct client *c, unsigned status, const char *code,
                   const char *message)
{
    struct out json = {0}, all = {0};
    struct api_error e;
    if (c->state == CLIENT_REFUSED)
        return;
    api_fail(&e, status, "invalid_request_error", code, "", "%s", message);
    reply_error(&json, &e);
    out_format(&all,
               "HTTP/1.1 %u %s\r\nContent-Type: application/json\r\nConnection: close\r\n"
               "Content-Length: %zu\r\n\r\n",
               status, MHD_get_reason_phrase_for(status), json.n);
    out_bytes(&all, json.bytes, json.n);
    if (all.failed || send(c->fd, all.bytes, all.n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        /* it is closed all the same */
    }
    shutdown(c->fd, SHUT_WR);
    out_free(&json);
    out_free(&all);
    c->state = CLIENT_REFUSED;
    c->since_ns = port_now_ns();
    if (c->exchange)
        c->exchange->status = status;
    else
        http_count(g, AT_NOWHERE, status);
}

/* Its connection ends: MHD sees that and cleans up. */
static void drop(struct client *c)
{
    shutdown(c->fd, SHUT_RDWR);
}

static void sweep_idle(struct gateway *g, struct client *c, uint64_t now_ns)
{
    const bool crowded = g->n_clients > g->limits.connections / 2;
    const uint64_t idle_ns = ns(crowded ? g->limits.idle_ms / 10 : g->limits.idle_ms);
    uint64_t received, acknowledged;
    count_bytes(c->fd, &received, &acknowledged);
    if (received > c->bytes && !c->head_ns)
        c->head_ns = now_ns;
    if (c->head_ns && now_ns - c->head_ns > ns(g->limits.header_ms)) {
        g->counts.timeouts++;
        client_refuse(g, c, 408, "request_timeout", "the request's head takes too long");
    } else if (!c->head_ns && now_ns - c->since_ns > idle_ns) {
        drop(c);
    }
}

/* Stalled: nothing it was sent has been acknowledged for a while, and MHD waits for room to send more. */
static void sweep_busy(struct gateway *g, struct client *c, uint64_t now_ns)
{
    uint64_t received, acknowledged;
    count_bytes(c->fd, &received, &acknowledged);
    if (acknowledged != c->bytes || (c->exchange && c->exchange->suspended && !c->exchange->blocked)) {
        c->bytes = acknowledged;
        c->since_ns = now_ns;
    } else if (now_ns - c->since_ns > ns(g->limits.write_ms)) {
        g->counts.timeouts++;
        drop(c);
    }
}

void clients_sweep(struct gateway *g, uint64_t now_ns)
{
    for (struct client *c = g->clients; c; c = c->next) {
        switch (c->state) {
        case CLIENT_IDLE:
            sweep_idle(g, c, now_ns);
            break;
        case CLIENT_BODY:
            if (now_ns - c->since_ns > ns(g->limits.body_ms)) {
                g->counts.timeouts++;
                client_refuse(g, c, 408, "request_timeout", "the request's body takes too long");
            }
            break;
        case CLIENT_BUSY:
            sweep_busy(g, c, now_ns);
            break;
        case CLIENT_REFUSED:
            if (now_ns - c->since_ns > LINGER_NS)
                drop(c);
            break;
        }
    }
}
