/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of `isthmus bench transport`. */
#ifndef ISTHMUS_CONTROL_BENCH_TRANSPORT_REPORT_H
#define ISTHMUS_CONTROL_BENCH_TRANSPORT_REPORT_H

#include "control/bench/transport_load.h"
#include "control/table.h"
#include "dataplane/port.h"

/* What rows of a port have in common. */
struct transport_report {
    enum table_format format;
    const struct port_caps *caps;
    const char *cipher, *netem; /* the link's; NULL: none */
    const char *cpu, *kernel;
    unsigned cores;
};

struct link_counts { /* while its turns lasted */
    uint64_t retransmits, copied_bytes, driver_copied_bytes;
};

int transport_report_head(enum table_format format); /* as table_head */
/* What came of a case with one kind; link: where that is the link. As table_row. */
int transport_report_row(const struct transport_report *t, const struct load *l,
                         enum transport_kind k, const struct load_result *r,
                         const struct link_counts *link);

#endif
