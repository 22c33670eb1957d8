/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GGUF v3 reader. The file is outside input: every count, length, offset and size is proved to lie
 * inside the file before it is used; nothing is allocated from a number the file merely claims.
 *
 * Errors: functions that can fail on the file's content take `err`, a buffer of GGUF_ERR bytes that
 * receives one line naming the file and the field.
 */
#ifndef ISTHMUS_COMPUTE_GGUF_H
#define ISTHMUS_COMPUTE_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compute/qtype.h"

#define GGUF_ERR 256

struct gguf;

/* Write one printable line "path: message" into err (GGUF_ERR bytes) and return rc: for errors about
 * a model's content, here and in the readers built on this one. */
__attribute__((format(printf, 4, 5))) int gguf_fail(const char *path, char *err, int rc,
                                                    const char *fmt, ...);

struct gguf_tensor {
    const char *name;    /* NUL-terminated, owned by the gguf */
    enum qtype type;
    uint32_t n_dims;     /* 1..4 */
    uint64_t ne[4];      /* ne[0] is the contiguous dimension; 1 beyond n_dims */
    uint64_t offset;     /* of the data, bytes from the start of the file */
    uint64_t bytes;      /* of the data */
};

struct gguf_str {
    const char *ptr;     /* not NUL-terminated; may hold any bytes */
    size_t len;
};

/* Open and prove a file; its tensors' data lie one after another, in the order of their infos. 0,
 * -errno of open/read, -EBADMSG (lying or truncated), -ENOTSUP (a version, or a tensor type not in
 * qtype.h: err names it and those supported). */
int gguf_open(const char *path, struct gguf **out, char *err);

/* The same over bytes in memory, for tests and fuzzing: data must outlive the gguf. `name` is used
 * in errors. */
int gguf_open_mem(const void *data, size_t len, const char *name, struct gguf **out, char *err);

void gguf_close(struct gguf *g);

const char *gguf_path(const struct gguf *g);
uint64_t gguf_file_bytes(const struct gguf *g);

/* Metadata. Each returns 0, -ENOENT (no such key) or -EINVAL (another type; integer getters accept
 * any integer type whose value fits). Pointers live as long as the gguf. */
int gguf_u32(const struct gguf *g, const char *key, uint32_t *v);
int gguf_f32(const struct gguf *g, const char *key, float *v);
int gguf_bool(const struct gguf *g, const char *key, bool *v);
int gguf_str(const struct gguf *g, const char *key, struct gguf_str *v);
/* The first key, in the order of their bytes, that begins with prefix; false: none. */
bool gguf_key_from(const struct gguf *g, const char *prefix, struct gguf_str *key);
/* Arrays: *n elements. Strings are walked in order with gguf_str_next. */
int gguf_i32_array(const struct gguf *g, const char *key, const void **le32, uint64_t *n);
int gguf_f32_array(const struct gguf *g, const char *key, const void **le32, uint64_t *n);

struct gguf_str_iter {
    const uint8_t *at;
    uint64_t left;
};
int gguf_str_array(const struct gguf *g, const char *key, struct gguf_str_iter *it, uint64_t *n);
bool gguf_str_next(struct gguf_str_iter *it, struct gguf_str *v);

/* Tensors. */
uint32_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint32_t i);
const struct gguf_tensor *gguf_find(const struct gguf *g, const char *name); /* NULL: none */

/* Read tensor bytes [from, from+n) into buf with pread, so that nothing of the file's mapping
 * becomes resident. 0, -EIO or -errno (err names tensor and file), -EINVAL out of range.
 * Thread safe. */
int gguf_read(const struct gguf *g, const struct gguf_tensor *t, uint64_t from, void *buf, size_t n,
              char *err);

/*
 * Identity of the model, equal for equal files: XXH3-128 over all metadata and tensor infos, the
 * file size, and the first and last 256 data bytes of every tensor. It detects another model or
 * another quantization; it is no proof against a forger. 0 or -EIO.
 */
int gguf_fingerprint(const struct gguf *g, uint8_t out[16]);

#endif
