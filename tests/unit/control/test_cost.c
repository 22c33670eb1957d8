/* SPDX-License-Identifier: Apache-2.0 */
/* Bounds of a model's speed: what must be read and multiplied, and how long that takes at least. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "compute/gguf.h"
#include "control/bench/cost.h"

static const struct cost_model model = {
    .weights_bytes = 1000,
    .kv_bytes_per_token = 10,
    .layer_macs = 300,
    .head_macs = 50,
};

static void assert_near(double a, double b)
{
    assert_true(a - b < 1e-9 * (a + b) && b - a < 1e-9 * (a + b));
}

/* Step by step, as the words of the header say. */
static void decode_adds_up_its_steps(void **state)
{
    for (uint32_t depth = 0; depth < 50; depth += 7)
        for (uint32_t tokens = 1; tokens < 9; tokens++)
            for (uint32_t batch = 1; batch < 5; batch++) {
                double bytes = 0, ops = 0;
                for (uint32_t t = 0; t < tokens; t++) {
                    bytes += 1000;
                    for (uint32_t s = 0; s < batch; s++) {
                        bytes += 10 * (depth + t + 1.0);
                        ops += 2 * (300 + 50);
                    }
                }
                const struct cost c = cost_decode(&model, depth, tokens, batch);
                assert_near(c.bytes, bytes);
                assert_near(c.ops, ops);
            }
}

static void prefill_reads_weights_once(void **state)
{
    const struct cost c = cost_prefill(&model, 20, 512);

    assert_near(c.bytes, 1000 + 10 * 532);
    assert_near(c.ops, 2 * (300.0 * 512 + 50)); /* logits of the last row only */
}

static void the_longer_time_is_the_bound(void **state)
{
    const struct cost c = {.bytes = 100, .ops = 1000};

    struct cost_bound b = cost_bound(c, 10, 1000);
    assert_near(b.s, 10);
    assert_string_equal(b.what, "memory");
    b = cost_bound(c, 1000, 10);
    assert_near(b.s, 100);
    assert_string_equal(b.what, "products");
}

/* A GGUF of tensors alone, F32, without data to speak of. */
struct file {
    uint8_t bytes[65536];
    size_t n;
};

static void put(struct file *f, const void *p, size_t n)
{
    memcpy(f->bytes + f->n, p, n);
    f->n += n;
}

static void put_u32(struct file *f, uint32_t v)
{
    put(f, &v, sizeof(v));
}

static void put_u64(struct file *f, uint64_t v)
{
    put(f, &v, sizeof(v));
}

struct tensor {
    const char *name;
    uint64_t cols, rows; /* rows 0: one dimension */
};

static struct gguf *open_tensors(struct file *f, const struct tensor *t, uint64_t n)
{
    uint64_t offset = 0;
    struct gguf *g;
    char err[GGUF_ERR];

    *f = (struct file){.n = 0};
    put(f, "GGUF", 4);
    put_u32(f, 3);
    put_u64(f, n);
    put_u64(f, 0);
    for (uint64_t i = 0; i < n; i++) {
        put_u64(f, strlen(t[i].name));
        put(f, t[i].name, strlen(t[i].name));
        put_u32(f, t[i].rows ? 2 : 1);
        put_u64(f, t[i].cols);
        if (t[i].rows)
            put_u64(f, t[i].rows);
        put_u32(f, QTYPE_F32);
        put_u64(f, offset);
        offset += (t[i].cols * (t[i].rows ? t[i].rows : 1) * 4 + 31) / 32 * 32;
    }
    f->n = (f->n + 31) / 32 * 32 + offset;
    assert_true(f->n <= sizeof(f->bytes));
    assert_int_equal(gguf_open_mem(f->bytes, f->n, "test", &g, err), 0);
    return g;
}

static void macs_are_the_layers_matrices(void **state)
{
    static const struct tensor tensors[] = {
        {"token_embd.weight", 8, 100},    {"blk.0.attn_q.weight", 8, 8},
        {"blk.0.attn_norm.weight", 8, 0}, {"blk.1.attn_q.weight", 8, 16},
        {"blk.1.ffn_up.weight", 8, 32},   {"blk.10.ffn_up.weight", 8, 64},
        {"output.weight", 8, 90},
    };
    static struct file f;
    struct gguf *g = open_tensors(&f, tensors, 7);
    struct cost_model m;

    cost_count_macs(g, 0, 11, 11, &m);
    assert_near(m.layer_macs, 8 * (8 + 16 + 32 + 64));
    assert_near(m.head_macs, 8 * 90);
    cost_count_macs(g, 1, 10, 11, &m); /* layer 1 alone: 10 is another */
    assert_near(m.layer_macs, 8 * (16 + 32));
    assert_near(m.head_macs + 1, 1);
    gguf_close(g);

    g = open_tensors(&f, tensors, 6); /* tied: the embedding is the head */
    cost_count_macs(g, 10, 11, 11, &m);
    assert_near(m.layer_macs, 8 * 64);
    assert_near(m.head_macs, 8 * 100);
    gguf_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_adds_up_its_steps),
        cmocka_unit_test(prefill_reads_weights_once),
        cmocka_unit_test(the_longer_time_is_the_bound),
        cmocka_unit_test(macs_are_the_layers_matrices),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
