/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/coder.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec/cpu.h"
#include "codec/dsp.h"
#include "codec/rans.h"
#include "codec/synth.h"

#define CLASSES 512u
/* Rows that are made one by one; those after them repeat them. */
#define MADE_ROWS 64u

struct coder {
    struct coder_spec spec;
    uint32_t rows, cols;

    struct codec *codec;

    struct codec_dsp dsp; /* from here on: rANS */
    size_t n;
    struct rans_table table;
    struct rans_model model;
    uint8_t seeds[RANS_LANES_MAX];
};

int coder_spec_parse(const char *text, struct coder_spec *s, char *err)
{
    static const unsigned lanes[] = {4, 8, 16, 32, 64};
    char name[CODER_NAME_MAX];

    *s = (struct coder_spec){0};
    if (strncmp(text, "rans:lanes", 10) != 0)
        return codec_arg_parse(text, &s->params, err);
    for (unsigned i = 0; i < sizeof(lanes) / sizeof(lanes[0]); i++) {
        s->rans_lanes = lanes[i];
        if (strcmp(text, coder_spec_format(s, name)) == 0)
            return 0;
    }
    snprintf(err, CODEC_ARG_ERR, "codec `%.80s`: must be rans:lanes=4, 8, 16, 32 or 64", text);
    return -EINVAL;
}

char *coder_spec_format(const struct coder_spec *s, char name[CODER_NAME_MAX])
{
    if (!s->rans_lanes)
        return codec_arg_format(&s->params, name);
    snprintf(name, CODER_NAME_MAX, "rans:lanes=%u", s->rans_lanes);
    return name;
}

size_t coder_value_bytes(const struct coder_spec *s)
{
    return s->rans_lanes ? 1 : sizeof(float);
}

size_t coder_message_values(const struct coder_spec *s, uint32_t rows, uint32_t cols)
{
    const size_t n = (size_t)rows * cols;

    return s->rans_lanes ? (n + RANS_GROUP - 1) / RANS_GROUP * RANS_GROUP : n;
}

size_t coder_bound(const struct coder_spec *s, uint32_t rows, uint32_t cols)
{
    return s->rans_lanes ? rans_bound(coder_message_values(s, rows, cols), s->rans_lanes)
                         : rows * (codec_bound(&s->params, 1, cols) + sizeof(uint32_t));
}

static uint64_t next_random(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* About normal, standard deviation 1.29. */
static float normal(uint64_t bits)
{
    float v = 0.0f;

    for (unsigned k = 0; k < 5; k++)
        v += (float)(bits >> 10 * k & 1023) / 512.0f - 1.0f;
    return v;
}

bool coder_profiled(const struct coder_spec *s)
{
    return !s->rans_lanes && (s->params.mode == CODEC_RANS || s->params.mode == CODEC_XFORM);
}

int coder_profile(uint32_t cols, struct codec_profile **out)
{
    return codec_synth_profile(cols, CLASSES, 1, out);
}

/* Columns with the deviations that the profile's scalar basis gives them. */
static void fill_columns(const struct codec_profile *p, float *row, uint64_t *seed)
{
    for (uint32_t k = 0; k < p->n_blocks; k++) {
        const struct codec_profile_block *b = &p->blocks[k];
        for (uint32_t i = 0; i < b->cols; i++) {
            const uint32_t j = b->first_col + b->order[i];
            const float sigma = p->ref_sigma * exp2f((float)b->scalar.level[i / RANS_GROUP] / 4);
            row[j] = p->mean[j] + sigma * normal(next_random(seed)) / 1.29f;
        }
    }
}

static int fill_profiled(const struct coder_spec *s, uint32_t cols, float *rows, size_t n_rows,
                         uint64_t seed)
{
    const uint32_t made = n_rows < MADE_ROWS ? (uint32_t)n_rows : MADE_ROWS;
    int rc = 0;

    if (s->params.mode == CODEC_XFORM)
        rc = codec_synth_rows(s->params.profile, seed, made, rows, cols);
    for (uint32_t i = 0; i < made && s->params.mode == CODEC_RANS; i++)
        fill_columns(s->params.profile, rows + (size_t)i * cols, &seed);
    for (size_t i = made; i < n_rows && rc == 0; i++)
        memcpy(rows + i * cols, rows + i % made * cols, cols * sizeof(*rows));
    return rc;
}

int coder_fill(const struct coder_spec *s, uint32_t cols, void *values, size_t n, uint64_t seed)
{
    float *rows = values;
    uint8_t *symbols = values;

    if (coder_profiled(s))
        return fill_profiled(s, cols, rows, n / cols, seed);
    for (size_t i = 0; i < n; i++) {
        const uint64_t bits = next_random(&seed);
        if (s->rans_lanes) /* 4-bit codes of such rows without their outliers: 3.1 bits each */
            symbols[i] = (uint8_t)(8.0f + 1.6f * normal(bits));
        else
            rows[i] = (bits >> 50) % 50 ? normal(bits) : 20.0f * normal(bits);
    }
    return 0;
}

static int open_rans(struct coder *c, const uint8_t *symbols)
{
    uint32_t counts[RANS_SYMBOLS] = {0};
    uint16_t freq[RANS_SYMBOLS];
    uint64_t seed = 1;

    codec_dsp_init(&c->dsp, cpu_flags());
    c->n = coder_message_values(&c->spec, c->rows, c->cols);
    c->model = (struct rans_model){.tables = &c->table};
    for (unsigned i = 0; i < RANS_LANES_MAX; i++)
        c->seeds[i] = (uint8_t)next_random(&seed);
    for (size_t i = 0; i < c->n; i++)
        counts[symbols[i]]++;
    /* the other messages have other symbols */
    int rc = rans_quantize_freqs(counts, 0xffff, freq);
    return rc ? rc : rans_table_init(&c->table, freq);
}

int coder_open(const struct coder_spec *s, uint32_t rows, uint32_t cols, const void *values,
               struct coder **out)
{
    struct coder *c = calloc(1, sizeof(*c));

    if (!c)
        return -ENOMEM;
    c->spec = *s;
    c->rows = rows;
    c->cols = cols;
    const int rc = s->rans_lanes ? open_rans(c, values) : codec_open(&s->params, cols, &c->codec);
    if (rc < 0) {
        coder_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

void coder_close(struct coder *c)
{
    if (!c)
        return;
    codec_close(c->codec);
    free(c);
}

/* A message's tiles lie one after the other, and at the end of its room are their lengths, the
 * first of them last. */
static uint8_t *length_at(const struct coder *c, const void *dst, size_t tile)
{
    const size_t room = coder_bound(&c->spec, c->rows, c->cols);

    return (uint8_t *)(uintptr_t)dst + room - (tile + 1) * sizeof(uint32_t);
}

static int encode_tiles(struct coder *c, const float *rows, uint8_t *dst, size_t room)
{
    const size_t tiles_room = room - c->rows * sizeof(uint32_t);
    struct codec_cursor at = {0, 0};
    size_t n = 0;

    for (size_t tile = 0; at.row < c->rows; tile++) {
        const int len =
            codec_encode(c->codec, rows, c->cols, c->rows, 0, &at, dst + n, tiles_room - n, NULL);
        if (len < 0)
            return len;
        memcpy(length_at(c, dst, tile), &(uint32_t){(uint32_t)len}, sizeof(uint32_t));
        n += (size_t)len;
    }
    return (int)n;
}

static int decode_tiles(struct coder *c, const uint8_t *src, size_t n, float *rows)
{
    for (size_t tile = 0, from = 0; from < n; tile++) {
        uint32_t len;
        memcpy(&len, length_at(c, src, tile), sizeof(len));
        const int rc =
            codec_decode_later(c->codec, src + from, len, 0, rows, c->cols, c->rows, NULL);
        if (rc < 0)
            return rc;
        from += len;
    }
    return codec_decode_finish(c->codec);
}

int coder_encode(struct coder *c, const void *values, uint8_t *dst, size_t room)
{
    if (c->spec.rans_lanes)
        return rans_encode(&c->dsp, &c->model, values, c->n, c->spec.rans_lanes, c->seeds, dst,
                           room);
    return encode_tiles(c, values, dst, room);
}

int coder_decode(struct coder *c, const uint8_t *src, size_t len, void *values)
{
    uint8_t seeds[RANS_LANES_MAX];

    if (c->spec.rans_lanes)
        return rans_decode(&c->dsp, &c->model, src, len, c->n, c->spec.rans_lanes, values, seeds);
    return decode_tiles(c, src, len, values);
}
