/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/rendezvous.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dataplane/port.h"

#define MAGIC "isthmus1"
#define READY 'R'

int rdv_parse(const char *text, struct rdv_name *name, char *err)
{
    *name = (struct rdv_name){.sa.sun_family = AF_UNIX, .abstract = text[0] == '@'};
    size_t len = strlen(text);
    if (len < 1u + name->abstract || len >= sizeof(name->sa.sun_path)) {
        snprintf(err, PORT_ERR, "memif:%.40s: the name must have 1 to %zu characters", text,
                 sizeof(name->sa.sun_path) - 1 - name->abstract);
        return -EINVAL;
    }
    memcpy(name->sa.sun_path, text, len);
    if (name->abstract)
        name->sa.sun_path[0] = '\0';
    /* An abstract name is its bytes; a path ends in NUL. */
    name->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + !name->abstract);
    return 0;
}

static int new_socket(void)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd < 0 ? -errno : fd;
}

/* 0 and the peer's pid, or -EPERM when it is neither our user's nor root's. */
static int check_peer(int fd, pid_t *pid)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        return -errno;
    *pid = peer.pid;
    return peer.uid == geteuid() || peer.uid == 0 ? 0 : -EPERM;
}

int rdv_connect(const struct rdv_name *name, pid_t *peer)
{
    int fd = new_socket();
    if (fd < 0)
        return fd;
    int rc = connect(fd, (const struct sockaddr *)&name->sa, name->len) < 0 ? -errno
                                                                            : check_peer(fd, peer);
    if (rc < 0)
        close(fd);
    return rc < 0 ? rc : fd;
}

int rdv_accept(int listen_fd, pid_t *peer)
{
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return -errno;
    int rc = check_peer(fd, peer);
    if (rc < 0)
        close(fd);
    return rc < 0 ? rc : fd;
}

/* Whoever looks at, removes or makes a socket file holds its folder's lock meanwhile, so that
 * nobody removes the file another one has just made. Nothing is left behind by it. */
static int lock_folder(const struct rdv_name *name)
{
    char path[sizeof(name->sa.sun_path) + 1];
    snprintf(path, sizeof(path), "%s", name->sa.sun_path);
    int fd = open(dirname(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR) {
            int rc = -errno;
            close(fd);
            return rc;
        }
    return fd;
}

/* A socket file that nobody listens on. */
static bool is_stale(const struct rdv_name *name)
{
    struct stat st;
    if (lstat(name->sa.sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    int fd = new_socket();
    if (fd < 0)
        return false;
    bool refused =
        connect(fd, (const struct sockaddr *)&name->sa, name->len) < 0 && errno == ECONNREFUSED;
    close(fd);
    return refused;
}

void rdv_sweep(const struct rdv_name *name)
{
    if (name->abstract)
        return;
    int lock = lock_folder(name);
    if (lock < 0)
        return;
    if (is_stale(name))
        unlink(name->sa.sun_path);
    close(lock);
}

static int bind_and_listen(const struct rdv_name *name, int fd)
{
    if (!name->abstract && fchmod(fd, 0600) < 0)
        return -errno;
    if (bind(fd, (const struct sockaddr *)&name->sa, name->len) < 0)
        return -errno;
    return listen(fd, 4) < 0 ? -errno : 0;
}

static const char *mend(int rc)
{
    switch (rc) {
    case -EADDRINUSE:
        return "it is in use: choose another name, or end the server that has it";
    case -EACCES:
    case -EROFS:
        return "no permission to make the socket there: choose another folder";
    case -ENOENT:
    case -ENOTDIR:
        return "the folder does not exist: make it, or choose another";
    default:
        return strerror(-rc);
    }
}

int rdv_listen(struct rdv_name *name, int *out, char *err)
{
    int lock = -1;
    int fd = new_socket();
    int rc = fd < 0 ? fd : 0;
    if (rc == 0 && !name->abstract) {
        lock = lock_folder(name);
        rc = lock < 0 ? lock : 0;
    }
    if (rc == 0) {
        if (!name->abstract && is_stale(name))
            unlink(name->sa.sun_path);
        rc = bind_and_listen(name, fd);
    }
    struct stat st;
    if (rc == 0 && !name->abstract && lstat(name->sa.sun_path, &st) == 0) {
        name->dev = st.st_dev;
        name->ino = st.st_ino;
    }
    if (lock >= 0)
        close(lock);
    if (rc == 0) {
        *out = fd;
        return 0;
    }
    if (fd >= 0)
        close(fd);
    snprintf(err, PORT_ERR, "memif:%s%s: %s", name->abstract ? "@" : "",
             name->sa.sun_path + name->abstract, mend(rc));
    if (rc == -ENOENT || rc == -ENOTDIR)
        return -EINVAL;
    return rc == -EADDRINUSE || rc == -EACCES || rc == -ENOMEM ? rc : rc == -EROFS ? -EACCES : -EIO;
}

void rdv_unlisten(const struct rdv_name *name, int fd)
{
    struct stat st;
    int lock = name->abstract ? -1 : lock_folder(name);
    close(fd);
    if (lock < 0)
        return;
    if (lstat(name->sa.sun_path, &st) == 0 && st.st_dev == name->dev && st.st_ino == name->ino)
        unlink(name->sa.sun_path);
    close(lock);
}

union fd_control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * BELL_FDS)];
};

int rdv_send_hello(int fd, const struct rdv_hello *hello, const int fds[BELL_FDS])
{
    struct rdv_hello h = *hello;
    memcpy(h.magic, MAGIC, sizeof(h.magic));
    struct iovec iov = {&h, sizeof(h)};
    union fd_control control = {.bytes = {0}};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * BELL_FDS);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * BELL_FDS);
    return sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

int rdv_recv_hello(int fd, struct rdv_hello *h, int fds[BELL_FDS])
{
    struct iovec iov = {h, sizeof(*h)};
    union fd_control control;
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? -EAGAIN : -EPIPE;
    size_t n_fds = 0;
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
        n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); /* at most BELL_FDS fit */
        memcpy(fds, CMSG_DATA(c), n_fds * sizeof(int));
    }
    if (n == sizeof(*h) && n_fds == BELL_FDS && memcmp(h->magic, MAGIC, sizeof(h->magic)) == 0 &&
        memchr(h->ring_name, '\0', sizeof(h->ring_name)))
        return 0;
    for (size_t i = 0; i < n_fds; i++)
        close(fds[i]);
    return n == 0 ? -EPIPE : -EPROTO;
}

int rdv_send_ready(int fd)
{
    const char ready = READY;
    return send(fd, &ready, 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1 ? 0 : -EPIPE;
}

int rdv_recv_ready(int fd)
{
    char c;
    ssize_t n = recv(fd, &c, 1, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? -EAGAIN : -EPIPE;
    return n == 0 ? -EPIPE : c == READY ? 0 : -EPROTO;
}

bool rdv_hung_up(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLRDHUP};
    return poll(&p, 1, 0) > 0;
}
