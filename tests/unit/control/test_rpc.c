/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket's lines: what they get as answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/rpc/pcapng.h"
#include "control/rpc/rpc.h"

static int calls;

static json_t *echo(struct rpc_call *c)
{
    calls++;
    return json_incref(c->params);
}

static json_t *refuse(struct rpc_call *c)
{
    return rpc_fail(c, RPC_NOT_FOUND, "there is no session %.0f", rpc_number(c, "id", -1));
}

static json_t *no_memory(struct rpc_call *c)
{
    return NULL;
}

static json_t *whose(struct rpc_call *c)
{
    return json_string(c->arg);
}

static const char *const colours[] = {"red", "green", NULL};
static const struct rpc_param echo_params[] = {
    {"id", "of a session", RPC_WHOLE, true, 1, 100, NULL},
    {"colour", "of what", RPC_TEXT, false, 0, 0, colours},
    {"rate", "bytes a token", RPC_REAL, false, .5, 2, NULL},
    {"deep", "or not", RPC_BOOL, false, 0, 0, NULL},
    {"any", "number", RPC_WHOLE, false, 0, 0, NULL},
    {NULL, NULL, RPC_TEXT, false, 0, 0, NULL},
};
static const struct rpc_method first[] = {
    {"sessions.show", RPC_USER, "one", echo_params, false, echo},
    {"sessions.kill", RPC_OPERATOR, "end one", echo_params, true, refuse},
    {"config.reload", RPC_ADMIN, "again", NULL, false, whose},
    {NULL, RPC_NOBODY, NULL, NULL, false, NULL},
};
static const struct rpc_method second[] = {
    {"whose", RPC_USER, "arg", NULL, false, whose},
    {"broken", RPC_USER, "out of memory", NULL, false, no_memory},
    {NULL, RPC_NOBODY, NULL, NULL, false, NULL},
};
static char one[] = "1", two[] = "2";
static const struct rpc_methods sets[] = {{first, one}, {second, two}, {NULL, NULL}};
static struct rpc_table table = {sets, {NULL, NULL}};

static json_t *answer_as(enum rpc_role role, const char *line)
{
    const struct rpc_who who = {role, 1000, 1};
    char *text = rpc_answer(&table, &who, line, strlen(line));
    if (!text)
        return NULL;
    assert_null(strchr(text, '\n'));
    json_t *o = json_loads(text, 0, NULL);
    assert_non_null(o);
    free(text);
    return o;
}

#define ID "\"jsonrpc\":\"2.0\",\"id\":7,"

static void assert_error(enum rpc_role role, const char *line, int code, const char *word)
{
    json_t *o = answer_as(role, line);
    assert_non_null(o);
    const json_t *e = json_object_get(o, "error");
    const char *message = json_string_value(json_object_get(e, "message"));
    if (json_integer_value(json_object_get(e, "code")) != code || !strstr(message, word))
        fail_msg("%s: %lld %s, not %d %s", line, json_integer_value(json_object_get(e, "code")),
                 message, code, word);
    assert_string_equal(json_string_value(json_object_get(o, "jsonrpc")), "2.0");
    assert_non_null(json_object_get(o, "id"));
    assert_null(json_object_get(o, "result"));
    json_decref(o);
}

static void results(void **state)
{
    json_t *o = answer_as(RPC_USER, "{" ID "\"method\":\"sessions.show\",\"params\":{\"id\":5,"
                                    "\"colour\":\"red\",\"rate\":1,\"deep\":true,\"any\":-9}}");
    const json_t *r = json_object_get(o, "result");
    assert_int_equal(json_integer_value(json_object_get(r, "id")), 5);
    assert_int_equal(json_integer_value(json_object_get(r, "any")), -9);
    assert_int_equal(json_integer_value(json_object_get(o, "id")), 7);
    json_decref(o);

    /* By position; a null leaves one out. */
    o = answer_as(RPC_USER, "{" ID "\"method\":\"sessions.show\",\"params\":[5,null,1.5]}");
    r = json_object_get(o, "result");
    assert_int_equal(json_object_size(r), 2);
    assert_true(json_real_value(json_object_get(r, "rate")) == 1.5);
    json_decref(o);

    /* Each table has its own arg; ids are whatever they were. */
    o = answer_as(RPC_ADMIN, "[{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"whose\"},"
                             "{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"config.reload\"}]");
    assert_int_equal(json_array_size(o), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(o, 0), "result")), "2");
    assert_string_equal(json_string_value(json_object_get(json_array_get(o, 0), "id")), "a");
    assert_string_equal(json_string_value(json_object_get(json_array_get(o, 1), "result")), "1");
    assert_true(json_is_null(json_object_get(json_array_get(o, 1), "id")));
    json_decref(o);
}

static void notifications(void **state)
{
    calls = 0;
    assert_null(answer_as(RPC_USER, "{\"jsonrpc\":\"2.0\",\"method\":\"sessions.show\","
                                    "\"params\":[1]}"));
    assert_null(answer_as(RPC_USER, "[{\"jsonrpc\":\"2.0\",\"method\":\"sessions.show\","
                                    "\"params\":[1]},{\"jsonrpc\":\"2.0\",\"method\":\"none\"}]"));
    assert_int_equal(calls, 2);
}

static void refusals(void **state)
{
    static const struct {
        const char *line;
        int code;
        const char *word;
    } cases[] = {
        {"", RPC_PARSE, "not JSON"},
        {"{", RPC_PARSE, "not JSON"},
        {"{\"a\":1,\"a\":2}", RPC_PARSE, "not JSON"},
        {"{\"a\":\"\xff\"}", RPC_PARSE, "not JSON"},
        {"\xff\xfe", RPC_PARSE, "not JSON"},
        {"{\"a\":1e999}", RPC_PARSE, "not JSON"},
        {"{} {}", RPC_PARSE, "not JSON"},
        {"7", RPC_INVALID_REQUEST, "must be an object"},
        {"[]", RPC_INVALID_REQUEST, "a batch"},
        {"{" ID "\"method\":7}", RPC_INVALID_REQUEST, "method must"},
        {"{\"id\":1,\"method\":\"whose\"}", RPC_INVALID_REQUEST, "jsonrpc"},
        {"{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"whose\"}", RPC_INVALID_REQUEST, "jsonrpc"},
        {"{\"jsonrpc\":\"2.0\",\"id\":[],\"method\":\"whose\"}", RPC_INVALID_REQUEST, "id must"},
        {"{" ID "\"method\":\"session.list\"}", RPC_UNKNOWN_METHOD, "did you mean sessions.kill"},
        {"{" ID "\"method\":\"sesions.show\"}", RPC_UNKNOWN_METHOD, "did you mean sessions.show"},
        {"{" ID "\"method\":\"qqqqqqqqqqqqqqqqqqq\"}", RPC_UNKNOWN_METHOD, "methods.list"},
        {"{" ID "\"method\":\"\"}", RPC_UNKNOWN_METHOD, "methods.list"},
        {"{" ID "\"method\":\"broken\"}", RPC_INTERNAL, "memory"},
        {"{" ID "\"method\":\"whose\",\"params\":3}", RPC_INVALID_PARAMS, "params must"},
        {"{" ID "\"method\":\"whose\",\"params\":[3]}", RPC_INVALID_PARAMS, "takes 0"},
        {"{" ID "\"method\":\"whose\",\"params\":{\"x\":3}}", RPC_INVALID_PARAMS, "parameter x"},
        {"{" ID "\"method\":\"sessions.show\"}", RPC_INVALID_PARAMS, "id is missing"},
        {"{" ID "\"method\":\"sessions.show\",\"params\":[\"5\"]}", RPC_INVALID_PARAMS,
         "id must be an integer"},
        {"{" ID "\"method\":\"sessions.show\",\"params\":[5.0]}", RPC_INVALID_PARAMS,
         "id must be an integer"},
        {"{" ID "\"method\":\"sessions.show\",\"params\":[0]}", RPC_INVALID_PARAMS,
         "id must be 1 to 100"},
        {"{" ID "\"method\":\"sessions.show\",\"params\":[101]}", RPC_INVALID_PARAMS,
         "id must be 1 to 100"},
        {"{" ID "\"method\":\"sessions.show\",\"params\":[5,\"blue\"]}", RPC_INVALID_PARAMS,
         "one of red, green"},
        {"{" ID "\"method\":\"sessions.show\",\"params\":{\"id\":5,\"deep\":1}}",
         RPC_INVALID_PARAMS, "deep must be a boolean"},
        {"{" ID "\"method\":\"sessions.show\",\"params\":{\"id\":5,\"rate\":2.01}}",
         RPC_INVALID_PARAMS, "rate must be"},
        {"{" ID "\"method\":\"sessions.kill\",\"params\":[9]}", RPC_NOT_FOUND, "no session 9"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_error(RPC_ADMIN, cases[i].line, cases[i].code, cases[i].word);

    char line[200];
    snprintf(line, sizeof line, "{" ID "\"method\":\"%.*s\xc3\xa4\xc3\xa4\"}", 63,
             "ssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss");
    assert_error(RPC_ADMIN, line, RPC_UNKNOWN_METHOD, "methods.list"); /* cut inside a letter */
}

static void batch_limit(void **state)
{
    char line[RPC_BATCH_MAX * 3 + 8] = "[";
    for (unsigned i = 0; i <= RPC_BATCH_MAX; i++)
        strcat(line, i ? ",1" : "1");
    strcat(line, "]");
    assert_error(RPC_ADMIN, line, RPC_INVALID_REQUEST, "64 requests");
}

static void roles(void **state)
{
    static const struct {
        enum rpc_role role, needs;
        const char *method;
    } cases[] = {
        {RPC_NOBODY, RPC_USER, "sessions.show"},
        {RPC_USER, RPC_OPERATOR, "sessions.kill"},
        {RPC_USER, RPC_ADMIN, "config.reload"},
        {RPC_OPERATOR, RPC_ADMIN, "config.reload"},
    };
    char line[128];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(line, sizeof line, "{" ID "\"method\":\"%s\",\"params\":[]}", cases[i].method);
        assert_error(cases[i].role, line, RPC_NOT_ALLOWED, rpc_role_name(cases[i].needs));
        json_t *o = answer_as(cases[i].role, line);
        const json_t *data = json_object_get(json_object_get(o, "error"), "data");
        assert_string_equal(json_string_value(json_object_get(data, "needs")),
                            rpc_role_name(cases[i].needs));
        assert_string_equal(json_string_value(json_object_get(data, "role")),
                            rpc_role_name(cases[i].role));
        json_decref(o);
    }
    json_t *o = answer_as(RPC_OPERATOR, "{" ID "\"method\":\"sessions.kill\",\"params\":[1]}");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "error"), "code")),
                     RPC_NOT_FOUND);
    json_decref(o);
}

static void methods_list(void **state)
{
    json_t *o = answer_as(RPC_USER, "{" ID "\"method\":\"methods.list\"}");
    const json_t *list = json_object_get(json_object_get(o, "result"), "methods");
    assert_int_equal(json_array_size(list), 6);
    const json_t *m = json_array_get(list, 1), *schema = json_object_get(m, "params");
    assert_string_equal(json_string_value(json_object_get(m, "name")), "sessions.show");
    assert_string_equal(json_string_value(json_object_get(m, "role")), "user");
    const json_t *properties = json_object_get(schema, "properties");
    assert_int_equal(json_object_size(properties), 5);
    assert_int_equal(json_array_size(json_object_get(schema, "required")), 1);
    assert_true(json_is_false(json_object_get(schema, "additionalProperties")));
    const json_t *colour = json_object_get(properties, "colour"),
                 *id = json_object_get(properties, "id");
    assert_int_equal(json_array_size(json_object_get(colour, "enum")), 2);
    assert_int_equal(json_integer_value(json_object_get(id, "maximum")), 100);
    assert_string_equal(json_string_value(json_object_get(id, "type")), "integer");
    json_decref(o);
}

static int hop_result, hops;

static int hop(void *arg, void (*fn)(void *fn_arg), void *fn_arg)
{
    hops++;
    if (hop_result == 0)
        fn(fn_arg);
    return hop_result;
}

static void engine_thread(void **state)
{
    const char *kill = "{" ID "\"method\":\"sessions.kill\",\"params\":[1]}";
    table.hop.run = hop;
    hops = hop_result = 0;
    assert_error(RPC_ADMIN, kill, RPC_NOT_FOUND, "no session 1");
    hop_result = -ETIMEDOUT;
    assert_error(RPC_ADMIN, kill, RPC_NOT_NOW, "busy");
    hop_result = -ESHUTDOWN;
    assert_error(RPC_ADMIN, kill, RPC_SHUTDOWN, "ending");
    assert_int_equal(hops, 3);
    json_decref(answer_as(RPC_ADMIN, "{" ID "\"method\":\"whose\"}")); /* needs no hop */
    assert_int_equal(hops, 3);
    table.hop.run = NULL;
}

/* Lengths that agree, and nothing written where it does not fit. */
static void blocks_of_pcapng(void **state)
{
    uint8_t to[512], frame[70];
    memset(frame, 0xab, sizeof frame);
    for (size_t room = 0; room <= 256; room++) {
        memset(to, 0x55, sizeof to);
        const size_t n = pcapng_packet(to, room, 3, 1234567890123456789u, true, frame, 66, 1400);
        assert_int_equal(n, room < 112 ? 0 : 112);
        for (size_t i = room; i < sizeof to; i++)
            assert_int_equal(to[i], 0x55);
    }
    const size_t n = pcapng_section(to, sizeof to, "isthmus");
    assert_int_equal(n % 4, 0);
    assert_memory_equal(to, "\x0a\x0d\x0d\x0a", 4);
    assert_int_equal(to[4], n);
    assert_int_equal(to[n - 4], n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results),       cmocka_unit_test(notifications),
        cmocka_unit_test(refusals),      cmocka_unit_test(batch_limit),
        cmocka_unit_test(roles),         cmocka_unit_test(methods_list),
        cmocka_unit_test(engine_thread), cmocka_unit_test(blocks_of_pcapng),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
