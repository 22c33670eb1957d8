/* SPDX-License-Identifier: Apache-2.0 */
/* Any frame as a ping: left as it is, or answered to its sender, from us, in as many bytes. */
#include <stdlib.h>
#include <string.h>

#include "dataplane/port/echo.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1}, ip[4] = {10, 0, 0, 1};
    uint8_t *frame = malloc(size ? size : 1);

    if (!frame)
        return 0;
    memcpy(frame, data, size);
    if (!echo_reply(frame, size, 0x0a000001u, mac)) {
        if (memcmp(frame, data, size))
            abort();
    } else if (memcmp(frame, data + 6, 6) || memcmp(frame + 6, mac, 6) || frame[0] & 1 ||
               memcmp(frame + 26, ip, 4) || memcmp(frame + 30, data + 26, 4) ||
               memcmp(frame + 38, data + 38, size - 38)) {
        abort();
    }
    free(frame);
    return 0;
}
