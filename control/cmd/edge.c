/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus edge`: the front half, joined to an `isthmus cloud` that was started by itself. */
#include <signal.h>
#include <string.h>

#include "control/cmd.h"
#include "control/config/config.h"
#include "control/fleet/registry.h"
#include "control/front.h"
#include "control/log.h"
#include "control/service/serve.h"

enum {
    OPT_CONNECT = OPT_OWN,
    OPT_RECONNECT,
    OPT_HISTORY,
    OPT_WORKERS,
    OPT_MAX_UPLINKS,
    OPT_MEMORY_BUDGET,
    OPT_KV_LEAST,
    OPT_STATS
};

struct edge_options {
    struct front_options front;
    struct port_options port;
    struct security_options security;
    struct serve_options serve;
    const char *workers;
    uint32_t connect_s, reconnect_s, max_uplinks;
    uint64_t history_bytes;
};

static const struct argp_option options[] = {
    {"connect", OPT_CONNECT, "SECONDS", 0, "How long to wait for the cloud (default 10)", 0},
    {"reconnect", OPT_RECONNECT, "SECONDS", 0,
     "How long answers wait for a cloud that was lost, or another --port's, to go on where they "
     "were (default 60; 0: they end)",
     0},
    {"history", OPT_HISTORY, "MB|SIZE", 0,
     "Most memory for what a new cloud is told then, the compressed activations of all sessions: "
     "64, 500kB (default 64)",
     0},
    {"workers", OPT_WORKERS, "WHERE", 0,
     "Instead of --port: a registry of clouds to be joined, as they come and go: file:PATH, "
     "srv:NAME "
     "or etcd:http://HOST:2379/PREFIX",
     0},
    {"max-uplinks", OPT_MAX_UPLINKS, "N", 0,
     "Clouds of --workers that are joined at once (default 8)", 0},
    {"memory-budget", OPT_MEMORY_BUDGET, "SIZE", 0,
     "Most memory for all of this process: 200MB. Refused at start where it cannot be kept; the "
     "cache "
     "gets what is left",
     0},
    {"kv-least", OPT_KV_LEAST, "f16|q8|k8v4|q4", 0,
     "With --listen: the coarsest keys and values that new sessions get when the cache of a "
     "--memory-budget, here or at their cloud, is nearly full (default k8v4)",
     0},
    {"stats", OPT_STATS, NULL, 0, "Print at the end where the memory was", 0},
    {0},
};

#define MB UINT64_C(1000000)

/* A number without a unit is one of MB. */
static uint64_t history_arg(struct argp_state *state, const char *arg)
{
    if (arg[strspn(arg, "0123456789")])
        return opt_size(state, "--history", arg);
    return opt_u32(state, "--history", arg, 0, 1u << 20) * MB;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct edge_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->front;
        state->child_inputs[1] = &o->port;
        state->child_inputs[2] = &o->security;
        state->child_inputs[3] = &o->serve;
        return 0;
    case OPT_CONNECT:
        o->connect_s = opt_u32(state, "--connect", arg, 1, 86400);
        return 0;
    case OPT_RECONNECT:
        o->reconnect_s = opt_u32(state, "--reconnect", arg, 0, 86400);
        return 0;
    case OPT_HISTORY:
        o->history_bytes = history_arg(state, arg);
        return 0;
    case OPT_WORKERS:
        o->workers = arg;
        o->port.elsewhere = o->security.peers_elsewhere = true;
        return 0;
    case OPT_MAX_UPLINKS:
        o->max_uplinks = opt_u32(state, "--max-uplinks", arg, 1, FLEET_UPLINKS_MAX);
        return 0;
    case OPT_MEMORY_BUDGET:
        o->front.memory_budget_bytes = opt_size(state, "--memory-budget", arg);
        return 0;
    case OPT_KV_LEAST:
        o->front.kv_least = 1 + (uint32_t)opt_kv_format(state, arg);
        return 0;
    case OPT_STATS:
        o->front.stats = true;
        return 0;
    case ARGP_KEY_END:
        if (o->workers && !o->reconnect_s)
            argp_error(state, "--workers come and go: --reconnect 0 does not go with them");
        opt_check_kv_least(state, o->front.kv_least, o->front.model.kv);
        serve_check_options(state, &o->serve, &o->front);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {
    {&front_argp, 0, NULL, 0},
    {&port_argp, 0, NULL, 0},
    {&security_argp, 0, NULL, 0},
    {&serve_argp, 0, NULL, 0},
    {0},
};
const struct argp cmd_edge_argp = {
    options,  parse,
    NULL,     "Generate text with the front layers here and the back layers in an `isthmus cloud`.",
    children, NULL,
    NULL,
};

static struct join_options join_of(const struct edge_options *o)
{
    return (struct join_options){
        .at = o->port,
        .workers = o->workers,
        .max_uplinks = o->max_uplinks,
        .connect_ns = o->connect_s * UINT64_C(1000000000),
        .reconnect_ns = o->reconnect_s * UINT64_C(1000000000),
        .history_bytes = o->history_bytes,
    };
}

static int check_clouds(const struct edge_options *o)
{
    char err[WORKERS_ERR];
    struct registry *registry = NULL;
    int rc = EXIT_OK;
    for (unsigned i = 0; i < o->port.n && rc == EXIT_OK; i++)
        rc = port_arg_check(o->port.uris[i], PORT_CLIENT, o->security.insecure);
    if (rc == EXIT_OK)
        rc = privileges_check(o->security.user);
    if (rc == EXIT_OK && o->workers && registry_open(o->workers, &registry, err) < 0) {
        log_error("--workers: %s", err);
        rc = EXIT_USAGE;
    }
    registry_close(registry);
    return rc;
}

/* What can be checked without loading weights or opening ports. */
static int check(const struct edge_options *o)
{
    const struct join_options join = join_of(o);
    struct security security;
    config_check_begin();
    int rc = config_check_file("--model", o->front.model.path);
    if (rc == EXIT_OK)
        rc = serve_check(&o->serve);
    if (rc == EXIT_OK) {
        rc = security_open(&o->security, false, &security);
        security_close(&security);
    }
    if (rc == EXIT_OK)
        rc = check_clouds(o);
    if (rc == EXIT_OK)
        rc = front_check(&o->front, &join, false);
    return rc == EXIT_OK ? config_say_good(&o->serve.daemon) : EXIT_USAGE;
}

int cmd_edge(int argc, char **argv)
{
    struct edge_options o = {
        .connect_s = 10, .reconnect_s = 60, .history_bytes = 64 * MB, .max_uplinks = FLEET_UPLINKS};
    config_parse("edge", argc, argv, &o);
    if (o.serve.daemon.check_options)
        return EXIT_OK;
    security_begin(&o.security);
    if (o.serve.daemon.check_config)
        return check(&o);
    struct join_options join = join_of(&o);

    struct front f;
    int rc = o.serve.listen ? daemon_begin(&o.serve.daemon) : EXIT_OK;
    if (rc != EXIT_OK) {
        daemon_end();
        return rc;
    }
    join.rights = serve_rights(&o.serve);
    join.rights.user = o.security.user;
    if (o.workers && strncmp(o.workers, "file:", 5) == 0)
        join.rights.reads[2] = o.workers + 5;
    rc = front_open(&f, &o.front);
    if (rc == EXIT_OK)
        rc = security_open(&o.security, false, &f.security);
    if (rc == EXIT_OK)
        rc = front_plan(&f);
    if (rc == EXIT_OK)
        rc = front_join(&f, &join, 1, 0);
    if (rc == EXIT_OK)
        rc = o.serve.listen ? serve(&f, &o.serve) : front_answer(&f);
    if (o.front.stats && f.stage) {
        struct account a;
        front_account(&f, &a);
        account_print(&a);
    }
    front_close(&f);
    daemon_end();
    return o.serve.listen && rc == 128 + SIGTERM ? EXIT_OK : rc; /* as when it had begun to serve */
}
