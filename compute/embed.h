/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Token embedding, read row by row from the model file: the table never becomes resident.
 */
#ifndef ISTHMUS_COMPUTE_EMBED_H
#define ISTHMUS_COMPUTE_EMBED_H

#include <stddef.h>
#include <stdint.h>

#include "compute/gguf.h"

struct embed;

/* t is the proved f[n_vocab][d_model] table of g. Keeps an own descriptor, nothing of g.
 * 0, -errno of open, -ESTALE (the file is no longer the one g read), -ENOMEM. */
int embed_open(const struct gguf *g, const struct gguf_tensor *t, struct embed **out, char *err);
void embed_close(struct embed *e);

/* x[i][d_model] = row ids[i]; ids are within the table. 0, -EIO (the file became shorter too) or
 * -errno. */
int embed_rows(struct embed *e, const int32_t *ids, size_t n, float *x);

#endif
