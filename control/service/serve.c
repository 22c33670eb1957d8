/* SPDX-License-Identifier: Apache-2.0 */
#include "control/service/serve.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/budget.h"
#include "control/cmd.h"
#include "control/config/config.h"
#include "control/config/reload.h"
#include "control/gateway/gateway.h"
#include "control/gateway/keys.h"
#include "control/log.h"
#include "control/quality_arg.h"

#define MAX_WAITING     64
#define DRAIN_TIMEOUT_S 30

/* --- options ------------------------------------------------------------------------------------
 */

enum {
    OPT_LISTEN = OPT_OWN + 0x200,
    OPT_API_KEYS,
    OPT_MAX_WAITING,
    OPT_MAX_SESSIONS,
    OPT_DRAIN_TIMEOUT,
    OPT_REQUEST_TIMEOUT,
    OPT_MODEL_ID,
    OPT_DEFAULT_MAX_TOKENS,
    OPT_MAX_CONNECTIONS
};

static const struct argp_option options[] = {
    {"listen", OPT_LISTEN, "HOST:PORT", 0,
     "Serve programs there, by OpenAI's HTTP interface, until a signal comes", 4},
    {"api-keys", OPT_API_KEYS, "FILE", 0,
     "Whom to serve: NAME KEY a line. Without it: everybody who can connect", 4},
    {"model-id", OPT_MODEL_ID, "NAME", 0,
     "What programs call the model (default: its file's name without .gguf)", 4},
    {"default-max-tokens", OPT_DEFAULT_MAX_TOKENS, "N", 0,
     "Tokens of an answer in a chat that gives no max_tokens (default 1024)", 4},
    {"max-connections", OPT_MAX_CONNECTIONS, "N", 0,
     "Connections of programs at once; more wait (default 4096)", 4},
    {"max-sessions", OPT_MAX_SESSIONS, "N", 0, "Answers in the making at once (default 16)", 4},
    {"max-waiting", OPT_MAX_WAITING, "N", 0,
     "Requests that may wait for their turn; more are refused (default 64)", 4},
    {"request-timeout", OPT_REQUEST_TIMEOUT, "SECONDS", 0,
     "How long a request may take, waiting and answered; then it ends with an error (default 0: no "
     "limit)",
     4},
    {"drain-timeout", OPT_DRAIN_TIMEOUT, "SECONDS", 0,
     "After SIGTERM, how long answers may take to end (default 30; 0: no limit)", 4},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct serve_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        *o = (struct serve_options){.max_waiting = MAX_WAITING, .drain_timeout_s = DRAIN_TIMEOUT_S};
        state->child_inputs[0] = &o->daemon;
        state->child_inputs[1] = &o->control;
        return 0;
    case OPT_LISTEN:
        o->listen = arg;
        return 0;
    case OPT_API_KEYS:
        o->api_keys = arg;
        return 0;
    case OPT_MODEL_ID:
        if (!*arg || strlen(arg) >= GATEWAY_MODEL_ID)
            argp_error(state, "--model-id must have 1 to %u bytes", GATEWAY_MODEL_ID - 1);
        o->model_id = arg;
        return 0;
    case OPT_DEFAULT_MAX_TOKENS:
        o->default_max_tokens = opt_u32(state, "--default-max-tokens", arg, 1, 1u << 20);
        return 0;
    case OPT_MAX_CONNECTIONS:
        o->max_connections = opt_u32(state, "--max-connections", arg, 1, 1u << 20);
        return 0;
    case OPT_MAX_SESSIONS:
        o->max_sessions = opt_u32(state, "--max-sessions", arg, 1, SESSIONS_MAX);
        return 0;
    case OPT_MAX_WAITING:
        o->max_waiting = opt_u32(state, "--max-waiting", arg, 0, 1u << 20);
        return 0;
    case OPT_REQUEST_TIMEOUT:
        o->request_timeout_s = opt_u32(state, "--request-timeout", arg, 0, 86400);
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
                            : o->model_id           ? "--model-id"
                            : o->default_max_tokens ? "--default-max-tokens"
                            : o->max_connections    ? "--max-connections"
                            : o->max_sessions       ? "--max-sessions"
                            : o->request_timeout_s  ? "--request-timeout"
                            : front->kv_least       ? "--kv-least"
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

int serve_check(const struct serve_options *o)
{
    struct api_keys *read = NULL;
    char err[API_KEYS_ERR];
    int rc = o->listen ? gateway_check_listen(o->listen) : EXIT_OK;
    if (rc == EXIT_OK && o->api_keys && api_keys_read(o->api_keys, &read, err) < 0) {
        log_error("--api-keys: %s", err);
        rc = EXIT_USAGE;
    }
    api_keys_free(read);
    return rc == EXIT_OK && o->listen ? daemon_check(&o->daemon) : rc;
}

/* --- in the engine's thread ---------------------------------------------------------------------
 */

struct serving {
    struct front *front;
    struct service *service;
    struct gateway *gateway;
    struct reload *reload;
    bool told_ready;             /* the manager */
    enum codec_rate_kind target; /* of answers that have none of their own */
    struct budget budget;        /* of memory */
    uint64_t budget_ns;          /* when it was last looked at */
};

#define BUDGET_LOOK_NS UINT64_C(100000000)

/* --memory-budget, ten times a second. */
static void look_at_budget(struct serving *v, uint64_t now_ns)
{
    struct budget *b = &v->budget;
    const struct budget before = *b;
    struct account a;
    if (!v->front->o->memory_budget_bytes || now_ns - v->budget_ns < BUDGET_LOOK_NS)
        return;
    v->budget_ns = now_ns;
    b->can_coarsen = v->front->steer;
    front_account(v->front, &a);
    while (budget_is_full(b, &a) && engine_make_room(v->front->engine))
        front_account(v->front, &a);
    if (!budget_look(b, &a))
        return;
    if (v->front->steer)
        steer_floor(v->front->steer, b->coarser, now_ns);
    service_set_limits(v->service, budget_context(b, v->front->engine->info->n_ctx),
                       b->rung == BUDGET_REFUSE);
    service_set_kv(v->service, budget_kv(b));
    if (b->rung != before.rung || b->kv_steps != before.kv_steps)
        log_info("memory: %s (step %u of %u), new keys and values %s: %.1f MB of %.1f resident, "
                 "histories %.1f of %.1f, cache promised %.1f of %.1f",
                 budget_rung_name(b->rung), b->rung, BUDGET_RUNGS - 1, kv_format_name(budget_kv(b)),
                 (double)a.resident_bytes * 1e-6, (double)a.budget_bytes * 1e-6,
                 (double)a.history_busy_bytes * 1e-6, (double)a.limits[ACCOUNT_HISTORY] * 1e-6,
                 (double)a.kv_busy_bytes * 1e-6, (double)a.limits[ACCOUNT_KV] * 1e-6);
    service_set_memory_step(v->service, budget_rung_name(b->rung), b->steps);
}

/* Once a turn. */
static uint64_t tick(void *arg, uint64_t now_ns)
{
    struct serving *v = arg;
    const char *why;
    const enum service_health health = service_health(v->service, &why);
    if (!v->told_ready)
        daemon_ready(); /* now and not before: who asks /readyz is told what the manager was */
    v->told_ready = true;
    daemon_status("%s", health == SERVICE_READY ? "ready" : why);
    look_at_budget(v, now_ns);
    reload_poll(v->reload);
    const uint64_t again_ns = daemon_tick(now_ns);
    const uint64_t budget_ns = v->budget.rung ? v->budget_ns + BUDGET_LOOK_NS : UINT64_MAX;
    return budget_ns < again_ns ? budget_ns : again_ns; /* a ladder is left in time, too */
}

static void on_reload(void *arg)
{
    reload_begin(((struct serving *)arg)->reload);
}

static void wake(void *arg)
{
    service_wake(((struct serving *)arg)->service);
}

/* --- what a reload changes ----------------------------------------------------------------------
 */

static int apply_max_waiting(void *arg, const char *value, char *err)
{
    (void)err;
    service_set_max_waiting(((struct serving *)arg)->service,
                            value ? (uint32_t)strtoul(value, NULL, 10) : MAX_WAITING);
    return 0;
}

static int apply_drain_timeout(void *arg, const char *value, char *err)
{
    (void)err;
    const uint64_t s = value ? strtoul(value, NULL, 10) : DRAIN_TIMEOUT_S;
    service_set_drain_timeout(((struct serving *)arg)->service, s * UINT64_C(1000000000));
    return 0;
}

static int apply_request_timeout(void *arg, const char *value, char *err)
{
    (void)err;
    const uint64_t s = value ? strtoul(value, NULL, 10) : 0;
    service_set_request_timeout(((struct serving *)arg)->service, s * UINT64_C(1000000000));
    return 0;
}

/* Of answers that begin from now on. */
static int apply_target(struct serving *v, enum codec_rate_kind kind, const char *value, char *err)
{
    struct codec_rate_target target = {.kind = CODEC_RATE_NONE};
    if (!value && v->target != kind)
        return 0; /* the other one has taken its place */
    if (!value && v->front->plan.target.kind) {
        snprintf(err, RELOAD_ERR, "it began with a target: to have none it must be started anew");
        return -EINVAL;
    }
    int rc = 0;
    if (value)
        rc = (kind == CODEC_RATE_KL ? quality_arg_parse : rate_arg_parse)(value, &target, err);
    if (rc < 0)
        return rc;
    rc = service_set_target(v->service, target);
    if (rc < 0)
        snprintf(err, RELOAD_ERR, "the codec's mode has no curve to find it on");
    else
        v->target = target.kind;
    return rc;
}

static int apply_quality(void *arg, const char *value, char *err)
{
    return apply_target(arg, CODEC_RATE_KL, value, err);
}

static int apply_rate(void *arg, const char *value, char *err)
{
    return apply_target(arg, CODEC_RATE_BYTES, value, err);
}

_Static_assert(RELOAD_ERR >= API_KEYS_ERR, "room for what is wrong with a file of keys");

static int read_api_keys(void *arg, const char *value, char *err)
{
    (void)value; /* the gateway knows the file */
    return gateway_reload_keys(((struct serving *)arg)->gateway, err);
}

static const struct reload_key keys[] = {
    {"api-keys", read_api_keys, true},
    {"log-level", reload_log_level, false},
    {"max-waiting", apply_max_waiting, false},
    {"drain-timeout", apply_drain_timeout, false},
    {"request-timeout", apply_request_timeout, false},
    {"quality", apply_quality, false},
    {"rate", apply_rate, false},
};

/* --- serving ------------------------------------------------------------------------------------
 */

static int open_service(struct serving *v, const struct serve_options *o)
{
    const struct service_params params = {
        .front = v->front,
        .max_waiting = o->max_waiting,
        .request_timeout_ns = o->request_timeout_s * UINT64_C(1000000000),
        .drain_timeout_ns = o->drain_timeout_s * UINT64_C(1000000000),
    };
    const struct reload_params reload = {
        .keys = keys, .n_keys = sizeof keys / sizeof *keys, .wake = wake, .arg = v};
    if (reload_open(&reload, &v->reload) < 0) {
        log_error("out of memory");
        return EXIT_FAILED;
    }
    const int rc = service_open(&params, &v->service);
    if (rc == EXIT_OK) {
        service_on_tick(v->service, tick, v);
        service_on_reload(v->service, on_reload, v);
    }
    return rc;
}

static int open_gateway(struct serving *v, const struct serve_options *o)
{
    const struct gateway_params params = {
        .service = v->service,
        .model = &v->front->model,
        .model_id = o->model_id,
        .listen = o->listen,
        .keys_file = o->api_keys,
        .limits = {.connections = o->max_connections, .answer_tokens = o->default_max_tokens},
    };
    return gateway_open(&params, &v->gateway);
}

struct privileges serve_rights(const struct serve_options *o)
{
    const char *control = o->listen ? daemon_control_path(&o->daemon) : NULL;
    struct privileges p = {.group = PRIVILEGES_NO_GROUP};
    if (!o->listen)
        return p;
    p.reads[0] = o->daemon.config;
    p.reads[1] = o->api_keys;
    p.listens = o->listen;
    if (control && strcmp(control, "none") == 0)
        return p;
    p.group = o->control.group;
    p.makes = control;
    if (!control)
        p.hand_over = control_hand_over;
    return p;
}

int serve(struct front *f, const struct serve_options *o)
{
    struct serving v = {.front = f, .target = f->plan.target.kind};
    budget_formats(&v.budget, f->engine->info, f->engine->info->kv_format, front_kv_least(f));
    budget_cache(&v.budget, f->stage, f->engine->info->kv_format, f->o->parallel);
    int rc = open_service(&v, o);
    if (rc == EXIT_OK)
        rc = open_gateway(&v, o);
    struct control *control = NULL;
    if (rc == EXIT_OK)
        rc = control_open_edge(&o->control, daemon_control_path(&o->daemon), v.service, f,
                               o->daemon.config || o->api_keys ? v.reload : NULL, &control);
    if (rc == EXIT_OK) {
        rc = service_run(v.service);
        daemon_stopping();
    }
    control_close(control);
    gateway_close(v.gateway);
    reload_close(v.reload); /* its thread wakes the service */
    service_close(v.service);
    return rc;
}
