/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A recorded path (tests/bench/record_trace.py): text, a line "isthmus-link-trace 1", then lines of
 * four numbers: ms since the beginning, which rise; kbit/s; round trip in ms; share of packets
 * lost. Lines that begin with # are passed over.
 */
#ifndef ISTHMUS_TESTS_SIM_TRACE_H
#define ISTHMUS_TESTS_SIM_TRACE_H

#include <stdint.h>
#include <stdio.h>

#define LINK_TRACE_LINES 4096u

struct link_trace {
    uint32_t n;
    struct link_trace_line {
        double at_ms, kbit_per_s, rtt_ms, loss;
    } at[LINK_TRACE_LINES];
};

/* 0; or -EBADMSG, *line being the line that is wrong: what it says, its length, or one too many or
 * too few of them. */
int link_trace_read(FILE *f, struct link_trace *t, unsigned *line);

#endif
