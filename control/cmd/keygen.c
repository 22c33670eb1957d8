/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus keygen`: a new identity, or the fingerprint of one. */
#include <argp.h>
#include <stdio.h>

#include "control/cmd.h"
#include "control/log.h"
#include "dataplane/secure/identity.h"

struct keygen_options {
    const char *out, *show;
};

static const struct argp_option options[] = {
    {"output", 'o', "FILE", 0, "Where the new private key goes; never over an existing file", 0},
    {"show", 's', "FILE", 0, "Print the fingerprint of this identity, make none", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct keygen_options *o = state->input;
    switch (key) {
    case 'o':
        o->out = arg;
        return 0;
    case 's':
        o->show = arg;
        return 0;
    case ARGP_KEY_END:
        if (!o->out == !o->show)
            argp_error(state, "give -o FILE for a new identity, or --show FILE");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    NULL,
    "Make the identity of an edge or a cloud: a private key, readable by its owner only. Prints "
    "its fingerprint, by which the other side knows it (--peer, --authorized).",
    NULL,
    NULL,
    NULL,
};

int cmd_keygen(int argc, char **argv)
{
    struct keygen_options o = {.out = NULL};
    argp_parse(&argp, argc, argv, 0, NULL, &o);

    struct identity *id = NULL;
    char err[IDENTITY_ERR] = "", text[FINGERPRINT_TEXT];
    secure_memory_open();
    if (o.show) {
        if (identity_read(o.show, &id, err) < 0) {
            log_error("%s", err);
            return EXIT_USAGE;
        }
    } else if (identity_new(&id) < 0) {
        log_error("cannot make a key: OpenSSL fails");
        return EXIT_FAILED;
    } else if (identity_write(id, o.out, err) < 0) {
        log_error("%s", err);
        identity_close(id);
        return EXIT_USAGE;
    }
    puts(fingerprint_format(identity_fingerprint(id), text));
    identity_close(id);
    if (fflush(stdout) == EOF) {
        log_error("cannot write the fingerprint; `isthmus keygen --show FILE` prints it again");
        return EXIT_FAILED;
    }
    return EXIT_OK;
}
