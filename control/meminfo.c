/* SPDX-License-Identifier: Apache-2.0 */
#include "control/meminfo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

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

bool huge_pages(char mode[THP_MODE_BYTES])
{
    char line[128] = "";
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    if (f) {
        if (!fgets(line, sizeof line, f))
            line[0] = '\0';
        fclose(f);
    }
    /* "always [madvise] never" */
    char *chosen = strchr(line, '['), *end = chosen ? strchr(chosen, ']') : NULL;
    if (end)
        *end = '\0';
    snprintf(mode, THP_MODE_BYTES, "%s", end ? chosen + 1 : "not in this kernel");
    if (end && prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1)
        snprintf(mode, THP_MODE_BYTES, "forbidden to this process");
    return end && strcmp(mode, "never") != 0 && mode[0] != 'f';
}
