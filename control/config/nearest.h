/* SPDX-License-Identifier: Apache-2.0 */
/* What somebody may have meant who mistyped a name. */
#ifndef ISTHMUS_CONTROL_CONFIG_NEAREST_H
#define ISTHMUS_CONTROL_CONFIG_NEAREST_H

struct nearest {
    const char *typed, *best; /* borrowed */
    unsigned distance;        /* insertions, deletions and replacements to best */
};

void nearest_begin(struct nearest *n, const char *typed);
void nearest_consider(struct nearest *n, const char *name);
/* NULL: none is near enough to be worth a question. */
const char *nearest_name(const struct nearest *n);

#endif
