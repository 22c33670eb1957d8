/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every process that serves has: a runtime folder of its own, a level of what it logs, a
 * configuration file, and a service manager that wants to know how it does (sd_notify(3); without
 * one nothing is told). One to a process; its functions belong to the thread that serves, those that
 * notify may be called from any.
 */
#ifndef ISTHMUS_CONTROL_SERVICE_DAEMON_H
#define ISTHMUS_CONTROL_SERVICE_DAEMON_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* --config, --check-config, --log-level (takes effect at once), --runtime-dir, --control. An argp child,
 * as those of options.h. */
struct daemon_options {
    const char *config;      /* NULL: none. config_parse has read it */
    bool check_config;       /* nothing else is to be done */
    bool check_options;      /* not even to look at what the options name: they were all parsed */
    const char *runtime_dir; /* NULL: not given */
    const char *control;     /* path of the control socket; NULL: not given */
};
extern const struct argp daemon_argp;

/*
 * The runtime folder: --runtime-dir, or the first of $RUNTIME_DIRECTORY, or none. It is made where it
 * is missing, and locked for this process: another that serves there is refused. EXIT_OK, or an
 * exit code with the error said; daemon_end is due in either case.
 */
int daemon_begin(const struct daemon_options *o);
void daemon_end(void);
/* Root is about to become this user, whose the folder is from then on if daemon_begin made it: what
 * comes later, as the control socket, is made in it. 0 or -errno. */
int daemon_hand_over(uid_t uid, gid_t gid);

/* For --check-config: whether the folder is there or could be made, and the control socket in its
 * own or in that; not whether somebody serves there. EXIT_OK or EXIT_USAGE, said. */
int daemon_check(const struct daemon_options *o);

/* Of daemon_begin; NULL: none. */
const char *daemon_runtime_dir(void);
/* --control, or control.sock in the runtime folder; NULL: neither. */
const char *daemon_control_path(const struct daemon_options *o);

void daemon_ready(void); /* also after daemon_reloading */
void daemon_reloading(void);
void daemon_stopping(void);
/* A line on how it does; said when it changes. */
void daemon_status(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* In every turn of the serving loop: tells the watchdog, if there is one, that it turns. Returns when it
 * is due again, so that a loop that hangs is noticed. */
uint64_t daemon_tick(uint64_t now_ns);

#endif
