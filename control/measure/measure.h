/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `isthmus profile` measures, by the code that serves: steps of the stage, products of its
 * kernels, messages of the link. The results are the planner's structs.
 */
#ifndef ISTHMUS_CONTROL_MEASURE_MEASURE_H
#define ISTHMUS_CONTROL_MEASURE_MEASURE_H

#include "control/model.h"
#include "control/plan/host.h"
#include "control/port_arg.h"
#include "control/progress.h"

struct measure_params {
    const struct model *m;
    const struct plan_model *shapes;
    const struct model_options *options; /* threads, cores */
    uint32_t depth;                      /* tokens of cache at which attention is measured */
    double time_s;                       /* of each step that is measured, about */
    struct progress *progress;           /* MEASURE_STEPS of it */
};
#define MEASURE_STEPS 20u

/* The host with this model: all of *h. EXIT_OK or an exit code, said. */
int measure_host(const struct measure_params *p, struct plan_host *h);

/* Who this machine and program are: the names in *h and no times. */
void measure_names(struct plan_host *h);

struct measure_link_params {
    const char *uri;
    const struct security_options *security;
    const struct netem_options *netem;
    double time_s; /* of each part */
};
/* A link to an `isthmus bench transport --listen`. EXIT_OK or an exit code, said. */
int measure_link(const struct measure_link_params *p, struct plan_link *l);

/* --- parts --------------------------------------------------------------------------------------
 */

/* The exit code for a part's -errno: it is said, but for -EINTR. */
int measure_failed(int rc, const char *what);

#define MEASURE_TURNS_MAX 512u

/* A step of `rows` rows of one sequence that has `depth` tokens, with so many logits, timed again
 * and again: about time_s in all, and five turns at least; one after the other, or each as decode
 * has it: after a rest, in which the other half works, or on one host after its weights went
 * through the caches that both share. A quarter of them were faster than *quarter_s:
 * others on the machine only ever make a step slower. 0, -EINTR or what stage_run says. */
enum measure_before { MEASURE_AT_ONCE, MEASURE_RESTED, MEASURE_EVICTED };
struct measure_stage;
int measure_stage_open(struct stage *stage, struct measure_stage **out);
void measure_stage_close(struct measure_stage *s);
int measure_step(struct measure_stage *s, uint32_t depth, uint32_t rows, uint32_t n_logits,
                 enum measure_before before, double time_s, double *quarter_s);

/* A stage of the first `layers` layers on the team, with room for a step of `rows` and depth tokens
 * before it. EXIT_OK or an exit code, said. */
int measure_open_layers(const struct measure_params *p, struct team *team, uint32_t layers,
                        enum kv_format kv, uint32_t rows, uint32_t depth, struct stage **out);

/* Products of the types that the model has and that `isthmus quantize` may give it. EXIT_... */
int measure_products(const struct measure_params *p, struct plan_host *h);
/* Steps beside the other half's and alone, on the cores that both would have: h->beside, evicted.
 * EXIT_OK or an exit code, said. */
int measure_beside(const struct measure_params *p, struct plan_host *h);
/* How long a thread that sleeps on an eventfd takes to run. 0 or -errno. */
int measure_wake(double *s);

#endif
