/* SPDX-License-Identifier: Apache-2.0 */
/* Weights in schemes and halves of models: what a file says of them, true and lying. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "compute/scheme.h"
#include "compute/stage_file.h"
#include "gguf_build.h"

#define ROWS 5u

/* A part's tensor; ne1 0: of one dimension. */
struct part {
    const char *suffix;
    uint32_t type;
    uint64_t ne0, ne1;
};

static struct gguf *open_parts(const char *scheme, const struct part *parts, size_t n,
                               struct build *b)
{
    static const unsigned bytes_of[] = {[0] = 4, [1] = 2, [24] = 1, [25] = 2, [26] = 4};
    char name[64], err[GGUF_ERR] = "";
    uint64_t offset = 0;
    struct gguf *g;

    *b = (struct build){0};
    put_header(b, n, 1);
    put_kv_str(b, "isthmus.scheme.w", scheme);
    for (size_t i = 0; i < n; i++) {
        const struct part *p = &parts[i];

        snprintf(name, sizeof name, "w%s", p->suffix);
        put_tensor(b, name, p->type, p->ne0, p->ne1 ? p->ne1 : 1, offset);
        offset += (p->ne0 * (p->ne1 ? p->ne1 : 1) * bytes_of[p->type] + 31) / 32 * 32;
    }
    put_pad(b, 32);
    put_data(b, offset);
    if (gguf_open_mem(b->bytes, b->n, "test", &g, err))
        fail_msg("%s", err);
    return g;
}

static void found(const char *scheme, const struct part *parts, size_t n, struct scheme_weight *w)
{
    char err[GGUF_ERR] = "";
    struct build b;
    struct gguf *g = open_parts(scheme, parts, n, &b);

    if (scheme_find(g, "w", w, err))
        fail_msg("%s", err);
    gguf_close(g);
    free(b.bytes);
}

static void refused(const char *scheme, const struct part *parts, size_t n, int rc,
                    const char *named)
{
    char err[GGUF_ERR] = "";
    struct scheme_weight w;
    struct build b;
    struct gguf *g = open_parts(scheme, parts, n, &b);

    assert_int_equal(scheme_find(g, "w", &w, err), rc);
    if (!strstr(err, named))
        fail_msg("\"%s\" does not name %s", err, named);
    gguf_close(g);
    free(b.bytes);
}

static const struct part sq3[] = {
    {".codes", 24, 36, ROWS},   {".lut", 1, 8, ROWS},    {".sp_rows", 26, ROWS + 1, 0},
    {".sp_cols", 25, 7, 0},     {".sp_values", 1, 7, 0},
};
static const struct part g4[] = {
    {".codes", 24, 80, ROWS}, {".scale", 1, 2, ROWS}, {".min", 1, 2, ROWS}};

static void test_weights_are_found(void **state)
{
    struct scheme_weight w;

    found("sq3", sq3, 5, &w);
    assert_int_equal(w.scheme.kind, SCHEME_SQ);
    assert_int_equal(w.cols, 96);
    assert_int_equal(w.rows, ROWS);
    assert_int_equal(w.n_sparse, 7);
    assert_non_null(w.part[SCHEME_SP_VALUES]);
    found("sq3", sq3, 2, &w);
    assert_int_equal(w.n_sparse, 0);
    found("g4:96", g4, 3, &w); /* the second group is shorter */
    assert_int_equal(w.cols, 160);
    assert_int_equal(w.n_groups, 2);
    assert_null(w.part[SCHEME_LUT]);
}

static void test_names(void **state)
{
    static const char *const good[] = {"sq2", "sq3", "sq4", "g2:32", "g3:96", "g4:4864"};
    static const char *const bad[] = {"",      "sq",    "sq1",    "sq5",     "sq33",      "g3",
                                      "g3:",   "g3:0",  "g3:33",  "g3:096",  "g3:96x",    "g5:32",
                                      "h3:96", "g3:-1", "g3: 96", "SQ3",     "g3:999999999"};
    char buf[SCHEME_NAME];
    struct scheme s;

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(scheme_parse(good[i], strlen(good[i]), &s), 0);
        assert_string_equal(scheme_name(&s, buf), good[i]);
        refused("q3", sq3, 5, -ENOTSUP, "supported: sq2 sq3 sq4");
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(scheme_parse(bad[i], strlen(bad[i]), &s), -ENOTSUP);
}

/* Each part that is left out, of another type, shape or scheme. */
static void test_parts_that_lie(void **state)
{
    for (size_t i = 0; i < 5; i++) {
        struct part parts[6];
        size_t n = 0;

        for (size_t k = 0; k < 5; k++)
            if (k != i)
                parts[n++] = sq3[k];
        refused("sq3", parts, 4, -EBADMSG, sq3[i].suffix);
        memcpy(parts, sq3, sizeof sq3);
        parts[i].type = sq3[i].type == 1 ? 25 : 1;
        refused("sq3", parts, 5, -EBADMSG, sq3[i].suffix);
        memcpy(parts, sq3, sizeof sq3);
        parts[i].ne0++;
        refused("sq3", parts, 5, -EBADMSG, i == 3 ? ".sp_values" : sq3[i].suffix);
        memcpy(parts, sq3, sizeof sq3);
        parts[i].ne1 = parts[i].ne1 ? parts[i].ne1 + 1 : 2;
        refused("sq3", parts, 5, -EBADMSG, i == 0 ? ".lut" : sq3[i].suffix);
    }
    struct part parts[6];
    memcpy(parts, sq3, sizeof sq3);
    parts[5] = (struct part){".min", 1, 1, ROWS};
    refused("sq3", parts, 6, -EBADMSG, "w.min");
    parts[5] = (struct part){"", 1, 96, ROWS}; /* the plain tensor, too */
    refused("sq3", parts, 6, -EBADMSG, "tensor w: is there beside");
    refused("sq4", sq3, 5, -EBADMSG, "w.codes");
    refused("g4:32", g4, 3, -EBADMSG, "w.scale");
    memcpy(parts, g4, sizeof g4);
    parts[3] = (struct part){".lut", 1, 16, ROWS};
    refused("g4:96", parts, 4, -EBADMSG, "w.lut");
}

/* Columns past 65536 have no room in a sparse part's numbers. */
static void test_too_wide_for_a_sparse_part(void **state)
{
    const struct part wide[] = {{".codes", 24, 16 * 2049, 1},
                                {".lut", 1, 16, 1},
                                {".sp_rows", 26, 2, 0},
                                {".sp_cols", 25, 1, 0},
                                {".sp_values", 1, 1, 0}};
    struct scheme_weight w;

    found("sq4", wide, 2, &w);
    refused("sq4", wide, 5, -EBADMSG, ".sp_cols");
}

static void test_parts_have_names(void **state)
{
    size_t len = 0;

    assert_int_equal(scheme_part_of("blk.0.attn_q.weight.sp_cols", &len), SCHEME_SP_COLS);
    assert_int_equal(len, strlen("blk.0.attn_q.weight"));
    assert_int_equal(scheme_part_of("blk.0.attn_q.weight", &len), SCHEME_PARTS);
    assert_int_equal(scheme_part_of("codes", &len), SCHEME_PARTS);
}

/* Codes as docs/weights.md lays them out, written from it. */
static void test_meaning(void **state)
{
    const struct scheme sq = {SCHEME_SQ, 3, 0}, g = {SCHEME_G, 2, 32};
    uint8_t row[12] = {0}, two[8] = {0}, code[SCHEME_BLOCK];
    uint16_t levels[8] = {0, 0x3c00, 0x4000, 0x4200, 0x4400, 0x4500, 0x4600, 0x4700}; /* 0 .. 7 */
    uint16_t scale = 0x4000, min = 0xbc00; /* 2, -1 */
    float w[SCHEME_BLOCK];

    for (unsigned c = 0; c < 32; c++) {
        const unsigned v = c * 5 % 8;

        row[c % 8] |= (uint8_t)((v & 3) << 2 * (c / 8));
        row[8 + c / 8] |= (uint8_t)(v >> 2 << c % 8);
        two[c % 8] |= (uint8_t)((c & 3) << 2 * (c / 8));
    }
    scheme_codes(&sq, row, 0, code);
    scheme_dequantize(&sq, 32, row, levels, NULL, w);
    for (unsigned c = 0; c < 32; c++) {
        assert_int_equal(code[c], c * 5 % 8);
        assert_true(w[c] == (float)(c * 5 % 8));
    }
    scheme_dequantize(&g, 32, two, &scale, &min, w);
    for (unsigned c = 0; c < 32; c++)
        assert_true(w[c] == 2.f * (float)(c & 3) - 1.f);
}

/* --- halves ---------------------------------------------------------------------------------- */

struct half {
    const char *stage, *parent, *pair;
    uint32_t version, split, layers;
};
#define HASH "0123456789abcdef0123456789abcdef"
static const struct half edge = {"edge", HASH, "00000000000000000000000000000001", 1, 2, 5};

static int read_half(const struct half *h, struct stage_file *f, char *err)
{
    struct build b = {0};
    struct gguf *g;

    put_header(&b, 0, 6);
    put_kv_str(&b, "isthmus.stage", h->stage);
    put_kv_str(&b, "isthmus.parent", h->parent);
    put_kv_str(&b, "isthmus.pair", h->pair);
    put_kv_u32(&b, "isthmus.version", h->version);
    put_kv_u32(&b, "isthmus.split", h->split);
    put_kv_u32(&b, "isthmus.layers", h->layers);
    assert_int_equal(gguf_open_mem(b.bytes, b.n, "test", &g, err), 0);
    int rc = stage_file_read(g, f, err);
    gguf_close(g);
    free(b.bytes);
    return rc;
}

static void test_halves(void **state)
{
    char err[GGUF_ERR] = "";
    struct stage_file f;
    struct build b = {0};
    struct gguf *g;

    assert_int_equal(read_half(&edge, &f, err), 0);
    assert_int_equal(f.half, STAGE_EDGE);
    assert_int_equal(f.split, 2);
    assert_int_equal(f.n_layers, 5);
    assert_int_equal(f.parent[0], 0x01);
    assert_int_equal(f.parent[15], 0xef);
    assert_int_equal(f.pair[15], 1);

    put_header(&b, 0, 0);
    assert_int_equal(gguf_open_mem(b.bytes, b.n, "test", &g, err), 0);
    assert_int_equal(stage_file_read(g, &f, err), 0);
    assert_int_equal(f.half, STAGE_WHOLE);
    gguf_close(g);
    free(b.bytes);
}

static void test_halves_that_lie(void **state)
{
    const struct {
        struct half h;
        int rc;
        const char *named;
    } cases[] = {
        {{"front", HASH, HASH, 1, 2, 5}, -EBADMSG, "isthmus.stage"},
        {{"edge", "0123", HASH, 1, 2, 5}, -EBADMSG, "isthmus.parent"},
        {{"edge", HASH, "x123456789abcdef0123456789abcdef", 1, 2, 5}, -EBADMSG, "isthmus.pair"},
        {{"cloud", HASH, HASH, 2, 2, 5}, -ENOTSUP, "isthmus.version"},
        {{"cloud", HASH, HASH, 1, 0, 5}, -EBADMSG, "isthmus.split"},
        {{"cloud", HASH, HASH, 1, 5, 5}, -EBADMSG, "isthmus.split"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char err[GGUF_ERR] = "";
        struct stage_file f;

        assert_int_equal(read_half(&cases[i].h, &f, err), cases[i].rc);
        if (!strstr(err, cases[i].named))
            fail_msg("\"%s\" does not name %s", err, cases[i].named);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights_are_found),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_parts_that_lie),
        cmocka_unit_test(test_too_wide_for_a_sparse_part),
        cmocka_unit_test(test_parts_have_names),
        cmocka_unit_test(test_meaning),
        cmocka_unit_test(test_halves),
        cmocka_unit_test(test_halves_that_lie),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
