/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_gemm [D]: the codec transform's integer matrix products on this core, for models of d =
 * 576, 896, 2048 and 4096 (two blocks of 2048), or one of them. First each ISA by rows a message,
 * beside the multiply-add rate of a loop that stays in registers and the rate at which B can be
 * read; then 64 rows beside one layer of a model of that d: its matrices (Q4_1), and all of the
 * layer with 512 keys a token. All take turns within a round and the fastest turn of each counts,
 * so that other load cancels out. GOP/s counts a multiply-add as two.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "codec/cpu.h"
#include "codec/gemm.h"
#include "compute/kernels/kernels.h"

#define ROUNDS     9
#define MAX_TOKENS 64u
#define KEYS       512u
#define QUANTUM    (32u << 20) /* multiply-adds a turn, about: milliseconds */

static double cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* others may share the core */
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static uint32_t random_bits(void)
{
    static uint64_t state = 1;

    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static void *alloc(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);

    if (!p)
        abort();
    memset(p, 0, bytes);
    return p;
}

/* --- what the core can do at all ---------------------------------------------------------------
 */

/* 12 independent sums of products of registers; multiply-adds a nanosecond. */
#define MADD_LOOPS 20000
#define DEFINE_MADD_RATE(name, vector_bytes, body)                                                 \
    static double name(void)                                                                       \
    {                                                                                              \
        double start = cpu_ns();                                                                   \
        for (int i = 0; i < MADD_LOOPS; i++)                                                       \
            __asm__ volatile(".irp r,0,1,2,3,4,5,6,7,8,9,10,11\n" body ".endr\n" ::                \
                                 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", \
                                   "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",    \
                                   "xmm15");                                                       \
        return (double)MADD_LOOPS * 12 * ((vector_bytes) / 2) / (cpu_ns() - start);                \
    }

#if defined(__x86_64__)
#define MADD_ADD(reg)                                                                              \
    "vpmaddwd %%" reg "12, %%" reg "13, %%" reg "15\n"                                             \
    "vpaddd %%" reg "15, %%" reg "\\r, %%" reg "\\r\n"
DEFINE_MADD_RATE(madd_rate_avx2, 32, MADD_ADD("ymm"))
DEFINE_MADD_RATE(madd_rate_avx512, 64, MADD_ADD("zmm"))
DEFINE_MADD_RATE(madd_rate_vnni, 64, "vpdpwssd %%zmm12, %%zmm13, %%zmm\\r\n")
#endif

static const struct {
    unsigned mask;
    double (*madd_rate)(void);
} isas[] = {
    {0, NULL},
#if defined(__x86_64__)
    {CPU_AVX2, madd_rate_avx2},
    {CPU_AVX2 | CPU_AVX512, madd_rate_avx512},
    {CPU_ALL, madd_rate_vnni},
#endif
};
#define N_ISAS (sizeof(isas) / sizeof(isas[0]))

/* Bytes a nanosecond. */
static double read_rate(const uint8_t *p, size_t bytes)
{
    const uint64_t *words = (const void *)p;
    uint64_t all[16] = {0}, any = 0;
    double start = cpu_ns();

    for (size_t i = 0; i + 16 <= bytes / 8; i += 16)
        for (size_t j = 0; j < 16; j++)
            all[j] |= words[i + j];
    for (size_t j = 0; j < 16; j++)
        any |= all[j];
    __asm__ volatile("" ::"r"(any));
    return (double)bytes / (cpu_ns() - start);
}

/* --- the product alone -------------------------------------------------------------------------
 */

/* The transform of a model: `blocks` square matrices side by side. */
struct transform {
    uint32_t d, blocks, cols;
    struct codec_panel *panels[2];
    int16_t *x;   /* [MAX_TOKENS][d] */
    int32_t *out; /* the same */
};

static void transform_init(struct transform *t, uint32_t d)
{
    *t = (struct transform){.d = d, .blocks = d > 2048 ? 2 : 1};
    t->cols = d / t->blocks;
    t->x = alloc((size_t)MAX_TOKENS * d * sizeof(*t->x));
    t->out = alloc((size_t)MAX_TOKENS * d * sizeof(*t->out));
    for (size_t i = 0; i < (size_t)MAX_TOKENS * d; i++)
        t->x[i] = (int16_t)(random_bits() % 701) - 350;
    for (uint32_t k = 0; k < t->blocks; k++) {
        int16_t *b = alloc((size_t)t->cols * t->cols * sizeof(*b));
        for (size_t i = 0; i < (size_t)t->cols * t->cols; i++)
            b[i] = (int16_t)(random_bits() % 701) - 350;
        if (codec_panel_pack(b, t->cols, t->cols, &t->panels[k]))
            abort();
        free(b);
    }
}

static void transform_free(struct transform *t)
{
    for (uint32_t k = 0; k < t->blocks; k++)
        codec_panel_free(t->panels[k]);
    free(t->x);
    free(t->out);
}

/* The nanoseconds of one. */
static double transform_run(const struct transform *t, const struct codec_dsp *dsp, uint32_t tokens)
{
    const uint64_t macs = (uint64_t)t->d * t->cols * tokens;
    const uint32_t loops = 1 + (uint32_t)(QUANTUM / macs);
    double start = cpu_ns();

    for (uint32_t i = 0; i < loops; i++)
        for (uint32_t k = 0; k < t->blocks; k++)
            codec_gemm(dsp, t->x + k * t->cols, t->d, tokens, t->panels[k], t->out + k * t->cols,
                       t->d);
    return (cpu_ns() - start) / loops;
}

static void bench_isas(const struct transform *t, uint32_t tokens)
{
    const double ops = 2.0 * t->d * t->cols * tokens, b_bytes = 2.0 * t->d * t->cols;
    double best[N_ISAS], madds[N_ISAS] = {0}, reads = 0;
    uint8_t *b = alloc((size_t)b_bytes);

    for (size_t i = 0; i < N_ISAS; i++)
        best[i] = INFINITY;
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < N_ISAS; i++) {
            struct codec_dsp dsp;
            if ((cpu_detect() & isas[i].mask) != isas[i].mask || (i == 0 && round > 2))
                continue;
            codec_dsp_init(&dsp, isas[i].mask);
            best[i] = fmin(best[i], transform_run(t, &dsp, tokens));
            if (isas[i].madd_rate)
                madds[i] = fmax(madds[i], isas[i].madd_rate());
        }
        for (int again = 0; again < 3; again++)
            reads = fmax(reads, read_rate(b, (size_t)b_bytes));
    }
    for (size_t i = 0; i < N_ISAS; i++) {
        if (isinf(best[i]))
            continue;
        printf("d %4u, %2u rows, %-6s  %7.1f GOP/s, C x %5.1f, %9.0f ns/token, B at %5.1f GB/s = "
               "%3.0f %% of plain reading",
               t->d, tokens, cpu_level_name(isas[i].mask), ops / best[i], best[0] / best[i],
               best[i] / tokens, b_bytes / best[i], 100 * b_bytes / best[i] / reads);
        if (madds[i] > 0)
            printf(", %3.0f %% of registers only (%.1f)", 50 * ops / best[i] / madds[i],
                   2 * madds[i]);
        printf("\n");
    }
    free(b);
}

/* --- beside a layer ----------------------------------------------------------------------------
 */

struct shape {
    const char *model;
    uint32_t d, heads, kv_heads, head_dims, ffn;
};

static const struct shape shapes[] = {
    {"SmolLM2-135M", 576, 9, 3, 64, 1536},
    {"Qwen2.5-0.5B", 896, 14, 2, 64, 4864},
    {"Llama-3.2-1B", 2048, 32, 8, 64, 8192},
    {"Llama-3-8B", 4096, 32, 8, 128, 14336},
};

enum { WQ, WK, WV, WO, GATE, UP, DOWN, N_MATS };

struct layer {
    const struct shape *s;
    struct mat *w[N_MATS];
    struct acts *acts;
    float *x, *y, *z; /* [MAX_TOKENS][widest] */
    float *state;
    uint8_t *keys, *values; /* tiles of a page, one of all heads */
};

static struct mat *some_matrix(uint32_t rows, uint32_t cols)
{
    const struct qtype_info *q = qtype_info(QTYPE_Q4_1);
    size_t bytes = (size_t)rows * cols / q->block_values * q->block_bytes;
    uint8_t *src = alloc(bytes);
    struct mat *m;

    for (size_t i = 0; i < bytes; i++)
        src[i] = random_bits() & 0x3f; /* scales stay finite */
    if (mat_from_blocks(QTYPE_Q4_1, src, rows, cols, &m))
        abort();
    free(src);
    return m;
}

static void layer_init(struct layer *l, const struct shape *s)
{
    const uint32_t q = s->heads * s->head_dims, kv = s->kv_heads * s->head_dims;
    const uint32_t rows[N_MATS] = {q, kv, kv, s->d, s->ffn, s->ffn, s->d};
    const size_t n = (size_t)MAX_TOKENS * s->ffn;

    *l = (struct layer){.s = s};
    for (int i = 0; i < N_MATS; i++)
        l->w[i] = some_matrix(rows[i], i == DOWN ? s->ffn : i == WO ? q : s->d);
    if (acts_alloc(MAX_TOKENS, s->ffn, ACTS_INT8, &l->acts))
        abort();
    l->x = alloc(n * sizeof(float));
    l->y = alloc(n * sizeof(float));
    l->z = alloc(n * sizeof(float));
    l->state = alloc(attend_state_floats(s->head_dims) * sizeof(float));
    l->keys = alloc(kv_key_bytes(KV_F16, s->head_dims));
    l->values = alloc(kv_value_bytes(KV_F16, s->head_dims));
    for (size_t i = 0; i < n; i++)
        l->x[i] = (float)(random_bits() % 1001) * 0.002f - 1.0f;
    kernels_get()->f32_to_f16((uint16_t *)(void *)l->keys, l->x, (size_t)KV_PAGE * s->head_dims);
    kernels_get()->f32_to_f16((uint16_t *)(void *)l->values, l->x, (size_t)KV_PAGE * s->head_dims);
}

static void layer_free(struct layer *l)
{
    for (int i = 0; i < N_MATS; i++)
        mat_free(l->w[i]);
    acts_free(l->acts);
    free(l->x);
    free(l->y);
    free(l->z);
    free(l->state);
    free(l->keys);
    free(l->values);
}

static void layer_set(struct layer *l, uint32_t cols)
{
    acts_set(l->acts, l->x, cols, MAX_TOKENS, cols, 0, 1);
}

static void layer_mul(struct layer *l, int w, float *y)
{
    mat_mul(&(struct product){l->w[w], NULL, y, mat_rows(l->w[w])}, 1, l->acts, 0, 0, 1);
}

/* The layer's matrices, each on inputs of its own; the nanoseconds. */
static double layer_matrices(struct layer *l)
{
    const struct shape *s = l->s;
    double start = cpu_ns();

    layer_set(l, s->d);
    layer_mul(l, WQ, l->y);
    layer_mul(l, WK, l->y);
    layer_mul(l, WV, l->y);
    layer_set(l, s->heads * s->head_dims);
    layer_mul(l, WO, l->y);
    layer_set(l, s->d);
    layer_mul(l, GATE, l->y);
    layer_mul(l, UP, l->z);
    layer_set(l, s->ffn);
    layer_mul(l, DOWN, l->y);
    return cpu_ns() - start;
}

/* What stands between them. */
static double layer_rest(struct layer *l)
{
    const struct kernels *k = kernels_get();
    const struct shape *s = l->s;
    const size_t hd = s->head_dims;
    double start = cpu_ns();

    for (size_t t = 0; t < MAX_TOKENS; t++) {
        k->rmsnorm(l->y + t * s->d, l->x + t * s->d, l->x, s->d, 1e-5f);
        k->rmsnorm(l->y + t * s->d, l->x + t * s->d, l->x, s->d, 1e-5f);
        for (size_t h = 0; h < s->heads; h++) {
            const float factor = 0.125f;
            const uint8_t visible = KV_PAGE;

            k->attend.begin(l->state, hd);
            for (size_t page = 0; page < KEYS / KV_PAGE; page++)
                k->attend.page(KV_F16, l->keys, l->values, hd, 1, l->x + (t * s->heads + h) * hd,
                               &factor, &visible, l->state, NULL);
            k->attend.finish(KV_F16, l->y, l->state, hd);
        }
        k->silu_mul(l->y, l->x, l->x, s->ffn);
    }
    return cpu_ns() - start;
}

static void bench_layer(const struct transform *t, const struct shape *s)
{
    double transform = INFINITY, matrices = INFINITY, rest = INFINITY, weights = 0;
    struct codec_dsp dsp;
    struct layer l;

    codec_dsp_init(&dsp, cpu_flags());
    layer_init(&l, s);
    for (int i = 0; i < N_MATS; i++)
        weights += (double)mat_rows(l.w[i]) * mat_cols(l.w[i]);
    for (int round = 0; round < ROUNDS; round++) {
        transform = fmin(transform, transform_run(t, &dsp, MAX_TOKENS));
        matrices = fmin(matrices, layer_matrices(&l));
        rest = fmin(rest, layer_rest(&l));
    }
    printf("d %4u, %2u rows: transform %.3f ms; a layer of %s (%.1f M weights): matrices %.2f ms "
           "(%.1f GOP/s), all %.2f ms; transform = %.1f %% of the matrices, %.1f %% of the layer\n",
           s->d, MAX_TOKENS, transform * 1e-6, s->model, weights * 1e-6, matrices * 1e-6,
           2 * weights * MAX_TOKENS / matrices, (matrices + rest) * 1e-6,
           100 * transform / matrices, 100 * transform / (matrices + rest));
    layer_free(&l);
}

int main(int argc, char **argv)
{
    static const uint32_t rows[] = {1, 2, 4, 16, 64};

    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        struct transform t;
        if (argc > 1 && strtoul(argv[1], NULL, 0) != shapes[i].d)
            continue;
        transform_init(&t, shapes[i].d);
        for (size_t r = 0; r < sizeof(rows) / sizeof(rows[0]); r++)
            bench_isas(&t, rows[r]);
        bench_layer(&t, &shapes[i]);
        transform_free(&t);
    }
    return 0;
}
