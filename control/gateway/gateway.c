/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway's life, and its thread: one epoll over MHD's, the chime, and clients that may leave. */
#include "control/gateway/gateway.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/gateway/impl.h"
#include "control/log.h"
#include "control/signals.h"
#include "dataplane/port.h"

#define EVENTS       64
#define SWEEPS       8u   /* in the shortest of the limits of time */
#define SWEEP_MAX_MS 500u
#define RETRY_MS     20u
#define LAST_NS      1000000000u /* for what is whole to be sent when the gateway closes */
#define MEMORY_BYTES 16384u      /* of a connection, its head and its buffers */
#define OTHER_FILES  256u

/* Where the gateway's thread may run: wherever the process might when it started, whatever its
 * compute threads were pinned to later. */
static cpu_set_t all_cpus;
__attribute__((constructor)) static void remember_cpus(void)
{
    if (sched_getaffinity(0, sizeof all_cpus, &all_cpus) < 0)
        CPU_ZERO(&all_cpus);
}

/* --- the thread --------------------------------------------------------------------------------- */

static int sweep_ms(const struct gateway *g)
{
    const struct gateway_limits *l = &g->limits;
    uint32_t ms = l->header_ms < l->body_ms ? l->header_ms : l->body_ms;
    ms = l->idle_ms < ms ? l->idle_ms : ms;
    ms = (l->write_ms < ms ? l->write_ms : ms) / SWEEPS;
    return ms > SWEEP_MAX_MS ? (int)SWEEP_MAX_MS : ms > 0 ? (int)ms : 1;
}

static bool any_retry(const struct gateway *g)
{
    for (const struct exchange *x = g->exchanges; x; x = x->next)
        if (x->retry)
            return true;
    return false;
}

/* How long nothing may happen; -1: for ever. */
static int wait_ms(const struct gateway *g)
{
    return g->mhd_due ? 0 : g->retries ? (int)RETRY_MS : -1;
}

/* While there are clients, a timer tells to look at them: with a limit of its own, each sleep until
 * the next token would set one and end it. */
static void set_timer(struct gateway *g)
{
    const long ms = g->clients ? sweep_ms(g) : 0;
    const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    const struct itimerspec every = {.it_interval = t, .it_value = t};
    timerfd_settime(g->timer, 0, &every, NULL);
    g->sweeping = g->clients;
}

static void sweep(struct gateway *g)
{
    uint64_t times;
    if (read(g->timer, &times, sizeof times) == sizeof times)
        clients_sweep(g, port_now_ns());
}

static bool is_full(struct gateway *g)
{
    const union MHD_DaemonInfo *i =
        MHD_get_daemon_info(g->daemon, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);
    return i && i->num_connections >= g->limits.connections;
}

/* It has no limits of time of its own: what is not due at once comes with an event. But the run in
 * which it ceases to be full does not listen yet; the next one does. */
static void run_mhd(struct gateway *g)
{
    MHD_UNSIGNED_LONG_LONG ms;
    MHD_run(g->daemon);
    const bool was_full = g->full;
    g->full = is_full(g);
    g->mhd_due = (MHD_get_timeout(g->daemon, &ms) == MHD_YES && ms == 0) || (was_full && !g->full);
}

static void turn(struct gateway *g, int timeout_ms)
{
    struct epoll_event events[EVENTS];
    bool sweeps = false;
    const int n = epoll_wait(g->epoll, events, EVENTS, timeout_ms);
    /* Clients first: what rings may free an exchange that one of the events is of. */
    for (int i = 0; i < n; i++)
        if (events[i].data.ptr == g)
            g->mhd_due = true;
        else if (events[i].data.ptr == &g->timer)
            sweeps = true;
        else if (events[i].data.ptr != &g->chime)
            exchange_event(events[i].data.ptr, events[i].events);
    exchange_take_rungs(g);
    if (sweeps)
        sweep(g);
    if (g->retries) {
        exchange_retry(g);
        g->retries = any_retry(g);
    }
    if (g->mhd_due)
        run_mhd(g);
    if (g->sweeping != (g->clients != NULL))
        set_timer(g);
}

/* No new connections; what is whole is sent, the rest cut off. */
static void wind_up(struct gateway *g)
{
    const uint64_t end_ns = port_now_ns() + LAST_NS;
    const MHD_socket listener = MHD_quiesce_daemon(g->daemon);
    if (listener != MHD_INVALID_SOCKET)
        close(listener);
    g->mhd_due = true;
    exchange_take_rungs(g); /* what came while nobody looked any more */
    while (exchange_any_sending(g) && port_now_ns() < end_ns)
        turn(g, 10);
    exchange_drop_all(g);
    MHD_run(g->daemon); /* takes the resumed ones back: none may be suspended when it stops */
    MHD_stop_daemon(g->daemon);
}

static void *run(void *arg)
{
    struct gateway *g = arg;
    g->mhd_due = true;
    while (!atomic_load(&g->stopping))
        turn(g, wait_ms(g));
    wind_up(g);
    return NULL;
}

static int start_thread(struct gateway *g)
{
    const int rc = signals_thread(&g->thread, "gateway", run, g);
    if (rc) {
        log_error("cannot start the gateway's thread: %s", strerror(-rc));
        return EXIT_FAILED;
    }
    if (CPU_COUNT(&all_cpus))
        pthread_setaffinity_np(g->thread, sizeof all_cpus, &all_cpus);
    g->started = true;
    return EXIT_OK;
}

/* --- opening ------------------------------------------------------------------------------------ */

static uint32_t or_default(uint32_t given, uint32_t otherwise)
{
    return given ? given : otherwise;
}

static void take_limits(struct gateway *g, const struct gateway_limits *l)
{
    g->limits = (struct gateway_limits){
        .connections = or_default(l->connections, 4096),
        .requests = or_default(l->requests, 1024),
        .body_bytes = l->body_bytes ? l->body_bytes : 1u << 20,
        .header_ms = or_default(l->header_ms, 10000),
        .body_ms = or_default(l->body_ms, 30000),
        .idle_ms = or_default(l->idle_ms, 75000),
        .write_ms = or_default(l->write_ms, 30000),
        .answer_tokens = or_default(l->answer_tokens, 1024),
    };
}

/* A descriptor for each connection, if the hard limit lets us: else fewer of them. */
static void take_files(struct gateway *g)
{
    struct rlimit files;
    const rlim_t wanted = g->limits.connections + OTHER_FILES;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_cur >= wanted)
        return;
    files.rlim_cur = files.rlim_max < wanted ? files.rlim_max : wanted;
    if (setrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_cur == wanted)
        return;
    g->limits.connections =
        files.rlim_cur > 2 * OTHER_FILES ? (uint32_t)files.rlim_cur - OTHER_FILES : OTHER_FILES;
    log_warn("only %u connections at once: the limit of open files is %llu (ulimit -n, "
             "LimitNOFILE=)",
             g->limits.connections, (unsigned long long)files.rlim_max);
}

static void take_model_id(struct gateway *g, const char *id, const char *path)
{
    const char *slash = strrchr(path, '/');
    snprintf(g->model_id, sizeof g->model_id, "%s", id ? id : slash ? slash + 1 : path);
    char *end = id ? NULL : strstr(g->model_id, ".gguf");
    if (end)
        *end = '\0';
}

static int add(struct gateway *g, int fd, uint32_t events, void *what)
{
    struct epoll_event event = {.events = events, .data.ptr = what};
    return epoll_ctl(g->epoll, EPOLL_CTL_ADD, fd, &event);
}

static int start_daemon(struct gateway *g)
{
    g->epoll = epoll_create1(EPOLL_CLOEXEC);
    g->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    g->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, http_on_request, g,
        MHD_OPTION_LISTEN_SOCKET, g->listener, MHD_OPTION_NOTIFY_COMPLETED, http_on_completed, g,
        MHD_OPTION_NOTIFY_CONNECTION, clients_on_connection, g, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)g->limits.connections, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)MEMORY_BYTES,
        MHD_OPTION_CONNECTION_TIMEOUT, 0u, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
    const union MHD_DaemonInfo *info =
        g->daemon ? MHD_get_daemon_info(g->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (g->epoll < 0 || g->timer < 0 || chime_open(&g->chime) < 0 || !info ||
        add(g, info->epoll_fd, EPOLLIN, g) < 0 || add(g, g->timer, EPOLLIN, &g->timer) < 0 ||
        add(g, g->chime.fd, EPOLLIN | EPOLLET, &g->chime) < 0) {
        log_error("cannot start the gateway: %s", strerror(errno));
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

static int start_listening(struct gateway *g, const char *address)
{
    char err[200];
    const int rc = gateway_listen(address, 1024, &g->listener, &g->port, err);
    if (rc == 0)
        return EXIT_OK;
    log_error("--listen %s: %s", address, err);
    return rc == -EINVAL ? EXIT_USAGE : EXIT_FAILED;
}

int gateway_check_listen(const char *address)
{
    char err[200];
    if (gateway_check_address(address, err) == 0)
        return EXIT_OK;
    log_error("--listen %s: %s", address, err);
    return EXIT_USAGE;
}

/* Where it can be asked, for people and for programs that gave port 0. */
static void say_where(const struct gateway *g, const char *address)
{
    const char *colon = strrchr(address, ':');
    const int host = (int)(colon - address);
    log_info("listening at http://%.*s:%u/v1, model %s", host ? host : 4, host ? address : "[::]",
             g->port, g->model_id);
    if (!g->keys && strncmp(address, "127.", 4) != 0 && strncmp(address, "[::1]", 5) != 0 &&
        strncmp(address, "localhost:", 10) != 0)
        log_warn("anybody who reaches %.*s:%u may ask: there is no file of API keys",
                 host ? host : 4, host ? address : "[::]", g->port);
}

static void ring(void *arg)
{
    chime_ring(&((struct gateway *)arg)->chime);
}

static int take_keys(struct gateway *g, const char *path)
{
    char err[API_KEYS_ERR] = "out of memory";
    g->keys_file = strdup(path);
    const int rc = g->keys_file ? gateway_reload_keys(g, err) : -ENOMEM;
    if (rc < 0)
        log_error("%s: %s", path, err);
    return rc == 0 ? EXIT_OK : rc == -ENOMEM ? EXIT_FAILED : EXIT_USAGE;
}

int gateway_open(const struct gateway_params *p, struct gateway **out)
{
    struct gateway *g = calloc(1, sizeof *g);
    if (!g) {
        log_error("out of memory for the gateway");
        return EXIT_FAILED;
    }
    pthread_mutex_init(&g->keys_lock, NULL);
    g->listener = g->epoll = g->timer = g->chime.fd = -1;
    g->created_s = time(NULL);
    take_limits(g, &p->limits);
    take_model_id(g, p->model_id, p->model->path);
    g->context = (struct completion_context){
        .service = p->service,
        .model = p->model,
        .model_id = g->model_id,
        .answer_tokens = g->limits.answer_tokens,
        .chime = &g->chime,
    };
    int rc = EXIT_OK;
    if (p->keys_file)
        rc = take_keys(g, p->keys_file);
    if (rc == EXIT_OK)
        rc = start_listening(g, p->listen);
    if (rc == EXIT_OK) {
        take_files(g);
        rc = start_daemon(g);
    }
    if (rc == EXIT_OK)
        rc = start_thread(g);
    if (rc == EXIT_OK)
        service_on_told(p->service, ring, g);
    if (rc != EXIT_OK) {
        gateway_close(g);
        return rc;
    }
    say_where(g, p->listen);
    *out = g;
    return EXIT_OK;
}

unsigned gateway_port(const struct gateway *g)
{
    return g->port;
}

int gateway_reload_keys(struct gateway *g, char *err)
{
    struct api_keys *keys = NULL;
    const int rc = g->keys_file ? api_keys_read(g->keys_file, &keys, err) : 0;
    if (rc < 0 || !g->keys_file)
        return rc;
    pthread_mutex_lock(&g->keys_lock);
    struct api_keys *old = g->keys;
    g->keys = keys;
    pthread_mutex_unlock(&g->keys_lock);
    api_keys_free(old);
    return 0;
}

void gateway_close(struct gateway *g)
{
    if (!g)
        return;
    service_on_told(g->context.service, NULL, NULL);
    atomic_store(&g->stopping, true);
    if (g->started) {
        chime_wake(&g->chime);
        pthread_join(g->thread, NULL);
    } else if (g->daemon) {
        MHD_stop_daemon(g->daemon);
    } else if (g->listener >= 0) {
        close(g->listener);
    }
    exchange_free_all(g);
    chime_close(&g->chime);
    if (g->epoll >= 0)
        close(g->epoll);
    if (g->timer >= 0)
        close(g->timer);
    api_keys_free(g->keys);
    free(g->keys_file);
    pthread_mutex_destroy(&g->keys_lock);
    free(g);
}
