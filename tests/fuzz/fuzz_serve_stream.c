/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as what a server streams: however they are cut, the same comes of them, within bounds.
 */
#include "control/bench/serve_stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void check(int ok)
{
    if (!ok)
        abort();
}

static void count(void *arg)
{
    ++*(uint64_t *)arg;
}

/* In pieces of so many bytes, each where nothing lies behind it. */
static int feed(struct stream *s, const uint8_t *data, size_t size, size_t piece)
{
    while (size) {
        const size_t n = size < piece ? size : piece;
        char *own = malloc(n);
        check(own != NULL);
        memcpy(own, data, n);
        stream_feed(s, own, n);
        free(own);
        data += n;
        size -= n;
    }
    return stream_end(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte says how they are cut. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stream whole, cut;
    uint64_t texts = 0, texts_cut = 0;
    char error[STREAM_ERROR];
    if (size == 0)
        return 0;
    const size_t piece = 1 + data[0] % 16u;
    data++, size--;

    stream_open(&whole, count, &texts);
    stream_open(&cut, count, &texts_cut);
    const int rc = feed(&whole, data, size, size + 1);
    check(feed(&cut, data, size, piece) == rc);
    check(rc == 0 || rc == -EPIPE || rc == -EBADMSG || rc == -EMSGSIZE || rc == -EREMOTEIO);
    check(rc == 0 || (*whole.error && strcmp(whole.error, cut.error) == 0));
    check(texts == whole.texts && texts == texts_cut && whole.done == cut.done);
    check(whole.completion_tokens >= -1 && whole.completion_tokens <= STREAM_TOKENS_MAX);
    check(whole.completion_tokens == cut.completion_tokens);
    for (const char *c = whole.error; *c; c++)
        check((unsigned char)*c >= ' ');
    stream_close(&whole);
    stream_close(&cut);

    char *name = stream_first_model((const char *)data, size);
    check(!name || *name);
    free(name);
    stream_error_of((const char *)data, size, error);
    check(strlen(error) < sizeof error);
    return 0;
}
