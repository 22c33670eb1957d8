/* SPDX-License-Identifier: Apache-2.0 */
/* The doctor's report, and its part about ports. */
#ifndef ISTHMUS_CONTROL_DOCTOR_H
#define ISTHMUS_CONTROL_DOCTOR_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum verdict { GOOD, NOTE, MISSING, UNUSABLE };

struct report {
    json_t *checks; /* [{"name", "status", "found", "mend"}] */
    json_t *figures;
    bool usable;
};

/* mend: what to do about it, or NULL. `found` is a format. */
void doctor_say(struct report *r, const char *name, enum verdict v, const char *mend,
                const char *found, ...) __attribute__((format(printf, 5, 6)));
void doctor_figure(struct report *r, const char *name, uint64_t value);

/* cmd/doctor_ports.c: which ports this host offers, and what is missing for the others. */
void doctor_ports(struct report *r);

#endif
