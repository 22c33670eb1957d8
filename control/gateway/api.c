/* SPDX-License-Identifier: Apache-2.0 */
#include "control/gateway/api.h"

#include <float.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INVALID "invalid_request_error"

void api_fail(struct api_error *e, unsigned status, const char *type, const char *code,
              const char *param, const char *fmt, ...)
{
    va_list ap;
    *e = (struct api_error){.status = status, .type = type, .code = code};
    snprintf(e->param, sizeof e->param, "%s", param);
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
}

/* These two are the value of a parser's failure. */
__attribute__((format(printf, 3, 4))) static int bad(struct api_error *e, const char *param,
                                                     const char *fmt, ...)
{
    char why[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    api_fail(e, 400, INVALID, "invalid_value", param, "%s%s%s", param, *param ? " " : "", why);
    return -1;
}

static int unsupported(struct api_error *e, const char *param, const char *why)
{
    api_fail(e, 400, INVALID, "unsupported", param, "%s is not supported here: %s", param, why);
    return -1;
}

static int no_memory(struct api_error *e)
{
    api_fail(e, 500, "server_error", NULL, "", "out of memory");
    return -1;
}

/* null is as good as absent. */
static const json_t *field(const struct api_request *r, const char *name)
{
    const json_t *v = json_object_get(r->root, name);
    return json_is_null(v) ? NULL : v;
}

/* --- scalars ------------------------------------------------------------------------------------ */

static int get_bool(const struct api_request *r, const char *name, bool *out, struct api_error *e)
{
    const json_t *v = field(r, name);
    if (!v)
        return 0;
    if (!json_is_boolean(v))
        return bad(e, name, "must be true or false");
    *out = json_is_true(v);
    return 0;
}

static int get_whole(const struct api_request *r, const char *name, json_int_t min, json_int_t max,
                     uint32_t *out, struct api_error *e)
{
    const json_t *v = field(r, name);
    if (!v)
        return 0;
    const json_int_t i = json_integer_value(v);
    if (!json_is_integer(v) || i < min || i > max)
        return bad(e, name, "must be a whole number from %lld to %lld", (long long)min,
                   (long long)max);
    *out = i < 0 ? 0 : (uint32_t)i;
    return 0;
}

static int get_real(const struct api_request *r, const char *name, double min, double max,
                    float *out, struct api_error *e)
{
    const json_t *v = field(r, name);
    if (!v)
        return 0;
    const double d = json_number_value(v);
    if (!json_is_number(v) || !(d >= min && d <= max))
        return bad(e, name, "must be a number from %g to %g", min, max);
    *out = (float)d;
    return 0;
}

/* --- sampling ----------------------------------------------------------------------------------- */

static int get_penalty(const struct api_request *r, const char *name, struct api_error *e)
{
    float v = 0;
    if (get_real(r, name, -2, 2, &v, e) < 0)
        return -1;
    return v == 0 ? 0
                  : unsupported(e, name,
                                "the sampler has only repeat_penalty; leave it out, or 0");
}

static int get_sampler(struct api_request *r, struct api_error *e)
{
    struct sampler_params *s = &r->sampler;
    *s = sampler_params_default();
    s->temp = 1;
    if (get_real(r, "temperature", 0, 2, &s->temp, e) < 0 ||
        get_real(r, "top_p", 0, 1, &s->top_p, e) < 0 ||
        get_whole(r, "top_k", -1, INT32_MAX, &s->top_k, e) < 0 ||
        get_real(r, "min_p", 0, 1, &s->min_p, e) < 0 ||
        get_real(r, "repeat_penalty", .01, 100, &s->repeat_penalty, e) < 0 ||
        get_penalty(r, "presence_penalty", e) < 0 || get_penalty(r, "frequency_penalty", e) < 0)
        return -1;
    if (s->top_p < FLT_MIN)
        s->top_p = FLT_MIN; /* the best token alone */
    const json_t *seed = field(r, "seed");
    if (seed && !json_is_integer(seed))
        return bad(e, "seed", "must be a whole number");
    r->has_seed = seed;
    s->seed = (uint64_t)json_integer_value(seed);
    return 0;
}

/* --- stop strings ------------------------------------------------------------------------------- */

static int add_stop(struct api_request *r, const json_t *v, struct api_error *e)
{
    const size_t n = json_string_length(v);
    if (!json_is_string(v) || n == 0 || n > API_STOP_BYTES)
        return bad(e, "stop", "must be strings of 1 to %u bytes", API_STOP_BYTES);
    r->stops[r->n_stops++] = (struct text_stop){json_string_value(v), n};
    return 0;
}

static int get_stops(struct api_request *r, struct api_error *e)
{
    const json_t *v = field(r, "stop");
    if (!v)
        return 0;
    if (!json_is_array(v))
        return add_stop(r, v, e);
    if (json_array_size(v) > API_STOPS)
        return bad(e, "stop", "may have up to %u strings", API_STOPS);
    for (size_t i = 0; i < json_array_size(v); i++)
        if (add_stop(r, json_array_get(v, i), e) < 0)
            return -1;
    return 0;
}

/* --- log-probabilities -------------------------------------------------------------------------- */

#define CHAT_TOP_MAX       20
#define COMPLETION_TOP_MAX 5

static int invalid(struct api_error *e, const char *param, const char *message)
{
    api_fail(e, 400, INVALID, "invalid_value", param, "%s", message);
    return -1;
}

/* How many alternatives; out of bounds in OpenAI's words, which programs look for. */
static int get_top(struct api_request *r, const char *name, json_int_t max, struct api_error *e)
{
    const json_t *v = field(r, name);
    const json_int_t i = json_integer_value(v);
    char why[160];
    if (!v)
        return 0;
    if (!json_is_integer(v))
        return bad(e, name, "must be a whole number from 0 to %lld", (long long)max);
    if (i < 0) {
        snprintf(why, sizeof why,
                 "Invalid '%s': integer below minimum value. Expected a value >= 0, but got %lld "
                 "instead.",
                 name, (long long)i);
        return invalid(e, name, why);
    }
    if (i > max) {
        snprintf(why, sizeof why, "Invalid value for '%s': must be less than or equal to %lld.",
                 name, (long long)max);
        return invalid(e, name, why);
    }
    r->top_logprobs = (uint32_t)i;
    return 0;
}

static int get_logprobs(struct api_request *r, struct api_error *e)
{
    if (r->kind == API_COMPLETION) {
        r->logprobs = field(r, "logprobs");
        return get_top(r, "logprobs", COMPLETION_TOP_MAX, e);
    }
    if (get_bool(r, "logprobs", &r->logprobs, e) < 0 ||
        get_top(r, "top_logprobs", CHAT_TOP_MAX, e) < 0)
        return -1;
    if (field(r, "top_logprobs") && !r->logprobs)
        return invalid(e, "top_logprobs",
                       "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.");
    return 0;
}

/* --- what we don't have ------------------------------------------------------------------------- */

static bool is_empty(const json_t *v)
{
    return !v || json_is_false(v) || (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_object(v) && json_object_size(v) == 0) ||
           (json_is_string(v) && json_string_length(v) == 0);
}

/* What would change the answer is refused; all other fields that are not known are ignored. */
static int refuse_others(const struct api_request *r, struct api_error *e)
{
    static const char *const absent[] = {"echo", "suffix", "logit_bias", "tools", "functions",
                                         "audio"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        if (!is_empty(field(r, absent[i])))
            return unsupported(e, absent[i], "leave it out");
    const json_t *format = field(r, "response_format");
    const char *type = json_string_value(json_object_get(format, "type"));
    if (format && (!type || strcmp(type, "text") != 0))
        return unsupported(e, "response_format", "only {\"type\": \"text\"}");
    uint32_t best_of = r->n;
    if (get_whole(r, "best_of", 1, 20, &best_of, e) < 0)
        return -1;
    return best_of == r->n ? 0 : unsupported(e, "best_of", "only as many as n");
}

static int get_stream(struct api_request *r, struct api_error *e)
{
    if (get_bool(r, "stream", &r->stream, e) < 0)
        return -1;
    const json_t *options = field(r, "stream_options");
    if (!options)
        return 0;
    if (!json_is_object(options))
        return bad(e, "stream_options", "must be an object");
    if (!r->stream)
        return bad(e, "stream_options", "needs stream: true");
    const json_t *usage = json_object_get(options, "include_usage");
    if (usage && !json_is_boolean(usage) && !json_is_null(usage))
        return bad(e, "stream_options.include_usage", "must be true or false");
    r->include_usage = json_is_true(usage);
    return 0;
}

static int get_common(struct api_request *r, struct api_error *e)
{
    r->n = 1;
    if (get_sampler(r, e) < 0 || get_whole(r, "n", 1, API_N, &r->n, e) < 0 ||
        get_whole(r, "max_tokens", 1, INT32_MAX, &r->max_tokens, e) < 0 ||
        get_whole(r, "max_completion_tokens", 1, INT32_MAX, &r->max_tokens, e) < 0 ||
        get_bool(r, "ignore_eos", &r->ignore_eos, e) < 0 || get_stops(r, e) < 0 ||
        get_logprobs(r, e) < 0 || get_stream(r, e) < 0 || refuse_others(r, e) < 0)
        return -1;
    const json_t *model = field(r, "model");
    if (!json_is_string(model))
        return bad(e, "model", "must be a model's name: GET /v1/models lists them");
    r->model = json_string_value(model);
    return 0;
}

/* --- a completion's prompts --------------------------------------------------------------------- */

static int get_ids(const json_t *v, struct api_prompt *p, struct api_error *e)
{
    const size_t n = json_array_size(v);
    if (n == 0 || n > INT32_MAX)
        return bad(e, "prompt", "must not be empty");
    p->ids = malloc(n * sizeof *p->ids);
    if (!p->ids)
        return no_memory(e);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(v, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > INT32_MAX)
            return bad(e, "prompt", "must be text, token ids, or an array of either");
        p->ids[i] = (int32_t)json_integer_value(id);
    }
    p->n_ids = (uint32_t)n;
    return 0;
}

static int get_prompt(const json_t *v, struct api_prompt *p, struct api_error *e)
{
    if (json_is_array(v))
        return get_ids(v, p, e);
    if (!json_is_string(v))
        return bad(e, "prompt", "must be text, token ids, or an array of either");
    p->text = json_string_value(v);
    p->n_text = json_string_length(v);
    return 0;
}

static int get_prompts(struct api_request *r, struct api_error *e)
{
    const json_t *v = field(r, "prompt");
    const bool several = json_is_array(v) && !json_is_integer(json_array_get(v, 0));
    const size_t n = several ? json_array_size(v) : 1;
    if (!v)
        return bad(e, "prompt", "is missing");
    if (n == 0 || n * r->n > API_CHOICES)
        return bad(e, "prompt", "must be 1 to %u, times n", API_CHOICES);
    r->prompts = calloc(n, sizeof *r->prompts);
    if (!r->prompts)
        return no_memory(e);
    r->n_prompts = (uint32_t)n;
    for (size_t i = 0; i < n; i++)
        if (get_prompt(several ? json_array_get(v, i) : v, &r->prompts[i], e) < 0)
            return -1;
    return 0;
}

/* --- a chat's messages -------------------------------------------------------------------------- */

/* Texts of the parts, a line each: malloc'd. */
static int join_parts(const json_t *parts, char **out, struct api_error *e)
{
    size_t n = 1;
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *text = json_object_get(part, "text");
        if (type && strcmp(type, "text") != 0)
            return unsupported(e, "messages.content", "only parts of type text, no images, no sound");
        if (!type || !json_is_string(text))
            return bad(e, "messages.content", "must be text, or parts of {type, text}");
        n += json_string_length(text) + 1;
    }
    char *to = *out = malloc(n);
    if (!to)
        return no_memory(e);
    *to = '\0';
    for (size_t i = 0; i < json_array_size(parts); i++) {
        if (i > 0)
            *to++ = '\n';
        to = stpcpy(to, json_string_value(json_object_get(json_array_get(parts, i), "text")));
    }
    return 0;
}

static const char *known_role(const char *role)
{
    static const char *const roles[][2] = {{"system", "system"},
                                           {"developer", "system"},
                                           {"user", "user"},
                                           {"assistant", "assistant"}};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strcmp(role, roles[i][0]) == 0)
            return roles[i][1];
    return NULL;
}

static int get_message(const json_t *v, struct chat_message *m, char **joined, struct api_error *e)
{
    const json_t *role = json_object_get(v, "role"), *content = json_object_get(v, "content");
    if (!json_is_object(v) || !json_is_string(role))
        return bad(e, "messages", "must be objects with role and content");
    m->role = known_role(json_string_value(role));
    if (!m->role)
        return unsupported(e, "messages.role", "only system, developer, user and assistant");
    const json_t *calls = json_object_get(v, "tool_calls");
    if (!is_empty(calls) && !json_is_null(calls))
        return unsupported(e, "messages.tool_calls", "leave them out");
    if (json_is_array(content)) {
        if (join_parts(content, joined, e) < 0)
            return -1;
        m->content = *joined;
        return 0;
    }
    m->content = json_string_value(content);
    return m->content ? 0 : bad(e, "messages.content", "must be text, or parts of {type, text}");
}

static int get_messages(struct api_request *r, struct api_error *e)
{
    const json_t *v = field(r, "messages");
    const size_t n = json_array_size(v);
    if (!json_is_array(v) || n == 0 || n > UINT32_MAX)
        return bad(e, "messages", "must be an array of messages, not empty");
    r->messages = calloc(n, sizeof *r->messages);
    r->contents = calloc(n, sizeof *r->contents);
    if (!r->messages || !r->contents)
        return no_memory(e);
    r->n_messages = (uint32_t)n;
    for (size_t i = 0; i < n; i++)
        if (get_message(json_array_get(v, i), &r->messages[i], &r->contents[i], e) < 0)
            return -1;
    return 0;
}

/* ------------------------------------------------------------------------------------------------ */

int api_parse(enum api_kind kind, const char *body, size_t n, struct api_request *r,
              struct api_error *e)
{
    json_error_t err;
    *r = (struct api_request){.kind = kind};
    r->root = json_loadb(body, n, 0, &err);
    if (!r->root && n == 0)
        api_fail(e, 400, INVALID, "invalid_json", "", "the body is empty: a JSON object is needed");
    else if (!r->root)
        api_fail(e, 400, INVALID, "invalid_json", "", "the body is not JSON: %s (byte %d)", err.text,
                 err.position);
    if (!r->root)
        return -1;
    if (!json_is_object(r->root))
        return bad(e, "", "the body must be a JSON object");
    if (get_common(r, e) < 0)
        return -1;
    return kind == API_CHAT ? get_messages(r, e) : get_prompts(r, e);
}

void api_free(struct api_request *r)
{
    for (uint32_t i = 0; i < r->n_prompts; i++)
        free(r->prompts[i].ids);
    for (uint32_t i = 0; i < r->n_messages; i++)
        free(r->contents[i]);
    free(r->prompts);
    free(r->messages);
    free(r->contents);
    json_decref(r->root);
    *r = (struct api_request){.root = NULL};
}
