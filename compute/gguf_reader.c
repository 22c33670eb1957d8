/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/gguf_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "compute/gguf_impl.h"

#define ALIGN 4096u /* of O_DIRECT: no device of today wants more */

/* One piece on its way, or in use. */
struct slot {
    const struct gguf_tensor *t;
    uint64_t from;
    size_t n;
    uint8_t *buffer;
    size_t skip; /* bytes read before the piece, for alignment */
    bool queued; /* with the ring; else still to be read */
    bool ended;
    int result; /* of the ring, when ended */
};

struct gguf_reader {
    const struct gguf *g;
    enum gguf_reading how;
    struct io_uring ring;
    int fd;                   /* with O_DIRECT or g's */
    unsigned depth, first, n; /* slots [first, first + n) are out */
    uint8_t *buffers;
    size_t buffer_bytes;
    struct slot slots[];
};

/* --- open, close ----------------------------------------------------------------------------- */

static size_t buffer_bytes(size_t piece_bytes)
{
    return (piece_bytes + 2 * ALIGN - 1) / ALIGN * ALIGN;
}

/* The same file once more, whatever stands at its path by now. */
static int open_direct(const struct gguf *g)
{
    char path[32];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", g->fd);
    return open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
}

static void start(struct gguf_reader *r)
{
    if (r->how == GGUF_READ_PLAIN)
        return;
    if (io_uring_queue_init(r->depth, &r->ring, 0)) {
        r->how = GGUF_READ_PLAIN;
        return;
    }
    if (r->how == GGUF_READ_DIRECT)
        r->fd = open_direct(r->g);
    if (r->fd < 0) {
        r->fd = r->g->fd;
        r->how = GGUF_READ_QUEUED;
    }
}

int gguf_reader_open(const struct gguf *g, enum gguf_reading *how, unsigned depth,
                     size_t piece_bytes, struct gguf_reader **out)
{
    struct gguf_reader *r = calloc(1, sizeof(*r) + depth * sizeof(r->slots[0]));

    *out = NULL;
    if (!r)
        return -ENOMEM;
    r->g = g;
    r->how = g->fd < 0 ? GGUF_READ_PLAIN : *how;
    r->fd = g->fd;
    r->depth = depth;
    r->buffer_bytes = buffer_bytes(piece_bytes);
    r->buffers = mmap(NULL, depth * r->buffer_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r->buffers == MAP_FAILED) {
        free(r);
        return -ENOMEM;
    }
    for (unsigned i = 0; i < depth; i++)
        r->slots[i].buffer = r->buffers + i * r->buffer_bytes;
    start(r);
    *how = r->how;
    *out = r;
    return 0;
}

/* --- the ring -------------------------------------------------------------------------------- */

static void queue(struct gguf_reader *r, struct slot *s)
{
    const uint64_t at = s->t->offset + s->from;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

    if (!sqe)
        return;
    s->skip = r->how == GGUF_READ_DIRECT ? at % ALIGN : 0;
    size_t n = s->skip + s->n;
    if (r->how == GGUF_READ_DIRECT)
        n = (n + ALIGN - 1) / ALIGN * ALIGN;
    io_uring_prep_read(sqe, r->fd, s->buffer, (unsigned)n, at - s->skip);
    io_uring_sqe_set_data(sqe, s);
    s->queued = true;
    io_uring_submit(
        &r->ring); /* what is refused now goes with the next, or when it is waited for */
}

/* Until the slot's read has ended. 0, or -errno when the ring itself fails. */
static int await(struct gguf_reader *r, const struct slot *s)
{
    while (!s->ended) {
        struct io_uring_cqe *cqe;
        int rc = io_uring_peek_cqe(&r->ring, &cqe);

        if (rc == -EAGAIN) {
            rc = io_uring_submit_and_wait(&r->ring, 1);
            if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY)
                return rc;
            continue;
        }
        if (rc)
            return rc;
        struct slot *of = io_uring_cqe_get_data(cqe);
        of->result = cqe->res;
        of->ended = true;
        io_uring_cqe_seen(&r->ring, cqe);
    }
    return 0;
}

void gguf_reader_close(struct gguf_reader *r)
{
    if (!r)
        return;
    /* The kernel may still write to the buffers. */
    for (unsigned i = 0; i < r->n; i++) {
        const struct slot *s = &r->slots[(r->first + i) % r->depth];
        if (s->queued && await(r, s))
            break;
    }
    if (r->how != GGUF_READ_PLAIN)
        io_uring_queue_exit(&r->ring);
    if (r->fd != r->g->fd)
        close(r->fd);
    munmap(r->buffers, r->depth * r->buffer_bytes);
    free(r);
}

/* --- pieces ---------------------------------------------------------------------------------- */

bool gguf_reader_ask(struct gguf_reader *r, const struct gguf_tensor *t, uint64_t from, size_t n)
{
    if (r->n == r->depth)
        return false;
    struct slot *s = &r->slots[(r->first + r->n++) % r->depth];
    *s = (struct slot){.t = t, .from = from, .n = n, .buffer = s->buffer};
    if (r->how != GGUF_READ_PLAIN)
        queue(r, s);
    else if (r->g->fd >= 0)
        posix_fadvise(r->g->fd, (off_t)(t->offset + from), (off_t)n, POSIX_FADV_WILLNEED);
    return true;
}

int gguf_reader_next(struct gguf_reader *r, const void **data, char *err)
{
    struct slot *s = &r->slots[r->first];

    *data = s->buffer;
    if (s->queued) {
        int rc = await(r, s);
        if (rc)
            return gguf_fail(r->g->path, err, rc, "tensor %s: io_uring: %s", s->t->name,
                             strerror(-rc));
        if (s->result >= 0 && (size_t)s->result >= s->skip + s->n) {
            *data = s->buffer + s->skip;
            return 0;
        }
    }
    /* Not queued; or refused, cut short or failed: the plain way can tell what is wrong, if
     * anything is. */
    return gguf_read(r->g, s->t, s->from, s->buffer, s->n, err);
}

void gguf_reader_done(struct gguf_reader *r)
{
    r->first = (r->first + 1) % r->depth;
    r->n--;
}
