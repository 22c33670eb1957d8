/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/scheme.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "codec/f16.h"

#define KEY "isthmus.scheme."

/* --- names ----------------------------------------------------------------------------------- */

const char *scheme_supported(void)
{
    return "sq2 sq3 sq4 g2:G g3:G g4:G (G a multiple of 32)";
}

static int parse_group(const char *text, size_t len, uint32_t *cols)
{
    uint32_t n = 0;

    if (len == 0 || len > 6 || text[0] == '0')
        return -ENOTSUP;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -ENOTSUP;
        n = n * 10 + (uint32_t)(text[i] - '0');
    }
    *cols = n;
    return n % SCHEME_BLOCK ? -ENOTSUP : 0;
}

int scheme_parse(const char *text, size_t len, struct scheme *s)
{
    const size_t head = len > 1 && text[0] == 's' && text[1] == 'q' ? 2 : 1;

    *s = (struct scheme){.kind = head == 2 ? SCHEME_SQ : SCHEME_G};
    if (len <= head || (head == 1 && text[0] != 'g') || text[head] < '2' || text[head] > '4')
        return -ENOTSUP;
    s->bits = (uint32_t)(text[head] - '0');
    if (s->kind == SCHEME_SQ)
        return len == head + 1 ? 0 : -ENOTSUP;
    return len > 3 && text[2] == ':' ? parse_group(text + 3, len - 3, &s->group_cols) : -ENOTSUP;
}

const char *scheme_name(const struct scheme *s, char buf[SCHEME_NAME])
{
    if (s->kind == SCHEME_SQ)
        snprintf(buf, SCHEME_NAME, "sq%u", s->bits);
    else
        snprintf(buf, SCHEME_NAME, "g%u:%u", s->bits, s->group_cols);
    return buf;
}

static const char *const suffixes[SCHEME_PARTS] = {
    ".codes", ".lut", ".scale", ".min", ".sp_rows", ".sp_cols", ".sp_values",
};

enum scheme_part scheme_part_of(const char *tensor, size_t *name_len)
{
    const char *dot = strrchr(tensor, '.');

    for (int i = 0; dot && i < SCHEME_PARTS; i++) {
        if (strcmp(dot, suffixes[i]) == 0) {
            *name_len = (size_t)(dot - tensor);
            return (enum scheme_part)i;
        }
    }
    return SCHEME_PARTS;
}

/* --- shapes ---------------------------------------------------------------------------------- */

struct proof {
    const struct gguf *g;
    const char *name;
    char *err;
};

#define REFUSE(p, rc, fmt, ...)                                                                    \
    gguf_fail(gguf_path((p)->g), (p)->err, rc, "tensor %s" fmt, (p)->name, ##__VA_ARGS__)

/* A part that must be there, of this type and shape. */
static int prove_part(struct proof *p, struct scheme_weight *w, enum scheme_part which,
                      enum qtype type, uint64_t n0, uint64_t n1)
{
    const struct gguf_tensor *t = w->part[which];
    char scheme[SCHEME_NAME];

    if (!t)
        return REFUSE(p, -EBADMSG, "%s: missing, which scheme %s needs", suffixes[which],
                      scheme_name(&w->scheme, scheme));
    if (t->type != type)
        return REFUSE(p, -EBADMSG, "%s: type %s, must be %s", suffixes[which],
                      qtype_info(t->type)->name, qtype_info(type)->name);
    if (t->ne[0] != n0 || t->ne[1] != n1 || t->ne[2] != 1 || t->ne[3] != 1)
        return REFUSE(p, -EBADMSG, "%s: shape [%llu, %llu, %llu, %llu], must be [%llu, %llu]",
                      suffixes[which], (unsigned long long)t->ne[0], (unsigned long long)t->ne[1],
                      (unsigned long long)t->ne[2], (unsigned long long)t->ne[3],
                      (unsigned long long)n0, (unsigned long long)n1);
    return 0;
}

static int refuse_parts(struct proof *p, const struct scheme_weight *w, enum scheme_part first,
                        enum scheme_part last)
{
    char scheme[SCHEME_NAME];

    for (int i = first; i <= (int)last; i++)
        if (w->part[i])
            return REFUSE(p, -EBADMSG, "%s: is no part of scheme %s", suffixes[i],
                          scheme_name(&w->scheme, scheme));
    return 0;
}

static int prove_codes(struct proof *p, struct scheme_weight *w)
{
    const struct gguf_tensor *t = w->part[SCHEME_CODES];
    const uint64_t block = SCHEME_BLOCK / 8 * w->scheme.bits;
    int rc = t ? 0 : prove_part(p, w, SCHEME_CODES, QTYPE_I8, 0, 0);

    if (rc)
        return rc;
    if (t->ne[0] % block || t->ne[0] / block > UINT32_MAX / SCHEME_BLOCK || t->ne[1] > INT32_MAX)
        return REFUSE(p, -EBADMSG, ".codes: rows of %llu bytes, must be a multiple of %llu",
                      (unsigned long long)t->ne[0], (unsigned long long)block);
    w->rows = (uint32_t)t->ne[1];
    w->cols = (uint32_t)(t->ne[0] / block) * SCHEME_BLOCK;
    return prove_part(p, w, SCHEME_CODES, QTYPE_I8, t->ne[0], t->ne[1]);
}

static int prove_levels(struct proof *p, struct scheme_weight *w)
{
    const struct scheme *s = &w->scheme;
    int rc;

    if (s->kind == SCHEME_SQ) {
        rc = prove_part(p, w, SCHEME_LUT, QTYPE_F16, UINT64_C(1) << s->bits, w->rows);
        return rc ? rc : refuse_parts(p, w, SCHEME_SCALE, SCHEME_MIN);
    }
    w->n_groups = w->cols / s->group_cols + (w->cols % s->group_cols != 0);
    rc = prove_part(p, w, SCHEME_SCALE, QTYPE_F16, w->n_groups, w->rows);
    if (rc == 0)
        rc = prove_part(p, w, SCHEME_MIN, QTYPE_F16, w->n_groups, w->rows);
    return rc ? rc : refuse_parts(p, w, SCHEME_LUT, SCHEME_LUT);
}

static int prove_sparse(struct proof *p, struct scheme_weight *w)
{
    const struct gguf_tensor *cols = w->part[SCHEME_SP_COLS];

    if (!w->part[SCHEME_SP_ROWS] && !cols && !w->part[SCHEME_SP_VALUES])
        return 0;
    int rc = prove_part(p, w, SCHEME_SP_ROWS, QTYPE_I32, (uint64_t)w->rows + 1, 1);
    if (rc == 0)
        rc = prove_part(p, w, SCHEME_SP_COLS, QTYPE_I16, cols ? cols->ne[0] : 0, 1);
    if (rc)
        return rc;
    if (cols->ne[0] > INT32_MAX || w->cols > UINT16_MAX)
        return REFUSE(p, -EBADMSG, ".sp_cols: %llu entries of %u columns, at most %d of %u",
                      (unsigned long long)cols->ne[0], w->cols, INT32_MAX, UINT16_MAX);
    w->n_sparse = (uint32_t)cols->ne[0];
    return prove_part(p, w, SCHEME_SP_VALUES, QTYPE_F16, w->n_sparse, 1);
}

int scheme_find(const struct gguf *g, const char *name, struct scheme_weight *w, char *err)
{
    struct proof p = {g, name, err};
    char key[sizeof KEY + 256];
    struct gguf_str text;
    int rc;

    *w = (struct scheme_weight){0};
    if (snprintf(key, sizeof key, KEY "%s", name) >= (int)sizeof key)
        return -ENOENT;
    rc = gguf_str(g, key, &text);
    if (rc == -ENOENT)
        return rc;
    if (rc)
        return gguf_fail(gguf_path(g), err, -EBADMSG, "%s: must be a string", key);
    if (scheme_parse(text.ptr, text.len, &w->scheme))
        return REFUSE(&p, -ENOTSUP, ": scheme \"%.*s\" is not supported; supported: %s",
                      text.len < 32 ? (int)text.len : 32, text.ptr, scheme_supported());
    if (gguf_find(g, name))
        return REFUSE(&p, -EBADMSG, ": is there beside its %s", key);
    for (int i = 0; i < SCHEME_PARTS; i++) {
        char part[sizeof key];

        snprintf(part, sizeof part, "%s%s", name, suffixes[i]);
        w->part[i] = gguf_find(g, part);
    }
    rc = prove_codes(&p, w);
    if (rc == 0)
        rc = prove_levels(&p, w);
    return rc ? rc : prove_sparse(&p, w);
}

/* --- meaning --------------------------------------------------------------------------------- */

static float f16_at(const void *p, size_t i)
{
    uint16_t h;

    memcpy(&h, (const uint8_t *)p + 2 * i, 2);
    return f32_from_f16(le16toh(h));
}

void scheme_codes(const struct scheme *s, const void *codes, size_t b, uint8_t out[SCHEME_BLOCK])
{
    const uint8_t *p = (const uint8_t *)codes + b * SCHEME_BLOCK / 8 * s->bits;

    for (size_t c = 0; c < SCHEME_BLOCK; c++) {
        if (s->bits == 4) {
            out[c] = p[c % 16] >> (c / 16 * 4) & 15;
            continue;
        }
        out[c] = p[c % 8] >> (c / 8 * 2) & 3;
        if (s->bits == 3)
            out[c] |= (uint8_t)((p[8 + c / 8] >> c % 8 & 1) << 2);
    }
}

void scheme_dequantize(const struct scheme *s, uint32_t cols, const void *codes, const void *levels,
                       const void *mins, float *dst)
{
    for (size_t b = 0; b < cols / SCHEME_BLOCK; b++) {
        uint8_t code[SCHEME_BLOCK];

        scheme_codes(s, codes, b, code);
        for (size_t i = 0; i < SCHEME_BLOCK; i++) {
            const size_t c = b * SCHEME_BLOCK + i;

            dst[c] = s->kind == SCHEME_SQ ? f16_at(levels, code[i])
                                          : f16_at(levels, c / s->group_cols) * (float)code[i] +
                                                f16_at(mins, c / s->group_cols);
        }
    }
}
