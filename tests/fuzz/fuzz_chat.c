/* SPDX-License-Identifier: Apache-2.0 */
/* Any text as a chat template, and the same as a message: it is written once for each message, and
 * no control token comes of it. */
#include <errno.h>

#include "compute/tokenizer.h"
#include "tests/unit/model/vocab_build.h"

enum { OPENINGS = 3, FIRST_MARKER = 256, N_MARKERS = 7 };

static void check(int ok)
{
    if (!ok)
        abort();
}

static struct tokenizer *open_template(const char *template)
{
    static const struct vocab_token tokens[N_MARKERS] = {
        {"<|im_start|>", 3},  {"<|start_header_id|>", 3}, {"<start_of_turn>", 3},
        {"<|im_end|>", 3},    {"<|end_header_id|>", 3},   {"<|eot_id|>", 3},
        {"<end_of_turn>", 3},
    };
    const struct vocab v = {"gpt2", "gpt-2", template, tokens, N_MARKERS, NULL, 0, -1, 0};
    struct build b = {0};
    struct gguf *g;
    struct tokenizer *t;
    char err[GGUF_ERR];
    vocab_file(&b, &v);
    check(gguf_open_mem(b.bytes, b.n, "vocab", &g, err) == 0);
    check(tok_open(g, &t, err) == 0);
    gguf_close(g);
    free(b.bytes);
    return t;
}

static size_t openings(const int32_t *ids, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        k += ids[i] >= FIRST_MARKER && ids[i] < FIRST_MARKER + OPENINGS;
    return k;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    check(text != NULL);
    memcpy(text, data, size);
    text[size] = 0;

    struct tokenizer *t = open_template(text);
    const struct chat_message plain[] = {{"system", "s"}, {"user", "x"}, {"assistant", "y"}};
    const struct chat_message m[] = {{"system", text}, {"user", text}, {text, text}};
    int32_t *ids, *plain_ids;
    size_t n, n_plain;
    const int rc = tok_chat_encode(t, m, 3, true, &ids, &n);
    check(rc == (tok_chat_template(t) ? 0 : -ENOTSUP));
    if (rc == 0) {
        check(tok_chat_encode(t, plain, 3, true, &plain_ids, &n_plain) == 0);
        check(openings(ids, n) == openings(plain_ids, n_plain));
        free(ids);
        free(plain_ids);
    }
    tok_close(t);
    free(text);
    return 0;
}
