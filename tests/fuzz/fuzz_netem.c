/* SPDX-License-Identifier: Apache-2.0 */
/* Any text as impairments: refused with a reason, or values that fit together and make a path. */
#include <stdlib.h>
#include <string.h>

#include "dataplane/netem.h"

static void check(int ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[NETEM_ERR] = "", *text = malloc(size + 1);
    struct netem_params p;
    struct netem_line *l;

    check(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    if (netem_parse(text, &p, err)) {
        check(err[0] && strlen(err) < sizeof err);
        free(text);
        return 0;
    }
    check(netem_check(&p, err) == 0 && netem_line_open(&p, 14, &l) == 0);
    /* All that enters leaves, or is counted as lost. */
    uint64_t now_ns = 0;
    for (int i = 0; i < 64; i++) {
        check(netem_line_put(l, now_ns, (const uint8_t *)text, (uint32_t)(size + 1)) == 0);
        now_ns += (uint64_t)i * 1000;
    }
    for (uint64_t ns; (ns = netem_line_next_ns(l)) != UINT64_MAX;) {
        check(netem_line_due(l, ns) != NULL);
        netem_line_pop(l);
    }
    const struct netem_stats *s = netem_line_stats(l);
    check(s->packets == 64 &&
          s->out_packets == 64 - s->dropped - s->overflowed - s->too_long + s->duplicated);
    netem_line_close(l);
    free(text);
    return 0;
}
