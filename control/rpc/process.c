/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rpc/process.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/calibrate/show.h"
#include "control/codec_arg.h"
#include "control/log.h"
#include "control/rpc/capture.h"
#include "control/rpc/threads.h"
#include "control/utf8.h"

#define THREADS_MAX 512u
#define RELOAD_S    10u /* for a reload to end; the engine's thread begins and ends it */

static json_t *version(struct rpc_call *c)
{
    const struct rpc_process *p = c->arg;
    return json_pack("{s:s, s:s, s:i, s:s, s:b, s:f}", "version", ISTHMUS_VERSION, "what", p->what,
                     "pid", (int)getpid(), "model", p->model, "head",
                     stage_info(p->stage)->has_head, "uptime_s",
                     (double)(port_now_ns() - p->started_ns) / 1e9);
}

static json_t *threads(struct rpc_call *c)
{
    static struct thread_info list[THREADS_MAX]; /* one thread serves */
    const uint32_t n = threads_list(list, THREADS_MAX);
    json_t *o = json_array();
    for (uint32_t i = 0; i < n && i < THREADS_MAX; i++) {
        const struct thread_info *t = &list[i];
        const char state[2] = {t->state, '\0'};
        json_array_append_new(o, json_pack("{s:i, s:s, s:s, s:i, s:f}", "tid", t->tid, "name",
                                           t->name, "state", state, "cpu", t->cpu, "cpu_s",
                                           (double)t->cpu_ns / 1e9));
    }
    return json_pack("{s:f, s:o}", "now_s", (double)port_now_ns() / 1e9, "threads", o);
}

/* --- memory -------------------------------------------------------------------------------------
 */

static json_t *memory(struct rpc_call *c)
{
    const struct rpc_process *p = c->arg;
    struct account a;
    p->account(p->arg, &a);
    return account_json(&a);
}

/* --- ports --------------------------------------------------------------------------------------
 */

static json_t *port_json(const struct port *p)
{
    const struct port_stats *s = &p->stats;
    json_t *o = json_pack("{s:s, s:s, s:s, s:i}", "port", p->caps.name, "peer", p->caps.peer, "how",
                          p->caps.how, "mtu_bytes", (int)p->caps.mtu_bytes);
    const struct {
        const char *name;
        uint64_t n;
    } counts[] = {
        {"rx_packets", s->rx_packets},
        {"rx_bytes", s->rx_bytes},
        {"tx_packets", s->tx_packets},
        {"tx_bytes", s->tx_bytes},
        {"tx_refused", s->tx_refused},
        {"tx_failed", s->tx_failed},
        {"foreign", s->foreign},
        {"peers_lost", s->peers_lost},
        {"sleeps", s->sleeps},
        {"wakeups", s->wakeups},
        {"copied_bytes", s->copied_bytes},
    };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        json_object_set_new(o, counts[i].name, rpc_count(counts[i].n));
    json_object_set_new(o, "driver_copied_bytes",
                        p->caps.driver_copies ? rpc_count(port_driver_copied_bytes(p))
                                              : json_null());
    if (p->pool) {
        json_object_set_new(o, "pool_packets", rpc_count(p->pool->n_total));
        json_object_set_new(o, "pool_free", rpc_count(p->pool->n_free));
    }
    return o;
}

static json_t *port_stats(struct rpc_call *c)
{
    const struct rpc_process *p = c->arg;
    struct port *ports[CAPTURE_PORTS_MAX];
    const uint32_t n = p->ports(p->arg, ports, CAPTURE_PORTS_MAX);
    json_t *list = json_array();
    for (uint32_t i = 0; i < n; i++)
        if (ports[i])
            json_array_append_new(list, port_json(ports[i]));
    return list;
}

/* --- codec and configuration --------------------------------------------------------------------
 */

static json_t *profile_dump(struct rpc_call *c)
{
    const struct rpc_process *p = c->arg;
    char text[CODEC_ARG_MAX];
    if (!p->codec)
        return rpc_fail(c, RPC_NOT_NOW, "the whole model is in this process: nothing is coded");
    return json_pack("{s:s, s:o*}", "codec", codec_arg_format(p->codec, text), "profile",
                     p->profile ? calibrate_show_json(p->profile) : NULL);
}

static json_t *lines_json(const char *text)
{
    json_t *list = json_array();
    size_t n;
    char *clean = utf8_clean(text, strlen(text), &n), *save = NULL; /* a file may be no text */
    for (char *line = clean ? strtok_r(clean, "\n", &save) : NULL; line;
         line = strtok_r(NULL, "\n", &save))
        json_array_append_new(list, json_string(line));
    free(clean);
    return list;
}

static json_t *config_reload(struct rpc_call *c)
{
    const struct rpc_process *p = c->arg;
    struct reload_result r;
    if (!p->reload)
        return rpc_fail(c, RPC_NOT_NOW, "this process was given no configuration file to reload");
    const int rc = reload_ask(p->reload, RELOAD_S * UINT64_C(1000000000), &r);
    if (rc == -ETIMEDOUT)
        return rpc_fail(c, RPC_NOT_NOW,
                        "the reload goes on, but has not ended within %u s: what comes of it is in "
                        "the log",
                        RELOAD_S);
    if (rc == -ENOMEM)
        return rpc_fail(c, RPC_INTERNAL, "out of memory: what the reload did is in the log");
    if (rc < 0)
        return rpc_fail(c, RPC_SHUTDOWN, "the process is ending");
    json_t *result =
        json_pack("{s:b, s:o}", "refused", (int)r.refused, "lines", lines_json(r.lines));
    free(r.lines);
    return result;
}

static json_t *log_level(struct rpc_call *c)
{
    const char *level = rpc_text(c, "level", NULL);
    if (level && c->who.role < RPC_OPERATOR)
        return rpc_fail(c, RPC_NOT_ALLOWED, "to set the level needs the role operator: you are %s",
                        rpc_role_name(c->who.role));
    if (level) {
        log_set_level((enum log_level)log_parse_level(level));
        log_info("log level %s, by uid %u", level, (unsigned)c->who.uid);
    }
    return json_pack("{s:s}", "level", log_level_name(log_get_level()));
}

static const char *const levels[] = {"error", "warn", "info", "debug", NULL};
static const struct rpc_param log_params[] = {
    {"level", "what is said from now on, and what is worse (operator); without it: as it is",
     RPC_TEXT, false, 0, 0, levels},
    {NULL, NULL, RPC_TEXT, false, 0, 0, NULL},
};

const struct rpc_method process_methods[] = {
    {"version", RPC_USER, "What serves here: version, process, model, since when", NULL, false,
     version},
    {"threads", RPC_USER, "Threads and the CPU time that each took", NULL, false, threads},
    {"memory", RPC_USER, "Where this process's memory is: weights, cache, histories, packets", NULL,
     true, memory},
    {"port.stats", RPC_USER, "Packets and bytes of each port", NULL, true, port_stats},
    {"profile.dump", RPC_USER, "The codec, and the profile in use with its curves", NULL, false,
     profile_dump},
    {"log.level", RPC_USER, "How much is logged, or another level", log_params, false, log_level},
    {"config.reload", RPC_ADMIN, "Read the configuration again, as SIGHUP does; what came of it",
     NULL, false, config_reload},
    {NULL, RPC_NOBODY, NULL, NULL, false, NULL},
};
