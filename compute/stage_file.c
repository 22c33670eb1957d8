/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/stage_file.h"

#include <errno.h>
#include <string.h>

struct reader {
    const struct gguf *g;
    char *err;
    int rc;
};

static void bad(struct reader *r, const char *key, const char *what)
{
    if (r->rc == 0)
        r->rc = gguf_fail(gguf_path(r->g), r->err, -EBADMSG, "%s: %s", key, what);
}

static uint32_t read_u32(struct reader *r, const char *key)
{
    uint32_t v = 0;

    if (gguf_u32(r->g, key, &v))
        bad(r, key, "missing, or no number: this half of a model is damaged");
    return v;
}

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void read_hash(struct reader *r, const char *key, uint8_t out[16])
{
    struct gguf_str s;

    if (gguf_str(r->g, key, &s) || s.len != 32) {
        bad(r, key, "must be 32 hexadecimal digits");
        return;
    }
    for (size_t i = 0; i < 16; i++) {
        const int high = digit(s.ptr[2 * i]), low = digit(s.ptr[2 * i + 1]);

        if (high < 0 || low < 0) {
            bad(r, key, "must be 32 hexadecimal digits");
            return;
        }
        out[i] = (uint8_t)(high << 4 | low);
    }
}

int stage_file_read(const struct gguf *g, struct stage_file *f, char *err)
{
    struct reader r = {.g = g, .err = err};
    struct gguf_str half;

    *f = (struct stage_file){.half = STAGE_WHOLE};
    const int rc = gguf_str(g, "isthmus.stage", &half);
    if (rc == -ENOENT)
        return 0;
    const uint32_t version = read_u32(&r, "isthmus.version");
    if (r.rc == 0 && version != STAGE_FILE_VERSION)
        return gguf_fail(gguf_path(g), err, -ENOTSUP,
                         "isthmus.version: %u is not supported; supported: %u", version,
                         STAGE_FILE_VERSION);
    if (rc == 0 && half.len == 4 && memcmp(half.ptr, "edge", 4) == 0)
        f->half = STAGE_EDGE;
    else if (rc == 0 && half.len == 5 && memcmp(half.ptr, "cloud", 5) == 0)
        f->half = STAGE_CLOUD;
    else
        bad(&r, "isthmus.stage", "must be edge or cloud");
    f->split = read_u32(&r, "isthmus.split");
    f->n_layers = read_u32(&r, "isthmus.layers");
    if (r.rc == 0 && (f->split < 1 || f->split >= f->n_layers))
        bad(&r, "isthmus.split", "must be at least 1 and below isthmus.layers");
    read_hash(&r, "isthmus.parent", f->parent);
    read_hash(&r, "isthmus.pair", f->pair);
    return r.rc;
}

int stage_file_identity(const struct gguf *g, const struct stage_file *f, uint8_t out[16])
{
    if (f->half == STAGE_WHOLE)
        return gguf_fingerprint(g, out);
    memcpy(out, f->pair, 16);
    return 0;
}
