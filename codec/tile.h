/* SPDX-License-Identifier: Apache-2.0 */
/* The tile's header: bytes and back. */
#ifndef ISTHMUS_CODEC_TILE_H
#define ISTHMUS_CODEC_TILE_H

#include "codec/codec.h"

#define TILE_VERSION      0u
#define TILE_HEADER_BYTES 10u

void codec_tile_write(const struct codec_tile *tile, uint8_t dst[TILE_HEADER_BYTES]);

#endif
