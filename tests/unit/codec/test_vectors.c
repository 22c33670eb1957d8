/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frozen tiles: what the encoder wrote and the decoder read when the format was set. A change here
 * is a new format version. `test_codec_vectors --write > tests/vectors/tiles.txt` writes the file
 * anew from the cases below.
 *
 * The file holds, for each case, its rows, tiles and decoded rows in hex (floats little-endian).
 */
#include "util.h"

#include "codec/codec.h"
#include "codec/cpu.h"

#define TOKEN    70000u
#define MAX_TILE 4096u

static const struct vector {
    const char *name;
    struct codec_params params;
    uint32_t cols, rows;
    size_t capacity;
    enum row_kind kind;
} vectors[] = {
    {"f32", {CODEC_F32}, 5, 2, 500, ROW_BITS},
    {"f32-cut", {CODEC_F32}, 100, 1, 270, ROW_NORMAL},
    {"f16", {CODEC_F16}, 11, 2, 500, ROW_NORMAL},
    {"tsq-normal", {CODEC_TSQ, CODEC_TAU_MEAN, 4, .08f, 2, 8}, 67, 2, 1500, ROW_NORMAL},
    {"tsq-giants", {CODEC_TSQ, CODEC_TAU_MEAN, 4, .08f, 2, 8}, 300, 1, 1500, ROW_GIANTS},
    {"tsq-massive", {CODEC_TSQ, CODEC_TAU_MEAN, 4, .08f, 2, 8}, 300, 1, 1500, ROW_MASSIVE},
    {"tsq-zero", {CODEC_TSQ, CODEC_TAU_MEAN, 4, .08f, 2, 8}, 40, 3, 1500, ROW_ZERO},
    {"tsq-constant", {CODEC_TSQ, CODEC_TAU_MEAN, 4, .08f, 2, 8}, 20, 1, 1500, ROW_CONSTANT},
    {"tsq-tiny", {CODEC_TSQ, CODEC_TAU_MEAN, 2, .05f, 3, 8}, 33, 1, 1500, ROW_TINY},
    {"tsq-huge", {CODEC_TSQ, CODEC_TAU_MEAN, 4, .08f, 2, 8}, 33, 1, 1500, ROW_HUGE},
    {"tsq-2bit", {CODEC_TSQ, CODEC_TAU_MEAN, 4, .08f, 1, 2}, 33, 1, 1500, ROW_NORMAL},
    {"tsq-3bit", {CODEC_TSQ, CODEC_TAU_MEAN, 4, .08f, 3, 3}, 33, 1, 1500, ROW_NORMAL},
    {"tsq-5bit", {CODEC_TSQ, CODEC_TAU_MEAN, 4, .08f, 5, 5}, 33, 1, 1500, ROW_NORMAL},
    {"tsq-6bit", {CODEC_TSQ, CODEC_TAU_MEAN, 4, .08f, 6, 6}, 33, 1, 1500, ROW_POSITIVE},
    {"tsq-7bit", {CODEC_TSQ, CODEC_TAU_MEAN, 4, .08f, 7, 7}, 33, 1, 1500, ROW_NORMAL},
    {"tsq-8bit", {CODEC_TSQ, CODEC_TAU_MEAN, 4, .08f, 8, 8}, 33, 1, 1500, ROW_NORMAL},
    {"tsq-outliers", {CODEC_TSQ, CODEC_TAU_ABS, .5f, .08f, 2, 8}, 50, 1, 1500, ROW_NORMAL},
    {"tsq-cut", {CODEC_TSQ, CODEC_TAU_ABS, .5f, .08f, 2, 8}, 150, 2, 275, ROW_GIANTS},
};
#define N_VECTORS (sizeof(vectors) / sizeof(vectors[0]))

static void put_hex(FILE *f, const char *what, const void *bytes, size_t n)
{
    fprintf(f, "%s ", what);
    for (size_t i = 0; i < n; i++)
        fprintf(f, "%02x", ((const uint8_t *)bytes)[i]);
    fputc('\n', f);
}

static struct codec *vector_codec(const struct vector *v, unsigned mask)
{
    struct codec *c;

    cpu_set_mask(mask);
    assert_int_equal(codec_open(&v->params, v->cols, &c), 0);
    cpu_set_mask(CPU_ALL);
    return c;
}

/* The rows, then all that comes of them, as text. */
static void write_vector(FILE *f, const struct vector *v, const float *rows, unsigned mask)
{
    const size_t row_bytes = v->cols * sizeof(*rows);
    struct codec *c = vector_codec(v, mask);
    float *out = calloc(v->rows, row_bytes);
    struct codec_cursor at = {0, 0};
    uint8_t tile[MAX_TILE];

    fprintf(f, "vector %s\n", v->name);
    for (uint32_t i = 0; i < v->rows; i++)
        put_hex(f, "row", rows + i * v->cols, row_bytes);
    while (at.row < v->rows) {
        int n = codec_encode(c, rows, v->cols, v->rows, TOKEN, &at, tile, v->capacity, NULL);
        assert_true(n > 0);
        put_hex(f, "tile", tile, (size_t)n);
        assert_int_equal(codec_decode(c, tile, (size_t)n, TOKEN, out, v->cols, v->rows, NULL), 0);
    }
    for (uint32_t i = 0; i < v->rows; i++)
        put_hex(f, "out", out + i * v->cols, row_bytes);
    free(out);
    codec_close(c);
}

static void write_file(void)
{
    rng_state = 3;
    for (size_t i = 0; i < N_VECTORS; i++) {
        float rows[3 * 300];
        for (uint32_t r = 0; r < vectors[i].rows; r++)
            fill_row(rows + r * vectors[i].cols, vectors[i].cols, vectors[i].kind);
        write_vector(stdout, &vectors[i], rows, 0);
    }
}

/* The hex of a line that begins with `what` and holds n bytes. */
static void get_hex(const char *line, const char *what, void *bytes, size_t n)
{
    const size_t skip_chars = strlen(what) + 1;

    assert_memory_equal(line, what, skip_chars - 1);
    assert_int_equal(strlen(line), skip_chars + 2 * n + 1);
    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(line + skip_chars + 2 * i, "%2x", &byte), 1);
        ((uint8_t *)bytes)[i] = (uint8_t)byte;
    }
}

/* Encoding the file's rows and decoding the file's tiles gives the file again, on every ISA. */
static void frozen_tiles_still_hold(void **state)
{
    static const unsigned masks[] = {0, CPU_AVX2, CPU_ALL};
    static char frozen[1 << 18], now[1 << 18], line[1 << 14];
    FILE *f = fopen(SOURCE_ROOT "/tests/vectors/tiles.txt", "r");
    size_t size;

    assert_non_null(f);
    size = fread(frozen, 1, sizeof(frozen) - 1, f);
    frozen[size] = 0;
    for (size_t m = 0; m < sizeof(masks) / sizeof(masks[0]); m++) {
        FILE *sink = fmemopen(now, sizeof(now), "w");
        rewind(f);
        for (size_t i = 0; i < N_VECTORS; i++) {
            const struct vector *v = &vectors[i];
            float rows[3 * 300];
            assert_non_null(fgets(line, sizeof(line), f)); /* vector NAME */
            for (uint32_t r = 0; r < v->rows; r++) {
                assert_non_null(fgets(line, sizeof(line), f));
                get_hex(line, "row", rows + r * v->cols, v->cols * sizeof(*rows));
            }
            write_vector(sink, v, rows, masks[m]);
            do { /* to the last decoded row */
                assert_non_null(fgets(line, sizeof(line), f));
            } while (strncmp(line, "tile ", 5) == 0);
            for (uint32_t r = 1; r < v->rows; r++)
                assert_non_null(fgets(line, sizeof(line), f));
        }
        assert_null(fgets(line, sizeof(line), f));
        fclose(sink);
        assert_string_equal(now, frozen);
    }
    fclose(f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(frozen_tiles_still_hold)};

    if (argc > 1 && strcmp(argv[1], "--write") == 0) {
        write_file();
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
