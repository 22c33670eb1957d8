/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "compute/quantize/quantize.h"

/* As many exact weights as leave sq2 below 2.2, sq3 below 3.4 and sq4 below 4.55 bits a weight over
 * a layer of 576 and 1536 columns. */
static const struct {
    const char *name;
    struct quantize_scheme scheme;
} schemes[] = {
    {"Q8_0", {QUANTIZE_BLOCKS, QTYPE_Q8_0, 8, 32, 0}},
    {"Q6_K", {QUANTIZE_BLOCKS, QTYPE_Q6_K, 6, 256, 0}},
    {"Q5_0", {QUANTIZE_BLOCKS, QTYPE_Q5_0, 5, 32, 0}},
    {"Q4_0", {QUANTIZE_BLOCKS, QTYPE_Q4_0, 4, 32, 0}},
    {"Q4_1", {QUANTIZE_BLOCKS, QTYPE_Q4_1, 4, 32, 0}},
    {"g4", {QUANTIZE_GROUPS, QTYPE_F32, 4, QUANTIZE_GROUP_DEFAULT, 0}},
    {"g3", {QUANTIZE_GROUPS, QTYPE_F32, 3, QUANTIZE_GROUP_DEFAULT, 0}},
    {"g2", {QUANTIZE_GROUPS, QTYPE_F32, 2, QUANTIZE_GROUP_DEFAULT, 0}},
    {"sq4", {QUANTIZE_LEVELS, QTYPE_F32, 4, 0, .38f}},
    {"sq3", {QUANTIZE_LEVELS, QTYPE_F32, 3, 0, .5f}},
    {"sq2", {QUANTIZE_LEVELS, QTYPE_F32, 2, 0, .18f}},
    {"keep", {QUANTIZE_KEEP, QTYPE_F32, 0, 0, 0}},
};

#define N_SCHEMES (sizeof(schemes) / sizeof(schemes[0]))

int quantize_scheme_parse(const char *name, struct quantize_scheme *s)
{
    for (size_t i = 0; i < N_SCHEMES; i++)
        if (strcmp(name, schemes[i].name) == 0) {
            *s = schemes[i].scheme;
            return 0;
        }
    return -EINVAL;
}

const char *quantize_schemes(void)
{
    return "Q8_0 Q6_K Q5_0 Q4_0 Q4_1 g4 g3 g2 sq4 sq3 sq2 keep";
}

const char *quantize_scheme_name(const struct quantize_scheme *s, char buf[QUANTIZE_NAME_MAX])
{
    switch (s->kind) {
    case QUANTIZE_KEEP:
        return "keep";
    case QUANTIZE_F16:
        return "F16";
    case QUANTIZE_BLOCKS:
        return qtype_info(s->type)->name;
    case QUANTIZE_GROUPS:
        snprintf(buf, QUANTIZE_NAME_MAX, "g%u:%u", s->bits, s->group);
        return buf;
    case QUANTIZE_LEVELS:
        snprintf(buf, QUANTIZE_NAME_MAX, "sq%u", s->bits);
        return buf;
    }
    return "";
}

bool quantize_scheme_fit(struct quantize_scheme *s, uint32_t n_cols)
{
    if (s->kind != QUANTIZE_BLOCKS || n_cols % qtype_info(s->type)->block_values == 0)
        return false;
    *s = schemes[0].scheme;
    return true;
}

uint64_t quantize_n_sparse(const struct quantize_scheme *s, uint64_t n_rows, uint64_t n_cols)
{
    const bool own = s->kind == QUANTIZE_GROUPS || s->kind == QUANTIZE_LEVELS;

    return own ? (uint64_t)((double)(n_rows * n_cols) * (double)s->sparse / 100) : 0;
}
