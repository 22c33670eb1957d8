/* SPDX-License-Identifier: Apache-2.0 */
/* Codec profiles in files, with errors said on stderr. */
#ifndef ISTHMUS_CONTROL_PROFILE_H
#define ISTHMUS_CONTROL_PROFILE_H

#include "codec/profile.h"

/* EXIT_OK and the profile, to be freed with codec_profile_free(); or an exit code. */
int profile_read(const char *path, struct codec_profile **out);

/* Write it whole or not at all; sets p->hash. EXIT_OK or an exit code. */
int profile_write(const char *path, struct codec_profile *p);

/* A hash or fingerprint as hexadecimal digits. Returns buf. */
char *profile_hex(const uint8_t bytes[16], char buf[33]);

#endif
