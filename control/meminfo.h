/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ISTHMUS_CONTROL_MEMINFO_H
#define ISTHMUS_CONTROL_MEMINFO_H

#include <stdbool.h>
#include <stdint.h>

/* A number of /proc/meminfo: "MemTotal:   123 kB" -> 123; 0 if it is not there. */
uint64_t meminfo(const char *key);

/* Whether the kernel gives this process huge pages where it asks for them, and how its switch stands:
 * "madvise", "never", "not in this kernel", ... into mode. */
#define THP_MODE_BYTES 32
bool huge_pages(char mode[THP_MODE_BYTES]);

#endif
