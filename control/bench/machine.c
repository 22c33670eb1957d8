/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/machine.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "compute/team.h"
#include "control/meminfo.h"

#define DRAM_BYTES             ((size_t)1 << 30)
#define DRAM_PART_OF_AVAILABLE 4u /* a small machine keeps most of its memory for others */

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

int machine_read(struct machine *m)
{
    struct topology t;
    struct utsname u;
    const int rc = topology_read(&t);

    machine_cpu_name(m->cpu);
    uname(&u);
    snprintf(m->kernel, sizeof(m->kernel), "%s %s", u.sysname, u.release);
    m->cores = t.allowed_cores ? t.allowed_cores : 1;
    return rc;
}

size_t machine_dram_bytes(void)
{
    const size_t part = (size_t)meminfo("MemAvailable") * 1024 / DRAM_PART_OF_AVAILABLE;

    return part && part < DRAM_BYTES ? part : DRAM_BYTES;
}
