/* SPDX-License-Identifier: Apache-2.0 */
#include "control/fleet/etcd_json.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <openssl/evp.h>

#define VALUE_BYTES 4096u /* of a worker's entry, at most */

/* --- base64
 * ---------------------------------------------------------------------------------------
 */

static json_t *encoded(const char *bytes)
{
    const size_t n = strlen(bytes);
    char text[(ETCD_PREFIX + VALUE_BYTES) / 3 * 4 + 8];
    if (n > ETCD_PREFIX + VALUE_BYTES)
        return NULL;
    EVP_EncodeBlock((unsigned char *)text, (const unsigned char *)bytes, (int)n);
    return json_string(text);
}

/* Into out, of `room` bytes, zero-terminated; its length, or -EINVAL: no base64, or too long. */
static int decoded(const json_t *j, char *out, size_t room)
{
    const size_t n = json_string_length(j);
    const char *text = json_string_value(j);
    unsigned char raw[(VALUE_BYTES + ETCD_PREFIX) * 4 / 3 + 8];
    if (!text || n % 4 != 0 || n / 4 * 3 > sizeof raw)
        return -EINVAL;
    int len = EVP_DecodeBlock(raw, (const unsigned char *)text, (int)n);
    if (len < 0)
        return -EINVAL;
    for (size_t i = n; i > 0 && i + 2 > n && text[i - 1] == '='; i--)
        len--;
    if (len < 0 || (size_t)len >= room)
        return -EINVAL;
    memcpy(out, raw, (size_t)len);
    out[len] = '\0';
    return len;
}

/* --- requests
 * -------------------------------------------------------------------------------------
 */

/* Takes over body. */
static char *dumped(json_t *body)
{
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    return text;
}

/* All keys that begin with prefix: up to the first that doesn't. '/' is followed by '0'. */
static json_t *range_end(const char *prefix)
{
    char end[ETCD_PREFIX + 1];
    snprintf(end, sizeof end, "%s", prefix);
    end[strlen(end) - 1]++;
    return encoded(end);
}

char *etcd_range_body(const char *prefix)
{
    return dumped(json_pack("{s:o, s:o, s:i}", "key", encoded(prefix), "range_end",
                            range_end(prefix), "limit", (int)WORKERS_MAX));
}

char *etcd_watch_body(const char *prefix, const char *revision)
{
    return dumped(json_pack("{s:{s:o, s:o, s:s}}", "create_request", "key", encoded(prefix),
                            "range_end", range_end(prefix), "start_revision", revision));
}

char *etcd_grant_body(uint32_t ttl_s)
{
    return dumped(json_pack("{s:i, s:i}", "TTL", (int)ttl_s, "ID", 0));
}

char *etcd_lease_body(const char *lease)
{
    return dumped(json_pack("{s:s}", "ID", lease));
}

char *etcd_put_body(const char *key, const char *value, const char *lease)
{
    return dumped(
        json_pack("{s:o, s:o, s:s}", "key", encoded(key), "value", encoded(value), "lease", lease));
}

/* --- answers
 * --------------------------------------------------------------------------------------
 */

static json_t *load(const char *text, size_t len)
{
    return json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
}

/* {"error": "TEXT", ...}, or of a stream {"error": {"message": "TEXT"}}. */
static void say_error(const json_t *answer, char *err)
{
    const json_t *error = json_object_get(answer, "error");
    const char *text =
        json_string_value(json_is_object(error) ? json_object_get(error, "message") : error);
    snprintf(err, WORKERS_ERR, "%.200s",
             text && *text ? text : "an answer that etcd does not give");
    for (char *c = err; *c; c++)
        *c = isprint((unsigned char)*c) ? *c : '?';
}

/* A positive 64-bit number, as etcd writes them. */
static bool number(const json_t *j, char out[ETCD_NUMBER])
{
    const char *text = json_string_value(j);
    const size_t n = text ? strlen(text) : 0;
    if (n == 0 || n >= 20 || strspn(text, "0123456789") != n)
        return false;
    strcpy(out, text);
    return true;
}

static int read_entry(const json_t *kv, const char *prefix, struct worker *w, char *err)
{
    char key[ETCD_PREFIX + WORKER_NAME], value[VALUE_BYTES + 1], where[WORKER_NAME + 8];
    const size_t skip = strlen(prefix);
    const int n = decoded(json_object_get(kv, "key"), key, sizeof key);
    if (n < 0 || strlen(key) != (size_t)n || strncmp(key, prefix, skip) != 0 ||
        !worker_name_ok(key + skip, strlen(key + skip))) {
        snprintf(err, WORKERS_ERR, "a key that is no worker's name");
        return -EINVAL;
    }
    const char *name = key + skip;
    const int len = decoded(json_object_get(kv, "value"), value, sizeof value);
    snprintf(where, sizeof where, "%s", name);
    if (len < 0 || memchr(value, '\n', (size_t)len)) {
        snprintf(err, WORKERS_ERR, "%s: no line of text", where);
        return -EINVAL;
    }
    const int rc = worker_parse(value, (size_t)len, where, w, err);
    if (rc == 1 && strcmp(w->name, name) == 0)
        return 0;
    if (rc >= 0)
        snprintf(err, WORKERS_ERR, "%s: its value is not its own line", where);
    return -EINVAL;
}

int etcd_parse_range(const char *text, size_t len, const char *prefix, struct workers *out,
                     char next_revision[ETCD_NUMBER], unsigned *n_bad, char *err)
{
    json_t *answer = load(text, len);
    const json_t *kvs = json_object_get(answer, "kvs");
    char revision[ETCD_NUMBER];
    int rc = 0;
    *out = (struct workers){.n = 0};
    *n_bad = 0;
    *err = '\0';
    if (!number(json_object_get(json_object_get(answer, "header"), "revision"), revision) ||
        (kvs && !json_is_array(kvs))) {
        say_error(answer, err);
        json_decref(answer);
        return -EINVAL;
    }
    snprintf(next_revision, ETCD_NUMBER, "%llu", strtoull(revision, NULL, 10) + 1);
    for (size_t i = 0; rc == 0 && i < json_array_size(kvs) && i < WORKERS_MAX; i++) {
        struct worker one;
        char why[WORKERS_ERR];
        if (read_entry(json_array_get(kvs, i), prefix, &one, why) < 0 ||
            workers_find(out, one.name)) {
            if ((*n_bad)++ == 0)
                strcpy(err, why);
            continue;
        }
        struct worker *w = workers_add(out);
        if (w)
            *w = one;
        rc = w ? 0 : -ENOMEM;
    }
    json_decref(answer);
    workers_sort(out);
    if (rc < 0)
        workers_free(out);
    return rc;
}

enum etcd_watch etcd_parse_watch(const char *text, size_t len)
{
    json_t *line = load(text, len);
    const json_t *result = json_object_get(line, "result");
    const enum etcd_watch w =
        !json_is_object(result) || json_is_true(json_object_get(result, "canceled"))
            ? ETCD_WATCH_OVER
        : json_array_size(json_object_get(result, "events")) > 0 ? ETCD_CHANGED
                                                                 : ETCD_NOTHING_NEW;
    json_decref(line);
    return w;
}

int etcd_parse_grant(const char *text, size_t len, char lease[ETCD_NUMBER], char *err)
{
    json_t *answer = load(text, len);
    const bool good = number(json_object_get(answer, "ID"), lease);
    if (!good)
        say_error(answer, err);
    json_decref(answer);
    return good ? 0 : -EINVAL;
}

bool etcd_parse_keepalive(const char *text, size_t len)
{
    json_t *answer = load(text, len);
    char ttl[ETCD_NUMBER];
    const bool lives = number(json_object_get(json_object_get(answer, "result"), "TTL"), ttl) &&
                       strcmp(ttl, "0") != 0;
    json_decref(answer);
    return lives;
}

int etcd_parse_done(const char *text, size_t len, char *err)
{
    json_t *answer = load(text, len);
    const bool good = json_is_object(json_object_get(answer, "header"));
    if (!good)
        say_error(answer, err);
    json_decref(answer);
    return good ? 0 : -EINVAL;
}
