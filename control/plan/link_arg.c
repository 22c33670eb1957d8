/* SPDX-License-Identifier: Apache-2.0 */
/* `--link rate=4mbit,rtt=20ms`: a link said by hand. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/plan/host.h"

#define TEXT_MAX 160u
#define MTU      1500u

struct unit {
    const char *name;
    double times;
};
static const struct unit rates[] = {
    {"bit", 1}, {"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}, {NULL, 0}};
static const struct unit times_s[] = {{"us", 1e-6}, {"ms", 1e-3}, {"s", 1}, {NULL, 0}};
static const struct unit parts[] = {{"%", .01}, {"", 1}, {NULL, 0}};
static const struct unit sizes[] = {{"B", 1}, {"", 1}, {NULL, 0}};

static const struct key {
    const char *name;
    const struct unit *units;
    double min, max;
    const char *form;
} keys[] = {
    {"rate", rates, 1e3, 1e13, "a rate such as 4mbit, 1kbit at least"},
    {"down", rates, 1e3, 1e13, "a rate such as 4mbit, 1kbit at least"},
    {"rtt", times_s, 0, 60, "a time such as 20ms, 60s at most"},
    {"loss", parts, 0, .9, "a fraction such as 1% or .01, 90% at most"},
    {"mtu", sizes, 200, 65535, "bytes, 200 to 65535"},
};
enum { RATE, DOWN, RTT, LOSS, MTU_KEY, N_KEYS };

bool plan_link_is_arg(const char *text)
{
    return strchr(text, '=') != NULL;
}

static int amount(const char *text, const struct key *k, double *x)
{
    const size_t digits = strspn(text, "0123456789.");
    char number[32], *rest;

    if (digits == 0 || digits >= sizeof number)
        return -EINVAL;
    snprintf(number, sizeof number, "%.*s", (int)digits, text);
    *x = strtod(number, &rest);
    if (*rest)
        return -EINVAL;
    const char *end = text + digits; /* no 0x10, 1e9 or "inf" */
    for (const struct unit *u = k->units; u->name; u++) {
        if (strcmp(end, u->name) != 0)
            continue;
        *x *= u->times;
        return *x >= k->min && *x <= k->max ? 0 : -EINVAL;
    }
    return -EINVAL;
}

static int parse(const char *text, struct plan_link *l, char *err)
{
    char copy[TEXT_MAX], *rest = copy, *part;
    double x[N_KEYS] = {0};
    bool given[N_KEYS] = {false};

    if (strlen(text) >= sizeof copy) {
        snprintf(err, PLAN_ERR, "a link's text is shorter than %u bytes", TEXT_MAX);
        return -EINVAL;
    }
    strcpy(copy, text);
    while ((part = strsep(&rest, ","))) {
        const size_t name = strcspn(part, "=");
        unsigned k = 0;
        while (k < N_KEYS &&
               (strlen(keys[k].name) != name || strncmp(part, keys[k].name, name) != 0))
            k++;
        if (k == N_KEYS || !part[name]) {
            snprintf(err, PLAN_ERR, "\"%s\": must be rate=, down=, rtt=, loss= or mtu=", part);
            return -EINVAL;
        }
        if (given[k] || amount(part + name + 1, &keys[k], &x[k]) < 0) {
            snprintf(err, PLAN_ERR, "\"%s\": %s= must be %s", part, keys[k].name,
                     given[k] ? "given once" : keys[k].form);
            return -EINVAL;
        }
        given[k] = true;
    }
    if (!given[RATE] || !given[RTT]) {
        snprintf(err, PLAN_ERR, "\"%s\": rate= and rtt= are needed", text);
        return -EINVAL;
    }
    *l = (struct plan_link){.up_bits_per_s = x[RATE],
                            .down_bits_per_s = given[DOWN] ? x[DOWN] : x[RATE],
                            .rtt_s = x[RTT],
                            .loss = x[LOSS],
                            .mtu_bytes = given[MTU_KEY] ? (uint32_t)x[MTU_KEY] : MTU};
    return 0;
}

int plan_link_arg(const char *text, struct plan_link *l, char *err)
{
    const int rc = parse(text, l, err);

    for (char *c = err; rc && *c; c++) /* it repeats what was given */
        *c = isprint((unsigned char)*c) ? *c : '?';
    return rc;
}
