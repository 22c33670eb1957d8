/* SPDX-License-Identifier: Apache-2.0 */
#include "control/budget.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/model.h"
#include "control/plan/search.h"
#include "dataplane/pipeline/proto.h"
#include "dataplane/port.h"

/* --- at start -----------------------------------------------------------------------------------
 */

/* Of what is left beside the least, a port's packets get this part, while the cache wants more. */
#define PACKETS_SHARE 8u

struct room {
    const struct gguf *g;
    const struct need_process *with;
    uint64_t most_bytes; /* of the budget, without the reserve */
};

static uint64_t within(uint64_t budget_bytes)
{
    return (uint64_t)plan_within(PLAN_EDGE_BYTES, (double)budget_bytes);
}

/* What the process is to have at least, but of what is held by a limit of its own the most. */
static struct need_process process_of(const struct budget_plan *b, const struct stage_params *p)
{
    struct need_process with = b->with;

    with.full = true;
    with.packet_bytes = b->ports * b->port_bytes;
    with.logit_rows = proto_wanted_rows(b->sessions, p->max_rows);
    return with;
}

/* Whether one session of the stage fits. */
static bool one_fits(const void *arg, const struct stage_params *p)
{
    const struct room *r = arg;
    struct plan_memory need;
    return need_of(r->g, p, r->with, &need) == 0 && need.bytes <= r->most_bytes;
}

/* The finest format of keys and values with which it would; KV_FORMATS: none that the ladder takes.
 */
static enum kv_format format_that_fits(const struct room *r, const struct stage_params *p)
{
    struct stage_params other = *p;
    for (unsigned f = p->kv_format + 1u; f <= PLAN_KV_LEAST; f++) {
        other.kv_format = (enum kv_format)f;
        if (one_fits(r, &other))
            return other.kv_format;
    }
    return KV_FORMATS;
}

static int refuse(const struct room *r, const struct stage_params *p, uint32_t n_layers,
                  const struct plan_memory *need, uint64_t budget_bytes, char line[BUDGET_LINE])
{
    const uint32_t ctx = need_context(p, one_fits, r), split = need_split(p, n_layers, one_fits, r);
    const enum kv_format kv = format_that_fits(r, p);
    const uint64_t history = need->term[PLAN_HISTORY], others = need->bytes - history;
    char instead[200] = "", terms[NEED_TERMS];
    size_t at = 0;
    if (ctx)
        at += (size_t)snprintf(instead + at, sizeof instead - at, "; --ctx %u would fit", ctx);
    if (split)
        at += (size_t)snprintf(instead + at, sizeof instead - at, "; --split %u would fit", split);
    if (kv < KV_FORMATS)
        at += (size_t)snprintf(instead + at, sizeof instead - at, "; --kv %s would fit",
                               kv_format_name(kv));
    if (history && others <= r->most_bytes)
        snprintf(instead + at, sizeof instead - at, "; --history %llukB would fit",
                 (unsigned long long)(r->most_bytes - others) / 1000);
    snprintf(line, BUDGET_LINE,
             "--memory-budget of %.1f MB: needed are at least %.1f, with one session of the "
             "longest and a reserve of %.0f %%: %s%s",
             (double)budget_bytes * 1e-6,
             plan_limit_for(PLAN_EDGE_BYTES, (double)need->bytes) * 1e-6, PLAN_RESERVE * 1e2,
             need_terms(need, terms), instead);
    return -ENOMEM;
}

/* What is left goes to the cache, and some to packets, which help paths that hold many at once; but
 * a cache whose size was given gets all of that, where it fits. */
static uint64_t more_packets(const struct budget_plan *b, uint64_t left, uint64_t cache_wants,
                             bool cache_given)
{
    const uint64_t most = b->ports * (BUDGET_PORT_BYTES - PLAN_UDP_BYTES);
    uint64_t more = cache_given && cache_wants <= left ? 0 : left / PACKETS_SHARE;

    if (b->port_bytes > PLAN_UDP_BYTES) /* DPDK's are all there from the start */
        return 0;
    if (cache_wants < left && left - cache_wants > more)
        more = left - cache_wants;
    return more < most ? more : most;
}

int budget_start(const struct gguf *g, struct stage_params *p, uint32_t n_layers,
                 struct budget_plan *b, char line[BUDGET_LINE])
{
    const struct need_process with = process_of(b, p);
    struct plan_memory need;
    char err[GGUF_ERR];
    size_t weights, kv_one;
    int rc = need_of(g, p, &with, &need);
    if (rc == 0)
        rc = stage_footprint(g, p, 0, &weights, &kv_one, err);
    if (rc < 0)
        return rc;
    const uint64_t most = within(b->budget_bytes);
    if (need.bytes > most)
        return refuse(&(struct room){g, &with, most}, p, n_layers, &need, b->budget_bytes, line);
    const uint64_t given = p->kv_budget_bytes, left = most - need.bytes;
    const uint64_t all = (uint64_t)kv_one * (p->max_seqs ? p->max_seqs : 1);
    const uint64_t wanted = given ? given : all;
    /* Of the huge pages that one session begins; all that it may come to is whole ones, too. */
    const uint64_t begun = need.term[PLAN_KV] - with.other_formats * PLAN_HUGE_BYTES;
    const uint64_t unit = need.kv_unit_bytes;
    const uint64_t whole = (wanted + unit - 1) / unit * unit;
    const uint64_t packets = more_packets(b, left, whole - begun, given != 0);
    const uint64_t room = (begun + left - packets) / unit * unit;
    p->kv_budget_bytes = wanted < room ? wanted : room;
    b->packet_bytes = b->ports ? with.packet_bytes / b->ports + packets / b->ports : 0;
    return 0;
}

int budget_begin(const struct model *m, struct stage_params *p, struct budget_plan *b)
{
    char line[BUDGET_LINE];
    const int rc = budget_start(m->gguf, p, m->n_layers, b, line);
    if (rc == -ENOMEM)
        log_error("%s", line);
    if (rc == 0) {
        port_packets_limit(b->packet_bytes);
        log_info("memory: of the budget of %.1f MB the cache may take %.1f, packets %.1f",
                 (double)b->budget_bytes * 1e-6, (double)p->kv_budget_bytes * 1e-6,
                 (double)(b->ports * b->packet_bytes) * 1e-6);
    }
    return rc == -ENOMEM ? EXIT_USAGE : EXIT_OK; /* what else is wrong the stage will say */
}

/* --- while it runs ------------------------------------------------------------------------------
 */

/* Parts of a limit. A rung is entered above the first and left below the second. */
#define TIGHT_HISTORY .6
#define COARSE_KV     .6 /* the first step; the others follow at equal distances up to */
#define TIGHT_KV      .8
#define FULL          .95
#define EASE          .1 /* below where it was entered */
/* What is resident hardly falls by what the ladder does, and all that was given away may come to
 * be: the reserve is what tells. */
#define RESIDENT_FULL (1 - PLAN_RESERVE / 2)
#define RESIDENT_EASE (1 - PLAN_RESERVE)
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

void budget_cache(struct budget *b, const struct stage *s, enum kv_format own, uint32_t sessions)
{
    b->kv_one_bytes = stage_seq_bytes_as(s, own, stage_info(s)->n_ctx);
    b->sessions = sessions;
}

enum kv_format budget_kv(const struct budget *b)
{
    return b->kv[b->kv_steps];
}

enum kv_format budget_kv_asked(const struct budget *b)
{
    return b->kv_steps ? budget_kv(b) : KV_F16;
}

static double part(uint64_t of, uint64_t limit)
{
    return limit ? (double)of / (double)limit : 0;
}

static bool is_full(const struct account *a, bool ease)
{
    const double part = ease ? RESIDENT_EASE : RESIDENT_FULL;
    return a->budget_bytes && (double)a->resident_bytes > part * (double)a->budget_bytes;
}

static double kv_part(const struct budget *b, const struct account *a)
{
    const bool all_fit = b->sessions && b->sessions * b->kv_one_bytes <= a->limits[ACCOUNT_KV];
    const bool none_larger = a->kv_busy_bytes <= a->busy * b->kv_one_bytes;

    return all_fit && none_larger ? 0 : part(a->kv_busy_bytes, a->limits[ACCOUNT_KV]);
}

bool budget_is_full(const struct budget *b, const struct account *a)
{
    return is_full(a, b->rung == BUDGET_REFUSE);
}

/* What the account asks for if `ease` is 0; with EASE, whether less would not do yet. */
static enum budget_rung asked(const struct budget *b, const struct account *a, double ease)
{
    const double history = part(a->history_busy_bytes, a->limits[ACCOUNT_HISTORY]);
    const double kv = kv_part(b, a);
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
    const double kv = kv_part(b, a);
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
