/* SPDX-License-Identifier: Apache-2.0 */
/* `--listen` and what goes with it: `edge` and `run` as a process that answers many. */
#ifndef ISTHMUS_CONTROL_SERVICE_SERVE_H
#define ISTHMUS_CONTROL_SERVICE_SERVE_H

#include "control/front.h"
#include "control/privileges.h"
#include "control/rpc/control.h"
#include "control/service/daemon.h"
#include "control/service/service.h"

struct serve_options {
    struct daemon_options daemon;
    struct control_options control;
    const char *listen;                           /* HOST:PORT; NULL: it does not serve */
    const char *api_keys;                         /* file; NULL: nobody needs one */
    const char *model_id;                         /* as programs name it; NULL: after its file */
    uint32_t default_max_tokens, max_connections; /* 0: the gateway's defaults */
    uint32_t max_waiting, max_sessions, drain_timeout_s, request_timeout_s;
};

/* --listen, --api-keys, --model-id, --default-max-tokens, --max-connections, --max-waiting,
 * --max-sessions, --drain-timeout and those of daemon.h. An argp child, as those of options.h,
 * beside front_argp. */
extern const struct argp serve_argp;

/* In the parent's ARGP_KEY_END: what it means for the front, or what does not go together. */
void serve_check_options(struct argp_state *state, const struct serve_options *o,
                         struct front_options *front);

/* What such a process still does when root is given up; but for its ports and --user. daemon_begin
 * has come before. */
struct privileges serve_rights(const struct serve_options *o);

/* For --check-config: what can be looked at without serving. EXIT_OK or EXIT_USAGE, said. */
int serve_check(const struct serve_options *o);

/*
 * Answer until a signal comes, f being joined or local: opens the service, the gateway and the
 * control socket, runs them, closes them. daemon_begin has come before. EXIT_OK, or an exit code
 * with the error said.
 */
int serve(struct front *f, const struct serve_options *o);

#endif
