/* SPDX-License-Identifier: Apache-2.0 */
/* Limits that contradict the model or the link. */
#include <errno.h>
#include <math.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/plan_show.h"

static int check_ranges(const struct plan_paper *p)
{
    const struct plan_wish *w = p->w;

    for (uint32_t i = 0; i < w->n_contexts; i++) {
        if (w->contexts[i] > w->m->n_ctx) {
            log_error("--context %u: the model's context is %u", w->contexts[i], w->m->n_ctx);
            return EXIT_USAGE;
        }
    }
    if (w->split_max >= w->m->n_layers) {
        log_error("--split %u: %s has %u layers, so it must be 1 to %u", w->split_max, p->model,
                  w->m->n_layers, w->m->n_layers - 1);
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

static int check_times(const struct plan_wish *w)
{
    for (unsigned m = PLAN_TTFT; m <= PLAN_TPOT; m++) {
        if (w->limit[m] > w->link->rtt_s)
            continue;
        log_error("%s of %.2f ms: the link's round trip alone takes %.2f ms, and no split does "
                  "without it",
                  plan_limit_option((enum plan_metric)m), w->limit[m] * 1e3, w->link->rtt_s * 1e3);
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

static int check_memory(const struct plan_wish *w)
{
    const struct plan_memory_case none = {.context = 1,
                                          .edge_threads = 1,
                                          .cloud_threads = 1,
                                          .serves = w->serves,
                                          .cloud_held = w->cloud_held,
                                          .packet_bytes = w->packet_bytes};
    struct plan_memory edge, cloud;

    plan_memory_edge(w->m, &none, &edge);
    plan_memory_cloud(w->m, &none, &cloud);
    const double need[] = {(double)edge.bytes,
                           (double)cloud.bytes - (double)cloud.term[PLAN_PANELS]};
    for (unsigned m = PLAN_EDGE_BYTES; m <= PLAN_CLOUD_BYTES; m++) {
        if (w->limit[m] >= need[m])
            continue;
        log_error("%s of %.1f MB: without a single layer %.1f MB are needed, with a reserve of "
                  "%.0f %%",
                  plan_limit_option((enum plan_metric)m),
                  plan_limit_for((enum plan_metric)m, w->limit[m]) * 1e-6,
                  plan_limit_for((enum plan_metric)m, need[m]) * 1e-6, PLAN_RESERVE * 1e2);
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

/* What less is a reason to give up quality. */
#define WORTH_SAYING .05

int plan_with_more_kl(const struct plan_wish *w, const struct plan_answer *a, bool *found,
                      struct plan *more)
{
    static struct plan_answer beyond;
    struct plan_wish wish = *w;

    *found = false;
    if (!a->found || a->best.front != PLAN_KEEP || w->least == PLAN_KL)
        return 0;
    wish.limit[PLAN_KL] = INFINITY;
    wish.limit[w->least] = a->best.metric[w->least] * (1 - WORTH_SAYING);
    wish.least = PLAN_KL;
    wish.front[PLAN_KEEP] = false;
    wish.n_contexts = wish.n_sessions = 1;
    wish.contexts[0] = a->best.context;
    wish.sessions[0] = a->best.sessions;
    if (plan_search(&wish, &beyond) < 0)
        return -ENOMEM;
    *found = beyond.found;
    *more = beyond.best;
    return 0;
}

int plan_check_limits(const struct plan_paper *p)
{
    int rc = check_ranges(p);

    if (rc == EXIT_OK)
        rc = check_times(p->w);
    return rc == EXIT_OK ? check_memory(p->w) : rc;
}
