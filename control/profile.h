/* SPDX-License-Identifier: Apache-2.0 */
/* Codec profiles in files, with errors said on stderr. */
#ifndef ISTHMUS_CONTROL_PROFILE_H
#define ISTHMUS_CONTROL_PROFILE_H

#include "codec/profile.h"

/* EXIT_OK and the profile, to be freed with codec_profile_free(); or an exit code. */
int profile_read(const char *path, struct codec_profile **out);

/* The tokens that a profile was learned from: malloc'd ids of n_windows windows of `window` tokens.
 * EXIT_OK, or an exit code, the error said: for another model than the fingerprint's, too. */
int profile_read_text(const char *path, const uint8_t fingerprint[16], int32_t **ids,
                      uint32_t *n_windows, uint32_t *window);

/* Write it whole or not at all; sets p->hash. EXIT_OK or an exit code. */
int profile_write(const char *path, struct codec_profile *p);

/* The same, and the n tokens that it was learned from behind it. */
int profile_write_text(const char *path, struct codec_profile *p, const int32_t *ids, uint32_t n,
                       uint32_t window);

/* A hash or fingerprint as hexadecimal digits. Returns buf. */
char *profile_hex(const uint8_t bytes[16], char buf[33]);

#endif
