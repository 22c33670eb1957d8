/* SPDX-License-Identifier: Apache-2.0 */
/* Files of admitted peers: read whole or refused with a line that names the line. */
#include <stdlib.h>
#include <string.h>

#include "dataplane/secure/authorized.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[IDENTITY_ERR] = "", *text = malloc(size ? size : 1);
    struct authorized *a = NULL;
    struct fingerprint f;

    if (!text)
        return 0;
    memcpy(text, data, size); /* exactly as long: reads past it are seen */
    if (authorized_parse(text, size, "file", &a, err) == 0) {
        if (!authorized_count(a) || err[0])
            abort();
    } else if (!err[0] || strchr(err, '\n')) {
        abort();
    }
    authorized_close(a);
    (void)fingerprint_parse(text, size, &f);
    free(text);
    return 0;
}
