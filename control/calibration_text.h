/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tokens that a profile was learned from, behind the profile in its file, for `isthmus
 * quantize`:
 *
 *     the profile | ids u32[n] | the foot: "ISTHTEXT", version u32 = 1, window u32, n u32, 0 u32,
 *                                fingerprint of the model u8[16], XXH3-64 of all but the profile
 *                                and itself u64
 *
 * little-endian. What reads profiles for the codec leaves it out (control/profile.h).
 */
#ifndef ISTHMUS_CONTROL_CALIBRATION_TEXT_H
#define ISTHMUS_CONTROL_CALIBRATION_TEXT_H

#include <stddef.h>
#include <stdint.h>

#define CALIBRATION_TEXT_FOOT 48u

struct calibration_text {
    const uint8_t *ids; /* u32[n], little-endian, unaligned, in the bytes given */
    uint32_t n, window; /* n a multiple of window, window not 0; each id below 2^31 */
    uint8_t fingerprint[16];
    size_t at; /* where the profile ends */
};

/* 0; -ENOENT (there is none: all is profile), -EBADMSG (damaged), -ENOTSUP (another version). */
int calibration_text_find(const uint8_t *bytes, size_t len, struct calibration_text *t);

/* What stands behind a profile: malloc'd, *len bytes. NULL: out of memory. */
uint8_t *calibration_text_make(const int32_t *ids, uint32_t n, uint32_t window,
                               const uint8_t fingerprint[16], size_t *len);

#endif
