/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernel UDP by io_uring: one multishot receive that fills buffers of a registered ring until they
 * run out, and a whole burst of sends by one system call. Where the kernel answers at once the
 * answers are in shared memory: looking for packets costs no system call.
 */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "dataplane/port/udp.h"

#define BUFFERS      64u
#define GROUP_ID     0
#define SLOTS        64u /* sends under way */
#define ENTRIES      128u
#define RECEIVE      0u           /* user_data of the receive; a send's is its slot + 1 */
#define WAKE         (SLOTS + 1u) /* of the poll of port_wake_fd */
#define NAME         32u          /* room for an address, so that what follows is aligned */
#define CONTROL      CMSG_SPACE(sizeof(int))
#define BUFFER_BYTES (UDP_DATAGRAM_MAX + sizeof(struct io_uring_recvmsg_out) + NAME + CONTROL)

struct slot {
    struct udp_message message;
    struct pkt *pkts[UDP_GROUP_MAX];
    unsigned n; /* 0: free */
};

struct arrival {
    unsigned buffer;
    int bytes;
};

struct uring {
    struct io_uring ring;
    struct io_uring_buf_ring *buffers;
    size_t buffers_bytes, memory_bytes;
    uint8_t *memory;  /* [BUFFERS][BUFFER_BYTES] */
    struct msghdr in; /* what a receive is to give beside the payload */
    bool armed;
    bool wakes;   /* port_wake_fd is being polled */
    bool refused; /* the receive ended before it gave anything */
    struct arrival arrived[BUFFERS];
    unsigned first, n_arrived;
    unsigned out; /* buffers that are not the kernel's */
    struct slot slots[SLOTS];
    unsigned busy;
};

static uint8_t *buffer_at(const struct uring *x, unsigned i)
{
    return x->memory + (size_t)i * BUFFER_BYTES;
}

static void offer(struct uring *x, unsigned i)
{
    io_uring_buf_ring_add(x->buffers, buffer_at(x, i), BUFFER_BYTES, (unsigned short)i,
                          io_uring_buf_ring_mask(BUFFERS), 0);
    io_uring_buf_ring_advance(x->buffers, 1);
}

static void arm(struct udp *u, struct uring *x)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&x->ring);
    if (!sqe)
        return;
    io_uring_prep_recvmsg_multishot(sqe, 0, &x->in, 0);
    sqe->flags |= IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT;
    sqe->buf_group = GROUP_ID;
    sqe->user_data = RECEIVE;
    x->armed = io_uring_submit(&x->ring) >= 0;
    (void)u;
}

static void sent(struct udp *u, struct uring *x, struct slot *s, int result)
{
    unsigned n = s->n;
    for (unsigned i = 0; i < n; i++)
        pkt_unref(s->pkts[i]);
    s->n = 0;
    x->busy--;
    if (result < 0 && result != -ECANCELED)
        udp_send_failed(u, -result, &s->message.msg);
}

static void received(struct udp *u, struct uring *x, const struct io_uring_cqe *cqe)
{
    if (!(cqe->flags & IORING_CQE_F_MORE))
        x->armed = false;
    if (cqe->flags & IORING_CQE_F_BUFFER) {
        unsigned i = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
        x->out++;
        x->arrived[(x->first + x->n_arrived++) % BUFFERS] = (struct arrival){i, cqe->res};
    } else if (cqe->res < 0 && cqe->res != -ENOBUFS && cqe->res != -ECANCELED) {
        x->refused = cqe->res == -EINVAL || cqe->res == -EOPNOTSUPP;
        udp_read_errors(u);
    }
}

/* Take what the kernel has finished. */
static void reap(struct udp *u, struct uring *x)
{
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(&x->ring, &cqe) == 0) {
        if (cqe->user_data == RECEIVE)
            received(u, x, cqe);
        else if (cqe->user_data == WAKE)
            x->wakes = false;
        else
            sent(u, x, &x->slots[cqe->user_data - 1], cqe->res);
        io_uring_cqe_seen(&x->ring, cqe);
    }
}

static bool uring_fetch(struct udp *u, struct udp_received *r)
{
    struct uring *x = u->engine_data;
    for (;;) {
        if (x->n_arrived == 0)
            reap(u, x);
        if (x->n_arrived == 0) {
            if (!x->armed && x->out == 0)
                arm(u, x);
            return false;
        }
        struct arrival a = x->arrived[x->first];
        x->first = (x->first + 1) % BUFFERS;
        x->n_arrived--;
        *r = (struct udp_received){.buffer = a.buffer};
        struct io_uring_recvmsg_out *o =
            a.bytes < 0 ? NULL : io_uring_recvmsg_validate(buffer_at(x, a.buffer), a.bytes, &x->in);
        if (o) {
            struct msghdr m = {.msg_control =
                                   (uint8_t *)io_uring_recvmsg_name(o) + x->in.msg_namelen,
                               .msg_controllen = o->controllen};
            size_t n = o->namelen < sizeof(r->from) ? o->namelen : sizeof(r->from);
            memcpy(&r->from, io_uring_recvmsg_name(o), n);
            r->segment_bytes = udp_joined_bytes(&m);
            r->bytes = io_uring_recvmsg_payload(o, &x->in);
            r->n = io_uring_recvmsg_payload_length(o, a.bytes, &x->in);
            return true;
        }
        x->out--;
        offer(x, a.buffer);
    }
}

static void uring_recycle(struct udp *u, const struct udp_received *r)
{
    struct uring *x = u->engine_data;
    offer(x, r->buffer);
    x->out--;
    if (!x->armed && x->out == 0)
        arm(u, x);
}

static struct slot *free_slot(struct uring *x)
{
    for (unsigned i = 0; i < SLOTS && x->busy < SLOTS; i++)
        if (!x->slots[i].n)
            return &x->slots[i];
    return NULL;
}

static int uring_send(struct udp *u, const struct udp_group *groups, int n)
{
    struct uring *x = u->engine_data;
    int k = 0;
    if (x->busy > SLOTS / 2)
        reap(u, x);
    for (; k < n; k++) {
        struct slot *s = free_slot(x);
        struct io_uring_sqe *sqe = s ? io_uring_get_sqe(&x->ring) : NULL;
        if (!sqe)
            break;
        udp_message(&s->message, &groups[k]);
        for (unsigned i = 0; i < groups[k].n; i++)
            s->pkts[i] = pkt_ref(groups[k].pkts[i]);
        s->n = groups[k].n;
        x->busy++;
        io_uring_prep_sendmsg(sqe, 0, &s->message.msg, 0);
        sqe->flags |= IOSQE_FIXED_FILE;
        sqe->user_data = (uint64_t)(s - x->slots) + 1;
    }
    if (k > 0)
        (void)io_uring_submit(&x->ring); /* what was not submitted goes with the next */
    reap(u, x);
    return k;
}

static int uring_sleep(struct udp *u, uint64_t now, uint64_t until)
{
    struct uring *x = u->engine_data;
    uint64_t ns = until > now ? until - now : 0;
    struct __kernel_timespec t = {.tv_sec = (long long)(ns / 1000000000u),
                                  .tv_nsec = (long long)(ns % 1000000000u)};
    struct io_uring_cqe *cqe;
    struct io_uring_sqe *sqe = port_wake_fd() >= 0 && !x->wakes ? io_uring_get_sqe(&x->ring) : NULL;
    if (sqe) {
        io_uring_prep_poll_add(sqe, port_wake_fd(), POLLIN);
        sqe->user_data = WAKE;
        x->wakes = true;
    }
    int rc = io_uring_submit_and_wait_timeout(&x->ring, &cqe, 1, &t, NULL);
    return rc == -EINTR ? -EINTR : 0;
}

/* Readable while answers of the kernel wait. */
static int uring_pollable(struct udp *u)
{
    struct uring *x = u->engine_data;
    (void)io_uring_submit(&x->ring);
    return x->ring.ring_fd;
}

static void uring_close(struct udp *u)
{
    struct uring *x = u->engine_data;
    struct io_uring_sync_cancel_reg all = {
        .flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL, .timeout = {.tv_sec = 1}};
    if (x->ring.ring_fd >= 0) {
        (void)io_uring_register_sync_cancel(&x->ring, &all);
        for (int i = 0; i < 100 && (reap(u, x), x->busy); i++) {
            struct __kernel_timespec t = {.tv_nsec = 10000000};
            struct io_uring_cqe *cqe;
            (void)io_uring_wait_cqe_timeout(&x->ring, &cqe, &t);
        }
        io_uring_queue_exit(&x->ring);
    }
    for (unsigned i = 0; i < SLOTS; i++)
        for (unsigned k = 0; k < x->slots[i].n; k++)
            pkt_unref(x->slots[i].pkts[k]);
    if (x->buffers)
        munmap(x->buffers, x->buffers_bytes);
    if (x->memory)
        munmap(x->memory, x->memory_bytes);
    free(x);
    u->engine_data = NULL;
    u->engine = NULL;
}

static void *map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static int register_buffers(struct uring *x)
{
    struct io_uring_buf_reg reg = {.ring_entries = BUFFERS, .bgid = GROUP_ID};
    x->buffers_bytes = BUFFERS * sizeof(struct io_uring_buf);
    x->memory_bytes = BUFFERS * BUFFER_BYTES;
    x->buffers = map(x->buffers_bytes);
    x->memory = map(x->memory_bytes);
    if (!x->buffers || !x->memory)
        return -ENOMEM;
    reg.ring_addr = (uint64_t)(uintptr_t)x->buffers;
    int rc = io_uring_register_buf_ring(&x->ring, &reg, 0);
    if (rc < 0)
        return rc;
    io_uring_buf_ring_init(x->buffers);
    for (unsigned i = 0; i < BUFFERS; i++)
        offer(x, i);
    return 0;
}

static const struct udp_engine uring_engine = {uring_fetch, uring_recycle,  uring_send,
                                               uring_sleep, uring_pollable, uring_close};

int udp_uring_open(struct udp *u, char *why)
{
    struct io_uring_params params = {.flags = IORING_SETUP_COOP_TASKRUN |
                                              IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CQSIZE,
                                     .cq_entries = 4 * ENTRIES};
    struct uring *x = calloc(1, sizeof(*x));
    if (!x) {
        snprintf(why, PORT_ERR, "out of memory");
        return -ENOMEM;
    }
    x->in = (struct msghdr){.msg_namelen = NAME, .msg_controllen = CONTROL};
    x->ring.ring_fd = -1;
    u->engine_data = x;
    int rc = io_uring_queue_init_params(ENTRIES, &x->ring, &params);
    if (rc < 0) {
        x->ring.ring_fd = -1;
        snprintf(why, PORT_ERR, "%s",
                 rc == -EPERM || rc == -EACCES
                     ? "the kernel forbids io_uring here (kernel.io_uring_disabled, or seccomp)"
                 : rc == -ENOSYS ? "this kernel has no io_uring, or seccomp hides it"
                 : rc == -EINVAL ? "io_uring of this kernel is too old: 6.0 is needed"
                                 : strerror(-rc));
        uring_close(u);
        return rc;
    }
    rc = io_uring_register_files(&x->ring, &u->fd, 1);
    if (rc >= 0)
        rc = register_buffers(x);
    if (rc >= 0) {
        arm(u, x);
        reap(u, x); /* a kernel before 6.0 knows no multishot receive and says so at once */
        rc = x->refused || !x->armed ? -EINVAL : 0;
    }
    if (rc < 0) {
        snprintf(why, PORT_ERR, "%s%s", rc == -EINVAL ? "" : "io_uring: ",
                 rc == -EINVAL ? "io_uring of this kernel is too old: 6.0 is needed"
                               : strerror(-rc));
        uring_close(u);
        return rc;
    }
    u->engine = &uring_engine;
    return 0;
}
