/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a model file: refused, or every answer about it lies inside it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "compute/gguf.h"
#include "compute/scheme.h"
#include "compute/stage_file.h"
#include "compute/tokenizer.h"

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void read_metadata(const struct gguf *g)
{
    static const char *const keys[] = {"general.alignment", "a", "tokenizer.ggml.tokens", ""};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        struct gguf_str_iter it;
        struct gguf_str s;
        const void *array;
        uint64_t n, walked = 0;
        uint32_t u;
        float f;
        bool b;
        unsigned char sum = 0;
        gguf_u32(g, keys[i], &u);
        gguf_f32(g, keys[i], &f);
        gguf_bool(g, keys[i], &b);
        if (gguf_str(g, keys[i], &s) == 0 && s.len)
            sum ^= (unsigned char)s.ptr[s.len - 1];
        if (gguf_i32_array(g, keys[i], &array, &n) == 0 && n)
            sum ^= ((const unsigned char *)array)[n * 4 - 1];
        if (gguf_f32_array(g, keys[i], &array, &n) == 0 && n)
            sum ^= ((const unsigned char *)array)[n * 4 - 1];
        if (gguf_str_array(g, keys[i], &it, &n) == 0) {
            for (; gguf_str_next(&it, &s); walked++)
                if (s.len)
                    sum ^= (unsigned char)s.ptr[s.len - 1];
            check(walked == n);
        }
        *(volatile unsigned char *)&sum = sum; /* the reads are what is tested */
    }
}

static void read_tensors(const struct gguf *g, size_t size)
{
    char err[GGUF_ERR];
    unsigned char byte;
    for (uint32_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        check(gguf_find(g, t->name) == t);
        check(t->offset <= size && t->bytes <= size - t->offset && t->bytes > 0);
        check(gguf_read(g, t, t->bytes - 1, &byte, 1, err) == 0);
        check(gguf_read(g, t, t->bytes, &byte, 1, err) != 0);
        const struct qtype_info *q = qtype_info(t->type);
        if (t->bytes <= 1u << 16) {
            void *blocks = malloc(t->bytes);
            size_t n = t->bytes / q->block_bytes * q->block_values;
            float *values = malloc(n * sizeof *values);
            check(blocks && values && gguf_read(g, t, 0, blocks, t->bytes, err) == 0);
            qtype_dequantize(t->type, blocks, values, n);
            free(blocks);
            free(values);
        }
    }
}

/* A weight in a scheme: what is found has the parts that its scheme needs, each as large as it is read. */
static void read_scheme(const struct gguf *g, const char *name)
{
    char err[GGUF_ERR] = "", text[SCHEME_NAME];
    struct scheme_weight w;
    int rc = scheme_find(g, name, &w, err);
    if (rc) {
        check(rc == -ENOENT || (*err && !strchr(err, '\n')));
        return;
    }
    const struct gguf_tensor *const *part = w.part;
    check(w.cols % SCHEME_BLOCK == 0 && w.cols > 0 && w.rows > 0 && *scheme_name(&w.scheme, text));
    const uint64_t row_bytes = w.cols / 8u * w.scheme.bits;
    check(part[SCHEME_CODES]->bytes == row_bytes * w.rows);
    if (w.scheme.kind == SCHEME_SQ)
        check(part[SCHEME_LUT]->bytes == (UINT64_C(2) << w.scheme.bits) * w.rows);
    else
        check(part[SCHEME_SCALE]->bytes == UINT64_C(2) * w.n_groups * w.rows &&
              part[SCHEME_MIN]->bytes == part[SCHEME_SCALE]->bytes);
    check(!w.n_sparse || (part[SCHEME_SP_ROWS]->bytes == 4 * (UINT64_C(1) + w.rows) &&
                          part[SCHEME_SP_COLS]->bytes == 2 * (uint64_t)w.n_sparse &&
                          part[SCHEME_SP_VALUES]->bytes == 2 * (uint64_t)w.n_sparse));
    const uint64_t level_bytes = w.scheme.kind == SCHEME_SQ ? 2u << w.scheme.bits : 2 * w.n_groups;
    if (row_bytes + level_bytes > 1u << 16)
        return;
    void *codes = malloc(row_bytes), *levels = malloc(level_bytes), *mins = malloc(level_bytes);
    float *values = malloc(w.cols * sizeof *values);
    const struct gguf_tensor *of = part[w.scheme.kind == SCHEME_SQ ? SCHEME_LUT : SCHEME_SCALE];
    check(codes && levels && mins && values);
    check(gguf_read(g, part[SCHEME_CODES], 0, codes, row_bytes, err) == 0);
    check(gguf_read(g, of, 0, levels, level_bytes, err) == 0);
    if (part[SCHEME_MIN])
        check(gguf_read(g, part[SCHEME_MIN], 0, mins, level_bytes, err) == 0);
    scheme_dequantize(&w.scheme, w.cols, codes, levels, mins, values);
    free(codes);
    free(levels);
    free(mins);
    free(values);
}

static void read_schemes(const struct gguf *g)
{
    read_scheme(g, "w");
    for (uint32_t i = 0; i < gguf_n_tensors(g); i++) {
        const char *tensor = gguf_tensor_at(g, i)->name;
        size_t len;
        if (scheme_part_of(tensor, &len) == SCHEME_PARTS)
            continue;
        char *name = strndup(tensor, len);
        check(name);
        read_scheme(g, name);
        free(name);
    }
}

static void read_half(const struct gguf *g)
{
    char err[GGUF_ERR] = "";
    struct stage_file f;
    uint8_t identity[16];
    if (stage_file_read(g, &f, err)) {
        check(*err && !strchr(err, '\n'));
        return;
    }
    check(f.half == STAGE_WHOLE || (f.split > 0 && f.split < f.n_layers));
    check(stage_file_identity(g, &f, identity) == 0);
}

static void use_tokenizer(const struct gguf *g)
{
    static const char text[] = "Hello <|im_end|>  123\xff";
    char err[GGUF_ERR] = "", bytes[256];
    int32_t ids[sizeof text];
    struct tokenizer *t;
    if (tok_open(g, &t, err)) {
        check(*err && !strchr(err, '\n'));
        return;
    }
    for (int special = 0; special < 2; special++) {
        int64_t n = tok_encode(t, text, sizeof text - 1, special, ids, sizeof text);
        check(n >= 0 && n <= (int64_t)sizeof text);
        check(tok_decode(t, ids, (size_t)n, true, bytes, sizeof bytes) >= 0);
    }
    const struct chat_message hi = {"user", "hi"};
    char *chat;
    if (tok_chat_render(t, &hi, 1, true, &chat) == 0)
        free(chat);
    tok_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[GGUF_ERR] = "";
    uint8_t print[16];
    struct gguf *g;
    if (gguf_open_mem(data, size, "fuzz", &g, err)) {
        check(*err && !strchr(err, '\n'));
        return 0;
    }
    read_metadata(g);
    read_tensors(g, size);
    read_schemes(g);
    read_half(g);
    check(gguf_fingerprint(g, print) == 0);
    use_tokenizer(g);
    gguf_close(g);
    return 0;
}
