/* SPDX-License-Identifier: Apache-2.0 */
/* What a plan that is wished for lacks, where nothing of it could be computed. */
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

char *plan_missing(const struct plan_wish *w, char *why)
{
    const struct asked front = {w, PLAN_FRONT}, back = {w, PLAN_BACK};
    const struct {
        const char *option;
        const struct asked *a;
        measured_fn *measured;
        const char *(*name)(const struct plan_wish *w, unsigned i);
        const bool *mask;
        unsigned n;
        const char *what;
    } needs[] = {
        {"--front", &front, scheme_kl, name_of_scheme, w->front, PLAN_SCHEMES, "row in the table"},
        {"--back", &back, scheme_kl, name_of_scheme, w->back, PLAN_SCHEMES, "row in the table"},
        {"--kv", &front, kv_kl, kv_name, w->kv, KV_FORMATS, "row in the table"},
        {"--codec", &front, codec_kl, codec_name, w->codec, w->quality->n_codecs,
         "row in the table"},
        {"--front", &front, scheme_time, name_of_scheme, w->front, PLAN_SCHEMES,
         "times in the edge's profile"},
        {"--back", &back, scheme_time, name_of_scheme, w->back, PLAN_SCHEMES,
         "times in the cloud's profile"},
        {"--kv", &front, kv_time, kv_name, w->kv, KV_FORMATS, "times in both profiles"},
    };

    for (unsigned k = 0; k < sizeof needs / sizeof *needs; k++) {
        char names[PLAN_ERR / 2] = "";
        size_t at = 0;
        if (some(needs[k].a, needs[k].measured, needs[k].mask, needs[k].n))
            continue;
        for (unsigned i = 0; i < needs[k].n && at < sizeof names; i++)
            if (needs[k].mask[i])
                at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", at ? "," : "",
                                       needs[k].name(w, i));
        snprintf(why, PLAN_ERR, "%s %s: no %s for splits %u to %u", needs[k].option, names,
                 needs[k].what, w->split_min, w->split_max);
        return why;
    }
    snprintf(why, PLAN_ERR,
             "no split from %u to %u has rows in the table and times in the profiles "
             "for --front, --back, --kv and --codec together",
             w->split_min, w->split_max);
    return why;
}
