/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket's thread. A client is either read from or written to, never both: who does not
 * take its answers is not heard, so that all it can hold is one line and one answer.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/log.h"
#include "control/rpc/io.h"
#include "control/rpc/listen.h"
#include "control/rpc/mailbox.h"
#include "control/rpc/rpc.h"
#include "control/signals.h"
#include "dataplane/port.h"

#define LOOK_NS     UINT64_C(1000000000) /* how often the slow are looked for */
#define FIRST_BYTES 4096u                /* of a client's buffer, which grows to RPC_LINE_MAX */
#define PATIENCE_NS UINT64_C(5000000000) /* for the engine to look into the mailbox */

struct client {
    struct rpc_op op; /* first */
    struct rpc *rpc;
    struct rpc_who who;
    bool used, closing;
    char *in;
    size_t in_bytes, in_room;
    char *out;
    size_t out_bytes, out_at;
    uint64_t since_ns; /* a line was begun, or an answer not taken; 0: neither */
};

struct rpc {
    struct rpc_params p;
    char *path;
    ino_t inode; /* of the socket's file: whoever took its place keeps it */
    struct rpc_table table;
    struct rpc_mailbox mailbox;
    struct rpc_io *io;
    pthread_t thread;
    atomic_bool ending;
    int listener, bell;
    uint64_t rung;
    struct rpc_op accepting, hearing;
    bool accepting_on;
    struct client clients[RPC_CLIENTS_MAX];
    uint32_t n_clients;
};

/* --- a client -----------------------------------------------------------------------------------
 */

static void go_on(struct client *c);

static void forget(struct client *c)
{
    close(c->op.fd);
    free(c->in);
    free(c->out);
    c->rpc->n_clients--;
    *c = (struct client){.used = false};
}

static void send_rest(struct client *c)
{
    c->op.kind = RPC_IO_SEND;
    c->op.buffer = c->out + c->out_at;
    c->op.bytes = c->out_bytes - c->out_at;
    rpc_io_submit(c->rpc->io, &c->op);
}

/* A line, malloc'd and without its newline, taken over. */
static void send_line(struct client *c, char *line)
{
    const size_t n = strlen(line);
    char *out = realloc(line, n + 2);
    if (!out) {
        free(line);
        forget(c);
        return;
    }
    memcpy(out + n, "\n", 2);
    c->out = out;
    c->out_bytes = n + 1;
    c->out_at = 0;
    c->since_ns = port_now_ns();
    send_rest(c);
}

static void last_word(struct client *c, int code, const char *message)
{
    char *line = rpc_error_line(code, message);
    c->closing = true;
    c->in_bytes = 0;
    if (line)
        send_line(c, line);
    else
        forget(c);
}

static void read_more(struct client *c)
{
    if (c->in_bytes == c->in_room) {
        const size_t room = c->in_room ? 2 * c->in_room : FIRST_BYTES;
        char *in = room <= RPC_LINE_MAX ? realloc(c->in, room) : NULL;
        if (!in) {
            last_word(c, RPC_INVALID_REQUEST, "a line may be 65536 bytes long");
            return;
        }
        c->in = in;
        c->in_room = room;
    }
    c->op.kind = RPC_IO_READ;
    c->op.buffer = c->in + c->in_bytes;
    c->op.bytes = c->in_room - c->in_bytes;
    rpc_io_submit(c->rpc->io, &c->op);
}

static bool is_blank(const char *line, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
            return false;
    return true;
}

/* The next line's answer is on its way, or more is being read. */
static void go_on(struct client *c)
{
    for (;;) {
        char *end = c->in_bytes ? memchr(c->in, '\n', c->in_bytes) : NULL;
        if (!end)
            break;
        const size_t n = (size_t)(end - c->in);
        char *answer = is_blank(c->in, n) ? NULL : rpc_answer(&c->rpc->table, &c->who, c->in, n);
        c->in_bytes -= n + 1;
        memmove(c->in, end + 1, c->in_bytes);
        c->since_ns = 0;
        if (answer) {
            send_line(c, answer);
            return;
        }
    }
    if (!c->since_ns && c->in_bytes)
        c->since_ns = port_now_ns();
    read_more(c);
}

static void client_done(struct rpc_op *op, int result)
{
    struct client *c = (struct client *)op;
    if (result == -EAGAIN || result == -EINTR) {
        rpc_io_submit(c->rpc->io, op);
        return;
    }
    if (result <= 0 || atomic_load(&c->rpc->ending)) {
        forget(c);
        return;
    }
    if (op->kind == RPC_IO_READ) {
        c->in_bytes += (size_t)result;
        go_on(c);
        return;
    }
    c->out_at += (size_t)result;
    c->since_ns = port_now_ns();
    if (c->out_at < c->out_bytes) {
        send_rest(c);
        return;
    }
    free(c->out);
    c->out = NULL;
    c->since_ns = 0;
    if (c->closing)
        forget(c);
    else
        go_on(c);
}

/* --- the listener -------------------------------------------------------------------------------
 */

static void await_client(struct rpc *r)
{
    r->accepting_on = true;
    rpc_io_submit(r->io, &r->accepting);
}

/* Nobody waits for a place: it is said, without waiting for who does not read it. */
static void turn_away(int fd)
{
    char *line = rpc_error_line(RPC_CROWDED, "too many clients are connected: try again later");
    if (line && send(fd, line, strlen(line), MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
        send(fd, "\n", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    free(line);
    close(fd);
}

static void welcome(struct rpc *r, int fd)
{
    struct rpc_who who = {RPC_NOBODY, 0, 0};
    const int rc = rpc_who(fd, &r->p.roles, &who);
    const uint32_t places = who.role > RPC_USER ? RPC_CLIENTS_MAX : RPC_CLIENTS_MAX - RPC_RESERVED;
    if (rc < 0 || r->n_clients >= places) {
        turn_away(fd);
        return;
    }
    struct client *c = r->clients;
    while (c->used)
        c++;
    *c = (struct client){.op = {.fd = fd, .done = client_done}, .rpc = r, .who = who, .used = true};
    r->n_clients++;
    read_more(c);
}

static void accepted(struct rpc_op *op, int result)
{
    struct rpc *r = (struct rpc *)((char *)op - offsetof(struct rpc, accepting));
    r->accepting_on = false;
    if (result >= 0 && atomic_load(&r->ending))
        close(result);
    else if (result >= 0)
        welcome(r, result);
    if (result == -EMFILE || result == -ENFILE || result == -ENOMEM)
        return; /* the next look tries again: not at once, for nothing would have changed */
    if (!atomic_load(&r->ending))
        await_client(r);
}

static void rung(struct rpc_op *op, int result)
{
    struct rpc *r = (struct rpc *)((char *)op - offsetof(struct rpc, hearing));
    if (!atomic_load(&r->ending))
        rpc_io_submit(r->io, &r->hearing);
}

/* --- the thread ---------------------------------------------------------------------------------
 */

/* Their operation ends by this, and they with it. */
static void shut_slow(struct rpc *r)
{
    const uint64_t now_ns = port_now_ns();
    for (uint32_t i = 0; i < RPC_CLIENTS_MAX; i++) {
        struct client *c = &r->clients[i];
        if (c->used && c->since_ns && now_ns - c->since_ns > RPC_SLOW_NS)
            shutdown(c->op.fd, SHUT_RDWR);
    }
}

static void *serve(void *arg)
{
    struct rpc *r = arg;
    await_client(r);
    rpc_io_submit(r->io, &r->hearing);
    while (!atomic_load(&r->ending)) {
        uint64_t wait_ns = r->n_clients || !r->accepting_on ? LOOK_NS : UINT64_MAX;
        const uint64_t tick_ns = r->p.tick ? r->p.tick(r->p.tick_arg, &r->table.hop) : UINT64_MAX;
        rpc_io_wait(r->io, tick_ns < wait_ns ? tick_ns : wait_ns);
        shut_slow(r);
        if (!r->accepting_on && !atomic_load(&r->ending))
            await_client(r);
    }
    shutdown(r->listener, SHUT_RDWR);
    for (uint32_t i = 0; i < RPC_CLIENTS_MAX; i++)
        if (r->clients[i].used)
            shutdown(r->clients[i].op.fd, SHUT_RDWR);
    while (r->n_clients || r->accepting_on)
        rpc_io_wait(r->io, LOOK_NS);
    return NULL;
}

/* --- life ---------------------------------------------------------------------------------------
 */

static int hop_by_mailbox(void *arg, void (*fn)(void *fn_arg), void *fn_arg)
{
    return rpc_mailbox_call(arg, fn, fn_arg);
}

void rpc_run_pending(struct rpc *r)
{
    if (r)
        rpc_mailbox_run(&r->mailbox);
}

const char *rpc_how(const struct rpc *r)
{
    return rpc_io_is_ring(r->io) ? "io_uring" : "poll";
}

static void destroy(struct rpc *r)
{
    struct stat st;
    if (r->listener >= 0) {
        close(r->listener);
        if (lstat(r->path, &st) == 0 && st.st_ino == r->inode)
            unlink(r->path);
    }
    if (r->bell >= 0)
        close(r->bell);
    rpc_io_close(r->io);
    free(r->path);
    free(r);
}

static int start(struct rpc *r, char *err)
{
    struct stat st;
    r->path = strdup(r->p.path);
    r->bell = eventfd(0, EFD_CLOEXEC);
    int rc = r->path && r->bell >= 0 ? rpc_io_open(r->p.plain, &r->io) : -ENOMEM;
    if (rc == 0)
        rc = rpc_mailbox_open(&r->mailbox, r->p.wake, r->p.wake_arg, PATIENCE_NS);
    if (rc < 0) {
        snprintf(err, RPC_ERR, "control socket: %s", strerror(-rc));
        return rc;
    }
    r->listener = rpc_listen(r->path, r->p.group, err);
    if (r->listener < 0)
        goto fail;
    if (lstat(r->path, &st) == 0)
        r->inode = st.st_ino;
    if (r->p.roles.operator_group == RPC_NO_GROUP)
        r->p.roles.operator_group = r->p.group == RPC_NO_GROUP ? getegid() : r->p.group;
    r->table = (struct rpc_table){
        r->p.sets, r->p.hop.run ? r->p.hop : (struct rpc_hop){hop_by_mailbox, &r->mailbox}};
    r->accepting = (struct rpc_op){.kind = RPC_IO_ACCEPT, .fd = r->listener, .done = accepted};
    r->hearing = (struct rpc_op){.kind = RPC_IO_READ,
                                 .fd = r->bell,
                                 .buffer = &r->rung,
                                 .bytes = sizeof r->rung,
                                 .done = rung};
    rc = signals_thread(&r->thread, "isthmus-control", serve, r);
    if (rc == 0)
        return 0;
    snprintf(err, RPC_ERR, "control socket: no thread: %s", strerror(-rc));
fail:
    rpc_mailbox_close(&r->mailbox);
    return r->listener < 0 ? r->listener : rc;
}

int rpc_open(const struct rpc_params *p, struct rpc **out, char *err)
{
    struct rpc *r = calloc(1, sizeof *r);
    if (!r) {
        snprintf(err, RPC_ERR, "control socket: out of memory");
        return -ENOMEM;
    }
    r->p = *p;
    r->listener = r->bell = -1;
    const int rc = start(r, err);
    if (rc < 0) {
        destroy(r);
        return rc;
    }
    if (!p->plain && !rpc_io_is_ring(r->io))
        log_info("control socket: the kernel refuses io_uring: poll is used");
    *out = r;
    return 0;
}

void rpc_close(struct rpc *r)
{
    const uint64_t one = 1;
    if (!r)
        return;
    rpc_mailbox_shut(&r->mailbox);
    atomic_store(&r->ending, true);
    if (write(r->bell, &one, sizeof one) < 0)
        log_error("control socket: %s", strerror(errno)); /* can't be: the count is far from full */
    pthread_join(r->thread, NULL);
    rpc_mailbox_close(&r->mailbox);
    destroy(r);
}
