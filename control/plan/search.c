/* SPDX-License-Identifier: Apache-2.0 */
#include "control/plan/search.h"

#include <errno.h>
#include <math.h>
#include <string.h>

/* --- one configuration ------------------------------------------------------------------------ */

static struct plan_memory_case memory_case(const struct plan_wish *w, const struct plan *p)
{
    return (struct plan_memory_case){
        .split = p->split,
        .front = p->front,
        .back = p->back,
        .kv = p->kv,
        .home = p->home,
        .context = p->context,
        .sessions = p->sessions,
        .edge_chunk = p->chunk,
        .cloud_chunk = p->chunk,
        .edge_threads = plan_speed_host(w->edge)->threads,
        .cloud_threads = plan_speed_host(w->cloud)->threads,
        .row_bytes = p->row.decode_bytes,
        .profile = w->quality->codecs[p->codec].profile[0] != 0,
        .port = w->port,
        .rx_queues = w->rx_queues,
    };
}

static struct plan_latency_case latency_case(const struct plan_wish *w, const struct plan *p)
{
    const uint32_t longest = p->context > 1 ? p->context - 1 : 1;

    return (struct plan_latency_case){
        .edge = w->edge,
        .cloud = w->cloud,
        .link = w->link,
        .beside = w->beside,
        .split = p->split,
        .front = p->front,
        .back = p->back,
        .kv = p->kv,
        .home = p->home,
        .sessions = p->sessions,
        .chunk = p->chunk,
        .prompt = w->prompt && w->prompt < longest ? w->prompt : longest,
        .depth = longest, /* the last token is the slowest */
        .decode_bytes = p->row.decode_bytes,
        .prefill_bytes = p->row.prefill_bytes,
    };
}

/* Codec, cache and stages: what their precision costs. */
static int weigh(const struct plan_wish *w, struct plan *p)
{
    int rc = plan_quality_scheme(w->quality, PLAN_FRONT, p->front, p->split, &p->front_kl);

    if (rc == 0)
        rc = plan_quality_scheme(w->quality, PLAN_BACK, p->back, p->split, &p->back_kl);
    if (rc == 0)
        rc = plan_quality_kv(w->quality, p->kv, &p->kv_kl);
    if (rc == 0)
        rc = plan_quality_codec(&w->quality->codecs[p->codec], p->split, &p->row);
    p->metric[PLAN_KL] = p->front_kl + p->back_kl + p->kv_kl + p->row.kl;
    return rc;
}

static void remember(const struct plan_wish *w, struct plan *p)
{
    const struct plan_memory_case c = memory_case(w, p);

    plan_memory_edge(w->m, &c, &p->edge);
    plan_memory_cloud(w->m, &c, &p->cloud);
    p->metric[PLAN_EDGE_BYTES] = (double)p->edge.bytes;
    p->metric[PLAN_CLOUD_BYTES] = (double)p->cloud.bytes;
}

int plan_evaluate(const struct plan_wish *w, struct plan *p)
{
    int rc = weigh(w, p);

    if (rc)
        return rc;
    remember(w, p);
    const struct plan_latency_case c = latency_case(w, p);
    rc = plan_latency(w->m, &c, &p->time);
    p->metric[PLAN_TTFT] = p->time.ttft_s;
    p->metric[PLAN_TPOT] = p->time.tpot_s;
    return rc;
}

static bool keeps(const struct plan_wish *w, const struct plan *p, enum plan_metric m)
{
    return p->metric[m] <= w->limit[m];
}

bool plan_fits(const struct plan_wish *w, const struct plan *p)
{
    for (unsigned m = 0; m < PLAN_METRICS; m++)
        if (!keeps(w, p, (enum plan_metric)m))
            return false;
    return true;
}

static int order(double a, double b)
{
    return (a > b) - (a < b);
}

bool plan_better(const struct plan_wish *w, const struct plan *a, const struct plan *b)
{
    const enum plan_metric by[] = {w->least,        PLAN_KL,          PLAN_TPOT, PLAN_TTFT,
                                   PLAN_EDGE_BYTES, PLAN_CLOUD_BYTES, PLAN_KL};
    const uint32_t ia[] = {a->split, a->front, a->back, a->kv, a->home, a->codec, a->chunk};
    const uint32_t ib[] = {b->split, b->front, b->back, b->kv, b->home, b->codec, b->chunk};

    for (unsigned i = 0; i < sizeof by / sizeof *by; i++) {
        const int o = order(a->metric[by[i]], b->metric[by[i]]);
        if (o)
            return o < 0;
    }
    for (unsigned i = 0; i < sizeof ia / sizeof *ia; i++)
        if (ia[i] != ib[i])
            return ia[i] < ib[i];
    return false;
}

/* --- all of them ------------------------------------------------------------------------------ */

enum aim { BEST, NEXT, WHY };

struct search {
    const struct plan_wish *w;
    struct plan_answer *a;
    enum aim aim;
    bool left[PLAN_METRICS]; /* WHY: some keep this limit and all before it */
    bool whole;              /* WHY: of all of them, the nearest is asked for */
    double nearest;
};

/* How far beyond its limits it is, together. */
static double excess(const struct plan_wish *w, const struct plan *p)
{
    double sum = 0;

    for (unsigned m = 0; m < PLAN_METRICS; m++)
        if (p->metric[m] > w->limit[m])
            sum += log(p->metric[m] / fmax(w->limit[m], 1e-9));
    return sum;
}

static void ask_why(struct search *s, const struct plan *p)
{
    struct plan_answer *a = s->a;
    unsigned n_passed = 0, passed = 0;
    bool all = true;

    for (unsigned m = 0; m < PLAN_METRICS; m++) {
        const bool kept = keeps(s->w, p, (enum plan_metric)m);
        all &= kept;
        s->left[m] |= all;
        if (!kept) {
            n_passed++;
            passed = m;
        }
    }
    struct plan *change = &a->change[passed];
    if (n_passed == 1 &&
        (!a->has_change[passed] || p->metric[passed] < change->metric[passed] ||
         (p->metric[passed] == change->metric[passed] && plan_better(s->w, p, change)))) {
        *change = *p;
        a->has_change[passed] = true;
    }
    const double far = excess(s->w, p);
    if (!a->has_nearest || far < s->nearest) {
        a->nearest = *p;
        a->has_nearest = true;
        s->nearest = far;
    }
}

static void look_next(struct search *s, const struct plan *p)
{
    struct plan_answer *a = s->a;

    if (!plan_fits(s->w, p))
        return;
    for (unsigned m = 0; m < PLAN_METRICS; m++) {
        if (p->metric[m] >= a->best.metric[m] ||
            (a->has_next[m] && !plan_better(s->w, p, &a->next[m])))
            continue;
        a->next[m] = *p;
        a->has_next[m] = true;
    }
}

static void visit(struct search *s, const struct plan *p)
{
    struct plan_answer *a = s->a;

    a->n_timed++;
    if (s->aim == WHY) {
        ask_why(s, p);
    } else if (s->aim == NEXT) {
        look_next(s, p);
    } else if (plan_fits(s->w, p) && (!a->found || plan_better(s->w, p, &a->best))) {
        a->best = *p;
        a->found = true;
    }
}

/* Nothing that may still be asked for can come of it. */
static bool hopeless(const struct search *s, const struct plan *p, enum plan_metric m)
{
    return s->aim != WHY && !keeps(s->w, p, m);
}

/* Two limits are passed already: it is not a single one's change, and keeps none before it that
 * others would not be asked for. */
static bool says_no_more(struct search *s, const struct plan *p)
{
    static const enum plan_metric cheap[] = {PLAN_EDGE_BYTES, PLAN_CLOUD_BYTES, PLAN_KL, PLAN_TPOT};
    unsigned passed = 0;
    bool all = true;

    if (s->aim != WHY || s->whole)
        return false;
    for (unsigned i = 0; i < sizeof cheap / sizeof *cheap; i++) {
        const bool kept = keeps(s->w, p, cheap[i]);
        passed += !kept;
        all &= kept;
        if (cheap[i] != PLAN_TPOT)
            s->left[cheap[i]] |= all;
    }
    return passed > 1;
}

/* Codec is chosen: the decode time is cheap, the prompt's is not. */
static int finish(struct search *s, struct plan *p)
{
    const struct plan_wish *w = s->w;
    const struct plan_answer *a = s->a;

    remember(w, p);
    if (hopeless(s, p, PLAN_EDGE_BYTES) || hopeless(s, p, PLAN_CLOUD_BYTES) ||
        hopeless(s, p, PLAN_KL))
        return 0;
    const struct plan_latency_case c = latency_case(w, p);
    int rc = plan_latency_decode(w->m, &c, &p->time);
    if (rc)
        return rc;
    p->metric[PLAN_TPOT] = p->time.tpot_s;
    if (hopeless(s, p, PLAN_TPOT) || says_no_more(s, p))
        return 0;
    if (s->aim == BEST && a->found && w->least != PLAN_TTFT &&
        p->metric[w->least] > a->best.metric[w->least])
        return 0;
    rc = plan_latency_prompt(w->m, &c, &p->time);
    p->metric[PLAN_TTFT] = p->time.ttft_s;
    if (rc == 0)
        visit(s, p);
    return rc;
}

/* -ENOENT is no error here: it is not to be had. */
static int every_codec(struct search *s, struct plan *p)
{
    const struct plan_wish *w = s->w;
    int rc = 0;

    for (p->codec = 0; p->codec < w->quality->n_codecs && rc != -ENOMEM; p->codec++) {
        if (!w->codec[p->codec] || weigh(w, p))
            continue;
        for (uint32_t i = 0; i < w->n_chunks && rc != -ENOMEM; i++) {
            p->chunk = w->chunks[i];
            s->a->n_all++;
            rc = finish(s, p);
        }
    }
    return rc == -ENOMEM ? rc : 0;
}

/* The edge's memory without what the codec adds, in the shortest chunk: more layers never take
 * less. */
static bool edge_is_full(const struct search *s, struct plan *p)
{
    struct plan_memory_case c;
    struct plan_memory memory;

    if (s->aim == WHY || s->w->limit[PLAN_EDGE_BYTES] == INFINITY)
        return false;
    p->row = (struct plan_codec_point){0};
    p->chunk = s->w->chunks[0];
    p->codec = 0;
    c = memory_case(s->w, p);
    plan_memory_edge(s->w->m, &c, &memory);
    return (double)memory.bytes > s->w->limit[PLAN_EDGE_BYTES];
}

/* From token to token with rows of no bytes: no codec is faster. */
static bool too_slow(const struct search *s, struct plan *p)
{
    const struct plan_wish *w = s->w;
    const struct plan_answer *a = s->a;
    struct plan_latency least;

    if (s->aim == WHY)
        return false;
    p->row = (struct plan_codec_point){0};
    p->chunk = w->chunks[0];
    const struct plan_latency_case c = latency_case(w, p);
    if (plan_latency_decode(w->m, &c, &least))
        return false; /* for finish() to say */
    return least.tpot_s > w->limit[PLAN_TPOT] ||
           (s->aim == BEST && a->found && w->least == PLAN_TPOT &&
            least.tpot_s > a->best.metric[PLAN_TPOT]);
}

static int every_back(struct search *s, struct plan *p)
{
    const struct plan_wish *w = s->w;
    int rc = 0;

    for (unsigned b = 0; b < PLAN_SCHEMES && rc == 0; b++) {
        p->back = (enum plan_scheme)b;
        double kl;
        if (w->back[b] && plan_quality_scheme(w->quality, PLAN_BACK, p->back, p->split, &kl) == 0 &&
            !too_slow(s, p))
            rc = every_codec(s, p);
    }
    return rc;
}

static int every_split(struct search *s, struct plan *p)
{
    const struct plan_wish *w = s->w;
    int rc = 0;

    for (p->split = w->split_min; p->split <= w->split_max && rc == 0; p->split++) {
        double kl;
        if (edge_is_full(s, p))
            break;
        if (plan_quality_scheme(w->quality, PLAN_FRONT, p->front, p->split, &kl) == 0)
            rc = every_back(s, p);
    }
    return rc;
}

static int every(struct search *s, enum aim aim, uint32_t context, uint32_t sessions)
{
    const struct plan_wish *w = s->w;
    struct plan p = {.context = context, .sessions = sessions};
    int rc = 0;

    s->aim = aim;
    for (unsigned f = 0; f < PLAN_SCHEMES && rc == 0; f++)
        for (unsigned k = 0; k < KV_FORMATS && rc == 0; k++)
            for (unsigned h = 0; h < PLAN_KV_HOMES && rc == 0; h++) {
                if (!w->front[f] || !w->kv[k] || !w->home[h])
                    continue;
                p.front = (enum plan_scheme)f;
                p.kv = (enum kv_format)k;
                p.home = (enum plan_kv_home)h;
                rc = every_split(s, &p);
            }
    return rc;
}

/* --- contexts and sessions ---------------------------------------------------------------------
 */

struct load {
    uint32_t context, sessions;
};

/* All pairs, the greatest product first, of equal ones the longer context. */
static uint32_t list_loads(const struct plan_wish *w, struct load *list)
{
    uint32_t n = 0;

    for (uint32_t c = 0; c < w->n_contexts; c++) {
        for (uint32_t k = 0; k < w->n_sessions; k++) {
            const struct load l = {w->contexts[c], w->sessions[k]};
            const uint64_t size = (uint64_t)l.context * l.sessions;
            uint32_t at = n++;
            for (; at > 0; at--) {
                const struct load *b = &list[at - 1];
                const uint64_t other = (uint64_t)b->context * b->sessions;
                if (other > size || (other == size && b->context >= l.context))
                    break;
                list[at] = *b;
            }
            list[at] = l;
        }
    }
    return n;
}

/* By halves, in whole pages of the cache: the longest context for which anything fits. What a
 * longer one needs is not less, but for a last chunk of a prompt that comes out better. */
static int find_longest(struct search *s, uint32_t below, uint32_t sessions)
{
    uint32_t low = 0, high = (below + KV_PAGE - 1) / KV_PAGE;
    int rc = 0;

    while (high - low > 1 && rc == 0) {
        const uint32_t mid = low + (high - low) / 2;
        struct plan_answer try = {.found = false};
        struct search t = {.w = s->w, .a = &try};
        rc = every(&t, BEST, mid * KV_PAGE, sessions);
        if (try.found)
            low = mid;
        else
            high = mid;
    }
    s->a->longest = low * KV_PAGE;
    return rc;
}

int plan_search(const struct plan_wish *w, struct plan_answer *a)
{
    struct load list[PLAN_LIST_MAX * PLAN_LIST_MAX];
    struct search s = {.w = w, .a = a};
    const uint32_t n = list_loads(w, list);
    int rc = 0;

    memset(a, 0, sizeof(*a));
    for (uint32_t i = 0; i < n && !a->found && rc == 0; i++)
        rc = every(&s, BEST, list[i].context, list[i].sessions);
    if (rc || n == 0)
        return rc;
    if (a->found)
        return every(&s, NEXT, a->best.context, a->best.sessions);

    rc = every(&s, WHY, list[n - 1].context, list[n - 1].sessions);
    bool any = false;
    for (unsigned m = 0; m < PLAN_METRICS; m++)
        any |= a->has_change[m];
    s.whole = true;
    if (rc == 0 && !any)
        rc = every(&s, WHY, list[n - 1].context, list[n - 1].sessions);
    while (a->ruled_out + 1 < PLAN_METRICS && s.left[a->ruled_out])
        a->ruled_out++;
    return rc ? rc : find_longest(&s, list[n - 1].context, list[n - 1].sessions);
}
