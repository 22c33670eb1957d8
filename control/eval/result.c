/* SPDX-License-Identifier: Apache-2.0 */
#include "control/eval/result.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"
#include "dataplane/wire.h"

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

struct eval_result eval_result(const struct eval *e, struct eval_trial *t, const char *suite)
{
    const struct eval_carried *c = t->text.traffic.codec.rows ? &t->text : &t->suite;
    const struct codec_stats *s = &c->traffic.codec;
    const double rows = (double)s->rows, bytes = (double)s->bytes;
    const struct eval_result_score none = {NAN, NAN, NAN, NAN, NAN};
    struct eval_result r = {
        .suite = suite,
        .exact = e->params->exact,
        .split = t->split,
        .message_rows = e->params->message_rows,
        .bits_per_value = bytes * 8 / (double)s->values,
        .bytes_per_token = bytes / rows,
        .wire_bytes_per_token = (bytes + (double)c->traffic.packets * WIRE_OVERHEAD) / rows,
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

    codec_arg_format(&t->params, r.codec);
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

/* --- to a line ------------------------------------------------------------------------------- */

enum of { ALWAYS, TEXT, SUITE };

static const struct field {
    const char *key, *title; /* title: in Markdown */
    size_t offset;           /* of a double in struct eval_result */
    enum of of;
    bool whole; /* a count */
} fields[] = {
#define FIELD(key, title, member, of, whole)                                                       \
    {                                                                                              \
        key, title, offsetof(struct eval_result, member), of, whole                                \
    }
    FIELD("split", "split", split, ALWAYS, true),
    FIELD("rows", "rows", message_rows, ALWAYS, true),
    FIELD("tokens", "tokens", tokens, TEXT, true),
    FIELD("bits_per_value", "bits/value", bits_per_value, ALWAYS, false),
    FIELD("bytes_per_token", "bytes/token", bytes_per_token, ALWAYS, false),
    FIELD("wire_bytes_per_token", "wire bytes/token", wire_bytes_per_token, ALWAYS, false),
    FIELD("rel_l2", "relative L2", rel_l2, ALWAYS, false),
    FIELD("kl_mean", "mean KL", kl_mean, TEXT, false),
    FIELD("kl_median", "median KL", kl_median, TEXT, false),
    FIELD("kl_p99", "p99 KL", kl_p99, TEXT, false),
    FIELD("kl_max", "max KL", kl_max, TEXT, false),
    FIELD("top1", "top-1", top1, TEXT, false),
    FIELD("ppl", "perplexity", ppl, TEXT, false),
    FIELD("ppl_ref", "reference", ppl_ref, TEXT, false),
    FIELD("ppl_full", "full perplexity", ppl_full, TEXT, false),
    FIELD("ppl_full_ref", "reference", ppl_full_ref, TEXT, false),
    FIELD("items", "items", items, SUITE, true),
    FIELD("acc", "acc", acc.acc, SUITE, false),
    FIELD("acc_ref", "reference", acc.acc_ref, SUITE, false),
    FIELD("acc_lost", "lost", acc.lost, SUITE, true),
    FIELD("acc_gained", "gained", acc.gained, SUITE, true),
    FIELD("acc_net", "net", acc.net, SUITE, true),
    FIELD("acc_norm", "acc_norm", acc_norm.acc, SUITE, false),
    FIELD("acc_norm_ref", "reference", acc_norm.acc_ref, SUITE, false),
    FIELD("acc_norm_lost", "lost", acc_norm.lost, SUITE, true),
    FIELD("acc_norm_gained", "gained", acc_norm.gained, SUITE, true),
    FIELD("acc_norm_net", "net", acc_norm.net, SUITE, true),
#undef FIELD
};

#define N_FIELDS (sizeof fields / sizeof fields[0])

static double value_of(const struct eval_result *r, const struct field *f)
{
    double v;

    memcpy(&v, (const char *)r + f->offset, sizeof v);
    return v;
}

static bool shown(const struct eval_print *p, const struct field *f)
{
    return p->format != EVAL_MD || f->of == ALWAYS || (f->of == TEXT ? p->text : p->suite);
}

static int print_json(const struct eval_result *r)
{
    json_t *line = json_object();
    int rc = line ? 0 : -1;

    rc |= json_object_set_new(line, "codec", json_string(r->codec));
    rc |= json_object_set_new(line, "exact", json_boolean(r->exact));
    rc |= json_object_set_new(line, "suite", r->suite ? json_string(r->suite) : json_null());
    for (size_t i = 0; i < N_FIELDS; i++) {
        const double v = value_of(r, &fields[i]);
        json_t *number = !isfinite(v)      ? json_null()
                         : fields[i].whole ? json_integer((json_int_t)v)
                                           : json_real(v);
        rc |= json_object_set_new(line, fields[i].key, number);
    }
    char *text = rc ? NULL : json_dumps(line, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6));
    json_decref(line);
    if (!text)
        return -ENOMEM;
    puts(text);
    free(text);
    return 0;
}

/* A codec's parameters have commas. */
static void print_csv_text(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"')
            putchar('"');
        putchar(*text);
    }
    putchar('"');
}

static void print_cells(const struct eval_print *p, const struct eval_result *r)
{
    const bool md = p->format == EVAL_MD;

    if (md)
        printf("| %s | %s |", r->codec, r->exact ? "true" : "false");
    else {
        print_csv_text(r->codec);
        printf(",%s,%s", r->exact ? "true" : "false", r->suite ? r->suite : "");
    }
    if (md && p->suite)
        printf(" %s |", r->suite);
    for (size_t i = 0; i < N_FIELDS; i++) {
        const double v = value_of(r, &fields[i]);

        if (!shown(p, &fields[i]))
            continue;
        printf(md ? " " : ",");
        if (isfinite(v))
            printf("%.*g", fields[i].whole ? 15 : 6, v);
        else if (md)
            printf("-");
        printf(md ? " |" : "");
    }
    printf("\n");
}

/* --- printing -------------------------------------------------------------------------------- */

static int flush(void)
{
    if (fflush(stdout) == 0)
        return EXIT_OK;
    log_error("stdout: %s", strerror(errno));
    return EXIT_FAILED;
}

int eval_print_head(const struct eval_print *p)
{
    const bool md = p->format == EVAL_MD;
    unsigned columns = md && p->suite ? 3 : 2;

    if (p->format == EVAL_JSONL)
        return EXIT_OK;
    printf(md ? p->suite ? "| codec | exact | suite |" : "| codec | exact |" : "codec,exact,suite");
    for (size_t i = 0; i < N_FIELDS; i++)
        if (shown(p, &fields[i])) {
            printf(md ? " %s |" : ",%s", md ? fields[i].title : fields[i].key);
            columns++;
        }
    printf("\n");
    if (md) {
        printf("|");
        for (unsigned i = 0; i < columns; i++)
            printf("---|");
        printf("\n");
    }
    return flush();
}

int eval_print_result(const struct eval_print *p, const struct eval_result *r)
{
    if (p->format != EVAL_JSONL)
        print_cells(p, r);
    else if (print_json(r) < 0) {
        log_error("out of memory for a result");
        return EXIT_FAILED;
    }
    return flush();
}
