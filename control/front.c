/* SPDX-License-Identifier: Apache-2.0 */
#include "control/front.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "control/budget.h"
#include "control/cmd.h"
#include "control/log.h"
#include "control/signals.h"

#define CONNECT_STEP_NS 20000000u
#define ATTEMPT_NS      3000000000u /* for one of several addresses, or of a name's */
#define OTHERS_NS       300000000u

/* --- options -------------------------------------------------------------------------------------
 */

enum {
    OPT_PARALLEL = OPT_OWN + 0x100,
    OPT_REQUESTS,
    OPT_CHUNK,
    OPT_JSON,
    OPT_IGNORE_EOS,
    OPT_TOP_LOGPROBS,
    OPT_NO_PREFIX,
    OPT_CHAT_TEMPLATE
};

static const struct argp_option options[] = {
    {"prompt", 'p', "TEXT", 0, "Continue this text; -: from stdin. Without it: a chat", 0},
    {"n-predict", 'n', "N", 0, "Most tokens to generate (default 256)", 0},
    {"requests", OPT_REQUESTS, "FILE", 0,
     "Answer every line of FILE, a JSON object with prompt or prompt_ids, and n_predict, temp, "
     "top_k, "
     "top_p, min_p, repeat_penalty, seed; a result line each, in order",
     0},
    {"parallel", OPT_PARALLEL, "N", 0, "Sessions at once with --requests (default 1)", 0},
    {"json", OPT_JSON, NULL, 0, "Print one JSON object with text, ids and figures", 0},
    {"top-logprobs", OPT_TOP_LOGPROBS, "N", 0,
     "With --json or --requests: show every id's log-probability, and the N likeliest ids (1 to "
     "20)",
     0},
    {"ignore-eos", OPT_IGNORE_EOS, NULL, 0, "Go on after the model has ended its answer", 0},
    {"chat-template", OPT_CHAT_TEMPLATE, "NAME", 0,
     "How a chat is written for the model, where its file does not say so in a way that is "
     "recognised: chatml, llama3 or gemma (default: what the file says)",
     0},
    {"kv-budget", OPT_KV_BUDGET, "SIZE", 0,
     "Most memory for the cache of keys and values, of each half if split: 64MB. Sessions that "
     "find "
     "no room wait (default: enough for all at their longest)",
     2},
    {"no-prefix-cache", OPT_NO_PREFIX, NULL, 0,
     "Compute every prompt from its beginning, though another began alike", 2},
    {"chunk", OPT_CHUNK, "N", 0, "Prompt tokens sent at once (default 64)", 2},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct front_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        *o = (struct front_options){.parallel = 1, .n_predict = 256, .chunk_tokens = 64};
        state->child_inputs[0] = &o->model;
        state->child_inputs[1] = &o->split;
        state->child_inputs[2] = &o->sampler;
        state->child_inputs[3] = &o->netem;
        state->child_inputs[4] = &o->adapt;
        state->child_inputs[5] = &o->head;
        return 0;
    case 'p':
        o->prompt = arg;
        return 0;
    case 'n':
        o->n_predict = opt_u32(state, "--n-predict", arg, 1, 1u << 20);
        return 0;
    case OPT_REQUESTS:
        o->requests = arg;
        return 0;
    case OPT_PARALLEL:
        o->parallel = opt_u32(state, "--parallel", arg, 1, SESSIONS_MAX);
        return 0;
    case OPT_JSON:
        o->json = true;
        return 0;
    case OPT_TOP_LOGPROBS:
        o->top_logprobs = opt_u32(state, "--top-logprobs", arg, 1, SAMPLER_TOP_MAX);
        return 0;
    case OPT_IGNORE_EOS:
        o->ignore_eos = true;
        return 0;
    case OPT_KV_BUDGET:
        o->kv_budget_bytes = opt_size(state, "--kv-budget", arg);
        return 0;
    case OPT_NO_PREFIX:
        o->no_prefix = true;
        return 0;
    case OPT_CHAT_TEMPLATE:
        o->chat_template = arg;
        return 0;
    case OPT_CHUNK:
        o->chunk_tokens = opt_u32(state, "--chunk", arg, 1, 1024);
        return 0;
    case ARGP_KEY_END:
        if (o->prompt && o->requests)
            argp_error(state, "-p and --requests do not go together");
        if (o->parallel > 1 && !o->requests)
            argp_error(state, "--parallel is for --requests");
        if ((o->json || o->ignore_eos) && !o->prompt && !o->requests)
            argp_error(state, "%s needs -p or --requests", o->json ? "--json" : "--ignore-eos");
        if (o->top_logprobs && !o->json && !o->requests)
            argp_error(state, "--top-logprobs needs --json or --requests");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {
    {&model_argp, 0, NULL, 0},
    {&split_argp, 0, NULL, 0},
    {&sampler_argp, 0, NULL, 0},
    {&netem_argp, 0, NULL, 0},
    {&adapt_argp, 0, NULL, 0},
    {&head_argp, 0, NULL, 0},
    {0},
};

const struct argp front_argp = {options, parse, NULL, NULL, children, NULL, NULL};

/* --- opening -------------------------------------------------------------------------------------
 */

static int read_stdin(char **text, size_t *n)
{
    size_t cap = 0;
    *text = NULL;
    /* Up to a byte that no text holds: the whole of stdin. */
    const ssize_t got = getdelim(text, &cap, 0, stdin);
    if (got < 0 && ferror(stdin)) {
        log_error("cannot read the prompt from stdin: %s", strerror(errno));
        return EXIT_USAGE;
    }
    *n = got < 0 ? 0 : (size_t)got;
    if (*n && (*text)[*n - 1] == '\0') {
        log_error("the prompt from stdin holds a zero byte: it must be text");
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

static int use_chat_template(struct front *f)
{
    const char *name = f->o->chat_template;
    const int rc = name ? tok_chat_use(f->model.tok, name) : 0;
    if (rc == -EINVAL)
        log_error("--chat-template %s: must be one of " CHAT_TEMPLATES, name);
    else if (rc < 0)
        log_error("--chat-template %s: %s has no such control tokens", name, f->o->model.path);
    return rc < 0 ? EXIT_USAGE : EXIT_OK;
}

int front_open(struct front *f, const struct front_options *o)
{
    *f = (struct front){.o = o, .cloud.report_fd = -1};
    int rc =
        model_open_as(o->both_halves ? MODEL_PAIR : MODEL_EDGE, o->model.path, true, &f->model);
    if (rc == EXIT_OK)
        rc = use_chat_template(f);
    if (rc != EXIT_OK)
        return rc;

    if (o->serves)
        return EXIT_OK;
    if (o->requests)
        return requests_read(o->requests, &f->model, o->n_predict, &o->sampler, &f->requests);
    if (!o->prompt) {
        if (tok_chat_template(f->model.tok))
            return EXIT_OK;
        log_error("%s has no chat template that is recognised: --chat-template names one "
                  "(" CHAT_TEMPLATES "), or give a prompt with -p",
                  o->model.path);
        return EXIT_USAGE;
    }
    if (strcmp(o->prompt, "-") == 0)
        return read_stdin(&f->prompt, &f->prompt_bytes);
    f->prompt = strdup(o->prompt);
    f->prompt_bytes = strlen(o->prompt);
    if (!f->prompt)
        log_error("out of memory for the prompt");
    return f->prompt ? EXIT_OK : EXIT_FAILED;
}

struct stage_params front_stage(const struct front *f, uint32_t first_layer, uint32_t end_layer)
{
    const enum head_place head = f->o->head;
    return (struct stage_params){
        .first_layer = first_layer,
        .end_layer = end_layer,
        .head = first_layer ? head_of_back(head) : head_of_front(head),
        .max_rows = model_run_rows(f->o->chunk_tokens, f->o->parallel),
        .n_ctx = f->o->model.ctx,
        .kv_format = f->o->model.kv,
    };
}

/* Of the addresses that are tried one is open at a time; of workers nobody knows yet. */
static uint64_t port_bytes(const struct front *f)
{
    const struct port_options *at = &f->join.at;
    uint64_t most = PLAN_UDP_BYTES;
    for (unsigned i = 0; i < at->n; i++) {
        const uint64_t bytes = port_arg_bytes(at->uris[i]);
        most = bytes > most ? bytes : most;
    }
    return f->o->both_halves ? PLAN_MEMIF_BYTES : most;
}

static uint32_t ports_of(const struct front *f, const struct stage_params *p)
{
    const bool whole = p->first_layer == 0 && p->end_layer == 0;
    return f->join.workers ? f->join.max_uplinks : !whole;
}

struct need_process front_process(const struct front *f, const struct stage_params *p,
                                  uint32_t threads)
{
    const bool front = p->first_layer == 0, split = p->first_layer || p->end_layer;
    return (struct need_process){
        .faces_users = front,
        .serves = front && f->o->serves,
        .threads = threads,
        .logit_rows = f->o->parallel,
        .codec = split ? &f->plan.codec : NULL,
        .packet_bytes = ports_of(f, p) * port_bytes(f),
        .history_bytes = front && f->join.reconnect_ns ? f->join.history_bytes : 0,
    };
}

enum kv_format front_kv_least(const struct front *f)
{
    const enum kv_format own = f->o->model.kv, least = budget_kv_least(f->o->kv_least);
    return f->o->serves && least > own ? least : own;
}

/* Its cache, and what --memory-budget leaves for it; or it is refused. */
static int plan_stage(const struct front *f, struct stage_params *params, uint32_t threads)
{
    int rc =
        model_cache(&f->model, f->o->parallel, !f->o->no_prefix, f->o->kv_budget_bytes, params);
    account_begin();
    if (rc != EXIT_OK || !f->o->memory_budget_bytes)
        return rc;
    struct budget_plan plan = {
        .budget_bytes = f->o->memory_budget_bytes,
        .ports = ports_of(f, params),
        .port_bytes = port_bytes(f),
        .sessions = f->o->parallel,
        .with = front_process(f, params, threads),
    };
    plan.with.other_formats = front_kv_least(f) - params->kv_format;
    return budget_begin(&f->model, params, &plan);
}

static int open_stage(struct front *f, uint32_t end_layer, unsigned threads, int first_core,
                      int near_numa_node)
{
    struct stage_params params = front_stage(f, 0, end_layer);
    int rc = model_team_near(&f->o->model, threads, first_core, near_numa_node, &f->team);
    if (rc == EXIT_OK)
        rc = plan_stage(f, &params, team_size(f->team));
    if (rc != EXIT_OK)
        return rc;
    const struct need_process with = front_process(f, &params, team_size(f->team));
    rc = model_open_stage(&f->model, &params, &with, f->team, &f->stage);
    if (rc == EXIT_OK)
        model_drop_file(&f->model);
    return rc;
}

static int check_whole(const struct front *f)
{
    if (f->model.half.half == STAGE_WHOLE)
        return EXIT_OK;
    log_error("--local: %s is the %s half of a model in two files: it can only run split",
              f->model.path, stage_half_name(f->model.half.half));
    return EXIT_USAGE;
}

int front_local(struct front *f)
{
    int rc = check_whole(f);
    if (rc == EXIT_OK)
        rc = open_stage(f, 0, 0, 0, -1);
    if (rc != EXIT_OK)
        return rc;
    rc = engine_local(f->stage, f->o->chunk_tokens, f->o->parallel, f->o->no_prefix, &f->engine);
    if (rc < 0) {
        log_error("cannot open the model: %s", strerror(-rc));
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

int front_plan(struct front *f)
{
    const int rc = split_plan(&f->o->split, &f->model, &f->plan);
    return rc == EXIT_OK ? steer_open(&f->o->adapt, &f->plan, f->model.n_layers, f->o->chunk_tokens,
                                      &f->steer)
                         : rc;
}

int front_check(const struct front_options *o, const struct join_options *join, bool local)
{
    struct front_options look = *o;
    struct stage_params params;
    uint32_t threads = 0;
    struct front f;
    if ((o->prompt && strcmp(o->prompt, "-") == 0) ||
        (o->requests && strcmp(o->requests, "-") == 0))
        look.serves = true;
    look.both_halves = !join;
    int rc = front_open(&f, &look);
    if (join)
        f.join = *join;
    if (rc == EXIT_OK)
        rc = local ? check_whole(&f) : front_plan(&f);
    if (rc == EXIT_OK)
        rc = model_check_team(&o->model, join ? 1 : 0, &threads);
    if (rc == EXIT_OK) {
        params = front_stage(&f, 0, local ? 0 : f.plan.split);
        rc = plan_stage(&f, &params, threads);
    }
    if (rc == EXIT_OK && !local && !join) {
        params = front_stage(&f, f.plan.split, 0);
        rc = plan_stage(&f, &params, threads);
    }
    front_close(&f);
    return rc;
}

/* Until the cloud is there, as far as the port can tell, so that no answer's time to the first
 * token counts its start. 0, -ETIMEDOUT, -EINTR, or -EPIPE when it was ours and died, which was
 * said. */
static int await_cloud(struct front *f, uint64_t give_up_ns)
{
    while (port_alive(f->port) != 1) {
        if (signals_caught())
            return -EINTR;
        if (f->cloud.pid && child_gone(&f->cloud, 0)) {
            char fate[80];
            log_error("the cloud half %s", child_fate(&f->cloud, fate, sizeof fate));
            return -EPIPE;
        }
        const uint64_t now_ns = port_now_ns();
        if (now_ns >= give_up_ns)
            return -ETIMEDOUT;
        port_wait(f->port, now_ns + CONNECT_STEP_NS);
    }
    return 0;
}

/* A port whose cloud is there, the first of those given that has one. */
static int find_cloud(struct front *f)
{
    const struct join_options *j = &f->join;
    const uint64_t share_ns = j->connect_ns / j->at.n;
    for (f->address = 0; f->address < j->at.n; f->address++) {
        const char *uri = j->at.uris[f->address];
        const bool last = f->address == j->at.n - 1;
        int rc = port_arg_open(uri, PORT_CLIENT, &f->security, &f->o->netem, &f->port);
        if (rc == EXIT_USAGE || (rc != EXIT_OK && last))
            return rc;
        if (rc != EXIT_OK)
            continue;
        rc = await_cloud(f, port_now_ns() + share_ns);
        if (rc != -ETIMEDOUT)
            return rc == 0 ? EXIT_OK : rc == -EINTR ? EXIT_INTERRUPTED : EXIT_FAILED;
        if (last)
            log_error("no cloud at %s after %.0f s: is `isthmus cloud --port %s` running, and not "
                      "serving another edge?",
                      uri, (double)share_ns / 1e9, uri);
        else
            log_warn("no cloud at %s after %.0f s", uri, (double)share_ns / 1e9);
        port_close(f->port);
        f->port = NULL;
    }
    return EXIT_FAILED;
}

/* The next address, for an edge that lost its cloud: of one whose name is not known in a while the
 * one after it. The port stays where no other would come of opening it again, or its name is not
 * known. */
static struct port *next_port(void *arg)
{
    struct front *f = arg;
    const struct port_options *at = &f->join.at;
    if (f->port && at->n == 1 && !port_arg_may_move(at->uris[0]))
        return f->port;
    if (port_arg_awaits_name(at->uris[(f->address + 1) % at->n], &f->name_ns))
        return NULL; /* asked for again in a moment */
    for (unsigned i = 1; i <= at->n; i++) {
        const unsigned next = (f->address + i) % at->n;
        const char *uri = at->uris[next];
        if (port_looked_up(uri) && port_arg_replace(uri, &f->security, &f->o->netem, &f->port)) {
            f->address = next;
            break;
        }
    }
    return f->port;
}

static void say(void *arg, const char *line)
{
    (void)arg;
    log_info("%s", line);
}

/* --- a fleet -------------------------------------------------------------------------------------
 */

static int open_fleet(struct front *f)
{
    const struct stage_info *info = stage_info(f->stage);
    struct fleet_params p = {
        .where = f->join.workers,
        .max_uplinks = f->join.max_uplinks,
        .need = {.split = f->plan.split,
                 .codec_id = codec_params_id(&f->plan.codec),
                 .numerics_id = info->numerics_id},
        .security = &f->security,
        .netem = &f->o->netem,
    };
    for (size_t i = 0; i < sizeof info->fingerprint; i++)
        sprintf(p.need.model + 2 * i, "%02x", info->fingerprint[i]);
    /* An edge with a name of its own chooses the same workers again. */
    if (f->security.identity)
        memcpy(&p.seed, identity_fingerprint(f->security.identity)->bytes, sizeof p.seed);
    else if (getrandom(&p.seed, sizeof p.seed, 0) != sizeof p.seed)
        p.seed = port_now_ns();
    return fleet_open(&p, &f->fleet);
}

/* Until one of its workers is there, and a moment more for the others that are to be joined:
 * sessions stay where they are first placed. */
static int await_fleet(struct front *f)
{
    struct edge *edge = engine_edge(f->engine);
    uint64_t give_up_ns = port_now_ns() + f->join.connect_ns;
    const bool stays = f->engine->stays;
    size_t known = 0;
    f->engine->stays = true; /* waits for packets though nobody asks */
    uint32_t joined = 0;
    int rc = 0;
    while (rc >= 0 && port_now_ns() < give_up_ns && !signals_caught()) {
        rc = engine_step(f->engine, port_now_ns() + CONNECT_STEP_NS);
        const uint32_t before = joined;
        joined = fleet_joined(f->fleet, edge, &known);
        if (joined && !before && give_up_ns > port_now_ns() + OTHERS_NS)
            give_up_ns = port_now_ns() + OTHERS_NS;
        if (joined && (joined == known || joined == f->join.max_uplinks))
            break;
    }
    f->engine->stays = stays;
    if (signals_caught())
        return EXIT_INTERRUPTED;
    if (rc >= 0 && joined)
        return EXIT_OK;
    if (rc < 0)
        log_error("%s", engine_error(f->engine));
    else if (known)
        log_error("%s: none of %zu worker%s could be joined within %.0f s", f->join.workers, known,
                  known == 1 ? "" : "s", (double)f->join.connect_ns / 1e9);
    else
        log_error("%s: no worker within %.0f s", f->join.workers, (double)f->join.connect_ns / 1e9);
    return EXIT_FAILED;
}

/* --- joining -------------------------------------------------------------------------------------
 */

static int give_up_root(const struct front *f)
{
    struct privileges rights = f->join.rights;
    rights.ports = f->join.at.uris;
    rights.n_ports = f->join.at.n;
    return privileges_drop(&rights);
}

static int join(struct front *f, const struct join_options *j)
{
    const struct front_options *o = f->o;
    int rc = j->workers ? open_fleet(f) : find_cloud(f);
    if (rc == EXIT_OK) /* not before: its own cloud could not be ended while that is root */
        rc = give_up_root(f);
    if (rc != EXIT_OK)
        return rc;
    if (f->steer)
        steer_width(f->steer, stage_info(f->stage)->d_model);

    struct edge_params params = {
        .stage = f->stage,
        .port = f->port,
        .codec = f->plan.codec,
        .curve = f->steer ? steer_curve(f->steer)
                          : codec_rate_curve(f->plan.profile, f->plan.codec.mode),
        .target = f->plan.target,
        .security = security_of(&f->security),
        .chunk_tokens = o->chunk_tokens,
        .max_sessions = o->parallel,
        .no_prefix = o->no_prefix,
        .kv_most = front_kv_least(f),
        .connect_timeout_ns = j->connect_ns,
        .rejoin = {.timeout_ns = j->reconnect_ns,
                   .history_bytes = j->history_bytes,
                   .endless = o->serves && j->reconnect_ns,
                   .say = say,
                   .arg = f},
    };
    if (f->fleet) {
        params.rejoin.attempt_timeout_ns = ATTEMPT_NS;
        params.place = fleet_place;
        params.place_arg = f->fleet;
    } else {
        params.rejoin.attempt_timeout_ns =
            j->at.n > 1 || port_arg_may_move(j->at.uris[0]) ? ATTEMPT_NS : 0;
        params.rejoin.several = j->at.n > 1;
        params.rejoin.next_port = next_port;
    }
    char err[PIPELINE_ERR] = "";
    rc = engine_split(&params, &f->engine, err);
    if (rc < 0) {
        log_error("%s", err);
        return EXIT_FAILED;
    }
    engine_split_steer(f->engine, f->steer);
    if (!f->fleet)
        return EXIT_OK;
    engine_split_each(f->engine, fleet_step, f->fleet);
    return await_fleet(f);
}

int front_join(struct front *f, const struct join_options *j, unsigned threads, int first_core)
{
    f->join = *j;
    int rc = privileges_check(j->rights.user);
    if (rc != EXIT_OK)
        return rc;
    rc = open_stage(f, f->plan.split, threads, first_core,
                    j->workers ? -1 : port_arg_numa_node("/sys", j->at.uris[0]));
    if (rc != EXIT_OK)
        return rc;
    signals_catch(); /* from here on a port leaves something to clean up */
    rc = join(f, j);
    if (rc != EXIT_INTERRUPTED && !(rc == EXIT_OK && signals_caught()))
        return rc;
    log_info("stopped while joining the cloud");
    return 128 + signals_caught();
}

void front_say_lost(struct front *f)
{
    char fate[80];
    if (f->cloud.pid && child_gone(&f->cloud, 500))
        log_error("the cloud half %s", child_fate(&f->cloud, fate, sizeof fate));
    else
        log_error("%s", engine_error(f->engine));
}

void front_account(const struct front *f, struct account *a)
{
    struct port *ports[EDGE_UPLINKS_MAX];
    const struct edge *edge = f->engine ? engine_edge(f->engine) : NULL;
    const struct stage_info *info = stage_info(f->stage);
    struct edge_stats s = {.history_bytes = 0};
    struct account_source from = {.stage = f->stage,
                                  .ports = ports,
                                  .budget_bytes = f->o->memory_budget_bytes,
                                  .dpdk_bytes = port_eal_rss_bytes(),
                                  .logits_bytes = account_logits(info->d_model,
                                                                 info->has_head ? info->n_vocab : 0,
                                                                 info->max_rows, f->o->parallel)};
    if (edge) {
        edge_stats(edge, &s);
        from.n_ports = edge_ports(edge, ports, EDGE_UPLINKS_MAX);
        from.history_bytes = s.history_bytes;
        from.history_busy_bytes = s.history_busy_bytes;
        from.history_limit_bytes = f->join.reconnect_ns ? f->join.history_bytes : 0;
        from.kv_busy_bytes = s.kv_busy_bytes;
        from.busy = s.sessions;
        if (info->has_head)
            from.logits_bytes += account_hidden(info->d_model, info->max_rows, f->o->parallel);
    }
    account_take(&from, a);
}

void front_close(struct front *f)
{
    engine_close(f->engine);
    steer_close(f->steer);
    fleet_close(f->fleet);
    port_close(f->port);
    security_close(&f->security);
    stage_close(f->stage);
    team_close(f->team);
    requests_free(&f->requests);
    free(f->prompt);
    split_plan_free(&f->plan);
    model_close(&f->model);
    child_stop(&f->cloud);
}
