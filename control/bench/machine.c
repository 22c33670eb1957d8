/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/machine.h"

#include <stdio.h>
#include <string.h>

void machine_cpu_name(char name[MACHINE_NAME_MAX])
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "re");

    strcpy(name, "unknown CPU");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "model name : %95[^\n]", name) == 1)
            break;
    if (f)
        fclose(f);
}
