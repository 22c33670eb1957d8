/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway over real sockets, with a service that answers every prompt with itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/gateway/gateway.h"
#include "control/gateway/keys.h"
#include "dataplane/port.h"
#include "echo.h"
#include "fake_service.h"

#define LIMIT_MS 20000 /* tells a hang from an end */
#define KEY      "sk-0123456789abcdef"

static struct service *service;
static struct gateway *gateway;
static struct model model;
static struct fake_service_params fake = {.max_jobs = 64, .token_us = 300};
static struct gateway_params params;

static int open_model(void **state)
{
    (void)state;
    echo_model(&model);
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    tok_close(model.tok);
    return 0;
}

static void start(void)
{
    service = fake_open(&fake);
    params.service = service;
    params.model = &model;
    params.listen = "127.0.0.1:0";
    assert_int_equal(gateway_open(&params, &gateway), EXIT_OK);
}

static void stop(void)
{
    gateway_close(gateway);
    fake_close(service);
}

static int setup(void **state)
{
    (void)state;
    fake = (struct fake_service_params){.max_jobs = 64, .token_us = 300};
    params = (struct gateway_params){.listen = NULL};
    start();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    stop();
    return 0;
}

/* --- a client ----------------------------------------------------------------------------------- */

static int dial_with(int receive_bytes)
{
    return echo_dial(gateway_port(gateway), receive_bytes);
}

static int dial(void)
{
    return dial_with(0);
}

static void send_bytes(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        const ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);
        if (sent <= 0)
            return; /* what it says then is looked at */
        bytes += sent;
        n -= (size_t)sent;
    }
}

static void send_text(int fd, const char *text)
{
    send_bytes(fd, text, strlen(text));
}

/* Some bytes; 0: it was closed. */
static size_t some(int fd, char *to, size_t max)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, LIMIT_MS) != 1)
        fail_msg("nothing comes");
    const ssize_t n = recv(fd, to, max, 0);
    return n > 0 ? (size_t)n : 0;
}

static char text[1 << 22]; /* of the last reply */

/* All until it is closed. */
static const char *rest(int fd)
{
    size_t n = 0, got;
    while ((got = some(fd, text + n, sizeof text - 1 - n)) > 0)
        n += got;
    text[n] = '\0';
    close(fd);
    return text;
}

/* One reply of a connection that stays open. */
static const char *reply_of(int fd)
{
    size_t n = 0, got;
    const char *body, *length;
    do {
        got = some(fd, text + n, sizeof text - 1 - n);
        n += got;
        text[n] = '\0';
        body = strstr(text, "\r\n\r\n");
        length = strstr(text, "Content-Length: ");
    } while (got && (!body || !length ||
                     n < (size_t)(body - text) + 4 + strtoul(length + 16, NULL, 10)));
    return text;
}

/* A stream of a connection that stays open, and what comes after it in the same breath. */
static const char *stream_of(int fd)
{
    size_t n = 0, got;
    do {
        got = some(fd, text + n, sizeof text - 1 - n);
        n += got;
        text[n] = '\0';
    } while (got && !strstr(text, "data: [DONE]\n\n\r\n0\r\n\r\n"));
    return text;
}

static const char *extra = ""; /* headers */

static const char *get(const char *method, const char *path)
{
    char head[512];
    const int fd = dial();
    snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n", method,
             path, extra);
    send_text(fd, head);
    return rest(fd);
}

static void post_on(int fd, const char *path, const char *body, size_t n, const char *more)
{
    char head[512];
    snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n%s%s\r\n",
             path, n, more, extra);
    send_text(fd, head);
    send_bytes(fd, body, n);
}

static const char *post(const char *path, const char *body)
{
    const int fd = dial();
    post_on(fd, path, body, strlen(body), "Connection: close\r\n");
    return rest(fd);
}

static unsigned status(void)
{
    return (unsigned)strtoul(text + strlen("HTTP/1.1 "), NULL, 10);
}

static void has(const char *words)
{
    if (!strstr(text, words))
        fail_msg("must have \"%s\":\n%.*s", words, 900, strlen(text) > 900 ? text + strlen(text) - 900 : text);
}

static void expect(unsigned want, const char *words)
{
    if (status() != want)
        fail_msg("must be %u:\n%s", want, text);
    has(words);
}

/* The body of the last reply, chunks joined: in place. */
static char *body_of(void)
{
    char *body = strstr(text, "\r\n\r\n");
    assert_non_null(body);
    *body = '\0';
    const bool chunked = strstr(text, "Transfer-Encoding: chunked");
    body += 4;
    if (!chunked)
        return body;
    char *to = body, *from = body, *end;
    for (;;) {
        const size_t n = strtoul(from, &end, 16);
        assert_true(end > from && strncmp(end, "\r\n", 2) == 0);
        from = end + 2;
        memmove(to, from, n);
        to += n;
        from += n + 2;
        if (n == 0)
            break;
    }
    *to = '\0';
    return body;
}

static json_t *json_of_body(void)
{
    json_error_t err;
    const char *body = body_of();
    json_t *o = json_loads(body, 0, &err);
    if (!o)
        fail_msg("%s: %s", err.text, body);
    return o;
}

static const json_t *choice(const json_t *o, size_t i)
{
    return json_array_get(json_object_get(o, "choices"), i);
}

static const char *string_at(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "(none)";
}

static long long number_at(const json_t *o, const char *key)
{
    assert_true(json_is_integer(json_object_get(o, key)));
    return json_integer_value(json_object_get(o, key));
}

/* The events of a stream: the texts of each choice joined. */
struct stream {
    char text[8][4096], finish[8][16];
    unsigned events, roles;
    size_t n_logprobs, n_top; /* n_top: alternatives of all tokens */
    json_t *usage;
};

static void take_event(struct stream *s, const json_t *o)
{
    const json_t *c = choice(o, 0), *usage = json_object_get(o, "usage");
    s->events++;
    if (!c) {
        assert_true(json_is_object(usage));
        s->usage = json_deep_copy(usage);
        return;
    }
    const size_t i = (size_t)number_at(c, "index");
    const json_t *delta = json_object_get(c, "delta"), *finish = json_object_get(c, "finish_reason");
    const json_t *t = json_object_get(delta ? delta : c, delta ? "content" : "text");
    s->roles += json_object_get(delta, "role") != NULL;
    if (t)
        strcat(s->text[i], json_string_value(t));
    if (json_is_string(finish))
        strcpy(s->finish[i], json_string_value(finish));
    const json_t *l = json_object_get(c, "logprobs");
    s->n_logprobs += json_array_size(json_object_get(l, delta ? "content" : "tokens"));
    const json_t *content = json_object_get(l, "content"),
                 *tops = json_object_get(l, "top_logprobs");
    for (size_t k = 0; k < json_array_size(content); k++)
        s->n_top += json_array_size(json_object_get(json_array_get(content, k), "top_logprobs"));
    for (size_t k = 0; k < json_array_size(tops); k++)
        s->n_top += json_object_size(json_array_get(tops, k));
}

static void read_stream(struct stream *s)
{
    json_error_t err;
    *s = (struct stream){.events = 0};
    expect(200, "Content-Type: text/event-stream");
    char *at = body_of();
    for (char *end; (end = strstr(at, "\n\n")); at = end + 2) {
        *end = '\0';
        assert_int_equal(strncmp(at, "data: ", 6), 0);
        if (strcmp(at, "data: [DONE]") == 0) {
            assert_string_equal(end + 2, "");
            return;
        }
        json_t *o = json_loads(at + 6, 0, &err);
        if (!o)
            fail_msg("%s: %s", err.text, at);
        take_event(s, o);
        json_decref(o);
    }
    fail_msg("no [DONE]: %s", at);
}

static void wait_until_idle(void)
{
    const uint64_t end_ns = port_now_ns() + LIMIT_MS * 1000000ull;
    while (fake_running(service) && port_now_ns() < end_ns)
        usleep(1000);
    assert_int_equal(fake_running(service), 0);
}

#define COMPLETIONS "/v1/completions"
#define CHAT        "/v1/chat/completions"
#define TEXT(prompt, fields) "{\"model\":\"echo\",\"prompt\":" prompt fields "}"
#define SAY(content, fields)                                                                       \
    "{\"model\":\"echo\",\"messages\":[{\"role\":\"user\",\"content\":" content "}]" fields "}"

/* --- tests -------------------------------------------------------------------------------------- */

static void test_pages(void **state)
{
    (void)state;
    get("GET", "/v1/models");
    expect(200, "\"id\":\"echo\"");
    json_decref(json_of_body());
    get("GET", "/v1/models/echo");
    expect(200, "\"context_length\":512");
    get("GET", "/v1/models/other");
    expect(404, "model_not_found");
    get("GET", "/healthz");
    expect(200, "ok");
    get("GET", "/readyz");
    expect(200, "ready");
    fake_set_health(service, SERVICE_CLOUD_LOST);
    get("GET", "/readyz");
    expect(503, "for the test");
    get("HEAD", "/healthz");
    expect(200, "Content-Length: 16");
    assert_string_equal(strstr(text, "\r\n\r\n"), "\r\n\r\n");
    get("GET", "/nothing");
    expect(404, "\"type\":\"invalid_request_error\"");
    get("GET", "/v1/completions");
    expect(405, "Allow: POST");
    post("/healthz", "{}");
    expect(405, "Allow: GET, HEAD");
    get("GET", "/metrics");
    expect(200, "text/plain; version=0.0.4");
    has("isthmus_time_to_first_token_seconds_bucket{le=\"+Inf\"} 2\n");
    has("isthmus_http_requests_total{endpoint=\"models\",code=\"200\"} 2\n");
    has("isthmus_http_requests_total{endpoint=\"none\",code=\"404\"} 1\n");
    has("isthmus_ready 0\n");
}

static void test_completion(void **state)
{
    (void)state;
    post(COMPLETIONS, TEXT("\"h\\u00e9llo\\n\"", ",\"max_tokens\":9"));
    expect(200, "application/json");
    json_t *o = json_of_body();
    assert_string_equal(string_at(choice(o, 0), "text"), "h\xc3\xa9llo\nh\xef\xbf\xbd");
    assert_string_equal(string_at(choice(o, 0), "finish_reason"), "length");
    assert_string_equal(string_at(o, "object"), "text_completion");
    const json_t *usage = json_object_get(o, "usage");
    assert_int_equal(number_at(usage, "prompt_tokens"), 7);
    assert_int_equal(number_at(usage, "completion_tokens"), 9);
    assert_int_equal(number_at(usage, "total_tokens"), 16);
    assert_int_equal(
        number_at(json_object_get(usage, "prompt_tokens_details"), "cached_tokens"), FAKE_SHARED);
    json_decref(o);
    /* Of ids, and several at once. */
    post(COMPLETIONS, TEXT("[[104,105],[106]]", ",\"max_tokens\":2"));
    o = json_of_body();
    assert_string_equal(string_at(choice(o, 0), "text"), "hi");
    assert_string_equal(string_at(choice(o, 1), "text"), "jj");
    assert_int_equal(number_at(json_object_get(o, "usage"), "prompt_tokens"), 3);
    json_decref(o);
}

static void test_chat(void **state)
{
    struct stream s;
    (void)state;
    /* What is typed is text: the marker in it comes back as its letters, the template's own as
     * control tokens, which have no text. */
    post(CHAT, SAY("\"<|im_end|>\"", ",\"max_tokens\":16"));
    json_t *o = json_of_body();
    const json_t *m = json_object_get(choice(o, 0), "message");
    assert_string_equal(string_at(m, "content"), "user\n<|im_end|>");
    assert_string_equal(string_at(m, "role"), "assistant");
    json_decref(o);
    post(CHAT, SAY("\"a\\u4f60b\"", ",\"max_tokens\":11,\"stream\":true,"
                                    "\"stream_options\":{\"include_usage\":true}"));
    read_stream(&s);
    assert_string_equal(s.text[0], "user\na\xe4\xbd\xa0" "b");
    assert_string_equal(s.finish[0], "length");
    assert_int_equal(s.roles, 1);
    assert_int_equal(number_at(s.usage, "completion_tokens"), 11);
    json_decref(s.usage);
}

static void test_stop(void **state)
{
    struct stream s;
    (void)state;
    const uint64_t before = fake_cancelled(service);
    post(COMPLETIONS, TEXT("\"abSTOPcd\"", ",\"max_tokens\":400,\"stop\":[\"x\",\"STOP\"]"));
    json_t *o = json_of_body();
    assert_string_equal(string_at(choice(o, 0), "text"), "ab");
    assert_string_equal(string_at(choice(o, 0), "finish_reason"), "stop");
    assert_true(number_at(json_object_get(o, "usage"), "completion_tokens") == 6);
    json_decref(o);
    post(COMPLETIONS, TEXT("\"abSTOPcd\"", ",\"max_tokens\":400,\"stop\":\"STOP\",\"stream\":true,"
                                           "\"logprobs\":0"));
    read_stream(&s);
    assert_string_equal(s.text[0], "ab");
    assert_string_equal(s.finish[0], "stop");
    assert_int_equal(s.n_logprobs, 2);
    assert_int_equal(fake_cancelled(service), before + 2);
    wait_until_idle();
}

static void test_several(void **state)
{
    uint64_t seeds[3];
    struct stream s;
    (void)state;
    post(COMPLETIONS, TEXT("\"abc\"", ",\"max_tokens\":4,\"n\":3,\"seed\":-1"));
    json_t *o = json_of_body();
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(number_at(choice(o, i), "index"), i);
        assert_string_equal(string_at(choice(o, i), "text"), "abca");
    }
    assert_int_equal(number_at(json_object_get(o, "usage"), "prompt_tokens"), 3);
    assert_int_equal(number_at(json_object_get(o, "usage"), "completion_tokens"), 12);
    json_decref(o);
    fake_seeds(service, seeds, 3);
    assert_true(seeds[0] == UINT64_MAX && seeds[1] == 0 && seeds[2] == 1);
    post(CHAT, SAY("\"abc\"", ",\"max_tokens\":8,\"n\":2,\"stream\":true"));
    read_stream(&s);
    assert_string_equal(s.text[0], "user\nab");
    assert_string_equal(s.text[1], "user\nab");
    assert_int_equal(s.roles, 2);
    /* Without a seed, another one each time. */
    uint64_t more[2];
    fake_seeds(service, seeds, 1);
    post(COMPLETIONS, TEXT("\"abc\"", ",\"max_tokens\":1"));
    fake_seeds(service, more, 1);
    assert_true(seeds[0] != more[0]);
    assert_true(fake_sampler(service)->temp == 1 && fake_sampler(service)->top_p == 1);
}

static void test_logprobs(void **state)
{
    struct stream s;
    (void)state;
    post(COMPLETIONS, TEXT("\"ab\"", ",\"max_tokens\":3,\"logprobs\":0"));
    json_t *o = json_of_body();
    const json_t *l = json_object_get(choice(o, 0), "logprobs");
    char *dumped = json_dumps(l, JSON_COMPACT | JSON_SORT_KEYS);
    assert_string_equal(dumped, "{\"text_offset\":[0,1,2],\"token_logprobs\":[-0.5,-1,-1.5],"
                                "\"tokens\":[\"a\",\"b\",\"a\"],\"top_logprobs\":null}");
    free(dumped);
    json_decref(o);
    post(CHAT, SAY("\"\\u00e9\"", ",\"max_tokens\":8,\"logprobs\":true"));
    o = json_of_body();
    l = json_object_get(json_object_get(choice(o, 0), "logprobs"), "content");
    assert_int_equal(json_array_size(l), 8);
    const json_t *half = json_array_get(l, 6);
    assert_string_equal(string_at(half, "token"), "\xef\xbf\xbd");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(half, "bytes"), 0)), 0xc3);
    json_decref(o);
    post(CHAT, SAY("\"\\u00e9\"", ",\"max_tokens\":8,\"logprobs\":true,\"stream\":true"));
    read_stream(&s);
    assert_int_equal(s.n_logprobs, 8);
}

/* A completion's: the likeliest by their text, best first, and the chosen one in any case. */
static void test_top_logprobs_of_text(void **state)
{
    static const char first[] = "{\"a\":-0.5,\"b\":-1,\"<|im_end|>\":-2,\"bytes:\\\\xc3\":-3,"
                                "\"\\\"\":-4";
    char want[300];
    struct stream s;
    (void)state;
    post(COMPLETIONS, TEXT("\"az\\u00e9\"", ",\"max_tokens\":4,\"logprobs\":5"));
    json_t *o = json_of_body();
    const json_t *l = json_object_get(choice(o, 0), "logprobs");
    char *dumped = json_dumps(json_object_get(l, "top_logprobs"), JSON_COMPACT);
    snprintf(want, sizeof want, "[%s},%s,\"z\":-1},%s},%s,\"bytes:\\\\xa9\":-2}]", first, first,
             first, first);
    assert_string_equal(dumped, want);
    free(dumped);
    dumped = json_dumps(json_object_get(l, "tokens"), JSON_COMPACT);
    assert_string_equal(dumped, "[\"a\",\"z\",\"bytes:\\\\xc3\",\"bytes:\\\\xa9\"]");
    free(dumped);
    json_decref(o);
    post(COMPLETIONS, TEXT("\"ab\"", ",\"max_tokens\":40,\"n\":2,\"logprobs\":2,\"stream\":true"));
    read_stream(&s);
    assert_int_equal(s.n_logprobs, 80);
    assert_int_equal(s.n_top, 160);
    post(COMPLETIONS, TEXT("\"cd\"", ",\"max_tokens\":40,\"logprobs\":2,\"stream\":true"));
    read_stream(&s);
    assert_int_equal(s.n_top, 120);
}

/* A chat's: text, value and bytes of each; a vocabulary may have fewer. */
static void test_top_logprobs_of_chat(void **state)
{
    static const struct {
        const char *token;
        double logprob;
        unsigned n_bytes;
        int first_byte;
    } want[FAKE_TOP] = {{"a", -.5, 1, 'a'},          {"b", -1, 1, 'b'},
                        {"<|im_end|>", -2, 10, '<'}, {"\xef\xbf\xbd", -3, 1, 0xc3},
                        {"\"", -4, 1, '"'},          {"\xef\xbf\xbd", -9999, 1, 0xe2}};
    struct stream s;
    (void)state;
    post(CHAT, SAY("\"hi\"", ",\"max_tokens\":9,\"logprobs\":true,\"top_logprobs\":20"));
    json_t *o = json_of_body();
    const json_t *l = json_object_get(json_object_get(choice(o, 0), "logprobs"), "content");
    assert_int_equal(json_array_size(l), 9);
    for (size_t i = 0; i < 9; i++) {
        const json_t *top = json_object_get(json_array_get(l, i), "top_logprobs");
        assert_int_equal(json_array_size(top), FAKE_TOP);
        for (unsigned k = 0; k < FAKE_TOP; k++) {
            const json_t *t = json_array_get(top, k), *bytes = json_object_get(t, "bytes");
            assert_int_equal(json_object_size(t), 3);
            assert_string_equal(string_at(t, "token"), want[k].token);
            assert_true(json_number_value(json_object_get(t, "logprob")) == want[k].logprob);
            assert_int_equal(json_array_size(bytes), want[k].n_bytes);
            assert_int_equal(json_integer_value(json_array_get(bytes, 0)), want[k].first_byte);
        }
    }
    json_decref(o);
    post(CHAT,
         SAY("\"hi\"", ",\"max_tokens\":9,\"logprobs\":true,\"top_logprobs\":3,\"stream\":true"));
    read_stream(&s);
    assert_int_equal(s.n_logprobs, 9);
    assert_int_equal(s.n_top, 27);
}

static void test_refused(void **state)
{
    static char large[3 << 20];
    (void)state;
    post(COMPLETIONS, "{");
    expect(400, "invalid_json");
    post(COMPLETIONS, "{\"model\":\"other\",\"prompt\":\"a\"}");
    expect(404, "model_not_found");
    post(COMPLETIONS, TEXT("[258]", ""));
    expect(400, "vocabulary");
    post(COMPLETIONS, TEXT("\"\"", ""));
    expect(400, "no tokens");
    post(COMPLETIONS, TEXT("\"a\"", ",\"max_tokens\":\"a\""));
    expect(400, "\"param\":\"max_tokens\"");
    strcpy(large, "{\"model\":\"echo\",\"prompt\":\"");
    memset(large + strlen(large), 'a', 512);
    strcat(large, "\"}");
    post(COMPLETIONS, large);
    expect(400, "context_length_exceeded");
    post(COMPLETIONS, TEXT("\"\\u0007\"", ""));
    expect(503, "refused by the fake");
    has("Retry-After");
    post(COMPLETIONS, TEXT("\"\\u0007\"", ",\"stream\":true"));
    expect(503, "refused by the fake");
    memset(large, 'a', sizeof large - 1);
    post(COMPLETIONS, large);
    if (*text) /* else it was closed before all of this was sent */
        expect(413, "body_too_large");
    const int fd = dial();
    send_text(fd, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (unsigned i = 0; i < 40; i++) {
        send_text(fd, "8000\r\n");
        send_bytes(fd, large, 0x8000);
        send_text(fd, "\r\n");
    }
    rest(fd);
    if (*text)
        expect(413, "body_too_large");
    fake_set_health(service, SERVICE_DRAINING);
    post(COMPLETIONS, TEXT("\"a\"", ""));
    expect(503, "Retry-After");
    fake_set_health(service, SERVICE_READY);
    post(COMPLETIONS, TEXT("\"a\"", ""));
    expect(200, "aaaaaaaaaaaaaaaa");
}

static void test_full(void **state)
{
    (void)state;
    stop();
    fake.max_jobs = 3;
    fake.token_us = 2000;
    start();
    const int fd = dial();
    post_on(fd, COMPLETIONS, TEXT("[1,2]", ",\"max_tokens\":500,\"n\":3"),
            strlen(TEXT("[1,2]", ",\"max_tokens\":500,\"n\":3")), "");
    while (fake_running(service) < 3)
        usleep(1000);
    post(COMPLETIONS, TEXT("\"a\"", ""));
    expect(429, "Retry-After: 1");
    has("rate_limit_exceeded");
    assert_int_equal(fake_rejected(service), 1);
    close(fd);
    wait_until_idle();
    /* Answers that find no room later wait for it: none of them is refused. */
    post(COMPLETIONS, TEXT("\"ab\"", ",\"max_tokens\":20,\"n\":8"));
    expect(200, "\"index\":7,\"text\":\"abababababababababab\"");
    assert_int_equal(fake_rejected(service), 1);
}

/* All answers of a request have its time, whenever there is room for them: here never, since the
 * first has the only place for a second. */
static void test_later_answers_time_out(void **state)
{
    static const char two[] = TEXT("\"ab\"", ",\"max_tokens\":500,\"n\":2");
    (void)state;
    stop();
    fake.max_jobs = 1;
    fake.token_us = 2000;
    start();
    fake_set_timeout(service, 200000000u);
    const uint64_t from_ns = port_now_ns(), before = fake_cancelled(service);
    post(COMPLETIONS, two);
    expect(503, "--request-timeout");
    assert_true(port_now_ns() - from_ns >= 200000000u);
    assert_int_equal(fake_submitted(service), 1);
    assert_int_equal(fake_cancelled(service), before + 1);
    wait_until_idle();
}

/* The context of new requests is shorter while memory is: that is said as what passes; answers of a
 * request that was taken before come all the same. */
static void test_shorter_context(void **state)
{
    static const char several[] = TEXT("\"abcdefgh\"", ",\"max_tokens\":40,\"n\":4");
    (void)state;
    stop();
    fake.token_us = 20000;
    start();
    const int fd = dial();
    post_on(fd, COMPLETIONS, several, strlen(several), "");
    while (!fake_submitted(service))
        usleep(500);
    fake_set_context(service, 4);
    reply_of(fd);
    expect(200, "\"index\":3,\"text\":\"abcdefghabcdefghabcdefghabcdefghabcdefgh\"");
    close(fd);
    post(COMPLETIONS, several);
    expect(503, "memory is short");
    has("Retry-After");
    fake_set_context(service, FAKE_CONTEXT);
    post(COMPLETIONS, several);
    expect(200, "\"index\":3");
}

static void leave(const char *body, bool reset)
{
    const struct linger at_once = {.l_onoff = 1};
    const int fd = dial();
    post_on(fd, COMPLETIONS, body, strlen(body), "");
    while (!fake_running(service))
        usleep(500);
    usleep(20000);
    if (reset)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd);
    const uint64_t left_ns = port_now_ns();
    wait_until_idle();
    assert_true(port_now_ns() - left_ns < 1000000000u); /* the answer would take 10 s */
}

static void test_disconnect(void **state)
{
    (void)state;
    stop();
    fake.token_us = 20000;
    start();
    leave(TEXT("\"ab\"", ",\"max_tokens\":500"), false);
    leave(TEXT("\"ab\"", ",\"max_tokens\":500"), true);
    leave(TEXT("\"ab\"", ",\"max_tokens\":500,\"stream\":true"), false);
    leave(TEXT("\"ab\"", ",\"max_tokens\":500,\"stream\":true"), true);
    leave(TEXT("\"ab\"", ",\"max_tokens\":500,\"stream\":true,\"n\":8"), false);
    get("GET", "/metrics");
    has("isthmus_http_requests_total{endpoint=\"completions\",code=\"499\"} 5\n");
    has("isthmus_http_connections 1\n");
}

static void test_keep_alive(void **state)
{
    const int fd = dial();
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        const char *body = TEXT("\"hi\"", ",\"max_tokens\":2");
        post_on(fd, COMPLETIONS, body, strlen(body), "");
        reply_of(fd);
        expect(200, "\"text\":\"hi\"");
        /* An error keeps it open, too. */
        post_on(fd, "/nothing", "x", 1, "");
        reply_of(fd);
        expect(404, "not_found");
    }
    close(fd);
}

/* What is sent past the HTTP library leaves the connection as it would have been. */
static void test_streams(void **state)
{
    static const char body[] = TEXT("\"ab\"", ",\"max_tokens\":60,\"stream\":true");
    struct stream s;
    char head[256], want[61] = "";
    (void)state;
    for (unsigned i = 0; i < 30; i++)
        strcat(want, "ab");
    const int fd = dial();
    for (unsigned i = 0; i < 3; i++) {
        post_on(fd, COMPLETIONS, body, strlen(body), "");
        stream_of(fd);
        read_stream(&s);
        assert_string_equal(s.text[0], want);
        assert_true(s.events > 3);
    }
    /* The next request comes while the first is answered. */
    post_on(fd, COMPLETIONS, body, strlen(body), "");
    post_on(fd, COMPLETIONS, body, strlen(body), "Connection: close\r\n");
    rest(fd);
    char *second = strstr(text, "0\r\n\r\nHTTP/1.1 200");
    assert_non_null(second);
    memmove(text, second + 5, strlen(second + 5) + 1);
    read_stream(&s);
    assert_string_equal(s.text[0], want);
    /* HTTP/1.0 knows no chunks. */
    const int old = dial();
    snprintf(head, sizeof head, "POST %s HTTP/1.0\r\nContent-Length: %zu\r\n\r\n", COMPLETIONS,
             strlen(body));
    send_text(old, head);
    send_text(old, body);
    rest(old);
    assert_null(strstr(text, "chunked"));
    read_stream(&s);
    assert_string_equal(s.text[0], want);
}

/* Who reads late gets everything: what the socket has no room for waits. */
static void test_late_reader(void **state)
{
    const char *body = TEXT("\"abcdefg\"", ",\"max_tokens\":490,\"n\":8,\"logprobs\":1,\"stream\":true");
    struct stream s;
    (void)state;
    stop();
    fake.token_us = 100;
    start();
    const int fd = dial_with(2048);
    post_on(fd, COMPLETIONS, body, strlen(body), "Connection: close\r\n");
    while (!fake_running(service))
        usleep(1000);
    wait_until_idle();
    usleep(50000);
    rest(fd);
    read_stream(&s);
    assert_int_equal(s.n_logprobs, 8 * 490);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(strlen(s.text[i]), 490);
        for (unsigned k = 0; k < 490; k++)
            assert_true(s.text[i][k] == "abcdefg"[k % 7]);
    }
}

static void test_slow(void **state)
{
    (void)state;
    stop();
    params.limits = (struct gateway_limits){.header_ms = 300, .body_ms = 300, .idle_ms = 1500};
    start();
    int fd = dial();
    send_text(fd, "GET /healthz HTTP/1.1\r\n");
    for (unsigned i = 0; i < 8; i++) { /* a byte now and then does not help */
        usleep(50000);
        send_text(fd, "X");
    }
    rest(fd);
    expect(408, "request_timeout");
    fd = dial();
    send_text(fd, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"model\"");
    rest(fd);
    expect(408, "request_timeout");
    fd = dial();
    const uint64_t from_ns = port_now_ns();
    rest(fd);
    assert_string_equal(text, "");
    assert_true(port_now_ns() - from_ns > 1000000000u);
    get("GET", "/metrics");
    has("isthmus_http_timeouts_total 2\n");
    has("code=\"408\"} 1\n");
}

/* Who reads nothing is not written to for ever. */
static void test_stalled(void **state)
{
    (void)state;
    stop();
    params.limits = (struct gateway_limits){.write_ms = 400};
    fake.token_us = 100;
    start();
    int fd[16];
    const char *body = TEXT("[1,2]", ",\"max_tokens\":500,\"n\":8,\"logprobs\":1,\"stream\":true");
    for (unsigned i = 0; i < 4; i++) {
        fd[i] = dial_with(2048);
        post_on(fd[i], COMPLETIONS, body, strlen(body), "");
    }
    wait_until_idle();
    const uint64_t end_ns = port_now_ns() + LIMIT_MS * 1000000ull;
    do {
        usleep(50000);
        get("GET", "/metrics");
    } while (!strstr(text, "isthmus_http_connections 1\n") && port_now_ns() < end_ns);
    has("isthmus_http_connections 1\n");
    has("isthmus_http_timeouts_total 4\n");
    for (unsigned i = 0; i < 4; i++)
        close(fd[i]);
}

static void test_many_idle(void **state)
{
    struct rlimit files;
    int fd[1000];
    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    files.rlim_cur = files.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
    const unsigned n = files.rlim_max > 2300 ? 1000 : (unsigned)files.rlim_max / 3;
    for (unsigned i = 0; i < n; i++)
        fd[i] = dial();
    post(COMPLETIONS, TEXT("\"hi\"", ",\"max_tokens\":2"));
    expect(200, "\"text\":\"hi\"");
    send_text(fd[0], "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    rest(fd[0]);
    expect(200, "ok");
    for (unsigned i = 1; i < n; i++)
        close(fd[i]);
}

static void test_keys(void **state)
{
    char path[] = "/tmp/isthmus-test-keys-XXXXXX", err[API_KEYS_ERR];
    const int file = mkstemp(path);
    (void)state;
    stop();
    assert_true(file >= 0 && dprintf(file, "alice %s\n", KEY) > 0);
    params.keys_file = path;
    start();
    get("GET", "/v1/models");
    expect(401, "WWW-Authenticate: Bearer");
    has("invalid_api_key");
    get("GET", "/healthz");
    expect(200, "ok");
    extra = "Authorization: Bearer sk-0123456789abcdeX\r\n";
    get("GET", "/v1/models");
    expect(401, "invalid_api_key");
    extra = "Authorization: Bearer " KEY "\r\n";
    get("GET", "/v1/models");
    expect(200, "echo");
    post(COMPLETIONS, TEXT("\"a\"", ""));
    expect(200, "aaaa");
    assert_string_equal(fake_client(service), "alice");
    /* Another file: the old key is no good any more; a bad file changes nothing. */
    assert_int_equal(ftruncate(file, 0), 0);
    assert_int_equal(pwrite(file, "x", 1, 0), 1);
    assert_int_equal(gateway_reload_keys(gateway, err), -EBADMSG);
    assert_non_null(strstr(err, "line 1"));
    get("GET", "/v1/models");
    expect(200, "echo");
    assert_int_equal(pwrite(file, "bob sk-fedcba9876543210\n", 24, 0), 24);
    assert_int_equal(gateway_reload_keys(gateway, err), 0);
    get("GET", "/v1/models");
    expect(401, "invalid_api_key");
    extra = "";
    close(file);
    unlink(path);
}

/* The gateway goes while answers run: they end cut off, and the service may still call. */
static void test_close(void **state)
{
    int fd[8];
    (void)state;
    stop();
    fake.token_us = 5000;
    start();
    for (unsigned i = 0; i < 8; i++) {
        const char *body = i % 2 ? TEXT("\"ab\"", ",\"max_tokens\":500,\"stream\":true")
                                 : TEXT("\"ab\"", ",\"max_tokens\":500,\"n\":2");
        fd[i] = dial();
        post_on(fd[i], COMPLETIONS, body, strlen(body), "");
    }
    while (fake_running(service) < 12)
        usleep(1000);
    stop();
    for (unsigned i = 0; i < 8; i++) {
        rest(fd[i]);
        assert_null(strstr(text, "[DONE]"));
    }
    start();
}

static void test_bad_address(void **state)
{
    struct gateway *g;
    struct gateway_params p = params;
    static const char *const bad[] = {"", "x", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536",
                                      "::1:80", "127.0.0.1:x"};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        p.listen = bad[i];
        assert_int_equal(gateway_open(&p, &g), EXIT_USAGE);
    }
    char taken[32];
    snprintf(taken, sizeof taken, "127.0.0.1:%u", gateway_port(gateway));
    p.listen = taken;
    assert_int_equal(gateway_open(&p, &g), EXIT_FAILED);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_pages),
        TEST(test_completion),
        TEST(test_chat),
        TEST(test_stop),
        TEST(test_several),
        TEST(test_logprobs),
        TEST(test_top_logprobs_of_text),
        TEST(test_top_logprobs_of_chat),
        TEST(test_refused),
        TEST(test_full),
        TEST(test_later_answers_time_out),
        TEST(test_shorter_context),
        TEST(test_disconnect),
        TEST(test_keep_alive),
        TEST(test_slow),
        TEST(test_stalled),
        TEST(test_streams),
        TEST(test_late_reader),
        TEST(test_many_idle),
        TEST(test_keys),
        TEST(test_close),
        TEST(test_bad_address),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
