/* SPDX-License-Identifier: Apache-2.0 */
/* What a result has to say about the machine it comes from. */
#ifndef ISTHMUS_CONTROL_BENCH_MACHINE_H
#define ISTHMUS_CONTROL_BENCH_MACHINE_H

#define MACHINE_NAME_MAX 96

/* The processor's model name, or "unknown CPU". */
void machine_cpu_name(char name[MACHINE_NAME_MAX]);

#endif
