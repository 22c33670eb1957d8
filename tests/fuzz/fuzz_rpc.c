/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a line of the control socket: an answer that is one line of JSON-RPC, or none;
 * methods see only parameters that agree with what they declare, from callers that may call them.
 */
#include "control/rpc/rpc.h"

#include <stdlib.h>
#include <string.h>

static void check(int ok)
{
    if (!ok)
        abort();
}

static json_t *sound(struct rpc_call *c)
{
    const char *name;
    json_t *v;
    check(c->who.role >= c->method->role);
    check(json_is_object(c->params));
    json_object_foreach(c->params, name, v)
    {
        const struct rpc_param *p = c->method->params;
        while (p && p->name && strcmp(p->name, name) != 0)
            p++;
        check(p && p->name);
        if (p->type == RPC_WHOLE)
            check(json_is_integer(v) && json_integer_value(v) >= 1 &&
                  json_integer_value(v) <= 1000);
        if (p->type == RPC_REAL)
            check(json_is_number(v));
        if (p->type == RPC_BOOL)
            check(json_is_boolean(v));
        if (p->type == RPC_TEXT)
            check(strcmp(json_string_value(v), "a") == 0 || strcmp(json_string_value(v), "b") == 0);
    }
    for (const struct rpc_param *p = c->method->params; p && p->name; p++)
        check(!p->required || json_object_get(c->params, p->name));
    return rpc_flag(c, "deep", false) ? rpc_fail(c, RPC_NOT_FOUND, "%s", rpc_text(c, "text", "no"))
                                      : json_incref(c->params);
}

static const char *const choices[] = {"a", "b", NULL};
static const struct rpc_param params[] = {
    {"id", "whole", RPC_WHOLE, true, 1, 1000, NULL},
    {"text", "choice", RPC_TEXT, false, 0, 0, choices},
    {"x", "real", RPC_REAL, false, 0, 0, NULL},
    {"deep", "truth", RPC_BOOL, false, 0, 0, NULL},
    {NULL, NULL, RPC_TEXT, false, 0, 0, NULL},
};
static const struct rpc_method methods[] = {
    {"all", RPC_USER, "help", params, false, sound},
    {"log.level", RPC_OPERATOR, "help", params, true, sound},
    {"none", RPC_ADMIN, "help", NULL, false, sound},
    {NULL, RPC_NOBODY, NULL, NULL, false, NULL},
};
static const struct rpc_methods sets[] = {{methods, NULL}, {NULL, NULL}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte is the role, the rest the line. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct rpc_table table = {sets, {NULL, NULL}};
    if (size == 0)
        return 0;
    const struct rpc_who who = {(enum rpc_role)(data[0] % 4), 1, 1};
    char *answer = rpc_answer(&table, &who, (const char *)data + 1, size - 1);
    if (!answer)
        return 0;
    check(!strchr(answer, '\n'));
    json_t *o = json_loads(answer, 0, NULL);
    check(json_is_object(o) || (json_is_array(o) && json_array_size(o) <= RPC_BATCH_MAX));
    const json_t *first = json_is_array(o) ? json_array_get(o, 0) : o;
    check(json_object_get(first, "jsonrpc") && json_object_get(first, "id"));
    check(!json_object_get(first, "result") != !json_object_get(first, "error"));
    json_decref(o);
    free(answer);
    return 0;
}
