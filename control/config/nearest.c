/* SPDX-License-Identifier: Apache-2.0 */
#include "control/config/nearest.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>

#define NAME_MAX_BYTES 40u

void nearest_begin(struct nearest *n, const char *typed)
{
    *n = (struct nearest){.typed = typed, .distance = UINT_MAX};
}

static unsigned least(unsigned a, unsigned b, unsigned c)
{
    const unsigned d = a < b ? a : b;
    return d < c ? d : c;
}

static unsigned distance(const char *a, const char *b)
{
    unsigned row[NAME_MAX_BYTES + 1];
    const size_t n = strlen(b);
    for (unsigned k = 0; k <= n; k++)
        row[k] = k;
    for (unsigned i = 1; a[i - 1]; i++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (unsigned k = 1; k <= n; k++) {
            const unsigned replaced = diagonal + (a[i - 1] != b[k - 1]);
            diagonal = row[k];
            row[k] = least(row[k] + 1, row[k - 1] + 1, replaced);
        }
    }
    return row[n];
}

void nearest_consider(struct nearest *n, const char *name)
{
    if (strlen(n->typed) > NAME_MAX_BYTES || strlen(name) > NAME_MAX_BYTES)
        return;
    const unsigned d = distance(n->typed, name);
    if (d < n->distance) {
        n->distance = d;
        n->best = name;
    }
}

const char *nearest_name(const struct nearest *n)
{
    return n->best && n->distance <= 1 + strlen(n->typed) / 3 ? n->best : NULL;
}
