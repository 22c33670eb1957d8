/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus bench serve`: an OpenAI server, ours or another, under load. */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/bench/bench.h"
#include "control/bench/serve_report.h"
#include "control/cmd.h"
#include "control/gnuplot.h"
#include "control/libcurl.h"
#include "control/log.h"
#include "control/options.h"
#include "control/signals.h"

#define KEY_MAX         4096u
#define REQUESTS        100u /* where neither number nor time is given */
#define PROMPT_TOKENS   64u
#define MAX_TOKENS      64u
#define INTRUDER_ANSWER 16u
#define TIMEOUT_S       600

enum {
    OPT_URL = OPT_OWN,
    OPT_API_KEY,
    OPT_MODEL,
    OPT_REQUEST_COUNT,
    OPT_ARRIVALS,
    OPT_CONCURRENCY,
    OPT_PROMPTS,
    OPT_PROMPT_TOKENS,
    OPT_MAX_TOKENS,
    OPT_SLO,
    OPT_DURATION,
    OPT_LOAD_SEED,
    OPT_WARMUP,
    OPT_FORMAT,
    OPT_PLOT,
    OPT_CHAT,
    OPT_COMPLETIONS,
    OPT_GO_ON,
    OPT_TIMEOUT,
    OPT_INTRUDER_TOKENS,
    OPT_INTRUDER_EVERY,
};

struct options {
    struct load_params load;
    const char *key_file, *prompts, *plot;
    bool completions;
    enum table_format format;
};

static const struct argp_option option_list[] = {
    {"url", OPT_URL, "URL", 0, "The server: http://HOST:PORT", 1},
    {"api-key-file", OPT_API_KEY, "FILE", 0, "Its first line is sent as the API key", 1},
    {"model", OPT_MODEL, "NAME", 0, "The model to ask for (default: the server's first)", 1},
    {"concurrency", OPT_CONCURRENCY, "C", 0,
     "Closed loop: C clients, each asking again when its answer has ended (default 1)", 2},
    {"rate", OPT_ARRIVALS, "R", 0,
     "Open loop: R requests a second, as chance has it (Poisson), however many are under way; "
     "times count from when a request was due",
     2},
    {"requests", OPT_REQUEST_COUNT, "N", 0, "Ask N times (default 100 without --duration)", 2},
    {"duration", OPT_DURATION, "S", 0, "Measure for S seconds; what is under way then is cut off", 2},
    {"warmup", OPT_WARMUP, "N", 0, "Requests before that are not counted (default 0)", 2},
    {"seed", OPT_LOAD_SEED, "N", 0, "Of arrivals and made-up prompts (default 1)", 2},
    {"timeout", OPT_TIMEOUT, "S", 0, "Most seconds for an answer (default 600)", 2},
    {"prompts", OPT_PROMPTS, "FILE", 0,
     "JSON lines with prompt (a text) or messages (of a chat), and max_tokens if it shall differ; "
     "from the beginning again after the last",
     3},
    {"prompt-tokens", OPT_PROMPT_TOKENS, "N", 0,
     "Without --prompts: words of a made-up prompt, each one token for most models (default 64)",
     3},
    {"max-tokens", OPT_MAX_TOKENS, "N", 0, "Tokens of an answer at most (default 64)", 3},
    {"ignore-eos", OPT_GO_ON, NULL, 0,
     "Ask for ignore_eos, so that answers have all their tokens, where the server knows it", 3},
    {"chat", OPT_CHAT, NULL, 0, "Prompts are a user's messages: /v1/chat/completions", 3},
    {"completions", OPT_COMPLETIONS, NULL, 0, "Prompts are continued: /v1/completions (default)",
     3},
    {"intruder-tokens", OPT_INTRUDER_TOKENS, "N", 0,
     "Beside the load a made-up prompt of N tokens comes time and again", 4},
    {"intruder-every", OPT_INTRUDER_EVERY, "S", 0, "... every S seconds (default 4)", 4},
    {"slo", OPT_SLO, "ttft=MS,tpot=MS", 0,
     "What is good: time to first token, and time a token after it, at most; either or both", 5},
    {"format", OPT_FORMAT, "md|csv|jsonl", 0, "A Markdown table (default), CSV or JSON lines", 5},
    {"plot", OPT_PLOT, "FILE", 0, "Draw how the times are distributed (PNG, by gnuplot)", 5},
    {0},
};

static void parse_slo(struct argp_state *state, char *arg, struct load_params *p)
{
    char *save = NULL;
    for (char *item = strtok_r(arg, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        double *s = strncmp(item, "ttft=", 5) == 0   ? &p->slo_ttft_s
                    : strncmp(item, "tpot=", 5) == 0 ? &p->slo_tpot_s
                                                     : NULL;
        if (!s)
            argp_error(state, "--slo %s: must be ttft=MS, tpot=MS or both", item);
        else
            *s = opt_f64(state, "--slo", item + 5, .001, 1e9) * 1e-3;
    }
    if (p->slo_ttft_s == 0 && p->slo_tpot_s == 0)
        argp_error(state, "--slo: must be ttft=MS, tpot=MS or both");
}

/* http://HOST:PORT, whatever of /v1/ was given behind it. */
static void parse_url(struct argp_state *state, char *arg, struct options *o)
{
    size_t len = strlen(arg);
    if (strncmp(arg, "http://", 7) != 0 && strncmp(arg, "https://", 8) != 0)
        argp_error(state, "--url %s: must begin with http:// or https://", arg);
    while (len && arg[len - 1] == '/')
        len--;
    if (len > 3 && strncmp(arg + len - 3, "/v1", 3) == 0)
        len -= 3;
    arg[len] = 0;
    o->load.url = arg;
}

static void check_all(struct argp_state *state, struct options *o)
{
    struct load_params *p = &o->load;
    if (!p->url)
        argp_error(state, "--url http://HOST:PORT is missing: the server to measure");
    if (p->rate_per_s > 0 && p->concurrency)
        argp_error(state, "--rate is an open loop, --concurrency a closed one: give one of them");
    if (o->prompts && p->ask.prompt_tokens)
        argp_error(state, "--prompts and --prompt-tokens do not go together");
    if (p->ask.chat && o->completions)
        argp_error(state, "--chat and --completions do not go together");
    if (p->intruder_every_s > 0 && !p->intruder.prompt_tokens)
        argp_error(state, "--intruder-every needs --intruder-tokens");
    if (p->intruder.prompt_tokens && p->intruder_every_s == 0)
        p->intruder_every_s = 4;
    if (!p->concurrency && p->rate_per_s == 0)
        p->concurrency = 1;
    if (!p->requests && p->duration_s == 0)
        p->requests = REQUESTS;
    if (!p->ask.prompt_tokens)
        p->ask.prompt_tokens = PROMPT_TOKENS;
    p->intruder.chat = p->ask.chat;
    p->intruder.ignore_eos = p->ask.ignore_eos;
    p->intruder.seed = p->ask.seed;
    p->intruder.model = p->ask.model;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct options *o = state->input;
    struct load_params *p = &o->load;
    switch (key) {
    case OPT_URL:
        parse_url(state, arg, o);
        return 0;
    case OPT_API_KEY:
        o->key_file = arg;
        return 0;
    case OPT_MODEL:
        p->ask.model = arg;
        return 0;
    case OPT_REQUEST_COUNT:
        p->requests = opt_u32(state, "--requests", arg, 1, 10000000);
        return 0;
    case OPT_ARRIVALS:
        p->rate_per_s = opt_f64(state, "--rate", arg, 1e-3, 1e5);
        return 0;
    case OPT_CONCURRENCY:
        p->concurrency = opt_u32(state, "--concurrency", arg, 1, 10000);
        return 0;
    case OPT_PROMPTS:
        o->prompts = arg;
        return 0;
    case OPT_PROMPT_TOKENS:
        p->ask.prompt_tokens = opt_u32(state, "--prompt-tokens", arg, 1, PROMPTS_TOKENS_MAX);
        return 0;
    case OPT_MAX_TOKENS:
        p->ask.max_tokens = opt_u32(state, "--max-tokens", arg, 1, PROMPTS_TOKENS_MAX);
        return 0;
    case OPT_SLO:
        parse_slo(state, arg, p);
        return 0;
    case OPT_DURATION:
        p->duration_s = opt_f64(state, "--duration", arg, .01, 1e6);
        return 0;
    case OPT_LOAD_SEED:
        p->ask.seed = opt_u64(state, "--seed", arg);
        return 0;
    case OPT_WARMUP:
        p->warmup = opt_u32(state, "--warmup", arg, 0, 100000);
        return 0;
    case OPT_FORMAT:
        opt_table_format(state, arg, &o->format);
        return 0;
    case OPT_PLOT:
        o->plot = arg;
        return 0;
    case OPT_CHAT:
        p->ask.chat = true;
        return 0;
    case OPT_COMPLETIONS:
        o->completions = true;
        return 0;
    case OPT_GO_ON:
        p->ask.ignore_eos = true;
        return 0;
    case OPT_TIMEOUT:
        p->timeout_s = opt_f64(state, "--timeout", arg, .01, 86400);
        return 0;
    case OPT_INTRUDER_TOKENS:
        p->intruder.prompt_tokens = opt_u32(state, "--intruder-tokens", arg, 1, PROMPTS_TOKENS_MAX);
        return 0;
    case OPT_INTRUDER_EVERY:
        p->intruder_every_s = opt_f64(state, "--intruder-every", arg, .001, 1e6);
        return 0;
    case ARGP_KEY_END:
        check_all(state, o);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    option_list,
    parse,
    NULL,
    "Any server with OpenAI's API under load: time to first token, time from token to token, time "
    "of "
    "a whole answer (p50, p90, p99), tokens a second, answers within an SLO, errors by kind.\v"
    "Answers are streamed, at temperature 0. With --rate arrivals are independent of answers, as "
    "users are: a server that falls behind is seen to. With --intruder-tokens a long prompt comes "
    "time and again beside those that decode; it has a row of its own.",
    NULL,
    NULL,
    NULL,
};

/* --- the key
 * -------------------------------------------------------------------------------------- */

/* The first line of the file, malloc'd. */
static int read_key(const char *path, char **key)
{
    char line[KEY_MAX];
    FILE *f = fopen(path, "re");
    if (!f) {
        log_error("--api-key-file %s: %s", path, strerror(errno));
        return EXIT_USAGE;
    }
    char *got = fgets(line, sizeof line, f);
    fclose(f);
    if (got)
        line[strcspn(line, "\r\n")] = 0;
    bool good = got && *line;
    for (const char *c = line; good && *c; c++)
        good = *c > ' ' && *c < 0x7f;
    if (!good) {
        log_error("--api-key-file %s: its first line must be a key, printable and without spaces",
                  path);
        return EXIT_USAGE;
    }
    *key = strdup(line);
    explicit_bzero(line, sizeof line);
    if (!*key)
        log_error("out of memory");
    return *key ? EXIT_OK : EXIT_FAILED;
}

/* --- the run
 * -------------------------------------------------------------------------------------- */

static void no_end(void *arg, const struct call_result *r)
{
    (void)arg;
    (void)r;
}

static int find_model(struct load_params *p, char **name)
{
    char why[300] = "out of memory";
    struct client *c = NULL;
    const struct client_params params = {
        .url = p->url, .key = p->key, .timeout_s = p->timeout_s, .on_end = no_end};
    if (client_open(&params, &c) == 0)
        *name = client_first_model(c, why, sizeof why);
    client_close(c);
    if (!*name) {
        log_error("%s/v1/models: %s: is the server running? --model names the model otherwise",
                  p->url, why);
        return EXIT_FAILED;
    }
    p->ask.model = p->intruder.model = *name;
    return EXIT_OK;
}

static int measure(const struct options *o, struct load_params *p)
{
    struct load_figures *figures = calloc(LOAD_KINDS, sizeof *figures);
    if (!figures) {
        log_error("out of memory");
        return EXIT_FAILED;
    }
    const int run = load_run(p, figures);
    int rc = run == EXIT_FAILED ? run : serve_report(o->format, p, figures);
    if (rc == EXIT_OK && run == EXIT_OK && o->plot)
        rc = serve_plot(o->plot, figures);
    if (rc == EXIT_OK && run == EXIT_OK && !figures[LOAD_MAIN].tokens) {
        log_error("no request went well");
        rc = EXIT_FAILED;
    }
    free(figures);
    return rc == EXIT_OK ? run : rc;
}

int bench_serve(int argc, char **argv)
{
    struct options o = {
        .load = {.timeout_s = TIMEOUT_S,
                 .ask = {.max_tokens = MAX_TOKENS, .seed = 1},
                 .intruder = {.max_tokens = INTRUDER_ANSWER}},
    };
    struct prompts *prompts = NULL;
    char *key = NULL, *model = NULL;
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    signals_catch();
    const char *why;
    int rc = o.plot ? gnuplot_check(o.plot) : EXIT_OK;
    if (rc == EXIT_OK && libcurl_load(&why) < 0) {
        log_error("%s", why);
        rc = EXIT_FAILED;
    }
    if (rc == EXIT_OK && o.prompts)
        rc = prompts_read(o.prompts, &prompts);
    if (rc == EXIT_OK && o.key_file)
        rc = read_key(o.key_file, &key);
    o.load.prompts = prompts;
    o.load.key = key;
    if (rc == EXIT_OK && !o.load.ask.model)
        rc = find_model(&o.load, &model);
    if (rc == EXIT_OK)
        rc = measure(&o, &o.load);
    prompts_free(prompts);
    free(key);
    free(model);
    return rc == EXIT_INTERRUPTED ? 128 + signals_caught() : rc;
}
