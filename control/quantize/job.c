/* SPDX-License-Identifier: Apache-2.0 */
#include "control/quantize/job.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compute/arch/arch.h"
#include "compute/stage.h"
#include "control/cmd.h"
#include "control/log.h"
#include "control/meminfo.h"
#include "control/profile.h"

static void matrix_name(uint32_t layer, enum quantize_matrix_of m, char name[64])
{
    snprintf(name, 64, "blk.%u.%s", layer, quantize_matrix_name(m));
}

struct quantize_scheme quantize_job_scheme(const struct quantize_job *j, uint32_t layer,
                                           enum quantize_matrix_of m, uint32_t n_cols)
{
    struct quantize_scheme s = j->scheme[layer < j->split ? QUANTIZE_FRONT : QUANTIZE_BACK];
    char name[64];

    matrix_name(layer, m, name);
    for (unsigned i = 0; i < j->n_overrides; i++)
        if (fnmatch(j->overrides[i].pattern, name, 0) == 0)
            s = j->overrides[i].scheme;
    quantize_scheme_fit(&s, n_cols);
    return s;
}

/* --- proofs ---------------------------------------------------------------------------------- */

static int check_parent(struct quantize_job *j, const struct model *m)
{
    struct gguf_str key;

    if (gguf_key_from(m->gguf, "isthmus.version", &key) ||
        gguf_key_from(m->gguf, "isthmus.scheme.", &key)) {
        log_error("%s: %.*s: was written by isthmus quantize: give the model that it was made from",
                  m->path, (int)key.len, key.ptr);
        return EXIT_USAGE;
    }
    if (gguf_fingerprint(m->gguf, j->parent)) {
        log_error("%s: cannot be read", m->path);
        return EXIT_FAILED;
    }
    profile_hex(j->parent, j->parent_hex);
    j->n_layers = m->n_layers;
    return EXIT_OK;
}

/* All that a model has to have is there and has its shape, and nothing else. */
static int check_tensors(const struct model *m)
{
    const struct stage_params whole = {0};
    size_t weights_bytes, kv_bytes;
    char err[GGUF_ERR] = "";

    if (stage_footprint(m->gguf, &whole, 1, &weights_bytes, &kv_bytes, err) == 0)
        return EXIT_OK;
    log_error("%s", err);
    return EXIT_USAGE;
}

/* Every matrix can be stored in the scheme that it is to have. */
static int check_shapes(const struct quantize_job *j, const struct model *m)
{
    char name[64], buf[QUANTIZE_NAME_MAX];

    for (uint32_t layer = 0; layer < j->n_layers; layer++)
        for (unsigned i = 0; i < QUANTIZE_MATRICES; i++) {
            matrix_name(layer, i, name);
            const uint32_t n_cols = (uint32_t)gguf_find(m->gguf, name)->ne[0];
            const struct quantize_scheme s = quantize_job_scheme(j, layer, i, n_cols);
            const char *why = quantize_scheme_refuses(&s, n_cols);

            if (!why)
                continue;
            log_error("%s: tensor %s: %u columns cannot be stored as %s: %s", m->path, name, n_cols,
                      quantize_scheme_name(&s, buf), why);
            return EXIT_USAGE;
        }
    return EXIT_OK;
}

/* Every override is for something. */
static int check_overrides(struct quantize_job *j)
{
    char name[64];

    for (unsigned i = 0; i < j->n_overrides; i++) {
        bool used = false;

        for (uint32_t layer = 0; layer < j->n_layers && !used; layer++)
            for (unsigned m = 0; m < QUANTIZE_MATRICES && !used; m++) {
                matrix_name(layer, m, name);
                used = fnmatch(j->overrides[i].pattern, name, 0) == 0;
            }
        if (!used) {
            log_error("--tensor %s: no matrix of the %u layers has that name; they are called "
                      "blk.0.attn_q.weight, ...",
                      j->overrides[i].pattern, j->n_layers);
            return EXIT_USAGE;
        }
    }
    return EXIT_OK;
}

static bool needs_text(const struct quantize_scheme *s)
{
    return s->kind == QUANTIZE_GROUPS || s->kind == QUANTIZE_LEVELS;
}

static int check_text(struct quantize_job *j)
{
    const struct quantize_scheme *needs = NULL;
    char name[QUANTIZE_NAME_MAX];

    for (unsigned i = 0; i < QUANTIZE_HALVES; i++)
        if (needs_text(&j->scheme[i]))
            needs = &j->scheme[i];
    for (unsigned i = 0; i < j->n_overrides; i++)
        if (needs_text(&j->overrides[i].scheme))
            needs = &j->overrides[i].scheme;
    if (!j->calibration) {
        if (!needs)
            return EXIT_OK;
        log_error("%s needs --calibration FILE, made by isthmus calibrate of this model",
                  quantize_scheme_name(needs, name));
        return EXIT_USAGE;
    }
    const int rc = profile_read_text(j->calibration, j->parent, &j->ids, &j->n_windows, &j->window);
    if (rc == EXIT_OK && j->n_windows * j->window < QUANTIZE_TOKENS_MIN) {
        log_error("%s: a calibration text of %u tokens is too short, it takes %u: calibrate on %u "
                  "windows or more",
                  j->calibration, j->n_windows * j->window, QUANTIZE_TOKENS_MIN,
                  QUANTIZE_TOKENS_MIN / j->window);
        return EXIT_USAGE;
    }
    return rc;
}

static int check_ids(const struct quantize_job *j, const struct model *m)
{
    struct hparams hp;
    char err[GGUF_ERR] = "";

    if (hparams_read(m->gguf, &hp, err)) {
        log_error("%s", err);
        return EXIT_USAGE;
    }
    for (uint64_t i = 0; j->ids && i < (uint64_t)j->n_windows * j->window; i++)
        if ((uint32_t)j->ids[i] >= hp.n_vocab) {
            log_error("%s: token %d is not in the vocabulary", j->calibration, j->ids[i]);
            return EXIT_USAGE;
        }
    return EXIT_OK;
}

static int check_folder(struct quantize_job *j)
{
    struct stat st;

    j->made_folder = mkdir(j->out, 0777) == 0;
    if (j->made_folder)
        return EXIT_OK;
    if (errno == EEXIST && stat(j->out, &st) == 0 && S_ISDIR(st.st_mode))
        return EXIT_OK;
    log_error("%s: %s", j->out, errno == EEXIST ? "not a folder" : strerror(errno));
    return EXIT_USAGE;
}

int quantize_job_prepare(struct quantize_job *j, const struct model *m)
{
    int rc = check_parent(j, m);

    if (rc == EXIT_OK)
        rc = check_tensors(m);
    if (rc == EXIT_OK)
        rc = check_overrides(j);
    if (rc == EXIT_OK)
        rc = check_shapes(j, m);
    if (rc == EXIT_OK)
        rc = check_text(j);
    if (rc == EXIT_OK)
        rc = check_ids(j, m);
    if (rc == EXIT_OK)
        rc = check_folder(j);
    return rc;
}

void quantize_job_undo(const struct quantize_job *j)
{
    if (j->made_folder)
        (void)rmdir(j->out);
}

void quantize_job_free(struct quantize_job *j)
{
    free(j->ids);
    j->ids = NULL;
}

void quantize_result_free(struct quantize_result *r)
{
    free(r->matrices);
    for (unsigned i = 0; i < QUANTIZE_HALVES; i++)
        free(r->path[i]);
}
