/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rpc/params.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *type_name(enum rpc_type t)
{
    return t == RPC_TEXT    ? "string"
           : t == RPC_WHOLE ? "integer"
           : t == RPC_REAL  ? "number"
                            : "boolean";
}

static const struct rpc_param *find(const struct rpc_param *params, const char *name)
{
    for (; params && params->name; params++)
        if (strcmp(params->name, name) == 0)
            return params;
    return NULL;
}

static bool has_type(const struct rpc_param *p, const json_t *v)
{
    switch (p->type) {
    case RPC_TEXT:
        return json_is_string(v);
    case RPC_WHOLE:
        return json_is_integer(v);
    case RPC_REAL:
        return json_is_number(v);
    case RPC_BOOL:
        return json_is_boolean(v);
    }
    return false;
}

static void list_choices(const struct rpc_param *p, char *err)
{
    size_t at = (size_t)snprintf(err, RPC_ERR, "%s must be one of ", p->name);
    for (const char *const *c = p->choices; *c && at < RPC_ERR; c++)
        at += (size_t)snprintf(err + at, RPC_ERR - at, "%s%s", c == p->choices ? "" : ", ", *c);
}

/* False: err says what is wrong with it. */
static bool check_value(const struct rpc_param *p, const json_t *v, char *err)
{
    if (!has_type(p, v)) {
        snprintf(err, RPC_ERR, "%s must be %s %s: %s", p->name, p->type == RPC_WHOLE ? "an" : "a",
                 type_name(p->type), p->help);
        return false;
    }
    if (p->type == RPC_TEXT && p->choices) {
        for (const char *const *c = p->choices; *c; c++)
            if (strcmp(*c, json_string_value(v)) == 0)
                return true;
        list_choices(p, err);
        return false;
    }
    if ((p->type == RPC_WHOLE || p->type == RPC_REAL) && (p->min != 0 || p->max != 0)) {
        const double x = json_number_value(v);
        if (!(x >= p->min && x <= p->max)) {
            snprintf(err, RPC_ERR, "%s must be %.15g to %.15g: %s", p->name, p->min, p->max,
                     p->help);
            return false;
        }
    }
    return true;
}

/* Parameters by position as if they had their names. NULL as rpc_params_check. */
static json_t *by_name(const struct rpc_param *params, json_t *list, char *err)
{
    json_t *o = json_object(), *v;
    size_t i;
    json_array_foreach(list, i, v)
    {
        if (!params || !params[i].name) {
            snprintf(err, RPC_ERR, "params: there are %zu, the method takes %zu",
                     json_array_size(list), i);
            json_decref(o);
            return NULL;
        }
        if (!json_is_null(v) && json_object_set(o, params[i].name, v) < 0) {
            json_decref(o);
            return NULL;
        }
    }
    return o;
}

json_t *rpc_params_check(const struct rpc_param *params, json_t *given, char *err)
{
    json_t *o, *v;
    const char *name;

    err[0] = '\0';
    if (!given)
        o = json_object();
    else if (json_is_array(given))
        o = by_name(params, given, err);
    else if (json_is_object(given))
        o = json_incref(given);
    else {
        snprintf(err, RPC_ERR, "params must be an object or an array");
        return NULL;
    }
    if (!o)
        return NULL;
    json_object_foreach(o, name, v)
    {
        const struct rpc_param *p = find(params, name);
        if (!p)
            snprintf(err, RPC_ERR, "there is no parameter %.64s", name);
        if (!p || !check_value(p, v, err))
            goto fail;
    }
    for (const struct rpc_param *p = params; p && p->name; p++) {
        if (!p->required || json_object_get(o, p->name))
            continue;
        snprintf(err, RPC_ERR, "%s is missing: %s", p->name, p->help);
        goto fail;
    }
    return o;
fail:
    json_decref(o);
    return NULL;
}

static json_t *describe(const struct rpc_param *p)
{
    json_t *o = json_pack("{s:s, s:s}", "type", type_name(p->type), "description", p->help);
    if (!o)
        return NULL;
    if ((p->type == RPC_WHOLE || p->type == RPC_REAL) && (p->min != 0 || p->max != 0)) {
        const bool whole = p->type == RPC_WHOLE;
        json_object_set_new(o, "minimum",
                            whole ? json_integer((json_int_t)p->min) : json_real(p->min));
        json_object_set_new(o, "maximum",
                            whole ? json_integer((json_int_t)p->max) : json_real(p->max));
    }
    if (p->choices) {
        json_t *list = json_array();
        for (const char *const *c = p->choices; *c; c++)
            json_array_append_new(list, json_string(*c));
        json_object_set_new(o, "enum", list);
    }
    return o;
}

json_t *rpc_params_schema(const struct rpc_param *params)
{
    json_t *properties = json_object(), *required = json_array();
    for (const struct rpc_param *p = params; p && p->name; p++) {
        json_object_set_new(properties, p->name, describe(p));
        if (p->required)
            json_array_append_new(required, json_string(p->name));
    }
    return json_pack("{s:s, s:o, s:o, s:b}", "type", "object", "properties", properties, "required",
                     required, "additionalProperties", 0);
}
