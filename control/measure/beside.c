/* SPDX-License-Identifier: Apache-2.0 */
/* What both halves on one host take from each other: a step of a third of the layers alone, and
 * while the others are at work on other cores of it. */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/measure/measure.h"

#define ROWS 64u

/* It loads its layers, says that it is ready, and sleeps until it is to work: while a half is
 * measured alone it takes nothing. */
struct other {
    const struct measure_params *p;
    struct plan_host *h;
    struct model_halves cores;
    sem_t ready, begin;
    atomic_bool over;
    int rc; /* an exit code, said */
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
    rc = measure_stage_open(*stage, steps);
    return rc ? measure_failed(rc, "a half beside another") : EXIT_OK;
}

static void close_all(struct team *team, struct stage *stage, struct measure_stage *steps)
{
    measure_stage_close(steps);
    stage_close(stage);
    team_close(team);
}

static void wait_for(sem_t *s)
{
    while (sem_wait(s) < 0 && errno == EINTR) {
    }
}

static void *work(void *arg)
{
    struct other *o = arg;
    const uint32_t n = o->p->shapes->n_layers;
    struct team *team = NULL;
    struct stage *stage = NULL;
    struct measure_stage *steps = NULL;
    double s;

    o->rc =
        open_all(o->p, n - (n + 2) / 3, o->h->threads, o->cores.cloud_core, &team, &stage, &steps);
    sem_post(&o->ready);
    wait_for(&o->begin);
    while (o->rc == EXIT_OK && !atomic_load(&o->over)) {
        const int rc = measure_step(steps, 0, ROWS, 0, MEASURE_AT_ONCE, 0, &s);
        if (rc)
            o->rc = measure_failed(rc, "the half beside the one that is measured");
    }
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
    int rc = open_all(p, (p->shapes->n_layers + 2) / 3, o->h->threads, o->cores.edge_core, &team,
                      &stage, &steps);

    if (rc == EXIT_OK) {
        rc = measure_step(steps, 0, ROWS, 0, MEASURE_AT_ONCE, 2 * p->time_s, &alone_s);
        if (rc == 0)
            rc = measure_step(steps, 0, 1, 0, MEASURE_RESTED, p->time_s, &rested_s);
        if (rc == 0)
            rc = measure_step(steps, 0, 1, 0, MEASURE_EVICTED, p->time_s, &evicted_s);
        sem_post(&o->begin);
        if (rc == 0)
            rc = measure_step(steps, 0, ROWS, 0, MEASURE_AT_ONCE, 2 * p->time_s, &beside_s);
        rc = rc ? measure_failed(rc, "a half alone and beside another") : EXIT_OK;
    }
    close_all(team, stage, steps);
    if (rc == EXIT_OK) {
        o->h->beside = beside_s > alone_s ? beside_s / alone_s : 1;
        o->h->evicted = evicted_s > rested_s ? evicted_s / rested_s : 1;
    }
    return rc;
}

static int compare_with(struct other *o)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, work, o)) {
        log_error("cannot start a thread");
        return EXIT_FAILED;
    }
    wait_for(&o->ready);
    const int rc = o->rc == EXIT_OK ? compare_both(o) : EXIT_OK;
    atomic_store(&o->over, true);
    sem_post(&o->begin);
    pthread_join(thread, NULL);
    return o->rc != EXIT_OK ? o->rc : rc; /* a half that stopped kept nobody busy */
}

int measure_beside(const struct measure_params *p, struct plan_host *h)
{
    struct model_options options = *p->options;
    struct other o = {.p = p, .h = h, .rc = EXIT_OK};

    options.threads = h->threads;
    int rc = model_place_halves(&options, &o.cores);
    if (rc != EXIT_OK)
        return rc;
    /* No cores are left behind those of --first-core, but before them. */
    if (o.cores.cloud_core == o.cores.edge_core && o.cores.edge_core >= (int)h->threads)
        o.cores.cloud_core = o.cores.edge_core - (int)h->threads;
    sem_init(&o.ready, 0, 0);
    sem_init(&o.begin, 0, 0);
    rc = compare_with(&o);
    sem_destroy(&o.begin);
    sem_destroy(&o.ready);
    return rc;
}
