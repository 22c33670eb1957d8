/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_LINES 10u
#define AT_MAX_MS   3.6e6
#define RATE_MAX    1e8 /* kbit/s */
#define RTT_MAX_MS  1e4

/* The number at *text, which a blank or the end follows, from min to max; moves *text behind it. */
static int number(char **text, double min, double max, double *x)
{
    char *end;

    *x = strtod(*text, &end);
    if (end == *text || !strchr(" \n", *end) || !(*x >= min && *x <= max))
        return -EBADMSG;
    *text = end;
    return 0;
}

static int read_line(char *text, struct link_trace *t)
{
    struct link_trace_line *l = &t->at[t->n];

    if (t->n == LINK_TRACE_LINES || number(&text, 0, AT_MAX_MS, &l->at_ms) ||
        number(&text, 0, RATE_MAX, &l->kbit_per_s) || number(&text, 0, RTT_MAX_MS, &l->rtt_ms) ||
        number(&text, 0, 1, &l->loss) || strcmp(text, "\n") != 0)
        return -EBADMSG;
    if (t->n ? l->at_ms <= t->at[t->n - 1].at_ms : l->at_ms != 0)
        return -EBADMSG;
    t->n++;
    return 0;
}

int link_trace_read(FILE *f, struct link_trace *t, unsigned *line)
{
    char text[200];

    t->n = 0;
    for (*line = 1; fgets(text, sizeof text, f); ++*line) {
        if (*line == 1 ? strcmp(text, "isthmus-link-trace 1\n") != 0
                       : text[0] != '#' && read_line(text, t))
            return -EBADMSG;
    }
    return t->n < LEAST_LINES ? -EBADMSG : 0;
}
