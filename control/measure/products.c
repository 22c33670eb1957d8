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

/* The widest of the model's matrices whose columns are whole blocks. */
static bool shape_for(const struct plan_model *m, uint32_t block, uint32_t *rows, uint32_t *cols)
{
    *rows = m->n_ff;
    *cols = m->d_model;
    if (*cols % block == 0)
        return true;
    *rows = m->d_model;
    *cols = m->n_ff;
    return *cols % block == 0;
}

static int time_format(const struct measure_params *p, const struct plan_host *h,
                       const struct matmul_format *format, uint32_t rows, uint32_t cols, double *s)
{
    const unsigned isa = cpu_flags();
    struct matmul *m;
    int rc = matmul_open(format, rows, cols, &isa, 1, &m);

    for (uint32_t k = 0; k < h->n_rows && rc == 0; k++) {
        struct matmul_run run = {.matmul = m, .isa = isa};
        struct turns_job job = {.run = matmul_run, .arg = &run, .units = 1};
        rc = matmul_set(m, h->rows[k]);
        if (rc == 0)
            rc = turns_take(&job, 1, p->time_s / 2);
        s[k] = job.median_ns * 1e-9;
    }
    matmul_close(m);
    plan_trim_steps(s, h->n_rows);
    /* One thread's; those of a team share the rows. */
    for (uint32_t k = 0; k < h->n_rows; k++)
        s[k] /= (double)rows * cols * h->rows[k] * h->threads;
    return rc;
}

static int time_type(const struct measure_params *p, struct plan_host *h, uint32_t i)
{
    const struct matmul_format format = {.type = h->types[i].type};
    uint32_t rows, cols;

    if (!shape_for(p->shapes, qtype_info(format.type)->block_values, &rows, &cols))
        return -EINVAL;
    return time_format(p, h, &format, rows, cols, h->types[i].s);
}

/* With as many sparse entries in each row, nearly, as `isthmus quantize` leaves. A model of other
 * shapes has no such halves. */
static int time_scheme(const struct measure_params *p, struct plan_host *h, enum plan_scheme s)
{
    struct matmul_format format = {.scheme = plan_scheme_storage(s)};
    struct plan_matrix m = {.rows = 0};

    if (!shape_for(p->shapes, SCHEME_BLOCK, &m.rows, &m.cols) || !plan_matrix_takes(&m, s))
        return 0;
    const uint32_t of_row = (plan_matrix_sparse(&m, s) + m.rows / 2) / m.rows;
    format.sparse = of_row > 0;
    format.sparse_part = of_row ? m.cols / of_row : 0;
    return time_format(p, h, &format, m.rows, m.cols, h->scheme_s[s]);
}

int measure_products(const struct measure_params *p, struct plan_host *h)
{
    int rc = 0;

    list_types(p->shapes, h);
    for (uint32_t i = 0; i < h->n_types && rc == 0; i++) {
        rc = time_type(p, h, i);
        if (rc < 0)
            log_error("products of %s: %s", qtype_info(h->types[i].type)->name, strerror(-rc));
    }
    for (unsigned s = 0; s < PLAN_SCHEMES && rc == 0; s++) {
        if (plan_scheme_is_standard((enum plan_scheme)s))
            continue;
        rc = time_scheme(p, h, (enum plan_scheme)s);
        if (rc < 0)
            log_error("products of %s: %s", plan_scheme_name((enum plan_scheme)s), strerror(-rc));
    }
    return rc < 0 ? EXIT_FAILED : EXIT_OK;
}
