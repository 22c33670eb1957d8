/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a name server's answer: refused, or workers whose lines are sound. */
#include <stdlib.h>
#include <string.h>

#include "control/fleet/srv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char address[SRV_ADDRESS], line[WORKER_LINE], err[WORKERS_ERR];
    uint8_t *answer = malloc(size ? size : 1);
    struct srv_answer a;
    struct workers w;
    uint32_t ttl_s = 0;
    if (!answer)
        return 0;
    memcpy(answer, data, size);
    srv_parse_address(answer, size, address, &ttl_s);
    if (srv_parse(answer, size, &a) == 0 && srv_workers(&a, &w) == 0) {
        if (w.n > a.n || (a.n && !a.ttl_s))
            abort();
        for (size_t i = 0; i < w.n; i++) {
            struct worker again;
            worker_format(&w.list[i], line);
            if (worker_parse(line, strlen(line), "line", &again, err) != 1)
                abort();
        }
        workers_free(&w);
    }
    srv_free(&a);
    free(answer);
    return 0;
}
