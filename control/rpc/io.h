/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operations on sockets that end later, by io_uring, or by poll and plain calls where the kernel
 * refuses that. One thread.
 */
#ifndef ISTHMUS_CONTROL_RPC_IO_H
#define ISTHMUS_CONTROL_RPC_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum rpc_io_kind { RPC_IO_ACCEPT, RPC_IO_READ, RPC_IO_SEND };

/* Whose memory stays until done was called. */
struct rpc_op {
    enum rpc_io_kind kind;
    int fd;
    void *buffer; /* READ, SEND */
    size_t bytes;
    /* result: the new descriptor, bytes, 0 (READ: the end), or -errno. May submit it again. */
    void (*done)(struct rpc_op *op, int result);
    struct rpc_op *next; /* poll's */
};

struct rpc_io;

/* plain: poll at once. 0 or -ENOMEM. */
int rpc_io_open(bool plain, struct rpc_io **out);

/* All operations have ended, or their memory is not freed before. */
void rpc_io_close(struct rpc_io *io);

bool rpc_io_is_ring(const struct rpc_io *io);

/* Begin it. What can't be begun ends with -EAGAIN at the next rpc_io_wait. */
void rpc_io_submit(struct rpc_io *io, struct rpc_op *op);

/* Until something has ended or timeout_ns (UINT64_MAX: none) is over; done is called inside. */
void rpc_io_wait(struct rpc_io *io, uint64_t timeout_ns);

#endif
