/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Builds the tokenizer's tables from GGUF metadata. The file writes tokens in GPT-2's alphabet, in
 * which every byte is a printable character; here they become the bytes themselves.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <xxhash.h>

#include "compute/gguf_impl.h"
#include "compute/tokenizer_impl.h"

#define TOKENS "tokenizer.ggml.tokens"
#define TYPES  "tokenizer.ggml.token_type"
#define MERGES "tokenizer.ggml.merges"

#define FREE_SLOT UINT32_MAX

/* --- GPT-2's alphabet ------------------------------------------------------------------------- */

/* Printable Latin-1 stands for itself, the other 68 bytes are U+0100 and on, in order. */
static bool is_itself(unsigned byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

struct alphabet {
    int16_t byte[0x144]; /* by code point; -1: not a letter */
};

static void alphabet_fill(struct alphabet *a)
{
    int16_t next = 0x100;
    memset(a->byte, 0xff, sizeof a->byte);
    for (unsigned b = 0; b < 256; b++)
        a->byte[is_itself(b) ? (int16_t)b : next++] = (int16_t)b;
}

/* Bytes spelt by text, written to out (room for len). Their number, or -1: a letter not in the
 * alphabet. Its letters have one or two bytes of UTF-8. */
static int64_t spelt(const struct alphabet *a, const char *text, size_t len, char *out)
{
    int64_t n = 0;
    for (size_t i = 0; i < len;) {
        unsigned c = (uint8_t)text[i++];
        if (c >= 0x80) {
            if ((c & 0xe0) != 0xc0 || i == len || ((uint8_t)text[i] & 0xc0) != 0x80)
                return -1;
            c = (c & 0x1f) << 6 | ((uint8_t)text[i++] & 0x3f);
        }
        if (c >= sizeof a->byte / sizeof a->byte[0] || a->byte[c] < 0)
            return -1;
        out[n++] = (char)a->byte[c];
    }
    return n;
}

/* --- hashed indices --------------------------------------------------------------------------- */

/* At most three quarters full. */
static int index_open(struct index *x, uint64_t entries)
{
    uint64_t slots = 16;
    while (slots * 3 / 4 < entries)
        slots *= 2;
    x->slots = reallocarray(NULL, slots, sizeof *x->slots);
    if (!x->slots)
        return -ENOMEM;
    memset(x->slots, 0xff, slots * sizeof *x->slots);
    x->mask = (uint32_t)(slots - 1);
    return 0;
}

/* The slot of the word, or the free one where it belongs. */
static uint32_t *word_slot(const struct tokenizer *t, const char *bytes, size_t len)
{
    uint32_t i = (uint32_t)XXH3_64bits_withSeed(bytes, len, t->hash_seed) & t->words.mask;
    for (;; i = (i + 1) & t->words.mask) {
        uint32_t id = t->words.slots[i];
        if (id == FREE_SLOT)
            return &t->words.slots[i];
        size_t n;
        const char *p = tok_bytes(t, (int32_t)id, &n);
        if (n == len && memcmp(p, bytes, len) == 0)
            return &t->words.slots[i];
    }
}

static uint32_t *pair_slot(const struct tokenizer *t, int32_t left, int32_t right)
{
    int32_t pair[2] = {left, right};
    uint32_t i = (uint32_t)XXH3_64bits_withSeed(pair, sizeof pair, t->hash_seed) & t->pairs.mask;
    for (;; i = (i + 1) & t->pairs.mask) {
        uint32_t rank = t->pairs.slots[i];
        if (rank == FREE_SLOT)
            return &t->pairs.slots[i];
        if (t->merges[rank].left == left && t->merges[rank].right == right)
            return &t->pairs.slots[i];
    }
}

int32_t tok_find_word(const struct tokenizer *t, const char *bytes, size_t len)
{
    return (int32_t)*word_slot(t, bytes, len); /* FREE_SLOT is -1 */
}

const struct merge *tok_find_merge(const struct tokenizer *t, int32_t left, int32_t right)
{
    uint32_t rank = *pair_slot(t, left, right);
    return rank == FREE_SLOT ? NULL : &t->merges[rank];
}

/* --- tokens ----------------------------------------------------------------------------------- */

static int load_types(struct tokenizer *t, const struct gguf *g, char *err)
{
    const void *types;
    uint64_t n;
    t->type = malloc(t->n_vocab);
    if (!t->type)
        return -ENOMEM;
    int rc = gguf_i32_array(g, TYPES, &types, &n);
    if (rc == -ENOENT) {
        memset(t->type, TOKEN_NORMAL, t->n_vocab);
        return 0;
    }
    if (rc || n != t->n_vocab)
        return gguf_fail(gguf_path(g), err, -EBADMSG, "%s: must be %u numbers, one for each token",
                         TYPES, t->n_vocab);
    for (uint32_t id = 0; id < t->n_vocab; id++) {
        uint32_t type = gguf_load32((const uint8_t *)types + (size_t)id * 4);
        if (type < TOKEN_NORMAL || type > TOKEN_BYTE)
            return gguf_fail(gguf_path(g), err, -EBADMSG,
                             "%s: token %u has type %u, must be 1 to 6", TYPES, id, type);
        t->type[id] = (uint8_t)type;
    }
    return 0;
}

static int load_tokens(struct tokenizer *t, const struct gguf *g, const struct alphabet *a,
                       char *err)
{
    struct gguf_str_iter it;
    struct gguf_str s;
    uint64_t n, bytes = 0;
    int rc = gguf_str_array(g, TOKENS, &it, &n);
    if (rc)
        return gguf_fail(gguf_path(g), err, -EBADMSG, "%s: %s", TOKENS,
                         rc == -ENOENT ? "is missing" : "must be an array of strings");
    for (struct gguf_str_iter count = it; gguf_str_next(&count, &s);)
        bytes += s.len;
    if (n == 0 || n > INT32_MAX || bytes >= UINT32_MAX)
        return gguf_fail(gguf_path(g), err, -EBADMSG, "%s: %llu tokens of %llu bytes in all",
                         TOKENS, (unsigned long long)n, (unsigned long long)bytes);
    t->n_vocab = (uint32_t)n;
    if ((rc = load_types(t, g, err)))
        return rc;
    t->offset = reallocarray(NULL, n + 1, sizeof *t->offset);
    t->bytes = malloc(bytes + 1);
    if (!t->offset || !t->bytes)
        return -ENOMEM;

    uint32_t at = 0;
    for (uint32_t id = 0; gguf_str_next(&it, &s); id++) {
        int64_t len = t->type[id] == TOKEN_NORMAL ? spelt(a, s.ptr, s.len, t->bytes + at) : -1;
        if (len < 0) { /* added tokens are written as they are */
            memcpy(t->bytes + at, s.ptr, s.len);
            len = (int64_t)s.len;
        }
        t->offset[id] = at;
        at += (uint32_t)len;
    }
    t->offset[n] = at;
    char *fitted = realloc(t->bytes, at + 1u);
    if (fitted)
        t->bytes = fitted;
    return 0;
}

/* Only normal tokens: what the user writes must never merge into a control token. */
static int index_words(struct tokenizer *t)
{
    int rc = index_open(&t->words, t->n_vocab);
    if (rc)
        return rc;
    for (uint32_t id = 0; id < t->n_vocab; id++) {
        size_t len;
        const char *p = tok_bytes(t, (int32_t)id, &len);
        if (t->type[id] == TOKEN_NORMAL && len)
            *word_slot(t, p, len) = id;
    }
    for (unsigned b = 0; b < 256; b++)
        t->byte_id[b] = tok_find_word(t, &(char){(char)b}, 1);
    return 0;
}

/* --- merges ----------------------------------------------------------------------------------- */

/* "left right": both and their join are tokens. */
static int load_merge(const struct tokenizer *t, const struct alphabet *a, const struct gguf_str *s,
                      char *joined, struct merge *m)
{
    const char *space = s->len ? memchr(s->ptr + 1, ' ', s->len - 1) : NULL;
    if (!space)
        return -EBADMSG;
    size_t left_len = (size_t)(space - s->ptr);
    int64_t left = spelt(a, s->ptr, left_len, joined);
    if (left <= 0)
        return -EBADMSG;
    int64_t right = spelt(a, space + 1, s->len - left_len - 1, joined + left);
    if (right <= 0)
        return -EBADMSG;
    m->left = tok_find_word(t, joined, (size_t)left);
    m->right = tok_find_word(t, joined + left, (size_t)right);
    m->result = tok_find_word(t, joined, (size_t)(left + right));
    return m->left < 0 || m->right < 0 || m->result < 0 ? -EBADMSG : 0;
}

static int load_merges(struct tokenizer *t, const struct gguf *g, const struct alphabet *a,
                       char *err)
{
    struct gguf_str_iter it;
    struct gguf_str s;
    uint64_t n;
    size_t longest = 0;
    int rc = gguf_str_array(g, MERGES, &it, &n);
    if (rc)
        return gguf_fail(gguf_path(g), err, -EBADMSG, "%s: %s", MERGES,
                         rc == -ENOENT ? "is missing" : "must be an array of strings");
    if (n > INT32_MAX)
        return gguf_fail(gguf_path(g), err, -EBADMSG, "%s: %llu are too many", MERGES,
                         (unsigned long long)n);
    for (struct gguf_str_iter measure = it; gguf_str_next(&measure, &s);)
        longest = s.len > longest ? s.len : longest;

    t->merges = reallocarray(NULL, n + 1, sizeof *t->merges);
    char *joined = malloc(longest + 1);
    rc = t->merges && joined ? index_open(&t->pairs, n) : -ENOMEM;
    while (!rc && gguf_str_next(&it, &s)) {
        struct merge *m = &t->merges[t->n_merges];
        rc = load_merge(t, a, &s, joined, m);
        if (rc) {
            rc = gguf_fail(gguf_path(g), err, rc,
                           "%s: merge %u, \"%.*s\", is not two tokens that make a third", MERGES,
                           t->n_merges, s.len > 80 ? 80 : (int)s.len, s.ptr);
            break;
        }
        uint32_t *slot = pair_slot(t, m->left, m->right);
        if (*slot == FREE_SLOT) /* of two equal merges the first counts */
            *slot = t->n_merges;
        t->n_merges++;
    }
    free(joined);
    return rc;
}

/* --- special tokens --------------------------------------------------------------------------- */

static int compare_special(const void *a, const void *b, void *tokenizer)
{
    const struct tokenizer *t = tokenizer;
    size_t x_len, y_len;
    const char *x = tok_bytes(t, *(const int32_t *)a, &x_len);
    const char *y = tok_bytes(t, *(const int32_t *)b, &y_len);
    if (*x != *y)
        return (uint8_t)*x - (uint8_t)*y;
    return (x_len < y_len) - (x_len > y_len);
}

static bool is_special(const struct tokenizer *t, uint32_t id)
{
    return (tok_is_control(t, (int32_t)id) || t->type[id] == TOKEN_USER_DEFINED) &&
           t->offset[id + 1] > t->offset[id];
}

static int index_specials(struct tokenizer *t)
{
    for (uint32_t id = 0; id < t->n_vocab; id++)
        t->n_special += is_special(t, id);
    t->special = reallocarray(NULL, t->n_special + 1u, sizeof *t->special);
    if (!t->special)
        return -ENOMEM;
    uint32_t n = 0;
    for (uint32_t id = 0; id < t->n_vocab; id++)
        if (is_special(t, id))
            t->special[n++] = (int32_t)id;
    qsort_r(t->special, n, sizeof *t->special, compare_special, t);
    for (uint32_t i = 0; i < n; i++)
        t->special_from[(uint8_t)t->bytes[t->offset[t->special[i]]] + 1]++;
    for (unsigned b = 0; b < 256; b++)
        t->special_from[b + 1] += t->special_from[b];
    return 0;
}

int32_t tok_find_special(const struct tokenizer *t, const char *text, size_t len,
                         bool parse_special)
{
    for (uint32_t i = t->special_from[(uint8_t)*text]; i < t->special_from[(uint8_t)*text + 1];
         i++) {
        int32_t id = t->special[i];
        size_t n;
        const char *p = tok_bytes(t, id, &n);
        if ((parse_special || !tok_is_control(t, id)) && n <= len && memcmp(p, text, n) == 0)
            return id;
    }
    return -1;
}

/* An id the file names; -1 when it names none. */
static int load_id(const struct tokenizer *t, const struct gguf *g, const char *key, int32_t *id,
                   char *err)
{
    uint32_t v;
    int rc = gguf_u32(g, key, &v);
    *id = -1;
    if (rc == -ENOENT)
        return 0;
    if (rc || v >= t->n_vocab)
        return gguf_fail(gguf_path(g), err, -EBADMSG, "%s: must be a token id below %u", key,
                         t->n_vocab);
    *id = (int32_t)v;
    return 0;
}

static void add_eog(struct tokenizer *t, int32_t id)
{
    if (id >= 0 && !tok_is_eog(t, id) && t->n_eog < MAX_EOG)
        t->eog[t->n_eog++] = id;
}

static int load_special_ids(struct tokenizer *t, const struct gguf *g, char *err)
{
    static const char *const ends[] = {"<|im_end|>", "<|endoftext|>",   "<|eot_id|>",
                                       "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>"};
    int32_t eot;
    int rc;
    if ((rc = load_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos, err)) ||
        (rc = load_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos, err)) ||
        (rc = load_id(t, g, "tokenizer.ggml.eot_token_id", &eot, err)))
        return rc;
    add_eog(t, t->eos);
    add_eog(t, eot);
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        size_t len = strlen(ends[i]);
        int32_t id = tok_find_special(t, ends[i], len, true);
        if (id >= 0 && t->offset[id + 1] - t->offset[id] == len)
            add_eog(t, id);
    }
    rc = gguf_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos);
    if (rc == -ENOENT)
        t->add_bos = tok_pre_default_add_bos(t->pretok);
    else if (rc)
        return gguf_fail(gguf_path(g), err, -EBADMSG,
                         "tokenizer.ggml.add_bos_token: must be a bool");
    t->add_bos = t->add_bos && t->bos >= 0;
    return 0;
}

/* --- all -------------------------------------------------------------------------------------- */

static int load_kind(struct tokenizer *t, const struct gguf *g, char *err)
{
    struct gguf_str s;
    int rc = gguf_str(g, "tokenizer.ggml.model", &s);
    if (rc)
        return gguf_fail(gguf_path(g), err, -EBADMSG, "tokenizer.ggml.model: %s",
                         rc == -ENOENT ? "is missing" : "must be a string");
    if (s.len != 4 || memcmp(s.ptr, "gpt2", 4) != 0)
        return gguf_fail(gguf_path(g), err, -ENOTSUP,
                         "tokenizer model \"%.*s\" is not supported; supported: gpt2",
                         s.len > 40 ? 40 : (int)s.len, s.ptr);
    rc = gguf_str(g, "tokenizer.ggml.pre", &s);
    if (rc)
        return gguf_fail(gguf_path(g), err, rc == -ENOENT ? -ENOTSUP : -EBADMSG,
                         "tokenizer.ggml.pre: %s; supported: %s",
                         rc == -ENOENT ? "is missing" : "must be a string", tok_pre_supported());
    rc = tok_pre_open(s.ptr, s.len, &t->pretok);
    if (rc == -ENOTSUP)
        gguf_fail(gguf_path(g), err, rc, "pre-tokenizer \"%.*s\" is not supported; supported: %s",
                  s.len > 40 ? 40 : (int)s.len, s.ptr, tok_pre_supported());
    return rc;
}

int tok_vocab_load(struct tokenizer *t, const struct gguf *g, char *err)
{
    struct alphabet a;
    int rc;
    alphabet_fill(&a);
    if (getrandom(&t->hash_seed, sizeof t->hash_seed, GRND_NONBLOCK) < 0)
        t->hash_seed = (uintptr_t)t; /* early at boot: still not the file's choice */
    if ((rc = load_kind(t, g, err)) || (rc = load_tokens(t, g, &a, err)) || (rc = index_words(t)) ||
        (rc = load_merges(t, g, &a, err)) || (rc = index_specials(t)) ||
        (rc = load_special_ids(t, g, err)))
        return rc;
    if (!tok_pre_whole_words(t->pretok)) { /* ids are enough from here on */
        free(t->words.slots);
        t->words.slots = NULL;
    }
    return 0;
}
