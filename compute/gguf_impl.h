/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the GGUF reader: gguf.c proves a file, gguf_get.c answers from what was proved. */
#ifndef ISTHMUS_COMPUTE_GGUF_IMPL_H
#define ISTHMUS_COMPUTE_GGUF_IMPL_H

#include <endian.h>
#include <string.h>

#include "compute/gguf.h"

/* Value types, as the file numbers them. */
enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPES
};

/* One proved key and value. Positions count from the start of the file. */
struct gguf_kv {
    uint64_t key_at, key_len;
    uint64_t at;         /* the value; of an array: its first element */
    uint64_t n;          /* elements of an array, bytes of a string, else 1 */
    enum gguf_type type; /* of the value; of an array: of its elements */
    bool is_array;
};

struct gguf {
    char *path;
    int fd; /* -1: in memory */
    uint64_t file_bytes;
    const uint8_t *meta; /* the file's first meta_bytes, or all of it when in memory */
    uint8_t *owned;      /* meta when we read it */
    uint64_t meta_bytes; /* header, metadata and tensor infos */
    struct gguf_kv *kv;  /* sorted by key */
    uint64_t n_kv;
    struct gguf_tensor *tensors; /* in file order */
    const struct gguf_tensor **by_name;
    uint64_t n_tensors;
};

/* pread all of [at, at + n). 0, -errno, or -EIO when the file ends before. */
int gguf_pread(int fd, void *buf, size_t n, uint64_t at);

static inline uint32_t gguf_load32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return le32toh(v);
}

static inline uint64_t gguf_load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return le64toh(v);
}

#endif
