/* SPDX-License-Identifier: Apache-2.0 */
/* rANS: what goes in comes out, in the same bytes on every ISA; damaged bytes are read safely. */
#include "util.h"

#include <errno.h>

#include "codec/cpu.h"
#include "codec/dsp.h"

#define MAX_N    4096u
#define MAX_LEN  (MAX_N + 2 * RANS_LANES_MAX)
#define N_TABLES 7u
#define GUARD    64u

#ifdef HAVE_EMULATED
void rans_dsp_init_emulated(struct codec_dsp *dsp);
#endif

static struct isa {
    const char *name;
    struct codec_dsp dsp;
} isas[4];
static size_t n_isas;

static void add_isa(const char *name, unsigned flags)
{
    isas[n_isas].name = name;
    codec_dsp_init(&isas[n_isas++].dsp, flags);
    printf("isa: %s\n", name);
}

static void list_isas(void)
{
    const unsigned have = cpu_detect();

    add_isa("c", 0);
    if (have & CPU_AVX2)
        add_isa("avx2", CPU_AVX2);
    if (have & CPU_AVX512)
        add_isa("avx512", CPU_AVX2 | CPU_AVX512);
#ifdef HAVE_EMULATED
    if (have & CPU_AVX2) { /* its 256-bit parts are native */
        add_isa("avx512 (emulated)", CPU_AVX2);
        rans_dsp_init_emulated(&isas[n_isas - 1].dsp);
    }
#endif
}

/* A message: n symbols that fit its tables, drawn as often as the tables say (or any that can be).
 */
struct message {
    uint16_t freq[N_TABLES][RANS_SYMBOLS];
    struct rans_table tables[N_TABLES];
    uint8_t table_of[MAX_N / RANS_GROUP];
    uint8_t symbols[MAX_N];
    uint8_t seeds[RANS_LANES_MAX];
    struct rans_model model;
    size_t n;
    unsigned lanes;
};

static void any_freqs(uint16_t freq[RANS_SYMBOLS])
{
    const unsigned kind = rng_below(4), centre = rng_below(RANS_SYMBOLS);
    uint32_t counts[RANS_SYMBOLS];
    unsigned left = RANS_TOTAL;

    memset(freq, 0, RANS_SYMBOLS * sizeof(*freq));
    if (kind == 0) { /* any way to share out the slots */
        while (left) {
            unsigned some = 1 + rng_below(left);
            freq[rng_below(RANS_SYMBOLS)] += (uint16_t)some;
            left -= some;
        }
        return;
    }
    if (kind == 1 && rng_below(4) == 0) {
        freq[centre] = RANS_TOTAL;
        return;
    }
    for (unsigned s = 0; s < RANS_SYMBOLS; s++) { /* a peak */
        double off = fabs((double)s - centre);
        counts[s] = (uint32_t)(1e6 * exp(-off * kind / (0.3 + rng_below(8))));
    }
    assert_int_equal(rans_quantize_freqs(counts, (uint16_t)(kind == 2 ? rng() : 0), freq), 0);
}

static uint8_t any_symbol(const uint16_t freq[RANS_SYMBOLS], bool likely)
{
    unsigned s = 0, slot = rng_below(RANS_TOTAL);

    if (likely) {
        while (slot >= freq[s])
            slot -= freq[s++];
        return (uint8_t)s;
    }
    do
        s = rng_below(RANS_SYMBOLS);
    while (freq[s] == 0);
    return (uint8_t)s;
}

static void any_message(struct message *m)
{
    const bool likely = rng_below(4) != 0;

    m->lanes = 4u << rng_below(5);
    m->n = RANS_GROUP * rng_below(rng_below(4) ? 12 : MAX_N / RANS_GROUP + 1);
    for (unsigned k = 0; k < N_TABLES; k++) {
        any_freqs(m->freq[k]);
        assert_int_equal(rans_table_init(&m->tables[k], m->freq[k]), 0);
    }
    m->model = (struct rans_model){m->tables, rng_below(8) ? m->table_of : NULL};
    for (size_t i = 0; i < m->n; i++) {
        uint8_t *k = &m->table_of[i / RANS_GROUP];
        if (i % RANS_GROUP == 0)
            *k = (uint8_t)rng_below(N_TABLES);
        m->symbols[i] = any_symbol(m->freq[m->model.table_of ? *k : 0], likely);
    }
    for (unsigned i = 0; i < m->lanes; i++)
        m->seeds[i] = (uint8_t)rng();
}

static int encode(const struct isa *isa, const struct message *m, uint8_t *dst)
{
    return rans_encode(&isa->dsp, &m->model, m->symbols, m->n, m->lanes, m->seeds, dst,
                       rans_bound(m->n, m->lanes));
}

/* Buffers between guards; symbols and bytes that end at a page nobody may touch. */
static void round_trip(const struct isa *isa, const struct message *m, const uint8_t *expect,
                       int len)
{
    const size_t bound = rans_bound(m->n, m->lanes);
    uint8_t seeds[RANS_LANES_MAX + GUARD], *dst = fenced_alloc(GUARD + bound);
    uint8_t *symbols = fenced_alloc(GUARD + m->n), *src;

    memset(dst, 0xa5, GUARD + bound);
    memcpy(symbols + GUARD, m->symbols, m->n);
    assert_int_equal(rans_encode(&isa->dsp, &m->model, symbols + GUARD, m->n, m->lanes, m->seeds,
                                 dst + GUARD, bound),
                     len);
    if (memcmp(dst + GUARD, expect, (size_t)len) != 0)
        fail_msg("%s: other bytes than C's", isa->name);

    src = fenced_alloc((size_t)len);
    memcpy(src, expect, (size_t)len);
    memset(symbols, 0xa5, GUARD + m->n);
    memset(seeds, 0xa5, sizeof(seeds));
    assert_int_equal(
        rans_decode(&isa->dsp, &m->model, src, (size_t)len, m->n, m->lanes, symbols + GUARD, seeds),
        0);
    if (memcmp(symbols + GUARD, m->symbols, m->n) != 0 || memcmp(seeds, m->seeds, m->lanes) != 0)
        fail_msg("%s: n %zu, lanes %u: other symbols or seeds", isa->name, m->n, m->lanes);
    for (unsigned i = 0; i < GUARD; i++)
        assert_true(dst[i] == 0xa5 && symbols[i] == 0xa5 && seeds[m->lanes + i] == 0xa5);
    fenced_free(dst, GUARD + bound);
    fenced_free(symbols, GUARD + m->n);
    fenced_free(src, (size_t)len);
}

static void test_round_trips(void **state)
{
    static struct message m;
    static uint8_t expect[MAX_LEN];

    for (unsigned i = 0; i < 1500; i++) {
        int len;
        any_message(&m);
        len = encode(&isas[0], &m, expect);
        assert_true(len >= (int)(2 * m.lanes));
        for (size_t k = 0; k < n_isas; k++)
            round_trip(&isas[k], &m, expect, len);
    }
}

/* One step of all lanes from states x, x + 1, ... for a symbol that has slots start .. start + f -
 * 1: as the definition says, and as every ISA does. */
static void check_step(const struct message *m, unsigned x, unsigned f, unsigned start)
{
    struct rans_states from, want = {{0}, {0}};
    uint8_t bytes[RANS_LANES_MAX], *const end = bytes + sizeof(bytes), *first = end;

    for (unsigned i = 0; i < m->lanes; i++) {
        from.high[i] = (uint8_t)((x + i) >> 8);
        from.low[i] = (uint8_t)(x + i);
    }
    for (unsigned i = m->lanes; i-- > 0;) {
        unsigned v = x + i;
        if (v >= f << 8) {
            *--first = (uint8_t)v;
            v >>= 8;
        }
        want.high[i] = (uint8_t)(v / f);
        want.low[i] = (uint8_t)(start + v % f);
    }
    for (size_t k = 0; k < n_isas; k++) {
        uint8_t room[32 + RANS_LANES_MAX], *got;
        struct rans_states st = from;
        got = isas[k].dsp.rans_encode[RANS_WIDTH(m->lanes)](&m->model, m->symbols, m->lanes, &st,
                                                            room + sizeof(room));
        if (room + sizeof(room) - got != end - first ||
            memcmp(got, first, (size_t)(end - first)) != 0 ||
            memcmp(st.high, want.high, m->lanes) != 0 || memcmp(st.low, want.low, m->lanes) != 0)
            fail_msg("%s, %u lanes: wrong from states %u.. by frequency %u", isas[k].name, m->lanes,
                     x, f);
    }
}

/* Every frequency and every state that a lane can have. */
static void test_every_state(void **state)
{
    static struct message m;

    m.model.tables = m.tables;
    for (unsigned f = 1; f < RANS_TOTAL; f++) {
        uint16_t freq[RANS_SYMBOLS] = {0};
        const unsigned other = RANS_TOTAL - f, start = f & 1 ? other : 0, s = f & 1 ? 7 : 3;
        freq[5] = (uint16_t)other;
        freq[s] = (uint16_t)f;
        assert_int_equal(rans_table_init(&m.tables[0], freq), 0);
        memset(m.symbols, (int)s, RANS_LANES_MAX);
        for (m.lanes = 16; m.lanes <= 64; m.lanes *= 2)
            for (unsigned x = 256; x < 65536; x += m.lanes)
                check_step(&m, x, f, start);
    }
}

/* Cut, lengthened and changed bytes: the same verdict everywhere, and nothing read outside. */
static void test_damage(void **state)
{
    static struct message m;
    static uint8_t good[MAX_LEN + 8], out[2][MAX_N];
    unsigned flips = 0, flips_seen = 0;

    for (unsigned i = 0; i < 3000; i++) {
        uint8_t seeds[RANS_LANES_MAX], *src;
        const unsigned kind = rng_below(4);
        int len, first = 0;
        any_message(&m);
        len = encode(&isas[0], &m, good);
        if (kind == 0) {
            len = (int)rng_below((uint32_t)len);
        } else if (kind == 1) {
            int more = 1 + (int)rng_below(8);
            for (int k = 0; k < more; k++)
                good[len++] = (uint8_t)rng();
        } else if (kind == 2) {
            good[rng_below((uint32_t)len)] ^= (uint8_t)(1u << rng_below(8));
        } else {
            for (int k = 0; k < len; k++)
                good[k] = (uint8_t)rng();
        }
        src = fenced_alloc((size_t)len + 1);
        memcpy(src + 1, good, (size_t)len);
        for (size_t k = 0; k < n_isas; k++) {
            int rc = rans_decode(&isas[k].dsp, &m.model, src + 1, (size_t)len, m.n, m.lanes,
                                 out[k > 0], seeds);
            assert_true(rc == 0 || rc == -EBADMSG);
            if (k == 0)
                first = rc;
            assert_int_equal(rc, first);
            if (k && rc == 0)
                assert_memory_equal(out[0], out[1], m.n);
            if (kind < 2) /* the decoder takes what it took before, so the length can't be right */
                assert_int_equal(rc, -EBADMSG);
        }
        flips += kind == 2;
        flips_seen += kind == 2 && first;
        fenced_free(src, (size_t)len + 1);
    }
    printf("%u of %u flipped bits noticed\n", flips_seen, flips);
    assert_true(flips_seen > flips / 2);
}

static void test_arguments(void **state)
{
    static struct message m;
    static uint8_t dst[MAX_LEN], out[MAX_N];
    uint16_t freq[RANS_SYMBOLS] = {100, 100, 55};
    struct rans_table t;

    assert_int_equal(rans_table_init(&t, freq), -EINVAL);
    freq[15] = 2;
    assert_int_equal(rans_table_init(&t, freq), -EINVAL);
    freq[15] = 1;
    assert_int_equal(rans_table_init(&t, freq), 0);
    for (size_t k = 0; k < n_isas; k++) {
        const struct codec_dsp *dsp = &isas[k].dsp;
        struct rans_model model = {&t, NULL};
        memset(m.symbols, 0, sizeof(m.symbols));
        for (unsigned lanes = 0; lanes <= 128; lanes++) {
            bool good = lanes == 4 || lanes == 8 || lanes == 16 || lanes == 32 || lanes == 64;
            int rc = rans_encode(dsp, &model, m.symbols, 96, lanes, m.seeds, dst, sizeof(dst));
            assert_true(good ? rc > 0 : rc == -EINVAL);
            if (good)
                assert_int_equal(rans_decode(dsp, &model, dst, (size_t)rc, 96, lanes, out, m.seeds),
                                 0);
            else
                assert_int_equal(rans_decode(dsp, &model, dst, 200, 96, lanes, out, m.seeds),
                                 -EINVAL);
        }
        assert_int_equal(rans_encode(dsp, &model, m.symbols, 40, 16, m.seeds, dst, sizeof(dst)),
                         -EINVAL);
        assert_int_equal(rans_encode(dsp, &model, m.symbols, 96, 16, m.seeds, dst, 96 + 31),
                         -ENOSPC);
        assert_int_equal(rans_decode(dsp, &model, dst, 40, 40, 16, out, m.seeds), -EINVAL);
        /* a symbol without slots, and one that is none, wherever they stand */
        for (unsigned i = 0; i < 192; i++) {
            for (unsigned lanes = 4; lanes <= 64; lanes *= 2) {
                m.symbols[i] = 3;
                assert_int_equal(
                    rans_encode(dsp, &model, m.symbols, 192, lanes, m.seeds, dst, sizeof(dst)),
                    -EINVAL);
                m.symbols[i] = (uint8_t)(16u << rng_below(4));
                assert_int_equal(
                    rans_encode(dsp, &model, m.symbols, 192, lanes, m.seeds, dst, sizeof(dst)),
                    -EINVAL);
                m.symbols[i] = 0;
            }
        }
    }
}

/* A certain symbol costs next to nothing, and the table still holds together. */
static void test_certainty(void **state)
{
    static struct message m;
    static uint8_t dst[MAX_LEN];

    for (unsigned s = 0; s < RANS_SYMBOLS; s++) {
        uint16_t freq[RANS_SYMBOLS] = {0};
        freq[s] = RANS_TOTAL;
        assert_int_equal(rans_table_init(&m.tables[0], freq), 0);
        m.model.tables = m.tables;
        m.n = MAX_N;
        m.lanes = 16;
        memset(m.symbols, (int)s, m.n);
        for (size_t k = 0; k < n_isas; k++)
            assert_true(encode(&isas[k], &m, dst) <= 32 + 3);
    }
}

static double cost_bits(const uint32_t counts[RANS_SYMBOLS], const uint16_t freq[RANS_SYMBOLS])
{
    double bits = 0.0;

    for (unsigned s = 0; s < RANS_SYMBOLS; s++)
        if (counts[s])
            bits += counts[s] * log2((double)RANS_TOTAL / freq[s]);
    return bits;
}

/* No slot can move from one symbol to another and save bits. */
static void test_quantize(void **state)
{
    const uint32_t none[RANS_SYMBOLS] = {0}, giants[RANS_SYMBOLS] = {UINT32_MAX, 1, UINT32_MAX};
    uint16_t freq[RANS_SYMBOLS];
    double worst = 0.0;

    assert_int_equal(rans_quantize_freqs(none, 0xffff, freq), -EINVAL);
    assert_int_equal(rans_quantize_freqs(giants, 0, freq), 0);
    assert_int_equal(freq[0] + freq[2], 255);
    assert_int_equal(freq[1], 1);
    for (unsigned i = 0; i < 5000; i++) {
        uint32_t counts[RANS_SYMBOLS];
        const uint16_t keep = (uint16_t)(rng_below(2) ? rng() : 0);
        unsigned sum = 0;
        uint64_t total = 0;
        double best, ideal = 0.0;
        for (unsigned s = 0; s < RANS_SYMBOLS; s++) {
            counts[s] = rng_below(3) ? rng_below(1u << rng_below(20)) : 0;
            total += counts[s];
        }
        if (total == 0)
            continue;
        assert_int_equal(rans_quantize_freqs(counts, keep, freq), 0);
        best = cost_bits(counts, freq);
        for (unsigned s = 0; s < RANS_SYMBOLS; s++) {
            sum += freq[s];
            assert_int_equal(freq[s] > 0, counts[s] > 0 || (keep >> s & 1));
            if (counts[s])
                ideal += counts[s] * log2((double)total / counts[s]);
            for (unsigned r = 0; r < RANS_SYMBOLS; r++) {
                if (r == s || freq[r] < 2 || freq[s] == 0)
                    continue;
                freq[r]--;
                freq[s]++;
                assert_true(cost_bits(counts, freq) >= best * (1 - 1e-12));
                freq[r]++;
                freq[s]--;
            }
        }
        assert_int_equal(sum, RANS_TOTAL);
        worst = fmax(worst, (best - ideal) / (double)total);
    }
    printf("quantized frequencies cost at most %.4f bits a symbol\n", worst);
}

/* The built-in tables: whole, one peak, from narrow to wide, everything reachable by the escape. */
static void test_family(void **state)
{
    static struct rans_table tables[RANS_FAMILY];

    rans_family_init(tables);
    for (unsigned k = 0; k < RANS_FAMILY; k++) {
        const uint8_t *f = rans_family[k];
        unsigned sum = 0;
        for (unsigned s = 0; s < RANS_SYMBOLS; s++)
            sum += f[s];
        assert_int_equal(sum, RANS_TOTAL);
        assert_memory_equal(tables[k].freq, f, RANS_SYMBOLS);
        assert_true(f[0] > 0);
        for (unsigned v = 1; v < 8; v++) {
            assert_true(f[8 + v] <= f[8 + v - 1] && f[8 - v] <= f[8 - v + 1]);
            assert_true(abs(f[8 + v] - f[8 - v]) <= 1);
        }
        assert_true(k == 0 || f[8] <= rans_family[k - 1][8]);
    }
    for (unsigned f = 1; f <= RANS_TOTAL; f++)
        assert_int_equal(rans_cost[f], lrint(256.0 * log2((double)RANS_TOTAL / f)));
    assert_int_equal(rans_cost[0], UINT16_MAX);
}

/* The format, pinned: 192 symbols of three tables in every number of lanes. */
static void test_frozen(void **state)
{
    static const uint16_t freq[3][RANS_SYMBOLS] = {
        {1, 0, 0, 0, 2, 6, 16, 40, 126, 40, 16, 6, 2, 0, 0, 1},
        {16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16},
        {0, 0, 0, 0, 0, 0, 0, 0, 255, 1, 0, 0, 0, 0, 0, 0},
    };
    static const struct {
        unsigned lanes;
        int len;
        uint64_t hash;
    } frozen[] = {{4, 55, 0x2ee407760d72a04b},
                  {8, 63, 0x975136f525742d14},
                  {16, 75, 0x6ae1c0d741f17d83},
                  {32, 98, 0x9ac62c8e7bfe0d01},
                  {64, 139, 0x6181458ae2ca5c76}};
    static struct message m;
    static uint8_t dst[MAX_LEN];
    uint64_t z = 1;

    m.n = 192;
    m.model = (struct rans_model){m.tables, m.table_of};
    for (unsigned k = 0; k < 3; k++)
        assert_int_equal(rans_table_init(&m.tables[k], freq[k]), 0);
    for (unsigned i = 0; i < m.n; i++) {
        unsigned k = i / RANS_GROUP % 3, slot, s = 0;
        z = z * 6364136223846793005u + 1442695040888963407u;
        slot = (unsigned)(z >> 40) % RANS_TOTAL;
        m.table_of[i / RANS_GROUP] = (uint8_t)k;
        while (slot >= freq[k][s])
            slot -= freq[k][s++];
        m.symbols[i] = (uint8_t)s;
    }
    for (unsigned i = 0; i < RANS_LANES_MAX; i++)
        m.seeds[i] = (uint8_t)(7 * i);
    for (size_t c = 0; c < sizeof(frozen) / sizeof(frozen[0]); c++) {
        for (size_t k = 0; k < n_isas; k++) {
            uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
            int len;
            m.lanes = frozen[c].lanes;
            len = encode(&isas[k], &m, dst);
            for (int i = 0; i < len; i++)
                hash = (hash ^ dst[i]) * 0x100000001b3u;
            if (len != frozen[c].len || hash != frozen[c].hash)
                fail_msg("%s: {%u, %d, %#llx}", isas[k].name, m.lanes, len,
                         (unsigned long long)hash);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips), cmocka_unit_test(test_every_state),
        cmocka_unit_test(test_damage),      cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_certainty),   cmocka_unit_test(test_quantize),
        cmocka_unit_test(test_family),      cmocka_unit_test(test_frozen),
    };

    rng_seed();
    list_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
