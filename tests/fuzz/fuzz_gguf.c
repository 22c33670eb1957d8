/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a model file: refused, or every answer about it lies inside it. */
#include <stdlib.h>
#include <string.h>

#include "compute/gguf.h"
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
    check(gguf_fingerprint(g, print) == 0);
    use_tokenizer(g);
    gguf_close(g);
    return 0;
}
