/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The edges a cloud admits: a text file, a line each,
 *
 *   NAME FINGERPRINT [sessions=N] [tokens=N] [kv=SIZE] [rate=SIZE/s|Nrows/s]     # and comments
 *
 * NAME: 1 to 63 of A-Z a-z 0-9 . _ -, for people. sessions: most at once; tokens: longest session; kv:
 * cache that its sessions take together; rate: what it may send, bytes or rows a second. SIZE: 64MB,
 * 1.5GB, 2000000. Names and fingerprints appear once.
 */
#ifndef ISTHMUS_DATAPLANE_SECURE_AUTHORIZED_H
#define ISTHMUS_DATAPLANE_SECURE_AUTHORIZED_H

#include <stddef.h>
#include <stdint.h>

#include "dataplane/secure/identity.h"

#define AUTHORIZED_NAME  64u   /* with the zero */
#define AUTHORIZED_PEERS 4096u /* of a file, at most */

struct authorized_peer {
    char name[AUTHORIZED_NAME];
    struct fingerprint fingerprint;
    uint32_t sessions_max, tokens_max; /* 0: no limit of its own */
    uint64_t kv_max_bytes, rate_bytes, rate_rows; /* a second; one of the two rates at most */
};

struct authorized;

/* The text of a file; `file` is its name in errors. err: IDENTITY_ERR bytes, one line naming file and
 * line. 0, -EINVAL, -ENOMEM. */
int authorized_parse(const char *text, size_t len, const char *file, struct authorized **out,
                     char *err);
/* Also -errno of the file, and -EINVAL for one that anybody may write. */
int authorized_read(const char *path, struct authorized **out, char *err);
/* One peer, without limits. 0 or -ENOMEM. */
int authorized_one(const struct fingerprint *f, struct authorized **out);
void authorized_close(struct authorized *a);

size_t authorized_count(const struct authorized *a);
/* NULL: not admitted. */
const struct authorized_peer *authorized_find(const struct authorized *a,
                                              const struct fingerprint *f);

#endif
