/* SPDX-License-Identifier: Apache-2.0 */
/* Writes GGUF files in memory, true and lying ones, for tests and fuzz targets. */
#ifndef ISTHMUS_TESTS_GGUF_BUILD_H
#define ISTHMUS_TESTS_GGUF_BUILD_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct build {
    uint8_t *bytes;
    size_t n, room;
};

static inline void put(struct build *b, const void *bytes, size_t n)
{
    if (b->n + n >= b->room) {
        b->room = 2 * (b->n + n + 1);
        b->bytes = realloc(b->bytes, b->room);
        if (!b->bytes)
            abort();
    }
    if (n)
        memcpy(b->bytes + b->n, bytes, n);
    b->n += n;
}

static inline void put_int(struct build *b, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        put(b, &(uint8_t){(uint8_t)(v >> 8 * i)}, 1);
}

static inline void put_u32(struct build *b, uint32_t v)
{
    put_int(b, v, 4);
}

static inline void put_u64(struct build *b, uint64_t v)
{
    put_int(b, v, 8);
}

static inline void put_bytes(struct build *b, const char *s, size_t n)
{
    put_u64(b, n);
    put(b, s, n);
}

static inline void put_str(struct build *b, const char *s)
{
    put_bytes(b, s, strlen(s));
}

static inline void put_header(struct build *b, uint64_t n_tensors, uint64_t n_kv)
{
    put(b, "GGUF", 4);
    put_u32(b, 3);
    put_u64(b, n_tensors);
    put_u64(b, n_kv);
}

static inline void put_key(struct build *b, const char *key, uint32_t type)
{
    put_str(b, key);
    put_u32(b, type);
}

static inline void put_kv_u32(struct build *b, const char *key, uint32_t v)
{
    put_key(b, key, 4);
    put_u32(b, v);
}

static inline void put_kv_str(struct build *b, const char *key, const char *v)
{
    put_key(b, key, 8);
    put_str(b, v);
}

static inline void put_kv_bool(struct build *b, const char *key, int v)
{
    put_key(b, key, 7);
    put_int(b, (uint64_t)v, 1);
}

/* The elements follow. */
static inline void put_array(struct build *b, const char *key, uint32_t type, uint64_t n)
{
    put_key(b, key, 9);
    put_u32(b, type);
    put_u64(b, n);
}

static inline void put_tensor(struct build *b, const char *name, uint32_t type, uint64_t ne0,
                              uint64_t ne1, uint64_t offset)
{
    put_str(b, name);
    put_u32(b, 2);
    put_u64(b, ne0);
    put_u64(b, ne1);
    put_u32(b, type);
    put_u64(b, offset);
}

static inline void put_pad(struct build *b, size_t alignment)
{
    while (b->n % alignment)
        put(b, "", 1);
}

/* Bytes 1, 2, 3, ... */
static inline void put_data(struct build *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        put(b, &(uint8_t){(uint8_t)(i + 1)}, 1);
}

/* A byte's letter in GPT-2's alphabet, NUL-terminated UTF-8. Written from the definition: the bytes
 * that print stand for themselves, the others follow from U+0100 on. */
static inline void byte_letter(unsigned byte, char out[3])
{
    unsigned c = 0x100;
    for (unsigned b = 0;; b++) {
        int prints = (b > 32 && b < 127) || (b > 160 && b != 173);
        if (b == byte) {
            c = prints ? b : c;
            break;
        }
        c += !prints;
    }
    memset(out, 0, 3);
    if (c < 0x80) {
        out[0] = (char)c;
    } else {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
    }
}

#endif
