/* SPDX-License-Identifier: Apache-2.0 */
/* Pictures by gnuplot, for options --plot FILE. */
#ifndef ISTHMUS_CONTROL_GNUPLOT_H
#define ISTHMUS_CONTROL_GNUPLOT_H

#include <stdio.h>

/* Can a picture be drawn later: is there a gnuplot, and can the file be written? EXIT_OK or an exit
 * code, the error said; here and below. */
int gnuplot_check(const char *path);

/* A script to be written (a file without a name), its terminal set: a picture in PNG. NULL, said. */
FILE *gnuplot_script(const char *path);

/* Run it and close it. The file at path comes into being whole or not at all. */
int gnuplot_draw(const char *path, FILE *script);

#endif
