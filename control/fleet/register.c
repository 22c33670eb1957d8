/* SPDX-License-Identifier: Apache-2.0 */
#include "control/fleet/register.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/fleet/etcd.h"
#include "control/log.h"
#include "control/options.h"
#include "control/signals.h"
#include "dataplane/port.h"
#include "dataplane/port/uri.h"

#define GOODBYE_MS 1000u

enum { OPT_REGISTER = OPT_OWN + 0x400, OPT_REGISTER_AS, OPT_REGISTER_PORT, OPT_REGISTER_TTL };

static const struct argp_option option_list[] = {
    {"register", OPT_REGISTER, "etcd:URL/PREFIX", 0,
     "Be found by edges that are given the same --workers: a key under PREFIX of etcd, with a "
     "lease",
     4},
    {"register-as", OPT_REGISTER_AS, "NAME", 0, "Under this name (default: the host's)", 4},
    {"register-port", OPT_REGISTER_PORT, "URI", 0,
     "The port as edges see it, udp:HOST:PORT (default: --port)", 4},
    {"register-ttl", OPT_REGISTER_TTL, "SECONDS", 0,
     "How long the key outlasts a worker that died (default 2)", 4},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct register_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        *o = (struct register_options){.ttl_s = 2};
        return 0;
    case OPT_REGISTER:
        if (strncmp(arg, "etcd:", 5) != 0)
            argp_error(state, "--register: etcd:http://HOST:2379/PREFIX");
        o->where = arg;
        return 0;
    case OPT_REGISTER_AS:
        if (!worker_name_ok(arg, strlen(arg)))
            argp_error(state, "--register-as: 1 to %u of letters, digits, '.', '_', '-', ':'",
                       WORKER_NAME - 1);
        o->as = arg;
        return 0;
    case OPT_REGISTER_PORT:
        o->port = arg;
        return 0;
    case OPT_REGISTER_TTL:
        o->ttl_s = opt_u32(state, "--register-ttl", arg, 1, 3600);
        return 0;
    case ARGP_KEY_END:
        if (!o->where && (o->as || o->port))
            argp_error(state, "--register-as and --register-port are for --register");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp register_argp = {option_list, parse, NULL, NULL, NULL, NULL, NULL};

struct registration {
    struct etcd *etcd;
    const char *where; /* borrowed of the options */
    struct worker self;
    uint32_t ttl_s;
    pthread_t thread;
    int wake_fd;
    atomic_bool draining, closing;

    /* the thread's own */
    char lease[ETCD_NUMBER]; /* "": none */
    bool put, put_draining, told;
    unsigned failures;
};

/* --- the thread
 * -----------------------------------------------------------------------------------
 */

static uint32_t answer_ms(const struct registration *r)
{
    return r->ttl_s * 400 > 3000 ? 3000 : r->ttl_s * 400;
}

static int grant(struct registration *r, char *err)
{
    const char *text;
    size_t len;
    int rc = etcd_post(r->etcd, "/v3/lease/grant", etcd_grant_body(r->ttl_s), answer_ms(r),
                       r->wake_fd, &text, &len, err);
    if (rc == 0)
        rc = etcd_parse_grant(text, len, r->lease, err);
    if (rc < 0)
        r->lease[0] = '\0';
    r->put = false;
    return rc;
}

static int put(struct registration *r, char *err)
{
    char key[ETCD_PREFIX + WORKER_NAME], line[WORKER_LINE];
    const char *text;
    size_t len;
    struct worker self = r->self;
    self.draining = atomic_load(&r->draining);
    snprintf(key, sizeof key, "%s%s", etcd_prefix(r->etcd), self.name);
    int rc =
        etcd_post(r->etcd, "/v3/kv/put", etcd_put_body(key, worker_format(&self, line), r->lease),
                  answer_ms(r), r->wake_fd, &text, &len, err);
    if (rc == 0)
        rc = etcd_parse_done(text, len, err);
    if (rc == -EINVAL) /* the lease is over, say */
        r->lease[0] = '\0';
    if (rc == 0) {
        r->put = true;
        r->put_draining = self.draining;
    }
    return rc;
}

static int keep_alive(struct registration *r, char *err)
{
    const char *text;
    size_t len;
    const int rc = etcd_post(r->etcd, "/v3/lease/keepalive", etcd_lease_body(r->lease),
                             answer_ms(r), r->wake_fd, &text, &len, err);
    if (rc == 0 && !etcd_parse_keepalive(text, len))
        r->lease[0] = '\0'; /* it ended meanwhile: the next turn gets another */
    return rc;
}

/* One turn: what is due. 0, -EINTR, or another -errno with err. */
static int tend(struct registration *r, char *err)
{
    int rc = r->lease[0] ? keep_alive(r, err) : 0;
    if (rc == 0 && !r->lease[0])
        rc = grant(r, err);
    if (rc == 0 && (!r->put || r->put_draining != atomic_load(&r->draining)))
        rc = put(r, err);
    return rc;
}

/* What people should know, once. */
static void tell(struct registration *r, int rc, const char *err)
{
    if (rc == 0 && !r->told)
        log_info("registered as %s at %s", r->self.name, r->where);
    if (rc == 0 && r->failures >= etcd_endpoints(r->etcd))
        log_info("%s answers again: %s is registered", r->where, r->self.name);
    r->told |= rc == 0;
    r->failures = rc == 0 ? 0 : r->failures + 1;
    if (rc < 0 && r->failures == etcd_endpoints(r->etcd))
        log_warn("%s: %s: not registered, serving all the same", r->where, err);
}

static void *run(void *arg)
{
    struct registration *r = arg;
    while (!atomic_load(&r->closing)) {
        char err[WORKERS_ERR] = "";
        const int rc = tend(r, err);
        if (rc != -EINTR)
            tell(r, rc, err);
        if (rc < 0 && rc != -EINTR)
            etcd_next_endpoint(r->etcd);
        struct pollfd wake = {.fd = r->wake_fd, .events = POLLIN};
        if (!atomic_load(&r->closing) && poll(&wake, 1, (int)(r->ttl_s * 1000 / 3)) == 1) {
            eventfd_t n;
            eventfd_read(r->wake_fd, &n);
        }
    }
    if (r->lease[0]) { /* with its end the key is gone */
        char err[WORKERS_ERR];
        const char *text;
        size_t len;
        etcd_post(r->etcd, "/v3/lease/revoke", etcd_lease_body(r->lease), GOODBYE_MS, -1, &text,
                  &len, err);
    }
    return NULL;
}

/* --- opening
 * --------------------------------------------------------------------------------------
 */

/* Its line as edges will read it. EXIT_OK or an exit code. */
static int complete(struct worker *self, const struct register_options *o)
{
    char host[HOST_NAME_MAX + 1] = "", line[WORKER_LINE], err[WORKERS_ERR];
    struct worker as_read;
    if (!o->as && (gethostname(host, sizeof host) < 0 || !worker_name_ok(host, strlen(host)))) {
        log_error("--register: this host's name is none for a worker: give --register-as NAME");
        return EXIT_USAGE;
    }
    if (snprintf(self->name, sizeof self->name, "%s", o->as ? o->as : host) >=
        (int)sizeof self->name) {
        log_error("--register: a worker's name has up to %u bytes: give a shorter --register-as",
                  WORKER_NAME - 1);
        return EXIT_USAGE;
    }
    if (o->port)
        snprintf(self->port, sizeof self->port, "%s", o->port);
    worker_format(self, line);
    if (worker_parse(line, strlen(line),
                     o->port ? "--register-port"
                             : "--port (with --register, unless --register-port "
                               "says how edges see it)",
                     &as_read, err) == 1)
        return EXIT_OK;
    log_error("%s", err);
    return EXIT_USAGE;
}

int register_check(const struct register_options *o, const char *port)
{
    struct worker self = {.split = 0};
    struct etcd *etcd = NULL;
    char err[WORKERS_ERR] = "";
    if (!o->where)
        return EXIT_OK;
    snprintf(self.port, sizeof self.port, "%s", port);
    int rc = complete(&self, o);
    if (rc == EXIT_OK && etcd_open(o->where + strlen("etcd:"), &etcd, err) < 0) {
        log_error("--register %s", err);
        rc = EXIT_USAGE;
    }
    etcd_close(etcd);
    return rc;
}

int register_open(const struct register_options *o, const struct worker *self,
                  struct registration **out)
{
    char err[WORKERS_ERR] = "";
    *out = NULL;
    if (!o->where)
        return EXIT_OK;
    struct registration *r = calloc(1, sizeof *r);
    if (!r) {
        log_error("out of memory");
        return EXIT_FAILED;
    }
    r->self = *self;
    r->where = o->where;
    r->ttl_s = o->ttl_s;
    r->wake_fd = -1;
    int rc = complete(&r->self, o);
    if (rc == EXIT_OK && etcd_open(o->where + strlen("etcd:"), &r->etcd, err) < 0) {
        log_error("--register %s", err);
        rc = EXIT_USAGE;
    }
    if (rc == EXIT_OK) {
        r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        const int failed =
            r->wake_fd < 0 ? -errno : signals_thread(&r->thread, "isthmus-lease", run, r);
        if (failed) {
            log_error("--register: no thread for it: %s", strerror(-failed));
            rc = EXIT_FAILED;
        }
    }
    if (rc != EXIT_OK) {
        if (r->wake_fd >= 0)
            close(r->wake_fd);
        etcd_close(r->etcd);
        free(r);
        return rc;
    }
    *out = r;
    return EXIT_OK;
}

void register_draining(struct registration *r, bool draining)
{
    if (!r || atomic_exchange(&r->draining, draining) == draining)
        return;
    eventfd_write(r->wake_fd, 1);
}

void register_close(struct registration *r)
{
    if (!r)
        return;
    atomic_store(&r->closing, true);
    eventfd_write(r->wake_fd, 1);
    pthread_join(r->thread, NULL);
    close(r->wake_fd);
    etcd_close(r->etcd);
    free(r);
}
