/* SPDX-License-Identifier: Apache-2.0 */
/* Root is needed to open ports, and to read what only root may: not to serve. */
#ifndef ISTHMUS_CONTROL_PRIVILEGES_H
#define ISTHMUS_CONTROL_PRIVILEGES_H

#include <stdbool.h>
#include <sys/types.h>

#define PRIVILEGES_READS    3u
#define PRIVILEGES_NO_GROUP ((gid_t)-1)

/* What a process still does when root is given up. */
struct privileges {
    const char *const *ports; /* their names; several: each may be opened again */
    unsigned n_ports;
    bool is_server;           /* a cloud: the socket of a memif: port is its own */
    const char *user;         /* --user; NULL: not given */
    const char *reads[PRIVILEGES_READS]; /* files that are read again; NULL: none */
    const char *makes;        /* the path of a control socket that is yet to be made; NULL: none */
    gid_t group;              /* whose one is to be; PRIVILEGES_NO_GROUP: the process's */
    const char *listens;      /* HOST:PORT that is yet to be opened; NULL: none */
    void (*hand_over)(uid_t uid, gid_t gid); /* what else is to be that user's; NULL: nothing */
};

/* First of all, for what is set for one thread holds for those that it starts later: a process of
 * root can't get new privileges from here on. */
void privileges_begin(void);

/*
 * Once the ports are open, and everything else that needs rights: a process that is root goes on as
 * `user`; NULL: as who called sudo, as the package's user where there is one, or as nobody. In all
 * threads, for good, and without a capability but those that closing, or opening again, its ports
 * takes. What was done is said.
 *
 * Root is kept, which is said with the mend, where that user could not do what comes later; not
 * where `user` was given, or a packet:, xdp: or pci: port is served: then what will fail is said.
 * Who is not root: nothing. EXIT_OK or an exit code, the error said.
 */
int privileges_drop(const struct privileges *p);

/* The same of a process that measures, writes what it found and ends: only packet:, xdp: and pci:
 * need root, so only with these. */
int privileges_drop_brief(const char *port, const char *user);

/* For --check-config: whether there is such a user. */
int privileges_check(const char *user);

#endif
