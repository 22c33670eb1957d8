/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/gguf_write.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "compute/gguf_impl.h"

#define ALIGNMENT 32u

/* Bytes that grow. */
struct bytes {
    uint8_t *at;
    size_t n, room;
};

struct gguf_writer {
    int rc; /* sticks */
    struct bytes kv, infos;
    uint64_t n_kv;
    uint32_t alignment;
    uint64_t *tensors; /* bytes of each */
    uint64_t n_tensors, room;
    uint64_t data_bytes; /* of all tensors, padded */

    int fd;
    uint64_t present, written; /* tensor, and bytes of it */
    uint64_t pos;              /* in the file */
};

/* --- bytes ----------------------------------------------------------------------------------- */

static void put(struct gguf_writer *w, struct bytes *b, const void *from, size_t n)
{
    if (w->rc || n == 0)
        return;
    if (n > b->room - b->n) {
        const size_t room = 2 * (b->n + n);
        uint8_t *more = realloc(b->at, room);

        if (!more) {
            w->rc = -ENOMEM;
            return;
        }
        b->at = more;
        b->room = room;
    }
    memcpy(b->at + b->n, from, n);
    b->n += n;
}

static void put32(struct gguf_writer *w, struct bytes *b, uint32_t v)
{
    v = htole32(v);
    put(w, b, &v, sizeof(v));
}

static void put64(struct gguf_writer *w, struct bytes *b, uint64_t v)
{
    v = htole64(v);
    put(w, b, &v, sizeof(v));
}

static void put_str(struct gguf_writer *w, struct bytes *b, const char *v)
{
    const size_t n = strlen(v);

    put64(w, b, n);
    put(w, b, v, n);
}

static uint64_t padded(const struct gguf_writer *w, uint64_t n)
{
    return (n + w->alignment - 1) / w->alignment * w->alignment;
}

/* --- metadata -------------------------------------------------------------------------------- */

struct gguf_writer *gguf_write_new(void)
{
    struct gguf_writer *w = calloc(1, sizeof(*w));

    if (w)
        *w = (struct gguf_writer){.alignment = ALIGNMENT, .fd = -1};
    return w;
}

void gguf_write_free(struct gguf_writer *w)
{
    if (!w)
        return;
    free(w->kv.at);
    free(w->infos.at);
    free(w->tensors);
    free(w);
}

/* Where a key's value ends in the file. */
static uint64_t value_end(const struct gguf *g, const struct gguf_kv *kv)
{
    static const uint8_t bytes[GGUF_TYPES] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2,
        [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1,
        [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8, [GGUF_STRING] = 1};
    uint64_t at = kv->at;

    if (kv->type != GGUF_STRING || !kv->is_array)
        return at + kv->n * bytes[kv->type];
    for (uint64_t i = 0; i < kv->n; i++)
        at += 8 + gguf_load64(g->meta + at);
    return at;
}

static int in_file_order(const void *a, const void *b)
{
    const struct gguf_kv *const *x = a, *const *y = b;

    return ((*x)->key_at > (*y)->key_at) - ((*x)->key_at < (*y)->key_at);
}

void gguf_write_copy(struct gguf_writer *w, const struct gguf *g,
                     bool (*skip)(const char *key, size_t len))
{
    const struct gguf_kv **order = malloc((g->n_kv + 1) * sizeof(*order));

    if (!order) {
        w->rc = -ENOMEM;
        return;
    }
    for (uint64_t i = 0; i < g->n_kv; i++)
        order[i] = &g->kv[i];
    qsort(order, g->n_kv, sizeof(*order), in_file_order);
    for (uint64_t i = 0; i < g->n_kv; i++) {
        const uint64_t from = order[i]->key_at;

        if (skip((const char *)g->meta + from, order[i]->key_len))
            continue;
        put64(w, &w->kv, order[i]->key_len);
        put(w, &w->kv, g->meta + from, value_end(g, order[i]) - from);
        w->n_kv++;
    }
    free(order);
    gguf_u32(g, "general.alignment", &w->alignment); /* the reader has proved it, if it is there */
}

void gguf_write_u32(struct gguf_writer *w, const char *key, uint32_t v)
{
    put_str(w, &w->kv, key);
    put32(w, &w->kv, GGUF_U32);
    put32(w, &w->kv, v);
    w->n_kv++;
}

void gguf_write_str(struct gguf_writer *w, const char *key, const char *v)
{
    put_str(w, &w->kv, key);
    put32(w, &w->kv, GGUF_STRING);
    put_str(w, &w->kv, v);
    w->n_kv++;
}

/* A key, the type of a string, its length: bytes that can't stand elsewhere by chance but in a
 * string that is longer than them. Ours stand last: the search goes backwards. */
int gguf_write_replace_str(struct gguf_writer *w, const char *key, const char *v)
{
    const size_t key_len = strlen(key), len = strlen(v), need = 8 + key_len + 4 + 8;

    for (size_t at = w->kv.n; w->kv.n >= need && at-- > 0;) {
        if (at > w->kv.n - need)
            continue;
        const uint8_t *p = w->kv.at + at;
        if (gguf_load64(p) != key_len || memcmp(p + 8, key, key_len) != 0 ||
            gguf_load32(p + 8 + key_len) != GGUF_STRING)
            continue;
        if (gguf_load64(p + 12 + key_len) != len)
            return -EINVAL;
        memcpy(w->kv.at + at + need, v, len);
        return 0;
    }
    return -ENOENT;
}

/* --- tensors --------------------------------------------------------------------------------- */

void gguf_write_tensor(struct gguf_writer *w, const char *name, uint32_t ggml_type, uint32_t n_dims,
                       const uint64_t *ne, uint64_t bytes)
{
    if (w->n_tensors == w->room) {
        const uint64_t room = 2 * w->room + 64;
        uint64_t *more = reallocarray(w->tensors, room, sizeof(*more));

        if (!more) {
            w->rc = -ENOMEM;
            return;
        }
        w->tensors = more;
        w->room = room;
    }
    w->tensors[w->n_tensors++] = bytes;
    put_str(w, &w->infos, name);
    put32(w, &w->infos, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) {
        put64(w, &w->infos, ne[i]);
        if (ne[i] == 0)
            w->rc = w->rc ? w->rc : -EINVAL;
    }
    put32(w, &w->infos, ggml_type);
    put64(w, &w->infos, w->data_bytes);
    w->data_bytes += padded(w, bytes);
}

/* Magic, version and two counts. */
#define HEAD_BYTES 24u

static uint64_t data_from(const struct gguf_writer *w)
{
    return padded(w, HEAD_BYTES + w->kv.n + w->infos.n);
}

uint64_t gguf_write_bytes(const struct gguf_writer *w)
{
    return data_from(w) + w->data_bytes;
}

/* --- the file -------------------------------------------------------------------------------- */

static int write_at(int fd, const void *from, size_t n, uint64_t at)
{
    const uint8_t *p = from;

    while (n) {
        const ssize_t got = pwrite(fd, p, n, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        p += got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

int gguf_write_begin(struct gguf_writer *w, int fd)
{
    w->fd = fd;
    w->pos = data_from(w);
    return w->rc;
}

/* Zeros up to where the next tensor begins. */
static int pad(struct gguf_writer *w, uint64_t n)
{
    static const uint8_t zeros[4096];
    int rc = 0;

    while (n && rc == 0) {
        const size_t some = n < sizeof(zeros) ? n : sizeof(zeros);
        rc = write_at(w->fd, zeros, some, w->pos);
        w->pos += some;
        n -= some;
    }
    return rc;
}

int gguf_write_data(struct gguf_writer *w, const void *bytes, size_t n)
{
    if (w->present == w->n_tensors || n > w->tensors[w->present] - w->written)
        return -EINVAL;
    int rc = write_at(w->fd, bytes, n, w->pos);
    w->pos += n;
    w->written += n;
    const uint64_t whole = w->tensors[w->present];
    if (rc == 0 && w->written == whole) {
        rc = pad(w, padded(w, whole) - whole);
        w->present++;
        w->written = 0;
    }
    return rc;
}

int gguf_write_end(struct gguf_writer *w)
{
    struct bytes head = {0};

    if (w->rc || w->present != w->n_tensors)
        return w->rc ? w->rc : -EINVAL;
    put(w, &head, "GGUF", 4);
    put32(w, &head, 3);
    put64(w, &head, w->n_tensors);
    put64(w, &head, w->n_kv);
    put(w, &head, w->kv.at, w->kv.n);
    put(w, &head, w->infos.at, w->infos.n);
    int rc = w->rc ? w->rc : write_at(w->fd, head.at, head.n, 0);
    w->pos = head.n;
    if (rc == 0)
        rc = pad(w, data_from(w) - head.n);
    free(head.at);
    return rc;
}
