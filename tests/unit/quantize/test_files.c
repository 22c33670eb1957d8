/* SPDX-License-Identifier: Apache-2.0 */
/* What is written: read back by the reader, whole or not at all. */
#include "../calibrate/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../model/gguf_build.h"
#include "../stage/tiny_model.h"
#include "codec/f16.h"
#include "compute/gguf_write.h"
#include "control/calibration_text.h"
#include "control/cmd.h"
#include "control/profile.h"
#include "control/quantize/job.h"

enum { WINDOWS = 8, WINDOW = 32 };

static char folder[64], err[GGUF_ERR];

static int set_up(void **state)
{
    snprintf(folder, sizeof(folder), "/tmp/isthmus-quantize-XXXXXX");
    return mkdtemp(folder) ? chdir(folder) : -1;
}

static unsigned files(void)
{
    DIR *d = opendir(".");
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static int tear_down(void **state)
{
    unlink("edge.gguf");
    unlink("cloud.gguf");
    unlink("model.gguf");
    unlink("one.gguf");
    unlink("profile");
    return chdir("/") || rmdir(folder);
}

/* --- the writer ------------------------------------------------------------------------------ */

static bool skip_b(const char *key, size_t len)
{
    return len == 1 && *key == 'b';
}

static void test_writer(void **state)
{
    const uint64_t ne[2] = {3, 2}, one = 5;
    const float values[6] = {1, 2, 3, 4, 5, 6};
    struct build parent = {0};
    struct gguf *g;
    uint32_t v;

    put_header(&parent, 0, 5);
    put_kv_u32(&parent, "general.alignment", 64);
    put_array(&parent, "names", 8, 3);
    put_str(&parent, "");
    put_str(&parent, "two");
    put_str(&parent, "isthmus.pair"); /* no key */
    put_kv_u32(&parent, "b", 7);
    put_kv_bool(&parent, "a", 1);
    put_array(&parent, "numbers", 4, 2);
    put_u32(&parent, 8);
    put_u32(&parent, 9);
    assert_int_equal(gguf_open_mem(parent.bytes, parent.n, "parent", &g, err), 0);

    struct gguf_writer *w = gguf_write_new();
    assert_non_null(w);
    gguf_write_copy(w, g, skip_b);
    gguf_close(g);
    free(parent.bytes);
    gguf_write_u32(w, "c", 11);
    gguf_write_str(w, "isthmus.pair", "????");
    gguf_write_tensor(w, "m", QTYPE_F32, 2, ne, sizeof(values));
    gguf_write_tensor(w, "bytes", QTYPE_I8, 1, &one, 5);
    const int fd = open("one.gguf", O_CREAT | O_RDWR | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(gguf_write_begin(w, fd), 0);
    assert_int_equal(gguf_write_end(w), -EINVAL); /* no data yet */
    assert_int_equal(gguf_write_data(w, values, 4), 0);
    assert_int_equal(gguf_write_data(w, values + 1, sizeof(values) - 4), 0);
    assert_int_equal(gguf_write_data(w, "abcdef", 6), -EINVAL); /* past its end */
    assert_int_equal(gguf_write_data(w, "abcde", 5), 0);
    assert_int_equal(gguf_write_data(w, "f", 1), -EINVAL);
    assert_int_equal(gguf_write_replace_str(w, "isthmus.pair", "too long"), -EINVAL);
    assert_int_equal(gguf_write_replace_str(w, "none", "1234"), -ENOENT);
    assert_int_equal(gguf_write_replace_str(w, "isthmus.pair", "1234"), 0);
    assert_int_equal(gguf_write_end(w), 0);
    assert_int_equal(lseek(fd, 0, SEEK_END), gguf_write_bytes(w));
    close(fd);
    gguf_write_free(w);

    if (gguf_open("one.gguf", &g, err))
        fail_msg("%s", err);
    assert_int_equal(gguf_u32(g, "general.alignment", &v), 0);
    assert_int_equal(v, 64);
    assert_int_equal(gguf_u32(g, "b", &v), -ENOENT);
    assert_int_equal(gguf_u32(g, "c", &v), 0);
    assert_int_equal(v, 11);
    struct gguf_str_iter it;
    struct gguf_str s;
    uint64_t n;
    assert_int_equal(gguf_str_array(g, "names", &it, &n), 0);
    assert_int_equal(n, 3);
    assert_int_equal(gguf_str(g, "isthmus.pair", &s), 0);
    assert_memory_equal(s.ptr, "1234", 4);
    const struct gguf_tensor *t = gguf_find(g, "m");
    float got[6];
    assert_non_null(t);
    assert_int_equal(t->offset % 64, 0);
    assert_int_equal(gguf_read(g, t, 0, got, sizeof(got), err), 0);
    assert_memory_equal(got, values, sizeof(values));
    t = gguf_find(g, "bytes");
    assert_int_equal(t->offset % 64, 0);
    char text[5];
    assert_int_equal(gguf_read(g, t, 0, text, 5, err), 0);
    assert_memory_equal(text, "abcde", 5);
    gguf_close(g);
}

/* --- the pair -------------------------------------------------------------------------------- */

struct written {
    char *path;
    struct model m;
    struct quantize_job j;
    struct quantize_result r;
};

static int write_pair(struct written *x, const char *front, const char *back, bool as_f16,
                      struct team *team)
{
    const struct tiny_params p = {.arch = "llama", .seed = 3, .rope_factors = true, .tied = true};

    *x = (struct written){.path = tiny_write(&p)};
    assert_non_null(x->path);
    x->m = (struct model){.path = x->path, .n_layers = TINY_LAYERS};
    if (gguf_open(x->path, &x->m.gguf, err))
        fail_msg("%s", err);
    x->j = (struct quantize_job){.split = 1, .out = ".", .as_f16 = as_f16};
    assert_int_equal(quantize_scheme_parse(front, &x->j.scheme[QUANTIZE_FRONT]), 0);
    assert_int_equal(quantize_scheme_parse(back, &x->j.scheme[QUANTIZE_BACK]), 0);
    x->j.scheme[QUANTIZE_BACK].group = 64; /* of 96 columns: a short one follows */
    x->j.overrides[x->j.n_overrides++] =
        (struct quantize_override){.pattern = "blk.2.ffn_*", .scheme.kind = QUANTIZE_KEEP};
    assert_int_equal(gguf_fingerprint(x->m.gguf, x->j.parent), 0);
    profile_hex(x->j.parent, x->j.parent_hex);
    x->j.n_layers = TINY_LAYERS;
    x->j.n_windows = WINDOWS;
    x->j.window = WINDOW;
    x->j.ids = malloc(WINDOWS * WINDOW * sizeof(*x->j.ids));
    for (unsigned i = 0; i < WINDOWS * WINDOW; i++)
        x->j.ids[i] = (int32_t)(i * 37 % TINY_VOCAB);
    return quantize_job_run(&x->j, &x->m, team, &x->r);
}

static void close_pair(struct written *x)
{
    quantize_result_free(&x->r);
    quantize_job_free(&x->j);
    gguf_close(x->m.gguf);
    unlink(x->path);
    free(x->path);
}

static struct gguf *open_stage(const char *name, const struct written *x)
{
    struct gguf *g;
    struct gguf_str s;
    uint32_t v;

    if (gguf_open(name, &g, err))
        fail_msg("%s", err);
    assert_int_equal(gguf_u32(g, "isthmus.version", &v), 0);
    assert_int_equal(v, 1);
    assert_int_equal(gguf_u32(g, "isthmus.split", &v), 0);
    assert_int_equal(v, 1);
    assert_int_equal(gguf_u32(g, "isthmus.layers", &v), 0);
    assert_int_equal(v, TINY_LAYERS);
    assert_int_equal(gguf_str(g, "isthmus.parent", &s), 0);
    assert_memory_equal(s.ptr, x->j.parent_hex, 32);
    assert_int_equal(gguf_str(g, "isthmus.pair", &s), 0);
    assert_memory_equal(s.ptr, x->j.pair_hex, 32);
    assert_int_equal(gguf_u32(g, "llama.block_count", &v), 0);
    assert_int_equal(v, TINY_LAYERS);
    return g;
}

static void *read_part(const struct gguf *g, const char *name, const char *suffix, uint64_t *bytes)
{
    char full[128];

    snprintf(full, sizeof(full), "%s%s", name, suffix);
    const struct gguf_tensor *t = gguf_find(g, full);
    if (!t)
        return NULL;
    void *part = malloc(t->bytes);
    assert_non_null(part);
    assert_int_equal(gguf_read(g, t, 0, part, t->bytes, err), 0);
    if (bytes)
        *bytes = t->bytes;
    return part;
}

/* What the stored parts of a weight mean, by the words of docs/quantize.md. */
static float *read_weight(const struct gguf *g, const char *name, const char *scheme, uint32_t rows,
                          uint32_t cols)
{
    const unsigned bits = (unsigned)(strchr("234", scheme[scheme[0] == 's' ? 2 : 1])[0] - '0');
    const uint32_t group = scheme[0] == 'g' ? (uint32_t)atoi(scheme + 3) : 0;
    const uint32_t groups = group ? (cols + group - 1) / group : 0;
    char key[128];
    struct gguf_str s;
    uint64_t bytes, table_bytes, n_sparse = 0;

    snprintf(key, sizeof(key), "isthmus.scheme.%s", name);
    assert_int_equal(gguf_str(g, key, &s), 0);
    assert_int_equal(s.len, strlen(scheme));
    assert_memory_equal(s.ptr, scheme, s.len);
    assert_null(gguf_find(g, name));
    uint8_t *codes = read_part(g, name, ".codes", &bytes);
    uint16_t *lut = read_part(g, name, group ? ".scale" : ".lut", &table_bytes);
    uint16_t *min = read_part(g, name, ".min", NULL);
    uint32_t *sp_rows = read_part(g, name, ".sp_rows", NULL);
    uint16_t *sp_cols = read_part(g, name, ".sp_cols", NULL);
    uint16_t *sp_values = read_part(g, name, ".sp_values", &n_sparse);
    assert_true(codes && lut && !min == !group && !sp_rows == !sp_cols && !sp_rows == !sp_values);
    assert_int_equal(bytes, (uint64_t)rows * cols * bits / 8);
    assert_int_equal(table_bytes, (group ? (uint64_t)rows * groups : (uint64_t)rows << bits) * 2);

    float *values = malloc((size_t)rows * cols * sizeof(*values));
    assert_non_null(values);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < cols; i++) {
            const uint8_t *b = codes + (r * cols + i / 32 * 32) * bits / 8;
            const size_t at = i % 32;
            unsigned c = bits == 4 ? b[at % 16] >> at / 16 * 4 & 15 : b[at % 8] >> at / 8 * 2 & 3;
            if (bits == 3)
                c |= (b[8 + at / 8] >> at % 8 & 1u) << 2;
            values[r * cols + i] = group ? f32_from_f16(lut[r * groups + i / group]) * (float)c +
                                               f32_from_f16(min[r * groups + i / group])
                                         : f32_from_f16(lut[(r << bits) + c]);
        }
    if (sp_rows)
        assert_int_equal(sp_rows[rows] * 2, n_sparse);
    for (size_t r = 0; sp_rows && r < rows; r++)
        for (uint32_t i = sp_rows[r]; i < sp_rows[r + 1]; i++) {
            assert_true(sp_cols[i] < cols && (i == sp_rows[r] || sp_cols[i] > sp_cols[i - 1]));
            values[r * cols + sp_cols[i]] += f32_from_f16(sp_values[i]);
        }
    free(codes);
    free(lut);
    free(min);
    free(sp_rows);
    free(sp_cols);
    free(sp_values);
    return values;
}

/* Near the weights that they stand for: gaussians at so many bits. */
static void assert_near(const struct gguf *parent, const char *name, const float *values,
                        double most)
{
    const struct gguf_tensor *t = gguf_find(parent, name);
    float *want = tiny_tensor(parent, name);
    double d = 0, all = 0;

    for (size_t i = 0; i < t->ne[0] * t->ne[1]; i++) {
        d += pow((double)values[i] - (double)want[i], 2);
        all += pow((double)want[i], 2);
    }
    if (!(d < most * most * all))
        fail_msg("%s: relative distance %g", name, sqrt(d / all));
    free(want);
}

static void assert_same(const struct gguf *a, const struct gguf *b, const char *name)
{
    const struct gguf_tensor *x = gguf_find(a, name), *y = gguf_find(b, name);

    assert_non_null(x);
    assert_non_null(y);
    assert_int_equal(x->type, y->type);
    assert_int_equal(x->bytes, y->bytes);
    uint8_t *p = malloc(x->bytes), *q = malloc(x->bytes);
    assert_int_equal(gguf_read(a, x, 0, p, x->bytes, err), 0);
    assert_int_equal(gguf_read(b, y, 0, q, y->bytes, err), 0);
    assert_memory_equal(p, q, x->bytes);
    free(p);
    free(q);
}

static float *read_like(const struct gguf *parent, const struct gguf *g, const char *name,
                        const char *scheme)
{
    const struct gguf_tensor *t = gguf_find(parent, name);

    assert_non_null(t);
    return read_weight(g, name, scheme, (uint32_t)t->ne[1], (uint32_t)t->ne[0]);
}

static void test_pair(void **state)
{
    struct written x;

    assert_int_equal(write_pair(&x, "sq3", "g4", false, teams[0]), EXIT_OK);
    assert_int_equal(files(), 2 + 1); /* and one.gguf */
    struct gguf *edge = open_stage("edge.gguf", &x), *cloud = open_stage("cloud.gguf", &x);
    const struct gguf *parent = x.m.gguf;

    assert_same(parent, edge, "token_embd.weight");
    assert_same(parent, cloud, "token_embd.weight"); /* tied: the head */
    assert_same(parent, edge, "rope_freqs.weight");
    assert_same(parent, cloud, "rope_freqs.weight");
    assert_same(parent, cloud, "output_norm.weight");
    assert_same(parent, cloud, "blk.2.ffn_down.weight"); /* the override */
    assert_same(parent, edge, "blk.0.ffn_norm.weight");
    assert_same(parent, edge, "output_norm.weight"); /* for --head edge */
    assert_null(gguf_find(edge, "blk.1.ffn_norm.weight"));
    assert_null(gguf_find(cloud, "blk.0.ffn_norm.weight"));
    for (unsigned m = 0; m < QUANTIZE_MATRICES; m++) {
        char name[64];

        snprintf(name, sizeof(name), "blk.0.%s", quantize_matrix_name(m));
        float *values = read_like(parent, edge, name, "sq3");
        assert_near(parent, name, values, .4);
        free(values);
        snprintf(name, sizeof(name), "blk.1.%s", quantize_matrix_name(m));
        values = read_like(parent, cloud, name, "g4:64");
        assert_near(parent, name, values, .25);
        free(values);
    }
    gguf_close(edge);
    gguf_close(cloud);

    /* The same pair from any team; another from another scheme. */
    struct written y;
    assert_int_equal(write_pair(&y, "sq3", "g4", false, teams[1]), EXIT_OK);
    assert_string_equal(x.j.pair_hex, y.j.pair_hex);
    close_pair(&y);
    assert_int_equal(write_pair(&y, "sq2", "g4", false, teams[1]), EXIT_OK);
    assert_string_not_equal(x.j.pair_hex, y.j.pair_hex);
    close_pair(&y);
    close_pair(&x);
}

/* Plain F16 has the values of the codes. */
static void test_as_f16(void **state)
{
    struct written x, y;
    struct gguf *edge, *whole;

    assert_int_equal(write_pair(&x, "sq4", "Q8_0", false, teams[0]), EXIT_OK);
    assert_int_equal(write_pair(&y, "sq4", "Q8_0", true, teams[0]), EXIT_OK);
    edge = open_stage("edge.gguf", &x);
    if (gguf_open("model.gguf", &whole, err))
        fail_msg("%s", err);
    for (uint32_t i = 0; i < gguf_n_tensors(x.m.gguf); i++)
        assert_non_null(gguf_find(whole, gguf_tensor_at(x.m.gguf, i)->name));
    float *codes = read_like(x.m.gguf, edge, "blk.0.ffn_up.weight", "sq4"),
          *plain = tiny_tensor(whole, "blk.0.ffn_up.weight");
    for (size_t i = 0; i < TINY_D * TINY_FF; i++)
        assert_true(fabsf(codes[i] - plain[i]) <= fabsf(codes[i]) * 0x1p-10f);
    free(codes);
    free(plain);
    gguf_close(edge);
    gguf_close(whole);
    close_pair(&x);
    close_pair(&y);
}

/* Neither the new files nor halves of them, and the old ones are still there. */
static void test_no_room(void **state)
{
    const struct rlimit little = {.rlim_cur = 20000, .rlim_max = RLIM_INFINITY};
    struct rlimit was;
    struct written x;
    struct gguf *g;

    assert_int_equal(write_pair(&x, "sq3", "g4", false, teams[0]), EXIT_OK);
    char pair[33];
    memcpy(pair, x.j.pair_hex, sizeof(pair));
    close_pair(&x);
    const unsigned before = files();
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    const struct tiny_params p = {.arch = "llama", .seed = 3};
    char *path = tiny_write(&p); /* is larger itself */
    assert_non_null(path);
    struct model m = {.path = path, .n_layers = TINY_LAYERS};
    assert_int_equal(gguf_open(path, &m.gguf, err), 0);
    struct quantize_job j = {.split = 1, .out = ".", .n_layers = TINY_LAYERS};
    j.scheme[QUANTIZE_FRONT] = j.scheme[QUANTIZE_BACK] =
        (struct quantize_scheme){.kind = QUANTIZE_BLOCKS, .type = QTYPE_Q8_0};
    struct quantize_result r;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
    const int rc = quantize_job_run(&j, &m, teams[0], &r);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    assert_int_equal(rc, EXIT_FAILED);
    quantize_result_free(&r);
    gguf_close(m.gguf);
    unlink(path);
    free(path);
    assert_int_equal(files(), before);

    struct gguf_str s;
    assert_int_equal(gguf_open("edge.gguf", &g, err), 0);
    assert_int_equal(gguf_str(g, "isthmus.pair", &s), 0);
    assert_memory_equal(s.ptr, pair, 32);
    gguf_close(g);
}

/* --- what is refused ------------------------------------------------------------------------- */

static int prepare(const struct tiny_params *p, const char *front, float sparse)
{
    char *path = tiny_write(p);
    struct model m = {.path = path, .n_layers = TINY_LAYERS};
    struct quantize_job j = {.split = 1, .out = "made"};

    assert_non_null(path);
    if (gguf_open(path, &m.gguf, err))
        fail_msg("%s", err);
    assert_int_equal(quantize_scheme_parse(front, &j.scheme[QUANTIZE_FRONT]), 0);
    j.scheme[QUANTIZE_FRONT].sparse = sparse;
    const int rc = quantize_job_prepare(&j, &m);
    quantize_job_free(&j);
    gguf_close(m.gguf);
    unlink(path);
    free(path);
    return rc;
}

/* A model that is not one: said before a folder is made. */
static void test_bad_models(void **state)
{
    const struct tiny_params bad[] = {
        {.arch = "llama", .missing = "blk.0.attn_q.weight"},
        {.arch = "llama", .missing = "blk.2.ffn_down.weight"},
        {.arch = "llama", .misshapen = "blk.1.attn_q.weight"},
        {.arch = "llama", .extra = "blk.7.attn_q.weight"},
        {.arch = "llama", .extra = "blk.00.attn_norm.weight"},
        {.arch = "llama", .scheme = "sq3"},
    };
    const struct tiny_params good = {.arch = "llama"};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        print_message("%zu\n", i);
        assert_int_equal(prepare(&bad[i], "Q8_0", 0), EXIT_USAGE);
        assert_int_equal(access("made", F_OK), -1);
    }
    assert_int_equal(prepare(&good, "Q8_0", 0), EXIT_OK);
    assert_int_equal(rmdir("made"), 0);
}

static void test_columns(void **state)
{
    static const struct {
        const char *scheme;
        float sparse;
        uint32_t n_cols;
        bool can;
    } of[] = {
        {"keep", 0, 33, true},     {"Q8_0", 0, 32, true},      {"Q8_0", 0, 48, false},
        {"Q6_K", 0, 576, false},   {"Q6_K", 0, 512, true},     {"Q4_0", 0, 65568, true},
        {"sq3", .5f, 65536, true}, {"sq3", .5f, 65568, false}, {"sq3", 0, 65568, true},
        {"g3", 1.f, 65568, false}, {"g3", 0, 0, false},        {"g3", 0, 33, false},
    };
    struct quantize_scheme s;

    for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
        assert_int_equal(quantize_scheme_parse(of[i].scheme, &s), 0);
        s.sparse = of[i].sparse;
        assert_int_equal(!quantize_scheme_refuses(&s, of[i].n_cols), of[i].can);
    }
}

/* --- the calibration's text ------------------------------------------------------------------ */

static void test_text(void **state)
{
    const uint8_t fingerprint[16] = {1, 2, 3}, other[16] = {9};
    const int32_t ids[6] = {0, 5, INT32_MAX, 7, 8, 9};
    struct calibration_text t;
    uint8_t all[200] = "the profile";
    size_t len;

    uint8_t *text = calibration_text_make(ids, 6, 3, fingerprint, &len);
    assert_non_null(text);
    assert_int_equal(calibration_text_find(all, 11, &t), -ENOENT);
    assert_int_equal(calibration_text_find(all, 100, &t), -ENOENT);
    memcpy(all + 11, text, len);
    free(text);
    assert_int_equal(calibration_text_find(all, 11 + len, &t), 0);
    assert_int_equal(t.at, 11);
    assert_int_equal(t.n, 6);
    assert_int_equal(t.window, 3);
    assert_memory_equal(t.ids, ids, sizeof(ids));
    for (size_t i = 11; i < 11 + len; i++) {
        all[i] ^= 1;
        assert_true(calibration_text_find(all, 11 + len, &t) < 0);
        all[i] ^= 1;
    }
    assert_int_equal(calibration_text_find(all + 12, len - 1, &t), -EBADMSG);

    FILE *f = fopen("profile", "w");
    assert_non_null(f);
    assert_int_equal(fwrite(all, 1, 11 + len, f), 11 + len);
    fclose(f);
    int32_t *got;
    uint32_t n, window;
    assert_int_equal(profile_read_text("profile", fingerprint, &got, &n, &window), EXIT_OK);
    assert_int_equal(n, 2);
    assert_int_equal(window, 3);
    assert_memory_equal(got, ids, sizeof(ids));
    free(got);
    assert_int_equal(profile_read_text("profile", other, &got, &n, &window), EXIT_USAGE);
    assert_int_equal(profile_read_text("none", other, &got, &n, &window), EXIT_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_writer),     cmocka_unit_test(test_pair),
        cmocka_unit_test(test_as_f16),     cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_bad_models), cmocka_unit_test(test_columns),
        cmocka_unit_test(test_text),
    };

    return open_teams() ? 1 : cmocka_run_group_tests(tests, set_up, tear_down);
}
