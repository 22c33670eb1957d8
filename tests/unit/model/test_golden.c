/* SPDX-License-Identifier: Apache-2.0 */
/* The ids that llama.cpp gives the same texts, and the way back. Needs model files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compute/gguf.h"
#include "compute/tokenizer.h"

struct golden {
    const char *model_env, *tokens; /* in the shared folder */
    const char *chat;               /* rendered: one user message "Hi" */
    const char *eog[2];
};

static const struct golden smollm2 = {
    "ISTHMUS_SMOLLM2",
    "golden/smollm2-tokens.jsonl",
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    {"<|im_end|>", "<|endoftext|>"},
};

static const struct golden qwen05 = {
    "ISTHMUS_QWEN05",
    "golden/qwen05-tokens.jsonl",
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    {"<|im_end|>", "<|endoftext|>"},
};

static bool skipped;

/* In CI the models are there: not finding them is a failure. */
static void missing(const char *what)
{
    const char *ci = getenv("CI"), *own = getenv("ISTHMUS_CI");
    if ((ci && strcmp(ci, "true") == 0) || (own && strcmp(own, "1") == 0))
        fail_msg("%s is missing", what);
    skipped = true;
    print_message("skipped: %s is missing (tools/fetch-model prints a model's path)\n", what);
    skip();
}

static FILE *open_shared(const char *name)
{
    char path[4096];
    const char *shared = getenv("ISTHMUS_SHARED");
    snprintf(path, sizeof path, "%s/%s", shared ? shared : SOURCE_ROOT "/../shared", name);
    FILE *f = fopen(path, "r");
    if (!f)
        missing(path);
    return f;
}

static struct tokenizer *open_model(const char *env)
{
    char err[GGUF_ERR];
    struct gguf *g;
    struct tokenizer *t = NULL;
    const char *path = getenv(env);
    if (!path)
        missing(env);
    if (gguf_open(path, &g, err) || tok_open(g, &t, err))
        fail_msg("%s", err);
    gguf_close(g); /* the tokenizer keeps nothing of it */
    return t;
}

static void check_line(const struct tokenizer *t, const char *file, int line, const json_t *object)
{
    const json_t *want = json_object_get(object, "ids");
    const json_t *text = json_object_get(object, "text");
    bool special = json_is_true(json_object_get(object, "parse_special"));
    size_t len = json_string_length(text), n = json_array_size(want);
    int32_t *ids = test_malloc((n + 1) * sizeof *ids);
    char *back = test_malloc(len + 1);

    assert_true(json_is_string(text) && json_is_array(want));
    int64_t got = tok_encode(t, json_string_value(text), len, special, ids, n);
    if (got != (int64_t)n)
        fail_msg("%s:%d: %lld ids, must be %zu", file, line, (long long)got, n);
    for (size_t i = 0; i < n; i++)
        if (ids[i] != json_integer_value(json_array_get(want, i)))
            fail_msg("%s:%d: id %zu is %d, must be %lld", file, line, i, ids[i],
                     (long long)json_integer_value(json_array_get(want, i)));
    if (tok_decode(t, ids, n, true, back, len) != (int64_t)len ||
        memcmp(back, json_string_value(text), len) != 0)
        fail_msg("%s:%d: decoding gives another text", file, line);
    test_free(ids);
    test_free(back);
}

static void test_tokens(void **state)
{
    const struct golden *golden = *state;
    json_error_t error;
    char *line = NULL;
    size_t room = 0;
    int n = 0;
    struct tokenizer *t = open_model(golden->model_env);
    FILE *f = open_shared(golden->tokens);
    while (getline(&line, &room, f) > 0) {
        json_t *object = json_loads(line, 0, &error);
        n++;
        if (!object)
            fail_msg("%s:%d: %s", golden->tokens, n, error.text);
        check_line(t, golden->tokens, n, object);
        json_decref(object);
    }
    assert_true(n > 300);
    free(line);
    fclose(f);
    tok_close(t);
}

static void test_chat(void **state)
{
    const struct golden *golden = *state;
    const struct chat_message hi[] = {{"user", "Hi"}};
    const struct chat_message own[] = {{"system", "S"}, {"user", "Hi"}, {"assistant", "Yo"}};
    char *text;
    struct tokenizer *t = open_model(golden->model_env);
    assert_string_equal(tok_chat_template(t), "chatml");
    assert_int_equal(tok_chat_render(t, hi, 1, true, &text), 0);
    assert_string_equal(text, golden->chat);
    free(text);
    assert_int_equal(tok_chat_render(t, own, 3, false, &text), 0);
    assert_string_equal(text, "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
                              "<|im_start|>assistant\nYo<|im_end|>\n");
    free(text);
    assert_false(tok_add_bos(t));
    for (size_t i = 0; i < 2; i++) {
        int32_t id;
        assert_int_equal(tok_encode(t, golden->eog[i], strlen(golden->eog[i]), true, &id, 1), 1);
        assert_true(tok_is_eog(t, id));
    }
    assert_true(tok_is_eog(t, tok_eos(t)));
    assert_false(tok_is_eog(t, 1000));
    tok_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"smollm2 tokens", test_tokens, NULL, NULL, (void *)(uintptr_t)&smollm2},
        {"smollm2 chat", test_chat, NULL, NULL, (void *)(uintptr_t)&smollm2},
        {"qwen05 tokens", test_tokens, NULL, NULL, (void *)(uintptr_t)&qwen05},
        {"qwen05 chat", test_chat, NULL, NULL, (void *)(uintptr_t)&qwen05},
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed ? failed : skipped ? 77 : 0; /* 77: meson's code for it */
}
