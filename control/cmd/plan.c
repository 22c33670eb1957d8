/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus plan`: the best split of a model over an edge, a link and a cloud, under limits. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/measure/measure.h"
#include "control/model.h"
#include "control/plan_codecs.h"
#include "control/plan_file.h"
#include "control/plan_show.h"
#include "control/port_arg.h"
#include "dataplane/port/uri.h"

enum { EXIT_NO_PLAN = 3 };

enum {
    OPT_EDGE = OPT_OWN,
    OPT_CLOUD,
    OPT_LINK,
    OPT_QUALITY_TABLE,
    OPT_MAX_TTFT,
    OPT_MAX_TPOT,
    OPT_MAX_KL,
    OPT_EDGE_MEMORY,
    OPT_CLOUD_MEMORY,
    OPT_CONTEXT,
    OPT_SESSIONS,
    OPT_PROMPT,
    OPT_LEAST,
    OPT_HERE,
    OPT_SPLITS,
    OPT_FRONT,
    OPT_BACK,
    OPT_KV_LIST,
    OPT_KV_HOME,
    OPT_CODECS,
    OPT_CHUNKS,
    OPT_CONNECT,
    OPT_LISTEN,
    OPT_JSON,
};

struct plan_options {
    const char *model, *edge, *cloud, *link, *quality, *folder, *port, *connect, *listen;
    const char *codecs[PLAN_LIST_MAX];
    unsigned n_codecs;
    uint64_t edge_bytes;                         /* 0: edge names a profile */
    uint64_t budget_bytes[PLAN_CLOUD_BYTES + 1]; /* of memory, as given; 0: not given */
    bool max_kl, json, here_edge, here_cloud;
    struct opt_list contexts, sessions, chunks;
    struct plan_wish wish; /* limits, lists, masks */
};

static const struct argp_option options[] = {
    {"model", 'm', "FILE", 0, "The model, a GGUF file", 1},
    {"edge", OPT_EDGE, "PROFILE|SIZE", 0,
     "The edge: what `isthmus profile -m` wrote there; or only its memory, and it is as fast as "
     "the "
     "cloud",
     1},
    {"cloud", OPT_CLOUD, "PROFILE", 0, "The cloud, likewise", 1},
    {"link", OPT_LINK, "PROFILE|SPEC", 0,
     "The link: what `isthmus profile --port` wrote, or rate=4mbit,rtt=20ms[,down=RATE][,loss=1%]"
     "[,mtu=1500]",
     1},
    {"quality", OPT_QUALITY_TABLE, "FILE", 0,
     "What precision costs this model, as tools/quality-table measured it; without it only what "
     "costs nothing is planned",
     1},
    {"context", OPT_CONTEXT, "N,...", 0,
     "Tokens of a session at its longest; of several the most "
     "that fits is taken",
     2},
    {"sessions", OPT_SESSIONS, "N,...", 0, "Sessions at once (default 1), likewise", 2},
    {"prompt", OPT_PROMPT, "N", 0,
     "Tokens of the prompt of --max-ttft (default: all but one of the "
     "context)",
     2},
    {"max-ttft", OPT_MAX_TTFT, "TIME", 0, "To the first token, at most: 800ms, 2s", 2},
    {"max-tpot", OPT_MAX_TPOT, "TIME", 0, "From token to token, at most, at the context's end", 2},
    {"max-kl", OPT_MAX_KL, "KL", 0,
     "Mean KL divergence from the model as it is, at most (default .02)", 2},
    {"edge-memory", OPT_EDGE_MEMORY, "SIZE", 0,
     "Most memory of the edge, 2 % of which is kept in reserve; the files of -o hold it to that "
     "(default: its profile's, held by nobody)",
     2},
    {"cloud-memory", OPT_CLOUD_MEMORY, "SIZE", 0, "Most memory of the cloud, likewise", 2},
    {"least", OPT_LEAST, "WHAT", 0,
     "Of what fits: the least tpot (default), ttft, kl, edge or cloud memory", 2},
    {"here", OPT_HERE, "edge|cloud", 0,
     "This half runs on this machine: its profile must be of it, and the edge's link measured from "
     "it; may be given for both",
     2},
    {"split", OPT_SPLITS, "N|A-B", 0, "Only such splits", 3},
    {"front", OPT_FRONT, "SCHEME,...", 0, "Only such weights at the edge (default: all)", 3},
    {"back", OPT_BACK, "SCHEME,...", 0, "Only such weights in the cloud", 3},
    {"kv", OPT_KV_LIST, "FORMAT,...", 0, "Only such caches", 3},
    {"kv-home", OPT_KV_HOME, "cloud|edge|any", 0,
     "Where the cloud's keys and values are: with it (default), or at the edge, which is computed "
     "but can't be run",
     3},
    {"codec", OPT_CODECS, "CODEC", 0,
     "Only this codec of the table: tsq:delta=.2; may be given again", 3},
    {"chunk", OPT_CHUNKS, "N,...", 0, "Chunks of a prompt to be tried (default 32,64,128)", 3},
    {"out", 'o', "DIR", 0, "Write edge.ini and cloud.ini there, from which both start", 4},
    {"port", OPT_PORT, "URI", 0, "The cloud's port (default udp:*:7300)", 4},
    {"connect", OPT_CONNECT, "URI", 0,
     "The edge's (default: as --port says; udp:* is at the host of the cloud's profile)", 4},
    {"listen", OPT_LISTEN, "HOST:PORT", 0,
     "Where the edge serves OpenAI's API (default, for several sessions, 127.0.0.1:8080)", 4},
    {"json", OPT_JSON, NULL, 0, "One JSON object instead of tables", 4},
    {0},
};

/* --- values --------------------------------------------------------------------------------------
 */

static double time_arg(struct argp_state *state, const char *name, const char *arg)
{
    char *end;
    const double x = strtod(arg, &end);
    const double unit = strcmp(end, "ms") == 0   ? 1e-3
                        : strcmp(end, "s") == 0  ? 1
                        : strcmp(end, "us") == 0 ? 1e-6
                                                 : 0;
    if (end == arg || unit == 0 || !(x > 0 && x * unit <= 86400))
        argp_error(state, "%s %s: must be a time such as 800ms or 2s", name, arg);
    return x * unit;
}

/* "64MB" and the like: only an edge's memory. A profile's name begins otherwise, or goes on. */
static bool is_size(const char *text)
{
    static const char *const units[] = {"", "B", "kB", "MB", "GB", "TB"};
    const char *unit = text + strspn(text, "0123456789.");

    for (unsigned i = 0; unit > text && i < sizeof units / sizeof *units; i++)
        if (strcmp(unit, units[i]) == 0)
            return true;
    return false;
}

static void least_arg(struct argp_state *state, const char *arg, enum plan_metric *m)
{
    static const char *const names[PLAN_METRICS] = {
        [PLAN_EDGE_BYTES] = "edge", [PLAN_CLOUD_BYTES] = "cloud", [PLAN_KL] = "kl",
        [PLAN_TTFT] = "ttft",       [PLAN_TPOT] = "tpot",
    };
    for (unsigned i = 0; i < PLAN_METRICS; i++)
        if (strcmp(arg, names[i]) == 0) {
            *m = (enum plan_metric)i;
            return;
        }
    argp_error(state, "--least %s: must be tpot, ttft, kl, edge or cloud", arg);
}

/* A list of names: exactly those are true from now on. */
static void mask_arg(struct argp_state *state, const char *option, char *arg,
                     int (*find)(const char *name), bool *mask, unsigned n)
{
    char *save = NULL;
    unsigned n_names = 0;

    memset(mask, 0, n * sizeof *mask);
    for (char *name = strtok_r(arg, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
        const int i = find(name);
        if (i < 0)
            argp_error(state, "%s %s: there is no such", option, name);
        else
            mask[i] = true;
        n_names++;
    }
    if (n_names == 0)
        argp_error(state, "%s: must be names with commas between them", option);
}

static int find_scheme(const char *name)
{
    enum plan_scheme s;

    return plan_scheme_parse(name, &s) == 0 ? (int)s : -1;
}

static int find_kv(const char *name)
{
    for (unsigned f = 0; f < KV_FORMATS; f++)
        if (strcmp(name, kv_format_name((enum kv_format)f)) == 0)
            return (int)f;
    return -1;
}

static void split_arg(struct argp_state *state, char *arg, struct plan_wish *w)
{
    char *const dash = *arg ? strchr(arg + 1, '-') : NULL; /* a first one is a sign */

    if (dash)
        *dash = '\0';
    w->split_min = w->split_max = opt_u32(state, "--split", arg, 1, PLAN_LAYERS_MAX);
    if (dash)
        w->split_max = opt_u32(state, "--split", dash + 1, w->split_min, PLAN_LAYERS_MAX);
}

static void home_arg(struct argp_state *state, const char *arg, struct plan_wish *w)
{
    const bool any = strcmp(arg, "any") == 0;

    w->home[PLAN_KV_CLOUD] = any || strcmp(arg, "cloud") == 0;
    w->home[PLAN_KV_EDGE] = any || strcmp(arg, "edge") == 0;
    if (!w->home[PLAN_KV_CLOUD] && !w->home[PLAN_KV_EDGE])
        argp_error(state, "--kv-home %s: must be cloud, edge or any", arg);
}

static void memory_arg(struct argp_state *state, const char *option, const char *arg,
                       enum plan_metric m, struct plan_options *o)
{
    o->budget_bytes[m] = opt_size(state, option, arg);
    o->wish.limit[m] = plan_within(m, (double)o->budget_bytes[m]);
}

static void uri_arg(struct argp_state *state, const char *option, const char *arg, const char **to)
{
    struct port_uri uri;
    char err[PORT_ERR];

    if (port_uri_parse(arg, &uri, err) < 0)
        argp_error(state, "%s: %s", option, err);
    *to = arg;
}

static int compare_u32(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void check_all(struct argp_state *state, struct plan_options *o)
{
    if (!o->model || !o->edge || !o->cloud || !o->link)
        argp_error(state, "-m, --edge, --cloud and --link are all needed: `isthmus profile` makes "
                          "what they name");
    if (o->contexts.n == 0)
        argp_error(state, "--context is missing: how long a session may be");
    for (uint32_t i = 0; i < o->contexts.n; i++)
        if (o->wish.prompt >= o->contexts.at[i])
            argp_error(state, "--prompt %u leaves no room for a token in a --context of %u",
                       o->wish.prompt, o->contexts.at[i]);
    if (!o->folder && (o->port || o->connect || o->listen))
        argp_error(state, "--port, --connect and --listen are for -o");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct plan_options *o = state->input;
    struct plan_wish *w = &o->wish;

    switch (key) {
    case 'm':
        o->model = arg;
        return 0;
    case 'o':
        o->folder = arg;
        return 0;
    case OPT_EDGE:
        o->edge = arg;
        o->edge_bytes = is_size(arg) ? opt_size(state, "--edge", arg) : 0;
        return 0;
    case OPT_CLOUD:
        o->cloud = arg;
        return 0;
    case OPT_LINK:
        o->link = arg;
        return 0;
    case OPT_QUALITY_TABLE:
        o->quality = arg;
        return 0;
    case OPT_MAX_TTFT:
        w->limit[PLAN_TTFT] = time_arg(state, "--max-ttft", arg);
        return 0;
    case OPT_MAX_TPOT:
        w->limit[PLAN_TPOT] = time_arg(state, "--max-tpot", arg);
        return 0;
    case OPT_MAX_KL:
        w->limit[PLAN_KL] = opt_f64(state, "--max-kl", arg, 0, 100);
        o->max_kl = true;
        return 0;
    case OPT_EDGE_MEMORY:
        memory_arg(state, "--edge-memory", arg, PLAN_EDGE_BYTES, o);
        return 0;
    case OPT_CLOUD_MEMORY:
        memory_arg(state, "--cloud-memory", arg, PLAN_CLOUD_BYTES, o);
        w->cloud_held = true;
        return 0;
    case OPT_CONTEXT:
        opt_u32_list(state, "--context", arg, 2, 1u << 20, &o->contexts);
        return 0;
    case OPT_SESSIONS:
        opt_u32_list(state, "--sessions", arg, 1, 256, &o->sessions);
        return 0;
    case OPT_PROMPT:
        w->prompt = opt_u32(state, "--prompt", arg, 1, 1u << 20);
        return 0;
    case OPT_LEAST:
        least_arg(state, arg, &w->least);
        return 0;
    case OPT_HERE:
        o->here_edge |= strcmp(arg, "edge") == 0;
        o->here_cloud |= strcmp(arg, "cloud") == 0;
        if (strcmp(arg, "edge") != 0 && strcmp(arg, "cloud") != 0)
            argp_error(state, "--here %s: must be edge or cloud", arg);
        return 0;
    case OPT_SPLITS:
        split_arg(state, arg, w);
        return 0;
    case OPT_FRONT:
        mask_arg(state, "--front", arg, find_scheme, w->front, PLAN_SCHEMES);
        return 0;
    case OPT_BACK:
        mask_arg(state, "--back", arg, find_scheme, w->back, PLAN_SCHEMES);
        return 0;
    case OPT_KV_LIST:
        mask_arg(state, "--kv", arg, find_kv, w->kv, KV_FORMATS);
        return 0;
    case OPT_KV_HOME:
        home_arg(state, arg, w);
        return 0;
    case OPT_CODECS:
        if (o->n_codecs == PLAN_LIST_MAX)
            argp_error(state, "--codec: %u of them are enough", PLAN_LIST_MAX);
        o->codecs[o->n_codecs++] = arg;
        return 0;
    case OPT_CHUNKS:
        opt_u32_list(state, "--chunk", arg, 1, 1024, &o->chunks);
        return 0;
    case OPT_PORT:
        uri_arg(state, "--port", arg, &o->port);
        return 0;
    case OPT_CONNECT:
        uri_arg(state, "--connect", arg, &o->connect);
        return 0;
    case OPT_LISTEN:
        o->listen = arg;
        return 0;
    case OPT_JSON:
        o->json = true;
        return 0;
    case ARGP_KEY_END:
        check_all(state, o);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    NULL,
    "Find the best way to cut a model: every split, storage of weights and cache, codec and chunk "
    "is "
    "computed from measured profiles, and the one with the least time from token to token is taken "
    "of "
    "those that keep memory and all limits (--least: the least of something else).\v"
    "Exit codes: 0, a plan; 2, bad usage, a profile that is not of this model, or limits that "
    "contradict each other or that no split of any model could keep; 3, nothing fits, or nothing "
    "of what is asked for was measured: "
    "what ruled it out, and what would mend it, is printed.",
    NULL,
    NULL,
    NULL,
};

/* --- reading what is named -----------------------------------------------------------------------
 */

struct inputs {
    struct plan_model m;
    struct plan_host edge, cloud;
    struct plan_link link;
    struct plan_quality *quality;
    struct plan_speed *edge_speed, *cloud_speed;
};

static int read_model(const char *path, struct plan_model *m)
{
    struct model file;
    char err[GGUF_ERR] = "";
    int rc = model_open(path, false, &file);

    if (rc != EXIT_OK)
        return rc;
    if (plan_model_read(file.gguf, m, err) < 0) {
        log_error("%s", err);
        rc = EXIT_USAGE;
    } else if (m->n_layers < 2) {
        log_error("%s: a model of %u layers cannot be split", path, m->n_layers);
        rc = EXIT_USAGE;
    }
    model_close(&file);
    return rc;
}

/* A version is refused by --here; else what it measured may do. */
static void warn_build(const char *path, const char *version, const char *commit,
                       const struct plan_host *us)
{
    if (strcmp(version, us->version) != 0 || strcmp(commit, us->commit) != 0)
        log_warn("%s: was made by isthmus %s (%s), this is %s (%s): its times may differ", path,
                 version, commit, us->version, us->commit);
}

static int read_host(const char *path, const struct plan_model *m, bool here, struct plan_host *h)
{
    struct plan_host us;
    char err[PLAN_ERR], *text;
    size_t len;
    int rc = plan_file_read(path, &text, &len);

    if (rc != EXIT_OK)
        return rc;
    measure_names(&us);
    if (plan_host_parse(text, len, path, h, err) < 0 ||
        plan_host_check(h, path, m, here ? &us : NULL, err) < 0) {
        log_error("%s", err);
        rc = EXIT_USAGE;
    } else {
        warn_build(path, h->version, h->commit, &us);
    }
    free(text);
    return rc;
}

static int read_hosts(struct plan_options *o, struct inputs *in)
{
    struct plan_wish *w = &o->wish;
    int rc = read_host(o->cloud, &in->m, o->here_cloud, &in->cloud);

    if (rc != EXIT_OK)
        return rc;
    if (o->edge_bytes) {
        in->edge = in->cloud;
        in->edge.memory_bytes = o->edge_bytes;
        in->edge.host[0] = 0; /* another machine, of which nothing else is known */
        log_info("--edge %s: its speed is taken to be that of %s", o->edge, o->cloud);
    } else {
        rc = read_host(o->edge, &in->m, o->here_edge, &in->edge);
    }
    if (w->limit[PLAN_EDGE_BYTES] == INFINITY && in->edge.memory_bytes)
        w->limit[PLAN_EDGE_BYTES] = plan_within(PLAN_EDGE_BYTES, (double)in->edge.memory_bytes);
    if (w->limit[PLAN_CLOUD_BYTES] == INFINITY && in->cloud.memory_bytes)
        w->limit[PLAN_CLOUD_BYTES] = plan_within(PLAN_CLOUD_BYTES, (double)in->cloud.memory_bytes);
    w->beside = strcmp(in->edge.host, in->cloud.host) == 0;
    return rc;
}

/* It is measured from the edge. */
static int read_link(const char *text, bool here, struct plan_link *l)
{
    struct plan_host us;
    char err[PLAN_ERR], *file;
    size_t len;

    if (plan_link_is_arg(text)) {
        if (plan_link_arg(text, l, err) == 0)
            return EXIT_OK;
        log_error("--link %s", err);
        return EXIT_USAGE;
    }
    int rc = plan_file_read(text, &file, &len);
    if (rc != EXIT_OK)
        return rc;
    measure_names(&us);
    if (plan_link_parse(file, len, text, l, err) < 0 ||
        (here && plan_link_check(l, text, &us, err) < 0)) {
        log_error("%s", err);
        rc = EXIT_USAGE;
    } else {
        warn_build(text, l->version, l->commit, &us);
    }
    free(file);
    return rc;
}

static int read_quality(const char *path, const struct plan_model *m, struct plan_quality *q)
{
    char err[PLAN_ERR], *text;
    size_t len;

    if (!path) {
        plan_quality_none(m->d_model, q);
        log_info(
            "without --quality FILE nothing is known of what precision costs: only f32 rows, a "
            "f16 cache and the file's own weights are planned");
        return EXIT_OK;
    }
    int rc = plan_file_read(path, &text, &len);
    if (rc != EXIT_OK)
        return rc;
    if (plan_quality_parse(text, len, path, m, q, err) < 0) {
        log_error("%s", err);
        rc = EXIT_USAGE;
    }
    free(text);
    return rc == EXIT_OK ? plan_codecs_check(path, q) : rc;
}

/* --- the command
 * ----------------------------------------------------------------------------------- */

static int read_inputs(struct plan_options *o, struct inputs *in)
{
    struct plan_wish *w = &o->wish;
    int rc = read_model(o->model, &in->m);

    if (rc == EXIT_OK)
        rc = read_hosts(o, in);
    if (rc == EXIT_OK)
        rc = read_link(o->link, o->here_edge, &in->link);
    in->quality = rc == EXIT_OK ? calloc(1, sizeof *in->quality) : NULL;
    if (rc == EXIT_OK && !in->quality) {
        log_error("out of memory");
        rc = EXIT_FAILED;
    }
    if (rc == EXIT_OK)
        rc = read_quality(o->quality, &in->m, in->quality);
    if (rc == EXIT_OK && (plan_speed_open(&in->m, &in->edge, &in->edge_speed) < 0 ||
                          plan_speed_open(&in->m, &in->cloud, &in->cloud_speed) < 0)) {
        log_error("out of memory");
        rc = EXIT_FAILED;
    }
    w->m = &in->m;
    w->link = &in->link;
    w->quality = in->quality;
    w->edge = in->edge_speed;
    w->cloud = in->cloud_speed;
    return rc;
}

static void fill_lists(struct plan_options *o, const struct inputs *in)
{
    struct plan_wish *w = &o->wish;

    w->n_contexts = o->contexts.n;
    memcpy(w->contexts, o->contexts.at, sizeof w->contexts);
    w->n_sessions = o->sessions.n ? o->sessions.n : 1;
    w->sessions[0] = 1;
    if (o->sessions.n)
        memcpy(w->sessions, o->sessions.at, sizeof w->sessions);
    if (!o->chunks.n)
        o->chunks = (struct opt_list){3, {32, 64, 128}};
    qsort(o->chunks.at, o->chunks.n, sizeof *o->chunks.at, compare_u32);
    w->n_chunks = o->chunks.n;
    memcpy(w->chunks, o->chunks.at, sizeof w->chunks);
    if (!w->split_min) {
        w->split_min = 1;
        w->split_max = in->m.n_layers - 1;
    }
    w->packet_bytes = port_arg_bytes(o->port); /* an interface of here stands for both hosts' */
    w->serves = o->listen != NULL;
    for (uint32_t i = 0; i < w->n_sessions; i++)
        w->serves |= o->folder && w->sessions[i] > 1; /* -o has it listen for them */
}

static int plan(struct plan_options *o, const struct inputs *in)
{
    static struct plan_answer a;
    static struct plan more_kl;
    char connect[PLAN_CONNECT_MAX] = "";
    bool has_more = false;
    int rc = EXIT_OK;

    if (o->folder && !o->connect)
        rc = plan_connect(o->port, in->cloud.host, connect);
    if (rc != EXIT_OK)
        return rc;
    if (plan_search(&o->wish, &a) < 0 ||
        (!o->max_kl && plan_with_more_kl(&o->wish, &a, &has_more, &more_kl) < 0)) {
        log_error("out of memory");
        return EXIT_FAILED;
    }
    const struct plan_paper paper = {
        .w = &o->wish,
        .a = &a,
        .more_kl = has_more ? &more_kl : NULL,
        .model = o->model,
        .quality = o->quality,
        .folder = o->folder,
        .edge_budget_bytes =
            o->budget_bytes[PLAN_EDGE_BYTES] ? o->budget_bytes[PLAN_EDGE_BYTES] : o->edge_bytes,
        .cloud_budget_bytes = o->budget_bytes[PLAN_CLOUD_BYTES],
        .port = o->port ? o->port : PLAN_PORT,
        .connect = o->connect ? o->connect : connect,
        .listen = o->listen                        ? o->listen
                  : a.found && a.best.sessions > 1 ? "127.0.0.1:8080"
                                                   : NULL,
    };
    rc = o->json ? plan_show_json(&paper) : plan_show(&paper);
    if (rc == EXIT_OK && a.found && o->folder)
        rc = plan_write_config(&paper);
    return rc != EXIT_OK ? rc : a.found ? EXIT_OK : EXIT_NO_PLAN;
}

int cmd_plan(int argc, char **argv)
{
    static struct plan_options o = {.wish = {.least = PLAN_TPOT, .home = {[PLAN_KV_CLOUD] = true}}};
    static struct inputs in;

    for (unsigned m = 0; m < PLAN_METRICS; m++)
        o.wish.limit[m] = m == PLAN_KL ? .02 : INFINITY;
    memset(o.wish.front, true, sizeof o.wish.front);
    memset(o.wish.back, true, sizeof o.wish.back);
    memset(o.wish.kv, true, sizeof o.wish.kv);
    argp_parse(&argp, argc, argv, 0, NULL, &o);

    int rc = read_inputs(&o, &in);
    if (rc == EXIT_OK) {
        fill_lists(&o, &in);
        rc = plan_codecs_choose(o.quality, o.codecs, o.n_codecs, &o.wish);
    }
    if (rc == EXIT_OK)
        rc = plan_check_limits(&(struct plan_paper){.w = &o.wish, .model = o.model});
    if (rc == EXIT_OK)
        rc = plan(&o, &in);
    plan_speed_close(in.edge_speed);
    plan_speed_close(in.cloud_speed);
    free(in.quality);
    plan_model_free(&in.m);
    return rc;
}
