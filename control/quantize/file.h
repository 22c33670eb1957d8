/* SPDX-License-Identifier: Apache-2.0 */
/* One of the files that are written: its tensors declared, and then put, in the same order. */
#ifndef ISTHMUS_CONTROL_QUANTIZE_FILE_H
#define ISTHMUS_CONTROL_QUANTIZE_FILE_H

#include "compute/gguf_write.h"
#include "control/quantize/job.h"
#include "control/replace_file.h"

/* XXH3_state_t, which a header can't name without including all of it. */
struct quantize_hash;
struct quantize_hash *quantize_hash_new(void);
void quantize_hash_free(struct quantize_hash *h);
void quantize_hash_add(struct quantize_hash *h, const void *bytes, size_t n);
void quantize_hash_hex(const struct quantize_hash *h, char hex[33]);

struct quantize_file {
    const struct model *m;
    struct gguf_writer *w;
    struct replacement *to;
    struct quantize_hash *hash; /* of all data put; shared by the files of a pair */
    char *path;
};

/* EXIT_OK or an exit code, the error said, here and below; close either way. */
int quantize_file_open(const struct model *m, const char *folder, const char *name,
                       struct quantize_hash *hash, struct quantize_file *f);
void quantize_file_close(struct quantize_file *f);

/* Declare a tensor of the model as it is, or a matrix of n_rows x n_cols in a scheme. */
void quantize_file_keep(struct quantize_file *f, const struct gguf_tensor *t);
void quantize_file_matrix(struct quantize_file *f, const char *name, uint32_t n_rows,
                          uint32_t n_cols, const struct quantize_scheme *s);

/* All is declared: take the room. */
int quantize_file_begin(struct quantize_file *f);

int quantize_file_put(struct quantize_file *f, const struct gguf_tensor *t);
int quantize_file_put_matrix(struct quantize_file *f, const struct quantized *q);

/* Say of which pair the file is, in the place declared for it: once all data is put. */
int quantize_file_pair(struct quantize_file *f, const char *pair_hex);

/* The header, and all of it on the disk, not yet under its name. */
int quantize_file_end(struct quantize_file *f);

#endif
