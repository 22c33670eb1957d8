/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus top`: a serving process on one page, again and again. */
#include <argp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/options.h"
#include "control/rpc/client.h"
#include "control/rpc/show.h"
#include "control/signals.h"

enum { OPT_SOCKET = OPT_OWN, OPT_INTERVAL, OPT_ONCE };

#define BAR 20 /* columns */

struct top_options {
    const char *socket;
    double interval_s;
    bool once;
};

static const struct argp_option options[] = {
    {"socket", OPT_SOCKET, "PATH", 0,
     "The control socket: a path, or edge or cloud for where such a one is by default (default: "
     "whichever is there)",
     0},
    {"interval", OPT_INTERVAL, "SECONDS", 0, "Between two looks (default 1)", 0},
    {"once", OPT_ONCE, NULL, 0, "One page of plain lines, of one interval", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct top_options *o = state->input;
    switch (key) {
    case OPT_SOCKET:
        o->socket = arg;
        return 0;
    case OPT_INTERVAL:
        o->interval_s = opt_f64(state, "--interval", arg, .1, 3600);
        return 0;
    case OPT_ONCE:
        o->once = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "%s: top takes options only", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    NULL,
    "Sessions, tokens, link, cache and threads of a serving `isthmus edge` or `isthmus cloud`, "
    "live. q ends it. Where the output is no terminal: plain lines, a block an interval.",
    NULL,
    NULL,
    NULL,
};

/* --- looking ------------------------------------------------------------------------------------
 */

static const char *const asked[] = {"version", "stats",         "link.stats",  "memory",
                                    "threads", "sessions.list", "workers.list"};
enum { VERSION, STATS, LINK, MEMORY, THREADS, SESSIONS, WORKERS, ASKED };

/* What was answered, in the order of asked; NULL where the process has no such method. */
struct look {
    json_t *all; /* owns them */
    const json_t *of[ASKED];
};

static void forget(struct look *l)
{
    json_decref(l->all);
    *l = (struct look){NULL};
}

static int look(struct rpc_client *c, struct look *l)
{
    json_t *batch = json_array(), *answer;
    size_t i;
    for (int k = 0; k < ASKED; k++)
        json_array_append_new(batch, rpc_client_request(k, asked[k], NULL));
    *l = (struct look){.all = rpc_client_ask(c, batch)};
    if (!l->all)
        return EXIT_FAILED;
    json_array_foreach(l->all, i, answer)
    {
        const json_int_t id = json_integer_value(json_object_get(answer, "id"));
        if (id >= 0 && id < ASKED)
            l->of[id] = json_object_get(answer, "result");
    }
    if (l->of[STATS])
        return EXIT_OK;
    const json_t *error = json_object_get(json_array_get(l->all, STATS), "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    log_error("%s: %s", rpc_client_path(c), message ? message : "no figures");
    forget(l);
    return EXIT_FAILED;
}

static double number(const json_t *o, const char *name)
{
    return json_number_value(json_object_get(o, name));
}

static const char *text(const json_t *o, const char *name)
{
    const char *t = json_string_value(json_object_get(o, name));
    return t ? t : "";
}

/* --- the page -----------------------------------------------------------------------------------
 */

/* How fast a count of stats grew between two looks. */
static double rate(const struct look *before, const struct look *now, const char *name)
{
    const double s = number(now->of[STATS], "now_s") - number(before->of[STATS], "now_s");
    return s > 0 ? (number(now->of[STATS], name) - number(before->of[STATS], name)) / s : 0;
}

static void duration(double s, char *to, size_t room)
{
    const unsigned n = (unsigned)s;
    if (n < 3600)
        snprintf(to, room, "%u:%02u", n / 60, n % 60);
    else if (n < 86400)
        snprintf(to, room, "%u:%02u:%02u", n / 3600, n / 60 % 60, n % 60);
    else
        snprintf(to, room, "%u d %u:%02u", n / 86400, n / 3600 % 24, n / 60 % 60);
}

static void head(FILE *f, const struct look *l)
{
    char up[32], model[SHOW_CELL];
    const json_t *version = l->of[VERSION];
    const char *path = strrchr(text(version, "model"), '/');
    rpc_show_cell("", json_object_get(version, "model"), model);
    duration(number(version, "uptime_s"), up, sizeof up);
    fprintf(f, "isthmus %s %s, process %.0f, up %s: %s, %s\n", text(version, "what"),
            text(version, "version"), number(version, "pid"), up, text(l->of[STATS], "health"),
            path ? path + 1 : model);
}

static void latency(FILE *f, const char *what, const json_t *h)
{
    if (number(h, "n") > 0)
        fprintf(f, "   %s %.1f ms, p99 %.1f ms", what, 1e3 * number(h, "p50_s"),
                1e3 * number(h, "p99_s"));
}

static void requests(FILE *f, const struct look *before, const struct look *l)
{
    const json_t *s = l->of[STATS];
    fprintf(f, "sessions %.0f of %.0f", number(s, "running"), number(s, "max_sessions"));
    if (json_object_get(s, "waiting"))
        fprintf(f, ", waiting %.0f", number(s, "waiting"));
    fprintf(f, "   tokens/s %.1f", rate(before, l, "generated_tokens"));
    if (json_object_get(s, "prompt_tokens"))
        fprintf(f, ", of prompts %.1f", rate(before, l, "prompt_tokens"));
    if (json_object_get(s, "requests"))
        fprintf(f, "   requests %.0f, lost %.0f, rejected %.0f", number(s, "requests"),
                number(s, "lost"), number(s, "rejected"));
    fputc('\n', f);
    if (number(json_object_get(s, "time_to_first_token"), "n") > 0) {
        fprintf(f, "latency");
        latency(f, "first token", json_object_get(s, "time_to_first_token"));
        latency(f, "between tokens", json_object_get(s, "inter_token_latency"));
        fputc('\n', f);
    }
}

static void show_link(FILE *f, const struct look *before, const struct look *l)
{
    char buf[SHOW_CELL];
    const json_t *s = l->of[STATS], *link = l->of[LINK];
    if (!json_is_object(link)) {
        if (!link)
            fprintf(f, "link     none: the whole model is there\n");
        return;
    }
    const bool of_cloud = !json_object_get(link, "bytes_per_token"); /* it knows no rows' sizes */
    fprintf(f, "link     %s, %s   ", text(link, "port"), text(link, "cipher"));
    if (json_is_number(json_object_get(link, "rtt_ms")))
        fprintf(f, "RTT %.3f ms   ", number(link, "rtt_ms"));
    fprintf(f, "loss %.2f %%   %s %.0f   %s/s\n", 100 * number(link, "loss"),
            of_cloud ? "wire bytes/answered token" : "bytes/token",
            number(link, of_cloud ? "wire_bytes_per_answer_token" : "bytes_per_token"),
            rpc_show_bytes(rate(before, l, "wire_bytes"), buf));
    if (number(s, "reconnections") > 0)
        fprintf(f, "         %.0f reconnections\n", number(s, "reconnections"));
}

static void memory(FILE *f, const struct look *l)
{
    char held[SHOW_CELL], of[SHOW_CELL], rss[SHOW_CELL];
    const json_t *s = l->of[STATS];
    const double kv = number(s, "kv_bytes"), budget = number(s, "kv_budget_bytes");
    const int full = budget > 0 ? (int)(BAR * kv / budget + .5) : 0;
    fprintf(f, "KV       [%.*s%.*s] %s of %s", full > BAR ? BAR : full, "####################",
            full > BAR ? 0 : BAR - full, "....................", rpc_show_bytes(kv, held),
            rpc_show_bytes(budget, of));
    if (l->of[MEMORY])
        fprintf(f, "   resident %s", rpc_show_bytes(number(l->of[MEMORY], "rss_bytes"), rss));
    fputc('\n', f);
}

static double cpu_before(const struct look *before, json_int_t tid)
{
    const json_t *t, *list = json_object_get(before->of[THREADS], "threads");
    size_t i;
    json_array_foreach(list, i, t)
    {
        if (json_integer_value(json_object_get(t, "tid")) == tid)
            return number(t, "cpu_s");
    }
    return 0;
}

static void threads(FILE *f, const struct look *before, const struct look *l)
{
    const json_t *t, *list = json_object_get(l->of[THREADS], "threads");
    const double s = number(l->of[THREADS], "now_s") - number(before->of[THREADS], "now_s");
    size_t i;
    char buf[SHOW_CELL];
    json_array_foreach(list, i, t)
    {
        const double used =
            number(t, "cpu_s") - cpu_before(before, json_integer_value(json_object_get(t, "tid")));
        fprintf(f, "%s%-16s %5.1f %% on CPU %.0f\n", i ? "         " : "threads  ",
                rpc_show_cell("", json_object_get(t, "name"), buf), s > 0 ? 100 * used / s : 0,
                number(t, "cpu"));
    }
}

static void table(FILE *f, const char *what, const json_t *list)
{
    if (!json_array_size(list))
        return;
    fprintf(f, "\n%s\n", what);
    rpc_show(f, list);
}

/* malloc'd; NULL: out of memory. */
static char *page(const struct look *before, const struct look *l)
{
    char *to = NULL;
    size_t n;
    FILE *f = open_memstream(&to, &n);
    if (!f)
        return NULL;
    head(f, l);
    requests(f, before, l);
    show_link(f, before, l);
    memory(f, l);
    threads(f, before, l);
    table(f, "workers", l->of[WORKERS]);
    table(f, "sessions", l->of[SESSIONS]);
    return fclose(f) == 0 ? to : NULL;
}

/* --- a terminal ---------------------------------------------------------------------------------
 */

static volatile sig_atomic_t resized;
static struct termios before_raw;

static void on_resize(int sig)
{
    (void)sig;
    resized = 1;
}

static void raw(bool on)
{
    struct termios t = before_raw;
    t.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    if (isatty(STDIN_FILENO))
        tcsetattr(STDIN_FILENO, TCSANOW, on ? &t : &before_raw);
    /* The other screen, so that what was there before comes back; no cursor. */
    fputs(on ? "\033[?1049h\033[?25l" : "\033[?25h\033[?1049l", stdout);
    fflush(stdout);
}

/* Letters of a line that fit, as bytes. */
static size_t fitting(const char *line, size_t bytes, unsigned columns)
{
    size_t at = 0;
    for (unsigned n = 0; at < bytes; at++) {
        n += ((unsigned char)line[at] & 0xc0) != 0x80;
        if (n > columns)
            break;
    }
    return at;
}

static void draw(const char *text_)
{
    struct winsize w = {.ws_row = 24, .ws_col = 80};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) < 0 || !w.ws_row || !w.ws_col)
        w = (struct winsize){.ws_row = 24, .ws_col = 80};
    fputs("\033[H", stdout);
    for (unsigned row = 0; row < w.ws_row; row++) {
        const size_t n = strcspn(text_, "\n");
        fwrite(text_, 1, fitting(text_, n, w.ws_col), stdout);
        text_ += n + (text_[n] == '\n');
        fputs(row + 1 < w.ws_row ? "\033[K\n" : "\033[K", stdout);
    }
    fflush(stdout);
}

/* A pause in which q may come. True: it, or a signal, did. */
static bool wait_keys(double seconds)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    const double end = (double)now.tv_sec + (double)now.tv_nsec / 1e9 + seconds;
    bool keys = isatty(STDIN_FILENO);
    while (!signals_caught() && !resized) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        const double left = end - (double)now.tv_sec - (double)now.tv_nsec / 1e9;
        if (left <= 0)
            break;
        struct pollfd in = {STDIN_FILENO, POLLIN, 0};
        char key = 0;
        if (poll(&in, keys, (int)(left * 1e3) + 1) <= 0)
            continue;
        if (read(STDIN_FILENO, &key, 1) <= 0)
            keys = false;
        if (key == 'q' || key == 'Q')
            return true;
    }
    return signals_caught();
}

/* --- the command --------------------------------------------------------------------------------
 */

static int show(const char *text_, bool tty, bool first)
{
    if (!text_) {
        log_error("out of memory");
        return EXIT_FAILED;
    }
    if (tty)
        draw(text_);
    else
        printf("%s%s", first ? "" : "\n", text_);
    return rpc_show_flush();
}

static int watch(struct rpc_client *c, const struct top_options *o, bool tty)
{
    struct look before, now = {NULL};
    int rc = look(c, &before);
    bool ends = rc != EXIT_OK, first = true;
    if (tty && rc == EXIT_OK) { /* at once, with rates of nothing */
        char *p = page(&before, &before);
        rc = show(p, tty, true);
        free(p);
    }
    while (rc == EXIT_OK && !ends) {
        ends = wait_keys(o->interval_s) && tty;
        if (ends || signals_caught())
            break;
        resized = 0;
        rc = look(c, &now);
        if (rc != EXIT_OK)
            break;
        char *p = page(&before, &now);
        rc = show(p, tty, first);
        free(p);
        first = false;
        forget(&before);
        before = now;
        now = (struct look){NULL};
        ends = o->once;
    }
    forget(&before);
    return rc;
}

int cmd_top(int argc, char **argv)
{
    struct top_options o = {.interval_s = 1};
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    struct rpc_client *c = NULL;
    int rc = rpc_client_open(o.socket, &c);
    if (rc != EXIT_OK)
        return rc;

    const char *terminal = getenv("TERM");
    const bool dumb = terminal && strcmp(terminal, "dumb") == 0; /* it knows no escape sequences */
    const bool tty = isatty(STDOUT_FILENO) && !dumb && !o.once;
    const struct sigaction action = {.sa_handler = on_resize};
    signals_catch();
    sigaction(SIGWINCH, &action, NULL);
    if (tty) {
        tcgetattr(STDIN_FILENO, &before_raw);
        raw(true);
    }
    rc = watch(c, &o, tty);
    if (tty)
        raw(false);
    if (tty && rc != EXIT_OK) /* what was said went with the page */
        log_error("%s: no more is to be had there", rpc_client_path(c));
    rpc_client_close(c);
    return rc;
}
