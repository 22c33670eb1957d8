/* SPDX-License-Identifier: Apache-2.0 */
#include "control/eval/result.h"

#include <math.h>
#include <stdio.h>

#include "compute/kernels/attend.h"
#include "control/profile.h"
#include "control/quality_arg.h"

/* --- from a trial ---------------------------------------------------------------------------- */

static struct eval_result_score score(const struct eval_score *s, uint32_t items)
{
    return (struct eval_result_score){
        .acc = (double)s->right / items,
        .acc_ref = (double)s->right_ref / items,
        .lost = s->lost,
        .gained = s->gained,
        .net = (double)s->gained - s->lost,
    };
}

static double target_of(const struct eval *e, enum codec_rate_kind kind)
{
    return e->params->target.kind == kind ? e->params->target.value : NAN;
}

static double parameter(float v)
{
    return v > 0 ? (double)v : NAN;
}

/* The profile that decided anything: its tables or its curve. */
static void name_profile(const struct eval *e, const struct eval_trial *t, char out[17])
{
    const struct codec_profile *p = e->params->profiles[t->cut];
    char hex[33];

    if (p && (t->params.profile || e->params->target.kind))
        snprintf(out, 17, "%.16s", profile_hex(p->hash, hex));
}

struct eval_result eval_result(const struct eval *e, struct eval_trial *t, const char *suite)
{
    const struct eval_carried *c = t->text.traffic.codec.rows ? &t->text : &t->suite;
    const struct codec_stats *s = &c->traffic.codec;
    const double rows = (double)s->rows, bytes = (double)s->bytes;
    const struct eval_result_score none = {NAN, NAN, NAN, NAN, NAN};
    struct eval_result r = {
        .suite = suite,
        .kv = kv_format_name(e->params->kv),
        .exact = e->params->exact,
        .split = t->split,
        .message_rows = e->params->message_rows,
        .target_kl = target_of(e, CODEC_RATE_KL),
        .target_bytes_per_token = target_of(e, CODEC_RATE_BYTES),
        .parameter_min = parameter(c->traffic.parameter.min),
        .parameter_max = parameter(c->traffic.parameter.max),
        .bits_per_value = bytes * 8 / (double)s->values,
        .bytes_per_token = bytes / rows,
        .wire_bytes_per_token = (double)c->traffic.wire_bytes / rows,
        .rel_l2 = c->rel_l2 / rows,
        .tokens = NAN,
        .kl_mean = NAN,
        .kl_median = NAN,
        .kl_p99 = NAN,
        .kl_max = NAN,
        .top1 = NAN,
        .ppl = NAN,
        .ppl_ref = NAN,
        .ppl_full = NAN,
        .ppl_full_ref = NAN,
        .items = suite ? t->items : NAN,
        .acc = suite ? score(&t->acc, t->items) : none,
        .acc_norm = suite ? score(&t->acc_norm, t->items) : none,
    };

    const struct codec_params used = quality_with(&t->params, c->traffic.parameter.last);
    codec_arg_format(&used, r.codec);
    name_profile(e, t, r.profile);
    if (t->divergence.n) {
        const struct divergence_summary d = divergence_summary(&t->divergence);

        r.tokens = (double)t->divergence.n;
        r.kl_mean = d.kl_mean;
        r.kl_median = d.kl_median;
        r.kl_p99 = d.kl_p99;
        r.kl_max = d.kl_max;
        r.top1 = d.top1;
        r.ppl = d.ppl;
        r.ppl_ref = d.ppl_ref;
        r.ppl_full = d.ppl_full;
        r.ppl_full_ref = d.ppl_full_ref;
    }
    return r;
}

/* --- printing -------------------------------------------------------------------------------- */

enum of { ALWAYS, PROFILE, TARGET, TEXT, SUITE };

/* Name, heading, digits, what it is of, and the cell of a result r. */
#define FIELDS(F)                                                                                  \
    F("codec", "codec", TABLE_TEXT, ALWAYS, .text = r->codec)                                      \
    F("profile", "profile", TABLE_TEXT, PROFILE, .text = *r->profile ? r->profile : NULL)          \
    F("kv", "KV", TABLE_TEXT, ALWAYS, .text = r->kv)                                               \
    F("exact", "exact", TABLE_BOOL, ALWAYS, .value = r->exact)                                     \
    F("suite", "suite", TABLE_TEXT, SUITE, .text = r->suite)                                       \
    F("split", "split", TABLE_COUNT, ALWAYS, .value = r->split)                                    \
    F("rows", "rows", TABLE_COUNT, ALWAYS, .value = r->message_rows)                               \
    F("target_kl", "target KL", TABLE_REAL, TARGET, .value = r->target_kl)                         \
    F("target_bytes_per_token", "target bytes/token", TABLE_REAL, TARGET,                          \
      .value = r->target_bytes_per_token)                                                          \
    F("parameter_min", "parameter from", TABLE_REAL, TARGET, .value = r->parameter_min)            \
    F("parameter_max", "to", TABLE_REAL, TARGET, .value = r->parameter_max)                        \
    F("tokens", "tokens", TABLE_COUNT, TEXT, .value = r->tokens)                                   \
    F("bits_per_value", "bits/value", TABLE_REAL, ALWAYS, .value = r->bits_per_value)              \
    F("bytes_per_token", "bytes/token", TABLE_REAL, ALWAYS, .value = r->bytes_per_token)           \
    F("wire_bytes_per_token", "wire bytes/token", TABLE_REAL, ALWAYS,                              \
      .value = r->wire_bytes_per_token)                                                            \
    F("rel_l2", "relative L2", TABLE_REAL, ALWAYS, .value = r->rel_l2)                             \
    F("kl_mean", "mean KL", TABLE_REAL, TEXT, .value = r->kl_mean)                                 \
    F("kl_median", "median KL", TABLE_REAL, TEXT, .value = r->kl_median)                           \
    F("kl_p99", "p99 KL", TABLE_REAL, TEXT, .value = r->kl_p99)                                    \
    F("kl_max", "max KL", TABLE_REAL, TEXT, .value = r->kl_max)                                    \
    F("top1", "top-1", TABLE_REAL, TEXT, .value = r->top1)                                         \
    F("ppl", "perplexity", TABLE_REAL, TEXT, .value = r->ppl)                                      \
    F("ppl_ref", "reference", TABLE_REAL, TEXT, .value = r->ppl_ref)                               \
    F("ppl_full", "full perplexity", TABLE_REAL, TEXT, .value = r->ppl_full)                       \
    F("ppl_full_ref", "reference", TABLE_REAL, TEXT, .value = r->ppl_full_ref)                     \
    F("items", "items", TABLE_COUNT, SUITE, .value = r->items)                                     \
    F("acc", "acc", TABLE_REAL, SUITE, .value = r->acc.acc)                                        \
    F("acc_ref", "reference", TABLE_REAL, SUITE, .value = r->acc.acc_ref)                          \
    F("acc_lost", "lost", TABLE_COUNT, SUITE, .value = r->acc.lost)                                \
    F("acc_gained", "gained", TABLE_COUNT, SUITE, .value = r->acc.gained)                          \
    F("acc_net", "net", TABLE_COUNT, SUITE, .value = r->acc.net)                                   \
    F("acc_norm", "acc_norm", TABLE_REAL, SUITE, .value = r->acc_norm.acc)                         \
    F("acc_norm_ref", "reference", TABLE_REAL, SUITE, .value = r->acc_norm.acc_ref)                \
    F("acc_norm_lost", "lost", TABLE_COUNT, SUITE, .value = r->acc_norm.lost)                      \
    F("acc_norm_gained", "gained", TABLE_COUNT, SUITE, .value = r->acc_norm.gained)                \
    F("acc_norm_net", "net", TABLE_COUNT, SUITE, .value = r->acc_norm.net)

static const struct field {
    struct table_column column;
    enum of of;
} fields[] = {
#define FIELD(name, heading, digits, of, cell) {{name, heading, digits}, of},
    FIELDS(FIELD)
#undef FIELD
};

#define N_FIELDS (sizeof fields / sizeof fields[0])
_Static_assert(N_FIELDS <= EVAL_COLUMNS_MAX, "columns of an evaluation");

int eval_print_start(struct eval_print *p, enum table_format format, bool text, bool suite,
                     bool target)
{
    const bool shown[] = {[ALWAYS] = true, [TARGET] = target, [TEXT] = text, [SUITE] = suite};

    *p = (struct eval_print){.format = format};
    for (size_t i = 0; i < N_FIELDS; i++) {
        p->columns[i] = fields[i].column;
        if (!shown[fields[i].of])
            p->columns[i].heading = NULL;
    }
    return table_head(format, p->columns);
}

int eval_print_result(const struct eval_print *p, const struct eval_result *r)
{
    const struct table_cell cells[N_FIELDS] = {
#define CELL(name, heading, digits, of, ...) {__VA_ARGS__},
        FIELDS(CELL)
#undef CELL
    };

    return table_row(p->format, p->columns, cells);
}
