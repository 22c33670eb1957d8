/* SPDX-License-Identifier: Apache-2.0 */
#include "tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "codec/f16.h"
#include "compute/philox.h"
#include "compute/scheme.h"

struct writer {
    FILE *meta, *infos, *data;
    uint64_t n_keys, n_tensors, data_bytes, seed, drawn;
    const struct tiny_params *p;
};

static void put(FILE *f, const void *v, size_t n)
{
    if (fwrite(v, 1, n, f) != n)
        abort();
}

static void put_u32(FILE *f, uint32_t v)
{
    put(f, &v, 4);
}

static void put_u64(FILE *f, uint64_t v)
{
    put(f, &v, 8);
}

static void put_str(FILE *f, const char *s)
{
    put_u64(f, strlen(s));
    put(f, s, strlen(s));
}

static void key(struct writer *w, const char *name, uint32_t type)
{
    w->n_keys++;
    put_str(w->meta, name);
    put_u32(w->meta, type);
}

static const char *arch_key(struct writer *w, const char *name)
{
    static char full[128];

    snprintf(full, sizeof(full), "%s.%s", w->p->arch, name);
    return full;
}

static void key_u32(struct writer *w, const char *name, uint32_t v)
{
    if (w->p->key && !strcmp(name, w->p->key))
        return; /* written with its other value */
    key(w, arch_key(w, name), 4);
    put_u32(w->meta, v);
}

static void key_f32(struct writer *w, const char *name, float v)
{
    key(w, arch_key(w, name), 6);
    put(w->meta, &v, 4);
}

/* About normal, from four uniform numbers. */
static float random_value(struct writer *w)
{
    uint32_t c[4] = {(uint32_t)w->drawn++, 0, 0, 7};

    philox4x32_10(c, (uint32_t)w->seed, 0);
    double sum = 0;
    for (int i = 0; i < 4; i++)
        sum += c[i] * 0x1p-32 - .5;
    return (float)(sum * sqrt(3));
}

static void put_q8_0(FILE *f, const float *x, size_t n)
{
    for (size_t b = 0; b < n; b += 32) {
        const uint16_t d = 0x1c00 + (uint16_t)(b / 32 % 64); /* f16, about .004 */
        const float scale = 0x1p-8f * (1 + (float)(b / 32 % 64) / 1024);
        int8_t q[32];

        for (size_t i = 0; i < 32; i++)
            q[i] = (int8_t)fmaxf(-127, fminf(127, rintf(x[b + i] / scale)));
        put(f, &d, 2);
        put(f, q, 32);
    }
}

static void tensor(struct writer *w, const char *name, uint32_t cols, uint32_t rows,
                   enum qtype type, float mean, float deviation)
{
    if (w->p->missing && !strcmp(name, w->p->missing))
        return;
    if (w->p->misshapen && !strcmp(name, w->p->misshapen))
        cols += 32;

    size_t n = (size_t)cols * (rows ? rows : 1);
    float *x = malloc(n * sizeof(*x));
    for (size_t i = 0; i < n; i++)
        x[i] = mean + deviation * random_value(w);

    w->n_tensors++;
    put_str(w->infos, name);
    put_u32(w->infos, rows ? 2 : 1);
    put_u64(w->infos, cols);
    if (rows)
        put_u64(w->infos, rows);
    put_u32(w->infos, type);
    put_u64(w->infos, w->data_bytes);
    size_t bytes = type == QTYPE_F32 ? n * 4 : n / 32 * 34;
    if (type == QTYPE_F32)
        put(w->data, x, bytes);
    else
        put_q8_0(w->data, x, n);
    for (; bytes % 32; bytes++)
        fputc(0, w->data);
    w->data_bytes += bytes;
    free(x);
}

/* --- schemes --------------------------------------------------------------------------------- */

static void raw_tensor(struct writer *w, const char *name, const char *suffix, enum qtype type,
                       uint32_t ne0, uint32_t ne1, const void *data)
{
    char full[96];
    size_t bytes = (size_t)ne0 * (ne1 ? ne1 : 1) * qtype_info(type)->block_bytes;

    snprintf(full, sizeof full, "%s%s", name, suffix);
    w->n_tensors++;
    put_str(w->infos, full);
    put_u32(w->infos, ne1 ? 2 : 1);
    put_u64(w->infos, ne0);
    if (ne1)
        put_u64(w->infos, ne1);
    put_u32(w->infos, type);
    put_u64(w->infos, w->data_bytes);
    put(w->data, data, bytes);
    for (; bytes % 32; bytes++)
        fputc(0, w->data);
    w->data_bytes += bytes;
}

/* Random codes about zero, and an entry in every third row. */
static void scheme_tensor(struct writer *w, const char *name, uint32_t cols, uint32_t rows)
{
    static uint8_t codes[1 << 16];
    static uint16_t levels[1 << 14], mins[1 << 14], sp_cols[1 << 10], sp_values[1 << 10];
    static uint32_t starts[1 << 10];
    struct scheme s;
    char full[96];

    if (scheme_parse(w->p->scheme, strlen(w->p->scheme), &s))
        abort();
    const uint32_t n = s.kind == SCHEME_SQ ? 1u << s.bits
                                           : (cols + s.group_cols - 1) / s.group_cols;
    for (uint32_t i = 0; i < rows * cols / 8 * s.bits; i++)
        codes[i] = (uint8_t)(int)(random_value(w) * 1000);
    for (uint32_t i = 0; i < rows * n; i++) {
        const float mid = (float)((1 << s.bits) - 1) / 2, step = .2f / mid;

        levels[i] = s.kind == SCHEME_SQ ? f16_from_f32(((float)(i % n) - mid) * step)
                                        : f16_from_f32(step);
        mins[i] = f16_from_f32(-mid * step);
    }
    for (uint32_t r = 0; r < rows; r++) {
        starts[r + 1] = starts[r] + (r % 3 == 0);
        sp_cols[starts[r]] = (uint16_t)(r * 5 % cols);
        sp_values[starts[r]] = f16_from_f32(random_value(w));
    }
    snprintf(full, sizeof full, "isthmus.scheme.%s", name);
    key(w, full, 8);
    put_str(w->meta, w->p->scheme);
    raw_tensor(w, name, ".codes", QTYPE_I8, cols / 8 * s.bits, rows, codes);
    raw_tensor(w, name, s.kind == SCHEME_SQ ? ".lut" : ".scale", QTYPE_F16, n, rows, levels);
    if (s.kind == SCHEME_G)
        raw_tensor(w, name, ".min", QTYPE_F16, n, rows, mins);
    raw_tensor(w, name, ".sp_rows", QTYPE_I32, rows + 1, 0, starts);
    raw_tensor(w, name, ".sp_cols", QTYPE_I16, starts[rows], 0, sp_cols);
    raw_tensor(w, name, ".sp_values", QTYPE_F16, starts[rows], 0, sp_values);
}

static bool in_half(const struct writer *w, uint32_t layer)
{
    return !w->p->half || (layer < w->p->split) == !strcmp(w->p->half, "edge");
}

static void layer(struct writer *w, uint32_t l)
{
    const uint32_t head_dim = w->p->head_dim ? w->p->head_dim : TINY_HEAD_DIM;
    const uint32_t q = TINY_HEADS * head_dim, kv = TINY_KV_HEADS * head_dim;
    const enum qtype type = l % 2 ? QTYPE_F32 : QTYPE_Q8_0;
    const struct {
        const char *name;
        uint32_t cols, rows;
    } mats[] = {
        {"attn_q.weight", TINY_D, q},         {"attn_k.weight", TINY_D, kv},
        {"attn_v.weight", TINY_D, kv},        {"attn_output.weight", q, TINY_D},
        {"ffn_gate.weight", TINY_D, TINY_FF}, {"ffn_up.weight", TINY_D, TINY_FF},
        {"ffn_down.weight", TINY_FF, TINY_D},
    };
    const struct {
        const char *name;
        uint32_t n;
    } biases[] = {{"attn_q.bias", q}, {"attn_k.bias", kv}, {"attn_v.bias", kv}};
    char name[64];

    for (size_t i = 0; i < 7; i++) {
        snprintf(name, sizeof(name), "blk.%u.%s", l, mats[i].name);
        if (w->p->scheme)
            scheme_tensor(w, name, mats[i].cols, mats[i].rows);
        else
            tensor(w, name, mats[i].cols, mats[i].rows, type, 0, 1 / sqrtf((float)mats[i].cols));
    }
    for (size_t i = 0; i < 3 && !strcmp(w->p->arch, "qwen2"); i++) {
        snprintf(name, sizeof(name), "blk.%u.%s", l, biases[i].name);
        tensor(w, name, biases[i].n, 0, QTYPE_F32, 0, .5f);
    }
    snprintf(name, sizeof(name), "blk.%u.attn_norm.weight", l);
    tensor(w, name, TINY_D, 0, QTYPE_F32, 1, .2f);
    snprintf(name, sizeof(name), "blk.%u.ffn_norm.weight", l);
    tensor(w, name, TINY_D, 0, QTYPE_F32, 1, .2f);
}

static void metadata(struct writer *w)
{
    const struct tiny_params *p = w->p;

    key(w, "general.architecture", 8);
    put_str(w->meta, p->arch);
    key_u32(w, "block_count", TINY_LAYERS);
    key_u32(w, "context_length", p->n_ctx ? p->n_ctx : TINY_CTX);
    key_u32(w, "embedding_length", TINY_D);
    key_u32(w, "feed_forward_length", TINY_FF);
    key_u32(w, "attention.head_count", TINY_HEADS);
    key_u32(w, "attention.head_count_kv", TINY_KV_HEADS);
    key_f32(w, "attention.layer_norm_rms_epsilon", TINY_EPS);
    key_f32(w, "rope.freq_base", TINY_BASE);
    if (p->head_dim) {
        key_u32(w, "attention.key_length", p->head_dim);
        key_u32(w, "attention.value_length", p->head_dim);
    }
    if (p->key) {
        key(w, arch_key(w, p->key), 4);
        put_u32(w->meta, p->value);
    }
    if (p->string_key) {
        key(w, arch_key(w, p->string_key), 8);
        put_str(w->meta, p->string_value);
    }
    if (p->n_tokens) {
        key(w, "tokenizer.ggml.tokens", 9);
        put_u32(w->meta, 8);
        put_u64(w->meta, p->n_tokens);
    }
    for (uint32_t i = 0; i < p->n_tokens; i++)
        put_str(w->meta, "");
    if (!p->half)
        return;
    static const char *const numbers[] = {"isthmus.version", "isthmus.split", "isthmus.layers"};
    for (size_t i = 0; i < 3; i++) {
        key(w, numbers[i], 4);
        put_u32(w->meta, i == 0 ? 1 : i == 1 ? p->split : TINY_LAYERS);
    }
    static const char *const texts[] = {"isthmus.stage", "isthmus.parent", "isthmus.pair"};
    for (size_t i = 0; i < 3; i++) {
        key(w, texts[i], 8);
        put_str(w->meta, i == 0 ? p->half : i == 1 ? TINY_PARENT : TINY_PAIR);
    }
}

static void tensors(struct writer *w)
{
    const bool has_head = !w->p->half || !strcmp(w->p->half, "cloud");
    const uint64_t drawn = w->drawn;

    /* What a tensor holds does not hang on those that the other half has. */
    w->drawn = drawn + (1u << 20);
    if (!has_head || !w->p->half || w->p->tied)
        tensor(w, "token_embd.weight", TINY_D, TINY_VOCAB, QTYPE_Q8_0, 0, .3f);
    for (uint32_t l = 0; l < TINY_LAYERS; l++) {
        w->drawn = drawn + (2 + l) * (1u << 20);
        if (in_half(w, l))
            layer(w, l);
    }
    w->drawn = drawn;
    if (has_head)
        tensor(w, "output_norm.weight", TINY_D, 0, QTYPE_F32, 1, .2f);
    if (has_head && !w->p->tied)
        tensor(w, "output.weight", TINY_D, TINY_VOCAB, QTYPE_Q8_0, 0, .2f);
    if (w->p->rope_factors)
        tensor(w, "rope_freqs.weight", TINY_HEAD_DIM / 2, 0, QTYPE_F32, 2, .5f);
    if (w->p->extra)
        tensor(w, w->p->extra, TINY_D, 0, QTYPE_F32, 1, 0);
}

char *tiny_write(const struct tiny_params *p)
{
    char *meta, *infos, *data, *path = strdup("/tmp/isthmus-tiny-XXXXXX");
    size_t n_meta, n_infos, n_data;
    struct writer w = {
        .meta = open_memstream(&meta, &n_meta),
        .infos = open_memstream(&infos, &n_infos),
        .data = open_memstream(&data, &n_data),
        .seed = p->seed,
        .p = p,
    };

    metadata(&w);
    tensors(&w);
    fclose(w.meta);
    fclose(w.infos);
    fclose(w.data);

    FILE *f = fdopen(mkstemp(path), "wb");
    put(f, "GGUF", 4);
    put_u32(f, 3);
    put_u64(f, w.n_tensors);
    put_u64(f, w.n_keys);
    put(f, meta, n_meta);
    put(f, infos, n_infos);
    while (ftell(f) % 32)
        fputc(0, f);
    put(f, data, n_data);
    fclose(f);
    free(meta);
    free(infos);
    free(data);
    return path;
}

float *tiny_tensor(const struct gguf *g, const char *name)
{
    const struct gguf_tensor *t = gguf_find(g, name);
    char err[GGUF_ERR];

    if (!t)
        return NULL;
    size_t n = (size_t)(t->ne[0] * t->ne[1]);
    float *x = malloc(n * sizeof(*x));
    void *raw = malloc(t->bytes);
    if (gguf_read(g, t, 0, raw, t->bytes, err))
        abort();
    qtype_dequantize(t->type, raw, x, n);
    free(raw);
    return x;
}
