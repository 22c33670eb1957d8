/* SPDX-License-Identifier: Apache-2.0 */
/* Codes as the file has them: blocks of 32 columns. */
#include <string.h>

#include "compute/quantize/impl.h"

#define BLOCK 32u

static void pack4(const uint8_t *c, uint8_t *to)
{
    for (unsigned i = 0; i < 16; i++)
        to[i] = (uint8_t)(c[i] | c[i + 16] << 4);
}

static void pack2(const uint8_t *c, uint8_t *to)
{
    for (unsigned i = 0; i < 8; i++)
        to[i] = (uint8_t)((c[i] & 3) | (c[i + 8] & 3) << 2 | (c[i + 16] & 3) << 4 |
                          (c[i + 24] & 3) << 6);
}

static void pack3(const uint8_t *c, uint8_t *to)
{
    pack2(c, to);
    memset(to + 8, 0, 4);
    for (unsigned i = 0; i < BLOCK; i++)
        to[8 + i / 8] |= (uint8_t)((c[i] >> 2) << i % 8);
}

void codes_pack(const uint8_t *codes, uint32_t n, unsigned bits, uint8_t *to)
{
    for (uint32_t i = 0; i < n; i += BLOCK, codes += BLOCK, to += 4 * bits)
        (bits == 4 ? pack4 : bits == 3 ? pack3 : pack2)(codes, to);
}

static void unpack4(const uint8_t *from, uint8_t *c)
{
    for (unsigned i = 0; i < BLOCK; i++)
        c[i] = from[i % 16] >> (i / 16 * 4) & 15;
}

static void unpack2(const uint8_t *from, uint8_t *c)
{
    for (unsigned i = 0; i < BLOCK; i++)
        c[i] = from[i % 8] >> (i / 8 * 2) & 3;
}

static void unpack3(const uint8_t *from, uint8_t *c)
{
    unpack2(from, c);
    for (unsigned i = 0; i < BLOCK; i++)
        c[i] |= (uint8_t)((from[8 + i / 8] >> i % 8 & 1) << 2);
}

void codes_unpack(const uint8_t *from, uint32_t n, unsigned bits, uint8_t *codes)
{
    for (uint32_t i = 0; i < n; i += BLOCK, codes += BLOCK, from += 4 * bits)
        (bits == 4 ? unpack4 : bits == 3 ? unpack3 : unpack2)(from, codes);
}
