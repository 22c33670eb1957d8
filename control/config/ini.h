/* SPDX-License-Identifier: Apache-2.0 */
/* An INI file's entries, by libinih, with what that lets pass being refused. */
#ifndef ISTHMUS_CONTROL_CONFIG_INI_H
#define ISTHMUS_CONTROL_CONFIG_INI_H

#include <stddef.h>

#define INI_BYTES_MAX 262144u /* of a file */
#define INI_LINE_MAX  1000u   /* of a line, its end left out */
#define INI_ERR       160

struct ini_entry {
    char section[32]; /* "": before the first */
    char *key, *value;
    unsigned line;
};

struct ini {
    struct ini_entry *list;
    size_t n;
};

/* 0; or -EINVAL, -ENOMEM with one line in err (INI_ERR bytes), which names the line of the text.
 * ini_free is due in either case. */
int ini_read(const char *text, size_t n, struct ini *out, char *err);
void ini_free(struct ini *ini);

#endif
