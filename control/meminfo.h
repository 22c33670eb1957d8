/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ISTHMUS_CONTROL_MEMINFO_H
#define ISTHMUS_CONTROL_MEMINFO_H

#include <stdint.h>

/* A number of /proc/meminfo: "MemTotal:   123 kB" -> 123; 0 if it is not there. */
uint64_t meminfo(const char *key);

#endif
