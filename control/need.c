/* SPDX-License-Identifier: Apache-2.0 */
#include "control/need.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control/memory.h"

#define CTX_STEP     64u
#define CTX_MAX      (1u << 20)
#define CTX_DEFAULT  8192u /* as compute/stage.h says, and */
#define ROWS_DEFAULT 128u

/* --- the account ----------------------------------------------------------------------------- */

/* A stage that is asked for again and again, of other layers or contexts. */
struct ask {
    const struct gguf *g;
    const struct need_process *with;
    struct plan_model m; /* its sizes */
    uint64_t there;
};

static int begin(const struct gguf *g, const struct need_process *with, struct ask *a)
{
    char err[GGUF_ERR];

    *a = (struct ask){.g = g, .with = with};
    return plan_model_sizes(g, &a->m, err);
}

static bool has_head(const struct stage_params *p, uint32_t end, uint32_t n_layers)
{
    return p->head == STAGE_HEAD_WITH || (p->head == STAGE_HEAD_OWN && end == n_layers);
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t history(const struct ask *a, uint32_t ctx)
{
    const struct need_process *with = a->with;

    if (with->full || !with->history_bytes)
        return with->history_bytes;
    return smaller(with->history_bytes, (uint64_t)codec_bound(with->codec, 1, a->m.d_model) * ctx);
}

/* kv_one: the cache of one session of the longest. */
static int take(const struct ask *a, const struct stage_params *p, size_t *kv_one,
                struct plan_memory *need)
{
    const struct need_process *with = a->with;
    const struct plan_model *m = &a->m;
    const uint32_t end = p->end_layer ? p->end_layer : m->n_layers;
    const uint32_t ctx = p->n_ctx ? p->n_ctx : (uint32_t)smaller(m->n_ctx, CTX_DEFAULT);
    char err[GGUF_ERR];
    size_t weights;
    const int rc = stage_footprint(a->g, p, 0, &weights, kv_one, err);

    if (rc)
        return rc;
    const struct plan_process process = {
        .faces_users = with->faces_users,
        .serves = with->serves,
        .layers = end - p->first_layer,
        .weight_bytes = weights, /* with the head's */
        .kv_layers = end - p->first_layer,
        .kv = p->kv_format,
        .other_formats = with->other_formats,
        .kv_bytes = p->kv_budget_bytes ? smaller(p->kv_budget_bytes, *kv_one) : *kv_one,
        .rows = p->max_rows ? p->max_rows : ROWS_DEFAULT,
        .context = ctx,
        .threads = with->threads ? with->threads : 1,
        .logit_rows = !has_head(p, end, m->n_layers) ? 0
                      : with->logit_rows             ? with->logit_rows
                                                     : 1,
        .profile = with->codec && with->codec->profile,
        .history_bytes = history(a, ctx),
        .packet_bytes = with->packet_bytes,
    };
    plan_memory_process(m, &process, need);
    return 0;
}

int need_of(const struct gguf *g, const struct stage_params *p, const struct need_process *with,
            struct plan_memory *need)
{
    struct ask a;
    size_t kv_one;
    const int rc = begin(g, with, &a);

    return rc ? rc : take(&a, p, &kv_one, need);
}

char *need_terms(const struct plan_memory *need, char to[NEED_TERMS])
{
    size_t at = 0;

    *to = '\0';
    for (unsigned t = 0; t < PLAN_MEMORY_TERMS && at < NEED_TERMS; t++)
        if (need->term[t] >= 50000) /* what is not 0.0 */
            at += (size_t)snprintf(to + at, NEED_TERMS - at, "%s%s %.1f", at ? ", " : "",
                                   plan_memory_term_name((enum plan_memory_term)t),
                                   (double)need->term[t] * 1e-6);
    return to;
}

/* --- what would fit instead ------------------------------------------------------------------ */

uint32_t need_context(const struct stage_params *p,
                      bool (*has_room)(const void *arg, const struct stage_params *p),
                      const void *arg)
{
    uint32_t low = 0, high = CTX_MAX;

    while (high - low > CTX_STEP) {
        struct stage_params q = *p;
        q.n_ctx = low + (high - low) / 2;
        if (has_room(arg, &q))
            low = q.n_ctx;
        else
            high = q.n_ctx;
    }
    return low / CTX_STEP * CTX_STEP;
}

uint32_t need_split(const struct stage_params *p, uint32_t n_layers,
                    bool (*has_room)(const void *arg, const struct stage_params *p),
                    const void *arg)
{
    for (uint32_t layers = n_layers - 1; layers > 0; layers--) {
        struct stage_params q = *p;
        if (p->first_layer == 0)
            q.end_layer = layers;
        else
            q.first_layer = n_layers - layers;
        if (has_room(arg, &q))
            return p->first_layer == 0 ? layers : n_layers - layers;
    }
    return 0;
}

static bool fits_there(const void *arg, const struct stage_params *p)
{
    const struct ask *a = arg;
    struct plan_memory need;
    size_t kv_one;

    return take(a, p, &kv_one, &need) == 0 && need.bytes <= a->there;
}

/* A half of what is not split yet: with UDP's packets, and histories of rows as long as f16's. */
static struct need_process half_of(const struct need_process *with)
{
    static const struct codec_params f16 = {.mode = CODEC_F16};
    struct need_process half = *with;

    if (with->codec)
        return half;
    half.codec = &f16;
    half.packet_bytes = PLAN_UDP_BYTES;
    half.history_bytes = UINT64_MAX;
    return half;
}

int need_fits(const struct gguf *g, const struct stage_params *p, const struct need_process *with,
              uint64_t there, char line[NEED_LINE])
{
    struct plan_memory need;
    struct ask a;
    size_t kv_one;
    int rc = begin(g, with, &a);

    if (rc == 0)
        rc = take(&a, p, &kv_one, &need);
    if (rc || need.bytes <= there)
        return rc;
    const struct need_process half = half_of(with);
    struct ask cut = a;
    cut.with = &half;
    a.there = cut.there = there;
    const uint32_t end = p->end_layer ? p->end_layer : a.m.n_layers,
                   ctx = need_context(p, fits_there, &a),
                   split = need_split(p, a.m.n_layers, fits_there, &cut);
    char instead[160] = "no part of it fits here", terms[NEED_TERMS];
    size_t at = 0;
    if (ctx)
        at = (size_t)snprintf(instead, sizeof instead, "--ctx %u would fit%s", ctx,
                              split ? "; or " : "");
    if (split)
        snprintf(instead + at, sizeof instead - at, "--split %u is the %s", split,
                 p->first_layer == 0 ? "most that fits here as an edge"
                                     : "least that leaves a cloud here few enough layers");
    snprintf(line, NEED_LINE,
             "%s: layers %u to %u need %.1f MB of memory (%s), and %.1f MB are there: %s",
             gguf_path(g), p->first_layer, end - 1, (double)need.bytes * 1e-6,
             need_terms(&need, terms), (double)there * 1e-6, instead);
    return -ENOMEM;
}

size_t need_cache(const struct gguf *g, const struct stage_params *p,
                  const struct need_process *with, uint64_t there)
{
    struct plan_memory need;
    struct ask a;
    size_t kv_one;

    if (begin(g, with, &a) || take(&a, p, &kv_one, &need))
        return 0;
    const uint64_t all = (uint64_t)kv_one * (p->max_seqs ? p->max_seqs : 1);
    const uint64_t taken = need.bytes - need.term[PLAN_KV];
    const uint64_t left = there > taken ? there - taken : 0;
    return left >= all ? 0 : left > kv_one ? left : kv_one;
}

/* --- at a start ------------------------------------------------------------------------------ */

static bool skip;

void need_check_skip(void)
{
    skip = true;
}

int need_check(const struct gguf *g, const struct stage_params *p, const struct need_process *with,
               uint64_t *there, char line[NEED_LINE])
{
    *there = memory_for_us();
    return skip || *there == 0 ? 0 : need_fits(g, p, with, *there, line);
}

int need_check_pair(const struct need_half *edge, const struct need_half *cloud,
                    char line[NEED_LINE])
{
    const uint64_t there = memory_for_us();
    char front_terms[NEED_TERMS], back_terms[NEED_TERMS];
    struct plan_memory front, back;
    int rc = need_of(edge->g, edge->p, edge->with, &front);

    if (rc == 0)
        rc = need_of(cloud->g, cloud->p, cloud->with, &back);
    if (rc || skip || there == 0)
        return rc;
    const uint64_t both = front.bytes + back.bytes - PLAN_CODE_BYTES;
    if (both <= there)
        return 0;
    const bool apart = edge->g != cloud->g;
    snprintf(line, NEED_LINE,
             "%s%s%s: both halves need %.1f MB of memory (the edge: %s; the cloud: %s; less %.1f "
             "of code, which they share), and %.1f MB are there: a smaller --ctx, or the halves on "
             "two hosts",
             gguf_path(edge->g), apart ? " and " : "", apart ? gguf_path(cloud->g) : "",
             (double)both * 1e-6, need_terms(&front, front_terms), need_terms(&back, back_terms),
             (double)PLAN_CODE_BYTES * 1e-6, (double)there * 1e-6);
    return -ENOMEM;
}
