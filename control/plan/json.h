/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the planner's JSON files: the first thing that is wrong is said in one line, all after it
 * is passed over, so that a reader asks once, at its end. */
#ifndef ISTHMUS_CONTROL_PLAN_JSON_H
#define ISTHMUS_CONTROL_PLAN_JSON_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

struct plan_reading {
    const char *name; /* of the file */
    char *err;        /* PLAN_ERR bytes */
    int rc;           /* 0, or -EBADMSG of what was wrong first */
};

__attribute__((format(printf, 2, 3))) void plan_json_wrong(struct plan_reading *r, const char *fmt,
                                                           ...);

/* A file's object, of this kind and version; NULL: said. json_decref() it. */
json_t *plan_json_load(struct plan_reading *r, const char *text, size_t len, const char *kind,
                       int version);

/* Members of o; what is missing or out of range is said. */
void plan_json_text(struct plan_reading *r, const json_t *o, const char *key, char *to,
                    size_t room);
double plan_json_real(struct plan_reading *r, const json_t *o, const char *key, double min,
                      double max);
uint64_t plan_json_count(struct plan_reading *r, const json_t *o, const char *key, uint64_t min,
                         uint64_t max);
/* Of a value itself; key: what it is called. */
double plan_json_number(struct plan_reading *r, const json_t *v, const char *key, double min,
                        double max);

#endif
