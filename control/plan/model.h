/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a planner needs to know of a model: the shapes and storage of what each layer holds. Read
 * from a file's metadata; its weights are not touched. Everything under control/plan/ computes: it
 * neither opens files nor reads clocks.
 */
#ifndef ISTHMUS_CONTROL_PLAN_MODEL_H
#define ISTHMUS_CONTROL_PLAN_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compute/gguf.h"
#include "compute/qtype.h"
#include "compute/scheme.h"

#define PLAN_LAYERS_MAX  1024u
#define PLAN_MATRICES    7u /* of a layer: q k v o gate up down */
#define PLAN_FINGERPRINT 33u
#define PLAN_ERR         320u

/* What a stage's matrices may be stored as: as in the file, in one of its own types, or in one of
 * `isthmus quantize`'s (uniform by group: g; levels of each row, with a sparse part: sq). */
enum plan_scheme {
    PLAN_KEEP,
    PLAN_Q8_0,
    PLAN_Q6_K,
    PLAN_Q5_0,
    PLAN_Q4_1,
    PLAN_Q4_0,
    PLAN_G4,
    PLAN_G3,
    PLAN_G2,
    PLAN_SQ4,
    PLAN_SQ3,
    PLAN_SQ2,
    PLAN_SCHEMES,
};
const char *plan_scheme_name(enum plan_scheme s); /* "keep", "Q8_0", "sq3", ... */
/* -EINVAL: none of them. */
int plan_scheme_parse(const char *name, enum plan_scheme *s);

struct plan_matrix {
    uint32_t rows, cols;
    enum qtype type; /* in the file */
};

struct plan_layer {
    struct plan_matrix mats[PLAN_MATRICES];
    uint32_t n_mats;
    size_t vector_bytes; /* norms and biases, resident */
};

struct plan_model {
    char fingerprint[PLAN_FINGERPRINT];
    uint32_t n_layers, d_model, n_ff, n_heads, n_kv_heads, head_dim, rope_dims, n_vocab, n_ctx;
    bool qkv_bias;
    size_t rope_bytes;       /* rope_freqs, in each stage */
    struct plan_matrix head; /* the embedding's where it has none of its own */
    uint32_t n_merges;       /* of the tokenizer */
    uint64_t text_bytes;     /* of its tokens and merges */
    struct plan_layer *layers;
    uint64_t (*sums)[PLAN_SCHEMES]; /* [n_layers + 1]: bytes of the first so many, plan_model_sum */
};

/* Once the layers are filled in. 0 or -ENOMEM. */
int plan_model_sum(struct plan_model *m);

/* Its sizes alone, those of a half's model too: layers and head are left out. 0 or -EBADMSG,
 * -ENOTSUP with err (GGUF_ERR bytes); nothing is to be freed. */
int plan_model_sizes(const struct gguf *g, struct plan_model *m, char *err);

/* 0; or as stage_footprint (every tensor's name, type and shape is proved), -ENOTSUP (weights in
 * schemes), -EBADMSG, -ENOMEM, -EIO with err (GGUF_ERR bytes). */
int plan_model_read(const struct gguf *g, struct plan_model *m, char *err);
void plan_model_free(struct plan_model *m);

/* Resident bytes of a matrix's panels in a scheme, and the type that a standard scheme gives it:
 * Q6_K only where its columns are whole blocks of 256, else Q8_0. */
size_t plan_matrix_bytes(const struct plan_matrix *m, enum plan_scheme s);
enum qtype plan_matrix_type(const struct plan_matrix *m, enum plan_scheme s);
/* Whether a scheme's matrices are of a type of the file format; else how they are stored, and how
 * many weights of one have entries of their own, as `isthmus quantize` does without --group and
 * --sparse. */
bool plan_scheme_is_standard(enum plan_scheme s);
struct scheme plan_scheme_storage(enum plan_scheme s);
uint32_t plan_matrix_sparse(const struct plan_matrix *m, enum plan_scheme s);
/* Whether `isthmus quantize` writes a matrix so. */
bool plan_matrix_takes(const struct plan_matrix *m, enum plan_scheme s);

/* Of the matrices and vectors of a layer; multiply-adds of a row through it. */
size_t plan_layer_bytes(const struct plan_layer *l, enum plan_scheme s);
double plan_layer_macs(const struct plan_layer *l);

#endif
