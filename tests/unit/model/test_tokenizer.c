/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compute/tokenizer.h"
#include "vocab_build.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* Ġ is the letter of the space. */
static const struct vocab_token hello_tokens[] = {
    {"he", 1},   {"ll", 1},     {"hell", 1},          {"hello", 1},
    {"Ġh", 1},   {"lo", 1},     {"<|im_start|>", 3},  {"<|im_end|>", 3},
    {"<|im", 4}, {"<tool>", 4}, {"<|endoftext|>", 2}, {"[PAD]", 5},
};
enum { HE = 256, LL, HELL, HELLO, SPACE_H, LO, IM_START, IM_END, IM, TOOL, ENDOFTEXT, PAD };
static const char *const hello_merges[] = {"l l", "h e", "he ll", "hell o", "Ġ h", "l o", "l l"};

static const struct vocab hello = {
    "gpt2", "gpt-2", NULL, hello_tokens, COUNT(hello_tokens), hello_merges, COUNT(hello_merges),
    -1,     IM_END,
};

static int try_open(const struct vocab *v, struct tokenizer **t, char *err)
{
    struct build b = {0};
    struct gguf *g;
    vocab_file(&b, v);
    if (gguf_open_mem(b.bytes, b.n, "the file", &g, err))
        fail_msg("%s", err);
    int rc = tok_open(g, t, err);
    gguf_close(g);
    free(b.bytes); /* the tokenizer keeps nothing of it */
    return rc;
}

static struct tokenizer *open_vocab(const struct vocab *v)
{
    struct tokenizer *t;
    char err[GGUF_ERR];
    if (try_open(v, &t, err))
        fail_msg("%s", err);
    return t;
}

static void refuse(const struct vocab *v, int rc, const char *words)
{
    struct tokenizer *t;
    char err[GGUF_ERR] = "";
    int got = try_open(v, &t, err);
    if (got != rc || !strstr(err, words) || strncmp(err, "the file: ", 10) != 0)
        fail_msg("got %d \"%s\", must be %d and have \"%s\"", got, err, rc, words);
}

static void check(const struct tokenizer *t, const char *text, size_t len, bool special,
                  const int32_t *want, size_t n)
{
    int32_t ids[64];
    assert_int_equal(tok_encode(t, text, len, special, ids, COUNT(ids)), n);
    for (size_t i = 0; i < n; i++)
        if (ids[i] != want[i])
            fail_msg("\"%s\": id %zu is %d, must be %d", text, i, ids[i], want[i]);
}
#define CHECK(t, text, special, ...)                                                               \
    check(t, text, sizeof text - 1, special, (const int32_t[]){__VA_ARGS__},                       \
          COUNT(((const int32_t[]){__VA_ARGS__})))

static void test_merges(void **state)
{
    struct tokenizer *t = open_vocab(&hello);
    check(t, "", 0, false, NULL, 0);
    CHECK(t, "hello", false, HELLO);
    CHECK(t, "hellllo", false, HELL, LL, 'o'); /* of equal ranks the left one first */
    CHECK(t, "hllo", false, 'h', LL, 'o');
    CHECK(t, "xlo", false, 'x', LO);
    CHECK(t, "a hello", false, 'a', ' ', HELLO); /* "h e" ranks before "Ġ h" */
    CHECK(t, "a ho", false, 'a', SPACE_H, 'o');
    tok_close(t);
}

static void test_words_apart(void **state)
{
    struct tokenizer *t = open_vocab(&hello);
    CHECK(t, "he'll", false, HE, '\'', LL);
    CHECK(t, "l\xffl\0l", false, 'l', 0xff, 'l', 0, 'l');
    tok_close(t);
}

static void test_special(void **state)
{
    struct tokenizer *t = open_vocab(&hello);
    CHECK(t, "<|im_start|>hello<|im_end|>", true, IM_START, HELLO, IM_END);
    CHECK(t, "he<|im_start|>ll", true, HE, IM_START, LL); /* nothing merges across */
    /* Control tokens are plain text, user-defined ones are not. */
    CHECK(t, "<|im_e", false, IM, '_', 'e');
    CHECK(t, "<|im_end|>", false, IM, '_', 'e', 'n', 'd', '|', '>');
    CHECK(t, "<tool><tool", false, TOOL, '<', 't', 'o', 'o', 'l');
    CHECK(t, "<|endoftext|>", true, ENDOFTEXT);
    CHECK(t, "[PAD]", true, '[', 'P', 'A', 'D', ']');
    tok_close(t);
}

static void test_capacity(void **state)
{
    struct tokenizer *t = open_vocab(&hello);
    int32_t ids[4] = {-7, -7, -7, -7};
    char text[16] = "................";
    assert_int_equal(tok_encode(t, "helloxyz", 8, false, NULL, 0), 4);
    assert_int_equal(tok_encode(t, "helloxyz", 8, false, ids, 2), 4);
    assert_true(ids[0] == HELLO && ids[1] == 'x' && ids[2] == -7);
    assert_int_equal(tok_encode(t, NULL, (size_t)INT32_MAX + 1, false, NULL, 0), -EOVERFLOW);

    const int32_t two[] = {HELLO, SPACE_H}, bad[] = {HELLO, PAD + 1}, negative[] = {-1};
    assert_int_equal(tok_decode(t, two, 2, false, NULL, 0), 7);
    assert_int_equal(tok_decode(t, two, 2, false, text, 6), 7);
    assert_int_equal(text[0], '.');
    assert_int_equal(tok_decode(t, two, 2, false, text, 7), 7);
    assert_memory_equal(text, "hello h.", 8);
    assert_int_equal(tok_decode(t, bad, 2, false, text, sizeof text), -EINVAL);
    assert_int_equal(tok_decode(t, negative, 1, false, text, sizeof text), -EINVAL);
    assert_int_equal(tok_decode(t, NULL, 0, false, NULL, 0), 0);
    assert_int_equal(tok_piece(t, PAD + 1, false, text, sizeof text), -EINVAL);
    assert_int_equal(tok_piece(t, 0xe4, false, text, 1), 1);
    assert_int_equal(text[0], (char)0xe4);
    tok_close(t);
}

static void test_pieces(void **state)
{
    struct tokenizer *t = open_vocab(&hello);
    char text[16];
    assert_int_equal(tok_piece(t, IM_END, false, text, sizeof text), 0);
    assert_int_equal(tok_piece(t, IM_END, true, text, sizeof text), 10);
    assert_memory_equal(text, "<|im_end|>", 10);
    assert_int_equal(tok_piece(t, TOOL, false, text, sizeof text), 6);
    assert_int_equal(tok_piece(t, PAD, true, text, sizeof text), 0);
    tok_close(t);
}

static void test_ids(void **state)
{
    struct tokenizer *t = open_vocab(&hello);
    assert_int_equal(tok_n_vocab(t), PAD + 1);
    assert_int_equal(tok_eos(t), IM_END);
    assert_int_equal(tok_bos(t), -1);
    assert_false(tok_add_bos(t));
    assert_true(tok_is_eog(t, IM_END) && tok_is_eog(t, ENDOFTEXT));
    assert_false(tok_is_eog(t, IM_START) || tok_is_eog(t, -1) || tok_is_eog(t, 'a'));
    tok_close(t);
}

/* A byte without a token is lost, and nothing merges over the gap. */
static void test_lost_byte(void **state)
{
    struct vocab v = hello;
    v.lost_byte = '-';
    struct tokenizer *t = open_vocab(&v);
    static const struct vocab_token tokens[] = {{"!!", 1}};
    static const char *const merges[] = {"! !"};
    check(t, "--", 2, false, NULL, 0);
    CHECK(t, "a-b", false, 'a', 'b');
    tok_close(t);
    v = (struct vocab){"gpt2", "gpt-2", NULL, tokens, 1, merges, 1, '-', 0};
    t = open_vocab(&v);
    CHECK(t, "!!-!-", false, 256, '!');
    CHECK(t, "!-!", false, '!', '!');
    tok_close(t);
}

/* llama-bpe: a whole word that is a token needs no merges. */
static void test_whole_words(void **state)
{
    static const struct vocab_token tokens[] = {{"cat", 1}, {"Ġcat", 1}, {"dog", 3}};
    struct vocab v = {"gpt2", "llama-bpe", NULL, tokens, COUNT(tokens), NULL, 0, -1, 256 + 2};
    struct tokenizer *t = open_vocab(&v);
    CHECK(t, "cat cat cats", false, 256, 257, ' ', 'c', 'a', 't', 's');
    CHECK(t, "dog", false, 'd', 'o', 'g'); /* a control token is no word */
    tok_close(t);
    v.pre = "qwen2";
    t = open_vocab(&v);
    CHECK(t, "cat", false, 'c', 'a', 't');
    tok_close(t);
}

/* --- against the plain way -------------------------------------------------------------------- */

/* Merge the lowest rank, the leftmost of its places, until none is left. */
static size_t plain_bpe(const int32_t (*merges)[2], size_t n_merges, int32_t *ids, size_t n)
{
    for (;;) {
        size_t best = n_merges, at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t m = 0; m < best; m++)
                if (merges[m][0] == ids[i] && merges[m][1] == ids[i + 1])
                    best = m, at = i;
        if (best == n_merges)
            return n;
        ids[at] = 256 + (int32_t)best;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

enum { RANDOM_MERGES = 40, RANDOM_TEXT = 24 };

/* Over the letters a, b and c: random merges of earlier tokens, each with a new text. */
static size_t random_vocab(unsigned *seed, char (*texts)[RANDOM_TEXT],
                           char (*lines)[2 * RANDOM_TEXT], int32_t (*merges)[2])
{
    size_t n = 0;
    for (int tries = 0; tries < 400 && n < RANDOM_MERGES; tries++) {
        int32_t part[2];
        const char *text[2];
        char letters[2][2] = {{0}}, joined[2 * RANDOM_TEXT];
        bool old = false;
        for (int i = 0; i < 2; i++) {
            uint32_t pick = (uint32_t)rand_r(seed) % (3 + (uint32_t)n);
            letters[i][0] = (char)('a' + pick);
            part[i] = pick < 3 ? 'a' + (int32_t)pick : 256 + (int32_t)pick - 3;
            text[i] = pick < 3 ? letters[i] : texts[pick - 3];
        }
        snprintf(joined, sizeof joined, "%s%s", text[0], text[1]);
        for (size_t i = 0; i < n; i++)
            old |= strcmp(texts[i], joined) == 0;
        if (old || strlen(joined) >= RANDOM_TEXT)
            continue;
        strcpy(texts[n], joined);
        snprintf(lines[n], sizeof lines[n], "%s %s", text[0], text[1]);
        memcpy(merges[n], part, sizeof part);
        n++;
    }
    return n;
}

static void test_random_merges(void **state)
{
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    for (int round = 0; round < 60; round++) {
        char texts[RANDOM_MERGES][RANDOM_TEXT], lines[RANDOM_MERGES][2 * RANDOM_TEXT];
        int32_t merges[RANDOM_MERGES][2];
        struct vocab_token tokens[RANDOM_MERGES];
        const char *list[RANDOM_MERGES];
        size_t n = random_vocab(&seed, texts, lines, merges);
        for (size_t i = 0; i < n; i++) {
            tokens[i] = (struct vocab_token){texts[i], 1};
            list[i] = lines[i];
        }
        struct vocab v = {"gpt2", "gpt-2", NULL, tokens, n, list, n, -1, 0};
        struct tokenizer *t = open_vocab(&v);
        for (int word = 0; word < 50; word++) {
            char text[200], back[200];
            int32_t want[200], got[200];
            size_t len = 1 + (size_t)rand_r(&seed) % sizeof text;
            for (size_t i = 0; i < len; i++)
                want[i] = text[i] = (char)('a' + rand_r(&seed) % 3);
            size_t n_want = plain_bpe((const int32_t(*)[2])merges, n, want, len);
            assert_int_equal(tok_encode(t, text, len, false, got, 200), n_want);
            assert_memory_equal(got, want, n_want * sizeof *got);
            assert_int_equal(tok_decode(t, got, n_want, true, back, sizeof back), len);
            assert_memory_equal(back, text, len);
        }
        tok_close(t);
    }
}

/* One word of four megabytes: n log n, not n^2. */
static void test_long_word(void **state)
{
    static const struct vocab_token tokens[] = {{"aa", 1}, {"aaaa", 1}, {"aaaaaaaa", 1}};
    static const char *const merges[] = {"a a", "aa aa", "aaaa aaaa"};
    const struct vocab v = {"gpt2", "gpt-2", NULL, tokens, 3, merges, 3, -1, 0};
    const size_t n = 4u << 20;
    char *text = malloc(n);
    int32_t *ids = malloc(n * sizeof *ids);
    memset(text, 'a', n);
    struct tokenizer *t = open_vocab(&v);
    assert_int_equal(tok_encode(t, text, n, false, ids, n), n / 8);
    for (size_t i = 0; i < n / 8; i++)
        assert_int_equal(ids[i], 258);
    tok_close(t);
    free(text);
    free(ids);
}

/* Any bytes come back. */
static void test_random_bytes(void **state)
{
    static const char *const pres[] = {"gpt-2", "smollm", "qwen2", "llama-bpe"};
    static const char likely[] = "hello <|'\n\xe4";
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    for (int i = 0; i < 4; i++) {
        struct vocab v = hello;
        v.pre = pres[i];
        struct tokenizer *t = open_vocab(&v);
        for (int round = 0; round < 2000; round++) {
            char text[64], back[64];
            int32_t ids[64];
            size_t len = (size_t)rand_r(&seed) % 65;
            for (size_t k = 0; k < len; k++)
                text[k] = rand_r(&seed) % 2 ? (char)rand_r(&seed)
                                            : likely[(size_t)rand_r(&seed) % (sizeof likely - 1)];
            int64_t n = tok_encode(t, text, len, round % 2, ids, 64);
            assert_in_range(n, 0, 64);
            assert_int_equal(tok_decode(t, ids, (size_t)n, true, back, 64), len);
            assert_memory_equal(back, text, len);
        }
        tok_close(t);
    }
}

/* --- lies ------------------------------------------------------------------------------------- */

static void test_refused(void **state)
{
    struct vocab v = hello;
    v.pre = "tekken";
    refuse(&v, -ENOTSUP,
           "pre-tokenizer \"tekken\" is not supported; supported: gpt-2 smollm qwen2 llama-bpe");
    v.pre = NULL;
    refuse(&v, -ENOTSUP, "tokenizer.ggml.pre: is missing; supported: gpt-2");
    v = hello;
    v.model = "llama";
    refuse(&v, -ENOTSUP, "tokenizer model \"llama\" is not supported; supported: gpt2");
    v.model = NULL;
    refuse(&v, -EBADMSG, "tokenizer.ggml.model: is missing");
    v = hello;
    v.eos = PAD + 1;
    refuse(&v, -EBADMSG, "tokenizer.ggml.eos_token_id: must be a token id below 268");

    static const char *const bad_merges[] = {
        "hl", "h l", "", " h", "h ", "x he", "€ h", "\xff h", "<|im_start|> h"};
    for (size_t i = 0; i < COUNT(bad_merges); i++) {
        const char *const two[] = {"l l", bad_merges[i]};
        v = hello;
        v.merges = two;
        v.n_merges = 2;
        refuse(&v, -EBADMSG, "tokenizer.ggml.merges: merge 1, ");
    }
    static const struct vocab_token odd_type[] = {{"x", 7}};
    v = hello;
    v.tokens = odd_type;
    v.n_tokens = 1;
    refuse(&v, -EBADMSG, "tokenizer.ggml.token_type: token 256 has type 7");
}

static void refuse_arrays(struct build *b, const char *words)
{
    char err[GGUF_ERR];
    struct gguf *g;
    struct tokenizer *t;
    assert_int_equal(gguf_open_mem(b->bytes, b->n, "the file", &g, err), 0);
    assert_int_equal(tok_open(g, &t, err), -EBADMSG);
    if (!strstr(err, words))
        fail_msg("\"%s\" must have \"%s\"", err, words);
    gguf_close(g);
    free(b->bytes);
}

static void put_kind(struct build *b, uint64_t n_more)
{
    put_header(b, 0, 2 + n_more);
    put_kv_str(b, "tokenizer.ggml.model", "gpt2");
    put_kv_str(b, "tokenizer.ggml.pre", "gpt-2");
}

static void test_refused_arrays(void **state)
{
    struct build b = {0};
    put_kind(&b, 0);
    refuse_arrays(&b, "tokenizer.ggml.tokens: is missing");
    b = (struct build){0};
    put_kind(&b, 1);
    put_kv_u32(&b, "tokenizer.ggml.tokens", 1);
    refuse_arrays(&b, "tokenizer.ggml.tokens: must be an array of strings");
    b = (struct build){0};
    put_kind(&b, 1);
    put_array(&b, "tokenizer.ggml.tokens", 8, 0);
    refuse_arrays(&b, "tokenizer.ggml.tokens: 0 tokens");
    b = (struct build){0};
    put_kind(&b, 2);
    put_array(&b, "tokenizer.ggml.tokens", 8, 1), put_str(&b, "a");
    put_array(&b, "tokenizer.ggml.token_type", 5, 2), put_u64(&b, 0);
    refuse_arrays(&b, "tokenizer.ggml.token_type: must be 1 numbers");
    b = (struct build){0};
    put_kind(&b, 1);
    put_array(&b, "tokenizer.ggml.tokens", 8, 1), put_str(&b, "a");
    refuse_arrays(&b, "tokenizer.ggml.merges: is missing");
}

/* --- chat ------------------------------------------------------------------------------------- */

static void check_chat(const char *template, const char *want)
{
    const struct chat_message m[] = {{"user", "U"}};
    struct vocab v = hello;
    char *text;
    v.chat = template;
    struct tokenizer *t = open_vocab(&v);
    if (!want) {
        assert_null(tok_chat_template(t));
        assert_int_equal(tok_chat_render(t, m, 1, true, &text), -ENOTSUP);
    } else {
        assert_string_equal(tok_chat_template(t), "chatml");
        assert_int_equal(tok_chat_render(t, m, 1, true, &text), 0);
        assert_string_equal(text, want);
        free(text);
    }
    tok_close(t);
}

#define USER "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"

static void test_chat(void **state)
{
    static const char with_s[] = "<|im_start|>system\nIt's S<|im_end|>\n" USER;
    check_chat(NULL, NULL);
    check_chat("[INST] {{ x }}", NULL);
    check_chat("<|im_start|>a<|im_sep|>b<|im_end|>", NULL);
    check_chat("'<|im_start|>' + role + '\\n' + content + '<|im_end|>'", USER);
    check_chat("{{ '<|im_start|>system\\n' + m + '<|im_end|>' }}", USER); /* pasted */
    check_chat("{{ '<|im_start|>system\\n' }} x {{ '<|im_end|>' }}", USER);
    check_chat("{{ \"<|im_start|>system\\nIt's S<|im_end|>\" }}", with_s);
    check_chat("{{ '<|im_start|>system\\nIt\\'s S<|im_end|>' }}", with_s);
    check_chat("<|im_start|>system\nIt's S<|im_end|>", with_s);
    check_chat("<|im_start|>system\n{{ s }}<|im_end|>", USER);
    check_chat("<|im_start|>system\n<|im_end|>", USER);
    check_chat("{{ '<|im_start|>system\\n' + m }} {{ '<|im_start|>system\nIt\\'s S<|im_end|>' }}",
               with_s);
    check_chat("<|im_end|> <|im_start|>system", USER); /* and nothing after */

    /* Without the control tokens in the vocabulary it would only be text. */
    static const struct vocab_token none[] = {{"x", 1}};
    struct vocab v = {"gpt2", "gpt-2", "<|im_start|><|im_end|>", none, 1, NULL, 0, -1, 0};
    struct tokenizer *t = open_vocab(&v);
    assert_null(tok_chat_template(t));
    tok_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges),         cmocka_unit_test(test_words_apart),
        cmocka_unit_test(test_special),        cmocka_unit_test(test_capacity),
        cmocka_unit_test(test_pieces),         cmocka_unit_test(test_ids),
        cmocka_unit_test(test_lost_byte),      cmocka_unit_test(test_whole_words),
        cmocka_unit_test(test_random_merges),  cmocka_unit_test(test_long_word),
        cmocka_unit_test(test_random_bytes),   cmocka_unit_test(test_refused),
        cmocka_unit_test(test_refused_arrays), cmocka_unit_test(test_chat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
