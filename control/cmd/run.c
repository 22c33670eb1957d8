/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus run`: both halves on this machine, the cloud half as a child; or --local, unsplit. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "codec/cpu.h"
#include "compute/kernels/attend.h"
#include "control/cmd.h"
#include "control/codec_arg.h"
#include "control/config/config.h"
#include "control/front.h"
#include "control/log.h"
#include "control/service/serve.h"

#define CONNECT_NS                                                                                 \
    120000000000u /* the child is watched: this only bounds a cloud that never answers */

#define URI_BYTES 64

enum { OPT_LOCAL = OPT_OWN };

struct run_options {
    struct front_options front;
    struct serve_options serve;
    bool local, insecure;
};

static const struct argp_option options[] = {
    {"local", OPT_LOCAL, NULL, 0, "The whole model in this process, not split", 2},
    {"insecure", OPT_INSECURE, NULL, 0, "Do not encrypt what goes between the halves", 2},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct run_options *o = state->input;
    (void)arg;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->front;
        state->child_inputs[1] = &o->serve;
        return 0;
    case OPT_LOCAL:
        o->local = true;
        return 0;
    case OPT_INSECURE:
        o->insecure = true;
        return 0;
    case ARGP_KEY_END:
        if (o->local)
            split_refuse_local(state, &o->front.split,
                               o->insecure                     ? "--insecure"
                               : o->front.head == HEAD_AT_EDGE ? "--head"
                               : o->front.netem.text           ? "--netem"
                                                     : adapt_option_given(&o->front.adapt));
        serve_check_options(state, &o->serve, &o->front);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {
    {&front_argp, 0, NULL, 0}, {&serve_argp, 0, NULL, 0}, {0}};
const struct argp cmd_run_argp = {
    options,
    parse,
    NULL,
    "Generate text with a model cut in two: the front layers in this process, the back layers in a "
    "second one, compressed activations between them.",
    children,
    NULL,
    NULL,
};

/* identity_fd: of the cloud half's, -1: not encrypted. */
static int start_cloud(struct front *f, const char *uri, const struct model_halves *p,
                       int identity_fd)
{
    const struct front_options *o = f->o;
    char peer[FINGERPRINT_TEXT], identity[16];
    char split[16], codec[CODEC_ARG_MAX], threads[16], core[16], mask[16], ctx[16], parallel[16],
        chunk[16], node[16], budget[24];
    snprintf(split, sizeof split, "%u", f->plan.split);
    snprintf(threads, sizeof threads, "%u", p->threads);
    snprintf(core, sizeof core, "%d", p->cloud_core);
    snprintf(mask, sizeof mask, "%u", o->model.cpu_mask);
    snprintf(ctx, sizeof ctx, "%u", o->model.ctx);
    snprintf(parallel, sizeof parallel, "%u", o->parallel);
    snprintf(chunk, sizeof chunk, "%u", o->chunk_tokens);

    const char *argv[48]; /* all options at once are 43, and a NULL */
    int n = 0;
    const char *fixed[] = {"isthmus",
                           "cloud",
                           "--once",
                           "-m",
                           o->model.path,
                           "--port",
                           uri,
                           "--split",
                           split,
                           "--codec",
                           codec_arg_format(&f->plan.codec, codec),
                           "--threads",
                           threads,
                           "--first-core",
                           core,
                           "--cpu-mask",
                           mask,
                           "--max-sessions",
                           parallel,
                           "--chunk",
                           chunk,
                           "--kv",
                           kv_format_name(o->model.kv)};
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        argv[n++] = fixed[i];
    if (o->model.ctx) {
        argv[n++] = "--ctx";
        argv[n++] = ctx;
    }
    if (o->head == HEAD_AT_EDGE) {
        argv[n++] = "--head";
        argv[n++] = "edge";
    }
    if (o->model.no_memory_check)
        argv[n++] = "--no-memory-check";
    if (o->model.cpus) {
        argv[n++] = "--cpus";
        argv[n++] = o->model.cpus;
    }
    if (o->model.numa_node >= 0) {
        snprintf(node, sizeof node, "%d", o->model.numa_node);
        argv[n++] = "--numa";
        argv[n++] = node;
    }
    if (o->model.mlock)
        argv[n++] = "--mlock";
    if (o->kv_budget_bytes) {
        snprintf(budget, sizeof budget, "%" PRIu64, o->kv_budget_bytes);
        argv[n++] = "--kv-budget";
        argv[n++] = budget;
    }
    if (f->plan.codec.profile) {
        argv[n++] = "--profile";
        argv[n++] = o->split.profile;
    }
    if (o->netem.text) {
        argv[n++] = "--netem";
        argv[n++] = o->netem.text;
    }
    if (identity_fd >= 0) {
        snprintf(identity, sizeof identity, "fd:%d", CHILD_SECRET_FD);
        argv[n++] = "--identity";
        argv[n++] = identity;
        argv[n++] = "--peer";
        argv[n++] = fingerprint_format(identity_fingerprint(f->security.identity), peer);
    } else {
        argv[n++] = "--insecure";
    }
    argv[n] = NULL;
    const int rc = child_start(&f->cloud, (char *const *)argv, identity_fd);
    if (rc < 0) {
        log_error("cannot start the cloud half: %s", strerror(-rc));
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

/* Identities for this run alone; the cloud half gets its own by an inherited file without a name.
 */
static int start_secure_cloud(struct front *f, const char *uri, const struct model_halves *p)
{
    struct security cloud;
    int rc = security_throw_away(&f->security, &cloud);
    const int fd = rc == EXIT_OK ? identity_to_fd(cloud.identity) : -1;
    if (rc == EXIT_OK && fd < 0) {
        log_error("cannot hand the cloud half its key: %s", strerror(-fd));
        rc = EXIT_FAILED;
    }
    if (rc == EXIT_OK)
        rc = start_cloud(f, uri, p, fd);
    if (fd >= 0)
        close(fd);
    security_close(&cloud);
    return rc;
}

/* Of both halves, before either takes any. */
static int check_memory(const struct front *f, uint32_t threads)
{
    struct stage_params edge = front_stage(f, 0, f->plan.split),
                        cloud = front_stage(f, f->plan.split, 0);
    edge.kv_budget_bytes = cloud.kv_budget_bytes = f->o->kv_budget_bytes;
    const struct need_process edge_with = front_process(f, &edge, threads),
                              cloud_with = front_process(f, &cloud, threads);

    return model_check_halves(&f->model, &edge, &edge_with, &cloud, &cloud_with);
}

/* uri: room for the name of the port, which is needed until front_close. *o is what f has, too. */
static int run_split(struct front *f, struct run_options *o, char uri[URI_BYTES])
{
    struct model_options *model = &o->front.model;
    struct model_halves p;
    int rc = front_plan(f);
    if (rc == EXIT_OK)
        rc = model_place_halves(model, &p);
    if (rc == EXIT_OK)
        rc = check_memory(f, p.threads);
    if (rc != EXIT_OK)
        return rc;

    /* An abstract socket under a name nobody can guess: it is gone with its last process. */
    uint64_t name[2];
    if (getrandom(name, sizeof name, 0) != (ssize_t)sizeof name) {
        log_error("no random numbers from the kernel: %s", strerror(errno));
        return EXIT_FAILED;
    }
    snprintf(uri, URI_BYTES, PORT_ARG_OWN "%016" PRIx64 "%016" PRIx64, name[0], name[1]);

    model->threads = p.threads; /* as if asked for: --cpus are for both halves */
    model->first_core = p.edge_core;
    f->security.insecure = o->insecure;
    rc = o->insecure ? start_cloud(f, uri, &p, -1) : start_secure_cloud(f, uri, &p);
    if (rc == EXIT_OK)
        rc = front_join(f,
                        &(struct join_options){.at = {.uris = {uri}, .n = 1},
                                               .connect_ns = CONNECT_NS,
                                               .rights = serve_rights(&o->serve)},
                        p.threads, p.edge_core);
    return rc;
}

static int run_local(struct front *f, const struct run_options *o)
{
    const struct privileges rights = serve_rights(&o->serve);
    const int rc = front_local(f);
    return rc == EXIT_OK ? privileges_drop(&rights) : rc;
}

/* What can be checked without loading weights or opening ports. */
static int check(const struct run_options *o)
{
    config_check_begin();
    int rc = config_check_file("--model", o->front.model.path);
    if (rc == EXIT_OK)
        rc = serve_check(&o->serve);
    if (rc == EXIT_OK)
        rc = front_check(&o->front, NULL, o->local);
    return rc == EXIT_OK ? config_say_good(&o->serve.daemon) : EXIT_USAGE;
}

int cmd_run(int argc, char **argv)
{
    struct run_options o = {.local = false};
    config_parse("run", argc, argv, &o);
    if (o.serve.daemon.check_options)
        return EXIT_OK;
    if (o.serve.daemon.check_config)
        return check(&o);

    char uri[URI_BYTES];
    struct front f;
    int rc = o.serve.listen ? daemon_begin(&o.serve.daemon) : EXIT_OK;
    if (rc != EXIT_OK) {
        daemon_end();
        return rc;
    }
    o.front.both_halves = true;
    rc = front_open(&f, &o.front);
    if (rc == EXIT_OK)
        rc = o.local ? run_local(&f, &o) : run_split(&f, &o, uri);
    if (rc == EXIT_OK)
        rc = o.serve.listen ? serve(&f, &o.serve) : front_answer(&f);
    front_close(&f);
    daemon_end();
    return o.serve.listen && rc == 128 + SIGTERM ? EXIT_OK : rc; /* as when it had begun to serve */
}
