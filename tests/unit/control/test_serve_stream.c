/* SPDX-License-Identifier: Apache-2.0 */
/* Streams of an OpenAI server, whole and cut anywhere. */
#include "control/bench/serve_stream.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static void count(void *arg)
{
    ++*(unsigned *)arg;
}

struct want {
    const char *bytes;
    int rc;
    unsigned texts;
    int64_t tokens;
    const char *error;
};

#define TEXT "data: {\"choices\": [{\"text\": \"a\"}]}\n\n"
#define END  "data: {\"choices\": [{\"text\": \"\", \"finish_reason\": \"stop\"}]}\n\n"
#define DONE "data: [DONE]\n\n"
#define USAGE                                                                                      \
    "data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 5, \"completion_tokens\": 9}}\n\n"
#define BROKEN "data: {\"choices\": \n\n"

static const struct want wants[] = {
    {TEXT END USAGE DONE, 0, 1, 9, ""},
    {TEXT TEXT END, 0, 2, -1, ""}, /* some servers send no [DONE] */
    {TEXT DONE BROKEN, 0, 1, -1, ""},
    {TEXT, -EPIPE, 1, -1, "before its end"},
    {"", -EPIPE, 0, -1, "before its end"},
    {TEXT "data: [DONE]", -EPIPE, 1, -1, "before its end"}, /* the event has not ended */
    {"\r\n: a comment\r\rdata:{\"choices\": [{\"delta\": {\"content\": "
     "\"b\"}}]}\r\n\r\ndata:[DONE]\r\r",
     0, 1, -1, ""},
    {"event: x\nid: 1\nretry: 7\ndata: {\"choices\":\ndata: []}\n\n" DONE, 0, 0, -1, ""},
    {"data: {\"choices\": [{\"delta\": {\"role\": \"assistant\", \"content\": null}}]}\n\n" DONE, 0,
     0, -1, ""},
    {"data: {\"choices\": [{\"delta\": {\"reasoning_content\": \"hm\"}}]}\n\ndata\n\n" DONE, 0, 1,
     -1, ""},
    {"data: {\"choices\": [{\"text\": \"\\u0000\"}], \"usage\": null, \"error\": null}\n\n" DONE, 0,
     1, -1, ""},
    {TEXT "data: {\"error\": {\"message\": \"lost\\nit\"}}\n\n" DONE, -EREMOTEIO, 1, -1, "lost it"},
    {"data: {\"error\": \"no\"}\n\n", -EREMOTEIO, 0, -1, "no"},
    {"data: {\"error\": {\"message\": \"\"}}\n\n", -EREMOTEIO, 0, -1, "does not say"},
    {"data: {\"error\": 7}\n\n", -EREMOTEIO, 0, -1, "does not say"},
    {BROKEN, -EBADMSG, 0, -1, "no JSON"},
    {"data: 7\n\n", -EBADMSG, 0, -1, "no JSON"},
    {"data: []\n\n", -EBADMSG, 0, -1, "no JSON object"},
    {"data: {\"choices\": {}}\n\n", -EBADMSG, 0, -1, "choices"},
    {"data: {\"choices\": [7]}\n\n", -EBADMSG, 0, -1, "choice"},
    {"data: {\"usage\": 7}\n\n", -EBADMSG, 0, -1, "usage"},
    {"data: {\"usage\": {\"prompt_tokens\": -1}}\n\n", -EBADMSG, 0, -1, "prompt_tokens"},
    {"data: {\"usage\": {\"completion_tokens\": 1.5}}\n\n", -EBADMSG, 0, -1, "completion_tokens"},
    {"data: {\"usage\": {\"completion_tokens\": 1000000001}}\n\n", -EBADMSG, 0, -1,
     "completion_tokens"},
    {"<html>\n", -EBADMSG, 0, -1, "none of server-sent events"},
    {"database: x\n", -EBADMSG, 0, -1, "none of server-sent events"},
};

static void check(const struct want *w, size_t piece)
{
    struct stream s;
    unsigned texts = 0;
    const size_t len = strlen(w->bytes);
    stream_open(&s, count, &texts);
    for (size_t at = 0; at < len; at += piece)
        stream_feed(&s, w->bytes + at, len - at < piece ? len - at : piece);
    const int rc = stream_end(&s);
    if (rc != w->rc || texts != w->texts || s.texts != texts || s.completion_tokens != w->tokens ||
        !strstr(s.error, w->error))
        fail_msg("%s in pieces of %zu: %d, %u texts, %lld tokens, \"%s\"", w->bytes, piece, rc,
                 texts, (long long)s.completion_tokens, s.error);
    stream_close(&s);
}

static void test_streams(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(wants); i++)
        for (size_t piece = 1; piece < 200; piece++)
            check(&wants[i], piece);
}

/* An event may be as long as the bound, no longer, in one line or in many. */
static void test_bounds(void **state)
{
    static const char head[] = "data: ", more[] = "data: 23456789012345678901234567890\n";
    struct stream s;
    unsigned texts = 0;
    (void)state;
    char *line = malloc(STREAM_EVENT_MAX);
    memset(line, ' ', STREAM_EVENT_MAX);
    stream_open(&s, count, &texts);
    assert_int_equal(stream_feed(&s, head, 6), 0);
    assert_int_equal(stream_feed(&s, line, STREAM_EVENT_MAX - 6), 0);
    assert_int_equal(stream_feed(&s, "x", 1), -EMSGSIZE);
    assert_int_equal(stream_feed(&s, "\n", 1), -EMSGSIZE);
    assert_int_equal(stream_end(&s), -EMSGSIZE);
    stream_close(&s);
    free(line);

    stream_open(&s, count, &texts);
    size_t lines = 0;
    while (stream_feed(&s, more, sizeof more - 1) == 0)
        assert_true(++lines <= STREAM_EVENT_MAX / 30);
    assert_true(lines >= STREAM_EVENT_MAX / 33);
    assert_int_equal(stream_end(&s), -EMSGSIZE);
    stream_close(&s);
}

static void check_model(const char *body, const char *want)
{
    char *name = stream_first_model(body, strlen(body));
    if (want)
        assert_string_equal(name, want);
    else
        assert_null(name);
    free(name);
}

static void test_bodies(void **state)
{
    char error[STREAM_ERROR];
    static const char said[] = "{\"error\": {\"message\": \"too\\tlong\"}}";
    (void)state;
    check_model("{\"data\": [{\"id\": \"a\"}, {\"id\": \"b\"}]}", "a");
    check_model("{\"data\": [{\"id\": \"\"}]}", NULL);
    check_model("{\"data\": [{\"id\": 7}]}", NULL);
    check_model("{\"data\": []}", NULL);
    check_model("[]", NULL);
    check_model("", NULL);
    stream_error_of(said, strlen(said), error);
    assert_string_equal(error, "too long");
    stream_error_of("<html>", 6, error);
    assert_string_equal(error, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_bodies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
