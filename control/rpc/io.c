/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rpc/io.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "control/rpc/rpc.h"

#define OPS_MAX (RPC_CLIENTS_MAX + 2u) /* one each; the listener's, and the bell's */

struct rpc_io {
    struct io_uring ring;
    bool is_ring;
    struct rpc_op *waiting; /* poll: those that are under way. Ring: those it had no room for */
};

int rpc_io_open(bool plain, struct rpc_io **out)
{
    struct rpc_io *io = calloc(1, sizeof *io);
    if (!io)
        return -ENOMEM;
    io->is_ring = !plain && io_uring_queue_init(OPS_MAX, &io->ring, 0) == 0;
    *out = io;
    return 0;
}

void rpc_io_close(struct rpc_io *io)
{
    if (!io)
        return;
    if (io->is_ring)
        io_uring_queue_exit(&io->ring);
    free(io);
}

bool rpc_io_is_ring(const struct rpc_io *io)
{
    return io->is_ring;
}

static void keep(struct rpc_io *io, struct rpc_op *op)
{
    op->next = io->waiting;
    io->waiting = op;
}

void rpc_io_submit(struct rpc_io *io, struct rpc_op *op)
{
    struct io_uring_sqe *sqe = io->is_ring ? io_uring_get_sqe(&io->ring) : NULL;
    if (!sqe) {
        keep(io, op);
        return;
    }
    if (op->kind == RPC_IO_ACCEPT)
        io_uring_prep_accept(sqe, op->fd, NULL, NULL, SOCK_CLOEXEC);
    else if (op->kind == RPC_IO_READ)
        io_uring_prep_read(sqe, op->fd, op->buffer, (unsigned)op->bytes, 0);
    else
        io_uring_prep_send(sqe, op->fd, op->buffer, op->bytes, MSG_NOSIGNAL);
    io_uring_sqe_set_data(sqe, op);
}

static struct timespec span(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u),
                             .tv_nsec = (long)(ns % 1000000000u)};
}

/* --- io_uring -----------------------------------------------------------------------------------
 */

static void end_refused(struct rpc_io *io)
{
    struct rpc_op *op = io->waiting;
    io->waiting = NULL;
    for (struct rpc_op *next; op; op = next) {
        next = op->next;
        op->done(op, -EAGAIN);
    }
}

static void wait_ring(struct rpc_io *io, uint64_t timeout_ns)
{
    struct __kernel_timespec until = {.tv_sec = (long long)(timeout_ns / 1000000000u),
                                      .tv_nsec = (long long)(timeout_ns % 1000000000u)};
    struct io_uring_cqe *cqe;
    if (io->waiting) {
        end_refused(io);
        io_uring_submit(&io->ring);
    } else {
        io_uring_submit_and_wait_timeout(&io->ring, &cqe, 1,
                                         timeout_ns == UINT64_MAX ? NULL : &until, NULL);
    }
    while (io_uring_peek_cqe(&io->ring, &cqe) == 0) {
        struct rpc_op *op = io_uring_cqe_get_data(cqe);
        const int result = cqe->res;
        io_uring_cqe_seen(&io->ring, cqe);
        if (op) /* else the timeout's */
            op->done(op, result);
    }
}

/* --- poll ---------------------------------------------------------------------------------------
 */

static int attempt(const struct rpc_op *op)
{
    ssize_t n;
    if (op->kind == RPC_IO_ACCEPT)
        n = accept4(op->fd, NULL, NULL, SOCK_CLOEXEC);
    else if (op->kind == RPC_IO_READ)
        n = read(op->fd, op->buffer, op->bytes);
    else
        n = send(op->fd, op->buffer, op->bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    return n < 0 ? -errno : (int)n;
}

static void wait_poll(struct rpc_io *io, uint64_t timeout_ns)
{
    struct pollfd fds[OPS_MAX];
    struct rpc_op *ops = io->waiting, *op;
    const struct timespec until = span(timeout_ns);
    nfds_t n = 0;
    for (op = ops; op && n < OPS_MAX; op = op->next)
        fds[n++] = (struct pollfd){op->fd, op->kind == RPC_IO_SEND ? POLLOUT : POLLIN, 0};
    if (ppoll(fds, n, timeout_ns == UINT64_MAX ? NULL : &until, NULL) <= 0)
        return;
    io->waiting = op; /* none, or more than there can be */
    for (nfds_t i = 0; i < n; i++) {
        op = ops;
        ops = ops->next;
        const int result = fds[i].revents ? attempt(op) : -EAGAIN;
        if (result == -EAGAIN || result == -EINTR)
            keep(io, op);
        else
            op->done(op, result);
    }
}

void rpc_io_wait(struct rpc_io *io, uint64_t timeout_ns)
{
    if (io->is_ring)
        wait_ring(io, timeout_ns);
    else
        wait_poll(io, timeout_ns);
}
