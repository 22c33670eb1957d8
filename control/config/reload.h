/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SIGHUP: the configuration is read again, checked as it is written, and what may change while the
 * process serves does, each said in a line: what changed, what needs a restart, what was refused.
 * Where anything is wrong nothing changes. Another thread may ask for the same, and gets those
 * lines. The service manager is told when one begins and ends.
 *
 * The check is the command's own parser, in a process of its own: argp ends the one that it runs
 * in. A thread waits for that, so that the serving thread does not.
 */
#ifndef ISTHMUS_CONTROL_CONFIG_RELOAD_H
#define ISTHMUS_CONTROL_CONFIG_RELOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RELOAD_ERR  256
#define RELOAD_LINE 1024 /* bytes of what is said in one; longer ones end in "..." */

struct reload_key {
    const char *key;
    /* The value, which the command's parser took; NULL: none, so the default. 0, or -errno with
     * why in err (RELOAD_ERR bytes): the old one stays. In the serving thread. */
    int (*apply)(void *arg, const char *value, char *err);
    bool file; /* it names a file: applied each time while the name stays; another one needs a
                  restart */
};

/* The apply of log-level, which is every process's; arg is not looked at. */
int reload_log_level(void *arg, const char *value, char *err);

struct reload_params {
    const struct reload_key *keys; /* borrowed, as arg */
    size_t n_keys;
    void (*wake)(void *arg); /* any thread: reload_poll is due */
    void *arg;               /* of apply and wake */
};

struct reload;

/* After config_parse. 0 or -ENOMEM. */
int reload_open(const struct reload_params *p, struct reload **out);
/* When nobody asks any more. r may be NULL. */
void reload_close(struct reload *r);

/* In the serving thread: SIGHUP came. */
void reload_begin(struct reload *r);
/* In the serving thread, in every turn of its loop: begins what was asked for, and goes on once the
 * check is done. */
void reload_poll(struct reload *r);

struct reload_result {
    bool refused; /* the whole configuration, or a value of it */
    char *lines;  /* as in the log, each with its newline; malloc'd */
};

/*
 * Another thread: reload what is there now, and wait for what comes of it. 0 with *out;
 * -ETIMEDOUT: it has not ended within patience_ns, but goes on; -ESHUTDOWN: it won't end; -ENOMEM:
 * it has ended, its lines are lost.
 */
int reload_ask(struct reload *r, uint64_t patience_ns, struct reload_result *out);
/* The serving thread, whose loop has ended: who waits in reload_ask is told. */
void reload_shut(struct reload *r);

#endif
