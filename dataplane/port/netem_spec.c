/* SPDX-License-Identifier: Apache-2.0 */
/* What is written behind --netem. No strtod: it takes 0x1p3, "inf" and whatever the locale likes.
 */
#include "dataplane/netem.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS_MAX    9
#define CHANGE_MAX_NS UINT64_C(86400000000000)

struct unit {
    const char *name;
    uint64_t times; /* at most 10^9: with nine digits it stays in 64 bits */
};

static const struct unit times_ns[] = {
    {"ns", 1}, {"us", 1000}, {"ms", 1000000}, {"s", 1000000000}, {0}};
static const struct unit rates[] = {
    {"bit", 1}, {"kbit", 1000}, {"mbit", 1000000}, {"gbit", 1000000000}, {0}};
static const struct unit sizes[] = {{"B", 1},          {"kB", 1000},      {"MB", 1000000},
                                    {"KiB", 1u << 10}, {"MiB", 1u << 20}, {0}};
static const struct unit packets[] = {{"p", 1}, {0}};
static const struct unit plain[] = {{"", 1}, {0}};

/* "12.5ms" -> digits 125, behind 1, and what follows them. At most DIGITS_MAX digits. */
static int parse_digits(const char *text, uint64_t *digits, unsigned *behind, const char **end)
{
    unsigned n = 0;
    bool point = false;
    *digits = *behind = 0;
    for (; isdigit((unsigned char)*text) || (*text == '.' && !point); text++) {
        if (*text == '.') {
            point = true;
            continue;
        }
        *digits = *digits * 10 + (uint64_t)(*text - '0');
        *behind += point;
        if (++n > DIGITS_MAX)
            return -EINVAL;
    }
    *end = text;
    return n > 0 ? 0 : -EINVAL;
}

/* A number with one of these units, exactly, in [min, max]. */
static int parse_amount(const char *text, const struct unit *units, uint64_t min, uint64_t max,
                        uint64_t *x)
{
    uint64_t value;
    unsigned behind;
    const char *end;
    if (parse_digits(text, &value, &behind, &end) < 0)
        return -EINVAL;
    while (units->name && strcmp(units->name, end) != 0)
        units++;
    if (!units->name)
        return -EINVAL;
    value *= units->times;
    for (; behind > 0; behind--) {
        if (value % 10)
            return -EINVAL; /* finer than the unit that we count in */
        value /= 10;
    }
    *x = value;
    return value >= min && value <= max ? 0 : -EINVAL;
}

static int parse_real(const char *text, double *x, const char **end)
{
    uint64_t digits;
    unsigned behind;
    if (parse_digits(text, &digits, &behind, end) < 0)
        return -EINVAL;
    double power = 1;
    for (; behind > 0; behind--)
        power *= 10;
    *x = (double)digits / power;
    return 0;
}

/* "20%" or ".2". */
static int parse_fraction(const char *text, double *x)
{
    const char *end;
    if (parse_real(text, x, &end) < 0)
        return -EINVAL;
    if (*end == '%') {
        *x /= 100;
        end++;
    }
    return *end == '\0' && *x <= 1 ? 0 : -EINVAL;
}

static int parse_seed(const char *text, uint64_t *x)
{
    char *end;
    errno = 0;
    *x = strtoull(text, &end, 0);
    return isdigit((unsigned char)*text) && *end == '\0' && errno == 0 ? 0 : -EINVAL;
}

static int parse_burst(const char *text, double *x)
{
    const char *end;
    return parse_real(text, x, &end) == 0 && *end == '\0' && *x >= 1 && *x <= 1e6 ? 0 : -EINVAL;
}

static int parse_queue(const char *text, struct netem_params *p)
{
    if (parse_amount(text, packets, 1, 1000000, &p->queue_packets) == 0)
        return 0;
    p->queue_packets = 0;
    return parse_amount(text, sizes, 1, UINT64_C(1000000000), &p->queue_bytes);
}

static int parse_depth(const char *text, struct netem_params *p)
{
    uint64_t depth = 0;
    const int rc = parse_amount(text, plain, 1, NETEM_DEPTH_MAX, &depth);
    p->reorder_depth = (uint32_t)depth;
    return rc;
}

enum { DELAY, JITTER, RATE, QUEUE, DROP, BURST, DUP, REORDER, DEPTH, CORRUPT, MTU, SEED, KEYS };

#define FRACTION "a fraction: 1%, or .01"

static const struct {
    const char *name, *takes;
} keys[KEYS] = {
    [DELAY] = {"delay", "a time of at most 60s with its unit (ns, us, ms, s): 25ms"},
    [JITTER] = {"jitter", "a time of at most 60s with its unit (ns, us, ms, s): 2ms"},
    [RATE] = {"rate",
              "bits per second with a unit (bit, kbit, mbit, gbit), 1kbit to 1000gbit: 20mbit"},
    [QUEUE] = {"queue", "a size with its unit (B, kB, MB, KiB, MiB; up to 1000MB), or packets (p): "
                        "100kB, 50p"},
    [DROP] = {"drop", FRACTION},
    [BURST] = {"burst", "the mean number of packets lost in a row, 1 to 1000000: 4"},
    [DUP] = {"dup", FRACTION},
    [REORDER] = {"reorder", FRACTION},
    [DEPTH] = {"depth", "how many packets may overtake a reordered one, 1 to 64: 4"},
    [CORRUPT] = {"corrupt", FRACTION},
    [MTU] = {"mtu", "the longest packet that passes, in bytes, 68 to 65535: 1400"},
    [SEED] = {"seed", "a number: 7"},
};

static int parse_value(int key, const char *value, struct netem_params *p)
{
    switch (key) {
    case DELAY:
        return parse_amount(value, times_ns, 0, NETEM_DELAY_MAX_NS, &p->delay_ns);
    case JITTER:
        return parse_amount(value, times_ns, 0, NETEM_DELAY_MAX_NS, &p->jitter_ns);
    case RATE:
        return parse_amount(value, rates, NETEM_RATE_MIN, NETEM_RATE_MAX, &p->rate_bit_per_s);
    case QUEUE:
        return parse_queue(value, p);
    case DROP:
        return parse_fraction(value, &p->drop);
    case BURST:
        return parse_burst(value, &p->burst);
    case DUP:
        return parse_fraction(value, &p->duplicate);
    case REORDER:
        return parse_fraction(value, &p->reorder);
    case DEPTH:
        return parse_depth(value, p);
    case CORRUPT:
        return parse_fraction(value, &p->corrupt);
    case MTU:
        return parse_amount(value, plain, NETEM_MTU_MIN, NETEM_MTU_MAX, &p->mtu_bytes);
    default:
        return parse_seed(value, &p->seed);
    }
}

/* "rate@5s", say: its time is behind the "@". */
static int parse_change(const char *name, const char *value, struct netem_params *p)
{
    static const int key_of[] = {[NETEM_RATE] = RATE, [NETEM_DELAY] = DELAY, [NETEM_MTU] = MTU};
    struct netem_change c = {.what = name[0] == 'd'   ? NETEM_DELAY
                                     : name[0] == 'm' ? NETEM_MTU
                                                      : NETEM_RATE};
    const struct netem_change *last = p->n_changes ? &p->changes[p->n_changes - 1] : NULL;
    struct netem_params at = {0};

    if (p->n_changes == NETEM_CHANGES_MAX ||
        parse_amount(strchr(name, '@') + 1, times_ns, 0, CHANGE_MAX_NS, &c.at_ns) < 0 ||
        (last && c.at_ns < last->at_ns) || parse_value(key_of[c.what], value, &at) < 0)
        return -EINVAL;
    c.value = at.delay_ns + at.rate_bit_per_s + at.mtu_bytes; /* all but one are 0 */
    p->changes[p->n_changes++] = c;
    return 0;
}

static int refuse(char *err, const char *item, size_t len, const char *why, const char *more)
{
    snprintf(err, NETEM_ERR, "netem: cannot use '%.*s': %s%s", (int)(len < 40 ? len : 40), item,
             why, more);
    return -EINVAL;
}

/* One "key=value" of len bytes; *given: a bit for every key that was there. */
static int parse_item(const char *text, size_t len, struct netem_params *p, unsigned *given,
                      char *err)
{
    static const char names[] = "keys are delay, jitter, rate, queue, drop, burst, dup, reorder, "
                                "depth, corrupt, mtu, seed, each with = and joined by commas";
    char item[48];
    if (len >= sizeof item)
        return refuse(err, text, len, names, "");
    memcpy(item, text, len);
    item[len] = '\0';
    char *value = strchr(item, '=');
    if (!value)
        return refuse(err, text, len, names, "");
    *value++ = '\0';
    if (strncmp(item, "rate@", 5) == 0 || strncmp(item, "delay@", 6) == 0 ||
        strncmp(item, "mtu@", 4) == 0)
        return parse_change(item, value, p) == 0
                   ? 0
                   : refuse(err, item, strlen(item),
                            "a change is rate@TIME=RATE, delay@TIME=TIME or mtu@TIME=BYTES, in order "
                            "of time: rate@5s=4mbit",
                            "");
    int key = 0;
    while (key < KEYS && strcmp(keys[key].name, item) != 0)
        key++;
    if (key == KEYS)
        return refuse(err, text, len, names, "");
    if (*given & 1u << key)
        return refuse(err, text, len, keys[key].name, " is given twice");
    *given |= 1u << key;
    if (parse_value(key, value, p) < 0) {
        char takes[64];
        snprintf(takes, sizeof takes, "%s takes ", keys[key].name);
        return refuse(err, text, len, takes, keys[key].takes);
    }
    return 0;
}

int netem_parse(const char *text, struct netem_params *p, char *err)
{
    unsigned given = 0;
    *p = (struct netem_params){0};
    for (bool more = *text; more;) {
        const size_t len = strcspn(text, ",");
        const int rc = parse_item(text, len, p, &given, err);
        if (rc < 0)
            return rc;
        more = text[len] == ',';
        text += len + more;
    }
    return netem_check(p, err);
}

static bool is_fraction(double x)
{
    return x >= 0 && x <= 1; /* false for NaN */
}

static const char *misfit(const struct netem_params *p)
{
    if (!is_fraction(p->drop) || !is_fraction(p->duplicate) || !is_fraction(p->reorder) ||
        !is_fraction(p->corrupt))
        return "drop, dup, reorder and corrupt are fractions from 0 to 1";
    if (!(p->burst == 0 || (p->burst >= 1 && p->burst <= 1e6)))
        return "burst, the mean number of packets lost in a row, is 1 to 1000000";
    if (p->burst && !p->drop)
        return "burst says how drops come together: it needs drop=";
    /* The chain would have to enter the bad state more often than always. */
    if (p->burst && p->drop < 1 && p->drop > p->burst / (p->burst + 1))
        return "so many drops do not fit so short bursts: drop is at most burst / (burst + 1)";
    if (p->reorder_depth > NETEM_DEPTH_MAX)
        return "depth is at most 64";
    if (p->delay_ns > NETEM_DELAY_MAX_NS)
        return "delay is at most 60s";
    if (p->jitter_ns > p->delay_ns)
        return "jitter goes both ways: it is at most delay";
    if (p->rate_bit_per_s &&
        (p->rate_bit_per_s < NETEM_RATE_MIN || p->rate_bit_per_s > NETEM_RATE_MAX))
        return "rate is 1kbit to 1000gbit";
    if (p->mtu_bytes && (p->mtu_bytes < NETEM_MTU_MIN || p->mtu_bytes > NETEM_MTU_MAX))
        return "mtu is 68 to 65535 bytes";
    if (p->n_changes > NETEM_CHANGES_MAX)
        return "rate, delay and mtu change at most 32 times";
    for (uint32_t i = 0; i < p->n_changes; i++) {
        const struct netem_change *c = &p->changes[i];
        if (c->what == NETEM_RATE && !p->rate_bit_per_s)
            return "rate@TIME is another rate than the one before: it needs rate=";
        if (c->what == NETEM_RATE && (c->value < NETEM_RATE_MIN || c->value > NETEM_RATE_MAX))
            return "rate is 1kbit to 1000gbit";
        if (c->what == NETEM_MTU && (c->value < NETEM_MTU_MIN || c->value > NETEM_MTU_MAX))
            return "mtu is 68 to 65535 bytes";
        if (c->what == NETEM_DELAY && (c->value > NETEM_DELAY_MAX_NS || c->value < p->jitter_ns))
            return "delay is at most 60s, and no less than jitter";
    }
    if ((p->queue_bytes || p->queue_packets) && !p->rate_bit_per_s)
        return "queue is what waits for the bottleneck: it needs rate=";
    return NULL;
}

int netem_check(const struct netem_params *p, char *err)
{
    const char *why = misfit(p);
    if (!why)
        return 0;
    snprintf(err, NETEM_ERR, "netem: %s", why);
    return -EINVAL;
}

bool netem_is_narrow(const struct netem_params *p)
{
    bool narrow = p->mtu_bytes;

    for (uint32_t i = 0; i < p->n_changes; i++)
        narrow |= p->changes[i].what == NETEM_MTU;
    return narrow;
}

bool netem_is_timed(const struct netem_params *p)
{
    return p->delay_ns || p->jitter_ns || p->rate_bit_per_s || p->n_changes;
}
