/* SPDX-License-Identifier: Apache-2.0 */
/* The figures of a run: one JSON object, or one line for people. */
#ifndef ISTHMUS_CONTROL_REPORT_H
#define ISTHMUS_CONTROL_REPORT_H

#include "control/front.h"
#include "control/generation.h"

/* Each prints one line to stdout. EXIT_OK or an exit code. */
int report_run_json(struct front *f, const struct generation *g);
int report_result_json(unsigned line, const struct generation *g);
int report_error_json(unsigned line, const char *error);
struct report_totals {
    uint64_t requests, failed, prompt_tokens, shared_tokens, tokens, elapsed_ns;
};
int report_totals_json(struct front *f, const struct report_totals *t);

/* One line to stderr. */
void report_run_line(const struct front *f, const struct generation *g);
void report_totals_line(const struct front *f, const struct report_totals *t);

#endif
