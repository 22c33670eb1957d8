/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus profile`: what a host does with a model, or what a link carries, as a file for `plan`.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/measure/measure.h"
#include "control/plan_file.h"
#include "control/replace_file.h"
#include "control/signals.h"
#include "dataplane/port/uri.h"

enum { OPT_DEPTH = OPT_OWN, OPT_TIME, OPT_SHOW, OPT_FINGERPRINT };

struct profile_options {
    struct security_options security;
    struct netem_options netem;
    struct model_options model;
    const char *port, *out, *show;
    bool fingerprint;
    uint32_t depth;
    double time_s;
};

static const struct argp_option options[] = {
    {"model", 'm', "FILE", 0, "This host, with this model: a GGUF file", 1},
    {"threads", OPT_THREADS, "N", 0, "Compute threads, as edge or cloud will have (default 1)", 1},
    {"first-core", OPT_FIRST_CORE, "N", 0,
     "First of the allowed cores to pin threads to; -1: do not pin (default 0)", 1},
    {"depth", OPT_DEPTH, "N", 0, "Tokens of cache at which attention is measured (default 1024)",
     1},
    {"port", OPT_PORT, "URI", 0,
     "Instead of -m: the link to the `isthmus bench transport --listen` that answers there, as an "
     "edge's --port would be",
     2},
    {"time", OPT_TIME, "S", 0,
     "Seconds for each thing that is measured (default .15 of a host, 2 of a link)", 3},
    {"out", 'o', "FILE", 0, "The profile to be written", 3},
    {"show", OPT_SHOW, "FILE", 0, "Instead: say what a profile holds", 3},
    {"fingerprint", OPT_FINGERPRINT, NULL, 0,
     "With -m, instead: print the fingerprint by which profiles and tables know the model", 3},
    {0},
};

static void check_port(struct argp_state *state, const char *text)
{
    struct port_uri uri;
    char err[PORT_ERR];

    if (port_uri_parse(text, &uri, err) < 0)
        argp_error(state, "--port: %s", err);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct profile_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->netem;
        state->child_inputs[1] = &o->security;
        return 0;
    case 'm':
        o->model.path = arg;
        return 0;
    case OPT_THREADS:
        o->model.threads = opt_u32(state, "--threads", arg, 1, 1024);
        return 0;
    case OPT_FIRST_CORE:
        o->model.first_core =
            strcmp(arg, "-1") == 0 ? -1 : (int)opt_u32(state, "--first-core", arg, 0, 4095);
        return 0;
    case OPT_DEPTH:
        o->depth = opt_u32(state, "--depth", arg, 128, 1u << 20);
        return 0;
    case OPT_PORT:
        check_port(state, arg);
        o->port = arg;
        return 0;
    case OPT_TIME:
        o->time_s = opt_f64(state, "--time", arg, .01, 3600);
        return 0;
    case 'o':
        o->out = arg;
        return 0;
    case OPT_SHOW:
        o->show = arg;
        return 0;
    case OPT_FINGERPRINT:
        o->fingerprint = true;
        return 0;
    case ARGP_KEY_END:
        if (!!o->model.path + !!o->port + !!o->show != 1)
            argp_error(state,
                       "give one of -m FILE (this host), --port URI (a link) and --show FILE");
        if (o->fingerprint && !o->model.path)
            argp_error(state, "--fingerprint is of a model: -m FILE");
        if (!o->show && !o->out && !o->fingerprint)
            argp_error(state, "-o FILE is missing: where the profile goes");
        if (!o->port && (o->security.identity || o->security.n_peers || o->netem.text))
            argp_error(state, "--identity, --peer and --netem are for --port");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {
    {&netem_argp, 0, NULL, 4},
    {&security_argp, 0, NULL, 4},
    {0},
};

static const struct argp argp = {
    options,
    parse,
    NULL,
    "Measure this host with a model - steps of its layers and head by rows, attention by the "
    "cache's "
    "format, products by storage, bounds, memory - or a link - rates, round trip, loss - into a "
    "small "
    "file from which `isthmus plan` computes. Nothing else should run meanwhile.",
    children,
    NULL,
    NULL,
};

/* --- the two kinds -----------------------------------------------------------------------------
 */

static int write_text(const char *path, char *text)
{
    int rc = EXIT_FAILED;

    if (text)
        rc = replace_file(path, text, strlen(text));
    else
        log_error("out of memory");
    free(text);
    return rc;
}

/* Whether all that was printed went where it should. */
static int end_output(void)
{
    if (fflush(stdout) != EOF && !ferror(stdout))
        return EXIT_OK;
    log_error("stdout: %s", strerror(errno));
    return EXIT_FAILED;
}

static int profile_host(const struct profile_options *o)
{
    struct plan_model shapes = {.layers = NULL};
    struct progress progress;
    struct plan_host h;
    struct model m;
    char err[GGUF_ERR] = "";
    int rc = model_open(o->model.path, false, &m);

    if (rc != EXIT_OK)
        return rc;
    if (plan_model_read(m.gguf, &shapes, err) < 0) {
        log_error("%s", err);
        rc = EXIT_USAGE;
    }
    if (rc == EXIT_OK && o->fingerprint) {
        puts(shapes.fingerprint);
        rc = end_output();
    } else if (rc == EXIT_OK) {
        const uint32_t most = shapes.n_ctx > 256 ? shapes.n_ctx - 128 : shapes.n_ctx / 2;
        const struct measure_params p = {
            .m = &m,
            .shapes = &shapes,
            .options = &o->model,
            .depth = o->depth < most ? o->depth : most,
            .time_s = o->time_s > 0 ? o->time_s : .15,
            .progress = &progress,
        };
        signals_catch();
        progress_start(&progress, "profile", MEASURE_STEPS);
        rc = measure_host(&p, &h);
        progress_clear(&progress);
    }
    if (rc == EXIT_OK && !o->fingerprint)
        rc = write_text(o->out, plan_host_format(&h));
    plan_model_free(&shapes);
    model_close(&m);
    return rc;
}

static int profile_link(const struct profile_options *o)
{
    const struct measure_link_params p = {
        .uri = o->port,
        .security = &o->security,
        .netem = &o->netem,
        .time_s = o->time_s > 0 ? o->time_s : 2,
    };
    struct plan_link l;

    security_begin(&o->security);
    const int rc = measure_link(&p, &l);
    return rc == EXIT_OK ? write_text(o->out, plan_link_format(&l)) : rc;
}

/* --- showing -------------------------------------------------------------------------------------
 */

/* Nanoseconds of a thousand multiply-adds. */
static void show_product(const struct plan_host *h, const char *name, const double *s)
{
    printf("| %s |", name);
    for (uint32_t k = 0; k < h->n_rows; k++)
        printf(" %.2f |", s[k] * h->threads * 1e12);
    putchar('\n');
}

static void show_products(const struct plan_host *h)
{
    printf("\n| 1000 multiply-adds of a core, ns, by rows |");
    for (uint32_t k = 0; k < h->n_rows; k++)
        printf(" %u |", h->rows[k]);
    printf("\n|---|");
    for (uint32_t k = 0; k < h->n_rows; k++)
        printf("---:|");
    putchar('\n');
    for (uint32_t i = 0; i < h->n_types; i++)
        show_product(h, qtype_info(h->types[i].type)->name, h->types[i].s);
    for (unsigned s = 0; s < PLAN_SCHEMES; s++)
        if (h->scheme_s[s][0] > 0)
            show_product(h, plan_scheme_name((enum plan_scheme)s), h->scheme_s[s]);
}

static void show_host(const struct plan_host *h)
{
    printf("host %s, %s, %s, %u threads, %.0f MB of memory; isthmus %s (%s); model %s\n", h->host,
           h->cpu, h->isa, h->threads, (double)h->memory_bytes * 1e-6, h->version, h->commit,
           h->model);
    printf("reads %.1f GB/s, multiplies %.0f GOP/s, wakes in %.0f us, beside another %.2f times as "
           "slow\n",
           h->dram_bytes_per_s * 1e-9, h->int8_ops_per_s * 1e-9, h->wake_s * 1e6, h->beside);
    printf("decode after another's weights in the caches %.2f times as slow\n", h->evicted);
    printf("\n| rows |");
    for (uint32_t i = 0; i < h->n_stages; i++)
        printf(" %u layers, ms; rested |", h->stages[i].layers);
    printf(" head, ms |\n|---:|");
    for (uint32_t i = 0; i <= h->n_stages; i++)
        printf("---:|");
    putchar('\n');
    for (uint32_t k = 0; k < h->n_rows; k++) {
        printf("| %u |", h->rows[k]);
        for (uint32_t i = 0; i < h->n_stages; i++)
            printf(" %.3f; %.3f |", h->stages[i].s[k] * 1e3, h->stages[i].rested_s[k] * 1e3);
        printf(" %.3f |\n", h->head_s[k] * 1e3);
    }
    show_products(h);
}

static int show(const char *path)
{
    char err[PLAN_ERR], *text;
    size_t len;
    struct plan_host h;
    struct plan_link l;
    int rc = plan_file_read(path, &text, &len);

    if (rc != EXIT_OK)
        return rc;
    if (plan_link_parse(text, len, path, &l, err) == 0)
        printf("from %s to %s: %.3f Mbit/s up, %.3f down, round trip %.3f ms, %.2f %% lost, MTU "
               "%u; isthmus %s (%s)\n",
               l.host, l.peer, l.up_bits_per_s * 1e-6, l.down_bits_per_s * 1e-6, l.rtt_s * 1e3,
               l.loss * 100, l.mtu_bytes, l.version, l.commit);
    else if (memmem(text, len, "isthmus-link", strlen("isthmus-link")))
        rc = EXIT_USAGE; /* one that can't be read: err is of it */
    else if (plan_host_parse(text, len, path, &h, err) == 0)
        show_host(&h);
    else
        rc = EXIT_USAGE;
    free(text);
    if (rc != EXIT_OK) {
        log_error("%s", err);
        return rc;
    }
    return end_output();
}

int cmd_profile(int argc, char **argv)
{
    struct profile_options o = {
        .depth = 1024,
        .model = {.first_core = INT32_MIN, .numa_node = -1, .cpu_mask = ~0u},
    };
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    if (o.show)
        return show(o.show);
    const int rc = o.fingerprint ? EXIT_OK : replace_file_check(o.out);
    if (rc != EXIT_OK)
        return rc;
    return o.port ? profile_link(&o) : profile_host(&o);
}
