/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/transport_load.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DRAIN_NS 2000000000u /* what answers may take when nothing is sent any more */
#define LOOK_NS  10000000u   /* between two looks at whether the peer lives */
#define SPIN_NS  100000u     /* nothing came for so long: wait */
#define STEP_NS  2000000u    /* a wait's longest */
#define EARLY_NS 200000u     /* a message due so soon is not waited for asleep */
#define ASK_NS   10000000000u

/* --- what both do ------------------------------------------------------------------------------
 */

struct loop {
    struct way *w;
    const struct load_env *env;
    const char **why;
    uint64_t now_ns, look_ns, heard_ns;
    struct gaps gaps; /* of this process */
    uint64_t packets; /* since it was looked at last */
    bool slept;
};

static int fail(const struct loop *o, const char *why)
{
    *o->why = why;
    return -EPIPE;
}

static int loop_start(struct loop *o, struct way *w, const struct load_env *env, const char **why)
{
    *o = (struct loop){
        .w = w, .env = env, .why = why, .now_ns = port_now_ns(), .gaps.queued = gaps_queued};
    o->look_ns = o->now_ns + LOOK_NS;
    o->heard_ns = o->now_ns;
    gaps_begin(&o->gaps, o->now_ns);
    return 0;
}

/* Answers come in; the clock goes on. */
static int loop_poll(struct loop *o)
{
    const int n = o->w->ops->poll(o->w);

    if (n < 0)
        return fail(o, o->w->trouble);
    o->now_ns = port_now_ns();
    gaps_turn(&o->gaps, o->now_ns, o->packets + (uint64_t)n, o->slept);
    o->slept = false;
    o->packets = 0;
    if (n)
        o->heard_ns = o->now_ns;
    if (o->now_ns >= o->look_ns) {
        const char *gone = o->env->gone ? o->env->gone(o->env->arg) : NULL;

        if (gone)
            return fail(o, gone);
        o->look_ns = o->now_ns + LOOK_NS;
    }
    return n;
}

/* Nothing to do until `next_ns` unless something comes. */
static int loop_rest(struct loop *o, uint64_t next_ns, bool waiting)
{
    const uint64_t step = o->now_ns + STEP_NS;

    if (o->w->ops->flush(o->w))
        return fail(o, o->w->trouble);
    /* The link waits as edge and cloud do; the floors poll, for a floor is what can be had. */
    if (waiting && (o->w->kind == TRANSPORT_LINK || o->now_ns > o->heard_ns + SPIN_NS) &&
        next_ns > o->now_ns + EARLY_NS) {
        o->w->ops->wait(o->w, next_ns < step ? next_ns : step);
        o->slept = true;
    }
    return 0;
}

/* --- round trips, closed loop ------------------------------------------------------------------
 */

struct slot {
    uint64_t stamp_ns; /* 0: not under way */
};

struct closed {
    struct loop loop;
    const struct load *l;
    struct load_result *r;
    struct slot *slots;
    uint32_t *idle, n_idle; /* slots with nothing under way */
    uint32_t under_way;
    uint64_t scan_ns;
};

static void closed_answer(void *arg, const struct transport_head *h)
{
    struct closed *c = arg;

    if (h->slot >= c->l->sessions || !h->stamp_ns || c->slots[h->slot].stamp_ns != h->stamp_ns)
        return; /* twice, or counted as lost before */
    histogram_add(&c->r->rtt, port_now_ns() - h->stamp_ns);
    c->r->round_trips++;
    c->slots[h->slot].stamp_ns = 0;
    c->idle[c->n_idle++] = h->slot;
    c->under_way--;
}

static void closed_scan(struct closed *c)
{
    if (!c->loop.w->lost_ns || c->loop.now_ns < c->scan_ns)
        return;
    c->scan_ns = c->loop.now_ns + LOOK_NS;
    for (uint32_t i = 0; i < c->l->sessions; i++) {
        struct slot *s = &c->slots[i];

        if (!s->stamp_ns || c->loop.now_ns < s->stamp_ns + c->loop.w->lost_ns)
            continue;
        s->stamp_ns = 0;
        c->idle[c->n_idle++] = i;
        c->under_way--;
        c->r->lost++;
    }
}

static int closed_send(struct closed *c)
{
    while (c->n_idle) {
        const uint32_t i = c->idle[c->n_idle - 1];
        const struct transport_head h = {.verb = TRANSPORT_ECHO,
                                         .bytes = c->l->size_bytes,
                                         .slot = i,
                                         .stamp_ns = port_now_ns()};
        const int rc = c->loop.w->ops->send(c->loop.w, i + 1, &h);

        if (rc < 0)
            return fail(&c->loop, c->loop.w->trouble);
        if (!rc)
            return 0;
        c->slots[i].stamp_ns = h.stamp_ns;
        c->n_idle--;
        c->under_way++;
    }
    return 0;
}

static int closed_run(struct closed *c, uint64_t time_ns)
{
    const uint64_t start = c->loop.now_ns, until = start + time_ns;
    uint64_t end = until;
    int rc = 0;

    while (rc >= 0 && (c->loop.now_ns < until || (c->under_way && c->loop.now_ns < end))) {
        rc = loop_poll(&c->loop);
        if (rc < 0)
            break;
        closed_scan(c);
        const int came = rc;
        if (c->loop.now_ns < until) {
            rc = closed_send(c);
            end = c->loop.now_ns + DRAIN_NS;
        }
        if (rc >= 0)
            rc = loop_rest(&c->loop, UINT64_MAX, !came);
    }
    c->r->lost += c->under_way;
    c->r->round_trip_ns += c->loop.now_ns - start;
    return rc < 0 ? rc : 0;
}

static int closed_loop(struct way *w, const struct load *l, uint64_t time_ns,
                       const struct load_env *env, struct load_result *r, const char **why)
{
    struct closed c = {.l = l, .r = r};
    int rc = -ENOMEM;

    c.slots = calloc(l->sessions, sizeof *c.slots);
    c.idle = calloc(l->sessions, sizeof *c.idle);
    if (c.slots && c.idle) {
        while (c.n_idle < l->sessions) {
            c.idle[c.n_idle] = l->sessions - 1 - c.n_idle;
            c.n_idle++;
        }
        w->answer = closed_answer;
        w->arg = &c;
        loop_start(&c.loop, w, env, why);
        rc = closed_run(&c, time_ns);
        w->answer = NULL;
    }
    free(c.slots);
    free(c.idle);
    return rc;
}

/* --- round trips, open loop --------------------------------------------------------------------
 */

struct open_loop {
    struct loop loop;
    const struct load *l;
    struct load_result *r;
    uint64_t start_ns;
    uint32_t total, sent, answered;
    struct flight *flights; /* due_ns: from the start; rtt_ns 0: not answered */
};

/* A message is due then whatever became of those before it, and its time runs from there: a stall
 * shows in all that it held up. */
static uint64_t due_ns(const struct open_loop *o, uint32_t i)
{
    return o->start_ns + o->flights[i].due_ns;
}

static void open_answer(void *arg, const struct transport_head *h)
{
    struct open_loop *o = arg;

    if (h->slot >= o->sent || h->stamp_ns != due_ns(o, h->slot) || o->flights[h->slot].rtt_ns)
        return;
    const uint64_t rtt_ns = port_now_ns() - h->stamp_ns;

    o->flights[h->slot].rtt_ns = rtt_ns ? rtt_ns : 1;
    o->answered++;
    histogram_add(&o->r->rtt, rtt_ns);
    o->r->round_trips++;
}

static int open_send(struct open_loop *o)
{
    while (o->sent < o->total && due_ns(o, o->sent) <= port_now_ns()) {
        const struct transport_head h = {.verb = TRANSPORT_ECHO,
                                         .bytes = o->l->size_bytes,
                                         .slot = o->sent,
                                         .stamp_ns = due_ns(o, o->sent)};
        const int rc = o->loop.w->ops->send(o->loop.w, o->sent % o->l->sessions + 1, &h);

        if (rc < 0)
            return fail(&o->loop, o->loop.w->trouble);
        if (!rc)
            return 0;
        o->sent++;
        o->loop.packets++;
    }
    return 0;
}

static int open_run(struct open_loop *o)
{
    const uint64_t until = o->start_ns + (uint64_t)((double)o->total * 1e9 / o->l->rate_per_s);
    const uint64_t end = until + (o->loop.w->lost_ns ? o->loop.w->lost_ns : DRAIN_NS);
    int rc = 0;

    while (rc >= 0 && o->loop.now_ns < end && o->answered < o->total) {
        rc = loop_poll(&o->loop);
        if (rc < 0)
            break;
        const int came = rc;
        rc = open_send(o);
        if (rc >= 0)
            rc = loop_rest(&o->loop, o->sent < o->total ? due_ns(o, o->sent) : UINT64_MAX, !came);
    }
    /* Left out, those that never came would make a bad path look good. */
    for (uint32_t i = 0; i < o->total && rc >= 0; i++) {
        if (o->flights[i].rtt_ns)
            continue;
        o->flights[i].rtt_ns = o->loop.now_ns > due_ns(o, i) ? o->loop.now_ns - due_ns(o, i) : 0;
        histogram_add(&o->r->rtt, o->flights[i].rtt_ns);
        o->r->lost++;
    }
    o->r->round_trip_ns +=
        o->loop.now_ns > until ? o->loop.now_ns - o->start_ns : until - o->start_ns;
    return rc < 0 ? rc : 0;
}

/* The peer's gaps while this lasted: at[GAPS_MAX], for it keeps no more, and what it sees while it
 * is asked comes behind them. */
static int peers_gaps(struct open_loop *o, struct gap *at, size_t *n, bool *known)
{
    const struct load_env *env = o->loop.env;
    struct transport_told told;

    *n = 0;
    do {
        int rc = asker_ask(env->asker, ASK_NS, env->gone, env->arg, &told, o->loop.why);

        if (rc)
            return rc;
        memcpy(at + *n, told.gaps, told.n_gaps * sizeof told.gaps[0]);
        *n += told.n_gaps;
    } while (told.n_gaps == TRANSPORT_TOLD_GAPS && *n + TRANSPORT_TOLD_GAPS <= GAPS_MAX);
    *known = told.gaps_known;
    return 0;
}

/* Those messages that no process without its core held up. */
static int open_undisturbed(struct open_loop *o)
{
    struct gap *at = malloc(2 * GAPS_MAX * sizeof *at); /* the peer's and ours */
    size_t n, next = 0;
    bool known;

    if (!at)
        return -ENOMEM;
    const int rc = peers_gaps(o, at, &n, &known);
    for (uint32_t i = 0; i < o->total; i++)
        o->flights[i].due_ns += o->start_ns;
    if (!rc && known && o->loop.gaps.known) {
        n = gaps_since_due(at, n, o->flights, o->total);
        n += gaps_take(&o->loop.gaps, at + n, GAPS_MAX);
        n = gaps_merge(at, n);
        o->r->gaps_known = true;
        o->r->lost_core_ns += gaps_within(at, n, o->start_ns, o->loop.now_ns);
        n = gaps_until_caught_up(at, n, o->flights, o->total);
        for (uint32_t i = 0; i < o->total; i++)
            if (!gaps_touch(at, n, &o->flights[i], &next))
                histogram_add(&o->r->kept, o->flights[i].rtt_ns);
    }
    free(at);
    return rc;
}

static int open_loop(struct way *w, const struct load *l, uint64_t time_ns,
                     const struct load_env *env, struct load_result *r, const char **why)
{
    const double total = ceil(l->rate_per_s * (double)time_ns / 1e9);
    struct open_loop o = {.l = l, .r = r, .total = total < 1 ? 1 : (uint32_t)total};
    int rc = -ENOMEM;

    o.flights = calloc(o.total, sizeof *o.flights);
    if (o.flights) {
        w->answer = open_answer;
        w->arg = &o;
        for (uint32_t i = 0; i < o.total; i++)
            o.flights[i].due_ns = (uint64_t)((double)i * 1e9 / l->rate_per_s);
        loop_start(&o.loop, w, env, why);
        o.start_ns = o.loop.now_ns;
        rc = open_run(&o);
        w->answer = NULL;
        if (!rc && env->one_clock && (w->kind == TRANSPORT_LINK || w->kind == TRANSPORT_RAW))
            rc = open_undisturbed(&o);
    }
    free(o.flights);
    return rc;
}

int load_round_trips(struct way *w, const struct load *l, uint64_t time_ns,
                     const struct load_env *env, struct load_result *r, const char **why)
{
    struct transport_told before, after;
    const uint64_t round_trips = r->round_trips;
    int rc = asker_ask(env->asker, ASK_NS, env->gone, env->arg, &before, why);
    const uint64_t cpu = transport_cpu_ns();

    if (!rc)
        rc = (l->rate_per_s > 0 ? open_loop : closed_loop)(w, l, time_ns, env, r, why);
    const uint64_t used = transport_cpu_ns() - cpu;
    if (!rc)
        rc = asker_ask(env->asker, ASK_NS, env->gone, env->arg, &after, why);
    if (!rc && l->rate_per_s > 0) { /* else the stream's counts */
        r->cpu_ns += used + after.cpu_ns - before.cpu_ns;
        r->cpu_messages += r->round_trips - round_trips;
    }
    return rc;
}

/* --- one way -----------------------------------------------------------------------------------
 */

static int stream(struct loop *o, const struct load *l, uint64_t until_ns, uint64_t *sent)
{
    while (l->transfer ? *sent < l->transfer : o->now_ns < until_ns) {
        int rc = loop_poll(o), taken = 0;

        if (rc < 0)
            return rc;
        for (int k = 0; k < 32 && (!l->transfer || *sent < l->transfer); k++) {
            const struct transport_head h = {
                .verb = TRANSPORT_SINK, .bytes = l->size_bytes, .stamp_ns = o->now_ns};

            rc = o->w->ops->send(o->w, (uint32_t)(*sent % l->sessions) + 1, &h);
            if (rc < 0)
                return fail(o, o->w->trouble);
            if (!rc)
                break;
            taken++;
            ++*sent;
        }
        if (taken)
            o->heard_ns = o->now_ns;
        rc = loop_rest(o, l->transfer ? UINT64_MAX : until_ns, !taken);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int load_one_way(struct way *w, const struct load *l, uint64_t time_ns, const struct load_env *env,
                 struct load_result *r, const char **why)
{
    struct transport_told before, after;
    struct loop o;
    uint64_t sent = 0, came = 0, start, end, asked;
    int rc = asker_ask(env->asker, ASK_NS, env->gone, env->arg, &before, why);
    const uint64_t cpu = transport_cpu_ns();

    if (rc)
        return rc;
    loop_start(&o, w, env, why);
    start = o.now_ns;
    rc = stream(&o, l, start + time_ns, &sent);
    end = o.now_ns;
    /* It ends when the last message was counted; on a way that loses, when no more are. */
    while (!rc) {
        rc = loop_poll(&o);
        if (rc < 0 || w->ops->flush(w))
            return rc < 0 ? rc : fail(&o, w->trouble);
        rc = asker_ask(env->asker, ASK_NS, env->gone, env->arg, &after, why);
        asked = port_now_ns();
        if (!rc && after.sunk[w->kind] - before.sunk[w->kind] > came) {
            came = after.sunk[w->kind] - before.sunk[w->kind];
            end = asked;
        }
        if (came >= sent || asked > end + (!w->lost_ns ? ASK_NS : came ? w->lost_ns / 2 : DRAIN_NS))
            break;
    }
    if (rc)
        return rc;
    r->messages += came;
    r->message_ns += end - start;
    r->cpu_ns += transport_cpu_ns() - cpu + after.cpu_ns - before.cpu_ns;
    r->cpu_messages += came;
    return 0;
}
