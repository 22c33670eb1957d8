/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/gateway/impl.h"

#define ERR        200
#define SEND_BYTES 65536 /* what the kernel may hold (twice) of what a client does not take */

/* "HOST:PORT", "[HOST]:PORT" or ":PORT" into its two parts. */
static int cut(const char *address, char host[256], char port[8])
{
    const char *colon = strrchr(address, ':');
    if (!colon || strlen(colon + 1) == 0 || strlen(colon + 1) > 5 ||
        strspn(colon + 1, "0123456789") != strlen(colon + 1) || atoi(colon + 1) > 65535)
        return -EINVAL;
    size_t n = (size_t)(colon - address);
    if (n >= 2 && address[0] == '[' && address[n - 1] == ']') {
        address++;
        n -= 2;
    } else if (memchr(address, ':', n)) {
        return -EINVAL; /* an IPv6 address wants brackets */
    }
    if (n >= 256)
        return -EINVAL;
    memcpy(host, address, n);
    host[n] = '\0';
    strcpy(port, colon + 1);
    return 0;
}

/* What accepted sockets inherit: a bound on what waits in the kernel, probes of clients that keep
 * still, and no waiting to send a token with the next one. */
static void set_options(int fd)
{
    const int yes = 1, idle_s = 30, every_s = 10, times = 3, send_bytes = SEND_BYTES;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof send_bytes);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof every_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof times);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

static int listen_at(const struct addrinfo *a, int backlog)
{
    const int no = 0;
    const int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    set_options(fd);
    if (a->ai_family == AF_INET6) /* [::] is everywhere */
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, backlog) == 0)
        return fd;
    const int rc = -errno;
    close(fd);
    return rc;
}

static unsigned port_of(int fd)
{
    struct sockaddr_storage at = {0};
    socklen_t n = sizeof at;
    if (getsockname(fd, (struct sockaddr *)&at, &n) < 0)
        return 0;
    return ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
                                          : ((struct sockaddr_in *)&at)->sin_port);
}

static int cut_or_say(const char *address, char host[256], char service[8], char *err)
{
    if (cut(address, host, service) == 0)
        return 0;
    snprintf(err, ERR, "must be HOST:PORT, [ADDRESS]:PORT or :PORT");
    return -EINVAL;
}

int gateway_check_address(const char *address, char *err)
{
    char host[256], service[8];
    return cut_or_say(address, host, service, err);
}

int gateway_listen(const char *address, int backlog, int *fd, unsigned *port, char *err)
{
    char host[256], service[8];
    if (cut_or_say(address, host, service, err) < 0)
        return -EINVAL;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    const int got = getaddrinfo(*host ? host : "::", service, &hints, &list);
    if (got) {
        snprintf(err, ERR, "%s", gai_strerror(got));
        return -EINVAL;
    }
    int rc = -EADDRNOTAVAIL;
    for (const struct addrinfo *a = list; a && rc < 0; a = a->ai_next)
        rc = listen_at(a, backlog);
    freeaddrinfo(list);
    if (rc == -EAFNOSUPPORT && !*host) /* a host without IPv6 */
        return gateway_listen(strcat(strcpy(host, "0.0.0.0:"), service), backlog, fd, port, err);
    if (rc < 0) {
        snprintf(err, ERR, "%s", strerror(-rc));
        return rc;
    }
    *fd = rc;
    *port = port_of(rc);
    return 0;
}
