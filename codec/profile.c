/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/profile.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "codec/codec.h"
#include "codec/rans.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "fields are copied as they are");

#define MAGIC       "ISTHPROF"
#define MAGIC_BYTES 8u
#define VERSION     2u
#define BLOCKS_MAX  (CODEC_COLS_MAX / CODEC_BLOCK_COLS_MAX)

/* What decides how long the rest is. */
struct head {
    char magic[MAGIC_BYTES];
    uint8_t hash[16]; /* of everything behind it */
    uint32_t version, cols;
    uint16_t xform_n[BLOCKS_MAX];
    uint8_t points[CODEC_PROFILE_CURVES];
    uint8_t reserved;
    uint16_t n_classes, class_dims;
};

#define HASHED_FROM offsetof(struct head, version)
_Static_assert(sizeof(struct head) == 56, "no padding");

static __attribute__((format(printf, 3, 4))) int fail(char *err, int rc, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(err, CODEC_PROFILE_ERR, fmt, args);
    va_end(args);
    return rc;
}

static size_t groups(uint32_t n)
{
    return (n + RANS_GROUP - 1) / RANS_GROUP;
}

/* --- memory ---------------------------------------------------------------------------------- */

static bool alloc_coefs(struct codec_profile_coefs *c, uint32_t n)
{
    c->n = n;
    c->level = calloc(groups(n), 1);
    c->pre = calloc(groups(n), RANS_GROUP);
    return c->level && c->pre;
}

static bool alloc_block(struct codec_profile_block *b, uint32_t cols, uint32_t n)
{
    b->cols = cols;
    b->order = calloc(cols, sizeof(*b->order));
    b->mult = calloc(n, sizeof(*b->mult));
    b->a = calloc((size_t)n * cols, sizeof(*b->a));
    b->bscale = calloc(cols, sizeof(*b->bscale));
    b->b = calloc((size_t)n * cols, sizeof(*b->b));
    return alloc_coefs(&b->scalar, cols) && alloc_coefs(&b->xform, n) && b->order && b->mult &&
           b->a && b->bscale && b->b;
}

static bool classes_possible(uint32_t n_classes, uint32_t dims)
{
    return n_classes <= CODEC_CLASSES_MAX && dims <= CODEC_CLASS_DIMS_MAX && !n_classes == !dims;
}

int codec_profile_new(uint32_t cols, const uint32_t *xform_n, uint32_t n_classes,
                      uint32_t class_dims, struct codec_profile **out)
{
    *out = NULL;
    if (cols == 0 || cols > CODEC_COLS_MAX || !classes_possible(n_classes, class_dims))
        return -EINVAL;
    for (uint32_t i = 0; i < codec_blocks(cols); i++) {
        const uint32_t width = codec_block_first(cols, i + 1) - codec_block_first(cols, i);
        if (xform_n && (xform_n[i] == 0 || xform_n[i] > width))
            return -EINVAL;
    }

    struct codec_profile *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->cols = cols;
    p->n_blocks = codec_blocks(cols);
    p->mean = calloc(cols, sizeof(*p->mean));
    p->sens = calloc(cols, sizeof(*p->sens));
    p->blocks = calloc(p->n_blocks, sizeof(*p->blocks));
    p->n_classes = n_classes;
    p->class_dims = class_dims;
    p->class_p = calloc((size_t)class_dims * cols, sizeof(*p->class_p));
    p->class_scale = calloc(class_dims, sizeof(*p->class_scale));
    p->class_w = calloc((size_t)n_classes * class_dims, sizeof(*p->class_w));
    p->class_bias = calloc(n_classes, sizeof(*p->class_bias));
    p->class_mean = calloc((size_t)n_classes * cols, sizeof(*p->class_mean));
    bool ok = p->mean && p->sens && p->blocks && p->class_p && p->class_scale && p->class_w &&
              p->class_bias && p->class_mean;
    for (uint32_t i = 0; i < p->n_blocks && ok; i++) {
        const uint32_t first = codec_block_first(cols, i);
        const uint32_t width = codec_block_first(cols, i + 1) - first;

        p->blocks[i].first_col = first;
        ok = alloc_block(&p->blocks[i], width, xform_n ? xform_n[i] : width);
    }
    if (!ok) {
        codec_profile_free(p);
        return -ENOMEM;
    }
    *out = p;
    return 0;
}

static void free_block(struct codec_profile_block *b)
{
    free(b->scalar.level);
    free(b->scalar.pre);
    free(b->order);
    free(b->xform.level);
    free(b->xform.pre);
    free(b->mult);
    free(b->a);
    free(b->bscale);
    free(b->b);
}

void codec_profile_free(struct codec_profile *p)
{
    if (!p)
        return;
    for (uint32_t i = 0; p->blocks && i < p->n_blocks; i++)
        free_block(&p->blocks[i]);
    free(p->blocks);
    free(p->mean);
    free(p->sens);
    free(p->class_p);
    free(p->class_scale);
    free(p->class_w);
    free(p->class_bias);
    free(p->class_mean);
    free(p);
}

/* --- the fields, in order -------------------------------------------------------------------- */

/* A walk over the fields counts their bytes, and copies them where it reads or writes. */
struct walk {
    enum { COUNT, READ, WRITE } what;
    uint8_t *at;         /* WRITE */
    const uint8_t *from; /* READ */
    size_t bytes;        /* so far */
};

static void field(struct walk *w, void *data, size_t bytes)
{
    if (bytes == 0)
        return;
    if (w->what == READ)
        memcpy(data, w->from + w->bytes, bytes);
    else if (w->what == WRITE)
        memcpy(w->at + w->bytes, data, bytes);
    w->bytes += bytes;
}

static void walk_coefs(struct walk *w, struct codec_profile_coefs *c)
{
    field(w, c->level, groups(c->n));
    field(w, c->pre, c->n);
}

static void walk_block(struct walk *w, struct codec_profile_block *b)
{
    const size_t cols = b->cols, n = b->xform.n;

    walk_coefs(w, &b->scalar);
    field(w, b->order, cols * sizeof(*b->order));
    walk_coefs(w, &b->xform);
    field(w, b->mult, n * sizeof(*b->mult));
    field(w, b->a, n * cols * sizeof(*b->a));
    field(w, b->bscale, cols * sizeof(*b->bscale));
    field(w, b->b, n * cols * sizeof(*b->b));
}

/* All behind the head. */
static void walk_profile(struct walk *w, struct codec_profile *p)
{
    field(w, p->fingerprint, sizeof(p->fingerprint));
    field(w, &p->split, sizeof(p->split));
    field(w, &p->ref_norm, sizeof(p->ref_norm));
    field(w, &p->ref_sigma, sizeof(p->ref_sigma));
    field(w, &p->sens_pos, sizeof(p->sens_pos));
    field(w, &p->sens_bias, sizeof(p->sens_bias));
    for (unsigned i = 0; i < CODEC_PROFILE_CURVES; i++)
        field(w, p->curves[i].points, p->curves[i].n * sizeof(p->curves[i].points[0]));
    field(w, p->mean, p->cols * sizeof(*p->mean));
    field(w, p->sens, p->cols * sizeof(*p->sens));
    field(w, p->class_p, (size_t)p->class_dims * p->cols * sizeof(*p->class_p));
    field(w, p->class_scale, p->class_dims * sizeof(*p->class_scale));
    field(w, p->class_w, (size_t)p->n_classes * p->class_dims * sizeof(*p->class_w));
    field(w, p->class_bias, p->n_classes * sizeof(*p->class_bias));
    field(w, p->class_mean, (size_t)p->n_classes * p->cols * sizeof(*p->class_mean));
    for (uint32_t i = 0; i < p->n_blocks; i++)
        walk_block(w, &p->blocks[i]);
}

/* --- proving --------------------------------------------------------------------------------- */

static bool is_real(float v)
{
    return fabsf(v) <= CODEC_PROFILE_REAL_MAX; /* not a NaN */
}

static bool are_real(const float *v, size_t n, float least)
{
    for (size_t i = 0; i < n; i++)
        if (!is_real(v[i]) || v[i] < least)
            return false;
    return true;
}

static bool is_permutation(const uint16_t *order, uint32_t n)
{
    bool seen[CODEC_BLOCK_COLS_MAX] = {false};

    for (uint32_t i = 0; i < n; i++) {
        if (order[i] >= n || seen[order[i]])
            return false;
        seen[order[i]] = true;
    }
    return true;
}

static bool norms_fit(const int16_t *m, uint32_t rows, uint32_t cols)
{
    for (uint32_t i = 0; i < rows; i++) {
        uint64_t sum = 0;
        for (uint32_t j = 0; j < cols; j++, m++)
            sum += (uint64_t)((int64_t)*m * *m);
        if ((double)sum > CODEC_PROFILE_NORM_MAX * CODEC_PROFILE_NORM_MAX)
            return false;
    }
    return true;
}

static bool pre_fits(const struct codec_profile_coefs *c)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (c->pre[i] > CODEC_PROFILE_PRE_MAX)
            return false;
    return true;
}

/* The name of what is wrong; NULL: nothing. */
static const char *wrong_in_block(const struct codec_profile_block *b)
{
    if (!pre_fits(&b->scalar) || !pre_fits(&b->xform))
        return "shift";
    if (!is_permutation(b->order, b->cols))
        return "order of columns";
    if (!are_real(b->mult, b->xform.n, 0) || !are_real(b->bscale, b->cols, 0))
        return "scale";
    if (!norms_fit(b->a, b->xform.n, b->cols))
        return "forward basis";
    if (!norms_fit(b->b, b->cols, b->xform.n))
        return "inverse basis";
    return NULL;
}

static bool curve_ascends(const struct codec_profile_curve *c)
{
    float before = 0;

    for (uint32_t i = 0; i < c->n; i++) {
        const struct codec_profile_point *p = &c->points[i];
        if (!is_real(p->parameter) || p->parameter <= before || !is_real(p->kl_mean) ||
            p->kl_mean < 0 || !is_real(p->bytes_per_token) || p->bytes_per_token < 0)
            return false;
        before = p->parameter;
    }
    return true;
}

static const char *wrong(const struct codec_profile *p)
{
    if (!is_real(p->ref_norm) || p->ref_norm < 1 / CODEC_PROFILE_REAL_MAX)
        return "reference norm";
    if (!is_real(p->ref_sigma) || p->ref_sigma < 1 / CODEC_PROFILE_REAL_MAX)
        return "reference deviation";
    if (!is_real(p->sens_pos) || !is_real(p->sens_bias) ||
        !are_real(p->sens, p->cols, -CODEC_PROFILE_REAL_MAX))
        return "sensitivity";
    if (!are_real(p->mean, p->cols, -CODEC_PROFILE_REAL_MAX))
        return "mean";
    if (!norms_fit(p->class_p, p->class_dims, p->cols) ||
        !are_real(p->class_scale, p->class_dims, 0) ||
        !norms_fit(p->class_w, p->n_classes, p->class_dims) ||
        !are_real(p->class_bias, p->n_classes, -CODEC_PROFILE_REAL_MAX) ||
        !are_real(p->class_mean, (size_t)p->n_classes * p->cols, -CODEC_PROFILE_REAL_MAX))
        return "class";
    for (unsigned i = 0; i < CODEC_PROFILE_CURVES; i++)
        if (!curve_ascends(&p->curves[i]))
            return "curve";
    for (uint32_t i = 0; i < p->n_blocks; i++) {
        const char *what = wrong_in_block(&p->blocks[i]);
        if (what)
            return what;
    }
    return NULL;
}

/* --- bytes ----------------------------------------------------------------------------------- */

static void hash_of(const uint8_t *bytes, size_t len, uint8_t hash[16])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes + HASHED_FROM, len - HASHED_FROM));
    memcpy(hash, canonical.digest, sizeof(canonical.digest));
}

/* The bytes behind the head that it asks for; 0: no profile's. */
static size_t body_bytes(const struct head *h)
{
    const uint32_t n_blocks = codec_blocks(h->cols);
    struct codec_profile_block blocks[BLOCKS_MAX] = {0};
    struct codec_profile p = {.cols = h->cols,
                              .n_classes = h->n_classes,
                              .class_dims = h->class_dims,
                              .n_blocks = n_blocks,
                              .blocks = blocks};
    struct walk w = {.what = COUNT};

    for (uint32_t i = 0; i < BLOCKS_MAX; i++) {
        if (i >= n_blocks && h->xform_n[i] != 0)
            return 0;
        if (i >= n_blocks)
            continue;
        blocks[i].cols = codec_block_first(h->cols, i + 1) - codec_block_first(h->cols, i);
        blocks[i].scalar.n = blocks[i].cols;
        blocks[i].xform.n = h->xform_n[i];
        if (h->xform_n[i] == 0 || h->xform_n[i] > blocks[i].cols)
            return 0;
    }
    for (unsigned i = 0; i < CODEC_PROFILE_CURVES; i++) {
        p.curves[i].n = h->points[i];
        if (h->points[i] > CODEC_PROFILE_POINTS_MAX)
            return 0;
    }
    walk_profile(&w, &p);
    return w.bytes;
}

static int check_head(const uint8_t *src, size_t len, struct head *h, char *err)
{
    uint8_t hash[16];

    if (len < sizeof(*h) || memcmp(src, MAGIC, MAGIC_BYTES))
        return fail(err, -EBADMSG, "not a codec profile");
    memcpy(h, src, sizeof(*h));
    if (h->version != VERSION)
        return fail(err, -ENOTSUP, "a profile of version %u: this program knows version %u",
                    h->version, VERSION);
    if (h->cols == 0 || h->cols > CODEC_COLS_MAX)
        return fail(err, -EBADMSG, "%u columns: 1 to %u are possible", h->cols, CODEC_COLS_MAX);

    const size_t body = body_bytes(h);
    if (body == 0 || h->reserved || !classes_possible(h->n_classes, h->class_dims))
        return fail(err, -EBADMSG, "a damaged head");
    if (len != sizeof(*h) + body)
        return fail(err, -EBADMSG, "%zu bytes long, where its head says %zu", len,
                    sizeof(*h) + body);
    hash_of(src, len, hash);
    if (memcmp(hash, h->hash, sizeof(hash)))
        return fail(err, -EBADMSG, "damaged: its content does not match its hash");
    return 0;
}

int codec_profile_parse(const uint8_t *src, size_t len, struct codec_profile **out, char *err)
{
    struct codec_profile *p;
    struct head h;

    *out = NULL;
    int rc = check_head(src, len, &h, err);
    if (rc)
        return rc;

    uint32_t xform_n[BLOCKS_MAX];
    for (unsigned i = 0; i < BLOCKS_MAX; i++)
        xform_n[i] = h.xform_n[i];
    if (codec_profile_new(h.cols, xform_n, h.n_classes, h.class_dims, &p))
        return fail(err, -ENOMEM, "out of memory for a profile of %zu bytes", len);
    for (unsigned i = 0; i < CODEC_PROFILE_CURVES; i++)
        p->curves[i].n = h.points[i];
    struct walk w = {.what = READ, .from = src + sizeof(h)};
    walk_profile(&w, p);
    memcpy(p->hash, h.hash, sizeof(p->hash));

    const char *what = wrong(p);
    if (what) {
        codec_profile_free(p);
        return fail(err, -EBADMSG, "an impossible %s", what);
    }
    *out = p;
    return 0;
}

int codec_profile_serialize(struct codec_profile *p, uint8_t **bytes, size_t *len, char *err)
{
    struct head h = {.magic = MAGIC,
                     .version = VERSION,
                     .cols = p->cols,
                     .n_classes = (uint16_t)p->n_classes,
                     .class_dims = (uint16_t)p->class_dims};

    *bytes = NULL;
    for (uint32_t i = 0; i < p->n_blocks; i++)
        h.xform_n[i] = (uint16_t)p->blocks[i].xform.n;
    for (unsigned i = 0; i < CODEC_PROFILE_CURVES; i++) {
        if (p->curves[i].n > CODEC_PROFILE_POINTS_MAX)
            return fail(err, -EINVAL, "too many points on a curve");
        h.points[i] = (uint8_t)p->curves[i].n;
    }
    const char *what = wrong(p);
    if (what)
        return fail(err, -EINVAL, "an impossible %s", what);

    *len = sizeof(h) + body_bytes(&h);
    *bytes = malloc(*len);
    if (!*bytes)
        return fail(err, -ENOMEM, "out of memory for a profile of %zu bytes", *len);
    struct walk w = {.what = WRITE, .at = *bytes + sizeof(h)};
    walk_profile(&w, p);
    memcpy(*bytes, &h, sizeof(h));
    hash_of(*bytes, *len, h.hash);
    memcpy(*bytes, &h, sizeof(h));
    memcpy(p->hash, h.hash, sizeof(p->hash));
    return 0;
}
