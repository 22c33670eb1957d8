/* SPDX-License-Identifier: Apache-2.0 */
#include "control/budget.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/memory.h"
#include "control/model.h"

/* --- at start -----------------------------------------------------------------------------------
 */

#define SCRATCH_BYTES UINT64_C(1000000) /* whatever the rows */

static uint32_t key_u32(const struct gguf *g, const char *arch, const char *name)
{
    char key[96];
    uint32_t v = 0;
    snprintf(key, sizeof key, "%s.%s", arch, name);
    return gguf_u32(g, key, &v) == 0 ? v : 0;
}

/* Activations of a run, as the stage takes them: rows in f32 of the widths that a layer has, and of
 * those that products read int8 or int16 with their scales. */
static uint64_t scratch_bytes(uint32_t d, uint32_t ff, uint32_t kv, uint32_t rows)
{
    const uint64_t widest = ff > d ? ff : d;
    return SCRATCH_BYTES +
           (uint64_t)rows * (4 * (3 * (uint64_t)d + 2 * (uint64_t)kv + 2 * (uint64_t)ff) +
                             widest * 19 / 2 + (uint64_t)d * 25 / 4);
}

struct terms {
    uint64_t weights, kv_one, scratch, logits, history, ports, program;
};

static int terms_of(const struct gguf *g, const struct stage_params *p, const struct budget_plan *b,
                    struct terms *t)
{
    char err[GGUF_ERR], arch[32] = "";
    struct gguf_str s;
    size_t weights, kv;
    const int rc = stage_footprint(g, p, 0, &weights, &kv, err);
    if (rc < 0)
        return rc;
    if (gguf_str(g, "general.architecture", &s) == 0 && s.len < sizeof arch)
        memcpy(arch, s.ptr, s.len);
    const uint32_t d = key_u32(g, arch, "embedding_length");
    const uint32_t ff = key_u32(g, arch, "feed_forward_length");
    const uint32_t heads = key_u32(g, arch, "attention.head_count");
    const uint32_t kv_heads = key_u32(g, arch, "attention.head_count_kv");
    const uint32_t kv_dim = heads ? d / heads * kv_heads : d;
    const struct gguf_tensor *embedding = gguf_find(g, "token_embd.weight");
    const uint32_t n_vocab = b->has_head && embedding ? (uint32_t)embedding->ne[1] : 0;
    *t = (struct terms){
        .weights = weights,
        .kv_one = kv,
        .scratch = scratch_bytes(d, ff, kv_dim, p->max_rows),
        .logits = account_logits(d, n_vocab, p->max_rows, b->sessions),
        .history = b->history_bytes,
        .ports = b->ports_bytes,
        .program = b->program_bytes + BUDGET_GROWTH_BYTES,
    };
    if (p->head == STAGE_HEAD_WITH)
        t->logits += account_hidden(d, p->max_rows, b->sessions);
    return 0;
}

static uint64_t fixed(const struct terms *t)
{
    return t->weights + t->scratch + t->logits + t->history + t->ports + t->program;
}

/* The longest context of one session that the budget has room for; 0: none. */
static uint32_t context_that_fits(const struct gguf *g, const struct stage_params *p, uint64_t left)
{
    char err[GGUF_ERR];
    uint32_t low = 0, high = p->n_ctx ? p->n_ctx : 8192;
    size_t weights, kv;
    while (high - low > 64) {
        const uint32_t middle = low + (high - low) / 2;
        if (stage_footprint(g, p, middle, &weights, &kv, err) == 0 && kv <= left)
            low = middle;
        else
            high = middle;
    }
    return low / 64 * 64;
}

struct room {
    const struct gguf *g;
    const struct budget_plan *plan;
};

/* Whether one session of the stage fits. */
static bool one_fits(const void *arg, const struct stage_params *p)
{
    const struct room *r = arg;
    struct terms t;
    return terms_of(r->g, p, r->plan, &t) == 0 && fixed(&t) + t.kv_one <= r->plan->budget_bytes;
}

/* The finest format of keys and values with which it would; KV_FORMATS: none that the ladder takes.
 */
static enum kv_format format_that_fits(const struct room *r, const struct stage_params *p)
{
    struct stage_params other = *p;
    for (unsigned f = p->kv_format + 1u; f <= BUDGET_KV_LEAST; f++) {
        other.kv_format = (enum kv_format)f;
        if (one_fits(r, &other))
            return other.kv_format;
    }
    return KV_FORMATS;
}

static int refuse(const struct gguf *g, const struct stage_params *p, uint32_t n_layers,
                  const struct budget_plan *b, const struct terms *t, char line[BUDGET_LINE])
{
    const uint64_t rest = fixed(t), left = b->budget_bytes > rest ? b->budget_bytes - rest : 0;
    const uint32_t ctx = context_that_fits(g, p, left),
                   split = memory_split(p, n_layers, one_fits, &(struct room){g, b});
    const enum kv_format kv = format_that_fits(&(struct room){g, b}, p);
    char instead[200] = "";
    size_t at = 0;
    if (ctx)
        at += (size_t)snprintf(instead + at, sizeof instead - at, "; --ctx %u would fit", ctx);
    if (split)
        at += (size_t)snprintf(instead + at, sizeof instead - at, "; --split %u would fit", split);
    if (kv < KV_FORMATS)
        at += (size_t)snprintf(instead + at, sizeof instead - at, "; --kv %s would fit",
                               kv_format_name(kv));
    if (t->history && rest + t->kv_one - t->history <= b->budget_bytes)
        snprintf(
            instead + at, sizeof instead - at, "; --history %llu would fit",
            (unsigned long long)((b->budget_bytes - (rest + t->kv_one - t->history)) / 1000000));
    snprintf(
        line, BUDGET_LINE,
        "--memory-budget of %.1f MB: needed are at least %.1f: weights %.1f, keys and values of "
        "one session of the longest %.1f, scratch %.1f, logits %.1f, histories %.1f, packets "
        "and DPDK %.1f, program %.1f%s",
        (double)b->budget_bytes * 1e-6, (double)(rest + t->kv_one) * 1e-6,
        (double)t->weights * 1e-6, (double)t->kv_one * 1e-6, (double)t->scratch * 1e-6,
        (double)t->logits * 1e-6, (double)t->history * 1e-6, (double)t->ports * 1e-6,
        (double)t->program * 1e-6, instead);
    return -ENOMEM;
}

int budget_start(const struct gguf *g, struct stage_params *p, uint32_t n_layers,
                 const struct budget_plan *b, char line[BUDGET_LINE])
{
    struct terms t;
    const int rc = terms_of(g, p, b, &t);
    if (rc < 0)
        return rc;
    const uint64_t given = p->kv_budget_bytes;
    const uint64_t least = given && given < t.kv_one ? given : t.kv_one;
    if (fixed(&t) + least > b->budget_bytes)
        return refuse(g, p, n_layers, b, &t, line);
    const uint64_t left = b->budget_bytes - fixed(&t);
    const uint64_t all = t.kv_one * (p->max_seqs ? p->max_seqs : 1);
    const uint64_t wanted = given ? given : all;
    p->kv_budget_bytes = wanted < left ? wanted : left;
    return 0;
}

int budget_begin(const struct model *m, struct stage_params *p, const struct budget_plan *b)
{
    char line[BUDGET_LINE];
    const int rc = budget_start(m->gguf, p, m->n_layers, b, line);
    if (rc == -ENOMEM)
        log_error("%s", line);
    else if (rc == 0)
        log_info("memory: of the budget of %.1f MB the cache may take %.1f",
                 (double)b->budget_bytes * 1e-6, (double)p->kv_budget_bytes * 1e-6);
    return rc == -ENOMEM ? EXIT_USAGE : EXIT_OK; /* what else is wrong the stage will say */
}

/* --- while it runs ------------------------------------------------------------------------------
 */

/* Parts of a limit. A rung is entered above the first and left below the second. */
#define TIGHT_HISTORY .6
#define COARSE_KV     .6 /* the first step; the others follow at equal distances up to */
#define TIGHT_KV      .8
#define FULL          .95
#define EASE          .1                /* below where it was entered, */
#define EASE_BYTES    UINT64_C(2000000) /* for what is resident: weights may be most of it */
#define CALM          20u
#define COARSER_MAX   8u

static const char *const rung_names[BUDGET_RUNGS] = {"easy", "coarser activations",
                                                     "coarser keys and values", "shorter contexts",
                                                     "no new sessions"};

const char *budget_rung_name(enum budget_rung r)
{
    return rung_names[r];
}

void budget_formats(struct budget *b, const struct stage_info *info, enum kv_format from,
                    enum kv_format least)
{
    b->kv[0] = from;
    b->kv_most = b->kv_steps = 0;
    for (unsigned f = from + 1u; f <= least && f < KV_FORMATS; f++)
        if (stage_has_kv(info, (enum kv_format)f))
            b->kv[++b->kv_most] = (enum kv_format)f;
}

enum kv_format budget_kv(const struct budget *b)
{
    return b->kv[b->kv_steps];
}

static double part(uint64_t of, uint64_t limit)
{
    return limit ? (double)of / (double)limit : 0;
}

/* What is resident hardly falls by what the ladder does. */
static bool is_full(const struct account *a, bool ease)
{
    const double most = FULL * (double)a->budget_bytes - (ease ? (double)EASE_BYTES : 0);
    return a->budget_bytes && (double)a->resident_bytes > most;
}

bool budget_is_full(const struct budget *b, const struct account *a)
{
    return is_full(a, b->rung == BUDGET_REFUSE);
}

/* What the account asks for if `ease` is 0; with EASE, whether less would not do yet. */
static enum budget_rung asked(const struct budget *b, const struct account *a, double ease)
{
    const double history = part(a->history_busy_bytes, a->limits[ACCOUNT_HISTORY]);
    const double kv = part(a->kv_busy_bytes, a->limits[ACCOUNT_KV]);
    const double full = FULL - ease;
    if (is_full(a, ease > 0) || history > full || kv > full)
        return BUDGET_REFUSE;
    if (kv > TIGHT_KV - ease ||
        (history > TIGHT_HISTORY - ease && (!b->can_coarsen || history > TIGHT_KV - ease)))
        return BUDGET_SHORTER;
    if (b->kv_steps)
        return BUDGET_KV;
    return history > TIGHT_HISTORY - ease ? BUDGET_COARSER : BUDGET_EASY;
}

/* Steps to coarser keys and values that so full a cache asks for. */
static uint32_t steps_asked(const struct budget *b, double kv, double ease)
{
    uint32_t n = 0;
    while (n < b->kv_most && kv > COARSE_KV + (TIGHT_KV - COARSE_KV) * n / b->kv_most - ease)
        n++;
    return n;
}

static void step_kv(struct budget *b, double kv)
{
    const uint32_t now = steps_asked(b, kv, 0);
    if (now > b->kv_steps) {
        b->kv_steps = now;
        b->kv_calm = 0;
    } else if (steps_asked(b, kv, EASE) >= b->kv_steps) {
        b->kv_calm = 0;
    } else if (++b->kv_calm >= CALM) {
        b->kv_steps--;
        b->kv_calm = 0;
    }
}

/* The next rung below that does anything. */
static enum budget_rung rung_below(const struct budget *b)
{
    if (b->rung > BUDGET_SHORTER)
        return BUDGET_SHORTER;
    if (b->rung > BUDGET_KV && b->kv_steps)
        return BUDGET_KV;
    return b->rung > BUDGET_COARSER && b->can_coarsen ? BUDGET_COARSER : BUDGET_EASY;
}

bool budget_look(struct budget *b, const struct account *a)
{
    const struct budget before = *b;
    const double history = part(a->history_busy_bytes, a->limits[ACCOUNT_HISTORY]);
    const double kv = part(a->kv_busy_bytes, a->limits[ACCOUNT_KV]);
    const double all = part(a->resident_bytes, a->budget_bytes);

    step_kv(b, kv);
    const enum budget_rung now = asked(b, a, 0);
    b->fullest = history > kv ? history : kv;
    b->fullest = all > b->fullest ? all : b->fullest;
    if (now > b->rung) {
        b->rung = now;
        b->calm = 0;
    } else if (b->rung == BUDGET_KV ? !b->kv_steps : asked(b, a, EASE) < b->rung) {
        if (b->rung == BUDGET_KV || ++b->calm >= CALM) { /* its steps were left calmly, too */
            b->rung = rung_below(b);
            b->calm = 0;
        }
    } else {
        b->calm = 0;
    }
    /* The fuller the histories, the coarser. */
    b->coarser = 0;
    if (b->can_coarsen && b->rung >= BUDGET_COARSER && history > TIGHT_HISTORY - EASE) {
        const double over = (history - (TIGHT_HISTORY - EASE)) / (FULL - (TIGHT_HISTORY - EASE));
        b->coarser = 1 + (uint32_t)(over * (COARSER_MAX - 1));
        b->coarser = b->coarser < COARSER_MAX ? b->coarser : COARSER_MAX;
    }
    const bool other_kv = b->kv_steps != before.kv_steps;
    b->steps += b->rung != before.rung || other_kv;
    return b->rung != before.rung || b->coarser != before.coarser || other_kv;
}

uint32_t budget_context(const struct budget *b, uint32_t n_ctx)
{
    return b->rung >= BUDGET_SHORTER ? n_ctx / 4 : n_ctx;
}
