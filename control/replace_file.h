/* SPDX-License-Identifier: Apache-2.0 */
/* A file that comes into being, or takes the place of the one there, whole or not at all: whatever
 * fails or kills the process, the old one stays, and no half one lies beside it. */
#ifndef ISTHMUS_CONTROL_REPLACE_FILE_H
#define ISTHMUS_CONTROL_REPLACE_FILE_H

#include <stddef.h>

/* Whether a file could be written there: asked before long work. EXIT_OK or an exit code, the error
 * said; here and below. */
int replace_file_check(const char *path);

/* Done when it is on the disk. */
int replace_file(const char *path, const void *bytes, size_t len);

#endif
