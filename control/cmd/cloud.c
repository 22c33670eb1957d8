/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus cloud`: the back half. Serves the edges that join until a signal comes. */
#include <stdio.h>
#include <string.h>

#include "control/account.h"
#include "control/budget.h"
#include "control/child.h"
#include "control/cloud_serve.h"
#include "control/cmd.h"
#include "control/config/config.h"
#include "control/fleet/register.h"
#include "control/log.h"
#include "control/model.h"
#include "control/options.h"
#include "control/port_arg.h"
#include "control/privileges.h"
#include "control/rpc/control.h"
#include "control/split_plan.h"
#include "control/service/daemon.h"
#include "dataplane/pipeline/pipeline.h"
#include "dataplane/secure/aead.h"

enum {
    OPT_AUTHORIZED = OPT_OWN,
    OPT_ONCE,
    OPT_MAX_SESSIONS,
    OPT_MAX_EDGES,
    OPT_CHUNK,
    OPT_LEASE,
    OPT_MEMORY_BUDGET,
    OPT_KV_LEAST,
    OPT_DRAIN_TIMEOUT
};

struct cloud_options {
    struct model_options model;
    struct split_options split;
    enum head_place head;
    struct port_options port;
    struct security_options security;
    struct netem_options netem;
    struct daemon_options daemon;
    struct control_options control;
    struct register_options registry;
    const char *authorized;
    bool once;
    uint32_t max_sessions, max_edges, chunk_tokens, lease_s, drain_timeout_s;
    uint64_t kv_budget_bytes, memory_budget_bytes;
    uint32_t kv_least; /* 1 + the coarsest enum kv_format that edges are asked for; 0: not given */
};

static const struct argp_option options[] = {
    {"authorized", OPT_AUTHORIZED, "FILE", 0,
     "The edges admitted, instead of one --peer: lines of NAME FINGERPRINT [sessions=N] [tokens=N] "
     "[kv=SIZE] [rate=SIZE/s|Nrows/s]. Read again by SIGHUP",
     0},
    {"once", OPT_ONCE, NULL, 0, "End when the first edge has left", 0},
    {"max-sessions", OPT_MAX_SESSIONS, "N", 0, "Sessions at once, of all edges (default 16)", 0},
    {"max-edges", OPT_MAX_EDGES, "N", 0, "Edges at once; more are turned away (default 64)", 0},
    {"kv-budget", OPT_KV_BUDGET, "SIZE", 0,
     "Most memory for the cache of keys and values: 64MB. Sessions that find no room wait "
     "(default: "
     "enough for all at their longest)",
     0},
    {"memory-budget", OPT_MEMORY_BUDGET, "SIZE", 0,
     "Most memory for all of this process: 200MB. Refused at start where it cannot be kept; the "
     "cache "
     "gets what is left",
     0},
    {"kv-least", OPT_KV_LEAST, "f16|q8|k8v4|q4", 0,
     "With --memory-budget: the coarsest keys and values that edges are asked for when the cache "
     "is nearly full (default k8v4)",
     0},
    {"lease", OPT_LEASE, "SECONDS", 0,
     "How long sessions are kept for an edge that is not heard (default 10)", 0},
    {"drain-timeout", OPT_DRAIN_TIMEOUT, "SECONDS", 0,
     "After SIGTERM, how long sessions may take to end or move (default 30; 0: no limit)", 0},
    {"chunk", OPT_CHUNK, "N", 0, "Most rows of prompts computed at once (default 128)", 2},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct cloud_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->model;
        state->child_inputs[1] = &o->split;
        state->child_inputs[2] = &o->port;
        state->child_inputs[3] = &o->netem;
        state->child_inputs[4] = &o->security;
        state->child_inputs[5] = &o->daemon;
        state->child_inputs[6] = &o->control;
        state->child_inputs[7] = &o->registry;
        state->child_inputs[8] = &o->head;
        return 0;
    case OPT_AUTHORIZED:
        o->authorized = arg;
        return 0;
    case OPT_ONCE:
        o->once = true;
        return 0;
    case OPT_MAX_SESSIONS:
        o->max_sessions = opt_u32(state, "--max-sessions", arg, 1, SESSIONS_MAX);
        return 0;
    case OPT_MAX_EDGES:
        o->max_edges = opt_u32(state, "--max-edges", arg, 1, 256);
        return 0;
    case OPT_DRAIN_TIMEOUT:
        o->drain_timeout_s =
            opt_u32(state, "--drain-timeout", arg, 0, (uint32_t)DRAIN_TIMEOUT_MAX_S);
        return 0;
    case OPT_CHUNK:
        o->chunk_tokens = opt_u32(state, "--chunk", arg, 1, 1024);
        return 0;
    case OPT_KV_BUDGET:
        o->kv_budget_bytes = opt_size(state, "--kv-budget", arg);
        return 0;
    case OPT_MEMORY_BUDGET:
        o->memory_budget_bytes = opt_size(state, "--memory-budget", arg);
        return 0;
    case OPT_KV_LEAST:
        o->kv_least = 1 + (uint32_t)opt_kv_format(state, arg);
        return 0;
    case OPT_LEASE:
        o->lease_s = opt_u32(state, "--lease", arg, 2, 86400);
        return 0;
    case ARGP_KEY_END:
        if (o->port.n > 1)
            argp_error(state, "--port: a cloud serves at one port; start another for another");
        if (o->kv_least && !o->memory_budget_bytes)
            argp_error(state, "--kv-least is for --memory-budget");
        opt_check_kv_least(state, o->kv_least, o->model.kv);
        if (o->split.target.kind)
            argp_error(state, "--quality and --rate are for the edge: leave them out");
        if (o->authorized && (o->security.n_peers || o->security.insecure))
            argp_error(state,
                       "--authorized, --peer and --insecure say each whom to admit: give one "
                       "of them");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {
    {&model_argp, 0, NULL, 0},    {&split_argp, 0, NULL, 0},
    {&port_argp, 0, NULL, 0},     {&netem_argp, 0, NULL, 0},
    {&security_argp, 0, NULL, 0}, {&daemon_argp, 0, NULL, 0},
    {&control_argp, 0, NULL, 0},  {&register_argp, 0, NULL, 0},
    {&head_argp, 0, NULL, 0},     {0},
};
const struct argp cmd_cloud_argp = {
    options,  parse, NULL, "Hold the back layers of a model and answer the edges that join.",
    children, NULL,  NULL,
};

static uint64_t cloud_clock(void *arg)
{
    (void)arg;
    return port_now_ns();
}

static void say(void *arg, const char *line)
{
    if (!*(const bool *)arg) /* --once: whoever started us knows */
        log_info("%s", line);
}

static void say_start(const struct cloud_options *o, const struct security *security,
                      const struct split_plan *plan, const struct model *m, const struct team *team,
                      const struct port *port)
{
    char text[FINGERPRINT_TEXT];
    if (security->identity)
        log_info("identity %s; edges admitted: %zu; AES-128-GCM by %s",
                 fingerprint_format(identity_fingerprint(security->identity), text),
                 authorized_count(security->peers), aead_implementation());
    log_info("layers %u to %u%s of %s at %s; %u threads%s%s", plan->split, m->n_layers - 1,
             o->head == HEAD_AT_EDGE ? ", without the head," : "", m->path, o->port.uris[0],
             team_size(team), *team_cpus(team) ? " on CPUs " : "", team_cpus(team));
    if (strcmp(port->caps.name, "memif") == 0)
        log_info("up to %u sessions, of one edge at a time: memif has one peer, another waits at "
                 "its socket",
                 o->max_sessions);
    else
        log_info("up to %u sessions of %u edges at once", o->max_sessions, o->max_edges);
}

static struct stage_params stage_of(const struct cloud_options *o, const struct split_plan *plan)
{
    return (struct stage_params){
        .first_layer = plan->split,
        .head = head_of_back(o->head),
        .max_rows = model_run_rows(o->chunk_tokens, o->max_sessions),
        .n_ctx = o->model.ctx,
        .kv_format = o->model.kv,
    };
}

static struct need_process process_of(const struct cloud_options *o, const struct split_plan *plan,
                                      uint32_t threads)
{
    return (struct need_process){
        .threads = threads,
        .logit_rows = o->max_sessions,
        .codec = &plan->codec,
        .packet_bytes = port_arg_bytes(o->port.uris[0]),
    };
}

/* The cache, and what --memory-budget leaves for it; or it is refused. */
static int plan_stage(const struct cloud_options *o, const struct model *m,
                      const struct need_process *with, struct stage_params *p)
{
    int rc = model_cache(m, o->max_sessions, true, o->kv_budget_bytes, p);
    account_begin();
    if (rc != EXIT_OK || !o->memory_budget_bytes)
        return rc;
    struct budget_plan plan = {.budget_bytes = o->memory_budget_bytes,
                               .ports = 1,
                               .port_bytes = port_arg_bytes(o->port.uris[0]),
                               .sessions = o->max_sessions,
                               .with = *with};
    /* That edges' ladders lead to, or its own. */
    const enum kv_format least = budget_kv_least(o->kv_least);
    plan.with.other_formats = least > PLAN_KV_LEAST ? least : PLAN_KV_LEAST;
    return budget_begin(m, p, &plan);
}

static int check_model(const struct cloud_options *o)
{
    struct split_plan plan = {0};
    struct model m;
    uint32_t threads = 0;
    int rc = model_open_as(MODEL_CLOUD, o->model.path, false, &m);
    if (rc != EXIT_OK)
        return rc;
    rc = split_plan(&o->split, &m, &plan);
    if (rc == EXIT_OK)
        rc = model_check_team(&o->model, 1, &threads);
    struct stage_params params = stage_of(o, &plan);
    const struct need_process with = process_of(o, &plan, threads);
    if (rc == EXIT_OK)
        rc = plan_stage(o, &m, &with, &params);
    split_plan_free(&plan);
    model_close(&m);
    return rc;
}

/* What can be checked without loading weights or opening ports. */
static int check(const struct cloud_options *o)
{
    struct security security;
    config_check_begin();
    int rc = config_check_file("--model", o->model.path);
    if (rc == EXIT_OK)
        rc = daemon_check(&o->daemon);
    if (rc == EXIT_OK) {
        rc = security_open(&o->security, true, &security);
        security_close(&security);
    }
    if (rc == EXIT_OK)
        rc = privileges_check(o->security.user);
    if (rc == EXIT_OK)
        rc = port_arg_check(o->port.uris[0], PORT_SERVER, o->security.insecure);
    if (rc == EXIT_OK)
        rc = register_check(&o->registry, o->port.uris[0]);
    if (rc == EXIT_OK)
        rc = check_model(o);
    return rc == EXIT_OK ? config_say_good(&o->daemon) : EXIT_USAGE;
}

/* Its entry in a registry, if one is asked for. */
static int be_found(const struct cloud_options *o, const struct security *security,
                    const struct stage *stage, const struct split_plan *plan,
                    struct registration **out)
{
    const struct stage_info *info = stage_info(stage);
    struct worker self = {.split = plan->split,
                          .codec_id = codec_params_id(&plan->codec),
                          .numerics_id = info->numerics_id};
    snprintf(self.port, sizeof self.port, "%s", o->port.uris[0]);
    for (size_t i = 0; i < sizeof info->fingerprint; i++)
        snprintf(self.model + 2 * i, 3, "%02x", info->fingerprint[i]);
    self.has_peer = security->identity != NULL;
    if (self.has_peer)
        self.peer = *identity_fingerprint(security->identity);
    return register_open(&o->registry, &self, out);
}

/* A half that `run` started has no control socket, and reads nothing again. */
static const char *control_path(const struct cloud_options *o)
{
    return o->once ? NULL : daemon_control_path(&o->daemon);
}

static int give_up_root(const struct cloud_options *o)
{
    const char *control = control_path(o);
    const bool controlled = control && strcmp(control, "none") != 0;
    return privileges_drop(&(struct privileges){
        .ports = o->port.uris,
        .n_ports = o->port.n,
        .is_server = true,
        .user = o->security.user,
        .reads = {o->daemon.config, o->authorized},
        .makes = controlled ? control : NULL,
        .group = controlled ? o->control.group : PRIVILEGES_NO_GROUP,
    });
}

int cmd_cloud(int argc, char **argv)
{
    struct cloud_options o = {.max_sessions = 16,
                              .max_edges = 64,
                              .chunk_tokens = 128,
                              .lease_s = 10,
                              .drain_timeout_s = DRAIN_TIMEOUT_S};
    config_parse("cloud", argc, argv, &o);
    if (o.daemon.check_options)
        return EXIT_OK;
    o.security.authorized = o.authorized;
    security_begin(&o.security);
    if (o.daemon.check_config)
        return check(&o);
    log_set_name("cloud: ");

    struct team *team = NULL;
    struct stage *stage = NULL;
    struct port *port = NULL;
    struct cloud *cloud = NULL;
    struct control *control = NULL;
    struct reload *reload = NULL;
    struct security security;
    struct split_plan plan = {0};
    struct model m;
    /* Before the model takes its memory: another process may serve in this folder. */
    int rc = daemon_begin(&o.daemon);
    if (rc == EXIT_OK)
        rc = model_open_as(MODEL_CLOUD, o.model.path, false, &m);
    if (rc != EXIT_OK) {
        daemon_end();
        return rc;
    }
    rc = security_open(&o.security, true, &security);
    if (rc == EXIT_OK)
        rc = privileges_check(o.security.user);
    if (rc == EXIT_OK)
        rc = split_plan(&o.split, &m, &plan);
    if (rc == EXIT_OK)
        rc = model_team_near(&o.model, 1, 1, port_arg_numa_node("/sys", o.port.uris[0]), &team);
    if (rc != EXIT_OK)
        goto out;
    struct stage_params stage_params = stage_of(&o, &plan);
    const struct need_process with = process_of(&o, &plan, team_size(team));
    rc = plan_stage(&o, &m, &with, &stage_params);
    if (rc == EXIT_OK)
        rc = model_open_stage(&m, &stage_params, &with, team, &stage);
    if (rc != EXIT_OK)
        goto out;
    model_drop_file(&m);

    rc = cloud_serve_begin(); /* from here on the port leaves something to clean up */
    if (rc == EXIT_OK)
        rc = port_arg_open(o.port.uris[0], PORT_SERVER, &security, &o.netem, &port);
    if (rc == EXIT_OK)
        rc = give_up_root(&o);
    if (rc != EXIT_OK)
        goto out;
    child_report(port_eal_rss_bytes());

    char err[PIPELINE_ERR] = "";
    const struct cloud_params params = {
        .stage = stage,
        .port = port,
        .codec = plan.codec,
        .link = {.dead_after_ns = o.lease_s * UINT64_C(1000000000)},
        .security = security_of(&security),
        .max_sessions = o.max_sessions,
        .max_edges = o.max_edges,
        .say = say,
        .say_arg = &o.once,
    };
    if (cloud_open(&params, port_now_ns(), &cloud, err) < 0) {
        log_error("%s", err);
        rc = EXIT_FAILED;
        goto out;
    }
    cloud_set_clock(cloud, cloud_clock, NULL);
    if (!o.once)
        say_start(&o, &security, &plan, &m, team, port);
    struct cloud_serve serve = {
        .cloud = cloud,
        .port = port,
        .control = control,
        .once = o.once,
        .drain_timeout_s = o.drain_timeout_s,
        .security = &security,
        .stage = stage,
        .max_sessions = o.max_sessions,
        .budget_bytes = o.memory_budget_bytes,
    };
    budget_formats(&serve.budget, stage_info(stage), o.model.kv, budget_kv_least(o.kv_least));
    budget_cache(&serve.budget, stage, o.model.kv, o.max_sessions);
    rc = cloud_serve_reloads(&serve, &reload);
    if (rc != EXIT_OK)
        goto out;
    serve.reload = reload;
    const struct control_cloud asked = {
        .cloud = cloud,
        .port = port,
        .stage = stage,
        .plan = &plan,
        .model = m.path,
        .cipher = pipeline_cipher(&params.security),
        .max_sessions = o.max_sessions,
        .budget_bytes = o.memory_budget_bytes,
        .budget = o.memory_budget_bytes ? &serve.budget : NULL,
        .reload = o.daemon.config || o.authorized ? reload : NULL,
        .wake = cloud_serve_wake,
    };
    rc = control_open_cloud(&o.control, control_path(&o), &asked, &control);
    serve.control = control;
    if (rc == EXIT_OK)
        rc = be_found(&o, &security, stage, &plan, &serve.registration);
    if (rc == EXIT_OK)
        rc = cloud_serve(&serve);
    register_close(serve.registration);
out:
    control_close(control);
    reload_close(reload);
    cloud_close(cloud);
    port_close(port);
    cloud_serve_end();
    daemon_end();
    security_close(&security);
    stage_close(stage);
    team_close(team);
    split_plan_free(&plan);
    model_close(&m);
    return rc;
}
