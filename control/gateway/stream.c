/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An answer as a stream. MHD sends its head, the first events and its end. What is new in between
 * is written to the socket by ourselves, each time as a chunk of its own: MHD's connection stays
 * suspended, with nothing in its buffer, so that a token costs neither its resumption nor a turn of
 * its loop.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "control/gateway/impl.h"

#define BLOCK_BYTES 8192u
#define HEAD_BYTES  10u /* a chunk's length in hexadecimal digits, and the end of its line */

/* --- by MHD ------------------------------------------------------------------------------------- */

static ssize_t read_events(void *arg, uint64_t pos, char *to, size_t max)
{
    struct exchange *x = arg;
    (void)pos;
    if (x->gone || x->out.failed)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (x->n_out == x->out.n) {
        x->n_out = x->out.n = 0;
        reply_events(&x->out, &x->completion);
    }
    const size_t left = x->out.n - x->n_out, n = left < max ? left : max;
    if (n > 0) {
        memcpy(to, x->out.bytes + x->n_out, n);
        x->n_out += n;
        return (ssize_t)n;
    }
    if (x->out.failed)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (x->completion.ended)
        return MHD_CONTENT_READER_END_OF_STREAM;
    x->direct = x->chunked && x->watched; /* all that there was has left MHD's buffer */
    exchange_suspend(x);
    return 0;
}

enum MHD_Result stream_reply(struct exchange *x)
{
    struct MHD_Response *r =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, read_events, x, NULL);
    if (!r)
        return MHD_NO;
    MHD_add_response_header(r, "Content-Type", "text/event-stream");
    MHD_add_response_header(r, "Cache-Control", "no-cache");
    x->status = 200;
    const enum MHD_Result rc = MHD_queue_response(x->connection, 200, r);
    MHD_destroy_response(r);
    return rc;
}

/* --- past it ------------------------------------------------------------------------------------ */

/* Before a chunk of n bytes, up to `end`: where it begins. */
static size_t write_head(char *bytes, size_t end, size_t n)
{
    bytes[--end] = '\n';
    bytes[--end] = '\r';
    do
        bytes[--end] = "0123456789ABCDEF"[n % 16];
    while (n /= 16);
    return end;
}

/* As much as the socket takes; the rest when it has room. False: the client has left. */
static bool put(struct exchange *x)
{
    const ssize_t n = send(x->client->fd, x->out.bytes + x->n_out, x->out.n - x->n_out,
                           MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        return false;
    x->n_out += n > 0 ? (size_t)n : 0;
    x->blocked = x->n_out < x->out.n;
    if (x->blocked)
        exchange_watch(x, true);
    return true;
}

bool stream_push(struct exchange *x)
{
    struct out *o = &x->out;
    if (x->blocked)
        return true;
    if (completion_is_whole(&x->completion))
        return false;
    o->n = 0;
    out_bytes(o, "00000000\r\n", HEAD_BYTES);
    reply_events(o, &x->completion);
    const size_t n = o->n - HEAD_BYTES;
    out_bytes(o, "\r\n", 2);
    if (o->failed || n > UINT32_MAX) {
        o->failed = true;
        return false;
    }
    x->n_out = n ? write_head(o->bytes, HEAD_BYTES, n) : o->n;
    return n == 0 || put(x);
}

bool stream_go_on(struct exchange *x)
{
    return !x->blocked || put(x);
}
