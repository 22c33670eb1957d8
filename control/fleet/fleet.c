/* SPDX-License-Identifier: Apache-2.0 */
#include "control/fleet/fleet.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/fleet/registry.h"
#include "control/log.h"
#include "control/port_arg.h"

#define LOOK_NS  UINT64_C(50000000)
#define AGAIN_NS UINT64_C(1000000000)
#define SILENT_NS                                                                                  \
    UINT64_C(10000000000) /* another is tried instead of one that is so long not there */
#define AVOID_NS UINT64_C(60000000000) /* and for so long */

/* An uplink. */
struct berth {
    bool used, leaving;
    struct worker worker;
    uint32_t index; /* of the edge's */
    struct port *port;
    struct authorized *peers; /* of its own fingerprint; NULL: the edge's */
    uint64_t heard_ns;        /* it was joined then, or added */
    bool told_unfit;
    const struct fleet_params *p;
};

/* What is known of a worker beside its line. */
struct note {
    bool drained;
    uint64_t avoid_until_ns;
};

struct fleet {
    struct fleet_params p;
    struct registry *registry;
    struct workers list;
    struct note *notes; /* [list.n] */
    bool dirty;         /* uplinks may not be those that should be */
    uint64_t look_ns, choose_again_ns;
    struct berth berths[EDGE_UPLINKS_MAX];
};

int fleet_open(const struct fleet_params *p, struct fleet **out)
{
    char err[WORKERS_ERR] = "";
    struct fleet *f = calloc(1, sizeof *f);
    if (!f) {
        log_error("out of memory");
        return EXIT_FAILED;
    }
    f->p = *p;
    const int rc = registry_open(p->where, &f->registry, err);
    if (rc < 0) {
        log_error("--workers: %s", err);
        free(f);
        return rc == -ENOMEM ? EXIT_FAILED : EXIT_USAGE;
    }
    *out = f;
    return EXIT_OK;
}

static void empty(struct berth *b)
{
    port_close(b->port);
    authorized_close(b->peers);
    *b = (struct berth){.used = false};
}

void fleet_close(struct fleet *f)
{
    if (!f)
        return;
    registry_close(f->registry);
    for (unsigned i = 0; i < EDGE_UPLINKS_MAX; i++)
        empty(&f->berths[i]);
    workers_free(&f->list);
    free(f->notes);
    free(f);
}

/* --- placing
 * --------------------------------------------------------------------------------------
 */

int fleet_place(void *arg, const struct edge_uplink_view *views, uint32_t n, int64_t session)
{
    const struct fleet *f = arg;
    struct fleet_view v[EDGE_UPLINKS_MAX];
    for (uint32_t i = 0; i < n; i++)
        v[i] = (struct fleet_view){
            .sessions = views[i].sessions,
            .shared_tokens = views[i].shared,
            .rtt_ns = views[i].rtt_ns,
            .full = views[i].full,
            .has_status = views[i].has_status,
            .free_sessions = views[i].free_sessions,
            .free_tokens = views[i].free_tokens,
        };
    return fleet_choose(v, n, 1, f->p.seed, (uint64_t)session);
}

/* --- the list
 * -------------------------------------------------------------------------------------
 */

static size_t position(const struct workers *w, const char *name)
{
    const struct worker *found = workers_find(w, name);
    return found ? (size_t)(found - w->list) : w->n;
}

/* What was known of those that stay stays. */
static void take_list(struct fleet *f, struct workers *w)
{
    struct note *notes = calloc(w->n ? w->n : 1, sizeof *notes);
    if (!notes) {
        log_error("out of memory for %zu workers: the list before stays", w->n);
        workers_free(w);
        return;
    }
    size_t old = 0;
    for (size_t i = 0; i < w->n; i++) { /* both in the order of names */
        while (old < f->list.n && strcmp(f->list.list[old].name, w->list[i].name) < 0)
            old++;
        if (old == f->list.n || strcmp(f->list.list[old].name, w->list[i].name) != 0)
            continue;
        notes[i].drained = f->notes[old].drained;
        if (worker_same(&f->list.list[old], &w->list[i]))
            notes[i].avoid_until_ns = f->notes[old].avoid_until_ns;
    }
    workers_free(&f->list);
    free(f->notes);
    f->list = *w;
    f->notes = notes;
    f->dirty = true;
}

/* Positions of those that should be joined, as fleet_select. */
static size_t choose(struct fleet *f, uint64_t now_ns, uint32_t *chosen)
{
    struct workers able = {.n = f->list.n};
    if (!able.n)
        return 0;
    able.list = malloc(able.n * sizeof *able.list);
    if (!able.list)
        return 0;
    memcpy(able.list, f->list.list, able.n * sizeof *able.list);
    f->choose_again_ns = UINT64_MAX;
    for (size_t i = 0; i < able.n; i++) {
        const struct note *n = &f->notes[i];
        const bool avoided = n->avoid_until_ns > now_ns;
        able.list[i].draining |= n->drained || avoided;
        if (avoided && n->avoid_until_ns < f->choose_again_ns)
            f->choose_again_ns = n->avoid_until_ns;
    }
    const size_t n = fleet_select(&able, &f->p.need, f->p.seed, f->p.max_uplinks, chosen);
    workers_free(&able);
    return n;
}

static void avoid(struct fleet *f, const struct berth *b, uint64_t until_ns)
{
    const size_t i = position(&f->list, b->worker.name);
    if (i < f->list.n)
        f->notes[i].avoid_until_ns = until_ns;
    f->dirty = true;
}

/* --- uplinks
 * --------------------------------------------------------------------------------------
 */

/* The port again, or another where a name may stand for another address by now. */
static struct port *next_port(void *arg)
{
    struct berth *b = arg;
    if (b->port && !port_arg_may_move(b->worker.port))
        return b->port;
    port_close(b->port);
    b->port = port_arg_reopen(b->worker.port, b->p->security, b->p->netem);
    return b->port;
}

/* Whom the uplink speaks to. False: nobody is known who it should be, which was said. */
static bool know_peer(struct fleet *f, struct berth *b, struct pipeline_security *security)
{
    const struct security *s = f->p.security;
    *security = security_of(s);
    if (s->insecure)
        return true;
    if (!b->worker.has_peer) {
        if (!s->peers)
            log_error("%s of %s has no fingerprint, and there is no --peer: it is left out",
                      b->worker.name, f->p.where);
        return s->peers != NULL;
    }
    if (s->peers && !authorized_find(s->peers, &b->worker.peer)) {
        log_error("%s of %s has a fingerprint that no --peer names: it is left out", b->worker.name,
                  f->p.where);
        return false;
    }
    if (authorized_one(&b->worker.peer, &b->peers) < 0)
        return false;
    security->peers = b->peers;
    return true;
}

static void add(struct fleet *f, struct edge *e, size_t position_in_list, uint64_t now_ns)
{
    char err[PIPELINE_ERR] = "";
    unsigned i = 0;
    while (i < EDGE_UPLINKS_MAX && f->berths[i].used)
        i++;
    if (i == EDGE_UPLINKS_MAX)
        return; /* those on their way out make room */
    struct berth *b = &f->berths[i];
    *b = (struct berth){
        .used = true, .worker = f->list.list[position_in_list], .heard_ns = now_ns, .p = &f->p};
    struct edge_uplink_params u = {.name = b->worker.name, .next_port = next_port, .arg = b};
    int rc = know_peer(f, b, &u.security) ? 0 : -EACCES;
    if (rc == 0) {
        b->port = port_arg_reopen(b->worker.port, f->p.security, f->p.netem);
        rc = b->port ? 0 : -EIO;
    }
    if (rc == 0) {
        u.port = b->port;
        rc = edge_uplink_add(e, &u, now_ns, err);
        if (rc < 0)
            log_error("%s: %s", b->worker.name, err);
    }
    if (rc < 0) {
        /* Where there is no other it is tried again soon. */
        const bool soon = rc == -EIO && f->list.n <= f->p.max_uplinks;
        avoid(f, b, now_ns + (soon ? AGAIN_NS : AVOID_NS));
        empty(b);
        return;
    }
    b->index = (uint32_t)rc;
}

static struct berth *berth_of(struct fleet *f, const struct worker *w)
{
    for (unsigned i = 0; i < EDGE_UPLINKS_MAX; i++)
        if (f->berths[i].used && worker_same(&f->berths[i].worker, w))
            return &f->berths[i];
    return NULL;
}

static void set_leaving(struct berth *b, struct edge *e, bool leaving)
{
    if (b->leaving != leaving)
        edge_uplink_drain(e, b->index, leaving);
    b->leaving = leaving;
}

/* Join those that should be, and leave the others: at once where they drain or are gone, and where
 * others are only better when these are there. */
static void follow(struct fleet *f, struct edge *e, uint64_t now_ns)
{
    uint32_t chosen[FLEET_UPLINKS_MAX];
    f->dirty = false;
    const size_t n = choose(f, now_ns, chosen);
    size_t there = 0;
    for (size_t k = 0; k < n; k++) {
        const struct worker *w = &f->list.list[chosen[k]];
        struct edge_uplink_stats s;
        struct berth *b = berth_of(f, w);
        if (!b)
            add(f, e, chosen[k], now_ns);
        else
            there += edge_uplink_stats(e, b->index, &s) == 0 && s.state == EDGE_UPLINK_JOINED;
    }
    for (unsigned i = 0; i < EDGE_UPLINKS_MAX; i++) {
        struct berth *b = &f->berths[i];
        if (!b->used)
            continue;
        const size_t at = position(&f->list, b->worker.name);
        const bool listed = at < f->list.n && worker_same(&f->list.list[at], &b->worker);
        bool is_chosen = false;
        for (size_t k = 0; k < n; k++)
            is_chosen |= listed && chosen[k] == at;
        const bool drains = !listed || f->list.list[at].draining || f->notes[at].drained;
        if (drains && !b->leaving)
            log_info("%s %s: its answers go on at others", b->worker.name,
                     listed ? "drains" : "is not in the list any more");
        set_leaving(b, e, drains || (!is_chosen && there == n));
    }
}

/* Those that left, and those that can't be used. */
static void tend(struct fleet *f, struct edge *e, uint64_t now_ns)
{
    for (unsigned i = 0; i < EDGE_UPLINKS_MAX; i++) {
        struct berth *b = &f->berths[i];
        struct edge_uplink_stats s;
        if (!b->used || edge_uplink_stats(e, b->index, &s) < 0)
            continue;
        if (b->leaving && (s.sessions == 0 || s.state != EDGE_UPLINK_JOINED)) {
            edge_uplink_remove(e, b->index, now_ns);
            empty(b);
            f->dirty = true;
            continue;
        }
        if (s.state == EDGE_UPLINK_JOINED) {
            if (now_ns - b->heard_ns > LOOK_NS * 4)
                f->dirty = true; /* it came: another may leave for it */
            b->heard_ns = now_ns;
            b->told_unfit = false;
        }
        if (s.state == EDGE_UPLINK_UNFIT && !b->told_unfit) {
            log_error("%s does not fit: %s", b->worker.name, s.why);
            b->told_unfit = true;
            avoid(f, b, now_ns + AVOID_NS);
        } else if (now_ns - b->heard_ns > SILENT_NS && f->list.n > f->p.max_uplinks &&
                   !b->leaving) {
            avoid(f, b, now_ns + AVOID_NS);
            b->heard_ns = now_ns;
        }
    }
}

uint64_t fleet_step(void *arg, struct edge *e, uint64_t now_ns)
{
    struct fleet *f = arg;
    struct workers news;
    if (now_ns < f->look_ns)
        return f->look_ns;
    f->look_ns = now_ns + LOOK_NS;
    if (registry_poll(f->registry, &news))
        take_list(f, &news);
    tend(f, e, now_ns);
    if (f->dirty || now_ns >= f->choose_again_ns)
        follow(f, e, now_ns);
    return f->look_ns;
}

/* --- for its users
 * --------------------------------------------------------------------------------
 */

uint32_t fleet_joined(const struct fleet *f, const struct edge *e, size_t *known)
{
    uint32_t n = 0;
    for (unsigned i = 0; i < EDGE_UPLINKS_MAX; i++) {
        struct edge_uplink_stats s;
        n += f->berths[i].used && edge_uplink_stats(e, f->berths[i].index, &s) == 0 &&
             s.state == EDGE_UPLINK_JOINED;
    }
    *known = f->list.n;
    return n;
}

size_t fleet_list(const struct fleet *f, const struct edge *e, struct fleet_worker *list,
                  size_t max)
{
    size_t n = 0;
    for (unsigned i = 0; i < EDGE_UPLINKS_MAX; i++) {
        const struct berth *b = &f->berths[i];
        struct fleet_worker w = {.worker = b->worker, .joined = true};
        if (!b->used || edge_uplink_stats(e, b->index, &w.uplink) < 0)
            continue;
        const size_t at = position(&f->list, b->worker.name);
        w.in_list = at < f->list.n && worker_same(&f->list.list[at], &b->worker);
        w.worker.draining = w.in_list && f->list.list[at].draining;
        w.drained = w.in_list && f->notes[at].drained;
        if (n++ < max)
            list[n - 1] = w;
    }
    for (size_t i = 0; i < f->list.n; i++) {
        bool joined = false;
        for (unsigned k = 0; k < EDGE_UPLINKS_MAX; k++)
            joined |= f->berths[k].used && worker_same(&f->berths[k].worker, &f->list.list[i]);
        if (!joined && n++ < max)
            list[n - 1] = (struct fleet_worker){
                .worker = f->list.list[i], .drained = f->notes[i].drained, .in_list = true};
    }
    return n;
}

int fleet_drain(struct fleet *f, const char *name, bool drain)
{
    const size_t i = position(&f->list, name);
    if (i == f->list.n)
        return -ENOENT;
    f->notes[i].drained = drain;
    f->dirty = true;
    f->look_ns = 0;
    return 0;
}
