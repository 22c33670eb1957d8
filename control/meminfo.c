/* SPDX-License-Identifier: Apache-2.0 */
#include "control/meminfo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t meminfo(const char *key)
{
    char line[128];
    uint64_t value = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    if (!f)
        return 0;
    while (fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':')
            value = strtoull(line + strlen(key) + 1, NULL, 10);
    fclose(f);
    return value;
}
