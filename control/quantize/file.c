/* SPDX-License-Identifier: Apache-2.0 */
#include "control/quantize/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/profile.h"

#define COPY_BYTES (4u << 20)

/* ggml's ids of plain integers: types of no weight. */
#define GGML_I8  24u
#define GGML_I16 25u
#define GGML_I32 26u

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "arrays are written as they are");

/* --- hash ------------------------------------------------------------------------------------ */

struct quantize_hash {
    XXH3_state_t *state;
};

struct quantize_hash *quantize_hash_new(void)
{
    struct quantize_hash *h = malloc(sizeof(*h));

    if (!h)
        return NULL;
    h->state = XXH3_createState();
    if (!h->state) {
        free(h);
        return NULL;
    }
    XXH3_128bits_reset(h->state);
    return h;
}

void quantize_hash_free(struct quantize_hash *h)
{
    if (!h)
        return;
    XXH3_freeState(h->state);
    free(h);
}

void quantize_hash_add(struct quantize_hash *h, const void *bytes, size_t n)
{
    XXH3_128bits_update(h->state, bytes, n);
}

void quantize_hash_hex(const struct quantize_hash *h, char hex[33])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(h->state));
    profile_hex(canonical.digest, hex);
}

/* --- open, close ----------------------------------------------------------------------------- */

static int failed(const struct quantize_file *f, int rc)
{
    log_error("%s: %s", f->path, strerror(-rc));
    return EXIT_FAILED;
}

int quantize_file_open(const struct model *m, const char *folder, const char *name,
                       struct quantize_hash *hash, struct quantize_file *f)
{
    *f = (struct quantize_file){.m = m, .hash = hash};
    if (asprintf(&f->path, "%s/%s", folder, name) < 0)
        f->path = NULL;
    f->w = gguf_write_new();
    if (!f->path || !f->w) {
        log_error("out of memory");
        return EXIT_FAILED;
    }
    return replacement_open(f->path, &f->to);
}

void quantize_file_close(struct quantize_file *f)
{
    gguf_write_free(f->w);
    replacement_close(f->to);
    free(f->path);
    *f = (struct quantize_file){0};
}

/* --- shapes ---------------------------------------------------------------------------------- */

void quantize_file_keep(struct quantize_file *f, const struct gguf_tensor *t)
{
    gguf_write_tensor(f->w, t->name, t->type, t->n_dims, t->ne, t->bytes);
}

static void part(struct quantize_file *f, const char *name, const char *suffix, uint32_t type,
                 unsigned value_bytes, uint64_t n0, uint64_t n1)
{
    const uint64_t ne[2] = {n0, n1};
    char full[128];

    snprintf(full, sizeof(full), "%s%s", name, suffix);
    gguf_write_tensor(f->w, full, type, n1 ? 2 : 1, ne, n0 * (n1 ? n1 : 1) * value_bytes);
}

static void plain(struct quantize_file *f, const char *name, enum qtype type, uint32_t n_rows,
                  uint32_t n_cols)
{
    const struct qtype_info *info = qtype_info(type);
    const uint64_t ne[2] = {n_cols, n_rows};

    gguf_write_tensor(f->w, name, type, 2, ne,
                      (uint64_t)n_rows * (n_cols / info->block_values) * info->block_bytes);
}

void quantize_file_matrix(struct quantize_file *f, const char *name, uint32_t n_rows,
                          uint32_t n_cols, const struct quantize_scheme *s)
{
    char key[128], scheme[QUANTIZE_NAME_MAX];
    const uint64_t exact = quantize_n_sparse(s, n_rows, n_cols);

    if (s->kind == QUANTIZE_BLOCKS || s->kind == QUANTIZE_F16) {
        plain(f, name, s->kind == QUANTIZE_F16 ? QTYPE_F16 : s->type, n_rows, n_cols);
        return;
    }
    snprintf(key, sizeof(key), "isthmus.scheme.%s", name);
    gguf_write_str(f->w, key, quantize_scheme_name(s, scheme));
    part(f, name, ".codes", GGML_I8, 1, (uint64_t)n_cols * s->bits / 8, n_rows);
    if (s->kind == QUANTIZE_LEVELS) {
        part(f, name, ".lut", QTYPE_F16, 2, 1u << s->bits, n_rows);
    } else {
        const uint32_t groups = (n_cols + s->group - 1) / s->group;
        part(f, name, ".scale", QTYPE_F16, 2, groups, n_rows);
        part(f, name, ".min", QTYPE_F16, 2, groups, n_rows);
    }
    if (exact) {
        part(f, name, ".sp_rows", GGML_I32, 4, (uint64_t)n_rows + 1, 0);
        part(f, name, ".sp_cols", GGML_I16, 2, exact, 0);
        part(f, name, ".sp_values", QTYPE_F16, 2, exact, 0);
    }
}

int quantize_file_begin(struct quantize_file *f)
{
    const int rc = gguf_write_begin(f->w, replacement_fd(f->to));

    return rc ? failed(f, rc) : replacement_reserve(f->to, gguf_write_bytes(f->w));
}

/* --- data ------------------------------------------------------------------------------------ */

static int put(struct quantize_file *f, const void *bytes, size_t n)
{
    const int rc = gguf_write_data(f->w, bytes, n);

    quantize_hash_add(f->hash, bytes, n);
    return rc ? failed(f, rc) : EXIT_OK;
}

int quantize_file_put(struct quantize_file *f, const struct gguf_tensor *t)
{
    uint8_t *bytes = malloc(COPY_BYTES);
    char err[GGUF_ERR] = "";
    int rc = EXIT_OK;

    if (!bytes)
        return failed(f, -ENOMEM);
    for (uint64_t at = 0; at < t->bytes && rc == EXIT_OK; at += COPY_BYTES) {
        const size_t n = t->bytes - at < COPY_BYTES ? (size_t)(t->bytes - at) : COPY_BYTES;

        if (gguf_read(f->m->gguf, t, at, bytes, n, err)) {
            log_error("%s", err);
            rc = EXIT_FAILED;
        } else {
            rc = put(f, bytes, n);
        }
    }
    free(bytes);
    return rc;
}

int quantize_file_put_matrix(struct quantize_file *f, const struct quantized *q)
{
    const size_t rows = q->n_rows, tables = rows * q->n_groups * sizeof(*q->scale);
    const struct {
        const void *bytes;
        size_t n;
    } parts[] = {
        {q->blocks, q->blocks_bytes},
        {q->codes, rows * q->n_cols * q->scheme.bits / 8},
        {q->lut, (rows << q->scheme.bits) * sizeof(*q->lut)},
        {q->scale, tables},
        {q->min, tables},
        {q->sp_rows, (rows + 1) * sizeof(*q->sp_rows)},
        {q->sp_cols, q->n_sparse * sizeof(*q->sp_cols)},
        {q->sp_values, q->n_sparse * sizeof(*q->sp_values)},
    };
    int rc = EXIT_OK;

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && rc == EXIT_OK; i++)
        if (parts[i].bytes)
            rc = put(f, parts[i].bytes, parts[i].n);
    return rc;
}

int quantize_file_pair(struct quantize_file *f, const char *pair_hex)
{
    const int rc = gguf_write_replace_str(f->w, "isthmus.pair", pair_hex);

    return rc ? failed(f, rc) : EXIT_OK;
}

int quantize_file_end(struct quantize_file *f)
{
    const int rc = gguf_write_end(f->w);

    return rc ? failed(f, rc) : replacement_sync(f->to);
}
