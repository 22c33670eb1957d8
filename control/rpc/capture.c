/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rpc/capture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "control/rpc/pcapng.h"
#include "dataplane/port/tap.h"
#include "dataplane/wire.h"

#define RING_BYTES  (UINT64_C(4) << 20) /* a power of two */
#define BLOCK_BYTES 65536u              /* of a frame, with room for the longest */
#define TICK_NS     UINT64_C(100000000)
#define PATH_BYTES  256u

/* A port that is watched: its number is its interface's in the file. The engine's thread only. */
struct watched {
    struct capture *capture;
    struct port *port; /* NULL: closed */
    struct port_tap *tap;
    uint64_t seen, dropped;
};

struct capture {
    struct capture_params p;

    /* The socket's thread. */
    int fd; /* -1: nothing runs */
    char path[PATH_BYTES];
    uint64_t start_ns, end_ns;
    uint64_t file_bytes;
    const char *ended; /* why; NULL: runs, or never did */
    int file_error;

    /* Set before the engine's thread knows of it. */
    uint32_t snap_bytes; /* 0: whole frames */
    uint64_t max_packets, max_bytes;
    int64_t wall_offset_ns; /* wall clock - port_now_ns */
    uint8_t *ring;

    /* The engine's thread. */
    struct watched watched[CAPTURE_PORTS_MAX];
    uint32_t n_watched;
    uint8_t *block;

    /* Bytes put into the ring (the engine's) and taken out (the socket's). */
    atomic_uint_fast64_t put, taken;
    atomic_uint_fast64_t packets, dropped;
    atomic_bool full; /* a limit was reached: no more are taken */
};

/* --- the engine's thread ------------------------------------------------------------------------
 */

/* A block of c->block. False: there is no room. */
static bool put_block(struct capture *c, size_t bytes)
{
    const uint64_t put = atomic_load_explicit(&c->put, memory_order_relaxed);
    const uint64_t taken = atomic_load_explicit(&c->taken, memory_order_acquire);
    if (!bytes || bytes > RING_BYTES - (put - taken))
        return false;
    const uint64_t at = put & (RING_BYTES - 1);
    const uint64_t first = bytes < RING_BYTES - at ? bytes : RING_BYTES - at;
    memcpy(c->ring + at, c->block, first);
    memcpy(c->ring, c->block + first, bytes - first);
    atomic_store_explicit(&c->put, put + bytes, memory_order_release);
    return true;
}

static uint64_t wall_ns(const struct capture *c, uint64_t now_ns)
{
    return (uint64_t)((int64_t)now_ns + c->wall_offset_ns);
}

static void on_frame(void *arg, bool sent, const uint8_t *frame, uint32_t len, uint64_t now_ns)
{
    struct watched *w = arg;
    struct capture *c = w->capture;
    if (atomic_load_explicit(&c->full, memory_order_relaxed))
        return;
    const uint32_t kept = c->snap_bytes && len > c->snap_bytes ? c->snap_bytes : len;
    const size_t bytes = pcapng_packet(c->block, BLOCK_BYTES, (uint32_t)(w - c->watched),
                                       wall_ns(c, now_ns), sent, frame, kept, len);
    const uint64_t packets = atomic_load_explicit(&c->packets, memory_order_relaxed);
    if (packets >= c->max_packets ||
        atomic_load_explicit(&c->put, memory_order_relaxed) + bytes > c->max_bytes) {
        atomic_store(&c->full, true);
        return;
    }
    w->seen++;
    if (put_block(c, bytes)) {
        atomic_store_explicit(&c->packets, packets + 1, memory_order_relaxed);
    } else {
        w->dropped++;
        atomic_fetch_add_explicit(&c->dropped, 1, memory_order_relaxed);
    }
}

static void on_closed(void *arg)
{
    struct watched *w = arg;
    w->port = NULL;
    w->tap = NULL;
}

static bool is_watched(const struct capture *c, const struct port *port)
{
    for (uint32_t i = 0; i < c->n_watched; i++)
        if (c->watched[i].port == port)
            return true;
    return false;
}

static void watch(struct capture *c, struct port *port)
{
    char name[64];
    struct watched *w = &c->watched[c->n_watched];
    snprintf(name, sizeof name, "%s%s%.48s", port->caps.name, port->caps.peer[0] ? " " : "",
             port->caps.peer);
    if (!put_block(c, pcapng_interface(c->block, BLOCK_BYTES, name, c->snap_bytes)))
        return; /* the ring is full: at the next look */
    *w = (struct watched){.capture = c, .port = port};
    const struct port_watcher watcher = {on_frame, on_closed, w};
    if (port_tap_begin(port, &watcher, &w->tap) < 0)
        w->port = NULL;
    c->n_watched++; /* in the file it has a number, in any case */
}

/* Every port there is is watched. */
static void look(void *arg)
{
    struct capture *c = arg;
    struct port *ports[CAPTURE_PORTS_MAX];
    const uint32_t n = c->p.ports(c->p.arg, ports, CAPTURE_PORTS_MAX);
    for (uint32_t i = 0; i < n && c->n_watched < CAPTURE_PORTS_MAX; i++)
        if (ports[i] && !is_watched(c, ports[i]))
            watch(c, ports[i]);
}

static void let_go(void *arg)
{
    struct capture *c = arg;
    for (uint32_t i = c->n_watched; i-- > 0;) {
        struct watched *w = &c->watched[i];
        if (w->tap)
            port_tap_end(w->tap);
        w->tap = NULL;
        w->port = NULL;
        put_block(c, pcapng_statistics(c->block, BLOCK_BYTES, i, wall_ns(c, port_now_ns()), w->seen,
                                       w->dropped));
    }
}

/* --- the socket's thread ------------------------------------------------------------------------
 */

static void write_out(struct capture *c)
{
    for (;;) {
        const uint64_t taken = atomic_load_explicit(&c->taken, memory_order_relaxed);
        const uint64_t n = atomic_load_explicit(&c->put, memory_order_acquire) - taken;
        const uint64_t at = taken & (RING_BYTES - 1);
        if (!n || c->file_error)
            return;
        const ssize_t written =
            write(c->fd, c->ring + at, n < RING_BYTES - at ? n : RING_BYTES - at);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            c->file_error = written < 0 ? errno : EIO;
            return;
        }
        c->file_bytes += (uint64_t)written;
        atomic_store_explicit(&c->taken, taken + (uint64_t)written, memory_order_release);
    }
}

static void finish(struct capture *c, const char *why)
{
    write_out(c);
    if (close(c->fd) < 0 && !c->file_error)
        c->file_error = errno;
    c->fd = -1;
    c->end_ns = port_now_ns();
    c->ended = c->file_error ? strerrordesc_np(c->file_error) : why;
    free(c->ring);
    free(c->block);
    c->ring = c->block = NULL;
}

/* < 0: the engine is not to be had, and its thread may still watch. */
static int stop(struct capture *c, const struct rpc_hop *hop, const char *why)
{
    write_out(c); /* there is room for the last blocks */
    const int rc = rpc_hop_run(hop, let_go, c);
    if (rc == 0)
        finish(c, why);
    return rc;
}

uint64_t capture_tick(void *arg, const struct rpc_hop *hop)
{
    struct capture *c = arg;
    if (c->fd < 0)
        return UINT64_MAX;
    write_out(c);
    if (c->file_error)
        stop(c, hop, "");
    else if (atomic_load(&c->full))
        stop(c, hop, "its limit is reached");
    else if (port_now_ns() >= c->end_ns)
        stop(c, hop, "its time is over");
    else
        rpc_hop_run(hop, look, c);
    return c->fd < 0 ? UINT64_MAX : TICK_NS;
}

static json_t *status(const struct capture *c)
{
    if (!c->start_ns)
        return json_pack("{s:b}", "running", 0);
    const bool running = c->fd >= 0;
    const uint64_t until_ns = running ? port_now_ns() : c->end_ns;
    return json_pack("{s:b, s:s, s:b, s:I, s:I, s:I, s:f, s:s?}", "running", running, "path",
                     c->path, "whole_frames", c->snap_bytes == 0, "packets",
                     (json_int_t)atomic_load(&c->packets), "dropped",
                     (json_int_t)atomic_load(&c->dropped), "bytes", (json_int_t)c->file_bytes,
                     "seconds", (double)(until_ns - c->start_ns) / 1e9, "ended", c->ended);
}

static void default_path(const struct capture *c, char path[PATH_BYTES])
{
    char when[32];
    struct tm tm;
    const char *slash = strrchr(c->p.beside, '/');
    const time_t now = time(NULL);
    gmtime_r(&now, &tm);
    strftime(when, sizeof when, "%Y%m%d-%H%M%S", &tm);
    snprintf(path, PATH_BYTES, "%.*scapture-%s.pcapng", slash ? (int)(slash - c->p.beside) + 1 : 0,
             c->p.beside, when);
}

/* A new file only: nothing is overwritten, and no link followed. 0 or -errno. */
static int create(struct capture *c, const char *path)
{
    uint8_t head[PCAPNG_HEAD_BYTES];
    const size_t bytes = pcapng_section(head, sizeof head, "isthmus " ISTHMUS_VERSION);
    c->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (c->fd < 0)
        return -errno;
    if (write(c->fd, head, bytes) == (ssize_t)bytes) {
        c->file_bytes = bytes;
        return 0;
    }
    const int rc = errno ? -errno : -EIO;
    unlink(path);
    close(c->fd);
    c->fd = -1;
    return rc;
}

static json_t *capture_start(struct rpc_call *call)
{
    struct capture *c = call->arg;
    const bool whole = rpc_flag(call, "whole", false);
    const char *asked = rpc_text(call, "path", NULL);
    char path[PATH_BYTES];
    struct timespec wall;

    if (c->fd >= 0)
        return rpc_fail(call, RPC_NOT_NOW, "a capture runs, to %.150s: capture.stop ends it",
                        c->path);
    if (whole && call->who.role < RPC_ADMIN)
        return rpc_fail(call, RPC_NOT_ALLOWED, "whole frames need the role admin: you are %s",
                        rpc_role_name(call->who.role));
    if (asked && call->who.role < RPC_ADMIN)
        return rpc_fail(call, RPC_NOT_ALLOWED,
                        "a path needs the role admin: you are %s; without one the file is beside "
                        "the socket",
                        rpc_role_name(call->who.role));
    if (asked && (*asked != '/' || strlen(asked) >= PATH_BYTES))
        return rpc_fail(call, RPC_INVALID_PARAMS,
                        "path must begin at / and be shorter than 256 bytes");
    if (asked)
        strcpy(path, asked);
    else
        default_path(c, path);
    uint8_t *ring = malloc(RING_BYTES), *block = malloc(BLOCK_BYTES);
    const int rc = ring && block ? create(c, path) : -ENOMEM;
    if (rc < 0) {
        free(ring);
        free(block);
        return rpc_fail(call, rc == -ENOMEM ? RPC_INTERNAL : RPC_INVALID_PARAMS, "path: %.150s: %s",
                        path, strerrordesc_np(-rc));
    }
    strcpy(c->path, path);
    c->ring = ring;
    c->block = block;
    c->snap_bytes = whole ? 0 : WIRE_PAYLOAD_AT;
    c->max_packets = (uint64_t)rpc_number(call, "packets", 1e6);
    c->max_bytes = (uint64_t)rpc_number(call, "bytes", 64e6);
    c->start_ns = port_now_ns();
    c->end_ns = c->start_ns + (uint64_t)(rpc_number(call, "seconds", 60) * 1e9);
    clock_gettime(CLOCK_REALTIME, &wall);
    c->wall_offset_ns = (int64_t)wall.tv_sec * 1000000000 + wall.tv_nsec - (int64_t)c->start_ns;
    c->ended = NULL;
    c->file_error = 0;
    c->n_watched = 0;
    atomic_store(&c->put, 0);
    atomic_store(&c->taken, 0);
    atomic_store(&c->packets, 0);
    atomic_store(&c->dropped, 0);
    atomic_store(&c->full, false);
    const int hop = rpc_hop_run(call->hop, look, c);
    if (hop < 0) {
        finish(c, "the engine was busy");
        unlink(c->path);
        return rpc_fail_hop(call, hop);
    }
    return status(c);
}

static json_t *capture_stop(struct rpc_call *call)
{
    struct capture *c = call->arg;
    if (c->fd < 0 && !c->start_ns)
        return rpc_fail(call, RPC_NOT_NOW, "no capture runs, and none has");
    if (c->fd >= 0) {
        const int rc = stop(c, call->hop, "capture.stop");
        if (rc < 0)
            return rpc_fail_hop(call, rc);
    }
    return status(c);
}

static json_t *capture_status(struct rpc_call *call)
{
    return status(call->arg);
}

static const struct rpc_param start_params[] = {
    {"path", "a file to make (admin; default: capture-DATE-TIME.pcapng beside the socket)",
     RPC_TEXT, false, 0, 0, NULL},
    {"bytes", "end when the file has so many (default 64000000)", RPC_WHOLE, false, 1000, 1e11,
     NULL},
    {"packets", "end after so many (default 1000000)", RPC_WHOLE, false, 1, 1e9, NULL},
    {"seconds", "end after so long (default 60)", RPC_REAL, false, .001, 86400, NULL},
    {"whole", "whole frames instead of their headers (admin)", RPC_BOOL, false, 0, 0, NULL},
    {NULL, NULL, RPC_TEXT, false, 0, 0, NULL},
};

const struct rpc_method capture_methods[] = {
    {"capture.start", RPC_OPERATOR, "Write the frames that come and go into a pcapng file",
     start_params, false, capture_start},
    {"capture.stop", RPC_OPERATOR, "End the capture; its file is whole then", NULL, false,
     capture_stop},
    {"capture.status", RPC_USER, "The capture that runs, or the last one", NULL, false,
     capture_status},
    {NULL, RPC_NOBODY, NULL, NULL, false, NULL},
};

/* --- life ---------------------------------------------------------------------------------------
 */

int capture_open(const struct capture_params *p, struct capture **out)
{
    struct capture *c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    c->p = *p;
    c->fd = -1;
    *out = c;
    return 0;
}

void capture_close(struct capture *c)
{
    if (!c)
        return;
    if (c->fd >= 0) {
        write_out(c); /* there is room for the last blocks */
        let_go(c);
        finish(c, "the process ended");
    }
    free(c);
}
