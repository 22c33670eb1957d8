/* SPDX-License-Identifier: Apache-2.0 */
#include "control/fleet/fleet.h"

#include <errno.h>
#include <stdio.h>
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
    uint64_t name_ns;         /* when the wait for its name began */
    bool told_unfit;
    const struct fleet_params *p;
};

/* What is known of a worker beside its line. */
struct note {
    bool drained, unfit;
    uint64_t avoid_until_ns;
    char *why; /* it is avoided, or was; NULL: not known */
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

static void free_notes(struct fleet *f)
{
    for (size_t i = 0; i < f->list.n; i++)
        free(f->notes[i].why);
    free(f->notes);
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
    free_notes(f);
    workers_free(&f->list);
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
        if (!worker_same(&f->list.list[old], &w->list[i]))
            continue;
        notes[i].avoid_until_ns = f->notes[old].avoid_until_ns;
        notes[i].unfit = f->notes[old].unfit;
        notes[i].why = f->notes[old].why;
        f->notes[old].why = NULL;
    }
    free_notes(f);
    workers_free(&f->list);
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

static void avoid(struct fleet *f, const struct berth *b, uint64_t until_ns, bool unfit,
                  const char *why)
{
    const size_t i = position(&f->list, b->worker.name);
    f->dirty = true;
    if (i == f->list.n)
        return;
    struct note *n = &f->notes[i];
    n->avoid_until_ns = until_ns;
    n->unfit = unfit;
    free(n->why);
    n->why = strdup(why);
}

/* Why it is avoided, or was. */
static const char *noted(const struct note *n)
{
    return n->why ? n->why : "";
}

/* --- uplinks
 * --------------------------------------------------------------------------------------
 */

/* The port again, or another where a name may stand for another address by now: once that is
 * known. Until then the address before is tried now and then. */
static struct port *next_port(void *arg)
{
    struct berth *b = arg;
    if (b->port && !port_arg_may_move(b->worker.port))
        return b->port;
    if (port_arg_awaits_name(b->worker.port, &b->name_ns))
        return NULL;
    if (port_looked_up(b->worker.port))
        (void)port_arg_replace(b->worker.port, b->p->security, b->p->netem, &b->port);
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
    if (!port_looked_up(f->list.list[position_in_list].port)) {
        f->choose_again_ns = now_ns; /* at the next look */
        return;
    }
    struct berth *b = &f->berths[i];
    *b = (struct berth){
        .used = true, .worker = f->list.list[position_in_list], .heard_ns = now_ns, .p = &f->p};
    struct edge_uplink_params u = {.name = b->worker.name, .next_port = next_port, .arg = b};
    int rc = know_peer(f, b, &u.security) ? 0 : -EACCES;
    if (rc < 0)
        snprintf(err, sizeof err, "no fingerprint is known of it, or none that --peer names");
    if (rc == 0) {
        b->port = port_arg_reopen(b->worker.port, f->p.security, f->p.netem);
        rc = b->port ? 0 : -EIO;
        if (rc < 0)
            snprintf(err, sizeof err, "its port can't be opened: the log says why");
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
        avoid(f, b, now_ns + (soon ? AGAIN_NS : AVOID_NS), false, err);
        empty(b);
        return;
    }
    b->index = (uint32_t)rc;
}

static struct berth *berth_of(const struct fleet *f, const struct worker *w)
{
    for (unsigned i = 0; i < EDGE_UPLINKS_MAX; i++)
        if (f->berths[i].used && worker_same(&f->berths[i].worker, w))
            return (struct berth *)&f->berths[i];
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
            avoid(f, b, now_ns + AVOID_NS, true, s.why);
        } else if (now_ns - b->heard_ns > SILENT_NS && f->list.n > f->p.max_uplinks &&
                   !b->leaving) {
            avoid(f, b, now_ns + AVOID_NS, false, s.why[0] ? s.why : "it does not answer");
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

enum fleet_state fleet_uplink_state(const struct edge_uplink_stats *u)
{
    if (u->state == EDGE_UPLINK_UNFIT)
        return FLEET_UNFIT;
    if (u->state != EDGE_UPLINK_JOINED)
        return FLEET_AWAY;
    return u->draining || u->drains ? FLEET_DRAINING : FLEET_JOINED;
}

/* One that an uplink is there for. */
static void see_berth(const struct fleet *f, const struct berth *b, struct fleet_worker *w)
{
    const size_t at = position(&f->list, b->worker.name);
    const char *why = w->uplink.why;
    w->worker = b->worker;
    w->joined = true;
    w->in_list = at < f->list.n && worker_same(&f->list.list[at], &b->worker);
    w->worker.draining = w->in_list && f->list.list[at].draining;
    w->drained = w->in_list && f->notes[at].drained;
    w->state = fleet_uplink_state(&w->uplink);
    if (w->drained || w->worker.draining || !w->in_list)
        w->state = FLEET_DRAINING;
    if (!*why && w->in_list)
        why = noted(&f->notes[at]);
    snprintf(w->why, sizeof w->why, "%s", why);
}

/* One that there is none for. */
static void see_member(const struct fleet *f, size_t i, struct fleet_worker *w)
{
    const struct note *n = &f->notes[i];
    const bool avoided = n->avoid_until_ns > f->look_ns;
    *w = (struct fleet_worker){
        .worker = f->list.list[i], .drained = n->drained, .in_list = true, .state = FLEET_KNOWN};
    if (w->drained || w->worker.draining)
        w->state = FLEET_DRAINING;
    else if (!fleet_fits(&w->worker, &f->p.need))
        w->state = FLEET_UNFIT;
    else if (avoided)
        w->state = n->unfit ? FLEET_UNFIT : FLEET_AWAY;
    snprintf(w->why, sizeof w->why, "%s", noted(n));
    fleet_misfit(&w->worker, &f->p.need, w->why, sizeof w->why);
}

/* Uplinks first, then the list's: the i-th of both together. False: there is none, or it was one of
 * the uplinks. */
static bool see(const struct fleet *f, const struct edge *e, size_t i, struct fleet_worker *w)
{
    if (i >= EDGE_UPLINKS_MAX) {
        i -= EDGE_UPLINKS_MAX;
        if (berth_of(f, &f->list.list[i]))
            return false;
        see_member(f, i, w);
        return true;
    }
    const struct berth *b = &f->berths[i];
    if (!b->used || edge_uplink_stats(e, b->index, &w->uplink) < 0)
        return false;
    see_berth(f, b, w);
    return true;
}

size_t fleet_list(const struct fleet *f, const struct edge *e, struct fleet_worker *list,
                  size_t max)
{
    size_t n = 0;
    for (size_t i = 0; i < EDGE_UPLINKS_MAX + f->list.n; i++) {
        struct fleet_worker w;
        if (see(f, e, i, &w) && n++ < max)
            list[n - 1] = w;
    }
    return n;
}

/* Two uplinks of one name are one worker, that has moved. */
static void count_uplink(struct fleet_counts *c, const char *name, bool up)
{
    for (uint32_t i = 0; i < c->n_uplinks; i++)
        if (strcmp(c->uplinks[i].name, name) == 0) {
            c->uplinks[i].up |= up;
            return;
        }
    struct fleet_up *u = &c->uplinks[c->n_uplinks++];
    snprintf(u->name, sizeof u->name, "%s", name);
    u->up = up;
}

void fleet_count(const struct fleet *f, const struct edge *e, struct fleet_counts *c)
{
    *c = (struct fleet_counts){.n_uplinks = 0};
    for (uint32_t i = 0; !f && i < EDGE_UPLINKS_MAX; i++) {
        struct edge_uplink_stats s;
        if (edge_uplink_stats(e, i, &s) == 0)
            c->n[fleet_uplink_state(&s)]++;
    }
    for (size_t i = 0; f && i < EDGE_UPLINKS_MAX + f->list.n; i++) {
        struct fleet_worker w;
        if (!see(f, e, i, &w))
            continue;
        c->n[w.state]++;
        if (w.joined)
            count_uplink(c, w.worker.name, w.uplink.state == EDGE_UPLINK_JOINED);
    }
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
