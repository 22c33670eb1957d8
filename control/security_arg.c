/* SPDX-License-Identifier: Apache-2.0 */
#include "control/security_arg.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/options.h"

static const struct argp_option option_list[] = {
    {"identity", OPT_IDENTITY, "FILE", 0, "Our private key, made by `isthmus keygen -o FILE`", 0},
    {"peer", OPT_PEER, "FINGERPRINT", 0,
     "Whom we speak to and nobody else: sha256:HEX, as `isthmus keygen` prints it there; may be "
     "given "
     "for each of several",
     0},
    {"insecure", OPT_INSECURE, NULL, 0,
     "Encrypt nothing and believe everybody, between processes of one host", 0},
    {"user", OPT_USER, "NAME", 0,
     "As whom root goes on once the ports are open (default: who called sudo, else isthmus where "
     "there is such a user, else nobody)",
     0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct security_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        *o = (struct security_options){.identity = NULL};
        return 0;
    case OPT_IDENTITY:
        o->identity = arg;
        return 0;
    case OPT_PEER:
        if (o->n_peers == PEERS_MAX)
            argp_error(state, "--peer: more than %u: a cloud takes --authorized FILE", PEERS_MAX);
        o->peers[o->n_peers++] = arg;
        return 0;
    case OPT_INSECURE:
        o->insecure = true;
        return 0;
    case OPT_USER:
        o->user = arg;
        return 0;
    case ARGP_KEY_END:
        if (o->insecure && (o->identity || o->n_peers))
            argp_error(state, "--insecure encrypts nothing: leave it out, or leave out --identity "
                              "and --peer");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp security_argp = {option_list, parse, NULL, NULL, NULL, NULL, NULL};

/* --- opening -------------------------------------------------------------------------------------
 */

static int complete(const struct security_options *o, bool cloud)
{
    if (o->identity && (o->n_peers || o->authorized || o->peers_elsewhere))
        return EXIT_OK;
    log_error("%s missing: --identity FILE (made by `isthmus keygen -o FILE`) and %s; or "
              "--insecure, between processes of one host",
              o->identity                   ? cloud ? "--peer or --authorized is" : "--peer is"
              : o->n_peers || o->authorized ? "--identity is"
              : cloud                       ? "--identity and --authorized are"
                                            : "--identity and --peer are",
              cloud ? "--authorized FILE or --peer FINGERPRINT of the edges"
                    : "--peer FINGERPRINT of the cloud");
    return EXIT_USAGE;
}

static int open_peers(const struct security_options *o, struct security *s)
{
    char err[IDENTITY_ERR] = "", list[PEERS_MAX * (FINGERPRINT_TEXT + 16)];
    struct fingerprint f;
    int n = 0;
    if (o->authorized) {
        if (authorized_read(o->authorized, &s->peers, err) == 0)
            return EXIT_OK;
        log_error("%s", err);
        return EXIT_USAGE;
    }
    for (unsigned i = 0; i < o->n_peers; i++) {
        char print[FINGERPRINT_TEXT];
        if (fingerprint_parse(o->peers[i], strlen(o->peers[i]), &f) < 0) {
            log_error("--peer %s: no fingerprint: sha256: and 64 hex digits, as `isthmus keygen` "
                      "prints it",
                      o->peers[i]);
            return EXIT_USAGE;
        }
        n += snprintf(list + n, sizeof list - (size_t)n, "peer-%u %s\n", i + 1,
                      fingerprint_format(&f, print));
    }
    if (authorized_parse(list, (size_t)n, "--peer", &s->peers, err) < 0) {
        log_error("%s", err);
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

void security_begin(const struct security_options *o)
{
    if (!o->insecure)
        secure_memory_open();
}

int security_open(const struct security_options *o, bool cloud, struct security *s)
{
    char err[IDENTITY_ERR] = "";
    *s = (struct security){.insecure = o->insecure, .user = o->user};
    if (o->insecure)
        return EXIT_OK;
    int rc = complete(o, cloud);
    if (rc != EXIT_OK)
        return rc;
    if (identity_read(o->identity, &s->identity, err) < 0) {
        log_error("--identity %s", err);
        return EXIT_USAGE;
    }
    rc = o->n_peers || o->authorized ? open_peers(o, s) : EXIT_OK;
    if (rc == EXIT_OK && s->peers && authorized_find(s->peers, identity_fingerprint(s->identity))) {
        log_error("--peer or --authorized names our own identity: edge and cloud have one each");
        rc = EXIT_USAGE;
    }
    return rc;
}

int security_throw_away(struct security *edge, struct security *cloud)
{
    *edge = *cloud = (struct security){.insecure = false};
    secure_memory_open();
    if (identity_new(&edge->identity) < 0 || identity_new(&cloud->identity) < 0 ||
        authorized_one(identity_fingerprint(cloud->identity), &edge->peers) < 0 ||
        authorized_one(identity_fingerprint(edge->identity), &cloud->peers) < 0) {
        log_error("cannot make keys: OpenSSL fails");
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

void security_close(struct security *s)
{
    identity_close(s->identity);
    authorized_close(s->peers);
    *s = (struct security){.identity = NULL};
}

bool security_allows_port(const struct security *s, const struct port *port)
{
    return !s->insecure || port->caps.same_host;
}

int security_check_port(const struct security *s, const struct port *port, const char *uri)
{
    if (!s->insecure)
        return EXIT_OK;
    if (!security_allows_port(s, port)) {
        log_error("--insecure: port %s reaches beyond this host: give --identity and --peer "
                  "instead",
                  uri);
        return EXIT_USAGE;
    }
    log_warn("INSECURE: nothing is encrypted on port %s, and nobody has to prove who he is: any "
             "process of this host that gets at it can read the activations, and so the prompts, "
             "and change the answers",
             uri);
    return EXIT_OK;
}

struct pipeline_security security_of(const struct security *s)
{
    return (struct pipeline_security){.identity = s->identity, .peers = s->peers};
}
