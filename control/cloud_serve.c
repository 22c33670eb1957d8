/* SPDX-License-Identifier: Apache-2.0 */
#include "control/cloud_serve.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "control/child.h"
#include "control/cmd.h"
#include "control/config/reload.h"
#include "control/log.h"
#include "control/service/daemon.h"
#include "control/signals.h"

#define STEP_NS   UINT64_C(1000000000) /* how long a wait may last before things are looked at */
#define SECOND_NS UINT64_C(1000000000)

static int wake_fd = -1;

int cloud_serve_begin(void)
{
    /* What was ignored stays so: a parent wanted that, or nohup. */
    static const int kept[2] = {SIGINT, SIGHUP};
    struct sigaction before[2];
    wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (wake_fd < 0) {
        log_error("%s", strerror(errno));
        return EXIT_FAILED;
    }
    port_wake_on(wake_fd);
    for (unsigned i = 0; i < 2; i++)
        sigaction(kept[i], NULL, &before[i]);
    signals_serve(wake_fd);
    for (unsigned i = 0; i < 2; i++)
        if (before[i].sa_handler == SIG_IGN)
            sigaction(kept[i], &before[i], NULL);
    return EXIT_OK;
}

void cloud_serve_wake(void)
{
    const uint64_t one = 1;
    if (write(wake_fd, &one, sizeof one) < 0) {
        /* full: it is readable already */
    }
}

void cloud_serve_end(void)
{
    if (wake_fd < 0)
        return;
    signals_serve_end();
    port_wake_on(-1);
    close(wake_fd);
    wake_fd = -1;
}

/* After a sleep and before signals are looked at: each is counted before it rings. */
static void quiet(void)
{
    uint64_t n;
    if (read(wake_fd, &n, sizeof n) < 0) {
        /* it was not rung */
    }
}

/* --- what is said -------------------------------------------------------------------------------
 */

struct said {
    uint64_t refusals, refusals_ns, moves, turned_away;
};

/* Whom we refused, a line a second at most. */
static void say_refusals(const struct cloud *cloud, struct said *r, uint64_t now_ns)
{
    char text[FINGERPRINT_TEXT];
    struct fingerprint last;
    const uint64_t n = cloud_strangers(cloud, &last);
    if (n == r->refusals || (r->refusals && now_ns - r->refusals_ns < SECOND_NS))
        return;
    log_warn("an edge was refused, its identity %s is not admitted (%llu times since the last such "
             "line)",
             fingerprint_format(&last, text), (unsigned long long)(n - r->refusals));
    r->refusals = n;
    r->refusals_ns = now_ns;
}

static void say_news(const struct cloud *cloud, struct said *r)
{
    struct cloud_stats s;
    cloud_stats(cloud, &s);
    if (s.link.moves > r->moves) /* a NAT on the way may do that at any time */
        log_info("an edge has another address than before (change %llu): followed",
                 (unsigned long long)s.link.moves);
    if (s.turned_away > r->turned_away)
        log_warn("%llu edges were turned away: --max-edges are here already",
                 (unsigned long long)(s.turned_away - r->turned_away));
    r->moves = s.link.moves;
    r->turned_away = s.turned_away;
    daemon_status("%s: %u edges, %u sessions", s.draining ? "draining" : "ready", s.edges,
                  s.sessions);
}

/* --- reloading ----------------------------------------------------------------------------------
 */

static int apply_drain_timeout(void *arg, const char *value, char *err)
{
    (void)err;
    ((struct cloud_serve *)arg)->drain_timeout_s =
        value ? (uint32_t)strtoul(value, NULL, 10) : DRAIN_TIMEOUT_S;
    return 0;
}

static int read_authorized(void *arg, const char *value, char *err)
{
    struct cloud_serve *s = arg;
    char why[IDENTITY_ERR] = "";
    struct authorized *fresh;
    if (authorized_read(value, &fresh, why) < 0) {
        snprintf(err, RELOAD_ERR, "%.*s", (int)RELOAD_ERR - 1, why);
        return -EINVAL;
    }
    cloud_set_peers(s->cloud, fresh);
    authorized_close(s->security->peers);
    s->security->peers = fresh;
    log_info("%s: %zu edges are admitted", value, authorized_count(fresh));
    return 0;
}

static const struct reload_key keys[] = {
    {"authorized", read_authorized, true},
    {"drain-timeout", apply_drain_timeout, false},
    {"log-level", reload_log_level, false},
};

static void wake(void *arg)
{
    (void)arg;
    cloud_serve_wake();
}

/* --- --memory-budget -----------------------------------------------------------------------------
 */

#define BUDGET_LOOK_NS (SECOND_NS / 10)

/* Ten times a second. What new sessions' keys and values are kept in their edges decide: they are
 * asked. */
static void look_at_budget(struct cloud_serve *s, uint64_t now_ns, uint64_t *look_ns)
{
    struct budget *b = &s->budget;
    const struct budget before = *b;
    struct account a;

    if (!s->budget_bytes || now_ns < *look_ns)
        return;
    *look_ns = now_ns + BUDGET_LOOK_NS;
    account_of_cloud(s->cloud, s->stage, s->port, s->max_sessions, s->budget_bytes, &a);
    while (budget_is_full(b, &a) && cloud_make_room(s->cloud))
        account_of_cloud(s->cloud, s->stage, s->port, s->max_sessions, s->budget_bytes, &a);
    if (!budget_look(b, &a) || (b->rung == before.rung && b->kv_steps == before.kv_steps))
        return;
    const enum kv_format asked = budget_kv_asked(b);
    const uint32_t n_ctx = stage_info(s->stage)->n_ctx, tokens = budget_context(b, n_ctx);
    cloud_set_limits(s->cloud, tokens, b->rung == BUDGET_REFUSE);
    cloud_ask_kv(s->cloud, asked);
    log_info("memory: %s (step %u of %u), new keys and values %s, sessions of up to %u tokens: "
             "%.1f MB of %.1f resident, cache promised %.1f of %.1f",
             budget_rung_name(b->rung), b->rung, BUDGET_RUNGS - 1,
             asked ? kv_format_name(asked) : "of any format", tokens,
             (double)a.resident_bytes * 1e-6, (double)a.budget_bytes * 1e-6,
             (double)a.kv_busy_bytes * 1e-6, (double)a.limits[ACCOUNT_KV] * 1e-6);
}

/* --- the loop -----------------------------------------------------------------------------------
 */

/* Whether it is to end, and how long it may wait for that; 0: it does not drain. */
struct ending {
    bool draining;
    uint64_t until_ns; /* UINT64_MAX: as long as it takes */
};

static void drain(struct cloud_serve *s, struct ending *e, int sessions, uint64_t now_ns)
{
    e->draining = true;
    e->until_ns = s->drain_timeout_s ? now_ns + s->drain_timeout_s * SECOND_NS : UINT64_MAX;
    cloud_drain(s->cloud, true);
    register_draining(s->registration, true);
    daemon_stopping();
    if (sessions && s->drain_timeout_s)
        log_info("draining: %d sessions may take up to %u s to end or move; another signal ends it "
                 "at once",
                 sessions, s->drain_timeout_s);
    else if (sessions)
        log_info("draining: %d sessions may end or move; another signal ends it at once", sessions);
}

/* By its one edge: an answer is under way, or, where the edge started it, it is there: told to end
 * by the same signal, it ends what it has begun, and leaves. */
static bool is_needed(const struct cloud *cloud, int sessions)
{
    struct cloud_stats s;
    cloud_stats(cloud, &s);
    return child_is() ? s.edges > 0 : sessions > 0;
}

/* Whether this was the last turn. */
static bool is_over(struct cloud_serve *s, struct ending *e, int sessions, uint64_t now_ns)
{
    const int stops = signals_stops();
    if (s->once)
        return cloud_edges_left(s->cloud) || stops > 1 || (stops && !is_needed(s->cloud, sessions));
    if (stops && !e->draining)
        drain(s, e, sessions, now_ns);
    if (!e->draining)
        return false;
    if (sessions && stops < 2 && now_ns < e->until_ns)
        return false;
    if (sessions)
        log_warn("%d sessions are cut off: their edges go on elsewhere, or here when it is back",
                 sessions);
    return true;
}

int cloud_serve_reloads(struct cloud_serve *s, struct reload **out)
{
    const struct reload_params params = {
        .keys = keys, .n_keys = sizeof keys / sizeof *keys, .wake = wake, .arg = s};
    if (reload_open(&params, out) == 0)
        return EXIT_OK;
    log_error("out of memory");
    return EXIT_FAILED;
}

int cloud_serve(struct cloud_serve *s)
{
    const bool in_terminal = isatty(STDERR_FILENO);
    struct ending ending = {.draining = false};
    struct said said = {.refusals = 0};
    uint64_t look_ns = 0, budget_ns = 0;

    daemon_ready();
    for (bool slept = false;;) {
        uint64_t deadline_ns = 0;
        if (slept)
            quiet();
        control_run_pending(s->control);
        const int sessions = cloud_poll(s->cloud, port_now_ns(), &deadline_ns);
        const uint64_t now_ns = port_now_ns();
        if (is_over(s, &ending, sessions, now_ns))
            break;
        if (signals_take_reloads()) {
            if (in_terminal || s->once)
                break;
            reload_begin(s->reload);
        }
        reload_poll(s->reload);
        say_refusals(s->cloud, &said, now_ns);
        if (now_ns >= look_ns) {
            say_news(s->cloud, &said);
            look_ns = now_ns + STEP_NS;
        }
        look_at_budget(s, now_ns, &budget_ns);
        if (deadline_ns > now_ns + STEP_NS)
            deadline_ns = now_ns + STEP_NS;
        if (s->budget.rung && deadline_ns > budget_ns) /* a ladder is left in time, too */
            deadline_ns = budget_ns;
        const uint64_t tick_ns = daemon_tick(now_ns);
        slept = deadline_ns > now_ns;
        port_wait(s->port, tick_ns < deadline_ns
                               ? tick_ns
                               : deadline_ns); /* also when there is
                                                * work: the port's peers come and go there */
    }
    return EXIT_OK;
}

void account_of_cloud(const struct cloud *c, const struct stage *stage, struct port *port,
                      uint32_t max_sessions, uint64_t budget_bytes, struct account *a)
{
    const struct stage_info *info = stage_info(stage);
    struct cloud_stats s;
    cloud_stats(c, &s);
    account_take(&(struct account_source){.stage = stage,
                                          .ports = &port,
                                          .n_ports = 1,
                                          .kv_busy_bytes = s.kv_bytes,
                                          .busy = s.sessions,
                                          .dpdk_bytes = port_eal_rss_bytes(),
                                          .logits_bytes = account_logits(
                                              info->d_model, info->has_head ? info->n_vocab : 0,
                                              info->max_rows, max_sessions),
                                          .budget_bytes = budget_bytes},
                 a);
}
