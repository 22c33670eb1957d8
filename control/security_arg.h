/* SPDX-License-Identifier: Apache-2.0 */
/* `--identity FILE`, `--peer FINGERPRINT`, `--insecure`, and a cloud's `--authorized FILE`. */
#ifndef ISTHMUS_CONTROL_SECURITY_ARG_H
#define ISTHMUS_CONTROL_SECURITY_ARG_H

#include <argp.h>
#include <stdbool.h>

#include "dataplane/pipeline/pipeline.h"

#define PEERS_MAX 8u

/* An argp child, as those of options.h. */
struct security_options {
    const char *identity; /* NULL: not given */
    const char *peers[PEERS_MAX];
    unsigned n_peers;
    bool peers_elsewhere; /* none is needed: a registry may name them */
    const char *authorized; /* the cloud's own option */
    bool insecure;
    const char *user; /* privileges.h */
};
extern const struct argp security_argp;

/* What they name, opened. */
struct security {
    struct identity *identity; /* NULL: not encrypted */
    struct authorized *peers; /* NULL: not given */
    bool insecure;
    const char *user; /* for privileges_drop */
};

/* First of all, unless --insecure: keep the process's memory to itself. What it was given may lie
 * in an open file already. */
void security_begin(const struct security_options *o);
/*
 * Read what an edge or a cloud was given, after security_begin. What is missing or wrong is said.
 * EXIT_OK or an exit code; security_close is due in either case.
 */
int security_open(const struct security_options *o, bool cloud, struct security *s);
/* Identities for two halves of one run, known to nobody else, gone with it. */
int security_throw_away(struct security *edge, struct security *cloud);
void security_close(struct security *s);

/* Without encryption only what stays on this host may be used. */
bool security_allows_port(const struct security *s, const struct port *port);

/* The same; what is not encrypted is shouted, too. EXIT_OK or an
 * exit code, the error said. */
int security_check_port(const struct security *s, const struct port *port, const char *uri);

struct pipeline_security security_of(const struct security *s);

#endif
