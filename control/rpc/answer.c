/* SPDX-License-Identifier: Apache-2.0 */
/* A line of the control socket, and what it gets as its answer. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/config/nearest.h"
#include "control/rpc/params.h"
#include "control/rpc/rpc.h"

const char *rpc_role_name(enum rpc_role role)
{
    static const char *const names[] = {"nobody", "user", "operator", "admin"};
    return names[role];
}

json_t *rpc_fail(struct rpc_call *c, int code, const char *format, ...)
{
    va_list ap;
    c->code = code;
    va_start(ap, format);
    vsnprintf(c->error, sizeof c->error, format, ap);
    va_end(ap);
    return NULL;
}

const char *rpc_text(const struct rpc_call *c, const char *name, const char *otherwise)
{
    const json_t *v = json_object_get(c->params, name);
    return v ? json_string_value(v) : otherwise;
}

double rpc_number(const struct rpc_call *c, const char *name, double otherwise)
{
    const json_t *v = json_object_get(c->params, name);
    return v ? json_number_value(v) : otherwise;
}

bool rpc_flag(const struct rpc_call *c, const char *name, bool otherwise)
{
    const json_t *v = json_object_get(c->params, name);
    return v ? json_is_true(v) : otherwise;
}

bool rpc_given(const struct rpc_call *c, const char *name)
{
    return json_object_get(c->params, name);
}

json_t *rpc_fail_hop(struct rpc_call *c, int rc)
{
    if (rc == -ETIMEDOUT)
        return rpc_fail(c, RPC_NOT_NOW, "the engine is busy: again in a moment");
    return rpc_fail(c, RPC_SHUTDOWN, "the process is ending");
}

/* --- methods by name ----------------------------------------------------------------------------
 */

static json_t *list_methods(struct rpc_call *c);

/* Of every table, without being in it. */
static const struct rpc_method own[] = {
    {"methods.list", RPC_USER, "The methods: their roles, parameters and what they do", NULL, false,
     list_methods},
    {NULL, RPC_NOBODY, NULL, NULL, false, NULL},
};

/* All methods, one after the other: begin with {0}; false: there are no more. */
struct walk {
    size_t set, i;
    bool others; /* own is done */
    const struct rpc_method *m;
    void *arg;
};

static bool next(const struct rpc_table *t, struct walk *w)
{
    if (!w->others) {
        w->m = &own[w->i++];
        w->arg = (void *)(uintptr_t)t;
        if (w->m->name)
            return true;
        w->others = true;
        w->i = 0;
    }
    for (; t->sets && t->sets[w->set].methods; w->set++, w->i = 0) {
        w->m = &t->sets[w->set].methods[w->i];
        w->arg = t->sets[w->set].arg;
        if (w->m->name) {
            w->i++;
            return true;
        }
    }
    return false;
}

static json_t *list_methods(struct rpc_call *c)
{
    const struct rpc_table *t = c->arg;
    json_t *list = json_array();
    for (struct walk w = {0}; next(t, &w);)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:o}", "name", w.m->name, "role",
                                              rpc_role_name(w.m->role), "help", w.m->help, "params",
                                              rpc_params_schema(w.m->params)));
    return json_pack("{s:s, s:o}", "role", rpc_role_name(c->who.role), "methods", list);
}

const char *rpc_nearest(const struct rpc_table *t, const char *name)
{
    struct nearest near;
    nearest_begin(&near, name);
    for (struct walk w = {0}; next(t, &w);)
        nearest_consider(&near, w.m->name);
    return nearest_name(&near);
}

/* --- one request --------------------------------------------------------------------------------
 */

static json_t *error_object(int code, const char *message, json_t *data)
{
    return json_pack("{s:i, s:s, s:o*}", "code", code, "message", message, "data", data);
}

static json_t *failure(json_t *id, json_t *error)
{
    return json_pack("{s:s, s:o, s:O?}", "jsonrpc", "2.0", "error", error, "id", id);
}

/* Method and parameters of somebody's: brought to the thread where they are to run. */
struct job {
    struct rpc_call call;
    json_t *result;
};

static void run_job(void *arg)
{
    struct job *j = arg;
    j->result = j->call.method->call(&j->call);
}

static void run(const struct rpc_table *t, struct job *j)
{
    int rc = 0;
    if (j->call.method->in_engine)
        rc = rpc_hop_run(&t->hop, run_job, j);
    else
        run_job(j);
    if (rc < 0)
        rpc_fail_hop(&j->call, rc);
    else if (!j->result && !j->call.code)
        rpc_fail(&j->call, RPC_INTERNAL, "out of memory");
}

static json_t *unknown(const struct rpc_table *t, json_t *id, const char *name)
{
    char text[RPC_ERR];
    const char *nearest = rpc_nearest(t, name);
    if (nearest)
        snprintf(text, sizeof text, "there is no method %.64s: did you mean %s?", name, nearest);
    else
        snprintf(text, sizeof text, "there is no method %.64s: methods.list names them", name);
    /* A name cut in the middle of a letter is no text. */
    json_t *error = error_object(RPC_UNKNOWN_METHOD, text, NULL);
    if (!error)
        error = error_object(RPC_UNKNOWN_METHOD, "there is no such method: methods.list names them",
                             NULL);
    return failure(id, error);
}

static json_t *not_allowed(const struct rpc_method *m, const struct rpc_who *who, json_t *id)
{
    char text[RPC_ERR];
    snprintf(text, sizeof text, "%s needs the role %s: you are %s", m->name, rpc_role_name(m->role),
             rpc_role_name(who->role));
    return failure(id, error_object(RPC_NOT_ALLOWED, text,
                                    json_pack("{s:s, s:s}", "needs", rpc_role_name(m->role), "role",
                                              rpc_role_name(who->role))));
}

static json_t *call(const struct rpc_table *t, const struct rpc_who *who, const char *name,
                    json_t *params, json_t *id)
{
    struct walk w = {0};
    bool found = false;
    while (!found && next(t, &w))
        found = strcmp(w.m->name, name) == 0;
    if (!found)
        return unknown(t, id, name);
    if (who->role < w.m->role)
        return not_allowed(w.m, who, id);

    char err[RPC_ERR];
    struct job j = {.call = {.method = w.m, .hop = &t->hop, .arg = w.arg, .who = *who}};
    j.call.params = rpc_params_check(w.m->params, params, err);
    if (!j.call.params) {
        json_t *error = error_object(RPC_INVALID_PARAMS, *err ? err : "out of memory", NULL);
        return failure(
            id,
            error ? error : error_object(RPC_INVALID_PARAMS, "there is no such parameter", NULL));
    }
    run(t, &j);
    json_decref(j.call.params);
    if (!j.call.code)
        return json_pack("{s:s, s:o, s:O?}", "jsonrpc", "2.0", "result", j.result, "id", id);
    json_decref(j.result);
    return failure(id, error_object(j.call.code, j.call.error, NULL));
}

static json_t *invalid(json_t *id, const char *why)
{
    return failure(id, error_object(RPC_INVALID_REQUEST, why, NULL));
}

/* NULL: a notification, or out of memory. */
static json_t *request(const struct rpc_table *t, const struct rpc_who *who, json_t *r)
{
    if (!json_is_object(r))
        return invalid(NULL, "a request must be an object");
    json_t *id = json_object_get(r, "id");
    if (id && !json_is_string(id) && !json_is_number(id) && !json_is_null(id))
        return invalid(NULL, "id must be a string, a number or null");
    const char *version = json_string_value(json_object_get(r, "jsonrpc"));
    if (!version || strcmp(version, "2.0") != 0)
        return invalid(id, "jsonrpc must be \"2.0\"");
    const char *method = json_string_value(json_object_get(r, "method"));
    if (!method)
        return invalid(id, "method must be a string");
    json_t *answer = call(t, who, method, json_object_get(r, "params"), id);
    if (id)
        return answer;
    json_decref(answer);
    return NULL;
}

static json_t *batch(const struct rpc_table *t, const struct rpc_who *who, json_t *list)
{
    if (!json_array_size(list))
        return invalid(NULL, "a batch must hold a request");
    if (json_array_size(list) > RPC_BATCH_MAX)
        return invalid(NULL, "a batch may hold 64 requests");
    json_t *answers = json_array(), *r;
    size_t i;
    json_array_foreach(list, i, r)
    {
        json_t *answer = request(t, who, r);
        if (answer)
            json_array_append_new(answers, answer);
    }
    if (json_array_size(answers))
        return answers;
    json_decref(answers);
    return NULL;
}

/* --- a line -------------------------------------------------------------------------------------
 */

char *rpc_error_line(int code, const char *message)
{
    json_t *o = failure(NULL, error_object(code, message, NULL));
    char *line = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return line;
}

static char *unreadable(const json_error_t *e)
{
    char text[RPC_ERR];
    snprintf(text, sizeof text, "not JSON: %s, at byte %d", e->text, e->position);
    for (char *c = text; *c; c++) /* it may quote what is no text */
        if ((signed char)*c < ' ')
            *c = '?';
    return rpc_error_line(RPC_PARSE, text);
}

char *rpc_answer(const struct rpc_table *t, const struct rpc_who *who, const char *line, size_t len)
{
    json_error_t e;
    json_t *asked = json_loadb(line, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
    if (!asked)
        return unreadable(&e);
    json_t *answer = json_is_array(asked) ? batch(t, who, asked) : request(t, who, asked);
    json_decref(asked);
    char *text = answer ? json_dumps(answer, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    json_decref(answer);
    return text;
}
