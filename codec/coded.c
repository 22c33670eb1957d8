/* SPDX-License-Identifier: Apache-2.0 */
/* The body of a coded tile: rows' streams put together, and taken apart. */
#include "codec/coded.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "codec/coded_rows.h"

/* What a tile holds at most, of groups that are coded: a decoder's scratch must end somewhere. */
#define GROUPS_MAX 2048u

#define TABLE_BYTES   8u    /* a table that the tile brings along */
#define TABLE_SYMBOLS 2048u /* never for fewer */

#define COUNT_BYTES_MAX 3u /* of escape bytes */

/* Bytes a value takes at most: a symbol's, low bits of both kinds, an escape's. */
#define VALUE_BYTES_MAX (1 + (SHIFT_MAX + CODED_PRE_MAX) / 8 + 3)

/* A tile under construction, or what one was taken apart into. */
struct streams {
    uint32_t rows;
    uint32_t groups;
    size_t low_bytes, pre_bits, escape_bytes;
    uint64_t cost; /* of the symbols, 1/256 bit */
    size_t head_bytes;
};

struct coded {
    struct coded_basis basis;
    struct levels levels;
    const struct codec_dsp *dsp;
    bool profiled;
    unsigned class_bytes; /* of a row's head */
    struct coded_rows *ahead;

    struct streams tile;
    struct streams before[CODEC_ROWS_MAX]; /* each of its rows */
    uint32_t groups_max;
    uint8_t *head;     /* rows' */
    uint8_t *symbols;  /* [groups_max][RANS_GROUP] */
    uint8_t *table_of; /* [groups_max] */
    uint8_t *low, *pre, *escapes;
    uint8_t *raw;      /* the three in a row; padded */
    uint8_t *bytes;    /* of the symbols */
    uint32_t *escaped; /* [groups_max] */
    struct coded_waiting waiting;
};

/* --- open, close --- */

size_t coded_row_bound(uint32_t cols)
{
    const size_t coefs = codec_blocks(cols) * RANS_GROUP + cols;

    return 3 + codec_blocks(cols) + TABLE_BYTES + COUNT_BYTES_MAX + 2 * RANS_LANES_MAX +
           VALUE_BYTES_MAX * coefs;
}

int coded_open(const struct codec_params *p, const struct codec_dsp *dsp, uint32_t cols,
               struct coded **out)
{
    struct coded *c = calloc(1, sizeof(*c));
    size_t coefs;
    int rc;

    if (!c)
        return -ENOMEM;
    c->dsp = dsp;
    c->profiled = p->profile != NULL;
    c->groups_max = GROUPS_MAX;
    levels_init(&c->levels);
    rc = coded_basis_open(p, cols, &c->basis);
    if (rc)
        goto fail;
    c->class_bytes = c->basis.n_classes > 256 ? 2 : c->basis.n_classes > 0;
    rc = coded_rows_open(&c->basis, dsp, &c->levels, &c->ahead);
    if (rc)
        goto fail;
    coded_tune(c, p);
    coefs = (size_t)c->groups_max * RANS_GROUP;
    rc = -ENOMEM;
    c->head = malloc(CODEC_ROWS_MAX * (3 + CODED_BLOCKS_MAX));
    c->symbols = malloc(coefs);
    c->table_of = malloc(c->groups_max);
    c->low = malloc(coefs * SHIFT_MAX / 8);
    c->pre = calloc(coefs * CODED_PRE_MAX / 8 + sizeof(uint32_t), 1);
    c->escapes = malloc(coefs * 3);
    c->raw = malloc(coefs * VALUE_BYTES_MAX + RANS_LANES_MAX + CODEC_PAD);
    c->bytes = malloc(rans_bound(coefs, RANS_LANES_MAX));
    c->escaped = malloc(c->groups_max * sizeof(*c->escaped));
    c->waiting.k = calloc(CODED_BATCH * c->basis.coefs, sizeof(*c->waiting.k));
    if (!c->waiting.k || !c->head || !c->symbols || !c->table_of || !c->low || !c->pre ||
        !c->escapes || !c->raw || !c->bytes || !c->escaped)
        goto fail;
    *out = c;
    return 0;
fail:
    coded_close(c);
    return rc;
}

void coded_close(struct coded *c)
{
    if (!c)
        return;
    coded_rows_close(c->ahead);
    coded_basis_close(&c->basis);
    free(c->head);
    free(c->symbols);
    free(c->table_of);
    free(c->low);
    free(c->pre);
    free(c->escapes);
    free(c->raw);
    free(c->bytes);
    free(c->escaped);
    free(c->waiting.k);
    free(c);
}

void coded_tune(struct coded *c, const struct codec_params *p)
{
    coded_rows_tune(c->ahead, p);
}

/* --- both ways --- */

/* Few where symbols are few, because each costs 5 bits. */
static unsigned lanes_of(size_t n)
{
    return n <= 2048 ? 4 : n <= 4096 ? 8 : n <= 8192 ? 16 : n <= 16384 ? 32 : 64;
}

/* Half octaves. */
static const uint32_t table_weight[16] = {0,  2,  3,  4,  6,  8,   11,  16,
                                          23, 32, 45, 64, 91, 128, 181, 256};

/* The table that 8 bytes of weights stand for, the first symbol's in the lowest bits. 0 or -EBADMSG
 * when it has no symbols. */
static int read_table(const uint8_t src[TABLE_BYTES], struct rans_table *table)
{
    uint32_t counts[RANS_SYMBOLS];
    uint16_t freq[RANS_SYMBOLS];

    for (unsigned s = 0; s < RANS_SYMBOLS; s++)
        counts[s] = table_weight[src[s / 2] >> s % 2 * 4 & 15];
    return rans_quantize_freqs(counts, 0, freq) || rans_table_init(table, freq) ? -EBADMSG : 0;
}

/* --- encode --- */

static size_t count_bytes(size_t n)
{
    return n < 128 ? 1 : n < 1 << 14 ? 2 : 3;
}

static size_t raw_bytes(const struct streams *s)
{
    return s->low_bytes + (s->pre_bits + 7) / 8 + s->escape_bytes;
}

/* What the body comes to, within a few bytes: rANS costs .35 % over the tables' lengths, and 5 bits
 * a lane besides the seeds. */
static size_t expected_bytes(const struct streams *s)
{
    const unsigned lanes = s->groups ? lanes_of(s->groups * (size_t)RANS_GROUP) : 0;
    const size_t raw = raw_bytes(s) > lanes ? raw_bytes(s) : lanes;

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
    struct streams *t = &c->tile;

    c->before[t->rows++] = *t;
    c->before[t->rows - 1].rows = t->rows - 1;
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
            c->table_of[t->groups] = c->levels.table[level_index(b->level[g], part->offset)];
            t->groups += c->table_of[t->groups] != TABLE_NONE;
        }
        append(c->low, &t->low_bytes, part->low, part->low_bytes);
        append(c->escapes, &t->escape_bytes, part->escapes, part->escape_bytes);
        for (uint32_t k = 0; k < b->n_pre; k++)
            append_bits(c->pre, &t->pre_bits, part->pre[k], b->pre[k].bits);
        t->cost += part->cost;
    }
}

/* The tile as it would be with that row. */
static struct streams with_row(const struct coded *c, const struct coded_row *row)
{
    struct streams t = c->tile;

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
static bool own_table(const struct coded *c, uint8_t dst[TABLE_BYTES], struct rans_table *table)
{
    const size_t n = (size_t)c->tile.groups * RANS_GROUP;
    uint32_t counts[RANS_SYMBOLS] = {0}, most = 0;
    uint64_t cost = TABLE_BYTES * 8 * 256;

    for (size_t i = 0; i < n; i++)
        counts[c->symbols[i]]++;
    for (unsigned s = 0; s < RANS_SYMBOLS; s++)
        most = counts[s] > most ? counts[s] : most;
    memset(dst, 0, TABLE_BYTES);
    for (unsigned s = 0; s < RANS_SYMBOLS; s++) {
        unsigned w = counts[s] ? 1 : 0;
        while (counts[s] && w < 15 &&
               512 * (uint64_t)counts[s] > (uint64_t)most * (table_weight[w] + table_weight[w + 1]))
            w++;
        dst[s / 2] |= (uint8_t)(w << s % 2 * 4);
    }
    if (read_table(dst, table))
        return false;
    for (unsigned s = 0; s < RANS_SYMBOLS; s++)
        if (counts[s])
            cost += (uint64_t)counts[s] * rans_cost[table->freq[s]];
    return cost < c->tile.cost;
}

/* The streams as a tile's body: its bytes, or -ENOSPC. */
static int finish(struct coded *c, enum tile_coding *coding, uint8_t *dst, size_t capacity)
{
    const struct streams *t = &c->tile;
    const size_t n = (size_t)t->groups * RANS_GROUP;
    const unsigned lanes = n ? lanes_of(n) : 0;
    struct rans_table own;
    struct rans_model model = {c->levels.tables, c->table_of};
    uint8_t table[TABLE_BYTES], *end = dst;
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
            (*coding == TILE_RANS_TABLE ? TABLE_BYTES : 0);
    if (total > capacity)
        return -ENOSPC;
    if (*coding == TILE_RANS_TABLE) {
        memcpy(end, table, TABLE_BYTES);
        end += TABLE_BYTES;
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

static enum tile_coding coding_of(const struct coded *c)
{
    if (c->basis.transform)
        return TILE_XFORM;
    return c->profiled ? TILE_RANS_PROFILE : TILE_RANS;
}

/* Blocks [*first, *first + n) of one row as a tile's body. */
static int encode_blocks(struct coded *c, const struct coded_row *row, uint32_t first, uint32_t n,
                         enum tile_coding *coding, uint8_t *dst, size_t capacity)
{
    c->tile = (struct streams){0};
    *coding = coding_of(c);
    add_row(c, row, first, n);
    return finish(c, coding, dst, capacity);
}

static uint32_t cut_at(uint32_t blocks, uint32_t parts, uint32_t i)
{
    return blocks * i / parts;
}

static bool cut_fits(struct coded *c, const struct coded_row *row, uint32_t parts, uint8_t *dst,
                     size_t room)
{
    const uint32_t blocks = c->basis.n_blocks;
    enum tile_coding coding;

    for (uint32_t i = 0; i < parts; i++) {
        const uint32_t first = cut_at(blocks, parts, i);
        if (encode_blocks(c, row, first, cut_at(blocks, parts, i + 1) - first, &coding, dst, room) <
            0)
            return false;
    }
    return true;
}

/* One part of a row that no packet holds: its tile's bytes, or CODED_LEAVES_IT. */
static int encode_cut(struct coded *c, struct coded_row *row, struct codec_cursor *at,
                      struct codec_tile *tile, uint8_t *dst, size_t capacity)
{
    const size_t head = TILE_HEADER_BYTES + TILE_CUT_BYTES;
    const uint32_t blocks = c->basis.n_blocks;
    uint32_t first = 0, next = 0;
    enum tile_coding coding;
    int bytes;

    if (row->cut_into == 0) { /* not known yet */
        row->cut_into = 2;
        while (row->cut_into <= blocks &&
               !cut_fits(c, row, row->cut_into, dst + head, capacity - head))
            row->cut_into++;
    }
    if (row->cut_into > blocks)
        return CODED_LEAVES_IT;
    for (uint32_t i = 0; i < row->cut_into; i++) {
        first = cut_at(blocks, row->cut_into, i);
        next = cut_at(blocks, row->cut_into, i + 1);
        if (codec_block_first(c->basis.cols, first) == at->col)
            break;
    }
    if (codec_block_first(c->basis.cols, first) != at->col)
        return -EINVAL;
    bytes = encode_blocks(c, row, first, next - first, &coding, dst + head, capacity - head);
    tile->n_tokens = 1;
    tile->first_col = at->col;
    tile->n_cols = codec_block_first(c->basis.cols, next) - at->col;
    tile_write(tile, coding, c->basis.cols, dst);
    *at = next < blocks ? (struct codec_cursor){at->row, at->col + tile->n_cols}
                        : (struct codec_cursor){at->row + 1, 0};
    return (int)head + bytes;
}

int coded_encode(struct coded *c, const float *rows, size_t stride, uint32_t n_rows,
                 uint32_t first_token, struct codec_cursor *at, uint8_t *dst, size_t capacity,
                 struct codec_stats *stats, uint32_t *bad_row)
{
    const size_t head = TILE_HEADER_BYTES;
    struct codec_tile tile = {.first_token = first_token + at->row, .n_cols = c->basis.cols};
    struct codec_cursor next = *at;
    struct coded_row *row;
    enum tile_coding coding;
    int bytes = -ENOSPC;

    if (at->row == 0 && at->col == 0)
        coded_rows_forget(c->ahead);
    c->tile = (struct streams){0};
    for (; next.col == 0 && next.row < n_rows && c->tile.rows < CODEC_ROWS_MAX; next.row++) {
        struct streams grown;
        row = coded_rows_get(c->ahead, rows, stride, n_rows, first_token, next.row);
        *bad_row = next.row - at->row;
        if (row->fate == CODED_NOT_FINITE)
            return -EDOM;
        if (row->fate == CODED_FALLBACK || row->cut_into)
            break;
        grown = with_row(c, row);
        if (c->tile.rows &&
            (grown.groups > c->groups_max || head + expected_bytes(&grown) > capacity))
            break;
        add_row(c, row, 0, c->basis.n_blocks);
    }
    while (c->tile.rows) {
        coding = coding_of(c);
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

/* --- decode --- */

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
    struct streams *t = &c->tile;

    *t = (struct streams){.rows = rows, .head_bytes = rows * (1 + c->class_bytes + (size_t)n)};
    for (uint32_t r = 0; r < rows; r++) {
        head += 1 + c->class_bytes;
        for (uint32_t i = first; i < first + n; i++, head++) {
            const struct coded_block *b = &c->basis.blocks[i];
            const int offset = (int8_t)*head;
            if (t->groups + b->groups > c->groups_max &&
                (t->groups == c->groups_max || b->groups > c->groups_max))
                return false;
            for (uint32_t g = 0; g < b->groups; g++) {
                const unsigned at = level_index(b->level[g], offset);
                if (c->levels.table[at] == TABLE_NONE)
                    continue;
                if (t->groups == c->groups_max)
                    return false;
                c->table_of[t->groups++] = c->levels.table[at];
                t->low_bytes += c->levels.shift[at] * RANS_GROUP / 8;
            }
            t->pre_bits += b->pre_bits;
        }
    }
    return true;
}

static bool read_count(struct reader *r, size_t *count)
{
    *count = 0;
    for (unsigned at = 0; at < 7 * COUNT_BYTES_MAX; at += 7) {
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
    struct streams *t = &c->tile;
    const size_t n = (size_t)t->groups * RANS_GROUP;
    const unsigned lanes = n ? lanes_of(n) : 0;
    struct rans_table own;
    struct rans_model model = {c->levels.tables, c->table_of};
    size_t raw, clear;
    int rc = 0;

    if (!read_count(src, &t->escape_bytes) || t->escape_bytes > 3 * n)
        return -EBADMSG;
    raw = raw_bytes(t);
    clear = raw > lanes ? raw - lanes : 0;
    if ((size_t)(src->end - src->at) < clear)
        return -EBADMSG;
    memcpy(c->raw + lanes, src->at, clear);
    src->at += clear;
    if (coding == TILE_RANS_TABLE) {
        if (read_table(table, &own))
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

    if (!n || (coding != coding_of(c) && (coding != TILE_RANS_TABLE || coding_of(c) != TILE_RANS)))
        return -EBADMSG;
    if (coding == TILE_RANS_TABLE) {
        if (len < TABLE_BYTES)
            return -EBADMSG;
        r.at += TABLE_BYTES;
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
    if (rc)
        memset(c->waiting.n, 0, sizeof(c->waiting.n));
    return rc;
}

int coded_decode_finish(struct coded *c)
{
    bool good = true;

    for (uint32_t i = 0; i < c->basis.n_blocks; i++)
        good &= c->waiting.n[i] == 0 || coded_restore(&c->basis, c->dsp, &c->waiting, i);
    return good ? 0 : -EBADMSG;
}
