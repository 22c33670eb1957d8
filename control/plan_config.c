/* SPDX-License-Identifier: Apache-2.0 */
/* A plan as the two configuration files from which its halves start. */
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "codec/rate.h"
#include "control/adapt/adapt.h"
#include "control/cmd.h"
#include "control/codec_arg.h"
#include "control/log.h"
#include "control/plan_show.h"
#include "control/profile.h"
#include "control/replace_file.h"
#include "dataplane/pipeline/mix.h"
#include "dataplane/port.h"
#include "dataplane/port/uri.h"
#include "dataplane/secure/identity.h"

struct text {
    char bytes[8192];
    size_t len;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *t, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    const int n = vsnprintf(t->bytes + t->len, sizeof t->bytes - t->len, fmt, ap);
    va_end(ap);
    if (n > 0)
        t->len += (size_t)n;
}

/* An absolute path of something that is, or will be, there. */
static void absolute(const char *path, char to[PATH_MAX])
{
    char here[PATH_MAX / 2];

    if (realpath(path, to))
        return;
    if (*path == '/' || !getcwd(here, sizeof here))
        snprintf(to, PATH_MAX, "%s", path);
    else
        snprintf(to, PATH_MAX, "%s/%.*s", here, (int)(PATH_MAX - sizeof here - 2), path);
}

/* Whether a configuration file can hold it: there, a ';' behind a blank begins a comment. */
static int check_path(const char *path)
{
    for (const char *c = path; *c; c++) {
        if ((unsigned char)*c >= ' ' && (*c != ' ' || c[1] != ';'))
            continue;
        log_error("-o: \"%s\": no configuration file can hold such a name", path);
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

/* The key at path, made if there is none: its fingerprint. */
static int key_at(const char *path, char text[FINGERPRINT_TEXT])
{
    struct identity *id = NULL;
    char err[IDENTITY_ERR] = "";
    int rc = 0;

    if (access(path, F_OK) == 0)
        rc = identity_read(path, &id, err);
    else if ((rc = identity_new(&id)) == 0)
        rc = identity_write(id, path, err);
    if (rc == 0)
        fingerprint_format(identity_fingerprint(id), text);
    else
        log_error("%s", err[0] ? err : "cannot make a key: OpenSSL fails");
    identity_close(id);
    return rc == 0 ? EXIT_OK : EXIT_FAILED;
}

struct half {
    const char *name; /* "edge" */
    char folder[PATH_MAX / 2];
    uint32_t layers, threads;
    uint64_t bytes, budget_bytes; /* planned; 0: nothing to keep */
    char peer[FINGERPRINT_TEXT];  /* the other's */
};

static void add_common(struct text *t, const struct plan_paper *p, const struct half *h)
{
    const struct plan *b = &p->a->best;
    const struct plan_codec *c = &p->w->quality->codecs[b->codec];
    char path[PATH_MAX], command[PLAN_COMMAND];

    add(t,
        "; Planned by isthmus %s: %.1f MB of memory, %.2f ms a token, %.0f ms to the first of %u "
        "tokens, KL %.4f\n",
        ISTHMUS_VERSION, (double)h->bytes * 1e-6, b->time.tpot_s * 1e3, b->time.ttft_s * 1e3,
        p->w->prompt && p->w->prompt < b->context ? p->w->prompt : b->context - 1,
        b->metric[PLAN_KL]);
    absolute(p->model, path);
    if (plan_quantize_command(p, b, command)) {
        add(t, "; its weights: %s\n", command);
        snprintf(path, sizeof path, "%s/%s.gguf", h->folder, h->name);
    }
    add(t, "[%s]\nmodel = %s\nsplit = %u\ncodec = %s\n", h->name, path, b->split, c->text);
    if (*c->profile) {
        absolute(c->profile, path);
        add(t, "profile = %s\n", path);
    }
    add(t, "kv = %s\nctx = %u\nkv-budget = %llu\nchunk = %u\nthreads = %u\n", kv_format_name(b->kv),
        b->context,
        (unsigned long long)(b->sessions * plan_kv_bytes(p->w->m, h->layers, b->kv, b->context)),
        b->chunk, h->threads);
    if (h->budget_bytes)
        add(t, "memory-budget = %llu\n", (unsigned long long)h->budget_bytes);
    add(t, "identity = %s/%s.key\npeer = %s\n", h->folder, h->name, h->peer);
}

static int write_half(const struct text *t, const struct half *h)
{
    char path[PATH_MAX];

    if (t->len >= sizeof t->bytes) {
        log_error("%s.ini: its names are too long", h->name);
        return EXIT_FAILED;
    }
    snprintf(path, sizeof path, "%s/%s.ini", h->folder, h->name);
    return replace_file(path, t->bytes, t->len);
}

/* What of the wished limits the edge can hold by itself, as its own options take them. */
struct held {
    double tpot_ms, ttft_ms, kl; /* 0: not this one */
    bool none;                   /* the codec has no coarser quality that the limits leave */
};

static double time_ms(double limit_s, double most_ms)
{
    const double ms = limit_s * 1e3;

    return ms >= .1 && ms <= most_ms ? ms : 0;
}

/* As adapt/steer.h asks it of an edge that starts. */
static int find_held(const struct plan_paper *p, struct held *h)
{
    const struct plan *b = &p->a->best;
    const struct plan_codec *c = &p->w->quality->codecs[b->codec];
    struct codec_profile_curve tsq;
    struct codec_profile *profile = NULL;
    struct codec_params codec;
    struct adapt adapt;
    char err[CODEC_ARG_ERR];

    *h = (struct held){.tpot_ms = time_ms(p->w->limit[PLAN_TPOT], 1e6),
                       .ttft_ms = time_ms(p->w->limit[PLAN_TTFT], 1e7)};
    if (h->tpot_ms + h->ttft_ms == 0 || codec_arg_parse(c->text, &codec, err) < 0)
        return EXIT_OK; /* codecs were proved when they were read */
    if (*c->profile) {
        const int rc = profile_read(c->profile, &profile);
        if (rc != EXIT_OK)
            return rc;
    }
    const struct codec_profile_curve *curve = codec_rate_curve(profile, codec.mode);
    if (curve) /* what weights and cache leave to the rows */
        h->kl = p->w->limit[PLAN_KL] - b->front_kl - b->back_kl - b->kv_kl;
    else if (codec.mode == CODEC_TSQ)
        adapt_tsq_curve(p->w->m->d_model, &tsq);
    const struct adapt_params params = {
        .curve = curve                     ? curve
                 : codec.mode == CODEC_TSQ ? &tsq
                                           : NULL,
        .finest = codec.mode == CODEC_TSQ ? codec.delta : codec.step,
        .max_kl = h->kl,
        .max_tpot_ns = (uint64_t)(h->tpot_ms * 1e6),
        .max_ttft_ns = (uint64_t)(h->ttft_ms * 1e6),
        .chunk_tokens = b->chunk,
        .bulk_rows = MIX_BULK_ROWS,
        .cloud_per_edge = 1,
    };
    h->none = (curve && !(h->kl > 0)) || adapt_init(&adapt, &params) < 0;
    codec_profile_free(profile);
    return EXIT_OK;
}

static void add_held(struct text *t, const struct held *h)
{
    if (h->tpot_ms + h->ttft_ms == 0)
        return;
    if (h->none) {
        add(t, "; this codec has no coarser quality that the limits leave: nothing adapts\n");
        log_info("edge.ini: its codec has no coarser quality that the limits leave: the edge will "
                 "not adapt to hold them");
        return;
    }
    if (h->tpot_ms > 0)
        add(t, "max-tpot = %.6g\n", h->tpot_ms);
    if (h->ttft_ms > 0)
        add(t, "max-ttft = %.6g\n", h->ttft_ms);
    if (h->kl > 0) {
        add(t, "max-kl = %.6g\n", h->kl);
        return;
    }
    add(t, "; no profile says what coarser rows cost: max-kl can't be held while they are sent\n");
    log_warn("edge.ini: to hold the limits of time the edge may send coarser rows than planned, "
             "and without a profile (`isthmus calibrate`) --max-kl does not bound them");
}

static int write_edge(const struct plan_paper *p, const struct half *h)
{
    const struct plan *b = &p->a->best;
    const uint64_t history = plan_history_bytes(b->row.decode_bytes, b->context, b->sessions);
    struct text t = {.len = 0};
    struct held held;
    const int rc = find_held(p, &held);

    if (rc != EXIT_OK)
        return rc;
    add_common(&t, p, h);
    add(&t, "history = %lluB\nport = %s\n", (unsigned long long)history, p->connect);
    if (p->listen) /* sessions stay as they were planned */
        add(&t, "listen = %s\nmax-sessions = %u\nkv-least = %s\n", p->listen, b->sessions,
            kv_format_name(b->kv));
    add_held(&t, &held);
    return write_half(&t, h);
}

static int write_cloud(const struct plan_paper *p, const struct half *h)
{
    struct text t = {.len = 0};

    add_common(&t, p, h);
    add(&t, "max-sessions = %u\nport = %s\n", p->a->best.sessions, p->port);
    return write_half(&t, h);
}

int plan_connect(const char *port, const char *host, char to[PLAN_CONNECT_MAX])
{
    struct port_uri uri, own;
    char err[PORT_ERR], mtu[24] = "";

    if (!port)
        port = PLAN_PORT;
    if (port_uri_parse(port, &uri, err) < 0) {
        log_error("--port: %s", err);
        return EXIT_USAGE;
    }
    if (uri.kind == URI_MEMIF) {
        snprintf(to, PLAN_CONNECT_MAX, "%s", port);
        return EXIT_OK;
    }
    if (uri.kind != URI_UDP) {
        log_error("--port %s does not say how the edge reaches it: say it by --connect, e.g. "
                  "packet:IF,ip=ADDR/LEN,peer=ADDR",
                  port);
        return EXIT_USAGE;
    }
    if (uri.mtu_bytes)
        snprintf(mtu, sizeof mtu, ",mtu=%u", uri.mtu_bytes);
    const char *at = *uri.name ? uri.name : host;
    const bool ipv6 = *uri.name && strchr(at, ':');
    snprintf(to, PLAN_CONNECT_MAX, "udp:%s%s%s:%u%s", ipv6 ? "[" : "", at, ipv6 ? "]" : "",
             uri.port, mtu);
    if (port_uri_parse(to, &own, err) == 0)
        return EXIT_OK;
    log_error("\"%s\", of which the cloud's profile is, is no name to connect to: say where the "
              "cloud is by --connect",
              host);
    return EXIT_USAGE;
}

int plan_write_config(const struct plan_paper *p)
{
    const struct plan *b = &p->a->best;
    struct half edge = {.name = "edge",
                        .layers = b->split,
                        .threads = plan_speed_host(p->w->edge)->threads,
                        .bytes = b->edge.bytes,
                        .budget_bytes = p->edge_budget_bytes};
    struct half cloud = {.name = "cloud",
                         .layers = p->w->m->n_layers - b->split,
                         .threads = plan_speed_host(p->w->cloud)->threads,
                         .bytes = b->cloud.bytes,
                         .budget_bytes = p->cloud_budget_bytes};
    char why[PLAN_ERR], note[PLAN_ERR], path[PATH_MAX], command[PLAN_COMMAND];

    if (!plan_is_runnable(b, why)) {
        log_error("-o: the plan is not runnable: %s", why);
        return EXIT_USAGE;
    }
    int rc = check_path(p->model);
    if (rc == EXIT_OK)
        rc = check_path(p->folder);
    if (rc == EXIT_OK)
        rc = check_path(p->w->quality->codecs[b->codec].profile);
    if (rc != EXIT_OK)
        return rc;
    if (mkdir(p->folder, 0777) < 0 && errno != EEXIST) {
        log_error("%s: %s", p->folder, strerror(errno));
        return EXIT_FAILED;
    }
    absolute(p->folder, path);
    if (strlen(path) >= sizeof edge.folder - 16) {
        log_error("%s: too long a name", path);
        return EXIT_USAGE;
    }
    strcpy(edge.folder, path);
    strcpy(cloud.folder, path);
    snprintf(path, sizeof path, "%s/edge.key", edge.folder);
    rc = key_at(path, cloud.peer);
    snprintf(path, sizeof path, "%s/cloud.key", edge.folder);
    if (rc == EXIT_OK)
        rc = key_at(path, edge.peer);
    if (rc == EXIT_OK)
        rc = write_edge(p, &edge);
    if (rc == EXIT_OK)
        rc = write_cloud(p, &cloud);
    if (rc == EXIT_OK && plan_quantize_command(p, b, command))
        log_info("first: %s%s", command, plan_calibration_note(p, b, note));
    if (rc == EXIT_OK)
        log_info(
            "%s: edge.ini and cloud.ini are written: `isthmus cloud --config %s/cloud.ini`, then "
            "`isthmus edge --config %s/edge.ini`",
            p->folder, p->folder, p->folder);
    return rc;
}
