/* SPDX-License-Identifier: Apache-2.0 */
/* Any text, with each pre-tokenizer over a small vocabulary: its bytes come back. */
#include "compute/tokenizer.h"
#include "tests/unit/model/vocab_build.h"

static struct tokenizer *tokenizers[4];

static void check(int ok)
{
    if (!ok)
        abort();
}

static void open_all(void)
{
    static const char *const pres[4] = {"gpt-2", "smollm", "qwen2", "llama-bpe"};
    static const struct vocab_token tokens[] = {
        {"he", 1},   {"ll", 1},           {"hell", 1},       {"hello", 1}, {"Ġh", 1}, {"ĠĠ", 1},
        {"ĠĠĠĠ", 1}, {"<|im_start|>", 3}, {"<|im_end|>", 3}, {"<|im", 4},  {"ä½", 1},
    };
    static const char *const merges[] = {"l l", "h e", "he ll", "hell o",
                                         "Ġ h", "Ġ Ġ", "ĠĠ ĠĠ", "ä ½"};
    for (int i = 0; i < 4; i++) {
        const struct vocab v = {"gpt2",
                                pres[i],
                                NULL,
                                tokens,
                                sizeof tokens / sizeof tokens[0],
                                merges,
                                sizeof merges / sizeof merges[0],
                                -1,
                                0};
        struct build b = {0};
        struct gguf *g;
        char err[GGUF_ERR];
        vocab_file(&b, &v);
        check(gguf_open_mem(b.bytes, b.n, "vocab", &g, err) == 0);
        check(tok_open(g, &tokenizers[i], err) == 0);
        gguf_close(g);
        free(b.bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte chooses, the rest is the text. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!tokenizers[0])
        open_all();
    if (size == 0)
        return 0;
    const struct tokenizer *t = tokenizers[data[0] & 3];
    const char *text = (const char *)data + 1;
    size_t len = size - 1;
    int32_t *ids = malloc(size * sizeof *ids);
    char *back = malloc(size);
    check(ids && back);
    int64_t n = tok_encode(t, text, len, data[0] & 4, ids, len);
    check(n >= 0 && (size_t)n <= len);
    check(tok_decode(t, ids, (size_t)n, true, back, len) == (int64_t)len);
    check(memcmp(back, text, len) == 0);
    free(ids);
    free(back);
    return 0;
}
