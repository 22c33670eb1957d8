/* SPDX-License-Identifier: Apache-2.0 */
/* Codes of q bits <-> bytes: 8 codes make q bytes, little-endian, the first code lowest. */
#include "codec/dsp.h"

void codec_pack(const uint8_t *codes, size_t n, unsigned q, uint8_t *bits)
{
    for (size_t i = 0; i < n; i += 8, bits += q) {
        uint64_t group = 0;
        for (unsigned k = 0; k < 8; k++)
            group |= (uint64_t)codes[i + k] << (k * q);
        for (unsigned k = 0; k < q; k++)
            bits[k] = (uint8_t)(group >> (8 * k));
    }
}

size_t codec_unpack(const uint8_t *bits, size_t n, unsigned q, uint8_t *codes)
{
    const uint8_t mask = (uint8_t)((1u << q) - 1);
    size_t zeros = 0;

    for (size_t i = 0; i < n; i += 8, bits += q) {
        uint64_t group = 0;
        for (unsigned k = 0; k < q; k++)
            group |= (uint64_t)bits[k] << (8 * k);
        for (unsigned k = 0; k < 8; k++) {
            codes[i + k] = (uint8_t)(group >> (k * q)) & mask;
            zeros += i + k < n && codes[i + k] == 0;
        }
    }
    return zeros;
}
