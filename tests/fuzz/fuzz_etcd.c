/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as etcd's answer: refused with a reason, or workers whose lines are sound. */
#include <stdlib.h>
#include <string.h>

#include "control/fleet/etcd_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char number[ETCD_NUMBER], err[WORKERS_ERR] = "", line[WORKER_LINE],
                              *text = malloc(size ? size : 1);
    struct workers w;
    unsigned n_bad;
    if (!text)
        return 0;
    memcpy(text, data, size);
    if (etcd_parse_range(text, size, "/f/", &w, number, &n_bad, err) == 0) {
        if (!n_bad != !err[0] || strlen(number) >= ETCD_NUMBER)
            abort();
        for (size_t i = 0; i < w.n; i++) {
            struct worker again;
            worker_format(&w.list[i], line);
            if (worker_parse(line, strlen(line), "line", &again, err) != 1)
                abort();
        }
        workers_free(&w);
    } else if (!err[0] || strchr(err, '\n')) {
        abort();
    }
    etcd_parse_watch(text, size);
    etcd_parse_keepalive(text, size);
    *err = '\0';
    if (etcd_parse_grant(text, size, number, err) < 0 && !err[0])
        abort();
    *err = '\0';
    if (etcd_parse_done(text, size, err) < 0 && !err[0])
        abort();
    free(text);
    return 0;
}
