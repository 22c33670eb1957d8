/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus ctl`: a method of a process's control socket. */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/options.h"
#include "control/rpc/client.h"
#include "control/rpc/rpc.h"
#include "control/rpc/show.h"
#include "control/signals.h"

enum { OPT_SOCKET = OPT_OWN, OPT_JSON, OPT_WATCH };

#define LOOK_S .25 /* between two looks at threads */
#define RELOAD "config.reload"

struct ctl_options {
    const char *socket;
    bool json;
    double watch_s; /* 0: once */
    char **words;
    int n_words;
};

static const struct argp_option options[] = {
    {"socket", OPT_SOCKET, "PATH", 0,
     "The control socket: a path, or edge or cloud for where such a one is by default (default: "
     "whichever is there)",
     0},
    {"json", OPT_JSON, NULL, 0, "The result as JSON, on one line", 0},
    {"watch", OPT_WATCH, "SECONDS", OPTION_ARG_OPTIONAL,
     "Again every so often (default 1), until interrupted", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct ctl_options *o = state->input;
    switch (key) {
    case OPT_SOCKET:
        o->socket = arg;
        return 0;
    case OPT_JSON:
        o->json = true;
        return 0;
    case OPT_WATCH:
        o->watch_s = arg ? opt_f64(state, "--watch", arg, .1, 86400) : 1;
        return 0;
    case ARGP_KEY_ARGS:
        o->words = state->argv + state->next;
        o->n_words = state->argc - state->next;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "METHOD is missing: `isthmus ctl methods` names them");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    "METHOD [NAME=VALUE...]",
    "Ask a serving `isthmus edge` or `isthmus cloud` something, or tell it to do something, by its "
    "control socket.\v"
    "METHOD is one of `isthmus ctl methods`, or short for one: sessions, show, kill, stats, link, "
    "ports, workers, edges, drain, undrain, codec, capture, profile, reload, log, methods. A value "
    "without "
    "a name is of the next parameter: `isthmus ctl kill 7`, `isthmus ctl drain w1`, `isthmus ctl "
    "codec id=7 rate=150`.",
    NULL,
    NULL,
    NULL,
};

/* --- short names --------------------------------------------------------------------------------
 */

struct alias {
    const char *name, *method;
    const char *with; /* when there are parameters; NULL: the same */
};
static const struct alias aliases[] = {
    {"sessions", "sessions.list", NULL},
    {"show", "sessions.show", NULL},
    {"kill", "sessions.kill", NULL},
    {"workers", "workers.list", NULL},
    {"edges", "edges.list", NULL},
    {"methods", "methods.list", NULL},
    {"link", "link.stats", NULL},
    {"ports", "port.stats", NULL},
    {"codec", "codec.get", "codec.set"},
    {"capture", "capture.status", "capture.start"},
    {"profile", "profile.dump", NULL},
    {"reload", RELOAD, NULL},
    {"log", "log.level", NULL},
    {"drain", "drain", "workers.drain"},
    {"undrain", "undrain", "workers.undrain"},
};

static const char *full_name(const char *name, bool with)
{
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++)
        if (strcmp(name, aliases[i].name) == 0)
            return with && aliases[i].with ? aliases[i].with : aliases[i].method;
    return name;
}

/* --- parameters ---------------------------------------------------------------------------------
 */

/* The method's schema: its properties; NULL: it is not there. Borrowed from list. */
static const json_t *properties_of(const json_t *list, const char *method)
{
    const json_t *m;
    size_t i;
    json_array_foreach(list, i, m)
    {
        const char *name = json_string_value(json_object_get(m, "name"));
        if (name && strcmp(name, method) == 0)
            return json_object_get(json_object_get(m, "params"), "properties");
    }
    return NULL;
}

/* Text as what the schema wants; what does not look like it stays text, and the process says what
 * is wrong with it. */
static json_t *typed(const json_t *schema, const char *text)
{
    const char *type = json_string_value(json_object_get(schema, "type"));
    if (type && strcmp(type, "string") != 0) {
        json_t *v = json_loads(text, JSON_DECODE_ANY, NULL);
        if (v && (!json_is_integer(v) || strcmp(type, "number") != 0))
            return v;
        if (v) {
            json_t *real = json_real((double)json_integer_value(v));
            json_decref(v);
            return real;
        }
        char *end;
        const double x = strtod(text, &end); /* ".5" is no JSON */
        if (strcmp(type, "number") == 0 && *text && !*end)
            return json_real(x);
    }
    return json_string(text);
}

static const char *nth_name(const json_t *properties, unsigned n)
{
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)properties, name, v)
    {
        if (n-- == 0)
            return name;
    }
    return NULL;
}

/* NULL: said. */
static json_t *params_of(const json_t *properties, char **words, int n, const char *method)
{
    json_t *o = json_object();
    unsigned position = 0;
    for (int i = 0; i < n; i++) {
        char *equals = strchr(words[i], '=');
        const char *name = words[i], *value = equals ? equals + 1 : words[i];
        if (equals)
            *equals = '\0';
        else
            name = nth_name(properties, position++);
        if (!name) {
            log_error("%s: %s is one value too many", method, value);
            json_decref(o);
            return NULL;
        }
        if (json_object_set_new(o, name, typed(json_object_get(properties, name), value)) < 0) {
            log_error("%s: a value that is not UTF-8", method);
            json_decref(o);
            return NULL;
        }
    }
    return o;
}

/* --- output -------------------------------------------------------------------------------------
 */

static int exit_code(json_int_t code)
{
    return code == RPC_UNKNOWN_METHOD || code == RPC_INVALID_PARAMS || code == RPC_INVALID_REQUEST
               ? EXIT_USAGE
               : EXIT_FAILED;
}

static json_t *parameters_in_short(const json_t *method)
{
    const json_t *schema = json_object_get(method, "params");
    const char *name;
    json_t *v, *required = json_object_get(schema, "required");
    char text[256] = "";
    json_object_foreach(json_object_get(schema, "properties"), name, v)
    {
        bool must = false;
        for (size_t i = 0; i < json_array_size(required); i++)
            must = must || strcmp(name, json_string_value(json_array_get(required, i))) == 0;
        const size_t at = strlen(text);
        snprintf(text + at, sizeof text - at, "%s%s%s%s", at ? " " : "", must ? "" : "[", name,
                 must ? "" : "]");
    }
    return json_string(text);
}

/* A schema is nothing for a table: the names of its parameters are. */
static json_t *methods_for_people(const json_t *list)
{
    json_t *o = json_array();
    const json_t *m;
    size_t i;
    json_array_foreach(list, i, m)
    {
        json_t *row = json_object();
        json_object_set(row, "name", json_object_get(m, "name"));
        json_object_set(row, "role", json_object_get(m, "role"));
        json_object_set_new(row, "parameters", parameters_in_short(m));
        json_object_set(row, "help", json_object_get(m, "help"));
        json_array_append_new(o, row);
    }
    return o;
}

static int print(const struct ctl_options *o, const char *method, const json_t *result)
{
    if (o->json) {
        json_dumpf(result, stdout, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(12));
        putchar('\n');
    } else if (strcmp(method, "methods.list") == 0) {
        json_t *rows = methods_for_people(json_object_get(result, "methods"));
        rpc_show(stdout, rows);
        json_decref(rows);
    } else if (strcmp(method, RELOAD) == 0) {
        rpc_show_lines(stdout, json_object_get(result, "lines"));
    } else {
        rpc_show(stdout, result);
    }
    return rpc_show_flush();
}

/* People want to see how busy threads are, which takes two looks. */
static json_t *ask_threads(struct rpc_client *c)
{
    const struct timespec pause = {.tv_nsec = (long)(LOOK_S * 1e9)};
    json_t *before = rpc_client_ask(c, rpc_client_request(1, "threads", NULL));
    nanosleep(&pause, NULL);
    json_t *answer = before ? rpc_client_ask(c, rpc_client_request(2, "threads", NULL)) : NULL;
    const json_t *was = json_object_get(before, "result"), *is = json_object_get(answer, "result");
    const double s = json_number_value(json_object_get(is, "now_s")) -
                     json_number_value(json_object_get(was, "now_s"));
    json_t *t, *u;
    size_t i, k;
    json_array_foreach(json_object_get(is, "threads"), i, t)
    {
        json_array_foreach(json_object_get(was, "threads"), k, u)
        {
            if (s <= 0 || !json_equal(json_object_get(t, "tid"), json_object_get(u, "tid")))
                continue;
            const double cpu_s = json_number_value(json_object_get(t, "cpu_s")) -
                                 json_number_value(json_object_get(u, "cpu_s"));
            json_object_set_new(t, "load", json_real(cpu_s / s));
        }
    }
    json_decref(before);
    return answer;
}

/* An answer without a result. */
static int say_refusal(const struct rpc_client *c, const json_t *answer)
{
    const json_t *error = json_object_get(answer, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    if (!error)
        log_error("%s: neither a result nor an error", rpc_client_path(c));
    else
        log_error("%s", message ? message : "it failed");
    return exit_code(json_integer_value(json_object_get(error, "code")));
}

static int once(const struct ctl_options *o, struct rpc_client *c, const char *method,
                const json_t *params)
{
    json_t *answer = !o->json && strcmp(method, "threads") == 0
                         ? ask_threads(c)
                         : rpc_client_ask(c, rpc_client_request(1, method, json_deep_copy(params)));
    const json_t *result = json_object_get(answer, "result");
    int rc = result ? print(o, method, result) : answer ? say_refusal(c, answer) : EXIT_FAILED;
    if (strcmp(method, RELOAD) == 0 && json_is_true(json_object_get(result, "refused")))
        rc = EXIT_FAILED;
    json_decref(answer);
    return rc;
}

static int repeat(const struct ctl_options *o, struct rpc_client *c, const char *method,
                  const json_t *params)
{
    const struct timespec pause = {.tv_sec = (time_t)o->watch_s,
                                   .tv_nsec =
                                       (long)((o->watch_s - (double)(time_t)o->watch_s) * 1e9)};
    const bool tty = isatty(STDOUT_FILENO) && !o->json;
    int rc = EXIT_OK;
    signals_catch();
    for (bool first = true; rc == EXIT_OK && !signals_caught(); first = false) {
        if (tty)
            printf("\033[H\033[2J");
        else if (!o->json && !first)
            putchar('\n');
        rc = once(o, c, method, params);
        if (rc == EXIT_OK && !signals_caught())
            nanosleep(&pause, NULL);
    }
    return rc == EXIT_OK ? EXIT_INTERRUPTED : rc;
}

int cmd_ctl(int argc, char **argv)
{
    struct ctl_options o = {NULL};
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    const char *method = full_name(o.words[0], o.n_words > 1);

    struct rpc_client *c = NULL;
    int rc = rpc_client_open(o.socket, &c);
    if (rc != EXIT_OK)
        return rc;
    json_t *methods = rpc_client_ask(c, rpc_client_request(0, "methods.list", NULL));
    const json_t *list = json_object_get(json_object_get(methods, "result"), "methods");
    const json_t *properties = properties_of(list, method);
    /* Of a method that is not there the process says so, and which one may be meant. */
    json_t *params = properties ? params_of(properties, o.words + 1, o.n_words - 1, method) : NULL;
    if (!methods)
        rc = EXIT_FAILED;
    else if (!list)
        rc = say_refusal(c, methods);
    else if (properties && !params)
        rc = EXIT_USAGE;
    else
        rc = o.watch_s > 0 ? repeat(&o, c, method, params) : once(&o, c, method, params);
    json_decref(params);
    json_decref(methods);
    rpc_client_close(c);
    return rc;
}
