/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `isthmus bench codec` times: a codec, rows of f32 into tiles and back; or the rANS kernel
 * alone, 16 symbols, a byte each, into a stream and back. Both take messages of rows x cols values.
 * rans and xform have a made-up profile with classes, and rows that fit it.
 */
#ifndef ISTHMUS_CONTROL_BENCH_CODER_H
#define ISTHMUS_CONTROL_BENCH_CODER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codec/codec.h"
#include "codec/profile.h"
#include "control/codec_arg.h"

#define CODER_NAME_MAX CODEC_ARG_MAX

struct coder_spec {
    unsigned rans_lanes;        /* 0: a codec */
    struct codec_params params; /* of the codec */
};

/* Whether it has a profile, and one for params.profile: codec_profile_free's. 0 or -errno. */
bool coder_profiled(const struct coder_spec *s);
int coder_profile(uint32_t cols, struct codec_profile **out);

/* A codec as codec_arg_parse reads it, or rans:lanes=4, 8, 16, 32 or 64. Returns and err as there.
 */
int coder_spec_parse(const char *text, struct coder_spec *s, char *err);
char *coder_spec_format(const struct coder_spec *s, char name[CODER_NAME_MAX]);

/* Bytes of a value as it is before encoding. */
size_t coder_value_bytes(const struct coder_spec *s);

/* Values of a message, with what it is filled up by. */
size_t coder_message_values(const struct coder_spec *s, uint32_t rows, uint32_t cols);

/* Room for what a message can become: its tiles and, apart from them, their lengths. */
size_t coder_bound(const struct coder_spec *s, uint32_t rows, uint32_t cols);

/* n values, of rows of `cols` of them, like those of a model; the same for the same seed. 0 or
 * -errno. */
int coder_fill(const struct coder_spec *s, uint32_t cols, void *values, size_t n, uint64_t seed);

/* With the kernels of cpu_flags(), for messages like this one of n values. 0 or -errno. */
struct coder;
int coder_open(const struct coder_spec *s, uint32_t rows, uint32_t cols, const void *values,
               struct coder **out);
void coder_close(struct coder *c);

/* A message into dst, which has room for coder_bound() bytes: its tiles' bytes, or -errno. */
int coder_encode(struct coder *c, const void *values, uint8_t *dst, size_t room);
/* 0 or -errno. */
int coder_decode(struct coder *c, const uint8_t *src, size_t len, void *values);

#endif
