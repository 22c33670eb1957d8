/* SPDX-License-Identifier: Apache-2.0 */
/* A file that comes into being, or takes the place of the one there, whole or not at all: whatever
 * fails or kills the process, the old one stays. No half one lies beside it either, but where the
 * file system has no O_TMPFILE (NFS, FUSE) or /proc is not there: the new one is then called
 * PATH.xxxxxxxx while it is written, and stays if the process is killed. */
#ifndef ISTHMUS_CONTROL_REPLACE_FILE_H
#define ISTHMUS_CONTROL_REPLACE_FILE_H

#include <stddef.h>
#include <stdint.h>

/* Whether a file could be written there: asked before long work. EXIT_OK or an exit code, the error
 * said; here and below. */
int replace_file_check(const char *path);

/* Done when it is on the disk. */
int replace_file(const char *path, const void *bytes, size_t len);

/* The same for what is written bit by bit. */
struct replacement;

/* EXIT_OK or an exit code; close either way. */
int replacement_open(const char *path, struct replacement **out);
int replacement_fd(const struct replacement *r);

/* Reserve bytes on the disk, as far as its file system can. EXIT_OK, or an exit code with the lack
 * of room said. */
int replacement_reserve(struct replacement *r, uint64_t bytes);

/* Everything written is on the disk, and then has the name. EXIT_OK or an exit code. */
int replacement_sync(struct replacement *r);
int replacement_take(struct replacement *r);

/* What has not taken the name is gone. */
void replacement_close(struct replacement *r);

#endif
