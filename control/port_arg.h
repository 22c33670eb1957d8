/* SPDX-License-Identifier: Apache-2.0 */
/* `--port URI`, and the port it names, behind `--netem`'s impairments. */
#ifndef ISTHMUS_CONTROL_PORT_ARG_H
#define ISTHMUS_CONTROL_PORT_ARG_H

#include <argp.h>

#include "control/netem_arg.h"
#include "control/plan/memory.h"
#include "control/security_arg.h"
#include "dataplane/port.h"

/* An argp child, as those of options.h: a bad URI ends the program with exit code 2. */
#define PORTS_MAX 8u
struct port_options {
    const char *uris[PORTS_MAX]; /* at least one after parsing, unless elsewhere; a cloud has no more */
    unsigned n;
    bool elsewhere; /* none is needed: a registry has them */
};
extern const struct argp port_argp;

/* So begins a name that a command made up for its own two halves: what was chosen there is only for
 * those who want to know all (log_debug). */
#define PORT_ARG_OWN "memif:@isthmus-"

/*
 * Open it, and say what was chosen. Without encryption a port that reaches
 * beyond this host is refused. EXIT_OK or an exit code, the error said.
 */
int port_arg_open(const char *uri, enum port_role role, const struct security *security,
                  const struct netem_options *n, struct port **out);

/* For --check-config: whether it is a port of this role, as far as its name tells; a host is not
 * looked up. EXIT_OK or EXIT_USAGE, said. */
int port_arg_check(const char *uri, enum port_role role, bool insecure);

/* What its packets and driver take here once it is open, as the memory's account has it; of NULL, or
 * what is no port, UDP's. */
uint64_t port_arg_bytes(const char *uri);

/* port_arg_open for an edge that looks for its cloud again and again: what was said last is not
 * said anew. NULL: it can't be opened now. */
struct port *port_arg_reopen(const char *uri, const struct security *security,
                             const struct netem_options *n);

/* port_arg_reopen in place of *port, which is closed; it stays where the name was looked up in vain,
 * for its address may do. Whether it was opened; else *port may be NULL. */
bool port_arg_replace(const char *uri, const struct security *security,
                      const struct netem_options *n, struct port **port);

/* Its peer may be elsewhere the next time: a name stands for it, not an address. */
bool port_arg_may_move(const char *uri);

/* Whether its look-up (port_looked_up) is to be waited for: half a second, from the first call on.
 * Then, and where it is done, false, and the next call begins anew. *since_ns: 0 before the first. */
bool port_arg_awaits_name(const char *uri, uint64_t *since_ns);

/* The NUMA node of the card behind a port of an interface or a PCI device, from sysfs ("/sys");
 * -1: none, or not known. */
int port_arg_numa_node(const char *sysfs, const char *uri);

#endif
