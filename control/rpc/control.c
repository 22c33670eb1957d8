/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rpc/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/cloud_serve.h"
#include "control/rpc/capture.h"
#include "control/rpc/cloud.h"
#include "control/rpc/edge.h"
#include "control/rpc/process.h"

#define NO_USER ((uid_t)-1)

struct control {
    char path[CONTROL_PATH];
    struct rpc_process process;
    struct rpc_edge edge;
    struct rpc_cloud cloud;
    struct port *cloud_port;
    uint64_t budget_bytes; /* a cloud's */
    struct capture *capture;
    struct rpc_methods sets[4];
    struct rpc_params params;
    struct rpc *rpc;
    void (*wake)(void); /* a cloud's */
};

/* --- the ports ----------------------------------------------------------------------------------
 */

static uint32_t edge_ports_now(void *arg, struct port **ports, uint32_t max)
{
    const struct control *c = arg;
    struct engine *e = c->edge.front->engine;
    const struct edge *edge = e ? engine_edge(e) : NULL;
    const uint32_t n = edge ? edge_ports(edge, ports, max) : 0;
    return n < max ? n : max;
}

static void edge_account(void *arg, struct account *a)
{
    front_account(((struct control *)arg)->edge.front, a);
}

static void cloud_account(void *arg, struct account *a)
{
    const struct control *c = arg;
    const struct rpc_cloud *r = &c->cloud;
    account_of_cloud(r->cloud, r->stage, c->cloud_port, r->max_sessions, c->budget_bytes, a);
}

static uint32_t cloud_ports_now(void *arg, struct port **ports, uint32_t max)
{
    const struct control *c = arg;
    if (max)
        ports[0] = c->cloud_port;
    return max ? 1 : 0;
}

/* --- the engine's thread ------------------------------------------------------------------------
 */

struct hop {
    void (*fn)(void *arg);
    void *arg;
};

static void arrived(void *arg, struct front *f)
{
    const struct hop *h = arg;
    h->fn(h->arg);
}

static int hop_by_service(void *arg, void (*fn)(void *fn_arg), void *fn_arg)
{
    struct hop h = {fn, fn_arg};
    return service_call(arg, arrived, &h);
}

static void wake_cloud(void *arg)
{
    ((struct control *)arg)->wake();
}

void control_run_pending(struct control *c)
{
    if (c)
        rpc_run_pending(c->rpc);
}

/* --- opening ------------------------------------------------------------------------------------
 */

/* "a/b/control.sock": a and b are made where they are missing. Only of default paths: a given one's
 * must be there. */
static void make_folders(const char *path, uid_t uid, gid_t group)
{
    char folder[CONTROL_PATH], above[CONTROL_PATH];
    strcpy(folder, path);
    *strrchr(folder, '/') = '\0';
    strcpy(above, folder);
    *strrchr(above, '/') = '\0';
    mkdir(above, 0755);
    if (mkdir(folder, 0750) == 0 && (uid != NO_USER || group != RPC_NO_GROUP) &&
        chown(folder, uid, group) < 0)
        log_warn("%s: %s", folder, strerror(errno));
}

void control_hand_over(uid_t uid, gid_t gid)
{
    char path[CONTROL_PATH];
    if (control_default_path(0, "edge", path))
        make_folders(path, uid, gid);
}

static int open_at(struct control *c, char *err)
{
    c->params.path = c->path;
    return rpc_open(&c->params, &c->rpc, err);
}

static int open_at_default(struct control *c, const char *name, char *err)
{
    int rc = -ENOENT;
    snprintf(err, RPC_ERR, "control socket: there is no $XDG_RUNTIME_DIR");
    for (unsigned n = 0; rc < 0 && rc != -EADDRINUSE && control_default_path(n, name, c->path);
         n++) {
        make_folders(c->path, NO_USER, c->params.group);
        rc = open_at(c, err);
    }
    return rc;
}

static int open_socket(struct control *c, const struct control_options *o, const char *path,
                       const char *name)
{
    char err[RPC_ERR] = "";
    int rc;
    c->params.group = o->group;
    c->params.roles = (struct rpc_roles){o->admin_group, o->operator_group};
    if (path && strlen(path) >= CONTROL_PATH) {
        log_error("--control: the path of a socket has at most %u bytes", CONTROL_PATH - 1);
        return EXIT_USAGE;
    }
    if (path) {
        strcpy(c->path, path);
        rc = open_at(c, err);
    } else {
        rc = open_at_default(c, name, err);
    }
    if (rc == 0) {
        log_info("control socket %s", c->path);
        return EXIT_OK;
    }
    if (path) {
        log_error("%s", err);
        return rc == -EADDRINUSE ? EXIT_USAGE : EXIT_FAILED;
    }
    log_info("no control socket: %s", err);
    return EXIT_OK;
}

static struct control *begin(const char *what, const char *model, uint64_t started_ns)
{
    struct control *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->process =
        (struct rpc_process){.what = what, .model = model, .started_ns = started_ns, .arg = c};
    return c;
}

/* The methods are there: listen. */
static int finish(struct control *c, const struct control_options *o, const char *path,
                  const char *name, struct control **out)
{
    const struct capture_params capture = {c->process.ports, c, c->path};
    if (capture_open(&capture, &c->capture) < 0) {
        log_error("control socket: out of memory");
        control_close(c);
        return EXIT_FAILED;
    }
    c->sets[0] = (struct rpc_methods){process_methods, &c->process};
    c->sets[2] = (struct rpc_methods){capture_methods, c->capture};
    c->params.sets = c->sets;
    c->params.tick = capture_tick;
    c->params.tick_arg = c->capture;
    const int rc = open_socket(c, o, path, name);
    if (rc != EXIT_OK || !c->rpc) {
        control_close(c);
        return rc;
    }
    *out = c;
    return EXIT_OK;
}

int control_open_edge(const struct control_options *o, const char *path, struct service *s,
                      struct front *f, struct reload *reload, struct control **out)
{
    *out = NULL;
    if (path && strcmp(path, "none") == 0)
        return EXIT_OK;
    struct control *c = begin("edge", f->model.path, port_now_ns());
    if (!c) {
        log_error("control socket: out of memory");
        return EXIT_FAILED;
    }
    const bool split = f->plan.split;
    c->edge = (struct rpc_edge){s, f};
    c->process.stage = f->stage;
    c->process.codec = split ? &f->plan.codec : NULL;
    c->process.profile = split ? f->plan.profile : NULL;
    c->process.reload = reload;
    c->process.ports = edge_ports_now;
    c->process.account = edge_account;
    c->sets[1] = (struct rpc_methods){edge_methods, &c->edge};
    c->params.hop = (struct rpc_hop){hop_by_service, s};
    return finish(c, o, path, "edge", out);
}

int control_open_cloud(const struct control_options *o, const char *path,
                       const struct control_cloud *of, struct control **out)
{
    *out = NULL;
    if (!path || strcmp(path, "none") == 0)
        return EXIT_OK;
    struct control *c = begin("cloud", of->model, port_now_ns());
    if (!c) {
        log_error("control socket: out of memory");
        return EXIT_FAILED;
    }
    c->cloud_port = of->port;
    c->cloud = (struct rpc_cloud){.cloud = of->cloud,
                                  .stage = of->stage,
                                  .port = of->port->caps.name,
                                  .cipher = of->cipher,
                                  .max_sessions = of->max_sessions,
                                  .started_ns = c->process.started_ns,
                                  .budget = of->budget};
    c->process.stage = of->stage;
    c->process.codec = &of->plan->codec;
    c->process.profile = of->plan->profile;
    c->process.reload = of->reload;
    c->process.ports = cloud_ports_now;
    c->process.account = cloud_account;
    c->budget_bytes = of->budget_bytes;
    c->sets[1] = (struct rpc_methods){cloud_methods, &c->cloud};
    c->params.wake = wake_cloud;
    c->params.wake_arg = c;
    c->wake = of->wake;
    return finish(c, o, path, "cloud", out);
}

void control_close(struct control *c)
{
    if (!c)
        return;
    if (c->process.reload)
        reload_shut(c->process.reload);
    rpc_close(c->rpc);
    capture_close(c->capture);
    free(c);
}
