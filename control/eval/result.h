/* SPDX-License-Identifier: Apache-2.0 */
/* What an evaluation found of one codec at one split, and how it is printed. */
#ifndef ISTHMUS_CONTROL_EVAL_RESULT_H
#define ISTHMUS_CONTROL_EVAL_RESULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/codec_arg.h"
#include "control/eval/trial.h"
#include "control/table.h"

#define EVAL_COLUMNS_MAX 48u

/* NaN: not measured, or there is no such number. */
struct eval_result {
    char codec[CODEC_ARG_MAX]; /* under a target: with the parameter used last */
    char profile[17];          /* its hash's first half; "": none */
    const char *suite;         /* NULL: none */
    const char *kv; /* format of the KV cache on trial */
    bool exact;
    double split, message_rows;
    double target_kl, target_bytes_per_token, parameter_min, parameter_max;
    double bits_per_value, bytes_per_token, wire_bytes_per_token, rel_l2;
    double tokens, kl_mean, kl_median, kl_p99, kl_max, top1;
    double ppl, ppl_ref, ppl_full, ppl_full_ref;
    double items;
    struct eval_result_score {
        double acc, acc_ref, lost, gained, net;
    } acc, acc_norm;
};

/* suite: its name, or NULL. Once a trial. */
struct eval_result eval_result(const struct eval *e, struct eval_trial *t, const char *suite);

/* How results are printed. */
struct eval_print {
    enum table_format format;
    struct table_column columns[EVAL_COLUMNS_MAX + 1];
};

/* The table's head to stdout; Markdown leaves out columns of what was not asked for, text, suite
 * or target, and profiles.
 * EXIT_OK or an exit code, the error said; here and below. */
int eval_print_start(struct eval_print *p, enum table_format format, bool text, bool suite,
                     bool target);
int eval_print_result(const struct eval_print *p, const struct eval_result *r);

#endif
