/* SPDX-License-Identifier: Apache-2.0 */
/* A plan for programs. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/plan_show.h"

static const char *const keys[PLAN_METRICS] = {
    [PLAN_EDGE_BYTES] = "edge_bytes",
    [PLAN_CLOUD_BYTES] = "cloud_bytes",
    [PLAN_KL] = "kl",
    [PLAN_TTFT] = "ttft_s",
    [PLAN_TPOT] = "tpot_s",
};

static json_t *real(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *memory(const struct plan_memory *m)
{
    json_t *o = json_object();

    for (unsigned t = 0; t < PLAN_MEMORY_TERMS; t++)
        json_object_set_new(o, plan_memory_term_name((enum plan_memory_term)t),
                            json_integer((json_int_t)m->term[t]));
    return o;
}

static json_t *one(const struct plan_paper *p, const struct plan *b)
{
    const struct plan_codec *c = &p->w->quality->codecs[b->codec];
    char why[PLAN_ERR], command[PLAN_COMMAND];
    json_t *o = json_pack(
        "{s:i, s:s, s:s, s:s, s:s, s:s, s:s?, s:i, s:i, s:i, s:b, s:s?}", "split", (int)b->split,
        "front", plan_scheme_name(b->front), "back", plan_scheme_name(b->back), "kv",
        kv_format_name(b->kv), "kv_home", b->home == PLAN_KV_EDGE ? "edge" : "cloud", "codec",
        c->text, "profile", *c->profile ? c->profile : NULL, "chunk", (int)b->chunk, "context",
        (int)b->context, "sessions", (int)b->sessions, "runnable", plan_is_runnable(b, why),
        "quantize", plan_quantize_command(p, b, command));

    for (unsigned m = 0; m < PLAN_METRICS; m++)
        json_object_set_new(o, keys[m], real(b->metric[m]));
    json_object_set_new(o, "edge_memory", memory(&b->edge));
    json_object_set_new(o, "cloud_memory", memory(&b->cloud));
    json_object_set_new(o, "time",
                        json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "edge_s", b->time.edge_s,
                                  "up_s", b->time.up_s, "rtt_s", b->time.rtt_s, "cloud_s",
                                  b->time.cloud_s, "head_s", b->time.head_s, "wake_s",
                                  b->time.wake_s, "wire_bytes", b->time.wire_bytes));
    json_object_set_new(o, "quality",
                        json_pack("{s:f, s:f, s:f, s:f}", "front", b->front_kl, "back", b->back_kl,
                                  "kv", b->kv_kl, "rows", b->row.kl));
    return o;
}

static json_t *some(const struct plan_paper *p, const bool *has, const struct plan *list)
{
    json_t *o = json_object();

    for (unsigned m = 0; m < PLAN_METRICS; m++)
        if (has[m])
            json_object_set_new(o, keys[m], one(p, &list[m]));
    return o;
}

/* With the least limit that would let each through. */
static json_t *changes(const struct plan_paper *p, const struct plan_answer *a)
{
    json_t *o = some(p, a->has_change, a->change);

    for (unsigned m = 0; m < PLAN_METRICS; m++) {
        const double planned = a->change[m].metric[m];
        if (a->has_change[m])
            json_object_set_new(json_object_get(o, keys[m]), "limit",
                                real(plan_limit_for((enum plan_metric)m, planned)));
    }
    return o;
}

int plan_show_json(const struct plan_paper *p)
{
    const struct plan_answer *a = p->a;
    json_t *limits = json_object(), *o = json_object();
    static char why[PLAN_MISSING];

    for (unsigned m = 0; m < PLAN_METRICS; m++)
        json_object_set_new(limits, keys[m],
                            real(plan_limit_for((enum plan_metric)m, p->w->limit[m])));
    json_object_set_new(o, "model", json_string(p->model));
    json_object_set_new(o, "limits", limits);
    json_object_set_new(o, "memory_reserve", json_real(PLAN_RESERVE));
    json_object_set_new(o, "least", json_string(keys[p->w->least]));
    json_object_set_new(o, "considered", json_integer((json_int_t)a->n_all));
    json_object_set_new(o, "plan", a->found ? one(p, &a->best) : json_null());
    if (a->found) {
        json_object_set_new(o, "neighbours", some(p, a->has_next, a->next));
        json_object_set_new(o, "with_more_kl", p->more_kl ? one(p, p->more_kl) : json_null());
    } else if (!a->has_nearest) {
        json_object_set_new(o, "ruled_out_by", json_null());
        json_object_set_new(o, "missing", json_string(plan_missing(p, why)));
    } else {
        json_object_set_new(o, "ruled_out_by", json_string(keys[a->ruled_out]));
        json_object_set_new(o, "would_fit", changes(p, a));
        json_object_set_new(o, "longest_context", json_integer(a->longest));
    }
    const bool ok = json_dumpf(o, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) == 0;
    json_decref(o);
    putchar('\n');
    if (ok && fflush(stdout) != EOF)
        return EXIT_OK;
    log_error("cannot write the plan");
    return EXIT_FAILED;
}
