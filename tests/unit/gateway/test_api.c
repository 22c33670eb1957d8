/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "control/gateway/api.h"

static void good(enum api_kind kind, const char *body, struct api_request *r)
{
    struct api_error e;
    if (api_parse(kind, body, strlen(body), r, &e) < 0)
        fail_msg("%s: %s", body, e.message);
}

static void bad_n(enum api_kind kind, const char *body, size_t n, const char *param,
                  const char *words)
{
    struct api_request r;
    struct api_error e;
    const int rc = api_parse(kind, body, n, &r, &e);
    api_free(&r);
    if (rc == 0)
        fail_msg("%s: taken", body);
    if (e.status != 400 || strcmp(e.type, "invalid_request_error") != 0 ||
        strcmp(e.param, param) != 0 || !strstr(e.message, words))
        fail_msg("%s: %u \"%s\": %s; must have \"%s\": %s", body, e.status, e.param, e.message,
                 param, words);
}

static void bad(enum api_kind kind, const char *body, const char *param, const char *words)
{
    bad_n(kind, body, strlen(body), param, words);
}

#define TEXT(fields) "{\"model\":\"m\",\"prompt\":\"p\"" fields "}"
#define CHAT(fields) "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"c\"}]" fields "}"

static void test_defaults(void **state)
{
    struct api_request r;
    (void)state;
    good(API_COMPLETION, TEXT(""), &r);
    assert_string_equal(r.model, "m");
    assert_int_equal(r.n_prompts, 1);
    assert_string_equal(r.prompts[0].text, "p");
    assert_int_equal(r.n, 1);
    assert_int_equal(r.max_tokens, 0);
    assert_true(r.sampler.temp == 1 && r.sampler.top_p == 1 && r.sampler.top_k == 0);
    assert_false(r.has_seed || r.ignore_eos || r.logprobs || r.stream || r.include_usage);
    assert_int_equal(r.n_stops, 0);
    api_free(&r);
    /* null is as good as absent, and what is not known is ignored */
    good(API_COMPLETION,
         TEXT(",\"max_tokens\":null,\"n\":null,\"temperature\":null,\"stop\":null,\"seed\":null,"
              "\"logprobs\":null,\"stream\":null,\"user\":\"u\",\"no_such\":{\"a\":1},\"echo\":false,"
              "\"suffix\":null,\"logit_bias\":{},\"presence_penalty\":0"),
         &r);
    assert_false(r.logprobs);
    api_free(&r);
}

static void test_fields(void **state)
{
    struct api_request r;
    (void)state;
    good(API_COMPLETION,
         TEXT(",\"max_tokens\":7,\"n\":3,\"temperature\":0.25,\"top_p\":0,\"top_k\":-1,\"min_p\":0.5,"
              "\"repeat_penalty\":1.5,\"seed\":-2,\"stop\":[\"a\",\"bc\"],\"logprobs\":0,"
              "\"stream\":true,\"stream_options\":{\"include_usage\":true},\"ignore_eos\":true"),
         &r);
    assert_int_equal(r.max_tokens, 7);
    assert_int_equal(r.n, 3);
    assert_true(r.sampler.temp == .25f && r.sampler.top_p > 0 && r.sampler.top_p < 1e-30f);
    assert_int_equal(r.sampler.top_k, 0);
    assert_true(r.sampler.min_p == .5f && r.sampler.repeat_penalty == 1.5f);
    assert_int_equal(sampler_params_check(&r.sampler), 0);
    assert_true(r.has_seed && r.sampler.seed == (uint64_t)-2);
    assert_int_equal(r.n_stops, 2);
    assert_int_equal(r.stops[1].n, 2);
    assert_true(r.logprobs && r.stream && r.include_usage && r.ignore_eos);
    assert_int_equal(r.top_logprobs, 0);
    api_free(&r);
    good(API_CHAT,
         CHAT(",\"max_tokens\":7,\"max_completion_tokens\":9,\"stop\":\"x\",\"logprobs\":true,"
              "\"top_logprobs\":20"),
         &r);
    assert_int_equal(r.max_tokens, 9);
    assert_int_equal(r.n_stops, 1);
    assert_true(r.logprobs);
    assert_int_equal(r.top_logprobs, 20);
    api_free(&r);
    good(API_CHAT, CHAT(",\"logprobs\":true,\"top_logprobs\":0"), &r);
    assert_true(r.logprobs && r.top_logprobs == 0);
    api_free(&r);
    good(API_CHAT, CHAT(",\"logprobs\":false,\"top_logprobs\":null"), &r);
    assert_true(!r.logprobs && r.top_logprobs == 0);
    api_free(&r);
    good(API_COMPLETION, TEXT(",\"logprobs\":5,\"top_logprobs\":9"), &r); /* not a field there */
    assert_true(r.logprobs && r.top_logprobs == 5);
    api_free(&r);
}

static void test_prompts(void **state)
{
    struct api_request r;
    (void)state;
    good(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[\"a\",\"b\\u00e9\"],\"n\":2}", &r);
    assert_int_equal(r.n_prompts, 2);
    assert_string_equal(r.prompts[1].text, "b\xc3\xa9");
    api_free(&r);
    good(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[1,2,3]}", &r);
    assert_int_equal(r.n_prompts, 1);
    assert_null(r.prompts[0].text);
    assert_int_equal(r.prompts[0].n_ids, 3);
    assert_int_equal(r.prompts[0].ids[2], 3);
    api_free(&r);
    good(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[[1,2],[3]]}", &r);
    assert_int_equal(r.n_prompts, 2);
    assert_int_equal(r.prompts[1].ids[0], 3);
    api_free(&r);
    bad(API_COMPLETION, "{\"model\":\"m\"}", "prompt", "missing");
    bad(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[]}", "prompt", "1 to 64");
    bad(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[[]]}", "prompt", "empty");
    bad(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[1,\"a\"]}", "prompt", "token ids");
    bad(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[-1]}", "prompt", "token ids");
    bad(API_COMPLETION, "{\"model\":\"m\",\"prompt\":[1.5]}", "prompt", "token ids");
    bad(API_COMPLETION, "{\"model\":\"m\",\"prompt\":{}}", "prompt", "token ids");
}

static void test_messages(void **state)
{
    struct api_request r;
    (void)state;
    good(API_CHAT,
         "{\"model\":\"m\",\"messages\":[{\"role\":\"developer\",\"content\":\"s\"},"
         "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"one\"},{\"type\":\"text\","
         "\"text\":\"two\"}],\"name\":\"x\"},{\"role\":\"assistant\",\"content\":\"\"}]}",
         &r);
    assert_int_equal(r.n_messages, 3);
    assert_string_equal(r.messages[0].role, "system");
    assert_string_equal(r.messages[1].content, "one\ntwo");
    assert_string_equal(r.messages[2].content, "");
    api_free(&r);
#define MESSAGE(m) "{\"model\":\"m\",\"messages\":[" m "]}"
    bad(API_CHAT, MESSAGE(""), "messages", "not empty");
    bad(API_CHAT, "{\"model\":\"m\",\"messages\":{}}", "messages", "array");
    bad(API_CHAT, "{\"model\":\"m\"}", "messages", "array");
    bad(API_CHAT, MESSAGE("7"), "messages", "objects");
    bad(API_CHAT, MESSAGE("{\"role\":1,\"content\":\"\"}"), "messages", "role");
    bad(API_CHAT, MESSAGE("{\"role\":\"tool\",\"content\":\"\"}"), "messages.role", "only system");
    bad(API_CHAT, MESSAGE("{\"role\":\"user\"}"), "messages.content", "must be text");
    bad(API_CHAT, MESSAGE("{\"role\":\"user\",\"content\":7}"), "messages.content", "must be text");
    bad(API_CHAT, MESSAGE("{\"role\":\"user\",\"content\":[7]}"), "messages.content", "parts");
    bad(API_CHAT, MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}"),
        "messages.content", "parts");
    bad(API_CHAT, MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}"),
        "messages.content", "not supported");
    bad(API_CHAT,
        MESSAGE("{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"1\"}]}"),
        "messages.tool_calls", "not supported");
}

static void test_refused(void **state)
{
    (void)state;
    bad(API_COMPLETION, "", "", "the body is empty");
    bad(API_COMPLETION, "{", "", "not JSON");
    bad(API_COMPLETION, "[]", "", "object");
    bad_n(API_COMPLETION, "{\"model\":\"\xff\"}", 12, "", "not JSON");
    bad_n(API_COMPLETION, TEXT("") "x", strlen(TEXT("")) + 1, "", "not JSON");
    bad(API_COMPLETION, TEXT(",\"a\":\"\\u0000\""), "", "not JSON");
    bad(API_COMPLETION, "{\"prompt\":\"p\"}", "model", "/v1/models");
    bad(API_COMPLETION, "{\"prompt\":\"p\",\"model\":7}", "model", "/v1/models");
    bad(API_COMPLETION, TEXT(",\"temperature\":\"1\""), "temperature", "number");
    bad(API_COMPLETION, TEXT(",\"temperature\":2.5"), "temperature", "from 0 to 2");
    bad(API_COMPLETION, TEXT(",\"top_p\":-1"), "top_p", "from 0 to 1");
    bad(API_COMPLETION, TEXT(",\"max_tokens\":0"), "max_tokens", "whole number");
    bad(API_COMPLETION, TEXT(",\"max_tokens\":1.5"), "max_tokens", "whole number");
    bad(API_COMPLETION, TEXT(",\"n\":9"), "n", "from 1 to 8");
    bad(API_COMPLETION, TEXT(",\"seed\":\"x\""), "seed", "whole");
    bad(API_COMPLETION, TEXT(",\"stop\":\"\""), "stop", "1 to 256");
    bad(API_COMPLETION, TEXT(",\"stop\":[1]"), "stop", "strings");
    bad(API_COMPLETION, TEXT(",\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]"), "stop", "up to 4");
    bad(API_COMPLETION, TEXT(",\"stream\":1"), "stream", "true or false");
    bad(API_COMPLETION, TEXT(",\"stream_options\":{}"), "stream_options", "stream: true");
    bad(API_COMPLETION, TEXT(",\"stream\":true,\"stream_options\":7"), "stream_options", "object");
    bad(API_COMPLETION, TEXT(",\"logprobs\":true"), "logprobs", "whole number");
    bad(API_COMPLETION, TEXT(",\"logprobs\":6"), "logprobs",
        "Invalid value for 'logprobs': must be less than or equal to 5.");
    bad(API_COMPLETION, TEXT(",\"logprobs\":-1"), "logprobs", "Expected a value >= 0, but got -1");
    bad(API_CHAT, CHAT(",\"logprobs\":1"), "logprobs", "true or false");
    bad(API_CHAT, CHAT(",\"logprobs\":true,\"top_logprobs\":21"), "top_logprobs",
        "Invalid value for 'top_logprobs': must be less than or equal to 20.");
    bad(API_CHAT, CHAT(",\"logprobs\":true,\"top_logprobs\":-9223372036854775808"), "top_logprobs",
        "Expected a value >= 0");
    bad(API_CHAT, CHAT(",\"logprobs\":true,\"top_logprobs\":true"), "top_logprobs", "whole number");
    bad(API_CHAT, CHAT(",\"logprobs\":true,\"top_logprobs\":2.0"), "top_logprobs", "whole number");
    bad(API_CHAT, CHAT(",\"top_logprobs\":1"), "top_logprobs", "when 'logprobs' is enabled");
    bad(API_CHAT, CHAT(",\"logprobs\":false,\"top_logprobs\":0"), "top_logprobs",
        "when 'logprobs' is enabled");
    bad(API_COMPLETION, TEXT(",\"presence_penalty\":0.5"), "presence_penalty", "repeat_penalty");
    bad(API_COMPLETION, TEXT(",\"echo\":true"), "echo", "not supported");
    bad(API_COMPLETION, TEXT(",\"suffix\":\"s\""), "suffix", "not supported");
    bad(API_COMPLETION, TEXT(",\"logit_bias\":{\"1\":2}"), "logit_bias", "not supported");
    bad(API_COMPLETION, TEXT(",\"best_of\":2"), "best_of", "not supported");
    bad(API_CHAT, CHAT(",\"tools\":[{}]"), "tools", "not supported");
    bad(API_CHAT, CHAT(",\"response_format\":{\"type\":\"json_object\"}"), "response_format",
        "not supported");
}

/* As deep as it likes: an error, not the end of the stack. */
static void test_deep(void **state)
{
    static char body[200001];
    (void)state;
    memset(body, '[', sizeof body - 1);
    bad(API_COMPLETION, body, "", "not JSON");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_fields),
        cmocka_unit_test(test_prompts),  cmocka_unit_test(test_messages),
        cmocka_unit_test(test_refused),  cmocka_unit_test(test_deep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
