/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Panels against what internal.h says of them, code by code: each source format is read in one
 * place to a neutral form (codes, scales), and each panel layout written in one.
 */
#include "common.h"

/* One row of one unit, format apart. */
struct unit {
    uint8_t code[256];
    uint8_t scale[16], min[8]; /* K-quants */
    uint16_t d, m;             /* f16 */
};

static void read_nibbles32(uint8_t code[32], const uint8_t *qs)
{
    for (int i = 0; i < 16; i++) {
        code[i] = qs[i] & 15;
        code[i + 16] = qs[i] >> 4;
    }
}

static void read_fifth_bits32(uint8_t code[32], const uint8_t qh[4])
{
    for (int i = 0; i < 32; i++)
        code[i] |= (uint8_t)((qh[i / 8] >> (i % 8) & 1) << 4);
}

/* Q4_K, Q5_K: eight 6-bit scales and minima in 12 bytes. */
static void read_k_scales(struct unit *u, const uint8_t s[12])
{
    for (int j = 0; j < 4; j++) {
        u->scale[j] = s[j] & 63;
        u->min[j] = s[j + 4] & 63;
        u->scale[j + 4] = (uint8_t)((s[j + 8] & 15) | s[j] >> 6 << 4);
        u->min[j + 4] = (uint8_t)(s[j + 8] >> 4 | s[j + 4] >> 6 << 4);
    }
}

/* Q4_K, Q5_K: 64 values share 32 bytes: low nibbles the first half. */
static void read_k_nibbles(uint8_t code[256], const uint8_t qs[128])
{
    for (int c = 0; c < 4; c++) {
        for (int i = 0; i < 32; i++) {
            code[64 * c + i] = qs[32 * c + i] & 15;
            code[64 * c + 32 + i] = qs[32 * c + i] >> 4;
        }
    }
}

static void read_q6k(struct unit *u, const uint8_t *src)
{
    for (int h = 0; h < 2; h++) {
        const uint8_t *ql = src + 64 * h, *qh = src + 128 + 32 * h;
        uint8_t *code = u->code + 128 * h;

        for (int i = 0; i < 32; i++) {
            code[i] = (uint8_t)((ql[i] & 15) | (qh[i] & 3) << 4);
            code[i + 32] = (uint8_t)((ql[i + 32] & 15) | (qh[i] >> 2 & 3) << 4);
            code[i + 64] = (uint8_t)(ql[i] >> 4 | (qh[i] >> 4 & 3) << 4);
            code[i + 96] = (uint8_t)(ql[i + 32] >> 4 | (qh[i] >> 6) << 4);
        }
    }
    memcpy(u->scale, src + 192, 16);
    u->d = load_u16(src + 208);
}

static void read_unit(enum layout_id id, const uint8_t *src, struct unit *u)
{
    u->d = load_u16(src);
    switch (id) {
    case LAYOUT_Q4_0:
        read_nibbles32(u->code, src + 2);
        break;
    case LAYOUT_Q4_1:
        u->m = load_u16(src + 2);
        read_nibbles32(u->code, src + 4);
        break;
    case LAYOUT_Q5_0:
        read_nibbles32(u->code, src + 6);
        read_fifth_bits32(u->code, src + 2);
        break;
    case LAYOUT_Q5_1:
        u->m = load_u16(src + 2);
        read_nibbles32(u->code, src + 8);
        read_fifth_bits32(u->code, src + 4);
        break;
    case LAYOUT_Q8_0:
        memcpy(u->code, src + 2, 32);
        break;
    case LAYOUT_Q4_K:
        u->m = load_u16(src + 2);
        read_k_scales(u, src + 4);
        read_k_nibbles(u->code, src + 16);
        break;
    case LAYOUT_Q5_K:
        u->m = load_u16(src + 2);
        read_k_scales(u, src + 4);
        read_k_nibbles(u->code, src + 48);
        for (int i = 0; i < 256; i++)
            u->code[i] |= (uint8_t)((src[16 + i % 32] >> (i / 32) & 1) << 4);
        break;
    case LAYOUT_Q6_K:
        read_q6k(u, src);
        break;
    default:
        __builtin_unreachable();
    }
}

/* One lane's 32 codes into a block whose bytes are zero. */
static void put_codes(uint8_t *block, unsigned bits, size_t lane, const uint8_t code[32])
{
    for (size_t k = 0; k < 32; k++) {
        size_t g = k / 4, at = lane * 4 + k % 4;
        uint8_t c = code[k];

        if (bits == 8) {
            block[g * 64 + at] = c;
            continue;
        }
        block[g % 4 * 64 + at] |= (uint8_t)((c & 15) << (g < 4 ? 0 : 4));
        if (bits == 5)
            block[256 + at] |= (uint8_t)(c >> 4 << g);
        else if (bits == 6)
            block[256 + g / 4 * 64 + at] |= (uint8_t)(c >> 4 << 2 * (g % 4));
    }
}

static void pack_floats(size_t elem_bytes, const uint8_t *const src[PANEL_ROWS], uint8_t *dst)
{
    for (size_t c = 0; c < 32; c++)
        for (size_t lane = 0; lane < PANEL_ROWS; lane++, dst += elem_bytes)
            if (src[lane])
                memcpy(dst, src[lane] + c * elem_bytes, elem_bytes);
}

static void pack_unit(enum layout_id id, const uint8_t *const src[PANEL_ROWS], uint8_t *dst)
{
    const struct layout *l = &kernels_layouts[id];

    memset(dst, 0, l->unit_bytes);
    if (l->bits == 0) {
        pack_floats(id == LAYOUT_F32 ? 4 : 2, src, dst);
        return;
    }
    for (size_t lane = 0; lane < PANEL_ROWS; lane++) {
        struct unit u;

        if (!src[lane])
            continue;
        read_unit(id, src[lane], &u);
        memcpy(dst + l->d + 2 * lane, &u.d, 2);
        if (l->has_min)
            memcpy(dst + l->m + 2 * lane, &u.m, 2);
        for (size_t b = 0; b < l->unit_cols / 32u; b++) {
            put_codes(dst + l->codes + b * l->block_bytes, l->bits, lane, u.code + 32 * b);
            if (id == LAYOUT_Q6_K) {
                memcpy(dst + l->scales + 32 * b + 2 * lane, u.scale + 2 * b, 2);
            } else if (l->unit_cols == 256) {
                dst[l->scales + 32 * b + lane] = u.scale[b];
                dst[l->scales + 32 * b + 16 + lane] = u.min[b];
            }
        }
    }
}

/* --- the same bytes -------------------------------------------------------------------------- */

static void check_panel(enum qtype type, size_t n_rows, size_t cols)
{
    const struct qtype_info *q = qtype_info(type);
    const enum layout_id id = kernels_layout_of(type);
    const struct layout *l = &kernels_layouts[id];
    const size_t row_bytes = cols / q->block_values * q->block_bytes;
    const size_t step = l->unit_cols / q->block_values * q->block_bytes, n = panel_bytes(l, cols);
    uint8_t *src = malloc(n_rows * row_bytes), *want = malloc(n), *got = malloc(n);

    for (size_t i = 0; i < n_rows * row_bytes; i++)
        src[i] = (uint8_t)rng();
    for (size_t u = 0; u < cols / l->unit_cols; u++) {
        const uint8_t *rows[PANEL_ROWS] = {0};

        for (size_t i = 0; i < n_rows; i++)
            rows[i] = src + i * row_bytes + u * step;
        pack_unit(id, rows, want + u * l->unit_bytes);
    }
    memset(got, 0xa5, n); /* every byte is written, the unused too */
    kernels_pack_panel(id, src, n_rows, cols, got);
    for (size_t i = 0; i < n; i++)
        if (got[i] != want[i])
            fail_msg("%s, %zu rows of %zu: byte %zu of the unit %zu is %02x, not %02x", q->name,
                     n_rows, cols, i % l->unit_bytes, i / l->unit_bytes, got[i], want[i]);
    free(src);
    free(want);
    free(got);
}

static void test_panels(void **state)
{
    for (size_t i = 0; i < N_TYPES; i++)
        for (size_t n_rows = 1; n_rows <= PANEL_ROWS; n_rows++)
            for (size_t cols = 256; cols <= 1024; cols += 256)
                check_panel(all_types[i], n_rows, cols);
    for (size_t i = 0; i < N_TYPES; i++)
        if (qtype_info(all_types[i])->block_values < 256)
            for (size_t cols = 32; cols < 256; cols += 32)
                check_panel(all_types[i], PANEL_ROWS, cols);
}

/* Every bit of a unit's source, alone, lands where it should. */
static void test_single_bits(void **state)
{
    for (size_t i = 0; i < N_TYPES; i++) {
        const struct qtype_info *q = qtype_info(all_types[i]);
        const enum layout_id id = kernels_layout_of(all_types[i]);
        const struct layout *l = &kernels_layouts[id];
        const size_t bytes = l->unit_cols / q->block_values * q->block_bytes;
        uint8_t src[PANEL_ROWS][256] = {{0}}, flat[PANEL_ROWS * 256], want[4096], got[4096];
        const uint8_t *rows[PANEL_ROWS];

        assert_true(bytes <= sizeof(src[0]) && l->unit_bytes <= sizeof(want));
        for (size_t r = 0; r < PANEL_ROWS; r++)
            rows[r] = src[r];
        for (size_t bit = 0; bit < bytes * 8; bit++) {
            uint8_t *row = src[bit % PANEL_ROWS];

            row[bit / 8] = (uint8_t)(1 << bit % 8);
            for (size_t r = 0; r < PANEL_ROWS; r++)
                memcpy(flat + r * bytes, src[r], bytes);
            pack_unit(id, rows, want);
            kernels_pack_panel(id, flat, PANEL_ROWS, l->unit_cols, got);
            assert_memory_equal(got, want, l->unit_bytes);
            row[bit / 8] = 0;
        }
    }
}

/* Who packs a row is who multiplies it, and every row is somebody's. */
static void test_shares(void **state)
{
    for (uint32_t rows = 1; rows < 200; rows += 1 + rng() % 7) {
        for (unsigned parts = 1; parts < 9; parts++) {
            uint32_t next = 0, first, end;
            struct mat *m;

            assert_int_equal(mat_new(QTYPE_Q8_0, rows, 32, &m), 0);
            for (unsigned p = 0; p < parts; p++) {
                mat_share(m, p, parts, &first, &end);
                if (first == end)
                    continue;
                assert_int_equal(first, next);
                assert_int_equal(first % PANEL_ROWS, 0);
                next = end;
            }
            assert_int_equal(next, rows);
            mat_free(m);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_panels),
        cmocka_unit_test(test_single_bits),
        cmocka_unit_test(test_shares),
    };
    rng_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
