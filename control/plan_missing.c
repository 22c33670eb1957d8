/* SPDX-License-Identifier: Apache-2.0 */
/* What a plan that is wished for lacks, where nothing of it could be computed. */
#include <stdarg.h>
#include <stdio.h>

#include "control/plan_show.h"

struct asked {
    const struct plan_wish *w;
    enum plan_stage stage; /* of schemes */
};

/* Measured at a split, or -ENOENT. */
typedef int measured_fn(const struct asked *a, unsigned i, uint32_t split);

static int scheme_kl(const struct asked *a, unsigned i, uint32_t split)
{
    double kl;

    return plan_quality_scheme(a->w->quality, a->stage, (enum plan_scheme)i, split, &kl);
}

static int scheme_time(const struct asked *a, unsigned i, uint32_t split)
{
    const bool front = a->stage == PLAN_FRONT;
    double s;

    return plan_speed_layers(front ? a->w->edge : a->w->cloud, front ? 0 : split,
                             front ? split : a->w->m->n_layers, (enum plan_scheme)i, 1, true, &s);
}

static int kv_kl(const struct asked *a, unsigned i, uint32_t split)
{
    double kl;

    (void)split;
    return plan_quality_kv(a->w->quality, (enum kv_format)i, &kl);
}

static int kv_time(const struct asked *a, unsigned i, uint32_t split)
{
    double s;
    const int rc = plan_speed_attend(a->w->edge, split, (enum kv_format)i, 1, 1, &s);

    return rc ? rc : plan_speed_attend(a->w->cloud, split, (enum kv_format)i, 1, 1, &s);
}

static int codec_kl(const struct asked *a, unsigned i, uint32_t split)
{
    struct plan_codec_point p;

    return plan_quality_codec(&a->w->quality->codecs[i], split, &p);
}

static const char *name_of_scheme(const struct plan_wish *w, unsigned i)
{
    (void)w;
    return plan_scheme_name((enum plan_scheme)i);
}

static const char *kv_name(const struct plan_wish *w, unsigned i)
{
    (void)w;
    return kv_format_name((enum kv_format)i);
}

static const char *codec_name(const struct plan_wish *w, unsigned i)
{
    return w->quality->codecs[i].text;
}

static bool some(const struct asked *a, measured_fn *measured, const bool *mask, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        for (uint32_t split = a->w->split_min; mask[i] && split <= a->w->split_max; split++)
            if (measured(a, i, split) == 0)
                return true;
    return false;
}

/* --- and the mend --------------------------------------------------------------------------------
 */

enum lack { NO_ROW, NO_EDGE_TIMES, NO_CLOUD_TIMES, NO_TIMES };
static const char *const lacks[] = {
    [NO_ROW] = "row in the table",
    [NO_EDGE_TIMES] = "times in the edge's profile",
    [NO_CLOUD_TIMES] = "times in the cloud's profile",
    [NO_TIMES] = "times in both profiles",
};

struct need {
    const char *option;
    const struct asked *a;
    measured_fn *measured;
    const char *(*name)(const struct plan_wish *w, unsigned i);
    const bool *mask;
    unsigned n;
    enum lack lack;
};

__attribute__((format(printf, 3, 4))) static size_t add(char *why, size_t at, const char *fmt, ...)
{
    va_list ap;

    if (at >= PLAN_MISSING)
        return at;
    va_start(ap, fmt);
    const int n = vsnprintf(why + at, PLAN_MISSING - at, fmt, ap);
    va_end(ap);
    return n > 0 ? at + (size_t)n : at;
}

/* Of schemes: those that are asked for, at the splits that are. */
static size_t add_schemes(const struct plan_wish *w, const struct need *n, char *why, size_t at)
{
    bool calibrated = false;

    for (unsigned i = 0; i < n->n; i++) {
        if (!n->mask[i] || i == PLAN_KEEP)
            continue;
        at = add(why, at, " %s %s", n->option, n->name(w, i));
        calibrated |= !plan_scheme_is_standard((enum plan_scheme)i);
    }
    if (calibrated)
        at = add(why, at, " --calibration PROFILE");
    if (w->split_min == w->split_max)
        return add(why, at, " --scheme-splits %u", w->split_min);
    return w->split_min > 1 || w->split_max + 1 < w->m->n_layers
               ? add(why, at, " --scheme-splits %u,%u", w->split_min, w->split_max)
               : at;
}

static void add_mend(const struct plan_paper *p, const struct need *n, char *why, size_t at)
{
    const struct plan_wish *w = p->w;
    const bool schemes = n->measured == scheme_kl;

    if (n->lack != NO_ROW) {
        add(why, at, ": `isthmus profile -m %s -o FILE` there measures them", p->model);
        return;
    }
    at = add(why, at, ": `tools/quality-table -m %s --text TEXT", p->model);
    if (schemes)
        at = add_schemes(w, n, why, at);
    add(why, at, "%s -o %s` measures %s%s", schemes && p->quality ? " --only-schemes" : "",
        p->quality ? p->quality : "FILE", schemes ? "it" : "codecs and caches",
        p->quality ? "" : ", for --quality FILE");
}

char *plan_missing(const struct plan_paper *p, char *why)
{
    const struct plan_wish *w = p->w;
    const struct asked front = {w, PLAN_FRONT}, back = {w, PLAN_BACK};
    const struct need needs[] = {
        {"--front", &front, scheme_kl, name_of_scheme, w->front, PLAN_SCHEMES, NO_ROW},
        {"--back", &back, scheme_kl, name_of_scheme, w->back, PLAN_SCHEMES, NO_ROW},
        {"--kv", &front, kv_kl, kv_name, w->kv, KV_FORMATS, NO_ROW},
        {"--codec", &front, codec_kl, codec_name, w->codec, w->quality->n_codecs, NO_ROW},
        {"--front", &front, scheme_time, name_of_scheme, w->front, PLAN_SCHEMES, NO_EDGE_TIMES},
        {"--back", &back, scheme_time, name_of_scheme, w->back, PLAN_SCHEMES, NO_CLOUD_TIMES},
        {"--kv", &front, kv_time, kv_name, w->kv, KV_FORMATS, NO_TIMES},
    };

    for (unsigned k = 0; k < sizeof needs / sizeof *needs; k++) {
        const struct need *n = &needs[k];
        bool any = false;
        if (some(n->a, n->measured, n->mask, n->n))
            continue;
        size_t at = add(why, 0, "%s ", n->option);
        for (unsigned i = 0; i < n->n; i++) {
            if (!n->mask[i])
                continue;
            at = add(why, at, "%s%s", any ? "," : "", n->name(w, i));
            any = true;
        }
        at = add(why, at, ": no %s for split%s %u", lacks[n->lack],
                 w->split_min < w->split_max ? "s" : "", w->split_min);
        if (w->split_min < w->split_max)
            at = add(why, at, " to %u", w->split_max);
        add_mend(p, n, why, at);
        return why;
    }
    add(why, 0,
        "no split from %u to %u has rows in the table and times in the profiles "
        "for --front, --back, --kv and --codec together: `tools/quality-table` and `isthmus "
        "profile` measure them",
        w->split_min, w->split_max);
    return why;
}
