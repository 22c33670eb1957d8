/* SPDX-License-Identifier: Apache-2.0 */
#include "control/service/serve.h"

#include <stdio.h>

#include "control/cmd.h"
#include "control/config/config.h"
#include "control/gateway/gateway.h"
#include "control/log.h"

/* --- options ------------------------------------------------------------------------------------
 */

enum {
    OPT_LISTEN = OPT_OWN + 0x200,
    OPT_API_KEYS,
    OPT_MAX_WAITING,
    OPT_MAX_SESSIONS,
    OPT_DRAIN_TIMEOUT
};

static const struct argp_option options[] = {
    {"listen", OPT_LISTEN, "HOST:PORT", 0,
     "Serve programs there, by OpenAI's HTTP interface, until a signal comes", 4},
    {"api-keys", OPT_API_KEYS, "FILE", 0,
     "Whom to serve: a key a line. Without it: everybody who can connect", 4},
    {"max-sessions", OPT_MAX_SESSIONS, "N", 0, "Answers in the making at once (default 16)", 4},
    {"max-waiting", OPT_MAX_WAITING, "N", 0,
     "Requests that may wait for their turn; more are refused (default 64)", 4},
    {"drain-timeout", OPT_DRAIN_TIMEOUT, "SECONDS", 0,
     "After SIGTERM, how long answers may take to end (default 30; 0: no limit)", 4},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct serve_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        *o = (struct serve_options){.max_waiting = 64, .drain_timeout_s = 30};
        state->child_inputs[0] = &o->daemon;
        state->child_inputs[1] = &o->control;
        return 0;
    case OPT_LISTEN:
        o->listen = arg;
        return 0;
    case OPT_API_KEYS:
        o->api_keys = arg;
        return 0;
    case OPT_MAX_SESSIONS:
        o->max_sessions = opt_u32(state, "--max-sessions", arg, 1, 256);
        return 0;
    case OPT_MAX_WAITING:
        o->max_waiting = opt_u32(state, "--max-waiting", arg, 0, 1u << 20);
        return 0;
    case OPT_DRAIN_TIMEOUT:
        o->drain_timeout_s = opt_u32(state, "--drain-timeout", arg, 0, 86400);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {
    {&daemon_argp, 0, NULL, 0}, {&control_argp, 0, NULL, 0}, {0}};
const struct argp serve_argp = {options, parse, NULL, NULL, children, NULL, NULL};

void serve_check_options(struct argp_state *state, const struct serve_options *o,
                         struct front_options *front)
{
    front->serves = o->listen;
    if (!o->listen) {
        const char *given = o->api_keys             ? "--api-keys"
                            : o->max_sessions       ? "--max-sessions"
                            : o->daemon.control     ? "--control"
                            : o->daemon.runtime_dir ? "--runtime-dir"
                                                    : NULL;
        if (given)
            argp_error(state, "%s is for a process that serves: --listen HOST:PORT is missing",
                       given);
        return;
    }
    if (front->prompt || front->requests)
        argp_error(state, "--listen takes its requests there: leave out %s",
                   front->prompt ? "-p" : "--requests");
    front->parallel = o->max_sessions ? o->max_sessions : 16;
}

int serve_check(const struct serve_options *o, const struct model_options *model)
{
    const int rc = config_check_file("--model", model->path);
    return rc == EXIT_OK && o->api_keys ? config_check_file("--api-keys", o->api_keys) : rc;
}

/* --- serving ------------------------------------------------------------------------------------
 */

/* What the service manager shows. */
static uint64_t tick(void *arg, uint64_t now_ns)
{
    const char *why;
    const enum service_health health = service_health(arg, &why);
    daemon_status("%s", health == SERVICE_READY ? "ready" : why);
    return daemon_tick(now_ns);
}

int serve(struct front *f, const struct serve_options *o)
{
    const struct service_params params = {
        .front = f,
        .max_waiting = o->max_waiting,
        .drain_timeout_ns = o->drain_timeout_s * UINT64_C(1000000000),
    };
    struct service *s = NULL;
    int rc = service_open(&params, &s);
    if (rc != EXIT_OK)
        return rc;
    service_on_tick(s, tick, s);

    struct gateway *gateway = NULL;
    rc = gateway_open(&(struct gateway_params){.service = s,
                                               .model = &f->model,
                                               .listen = o->listen,
                                               .keys_file = o->api_keys},
                      &gateway);
    struct control *control = NULL;
    if (rc == EXIT_OK)
        rc = control_open_edge(&o->control, daemon_control_path(&o->daemon), s, f,
                               o->daemon.config, &control);
    if (rc == EXIT_OK) {
        daemon_ready();
        rc = service_run(s);
        daemon_stopping();
    }
    control_close(control);
    gateway_close(gateway);
    service_close(s);
    return rc;
}
