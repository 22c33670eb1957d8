/* SPDX-License-Identifier: Apache-2.0 */
/* What both halves on one host take from each other: a step of a third of the layers alone, and
 * while the others are at work on other cores of it. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/measure/measure.h"

#define ROWS 64u

struct other {
    const struct measure_params *p;
    struct plan_host *h;
    int first_core;
    atomic_int phase; /* 0: it loads; 1: ready; 2: it works; 3: it is to end */
    int rc;           /* an exit code */
};

/* EXIT_OK, or an exit code, said. */
static int open_all(const struct measure_params *p, uint32_t layers, uint32_t threads,
                    int first_core, struct team **team, struct stage **stage,
                    struct measure_stage **steps)
{
    unsigned used;
    int rc = team_open(threads, first_core, team, &used);

    if (rc < 0) {
        log_error("cannot start %u compute threads: %s", threads, strerror(-rc));
        return EXIT_FAILED;
    }
    rc = measure_open_layers(p, *team, layers, KV_F16, ROWS, 0, stage);
    if (rc != EXIT_OK)
        return rc;
    return measure_stage_open(*stage, steps) < 0 ? EXIT_FAILED : EXIT_OK;
}

static void close_all(struct team *team, struct stage *stage, struct measure_stage *steps)
{
    measure_stage_close(steps);
    stage_close(stage);
    team_close(team);
}

static void *work(void *arg)
{
    struct other *o = arg;
    const uint32_t n = o->p->shapes->n_layers;
    struct team *team = NULL;
    struct stage *stage = NULL;
    struct measure_stage *steps = NULL;
    double s;

    o->rc = open_all(o->p, n - (n + 2) / 3, o->h->threads, o->first_core, &team, &stage, &steps);
    atomic_store(&o->phase, 1);
    while (atomic_load(&o->phase) < 2)
        sched_yield();
    while (o->rc == EXIT_OK && atomic_load(&o->phase) == 2)
        if (measure_step(steps, 0, ROWS, 0, MEASURE_AT_ONCE, 0, &s) < 0)
            break;
    close_all(team, stage, steps);
    return NULL;
}

static int compare_both(struct other *o)
{
    const struct measure_params *p = o->p;
    struct team *team = NULL;
    struct stage *stage = NULL;
    struct measure_stage *steps = NULL;
    double alone_s = 0, beside_s = 0, rested_s = 0, evicted_s = 0;
    int rc = open_all(p, (p->shapes->n_layers + 2) / 3, o->h->threads, 0, &team, &stage, &steps);

    if (rc == EXIT_OK &&
        measure_step(steps, 0, ROWS, 0, MEASURE_AT_ONCE, 2 * p->time_s, &alone_s) < 0)
        rc = EXIT_FAILED;
    if (rc == EXIT_OK && (measure_step(steps, 0, 1, 0, MEASURE_RESTED, p->time_s, &rested_s) < 0 ||
                          measure_step(steps, 0, 1, 0, MEASURE_EVICTED, p->time_s, &evicted_s) < 0))
        rc = EXIT_FAILED;
    atomic_store(&o->phase, 2);
    if (rc == EXIT_OK &&
        measure_step(steps, 0, ROWS, 0, MEASURE_AT_ONCE, 2 * p->time_s, &beside_s) < 0)
        rc = EXIT_FAILED;
    close_all(team, stage, steps);
    if (rc == EXIT_OK) {
        o->h->beside = beside_s > alone_s ? beside_s / alone_s : 1;
        o->h->evicted = evicted_s > rested_s ? evicted_s / rested_s : 1;
    }
    return rc;
}

int measure_beside(const struct measure_params *p, struct plan_host *h)
{
    struct other o = {.p = p, .h = h, .rc = EXIT_OK};
    struct topology t;
    pthread_t thread;

    /* As control/model.c places two halves: side by side, or, without the cores, on the same. */
    o.first_core =
        topology_read(&t) == 0 && t.allowed_cores >= 2 * h->threads ? (int)h->threads : 0;
    if (pthread_create(&thread, NULL, work, &o)) {
        log_error("cannot start a thread");
        return EXIT_FAILED;
    }
    while (atomic_load(&o.phase) < 1)
        sched_yield();
    int rc = o.rc == EXIT_OK ? compare_both(&o) : o.rc;
    atomic_store(&o.phase, 3);
    pthread_join(thread, NULL);
    return rc;
}
