/* SPDX-License-Identifier: Apache-2.0 */
/* Answers from a proved GGUF: metadata by key, tensors by name, their bytes, the fingerprint. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <xxhash.h>

#include "compute/gguf_impl.h"

#define EDGE_BYTES 256u /* of each end of a tensor, in the fingerprint */

const char *gguf_path(const struct gguf *g)
{
    return g->path;
}

uint64_t gguf_file_bytes(const struct gguf *g)
{
    return g->file_bytes;
}

/* --- metadata -------------------------------------------------------------------------------- */

static const struct gguf_kv *find_kv(const struct gguf *g, const char *key)
{
    uint64_t len = strlen(key), low = 0, high = g->n_kv;
    while (low < high) {
        uint64_t mid = low + (high - low) / 2;
        const struct gguf_kv *kv = &g->kv[mid];
        int c = memcmp(key, g->meta + kv->key_at, len < kv->key_len ? len : kv->key_len);
        if (c == 0)
            c = (len > kv->key_len) - (len < kv->key_len);
        if (c == 0)
            return kv;
        if (c < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

/* 0 and the value's bytes when the key holds the wanted type. */
static int get(const struct gguf *g, const char *key, enum gguf_type type, bool is_array,
               const struct gguf_kv **kv, const uint8_t **at)
{
    *kv = find_kv(g, key);
    if (!*kv)
        return -ENOENT;
    if ((*kv)->type != type || (*kv)->is_array != is_array)
        return -EINVAL;
    *at = g->meta + (*kv)->at;
    return 0;
}

static uint16_t load16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return le16toh(v);
}

int gguf_u32(const struct gguf *g, const char *key, uint32_t *v)
{
    const struct gguf_kv *kv = find_kv(g, key);
    if (!kv)
        return -ENOENT;
    if (kv->is_array)
        return -EINVAL;
    const uint8_t *p = g->meta + kv->at;
    int64_t value;
    switch (kv->type) {
    case GGUF_U8:
        value = *p;
        break;
    case GGUF_I8:
        value = (int8_t)*p;
        break;
    case GGUF_U16:
        value = load16(p);
        break;
    case GGUF_I16:
        value = (int16_t)load16(p);
        break;
    case GGUF_U32:
        value = gguf_load32(p);
        break;
    case GGUF_I32:
        value = (int32_t)gguf_load32(p);
        break;
    case GGUF_U64: /* past INT64_MAX turns negative and is refused as such */
    case GGUF_I64:
        value = (int64_t)gguf_load64(p);
        break;
    default:
        return -EINVAL;
    }
    if (value < 0 || value > UINT32_MAX)
        return -EINVAL;
    *v = (uint32_t)value;
    return 0;
}

int gguf_f32(const struct gguf *g, const char *key, float *v)
{
    const struct gguf_kv *kv;
    const uint8_t *p;
    int rc = get(g, key, GGUF_F32, false, &kv, &p);
    if (rc)
        return rc;
    uint32_t bits = gguf_load32(p);
    memcpy(v, &bits, sizeof *v);
    return 0;
}

int gguf_bool(const struct gguf *g, const char *key, bool *v)
{
    const struct gguf_kv *kv;
    const uint8_t *p;
    int rc = get(g, key, GGUF_BOOL, false, &kv, &p);
    if (rc)
        return rc;
    *v = *p != 0;
    return 0;
}

int gguf_str(const struct gguf *g, const char *key, struct gguf_str *v)
{
    const struct gguf_kv *kv;
    const uint8_t *p;
    int rc = get(g, key, GGUF_STRING, false, &kv, &p);
    if (rc)
        return rc;
    *v = (struct gguf_str){(const char *)p, kv->n};
    return 0;
}

bool gguf_key_from(const struct gguf *g, const char *prefix, struct gguf_str *key)
{
    const size_t len = strlen(prefix);
    for (uint64_t i = 0; i < g->n_kv; i++) {
        const struct gguf_kv *kv = &g->kv[i];
        if (kv->key_len < len || memcmp(g->meta + kv->key_at, prefix, len) != 0)
            continue;
        *key = (struct gguf_str){.ptr = (const char *)g->meta + kv->key_at, .len = kv->key_len};
        return true;
    }
    return false;
}

int gguf_i32_array(const struct gguf *g, const char *key, const void **le32, uint64_t *n)
{
    const struct gguf_kv *kv;
    const uint8_t *p;
    int rc = get(g, key, GGUF_I32, true, &kv, &p);
    if (rc == -EINVAL)
        rc = get(g, key, GGUF_U32, true, &kv, &p);
    if (rc)
        return rc;
    *le32 = p;
    *n = kv->n;
    return 0;
}

int gguf_f32_array(const struct gguf *g, const char *key, const void **le32, uint64_t *n)
{
    const struct gguf_kv *kv;
    const uint8_t *p;
    int rc = get(g, key, GGUF_F32, true, &kv, &p);
    if (rc)
        return rc;
    *le32 = p;
    *n = kv->n;
    return 0;
}

int gguf_str_array(const struct gguf *g, const char *key, struct gguf_str_iter *it, uint64_t *n)
{
    const struct gguf_kv *kv;
    const uint8_t *p;
    int rc = get(g, key, GGUF_STRING, true, &kv, &p);
    if (rc)
        return rc;
    *it = (struct gguf_str_iter){p, kv->n};
    *n = kv->n;
    return 0;
}

bool gguf_str_next(struct gguf_str_iter *it, struct gguf_str *v)
{
    if (!it->left)
        return false;
    *v = (struct gguf_str){(const char *)it->at + 8, gguf_load64(it->at)};
    it->at += 8 + v->len;
    it->left--;
    return true;
}

/* --- tensors --------------------------------------------------------------------------------- */

uint32_t gguf_n_tensors(const struct gguf *g)
{
    return (uint32_t)g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint32_t i)
{
    return i < g->n_tensors ? &g->tensors[i] : NULL;
}

static int compare_name(const void *name, const void *tensor)
{
    const struct gguf_tensor *const *t = tensor;
    return strcmp(name, (*t)->name);
}

const struct gguf_tensor *gguf_find(const struct gguf *g, const char *name)
{
    const struct gguf_tensor **t =
        bsearch(name, g->by_name, g->n_tensors, sizeof *g->by_name, compare_name);
    return t ? *t : NULL;
}

static int read_at(const struct gguf *g, uint64_t at, void *buf, size_t n)
{
    if (g->fd >= 0)
        return gguf_pread(g->fd, buf, n, at);
    if (n)
        memcpy(buf, g->meta + at, n); /* in memory: meta is the whole file */
    return 0;
}

int gguf_read(const struct gguf *g, const struct gguf_tensor *t, uint64_t from, void *buf, size_t n,
              char *err)
{
    if (from > t->bytes || n > t->bytes - from)
        return gguf_fail(g->path, err, -EINVAL,
                         "tensor %s: %zu bytes at %llu are outside its %llu bytes", t->name, n,
                         (unsigned long long)from, (unsigned long long)t->bytes);
    int rc = read_at(g, t->offset + from, buf, n);
    if (rc == -EIO)
        return gguf_fail(g->path, err, rc, "tensor %s: read error, or the file became shorter",
                         t->name);
    if (rc)
        return gguf_fail(g->path, err, rc, "tensor %s: %s", t->name, strerror(-rc));
    return 0;
}

/* --- fingerprint ----------------------------------------------------------------------------- */

static int hash_range(const struct gguf *g, XXH3_state_t *state, uint64_t at, size_t n)
{
    uint8_t bytes[EDGE_BYTES];
    int rc = read_at(g, at, bytes, n);
    if (rc)
        return -EIO;
    XXH3_128bits_update(state, bytes, n);
    return 0;
}

int gguf_fingerprint(const struct gguf *g, uint8_t out[16])
{
    int rc = 0;
    XXH3_state_t *state = XXH3_createState();
    if (!state)
        return -ENOMEM;
    XXH3_128bits_reset(state);
    XXH3_128bits_update(state, g->meta, g->meta_bytes);
    uint64_t size = htole64(g->file_bytes);
    XXH3_128bits_update(state, &size, sizeof size);
    for (uint64_t i = 0; i < g->n_tensors && !rc; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        size_t n = t->bytes < EDGE_BYTES ? t->bytes : EDGE_BYTES;
        rc = hash_range(g, state, t->offset, n);
        if (!rc)
            rc = hash_range(g, state, t->offset + t->bytes - n, n);
    }
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
    memcpy(out, canonical.digest, 16);
    XXH3_freeState(state);
    return rc;
}
