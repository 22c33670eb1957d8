/* SPDX-License-Identifier: Apache-2.0 */
/* One thread's work done by another, which looks for it between other things. */
#ifndef ISTHMUS_CONTROL_RPC_MAILBOX_H
#define ISTHMUS_CONTROL_RPC_MAILBOX_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct rpc_mailbox {
    pthread_mutex_t lock;
    pthread_cond_t done;
    atomic_bool full; /* read without the lock */
    bool running, closed;
    void (*fn)(void *arg);
    void *arg;
    void (*wake)(void *arg);
    void *wake_arg;
    uint64_t patience_ns; /* how long it may lie there */
};

/* 0 or -errno. */
int rpc_mailbox_open(struct rpc_mailbox *m, void (*wake)(void *arg), void *wake_arg,
                     uint64_t patience_ns);
void rpc_mailbox_close(struct rpc_mailbox *m);

/* From one thread at a time. 0: it was run; -ETIMEDOUT: not begun for so long, and it won't be;
 * -ESHUTDOWN: nobody looks any more. */
int rpc_mailbox_call(struct rpc_mailbox *m, void (*fn)(void *arg), void *arg);

/* The other thread. */
void rpc_mailbox_run(struct rpc_mailbox *m);
void rpc_mailbox_shut(struct rpc_mailbox *m);

#endif
