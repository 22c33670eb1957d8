/* SPDX-License-Identifier: Apache-2.0 */
/* Any frame behind any header of the kernel's: cut within its bounds, or refused. */
#include <stdlib.h>
#include <string.h>

#include "dataplane/port/segment.h"

struct seen {
    uint32_t frames, longest;
    unsigned sum;
};

static void look(void *arg, const uint8_t *frame, uint32_t len)
{
    struct seen *s = arg;
    s->frames++;
    s->longest = len > s->longest ? len : s->longest;
    for (uint32_t i = 0; i < len; i++)
        s->sum += frame[i]; /* all of it is there */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct virtio_net_hdr h;
    struct seen s = {0};
    if (size < sizeof h || size > 65536)
        return 0;
    memcpy(&h, data, sizeof h);
    const uint32_t len = (uint32_t)(size - sizeof h);
    /* Memory of their own, to the byte, so that a sanitizer sees what is beyond. */
    uint8_t *frame = malloc(len + !len), *scratch = malloc(SEGMENT_HEADERS_MAX + h.gso_size);
    if (!frame || !scratch)
        abort();
    memcpy(frame, data + sizeof h, len);
    const int n = segment_frame(&h, frame, len, scratch, look, &s);
    if (s.frames != (uint32_t)(n < 0 ? 0 : n) || n == 0 ||
        (h.gso_type && s.longest > SEGMENT_HEADERS_MAX + h.gso_size))
        abort();
    free(frame);
    free(scratch);
    return 0;
}
