/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/intr.h"

#include <assert.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

static _Thread_local struct intr *current;

int __real_rte_intr_callback_register(const struct rte_intr_handle *h, rte_intr_callback_fn cb,
                                      void *arg);
int __real_rte_intr_callback_unregister(const struct rte_intr_handle *h, rte_intr_callback_fn cb,
                                        void *arg);
int __real_rte_intr_callback_unregister_pending(const struct rte_intr_handle *h,
                                                rte_intr_callback_fn cb, void *arg,
                                                rte_intr_unregister_callback_fn after);
int __wrap_rte_intr_callback_register(const struct rte_intr_handle *h, rte_intr_callback_fn cb,
                                      void *arg);
int __wrap_rte_intr_callback_unregister(const struct rte_intr_handle *h, rte_intr_callback_fn cb,
                                        void *arg);
int __wrap_rte_intr_callback_unregister_pending(const struct rte_intr_handle *h,
                                                rte_intr_callback_fn cb, void *arg,
                                                rte_intr_unregister_callback_fn after);

void intr_init(struct intr *in)
{
    *in = (struct intr){.running_fd = -1};
}

void intr_close(struct intr *in)
{
    for (unsigned i = 0; i < in->n; i++)
        close(in->sources[i].fd);
    in->n = 0;
}

void intr_enter(struct intr *in)
{
    assert(!current);
    current = in;
}

void intr_leave(void)
{
    current = NULL;
}

/* The driver's sockets trust whoever connects: only the process we talk to may. */
static bool may_connect(const struct intr *in, int fd)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    int listening = 0;
    socklen_t int_len = sizeof(listening);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &int_len) == 0 && listening)
        return true; /* our own listener, not a connection */
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid == in->only_pid;
}

static struct intr_source *find(struct intr *in, const struct rte_intr_handle *h,
                                rte_intr_callback_fn cb, const void *arg)
{
    for (unsigned i = 0; i < in->n; i++) {
        struct intr_source *s = &in->sources[i];
        if (s->handle == h && s->run == cb && s->arg == arg)
            return s;
    }
    return NULL;
}

static void forget(struct intr *in, struct intr_source *s)
{
    *s = in->sources[--in->n];
}

int __wrap_rte_intr_callback_register(const struct rte_intr_handle *h, rte_intr_callback_fn cb,
                                      void *arg)
{
    struct intr *in = current;
    if (!in)
        return __real_rte_intr_callback_register(h, cb, arg);
    int fd = rte_intr_fd_get(h);
    if (in->n == INTR_MAX || !may_connect(in, fd))
        return -EPERM; /* the driver closes it */
    in->sources[in->n++] = (struct intr_source){
        .handle = (struct rte_intr_handle *)(uintptr_t)h, .fd = fd, .run = cb, .arg = arg};
    return 0;
}

int __wrap_rte_intr_callback_unregister(const struct rte_intr_handle *h, rte_intr_callback_fn cb,
                                        void *arg)
{
    struct intr *in = current;
    if (!in)
        return __real_rte_intr_callback_unregister(h, cb, arg);
    struct intr_source *s = find(in, h, cb, arg);
    if (!s)
        return -ENOENT;
    if (s->fd == in->running_fd)
        return -EAGAIN;
    forget(in, s);
    return 1; /* removed */
}

int __wrap_rte_intr_callback_unregister_pending(const struct rte_intr_handle *h,
                                                rte_intr_callback_fn cb, void *arg,
                                                rte_intr_unregister_callback_fn after)
{
    struct intr *in = current;
    if (!in)
        return __real_rte_intr_callback_unregister_pending(h, cb, arg, after);
    struct intr_source *s = find(in, h, cb, arg);
    if (!s || s->fd != in->running_fd)
        return -ENOENT;
    s->after = after;
    return 1;
}

unsigned intr_pollfds(const struct intr *in, struct pollfd *fds)
{
    for (unsigned i = 0; i < in->n; i++)
        fds[i] = (struct pollfd){.fd = in->sources[i].fd, .events = POLLIN};
    return in->n;
}

/* Run the callback of one descriptor; it may register and unregister, itself too. */
static void run(struct intr *in, int fd)
{
    for (unsigned i = 0; i < in->n; i++) {
        if (in->sources[i].fd != fd)
            continue;
        struct intr_source s = in->sources[i];
        in->running_fd = fd;
        intr_enter(in);
        s.run(s.arg);
        in->running_fd = -1;
        struct intr_source *now = find(in, s.handle, s.run, s.arg);
        if (now && now->after) {
            rte_intr_unregister_callback_fn after = now->after;
            forget(in, now);
            after(s.handle, s.arg);
        }
        intr_leave();
        return;
    }
}

void intr_dispatch(struct intr *in)
{
    struct pollfd fds[INTR_MAX];
    unsigned n = intr_pollfds(in, fds);
    if (n == 0 || poll(fds, n, 0) <= 0)
        return;
    for (unsigned i = 0; i < n; i++)
        if (fds[i].revents)
            run(in, fds[i].fd);
}
