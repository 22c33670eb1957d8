/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GGUF v3 writer: metadata and the shapes of all tensors first, then their data in the same order,
 * then the header, so that metadata may depend on the data as long as its length does not.
 *
 * A writer whose memory ran out stays so: what may fail for want of it says so at gguf_write_begin.
 */
#ifndef ISTHMUS_COMPUTE_GGUF_WRITE_H
#define ISTHMUS_COMPUTE_GGUF_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gguf;
struct gguf_writer;

/* NULL: out of memory. */
struct gguf_writer *gguf_write_new(void);
void gguf_write_free(struct gguf_writer *w);

/* All metadata of g, in its order, but keys for which skip says so; its alignment with them. */
void gguf_write_copy(struct gguf_writer *w, const struct gguf *g,
                     bool (*skip)(const char *key, size_t len));
void gguf_write_u32(struct gguf_writer *w, const char *key, uint32_t v);
void gguf_write_str(struct gguf_writer *w, const char *key, const char *v);

/* A tensor of ggml's type, bytes long. */
void gguf_write_tensor(struct gguf_writer *w, const char *name, uint32_t ggml_type, uint32_t n_dims,
                       const uint64_t *ne, uint64_t bytes);

/* What the file will have, when all tensors are known. */
uint64_t gguf_write_bytes(const struct gguf_writer *w);

/* The file, empty and open for writing; not taken over. 0, -ENOMEM, -EINVAL (a shape is none). */
int gguf_write_begin(struct gguf_writer *w, int fd);

/* The next n bytes of tensor data; n ends at or before the end of the present tensor. 0, -EINVAL or
 * -errno. */
int gguf_write_data(struct gguf_writer *w, const void *bytes, size_t n);

/* Give a string that is there another value of the same length. -ENOENT, -EINVAL. */
int gguf_write_replace_str(struct gguf_writer *w, const char *key, const char *v);

/* The header, when all data is written (-EINVAL: it isn't). 0 or -errno. Not synced. */
int gguf_write_end(struct gguf_writer *w);

#endif
