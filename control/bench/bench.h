/* SPDX-License-Identifier: Apache-2.0 */
/* The members of `isthmus bench`; each takes a command line and returns an exit code, as commands
 * do (control/cmd.h). */
#ifndef ISTHMUS_CONTROL_BENCH_BENCH_H
#define ISTHMUS_CONTROL_BENCH_BENCH_H

int bench_machine(int argc, char **argv);
int bench_compute(int argc, char **argv);
int bench_kernels(int argc, char **argv);
int bench_codec(int argc, char **argv);
int bench_transport(int argc, char **argv);
int bench_serve(int argc, char **argv);

#endif
