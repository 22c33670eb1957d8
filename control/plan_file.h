/* SPDX-License-Identifier: Apache-2.0 */
/* The planner's files, read whole; errors are said. */
#ifndef ISTHMUS_CONTROL_PLAN_FILE_H
#define ISTHMUS_CONTROL_PLAN_FILE_H

#include <stddef.h>

#define PLAN_FILE_MAX ((size_t)4 << 20)

/* malloc'd; a file longer than PLAN_FILE_MAX is refused. EXIT_OK or an exit code. */
int plan_file_read(const char *path, char **text, size_t *len);

#endif
