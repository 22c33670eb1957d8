/* SPDX-License-Identifier: Apache-2.0 */
/* A multiply-add in each storage of a matrix. */
#include <errno.h>
#include <string.h>

#include "codec/cpu.h"
#include "control/bench/kernel_matmul.h"
#include "control/bench/turns.h"
#include "control/cmd.h"
#include "control/log.h"
#include "control/measure/measure.h"

static void add(struct plan_host *h, enum qtype type)
{
    for (uint32_t i = 0; i < h->n_types; i++)
        if (h->types[i].type == type)
            return;
    if (h->n_types < PLAN_TYPES_MAX)
        h->types[h->n_types++].type = type;
}

static void list_types(const struct plan_model *m, struct plan_host *h)
{
    for (uint32_t l = 0; l < m->n_layers; l++)
        for (uint32_t i = 0; i < m->layers[l].n_mats; i++)
            for (unsigned s = 0; s < PLAN_SCHEMES; s++)
                if (plan_scheme_is_standard((enum plan_scheme)s))
                    add(h, plan_matrix_type(&m->layers[l].mats[i], (enum plan_scheme)s));
}

/* The widest of the model's matrices that the type can have. */
static bool shape_for(const struct plan_model *m, enum qtype type, uint32_t *rows, uint32_t *cols)
{
    *rows = m->n_ff;
    *cols = m->d_model;
    if (*cols % qtype_info(type)->block_values == 0)
        return true;
    *rows = m->d_model;
    *cols = m->n_ff;
    return *cols % qtype_info(type)->block_values == 0;
}

static int time_type(const struct measure_params *p, struct plan_host *h, uint32_t i)
{
    const unsigned isa = cpu_flags();
    uint32_t rows, cols;
    struct matmul *m;

    if (!shape_for(p->shapes, h->types[i].type, &rows, &cols))
        return -EINVAL;
    const struct matmul_format format = {.type = h->types[i].type};
    int rc = matmul_open(&format, rows, cols, &isa, 1, &m);
    for (uint32_t k = 0; k < h->n_rows && rc == 0; k++) {
        struct matmul_run run = {.matmul = m, .isa = isa};
        struct turns_job job = {.run = matmul_run, .arg = &run, .units = 1};
        rc = matmul_set(m, h->rows[k]);
        if (rc == 0)
            rc = turns_take(&job, 1, p->time_s / 2);
        /* One thread's; those of a team share the rows. */
        h->types[i].s[k] = job.median_ns * 1e-9 / ((double)rows * cols * h->rows[k] * h->threads);
    }
    matmul_close(m);
    return rc;
}

int measure_products(const struct measure_params *p, struct plan_host *h)
{
    list_types(p->shapes, h);
    for (uint32_t i = 0; i < h->n_types; i++) {
        const int rc = time_type(p, h, i);
        if (rc < 0) {
            log_error("products of %s: %s", qtype_info(h->types[i].type)->name, strerror(-rc));
            return EXIT_FAILED;
        }
    }
    return EXIT_OK;
}
