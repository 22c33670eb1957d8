/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rendezvous: the Unix socket where the two processes of a memif port meet. It carries one HELLO
 * with the doorbell's descriptors, and by closing it tells at once that the other side is gone.
 * Only the same user (or root) gets in.
 */
#ifndef ISTHMUS_DATAPLANE_PORT_RENDEZVOUS_H
#define ISTHMUS_DATAPLANE_PORT_RENDEZVOUS_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include "dataplane/port/doorbell.h"

struct rdv_name {
    struct sockaddr_un sa;
    socklen_t len;
    bool abstract;
    dev_t dev; /* of the socket file we made */
    ino_t ino;
};

#define RDV_RING_NAME 64

struct rdv_hello {
    char magic[8];                 /* "isthmus1" */
    char ring_name[RDV_RING_NAME]; /* memif's own abstract socket */
};

/* "PATH" or "@NAME". err: PORT_ERR bytes, here and below. 0 or -EINVAL. */
int rdv_parse(const char *text, struct rdv_name *name, char *err);

/* Listen, and remove a dead server's file first. 0, -EADDRINUSE, -EACCES, -EINVAL, -EIO. */
int rdv_listen(struct rdv_name *name, int *fd, char *err);
void rdv_unlisten(const struct rdv_name *name, int fd);

/* Descriptor, or -ENOENT, -ECONNREFUSED (no server yet), -EACCES, -EPERM (another user's), ... */
int rdv_connect(const struct rdv_name *name, pid_t *peer);
int rdv_accept(int listen_fd, pid_t *peer); /* descriptor or -EAGAIN, -EPERM */

/* Remove the socket file of a server that died. */
void rdv_sweep(const struct rdv_name *name);

int rdv_send_hello(int fd, const struct rdv_hello *h, const int fds[BELL_FDS]);
/* 0 and descriptors that are ours; -EAGAIN: not yet; -EPIPE: gone; -EPROTO: not a hello. */
int rdv_recv_hello(int fd, struct rdv_hello *h, int fds[BELL_FDS]);

/* The client says that its side of the rings is up. */
int rdv_send_ready(int fd);
int rdv_recv_ready(int fd); /* 0, -EAGAIN, -EPIPE, -EPROTO */

/* Nothing is said after that: readable means gone. */
bool rdv_hung_up(int fd);

#endif
