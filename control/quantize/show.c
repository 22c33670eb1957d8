/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/quantize/job.h"

struct sum {
    uint64_t weights, bytes;
};

/* Of the matrices of a stage; with QUANTIZE_HALVES, of all. */
static struct sum sum_up(const struct quantize_job *j, const struct quantize_result *r,
                         unsigned stage)
{
    struct sum s = {0};

    for (uint32_t i = 0; i < r->n; i++) {
        const uint32_t layer = i / QUANTIZE_MATRICES;

        if (stage != QUANTIZE_HALVES &&
            stage != (layer < j->split ? QUANTIZE_FRONT : QUANTIZE_BACK))
            continue;
        s.weights += r->matrices[i].weights;
        s.bytes += r->matrices[i].bytes;
    }
    return s;
}

static double bits(struct sum s)
{
    return 8 * (double)s.bytes / (double)s.weights;
}

static json_t *real(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *stage_json(const struct quantize_job *j, const struct quantize_result *r,
                          unsigned stage)
{
    const struct sum s = sum_up(j, r, stage);
    char name[QUANTIZE_NAME_MAX];
    json_t *o = json_object();

    json_object_set_new(o, "scheme", json_string(quantize_scheme_name(&j->scheme[stage], name)));
    json_object_set_new(o, "sparse_percent", json_real((double)j->scheme[stage].sparse));
    json_object_set_new(o, "weights", json_integer((json_int_t)s.weights));
    json_object_set_new(o, "weights_bytes", json_integer((json_int_t)s.bytes));
    json_object_set_new(o, "bits_per_weight", json_real(bits(s)));
    if (!j->as_f16) {
        json_object_set_new(o, "file", json_string(r->path[stage]));
        json_object_set_new(o, "file_bytes", json_integer((json_int_t)r->file_bytes[stage]));
    }
    return o;
}

static int print_json(const struct quantize_job *j, const struct quantize_result *r)
{
    json_t *o = json_object(), *matrices = json_array();

    json_object_set_new(o, "parent", json_string(j->parent_hex));
    json_object_set_new(o, "split", json_integer(j->split));
    json_object_set_new(o, "layers", json_integer(j->n_layers));
    json_object_set_new(o, "calibration_tokens",
                        json_integer(j->ids ? (json_int_t)j->n_windows * j->window : 0));
    json_object_set_new(o, "seconds", json_real(r->seconds));
    json_object_set_new(o, "edge", stage_json(j, r, QUANTIZE_FRONT));
    json_object_set_new(o, "cloud", stage_json(j, r, QUANTIZE_BACK));
    if (j->as_f16) {
        json_object_set_new(o, "file", json_string(r->path[0]));
        json_object_set_new(o, "file_bytes", json_integer((json_int_t)r->file_bytes[0]));
    } else {
        json_object_set_new(o, "pair", json_string(j->pair_hex));
    }
    for (uint32_t i = 0; i < r->n; i++) {
        const struct quantize_matrix_result *m = &r->matrices[i];
        char name[QUANTIZE_NAME_MAX];
        json_t *row = json_object();

        json_object_set_new(row, "name", json_string(m->name));
        json_object_set_new(row, "scheme", json_string(quantize_scheme_name(&m->scheme, name)));
        json_object_set_new(row, "bits_per_weight",
                            json_real(bits((struct sum){m->weights, m->bytes})));
        json_object_set_new(row, "error", real(m->error));
        json_array_append_new(matrices, row);
    }
    if (json_object_set_new(o, "matrices", matrices)) {
        json_decref(o);
        log_error("out of memory");
        return EXIT_FAILED;
    }
    json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(o);
    return EXIT_OK;
}

static void print_stage(const struct quantize_job *j, const struct quantize_result *r,
                        unsigned stage)
{
    const struct sum s = sum_up(j, r, stage);
    char name[QUANTIZE_NAME_MAX];

    printf("%-6s %u layers  %-6s %6.3f bits a weight  %8.1f MB of matrices",
           stage == QUANTIZE_FRONT ? "edge" : "cloud",
           stage == QUANTIZE_FRONT ? j->split : j->n_layers - j->split,
           quantize_scheme_name(&j->scheme[stage], name), bits(s), (double)s.bytes / 1e6);
    if (!j->as_f16)
        printf("  %s, %.1f MB", r->path[stage], (double)r->file_bytes[stage] / 1e6);
    putchar('\n');
}

static void print_text(const struct quantize_job *j, const struct quantize_result *r)
{
    print_stage(j, r, QUANTIZE_FRONT);
    print_stage(j, r, QUANTIZE_BACK);
    if (j->as_f16)
        printf("plain  %s, %.1f MB\n", r->path[0], (double)r->file_bytes[0] / 1e6);
    else
        printf("pair   %s of %s\n", j->pair_hex, j->parent_hex);
}

int quantize_result_print(const struct quantize_job *j, const struct quantize_result *r, bool json)
{
    int rc = EXIT_OK;

    if (json)
        rc = print_json(j, r);
    else
        print_text(j, r);
    if (fflush(stdout) || ferror(stdout)) {
        log_error("stdout: %s", strerror(errno));
        rc = EXIT_FAILED;
    }
    return rc;
}
