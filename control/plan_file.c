/* SPDX-License-Identifier: Apache-2.0 */
#include "control/plan_file.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"

int plan_file_read(const char *path, char **text, size_t *len)
{
    FILE *f = fopen(path, "re");

    *text = malloc(PLAN_FILE_MAX + 1);
    *len = f && *text ? fread(*text, 1, PLAN_FILE_MAX + 1, f) : 0;
    const bool failed = !f || !*text || ferror(f);
    const int why = errno;
    if (f)
        fclose(f);
    if (!failed && *len <= PLAN_FILE_MAX)
        return EXIT_OK;
    if (failed)
        log_error("%s: %s", path, strerror(why));
    else
        log_error("%s: is longer than %zu bytes: no profile", path, PLAN_FILE_MAX);
    free(*text);
    *text = NULL;
    return EXIT_USAGE;
}
