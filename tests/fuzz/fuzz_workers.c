/* SPDX-License-Identifier: Apache-2.0 */
/* Files of workers: read whole or refused with a line that names the line; what was read reads
 * again. */
#include <stdlib.h>
#include <string.h>

#include "control/fleet/workers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[WORKERS_ERR] = "", line[WORKER_LINE], *text = malloc(size ? size : 1);
    struct workers w;
    if (!text)
        return 0;
    memcpy(text, data, size); /* exactly as long: reads past it are seen */
    if (workers_parse(text, size, "file", &w, err) < 0) {
        if (!err[0] || strchr(err, '\n') || w.n)
            abort();
    }
    for (size_t i = 0; i < w.n; i++) {
        struct worker again;
        worker_format(&w.list[i], line);
        if (worker_parse(line, strlen(line), "line", &again, err) != 1 ||
            !worker_same(&w.list[i], &again) || again.draining != w.list[i].draining ||
            (i && strcmp(w.list[i - 1].name, w.list[i].name) >= 0))
            abort();
    }
    workers_free(&w);
    free(text);
    return 0;
}
