/* SPDX-License-Identifier: Apache-2.0 */
#include "control/plan/search.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
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
        .serves = w->serves,
        .cloud_held = w->cloud_held,
        .packet_bytes = w->packet_bytes,
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

enum aim { BEST, ANY, NEXT, WHY };

/* What a stage in one scheme contributes, whatever the other half and the rows are. */
struct half {
    enum plan_scheme scheme;
    double kl, bytes, decode_s;
    struct plan_part prompt[PLAN_LIST_MAX]; /* by chunk */
};

/* What the link contributes with one codec. */
struct rows {
    uint32_t codec;
    struct plan_codec_point point;
    double decode_s;
    struct plan_part prompt[PLAN_LIST_MAX];
};

struct search {
    const struct plan_wish *w;
    struct plan_answer *a;
    enum aim aim;
    bool left[PLAN_METRICS]; /* WHY: some keep this limit and all before it */
    bool whole;              /* WHY: of all of them, the nearest is asked for */
    double nearest;

    /* Of one load; then of one split with one cache at one home. */
    struct plan_chunks chunks[PLAN_LIST_MAX];
    uint32_t n_front, n_back, n_rows;
    struct half front[PLAN_SCHEMES], back[PLAN_SCHEMES];
    struct rows rows[PLAN_CODECS_MAX];
    struct rows ideal; /* no codec is better in anything */
};

/* How far beyond its limits it is, together. */
static double excess(const struct plan_wish *w, const double *metric)
{
    double sum = 0;

    for (unsigned m = 0; m < PLAN_METRICS; m++)
        if (metric[m] > w->limit[m])
            sum += log(metric[m] / fmax(w->limit[m], 1e-9));
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
    const double far = excess(s->w, p->metric);
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

/* --- what bounds rule out ------------------------------------------------------------------------
 * least: what is known of each metric of some configurations: none of them has less.
 */

static bool is_neighbour(const struct search *s, const double *least)
{
    const struct plan_answer *a = s->a;

    for (unsigned m = 0; m < PLAN_METRICS; m++)
        if (least[m] < a->best.metric[m] &&
            (!a->has_next[m] || least[s->w->least] <= a->next[m].metric[s->w->least]))
            return true;
    return false;
}

/* Where two limits are passed it is no single one's change, and where one is, no lesser one than
 * that which is known; and others keep the limits before. */
static bool says_no_more(const struct search *s, const double *least)
{
    const struct plan_answer *a = s->a;
    unsigned n_passed = 0, first = 0;

    for (unsigned m = PLAN_METRICS; m-- > 0;) {
        if (least[m] <= s->w->limit[m])
            continue;
        n_passed++;
        first = m;
    }
    for (unsigned m = 0; m < first; m++)
        if (!s->left[m])
            return false;
    if (n_passed == 0)
        return false;
    if (s->whole)
        return a->has_nearest && excess(s->w, least) > s->nearest;
    return n_passed > 1 || (a->has_change[first] && least[first] > a->change[first].metric[first]);
}

/* Nothing that may still be asked for can come of them. */
static bool worthless(const struct search *s, const double *least)
{
    const struct plan_wish *w = s->w;
    const struct plan_answer *a = s->a;

    if (s->aim == WHY)
        return says_no_more(s, least);
    for (unsigned m = 0; m < PLAN_METRICS; m++)
        if (least[m] > w->limit[m])
            return true;
    if (s->aim == NEXT)
        return !is_neighbour(s, least);
    return a->found && (s->aim == ANY || least[w->least] > a->best.metric[w->least]);
}

static double least_ttft(const struct search *s, const struct plan *p, const struct half *f,
                         const struct rows *r, const struct half *b, uint32_t chunk)
{
    struct plan at = *p;

    at.row = r->point;
    at.chunk = s->w->chunks[chunk];
    const struct plan_latency_case c = latency_case(s->w, &at);
    return plan_latency_least_prompt(&c, &f->prompt[chunk], &r->prompt[chunk], &b->prompt[chunk]);
}

/* All but TTFT. */
static void bound(const struct plan *p, const struct half *f, const struct rows *r,
                  const struct half *b, double *least)
{
    least[PLAN_EDGE_BYTES] = f->bytes;
    least[PLAN_CLOUD_BYTES] = b->bytes;
    least[PLAN_KL] = f->kl + b->kl + p->kv_kl + r->point.kl;
    least[PLAN_TPOT] = (f->decode_s + r->decode_s + b->decode_s) * (1 - 1e-9); /* of rounding */
    least[PLAN_TTFT] = 0;
}

/* --- through all ---------------------------------------------------------------------------------
 */

static int finish(struct search *s, struct plan *p, double *least)
{
    const struct plan_wish *w = s->w;

    remember(w, p);
    least[PLAN_EDGE_BYTES] = p->metric[PLAN_EDGE_BYTES];
    least[PLAN_CLOUD_BYTES] = p->metric[PLAN_CLOUD_BYTES];
    if (worthless(s, least))
        return 0;
    const struct plan_latency_case c = latency_case(w, p);
    const int rc = plan_latency(w->m, &c, &p->time);
    p->metric[PLAN_TTFT] = p->time.ttft_s;
    p->metric[PLAN_TPOT] = p->time.tpot_s;
    if (rc == 0)
        visit(s, p);
    return rc;
}

static int every_codec(struct search *s, struct plan *p, const struct half *f, const struct half *b)
{
    double least[PLAN_METRICS];
    int rc = 0;

    for (uint32_t k = 0; k < s->n_rows && rc == 0; k++) {
        const struct rows *r = &s->rows[k];
        p->codec = r->codec;
        p->row = r->point;
        for (uint32_t i = 0; i < s->w->n_chunks && rc == 0; i++) {
            s->a->n_all++;
            p->chunk = s->w->chunks[i];
            bound(p, f, r, b, least);
            p->metric[PLAN_KL] = least[PLAN_KL];
            if (worthless(s, least))
                continue;
            least[PLAN_TTFT] = least_ttft(s, p, f, r, b, i);
            if (!worthless(s, least))
                rc = finish(s, p, least);
        }
    }
    return rc;
}

static int every_pair(struct search *s, struct plan *p)
{
    double least[PLAN_METRICS];
    int rc = 0;

    for (uint32_t i = 0; i < s->n_front; i++) {
        for (uint32_t k = 0; k < s->n_back && rc == 0; k++) {
            const struct half *f = &s->front[i], *b = &s->back[k];
            bound(p, f, &s->ideal, b, least);
            if (worthless(s, least))
                continue;
            least[PLAN_TTFT] = INFINITY;
            for (uint32_t c = 0; c < s->w->n_chunks; c++)
                least[PLAN_TTFT] = fmin(least[PLAN_TTFT], least_ttft(s, p, f, &s->ideal, b, c));
            if (worthless(s, least))
                continue;
            p->front = f->scheme;
            p->back = b->scheme;
            p->front_kl = f->kl;
            p->back_kl = b->kl;
            rc = every_codec(s, p, f, b);
        }
    }
    return rc;
}

/* One half of the split with every storage; the other's, KEEP's, is not read. -ENOENT is no error
 * here: it is not to be had. */
static int list_halves(struct search *s, const struct plan *p, enum plan_stage stage)
{
    const struct plan_wish *w = s->w;
    struct half *list = stage == PLAN_FRONT ? s->front : s->back;
    uint32_t *n = stage == PLAN_FRONT ? &s->n_front : &s->n_back;
    int rc = 0;

    *n = 0;
    for (unsigned scheme = 0; scheme < PLAN_SCHEMES && rc != -ENOMEM; scheme++) {
        struct half *h = &list[*n];
        struct plan at = *p;
        double least[PLAN_METRICS] = {0};
        h->scheme = (enum plan_scheme)scheme;
        *(stage == PLAN_FRONT ? &at.front : &at.back) = h->scheme;
        if (!(stage == PLAN_FRONT ? w->front : w->back)[scheme] ||
            plan_quality_scheme(w->quality, stage, h->scheme, p->split, &h->kl) < 0)
            continue;
        at.chunk = w->chunks[0];
        remember(w, &at);
        const enum plan_metric bytes = stage == PLAN_FRONT ? PLAN_EDGE_BYTES : PLAN_CLOUD_BYTES;
        h->bytes = least[bytes] = at.metric[bytes];
        least[PLAN_KL] = h->kl;
        if (worthless(s, least))
            continue;
        struct plan_latency_case c = latency_case(w, &at);
        struct plan_latency t;
        rc = plan_latency_decode(w->m, &c, &t);
        h->decode_s = stage == PLAN_FRONT ? t.edge_s : t.cloud_s + t.head_s;
        for (uint32_t i = 0; i < w->n_chunks && rc == 0; i++) {
            c.chunk = w->chunks[i];
            rc = stage == PLAN_FRONT ? plan_part_edge(w->m, &c, &s->chunks[i], &h->prompt[i])
                                     : plan_part_cloud(w->m, &c, &s->chunks[i], &h->prompt[i]);
        }
        *n += rc == 0;
    }
    return rc == -ENOMEM ? rc : 0;
}

static int send_rows(const struct search *s, const struct plan *p, struct rows *r)
{
    const struct plan_wish *w = s->w;
    struct plan at = *p;
    struct plan_latency t;

    at.row = r->point;
    struct plan_latency_case c = latency_case(w, &at);
    const int rc = plan_latency_decode(w->m, &c, &t);
    r->decode_s = t.up_s + t.rtt_s + t.wake_s;
    for (uint32_t i = 0; i < w->n_chunks; i++) {
        c.chunk = w->chunks[i];
        plan_part_link(w->m, &c, &s->chunks[i], &r->prompt[i]);
    }
    return rc;
}

static int list_rows(struct search *s, const struct plan *p)
{
    const struct plan_wish *w = s->w;
    struct plan_codec_point *best = &s->ideal.point;
    int rc = 0;

    *best = (struct plan_codec_point){
        .kl = INFINITY, .decode_bytes = INFINITY, .prefill_bytes = INFINITY};
    s->n_rows = 0;
    for (uint32_t i = 0; i < w->quality->n_codecs && rc == 0; i++) {
        struct rows *r = &s->rows[s->n_rows];
        r->codec = i;
        if (!w->codec[i] || plan_quality_codec(&w->quality->codecs[i], p->split, &r->point) < 0)
            continue;
        best->kl = fmin(best->kl, r->point.kl);
        best->decode_bytes = fmin(best->decode_bytes, r->point.decode_bytes);
        best->prefill_bytes = fmin(best->prefill_bytes, r->point.prefill_bytes);
        rc = send_rows(s, p, r);
        s->n_rows++;
    }
    return rc == 0 && s->n_rows ? send_rows(s, p, &s->ideal) : rc;
}

/* With one cache at one home. */
static int every_split(struct search *s, const struct plan *of)
{
    const struct plan_wish *w = s->w;
    int rc = 0;

    for (uint32_t split = w->split_min; split <= w->split_max && rc == 0; split++) {
        struct plan p = *of;
        p.split = split;
        if (s->aim == ANY && s->a->found)
            break;
        rc = list_halves(s, &p, PLAN_FRONT);
        if (rc == 0 && s->n_front)
            rc = list_halves(s, &p, PLAN_BACK);
        if (rc == 0 && s->n_front && s->n_back)
            rc = list_rows(s, &p);
        if (rc == 0 && s->n_front && s->n_back && s->n_rows)
            rc = every_pair(s, &p);
    }
    return rc;
}

static int every(struct search *s, enum aim aim, uint32_t context, uint32_t sessions)
{
    const struct plan_wish *w = s->w;
    int rc = 0;

    s->aim = aim;
    for (uint32_t i = 0; i < w->n_chunks; i++) {
        const struct plan p = {.context = context, .sessions = sessions, .chunk = w->chunks[i]};
        const struct plan_latency_case c = latency_case(w, &p);
        plan_chunks_of(&c, &s->chunks[i]);
    }
    for (unsigned k = 0; k < KV_FORMATS && rc == 0; k++)
        for (unsigned h = 0; h < PLAN_KV_HOMES && rc == 0; h++) {
            struct plan p = {.context = context,
                             .sessions = sessions,
                             .kv = (enum kv_format)k,
                             .home = (enum plan_kv_home)h};
            if (w->home[h] && w->kv[k] && plan_quality_kv(w->quality, p.kv, &p.kv_kl) == 0)
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
    struct plan_answer *a = s->a;
    uint32_t low = 0, high = (below + KV_PAGE - 1) / KV_PAGE;
    int rc = 0;

    while (high - low > 1 && rc == 0) {
        const uint32_t mid = low + (high - low) / 2;
        a->found = false;
        rc = every(s, ANY, mid * KV_PAGE, sessions);
        if (a->found)
            low = mid;
        else
            high = mid;
    }
    a->found = false;
    a->longest = low * KV_PAGE;
    return rc;
}

static int search(struct search *s, const struct load *list, uint32_t n)
{
    struct plan_answer *a = s->a;
    int rc = 0;

    for (uint32_t i = 0; i < n && !a->found && rc == 0; i++)
        rc = every(s, BEST, list[i].context, list[i].sessions);
    if (rc || n == 0)
        return rc;
    if (a->found)
        return every(s, NEXT, a->best.context, a->best.sessions);

    const struct load *least = &list[n - 1];
    rc = every(s, WHY, least->context, least->sessions);
    bool any = false;
    for (unsigned m = 0; m < PLAN_METRICS; m++)
        any |= a->has_change[m];
    s->whole = true;
    if (rc == 0 && !any)
        rc = every(s, WHY, least->context, least->sessions);
    while (a->ruled_out + 1 < PLAN_METRICS && s->left[a->ruled_out])
        a->ruled_out++;
    return rc ? rc : find_longest(s, least->context, least->sessions);
}

int plan_search(const struct plan_wish *w, struct plan_answer *a)
{
    struct load list[PLAN_LIST_MAX * PLAN_LIST_MAX];
    const uint32_t n = list_loads(w, list);
    struct search *s = calloc(1, sizeof *s);

    memset(a, 0, sizeof(*a));
    if (!s)
        return -ENOMEM;
    s->w = w;
    s->a = a;
    const int rc = search(s, list, n);
    free(s);
    return rc;
}
