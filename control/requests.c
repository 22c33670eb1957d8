/* SPDX-License-Identifier: Apache-2.0 */
#include "control/requests.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"

struct reader {
    const char *path;
    unsigned line;
    const struct model *model;
};

static int bad(const struct reader *rd, const char *field, const char *why)
{
    log_error("%s:%u: %s%s%s", rd->path, rd->line, field, *field ? " " : "", why);
    return EXIT_USAGE;
}

static int get_u32(const struct reader *rd, const char *field, const json_t *v, uint32_t min,
                   uint32_t *out)
{
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > UINT32_MAX)
        return bad(rd, field, min ? "must be a whole number above 0" : "must be a whole number");
    *out = (uint32_t)json_integer_value(v);
    return EXIT_OK;
}

static int get_f32(const struct reader *rd, const char *field, const json_t *v, float *out)
{
    if (!json_is_number(v))
        return bad(rd, field, "must be a number");
    *out = (float)json_number_value(v);
    return EXIT_OK;
}

static int get_prompt_ids(const struct reader *rd, const json_t *v, struct request *r)
{
    const size_t n = json_array_size(v);
    if (!json_is_array(v) || n == 0 || n > UINT32_MAX)
        return bad(rd, "prompt_ids", "must be an array of token ids, not empty");
    r->prompt_ids = malloc(n * sizeof *r->prompt_ids);
    if (!r->prompt_ids) {
        log_error("out of memory for a prompt of %zu tokens", n);
        return EXIT_FAILED;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(v, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= tok_n_vocab(rd->model->tok))
            return bad(rd, "prompt_ids", "has an id that is not in the vocabulary");
        r->prompt_ids[i] = (int32_t)json_integer_value(id);
    }
    r->n_prompt = (uint32_t)n;
    return EXIT_OK;
}

static int get_prompt(const struct reader *rd, const json_t *v, struct request *r)
{
    if (!json_is_string(v))
        return bad(rd, "prompt", "must be a string");
    r->prompt_ids =
        model_encode_prompt(rd->model, json_string_value(v), json_string_length(v), &r->n_prompt);
    if (!r->prompt_ids)
        return EXIT_FAILED;
    if (r->n_prompt == 0)
        return bad(rd, "prompt", "is empty");
    return EXIT_OK;
}

static int get_field(const struct reader *rd, const char *field, const json_t *v, struct request *r)
{
    struct sampler_params *s = &r->sampler;
    if (strcmp(field, "prompt") == 0 || strcmp(field, "prompt_ids") == 0) {
        if (r->prompt_ids)
            return bad(rd, "", "has both prompt and prompt_ids: one is enough");
        return field[6] ? get_prompt_ids(rd, v, r) : get_prompt(rd, v, r);
    }
    if (strcmp(field, "n_predict") == 0)
        return get_u32(rd, field, v, 1, &r->n_predict);
    if (strcmp(field, "top_k") == 0)
        return get_u32(rd, field, v, 0, &s->top_k);
    if (strcmp(field, "temp") == 0)
        return get_f32(rd, field, v, &s->temp);
    if (strcmp(field, "top_p") == 0)
        return get_f32(rd, field, v, &s->top_p);
    if (strcmp(field, "min_p") == 0)
        return get_f32(rd, field, v, &s->min_p);
    if (strcmp(field, "repeat_penalty") == 0)
        return get_f32(rd, field, v, &s->repeat_penalty);
    if (strcmp(field, "seed") == 0) {
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return bad(rd, field, "must be a whole number");
        s->seed = (uint64_t)json_integer_value(v);
        return EXIT_OK;
    }
    return bad(rd, field, "is not a known field");
}

static int get_request(const struct reader *rd, const char *text, size_t len, struct request *r)
{
    json_error_t err;
    json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &err);
    if (!o)
        return bad(rd, "not JSON:", err.text);
    int rc = json_is_object(o) ? EXIT_OK : bad(rd, "", "must be a JSON object");

    const char *field;
    json_t *v;
    if (rc == EXIT_OK)
        json_object_foreach(o, field, v)
        {
            rc = get_field(rd, field, v, r);
            if (rc != EXIT_OK)
                break;
        }
    if (rc == EXIT_OK && !r->prompt_ids)
        rc = bad(rd, "", "has neither prompt nor prompt_ids");
    if (rc == EXIT_OK && sampler_params_check(&r->sampler) < 0)
        rc = bad(rd, "", "has sampling parameters out of range");
    json_decref(o);
    return rc;
}

int requests_read(const char *path, const struct model *m, uint32_t n_predict,
                  const struct sampler_params *sampler, struct requests *out)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    *out = (struct requests){.name = f == stdin ? "stdin" : path};
    if (!f) {
        log_error("%s: %s", path, strerror(errno));
        return EXIT_USAGE;
    }

    struct reader rd = {.path = out->name, .model = m};
    int rc = EXIT_OK;
    char *text = NULL;
    size_t cap = 0;
    ssize_t len;
    while (rc == EXIT_OK && (len = getline(&text, &cap, f)) >= 0) {
        rd.line++;
        if (strspn(text, " \t\r\n") == (size_t)len)
            continue;
        struct request *list = realloc(out->list, (out->n + 1) * sizeof *list);
        if (!list) {
            log_error("out of memory at %s:%u", rd.path, rd.line);
            rc = EXIT_FAILED;
            break;
        }
        out->list = list;
        struct request *r = &list[out->n++];
        *r = (struct request){.line = rd.line, .n_predict = n_predict, .sampler = *sampler};
        rc = get_request(&rd, text, (size_t)len, r);
    }
    if (rc == EXIT_OK && ferror(f)) {
        log_error("%s: cannot be read to its end", rd.path);
        rc = EXIT_USAGE;
    }
    if (rc == EXIT_OK && out->n == 0) {
        log_error("%s: holds no requests", rd.path);
        rc = EXIT_USAGE;
    }
    free(text);
    if (f != stdin)
        fclose(f);
    if (rc != EXIT_OK)
        requests_free(out);
    return rc;
}

void requests_free(struct requests *r)
{
    for (size_t i = 0; i < r->n; i++)
        free(r->list[i].prompt_ids);
    free(r->list);
    *r = (struct requests){0};
}
