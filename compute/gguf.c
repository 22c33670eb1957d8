/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Proves a GGUF file. The metadata is read into memory in growing steps, each at most what the
 * proof so far needs or twice what was read, never past the file's own size. It is not mapped: a
 * file truncated in use must give an error, not SIGBUS.
 */
#include "compute/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compute/gguf_impl.h"

#define FIRST_READ        65536u
#define META_MAX          ((uint64_t)1 << 30) /* of models there are: some 20 MB */
#define DEFAULT_ALIGNMENT 32u
#define ALIGNMENT_MAX     (1u << 20)
#define KEY_MAX           65535u
#define NAME_MAX_BYTES    255u
#define KV_MIN_BYTES      14u /* key length, one byte of key, type, one byte of value */
#define TENSOR_MIN_BYTES  33u /* name length, one byte of name, n_dims, one dim, type, offset */

static const uint8_t type_bytes[GGUF_TYPES] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

struct parser {
    struct gguf *g;
    char *err;
    uint64_t at;     /* everything before is proved and in memory */
    uint64_t loaded; /* bytes of the file in g->meta */
    char where[96];  /* the field being read, for errors */
};

int gguf_fail(const char *path, char *err, int rc, const char *fmt, ...)
{
    /* Of a long path the end tells more. */
    const size_t shown = 100, len = strlen(path);
    int n = snprintf(err, GGUF_ERR, "%s%s: ", len > shown ? "..." : "",
                     len > shown ? path + len - shown : path);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err + n, GGUF_ERR - (size_t)n, fmt, ap);
    va_end(ap);
    /* Names in the file may hold anything: keep the error one line of plain ASCII. The path is the
     * caller's own and may be UTF-8. */
    for (int i = 0; err[i]; i++)
        if ((unsigned char)err[i] < ' ' || err[i] == 0x7f || (i >= n && (err[i] & 0x80)))
            err[i] = '?';
    return rc;
}

/* The code stands beside the call so that the compiler sees it is not 0. */
#define FAIL(p, rc, fmt, ...)                                                                      \
    (gguf_fail((p)->g->path, (p)->err, rc, "%s: " fmt, (p)->where, ##__VA_ARGS__), rc)
#define BAD(p, ...) FAIL(p, -EBADMSG, __VA_ARGS__)

__attribute__((format(printf, 2, 3))) static void at_field(struct parser *p, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(p->where, sizeof p->where, fmt, ap);
    va_end(ap);
}

int gguf_pread(int fd, void *buf, size_t n, uint64_t at)
{
    uint8_t *dst = buf;
    while (n) {
        ssize_t got = pread(fd, dst, n, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            return -EIO;
        dst += got;
        n -= (size_t)got;
        at += (uint64_t)got;
    }
    return 0;
}

/* --- reading --------------------------------------------------------------------------------- */

static int load(struct parser *p, uint64_t end)
{
    struct gguf *g = p->g;
    uint64_t want = p->loaded * 2 > FIRST_READ ? p->loaded * 2 : FIRST_READ;
    if (want < end)
        want = end;
    if (want > g->file_bytes)
        want = g->file_bytes;
    uint8_t *grown = realloc(g->owned, want);
    if (!grown)
        return FAIL(p, -ENOMEM, "no memory for %llu bytes of metadata", (unsigned long long)want);
    g->owned = grown;
    g->meta = grown;
    int rc = gguf_pread(g->fd, grown + p->loaded, want - p->loaded, p->loaded);
    if (rc == -EIO)
        return BAD(p, "the file became shorter while it was read");
    if (rc)
        return FAIL(p, rc, "%s", strerror(-rc));
    p->loaded = want;
    return 0;
}

static uint64_t left(const struct parser *p)
{
    return p->g->file_bytes - p->at;
}

/* Prove the next n bytes, make them readable at meta[*at], and step over them. */
static int take(struct parser *p, uint64_t n, const char *what, uint64_t *at)
{
    if (n > left(p))
        return BAD(p, "%s needs %llu bytes, the file has %llu left", what, (unsigned long long)n,
                   (unsigned long long)left(p));
    if (n > META_MAX - p->at) /* a file may be long and sparse: zeros would fill our memory */
        return BAD(p, "%s ends at byte %llu, metadata must end by %llu", what,
                   (unsigned long long)(p->at + n), (unsigned long long)META_MAX);
    if (p->at + n > p->loaded) {
        int rc = load(p, p->at + n);
        if (rc)
            return rc;
    }
    *at = p->at;
    p->at += n;
    return 0;
}

static int take_u32(struct parser *p, const char *what, uint32_t *v)
{
    uint64_t at;
    int rc = take(p, 4, what, &at);
    if (!rc)
        *v = gguf_load32(p->g->meta + at);
    return rc;
}

static int take_u64(struct parser *p, const char *what, uint64_t *v)
{
    uint64_t at;
    int rc = take(p, 8, what, &at);
    if (!rc)
        *v = gguf_load64(p->g->meta + at);
    return rc;
}

static int take_string(struct parser *p, const char *what, uint64_t *at, uint64_t *len)
{
    int rc = take_u64(p, what, len);
    return rc ? rc : take(p, *len, what, at);
}

/* A key or a tensor's name: neither empty, nor long, nor with a NUL inside. */
static int take_name(struct parser *p, const char *what, uint64_t max, uint64_t *at, uint64_t *len)
{
    int rc = take_u64(p, what, len);
    if (rc)
        return rc;
    if (*len == 0 || *len > max)
        return BAD(p, "%s of %llu bytes, must be 1 to %llu", what, (unsigned long long)*len,
                   (unsigned long long)max);
    rc = take(p, *len, what, at);
    if (rc)
        return rc;
    if (memchr(p->g->meta + *at, 0, *len))
        return BAD(p, "%s holds a zero byte", what);
    return 0;
}

/* --- metadata -------------------------------------------------------------------------------- */

static int prove_scalars(struct parser *p, struct gguf_kv *kv)
{
    uint64_t size = type_bytes[kv->type];
    if (kv->n > left(p) / size)
        return BAD(p, "%llu elements of %llu bytes, the file has %llu bytes left",
                   (unsigned long long)kv->n, (unsigned long long)size,
                   (unsigned long long)left(p));
    int rc = take(p, kv->n * size, "value", &kv->at);
    if (rc || kv->type != GGUF_BOOL)
        return rc;
    for (uint64_t i = 0; i < kv->n; i++)
        if (p->g->meta[kv->at + i] > 1)
            return BAD(p, "bool is %u, must be 0 or 1", p->g->meta[kv->at + i]);
    return 0;
}

static int prove_strings(struct parser *p, struct gguf_kv *kv)
{
    if (kv->n > left(p) / 8)
        return BAD(p, "%llu strings, the file has %llu bytes left", (unsigned long long)kv->n,
                   (unsigned long long)left(p));
    kv->at = p->at;
    for (uint64_t i = 0; i < kv->n; i++) {
        uint64_t at, len;
        int rc = take_string(p, "string in array", &at, &len);
        if (rc)
            return rc;
    }
    return 0;
}

static int prove_value(struct parser *p, struct gguf_kv *kv)
{
    uint32_t type;
    int rc = take_u32(p, "value type", &type);
    if (rc)
        return rc;
    kv->is_array = type == GGUF_ARRAY;
    kv->n = 1;
    if (kv->is_array) {
        if ((rc = take_u32(p, "element type", &type)) || (rc = take_u64(p, "array length", &kv->n)))
            return rc;
        if (type == GGUF_ARRAY)
            return FAIL(p, -ENOTSUP, "arrays of arrays are not supported");
    }
    if (type >= GGUF_TYPES)
        return BAD(p, "unknown value type %u", type);
    kv->type = (enum gguf_type)type;
    if (kv->type != GGUF_STRING)
        return prove_scalars(p, kv);
    return kv->is_array ? prove_strings(p, kv) : take_string(p, "string", &kv->at, &kv->n);
}

static int grow(struct parser *p, void *array, uint64_t n, size_t size)
{
    void *old, *grown;
    if (n & (n - 1)) /* room is the next power of two */
        return 0;
    memcpy(&old, array, sizeof old);
    grown = reallocarray(old, n ? n * 2 : 1, size);
    if (!grown)
        return FAIL(p, -ENOMEM, "no memory for the metadata");
    memcpy(array, &grown, sizeof grown);
    return 0;
}

static int compare_keys(const void *a, const void *b, void *meta)
{
    const struct gguf_kv *x = a, *y = b;
    const uint8_t *m = meta;
    uint64_t n = x->key_len < y->key_len ? x->key_len : y->key_len;
    int c = memcmp(m + x->key_at, m + y->key_at, n);
    return c ? c : (x->key_len > y->key_len) - (x->key_len < y->key_len);
}

static int prove_metadata(struct parser *p, uint64_t n_kv)
{
    struct gguf *g = p->g;
    for (uint64_t i = 0; i < n_kv; i++) {
        int rc = grow(p, &g->kv, g->n_kv, sizeof *g->kv);
        if (rc)
            return rc;
        struct gguf_kv *kv = &g->kv[g->n_kv];
        *kv = (struct gguf_kv){0};
        at_field(p, "metadata %llu", (unsigned long long)i);
        if ((rc = take_name(p, "key", KEY_MAX, &kv->key_at, &kv->key_len)))
            return rc;
        at_field(p, "%.*s", (int)kv->key_len, (const char *)g->meta + kv->key_at);
        if ((rc = prove_value(p, kv)))
            return rc;
        g->n_kv++;
    }
    if (g->n_kv)
        qsort_r(g->kv, g->n_kv, sizeof *g->kv, compare_keys, (void *)(uintptr_t)g->meta);
    for (uint64_t i = 1; i < g->n_kv; i++) {
        if (compare_keys(&g->kv[i - 1], &g->kv[i], (void *)(uintptr_t)g->meta) == 0) {
            at_field(p, "%.*s", (int)g->kv[i].key_len, (const char *)g->meta + g->kv[i].key_at);
            return BAD(p, "the key is there twice");
        }
    }
    return 0;
}

/* --- tensors --------------------------------------------------------------------------------- */

static int prove_shape(struct parser *p, struct gguf_tensor *t)
{
    uint32_t type;
    int rc = take_u32(p, "number of dimensions", &t->n_dims);
    if (rc)
        return rc;
    if (t->n_dims < 1 || t->n_dims > 4)
        return BAD(p, "%u dimensions, must be 1 to 4", t->n_dims);
    uint64_t values = 1;
    for (uint32_t d = 0; d < 4; d++) {
        t->ne[d] = 1;
        if (d < t->n_dims && (rc = take_u64(p, "dimension", &t->ne[d])))
            return rc;
        if (t->ne[d] == 0)
            return BAD(p, "dimension %u is zero", d);
        if (__builtin_mul_overflow(values, t->ne[d], &values) || values > INT64_MAX)
            return BAD(p, "the product of the dimensions overflows");
    }
    if ((rc = take_u32(p, "type", &type)) || (rc = take_u64(p, "offset", &t->offset)))
        return rc;
    const struct qtype_info *q = qtype_info(type);
    if (!q)
        return FAIL(p, -ENOTSUP, "tensor type %u is not supported; supported: %s", type,
                    qtype_supported());
    t->type = (enum qtype)type;
    if (t->ne[0] % q->block_values)
        return BAD(p, "dimension 0 is %llu, not a multiple of %s's block of %u",
                   (unsigned long long)t->ne[0], q->name, q->block_values);
    if (__builtin_mul_overflow(values / q->block_values, (uint64_t)q->block_bytes, &t->bytes))
        return BAD(p, "the size overflows");
    return 0;
}

static int prove_tensor_infos(struct parser *p, uint64_t n_tensors)
{
    struct gguf *g = p->g;
    for (uint64_t i = 0; i < n_tensors; i++) {
        uint64_t at, len;
        int rc = grow(p, &g->tensors, g->n_tensors, sizeof *g->tensors);
        if (rc)
            return rc;
        struct gguf_tensor *t = &g->tensors[g->n_tensors];
        *t = (struct gguf_tensor){0};
        at_field(p, "tensor %llu", (unsigned long long)i);
        if ((rc = take_name(p, "name", NAME_MAX_BYTES, &at, &len)))
            return rc;
        t->name = strndup((const char *)g->meta + at, len);
        if (!t->name)
            return FAIL(p, -ENOMEM, "no memory for the metadata");
        g->n_tensors++;
        at_field(p, "tensor %s", t->name);
        if ((rc = prove_shape(p, t)))
            return rc;
    }
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    const struct gguf_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int prove_tensor_names(struct parser *p)
{
    struct gguf *g = p->g;
    g->by_name = calloc(g->n_tensors ? g->n_tensors : 1, sizeof *g->by_name);
    if (!g->by_name)
        return FAIL(p, -ENOMEM, "no memory for the metadata");
    for (uint64_t i = 0; i < g->n_tensors; i++)
        g->by_name[i] = &g->tensors[i];
    qsort(g->by_name, g->n_tensors, sizeof *g->by_name, compare_names);
    for (uint64_t i = 1; i < g->n_tensors; i++) {
        if (strcmp(g->by_name[i - 1]->name, g->by_name[i]->name) == 0) {
            at_field(p, "tensor %s", g->by_name[i]->name);
            return BAD(p, "the name is there twice");
        }
    }
    return 0;
}

/*
 * Offsets in the file count from the end of the metadata, rounded up to the alignment; here they
 * become offsets from the start of the file. Writers lay the data out in the order of the infos,
 * without gaps: a file that says otherwise has a wrong offset, type or dimension somewhere, and its
 * tensors would be read as other numbers.
 */
static int prove_tensor_data(struct parser *p)
{
    struct gguf *g = p->g;
    uint32_t alignment = DEFAULT_ALIGNMENT;
    at_field(p, "general.alignment");
    if (gguf_u32(g, "general.alignment", &alignment) == -EINVAL)
        return BAD(p, "must be a 32-bit number");
    if (alignment == 0 || alignment & (alignment - 1))
        return BAD(p, "%u is not a power of two", alignment);
    if (alignment > ALIGNMENT_MAX)
        return BAD(p, "%u: at most %u are taken", alignment, ALIGNMENT_MAX);
    const uint64_t below = alignment - 1;
    uint64_t start = (p->at + below) & ~below, next = 0;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        at_field(p, "tensor %s", t->name);
        if (t->offset % alignment)
            return BAD(p, "offset %llu is not a multiple of the alignment %u",
                       (unsigned long long)t->offset, alignment);
        if (start > g->file_bytes || t->offset > g->file_bytes - start ||
            t->bytes > g->file_bytes - start - t->offset)
            return BAD(p, "%llu bytes of data at offset %llu lie past the end of the file",
                       (unsigned long long)t->bytes, (unsigned long long)t->offset);
        if (t->offset != next)
            return BAD(p, "data at offset %llu, the tensor before it ends at %llu",
                       (unsigned long long)t->offset, (unsigned long long)next);
        next = (t->offset + t->bytes + below) & ~below;
        t->offset += start;
    }
    return 0;
}

/* --- the file -------------------------------------------------------------------------------- */

static int prove(struct gguf *g, char *err)
{
    struct parser p = {.g = g, .err = err, .loaded = g->fd < 0 ? g->file_bytes : 0};
    uint64_t at, n_tensors, n_kv;
    uint32_t version;

    at_field(&p, "header");
    int rc = take(&p, 4, "magic", &at);
    if (rc)
        return rc;
    if (memcmp(g->meta + at, "GGUF", 4) != 0)
        return BAD(&p, "this is not a GGUF file (it must begin with \"GGUF\")");
    if ((rc = take_u32(&p, "version", &version)))
        return rc;
    if (version != 2 && version != 3)
        return FAIL(&p, -ENOTSUP, "GGUF version %u%s is not supported; supported: 2 3", version,
                    version && !(version & 0xffff) ? " (big-endian)" : "");
    if ((rc = take_u64(&p, "number of tensors", &n_tensors)) ||
        (rc = take_u64(&p, "number of metadata", &n_kv)))
        return rc;
    if (n_kv > left(&p) / KV_MIN_BYTES)
        return BAD(&p, "%llu metadata can't fit in %llu bytes", (unsigned long long)n_kv,
                   (unsigned long long)left(&p));
    if (n_tensors > left(&p) / TENSOR_MIN_BYTES || n_tensors > UINT32_MAX)
        return BAD(&p, "%llu tensors can't fit in %llu bytes", (unsigned long long)n_tensors,
                   (unsigned long long)left(&p));

    if ((rc = prove_metadata(&p, n_kv)) || (rc = prove_tensor_infos(&p, n_tensors)) ||
        (rc = prove_tensor_names(&p)) || (rc = prove_tensor_data(&p)))
        return rc;
    g->meta_bytes = p.at;
    if (g->owned) { /* give back what was read ahead */
        uint8_t *fitted = realloc(g->owned, g->meta_bytes);
        if (fitted)
            g->meta = g->owned = fitted;
    }
    return 0;
}

static struct gguf *new_gguf(const char *path)
{
    struct gguf *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->fd = -1;
    g->path = strdup(path);
    if (!g->path) {
        free(g);
        return NULL;
    }
    return g;
}

int gguf_open(const char *path, struct gguf **out, char *err)
{
    struct stat st;
    int rc;
    struct gguf *g = new_gguf(path);
    if (!g)
        return gguf_fail(path, err, -ENOMEM, "no memory");
    /* O_NONBLOCK: a FIFO must not hang us; it means nothing to a regular file. */
    g->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (g->fd < 0 || fstat(g->fd, &st) < 0) {
        rc = -errno;
        gguf_fail(path, err, rc, "%s", strerror(-rc));
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        rc = gguf_fail(path, err, -EINVAL, "not a regular file");
        goto out;
    }
    g->file_bytes = (uint64_t)st.st_size;
    rc = prove(g, err);
out:
    if (rc) {
        gguf_close(g);
        return rc;
    }
    *out = g;
    return 0;
}

int gguf_open_mem(const void *data, size_t len, const char *name, struct gguf **out, char *err)
{
    struct gguf *g = new_gguf(name);
    if (!g)
        return gguf_fail(name, err, -ENOMEM, "no memory");
    g->meta = data;
    g->file_bytes = len;
    int rc = prove(g, err);
    if (rc) {
        gguf_close(g);
        return rc;
    }
    *out = g;
    return 0;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    if (g->fd >= 0)
        close(g->fd);
    for (uint64_t i = 0; i < g->n_tensors; i++)
        free((char *)(uintptr_t)g->tensors[i].name);
    free(g->tensors);
    free(g->by_name);
    free(g->kv);
    free(g->owned);
    free(g->path);
    free(g);
}
