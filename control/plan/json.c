/* SPDX-License-Identifier: Apache-2.0 */
#include "control/plan/json.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "control/plan/model.h"

void plan_json_wrong(struct plan_reading *r, const char *fmt, ...)
{
    char what[200];
    va_list ap;

    if (r->rc)
        return;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    for (char *c = what; *c; c++)
        *c = isprint((unsigned char)*c) ? *c : '?';
    snprintf(r->err, PLAN_ERR, "%.100s: %s", r->name, what);
    r->rc = -EBADMSG;
}

void plan_json_text(struct plan_reading *r, const json_t *o, const char *key, char *to, size_t room)
{
    const json_t *v = json_object_get(o, key);
    const char *text = json_string_value(v);

    if (!text || json_string_length(v) >= room || strlen(text) != json_string_length(v)) {
        plan_json_wrong(r, "%s: a text of less than %zu bytes is needed", key, room);
        return;
    }
    for (const char *c = text; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 127) {
            plan_json_wrong(r, "%s: has control characters", key);
            return;
        }
    }
    snprintf(to, room, "%s", text);
}

double plan_json_number(struct plan_reading *r, const json_t *v, const char *key, double min,
                        double max)
{
    const double x = json_is_number(v) ? json_number_value(v) : NAN;

    if (!(x >= min && x <= max)) {
        plan_json_wrong(r, "%s: a number from %g to %g is needed", key, min, max);
        return min;
    }
    return x;
}

double plan_json_real(struct plan_reading *r, const json_t *o, const char *key, double min,
                      double max)
{
    return plan_json_number(r, json_object_get(o, key), key, min, max);
}

uint64_t plan_json_count(struct plan_reading *r, const json_t *o, const char *key, uint64_t min,
                         uint64_t max)
{
    const json_t *v = json_object_get(o, key);
    const json_int_t x = json_integer_value(v);

    if (!json_is_integer(v) || x < 0 || (uint64_t)x < min || (uint64_t)x > max) {
        plan_json_wrong(r, "%s: a whole number from %llu to %llu is needed", key,
                        (unsigned long long)min, (unsigned long long)max);
        return min;
    }
    return (uint64_t)x;
}

json_t *plan_json_load(struct plan_reading *r, const char *text, size_t len, const char *kind,
                       int version_wanted)
{
    json_error_t at;
    json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES, &at);

    if (!json_is_object(o)) {
        plan_json_wrong(r, "no profile: line %d: %s", o ? 1 : at.line, o ? "no object" : at.text);
        json_decref(o);
        return NULL;
    }
    const char *is = json_string_value(json_object_get(o, "kind"));
    const json_t *version = json_object_get(o, "format");
    if (!is || strcmp(is, kind) != 0)
        plan_json_wrong(r, "its kind is \"%.40s\", \"%s\" is needed", is ? is : "", kind);
    else if (!json_is_integer(version) || json_integer_value(version) != version_wanted)
        plan_json_wrong(r, "its format is version %lld, version %d is needed: make it anew",
                        (long long)json_integer_value(version), version_wanted);
    return o;
}
