/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `isthmus quantize` writes: which tensor goes to which file in which scheme, known in full
 * before anything is computed, and then layer by layer.
 */
#ifndef ISTHMUS_CONTROL_QUANTIZE_JOB_H
#define ISTHMUS_CONTROL_QUANTIZE_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "compute/quantize/pass.h"
#include "compute/quantize/quantize.h"
#include "control/model.h"

#define QUANTIZE_OVERRIDES_MAX 64u
/* Fewer tokens than this say too little of 576 and more columns. */
#define QUANTIZE_TOKENS_MIN 4096u

enum { QUANTIZE_FRONT, QUANTIZE_BACK, QUANTIZE_HALVES };

struct quantize_override {
    const char *pattern; /* of a tensor's name, as fnmatch has it */
    struct quantize_scheme scheme;
};

struct quantize_job {
    /* asked for */
    uint32_t split;
    struct quantize_scheme scheme[QUANTIZE_HALVES];
    struct quantize_override overrides[QUANTIZE_OVERRIDES_MAX];
    unsigned n_overrides;
    const char *calibration; /* profile's path; NULL: none */
    const char *out;         /* folder */
    bool as_f16;             /* one whole file of plain tensors */
    bool memory_check;

    /* found */
    bool made_folder; /* out was not there */
    uint32_t n_layers;
    uint8_t parent[16];
    char parent_hex[33], pair_hex[33];
    int32_t *ids; /* of the calibration; NULL: none */
    uint32_t n_windows, window;
};

/* One matrix' result, for the report. */
struct quantize_matrix_result {
    char name[64];
    struct quantize_scheme scheme;
    uint64_t weights, bytes;
    double error; /* NAN: kept */
};

struct quantize_result {
    struct quantize_matrix_result *matrices; /* [n] those of all layers */
    uint32_t n;
    uint64_t file_bytes[QUANTIZE_HALVES];
    char *path[QUANTIZE_HALVES]; /* the second NULL with as_f16 */
    double seconds;
};

/* The scheme of layer `layer`'s matrix m. */
struct quantize_scheme quantize_job_scheme(const struct quantize_job *j, uint32_t layer,
                                           enum quantize_matrix_of m, uint32_t n_cols);

/* What costs nothing is proved: the model's names, types and shapes, overrides, the calibration;
 * then the folder is made. EXIT_OK or an exit code, the error said, here and below. */
int quantize_job_prepare(struct quantize_job *j, const struct model *m);
/* After a failure: the folder goes too if it was made and is empty. */
void quantize_job_undo(const struct quantize_job *j);
void quantize_job_free(struct quantize_job *j);

/* Write the files, both or none, of a job that is prepared. (If naming the second fails, which is
 * said, the first is there alone: opening refuses it beside another pair's.) */
int quantize_job_run(struct quantize_job *j, const struct model *m, struct team *team,
                     struct quantize_result *r);
void quantize_result_free(struct quantize_result *r);

/* To stdout. */
int quantize_result_print(const struct quantize_job *j, const struct quantize_result *r, bool json);

#endif
