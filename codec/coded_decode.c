/* SPDX-License-Identifier: Apache-2.0 */
/* The decoder of the coded modes: tiles, which may be anything, taken apart. */
#include "codec/coded_state.h"

#include <errno.h>
#include <string.h>

struct reader {
    const uint8_t *at, *end;
};

/* Where the streams of a tile being read are. */
struct taken {
    const uint8_t *symbols, *low, *pre;
    struct reader escapes;
    size_t pre_at; /* bits */
};

static unsigned get_bits(const uint8_t *src, size_t *at, unsigned bits)
{
    uint32_t word;

    memcpy(&word, src + *at / 8, sizeof(word));
    word = word >> *at % 8 & ((1u << bits) - 1);
    *at += bits;
    return word;
}

/* The lengths that follow from the rows' heads. False when the tile is too large. */
static bool measure(struct coded *c, const uint8_t *head, uint32_t rows, uint32_t first, uint32_t n)
{
    struct coded_streams *t = &c->tile;

    *t =
        (struct coded_streams){.rows = rows, .head_bytes = rows * (1 + c->class_bytes + (size_t)n)};
    for (uint32_t r = 0; r < rows; r++) {
        head += 1 + c->class_bytes;
        for (uint32_t i = first; i < first + n; i++, head++) {
            const struct coded_block *b = &c->basis.blocks[i];
            const int offset = (int8_t)*head;
            for (uint32_t g = 0; g < b->groups; g++) {
                const unsigned at = level_index(b->level[g], offset);
                if (c->levels.table[at] == TABLE_NONE)
                    continue;
                if (t->groups == CODED_GROUPS_MAX)
                    return false;
                c->table_of[t->groups++] = c->levels.table[at];
                t->low_bytes += c->levels.shift[at] * RANS_GROUP / 8;
            }
            t->pre_bits += b->pre_bits;
        }
    }
    return t->pre_bits <= CODED_PRE_BITS_MAX;
}

static bool read_count(struct reader *r, size_t *count)
{
    *count = 0;
    for (unsigned at = 0; at < 7 * CODED_COUNT_BYTES_MAX; at += 7) {
        if (r->at == r->end)
            return false;
        *count |= (size_t)(*r->at & 127) << at;
        if (*r->at++ < 128)
            return at == 0 || r->at[-1];
    }
    return false;
}

static bool read_escape(struct reader *r, int *value)
{
    size_t v;

    if (!read_count(r, &v))
        return false;
    *value = v & 1 ? -(int)(v / 2) - 1 : (int)(v / 2);
    return true;
}

/* Symbols and raw bytes of a tile, whose lengths c->tile has. */
static int take_apart(struct coded *c, enum tile_coding coding, const uint8_t *table,
                      struct reader *src)
{
    struct coded_streams *t = &c->tile;
    const size_t n = (size_t)t->groups * RANS_GROUP;
    const unsigned lanes = coded_lanes(n);
    struct rans_table own;
    struct rans_model model = {c->levels.tables, c->table_of};
    size_t raw, clear;
    int rc = 0;

    if (!read_count(src, &t->escape_bytes) || t->escape_bytes > 3 * n)
        return -EBADMSG;
    raw = coded_raw_bytes(t);
    clear = raw > lanes ? raw - lanes : 0;
    if ((size_t)(src->end - src->at) < clear)
        return -EBADMSG;
    memcpy(c->raw + lanes, src->at, clear);
    src->at += clear;
    if (coding == TILE_RANS_TABLE) {
        if (coded_read_table(table, &own))
            return -EBADMSG;
        model = (struct rans_model){&own, NULL};
    }
    if (n)
        rc = rans_decode(c->dsp, &model, src->at, (size_t)(src->end - src->at), n, lanes,
                         c->symbols, c->raw);
    else if (src->at != src->end)
        return -EBADMSG;
    for (size_t i = raw; i < lanes; i++)
        if (!rc && c->raw[i])
            return -EBADMSG;
    return rc ? -EBADMSG : 0;
}

/* Low bits of 32 values onto what their symbols said. */
static const uint8_t *add_low(const struct codec_dsp *dsp, const uint8_t *src, unsigned shift,
                              int32_t *k)
{
    uint8_t plane[2][CODEC_PAD] = {{0}};

    dsp->unpack(src, RANS_GROUP, shift < 8 ? shift : 8, plane[0]);
    if (shift > 8)
        dsp->unpack(src + RANS_GROUP, RANS_GROUP, shift - 8, plane[1]);
    for (unsigned i = 0; i < RANS_GROUP; i++)
        k[i] += (plane[0][i] | plane[1][i] << 8) - (1 << shift >> 1);
    return src + shift * RANS_GROUP / 8;
}

/* Escapes and low bits of a group whose values aren't symbols alone. */
static bool complete_group(struct coded *c, struct taken *t, unsigned shift, uint32_t escaped,
                           int16_t *k)
{
    int32_t wide[RANS_GROUP];

    for (unsigned i = 0; i < RANS_GROUP; i++)
        wide[i] = k[i];
    for (; escaped; escaped &= escaped - 1) {
        int value;
        if (!read_escape(&t->escapes, &value) || value > INT16_MAX || value < -INT16_MAX)
            return false;
        wide[__builtin_ctz(escaped)] = value * (1 << shift);
    }
    if (shift)
        t->low = add_low(c->dsp, t->low, shift, wide);
    for (unsigned i = 0; i < RANS_GROUP; i++) {
        if (wide[i] > INT16_MAX || wide[i] < -INT16_MAX)
            return false;
        k[i] = (int16_t)wide[i];
    }
    return true;
}

/* A block of a row; false when it is malformed. */
static bool read_block(struct coded *c, struct taken *t, const struct coded_block *b, int offset,
                       int16_t *k)
{
    const struct levels *l = &c->levels;
    const uint32_t *escaped = c->escaped;
    const size_t coded =
        c->dsp->join_symbols(l, t->symbols, b->level, offset, b->groups, k, c->escaped);

    t->symbols += coded * RANS_GROUP;
    for (uint32_t g = 0; g < b->groups; g++) {
        const unsigned at = level_index(b->level[g], offset);
        if (l->table[at] == TABLE_NONE)
            continue;
        if ((*escaped || l->shift[at]) &&
            !complete_group(c, t, l->shift[at], *escaped, k + g * RANS_GROUP))
            return false;
        escaped++;
    }
    for (uint32_t i = 0; i < b->n_pre; i++) {
        int16_t *to = &k[b->pre[i].at];
        const unsigned bits = b->pre[i].bits;
        const int32_t v =
            *to * (1 << bits) + (int32_t)get_bits(t->pre, &t->pre_at, bits) - (1 << bits >> 1);
        if (v > INT16_MAX || v < -INT16_MAX)
            return false;
        *to = (int16_t)v;
    }
    for (uint32_t i = b->n; i < b->groups * RANS_GROUP; i++)
        if (k[i])
            return false;
    return c->dsp->sum_sq_i16(k, b->n) <= CODED_SUM_SQ_MAX;
}

/* The blocks that a range of columns consists of: their number and the first, or 0. */
static uint32_t blocks_of(const struct coded_basis *basis, const struct codec_tile *tile,
                          uint32_t *first)
{
    uint32_t end;

    for (*first = 0; basis->blocks[*first].first_col != tile->first_col;)
        if (++*first == basis->n_blocks)
            return 0;
    for (end = *first; end < basis->n_blocks; end++) {
        const struct coded_block *b = &basis->blocks[end];
        if (b->first_col + b->cols == tile->first_col + tile->n_cols)
            return end + 1 - *first;
    }
    return 0;
}

/* One row, of blocks [first, first + n), to where it waits. */
static bool read_row(struct coded *c, struct taken *t, const uint8_t *head, uint32_t first,
                     uint32_t n, float *out)
{
    struct coded_waiting *w = &c->waiting;
    struct coded_waiting_row row = {.delta = coded_delta(*head++), .out = out};

    for (unsigned i = 0; i < c->class_bytes; i++)
        row.class |= (uint16_t)(*head++ << 8 * i);
    if (c->class_bytes && row.class >= c->basis.n_classes)
        return false;
    for (uint32_t i = first; i < first + n; i++) {
        const struct coded_block *b = &c->basis.blocks[i];
        if (!read_block(c, t, b, (int8_t)*head++, coded_k(w->k, b, w->n[i])))
            return false;
        w->rows[i][w->n[i]++] = row;
        row.out += b->cols;
        if (w->n[i] == CODED_BATCH && !coded_restore(&c->basis, c->dsp, w, i))
            return false;
    }
    return true;
}

static int decode(struct coded *c, const struct codec_tile *tile, enum tile_coding coding,
                  const uint8_t *src, size_t len, float *out, size_t stride)
{
    struct reader r = {src, src + len};
    const uint8_t *table = src, *head;
    struct taken t;
    uint32_t first;
    const uint32_t n = blocks_of(&c->basis, tile, &first);
    const size_t head_bytes = 1 + c->class_bytes + (size_t)n;

    if (!n || (coding != c->coding && (coding != TILE_RANS_TABLE || c->coding != TILE_RANS)))
        return -EBADMSG;
    if (coding == TILE_RANS_TABLE) {
        if (len < CODED_TABLE_BYTES)
            return -EBADMSG;
        r.at += CODED_TABLE_BYTES;
    }
    head = r.at;
    if ((size_t)(r.end - r.at) < tile->n_tokens * head_bytes ||
        !measure(c, head, tile->n_tokens, first, n))
        return -EBADMSG;
    r.at += c->tile.head_bytes;
    if (take_apart(c, coding, table, &r))
        return -EBADMSG;
    t = (struct taken){.symbols = c->symbols, .low = c->raw, .pre = c->raw + c->tile.low_bytes};
    t.escapes.at = t.pre + (c->tile.pre_bits + 7) / 8;
    if (c->tile.pre_bits % 8 && t.escapes.at[-1] >> c->tile.pre_bits % 8)
        return -EBADMSG;
    t.escapes.end = t.escapes.at + c->tile.escape_bytes;
    for (uint32_t row = 0; row < tile->n_tokens; row++)
        if (!read_row(c, &t, head + row * head_bytes, first, n, out + row * stride))
            return -EBADMSG;
    return t.escapes.at == t.escapes.end ? 0 : -EBADMSG;
}

int coded_decode(struct coded *c, const struct codec_tile *tile, enum tile_coding coding,
                 const uint8_t *src, size_t len, float *out, size_t stride)
{
    int rc = decode(c, tile, coding, src, len, out, stride);

    if (!rc && !c->basis.transform)
        rc = coded_decode_finish(c);
    return rc;
}

void coded_decode_drop(struct coded *c)
{
    memset(c->waiting.n, 0, sizeof(c->waiting.n));
}

int coded_decode_finish(struct coded *c)
{
    bool good = true;

    for (uint32_t i = 0; i < c->basis.n_blocks; i++)
        good &= c->waiting.n[i] == 0 || coded_restore(&c->basis, c->dsp, &c->waiting, i);
    return good ? 0 : -EBADMSG;
}
