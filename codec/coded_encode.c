/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder of the coded modes: rows' streams put together to tiles. */
#include "codec/coded_state.h"

#include <errno.h>
#include <string.h>

#define TABLE_SYMBOLS 2048u /* no table of its own for fewer */

static size_t count_bytes(size_t n)
{
    return n < 128 ? 1 : n < 1 << 14 ? 2 : 3;
}

/* What the body comes to, within a few bytes: rANS costs .35 % over the tables' lengths, and 5 bits
 * a lane besides the seeds. */
static size_t expected_bytes(const struct coded_streams *s)
{
    const unsigned lanes = coded_lanes(s->groups * (size_t)RANS_GROUP);
    const size_t raw = coded_raw_bytes(s) > lanes ? coded_raw_bytes(s) : lanes;

    return s->head_bytes + count_bytes(s->escape_bytes) + raw + lanes * 5 / 8 +
           (size_t)((s->cost + s->cost / 284) / (8 * 256));
}

static void append(uint8_t *to, size_t *n, const uint8_t *from, size_t bytes)
{
    memcpy(to + *n, from, bytes);
    *n += bytes;
}

static void append_bits(uint8_t *to, size_t *n, unsigned value, unsigned bits)
{
    uint32_t word;

    memcpy(&word, to + *n / 8, sizeof(word));
    word &= (1u << *n % 8) - 1;
    word |= value << *n % 8;
    memcpy(to + *n / 8, &word, sizeof(word));
    *n += bits;
}

/* The tile with the blocks [first, first + n) of one more row. */
static void add_row(struct coded *c, const struct coded_row *row, uint32_t first, uint32_t n)
{
    struct coded_streams *t = &c->tile;

    c->before[t->rows] = *t;
    t->rows++;
    c->head[t->head_bytes++] = row->step;
    for (unsigned i = 0; i < c->class_bytes; i++)
        c->head[t->head_bytes++] = (uint8_t)(row->class >> 8 * i);
    for (uint32_t i = first; i < first + n; i++) {
        const struct coded_part *part = &row->parts[i];
        const struct coded_block *b = &c->basis.blocks[i];
        c->head[t->head_bytes++] = (uint8_t)part->offset;
        memcpy(c->symbols + (size_t)t->groups * RANS_GROUP, part->symbols,
               (size_t)part->groups * RANS_GROUP);
        for (uint32_t g = 0; g < b->groups; g++) {
            const uint8_t table = c->levels.table[level_index(b->level[g], part->offset)];
            if (table != TABLE_NONE)
                c->table_of[t->groups++] = table;
        }
        append(c->low, &t->low_bytes, part->low, part->low_bytes);
        append(c->escapes, &t->escape_bytes, part->escapes, part->escape_bytes);
        for (uint32_t k = 0; k < b->n_pre; k++)
            append_bits(c->pre, &t->pre_bits, part->pre[k], b->pre[k].bits);
        t->cost += part->cost;
    }
}

/* The tile as it would be with that row. */
static struct coded_streams with_row(const struct coded *c, const struct coded_row *row)
{
    struct coded_streams t = c->tile;

    t.rows++;
    t.head_bytes += 1 + c->class_bytes + c->basis.n_blocks;
    for (uint32_t i = 0; i < c->basis.n_blocks; i++) {
        t.groups += row->parts[i].groups;
        t.low_bytes += row->parts[i].low_bytes;
        t.escape_bytes += row->parts[i].escape_bytes;
        t.pre_bits += c->basis.blocks[i].pre_bits;
        t.cost += row->parts[i].cost;
    }
    return t;
}

/* The weights nearest to the frequencies by which the symbols cost the fewest bits; whether those
 * cost less than the built-in tables, the weights' bytes counted. */
static bool own_table(const struct coded *c, uint8_t dst[CODED_TABLE_BYTES],
                      struct rans_table *table)
{
    const size_t n = (size_t)c->tile.groups * RANS_GROUP;
    uint32_t counts[RANS_SYMBOLS] = {0}, most = 0;
    uint64_t cost = CODED_TABLE_BYTES * 8 * 256;

    for (size_t i = 0; i < n; i++)
        counts[c->symbols[i]]++;
    for (unsigned s = 0; s < RANS_SYMBOLS; s++)
        most = counts[s] > most ? counts[s] : most;
    memset(dst, 0, CODED_TABLE_BYTES);
    for (unsigned s = 0; s < RANS_SYMBOLS; s++) {
        unsigned w = counts[s] ? 1 : 0;
        while (counts[s] && w < 15 &&
               512 * (uint64_t)counts[s] >
                   (uint64_t)most * (coded_table_weight[w] + coded_table_weight[w + 1]))
            w++;
        dst[s / 2] |= (uint8_t)(w << s % 2 * 4);
    }
    if (coded_read_table(dst, table))
        return false;
    for (unsigned s = 0; s < RANS_SYMBOLS; s++)
        if (counts[s])
            cost += (uint64_t)counts[s] * rans_cost[table->freq[s]];
    return cost < c->tile.cost;
}

/* The streams as a tile's body: its bytes, or -ENOSPC. */
static int finish(struct coded *c, enum tile_coding *coding, uint8_t *dst, size_t capacity)
{
    const struct coded_streams *t = &c->tile;
    const size_t n = (size_t)t->groups * RANS_GROUP;
    const unsigned lanes = coded_lanes(n);
    struct rans_table own;
    struct rans_model model = {c->levels.tables, c->table_of};
    uint8_t table[CODED_TABLE_BYTES], *end = dst;
    size_t raw = 0, total = t->escape_bytes;
    int bytes = 0;

    if (t->pre_bits % 8) /* a row that was dropped has left bits behind */
        c->pre[t->pre_bits / 8] &= (uint8_t)((1u << t->pre_bits % 8) - 1);
    append(c->raw, &raw, c->low, t->low_bytes);
    append(c->raw, &raw, c->pre, (t->pre_bits + 7) / 8);
    append(c->raw, &raw, c->escapes, t->escape_bytes);
    if (raw < lanes) {
        memset(c->raw + raw, 0, lanes - raw);
        raw = lanes;
    }
    if (*coding == TILE_RANS && n >= TABLE_SYMBOLS && own_table(c, table, &own)) {
        *coding = TILE_RANS_TABLE;
        model = (struct rans_model){&own, NULL};
    }
    if (n) {
        bytes = rans_encode(c->dsp, &model, c->symbols, n, lanes, c->raw, c->bytes,
                            rans_bound(n, lanes));
        if (bytes < 0)
            return bytes;
    }
    total = t->head_bytes + count_bytes(t->escape_bytes) + (raw - lanes) + (size_t)bytes +
            (*coding == TILE_RANS_TABLE ? CODED_TABLE_BYTES : 0);
    if (total > capacity)
        return -ENOSPC;
    if (*coding == TILE_RANS_TABLE) {
        memcpy(end, table, CODED_TABLE_BYTES);
        end += CODED_TABLE_BYTES;
    }
    memcpy(end, c->head, t->head_bytes);
    end += t->head_bytes;
    for (size_t left = t->escape_bytes;; left >>= 7) {
        *end++ = (uint8_t)((left & 127) | (left >= 128 ? 128 : 0));
        if (left < 128)
            break;
    }
    memcpy(end, c->raw + lanes, raw - lanes);
    memcpy(end + (raw - lanes), c->bytes, (size_t)bytes);
    return (int)total;
}

/* Blocks [body->first, body->end) of a row, to the end of the bodies so far. */
static bool cut_body(struct coded *c, const struct coded_row *row, size_t room,
                     struct coded_body *body)
{
    int bytes;

    c->tile = (struct coded_streams){0};
    body->coding = c->coding;
    add_row(c, row, body->first, body->end - body->first);
    bytes = finish(c, &body->coding, c->cut.bodies + body->at, room);
    body->bytes = bytes < 0 ? 0 : (size_t)bytes;
    return bytes >= 0;
}

static bool cut_into(struct coded *c, const struct coded_row *row, uint32_t parts, size_t room)
{
    const uint32_t blocks = c->basis.n_blocks;
    size_t at = 0;

    for (uint32_t i = 0; i < parts; i++) {
        struct coded_body *body = &c->cut.body[i];
        *body = (struct coded_body){
            .first = blocks * i / parts, .end = blocks * (i + 1) / parts, .at = at};
        if (!cut_body(c, row, room, body))
            return false;
        at += body->bytes;
    }
    return true;
}

/* All bodies of a row that no packet holds, unless they are at hand: the fewest that fit. False
 * when a block fits none. */
static bool cut_row(struct coded *c, struct coded_row *row, size_t room)
{
    if (row->cut_into && c->cut.row == row)
        return true;
    c->cut.row = NULL;
    for (uint32_t parts = 2; parts <= c->basis.n_blocks; parts++) {
        if (!cut_into(c, row, parts, room))
            continue;
        c->cut.row = row;
        row->cut_into = (uint8_t)parts;
        return true;
    }
    return false;
}

/* One part of such a row: its tile's bytes, or CODED_LEAVES_IT. */
static int encode_cut(struct coded *c, struct coded_row *row, struct codec_cursor *at,
                      struct codec_tile *tile, uint8_t *dst, size_t capacity)
{
    const size_t head = TILE_HEADER_BYTES + TILE_CUT_BYTES;
    const struct coded_body *body = c->cut.body;
    uint32_t end;

    if (!cut_row(c, row, capacity - head))
        return CODED_LEAVES_IT;
    while (body->end < c->basis.n_blocks && c->basis.blocks[body->first].first_col != at->col)
        body++;
    if (c->basis.blocks[body->first].first_col != at->col)
        return -EINVAL;
    if (body->bytes > capacity - head)
        return -ENOSPC;
    end = codec_block_first(c->basis.cols, body->end);
    tile->n_tokens = 1;
    tile->first_col = at->col;
    tile->n_cols = end - at->col;
    tile_write(tile, body->coding, c->basis.cols, dst);
    memcpy(dst + head, c->cut.bodies + body->at, body->bytes);
    *at = end < c->basis.cols ? (struct codec_cursor){at->row, end}
                              : (struct codec_cursor){at->row + 1, 0};
    return (int)(head + body->bytes);
}

int coded_encode(struct coded *c, const float *rows, size_t stride, uint32_t n_rows,
                 uint32_t first_token, struct codec_cursor *at, uint8_t *dst, size_t capacity,
                 struct codec_stats *stats, uint32_t *bad_row)
{
    const size_t head = TILE_HEADER_BYTES;
    struct codec_tile tile = {.first_token = first_token + at->row, .n_cols = c->basis.cols};
    struct codec_cursor next = *at;
    /* A table of its own may make a row shorter than expected. */
    const bool can_be_cut = c->basis.n_blocks > 1 && c->coding != TILE_RANS;
    struct coded_row *row;
    enum tile_coding coding;
    int bytes = -ENOSPC;

    if (at->row == 0 && at->col == 0)
        coded_rows_forget(c->ahead);
    c->tile = (struct coded_streams){0};
    for (; next.col == 0 && next.row < n_rows && c->tile.rows < CODEC_ROWS_MAX; next.row++) {
        struct coded_streams grown;
        row = coded_rows_get(c->ahead, rows, stride, n_rows, first_token, next.row);
        *bad_row = next.row - at->row;
        if (row->fate == CODED_NOT_FINITE)
            return -EDOM;
        if (row->fate == CODED_FALLBACK || row->cut_into)
            break;
        grown = with_row(c, row);
        if (grown.groups > CODED_GROUPS_MAX || grown.pre_bits > CODED_PRE_BITS_MAX ||
            head + expected_bytes(&grown) > capacity)
            if (c->tile.rows || can_be_cut)
                break;
        add_row(c, row, 0, c->basis.n_blocks);
    }
    while (c->tile.rows) {
        coding = c->coding;
        bytes = finish(c, &coding, dst + head, capacity - head);
        if (bytes >= 0)
            break;
        c->tile = c->before[c->tile.rows - 1];
    }
    if (c->tile.rows) {
        tile.n_tokens = c->tile.rows;
        tile_write(&tile, coding, c->basis.cols, dst);
        bytes += (int)head;
        next = (struct codec_cursor){at->row + c->tile.rows, 0};
    } else {
        next = *at;
        row = coded_rows_get(c->ahead, rows, stride, n_rows, first_token, at->row);
        *bad_row = 0;
        if (row->fate == CODED_NOT_FINITE)
            return -EDOM;
        if (row->fate == CODED_FALLBACK)
            return CODED_LEAVES_IT;
        bytes = encode_cut(c, row, &next, &tile, dst, capacity);
        if (bytes <= 0)
            return bytes;
    }
    stats->rows += next.row - at->row;
    stats->values += (uint64_t)tile.n_cols * tile.n_tokens;
    stats->bytes += (uint64_t)bytes;
    *at = next;
    return bytes;
}
