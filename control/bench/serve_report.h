/* SPDX-License-Identifier: Apache-2.0 */
/* What `bench serve` found, as rows and as a picture. */
#ifndef ISTHMUS_CONTROL_BENCH_SERVE_REPORT_H
#define ISTHMUS_CONTROL_BENCH_SERVE_REPORT_H

#include "control/bench/serve_load.h"
#include "control/table.h"

/* A row for the load, and one for the intruders where there were any. EXIT_OK or EXIT_FAILED, said.
 */
int serve_report(enum table_format format, const struct load_params *p,
                 const struct load_figures *figures);

/* How the times are distributed, after gnuplot_check. EXIT_OK or an exit code, said. */
int serve_plot(const char *path, const struct load_figures *figures);

#endif
