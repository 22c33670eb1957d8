/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/tokenizer.h"

#include <errno.h>
#include <stdlib.h>

#include "compute/tokenizer_impl.h"

int tok_open(const struct gguf *g, struct tokenizer **out, char *err)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    int rc = t ? tok_vocab_load(t, g, err) : -ENOMEM;
    if (!rc)
        rc = tok_chat_load(t, g);
    if (rc) {
        if (rc == -ENOMEM)
            gguf_fail(gguf_path(g), err, rc, "no memory for the tokenizer");
        tok_close(t);
        return rc;
    }
    *out = t;
    return 0;
}

void tok_close(struct tokenizer *t)
{
    if (!t)
        return;
    tok_pre_close(t->pretok);
    free(t->type);
    free(t->offset);
    free(t->bytes);
    free(t->words.slots);
    free(t->merges);
    free(t->pairs.slots);
    free(t->special);
    free(t->chat_system);
    free(t);
}

uint32_t tok_n_vocab(const struct tokenizer *t)
{
    return t->n_vocab;
}

int32_t tok_bos(const struct tokenizer *t)
{
    return t->bos;
}

int32_t tok_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool tok_add_bos(const struct tokenizer *t)
{
    return t->add_bos;
}

bool tok_is_eog(const struct tokenizer *t, int32_t id)
{
    for (uint32_t i = 0; i < t->n_eog; i++)
        if (t->eog[i] == id)
            return true;
    return false;
}

/* --- text to ids ------------------------------------------------------------------------------ */

struct encoder {
    const struct tokenizer *t;
    struct pretok_walk walk;
    struct bpe bpe;
    int32_t *ids;
    size_t cap;
    int64_t n;
};

static void emit(struct encoder *e, int32_t id)
{
    if ((uint64_t)e->n < e->cap)
        e->ids[e->n] = id;
    e->n++;
}

static int encode_word(struct encoder *e, const char *word, size_t len)
{
    if (e->t->words.slots) {
        int32_t id = tok_find_word(e->t, word, len);
        if (id >= 0) {
            emit(e, id);
            return 0;
        }
    }
    int64_t n = tok_bpe(e->t, &e->bpe, word, len);
    for (int64_t i = 0; i < n; i++)
        emit(e, e->bpe.ids[i]);
    return n < 0 ? (int)n : 0;
}

/* Text without special tokens. */
static int encode_plain(struct encoder *e, const char *text, size_t len)
{
    const char *word;
    size_t word_len;
    int rc;
    tok_pre_walk_text(&e->walk, text, len);
    while ((rc = tok_pre_next(&e->walk, &word, &word_len)) > 0)
        if ((rc = encode_word(e, word, word_len)))
            return rc;
    return rc;
}

/* Special tokens first, from left to right; BPE never sees across them. */
static int encode(struct encoder *e, const char *text, size_t len, bool parse_special)
{
    size_t plain = 0, at = 0;
    while (at < len) {
        int32_t id = tok_find_special(e->t, text + at, len - at, parse_special);
        if (id < 0) {
            at++;
            continue;
        }
        int rc = encode_plain(e, text + plain, at - plain);
        if (rc)
            return rc;
        emit(e, id);
        at += e->t->offset[id + 1] - e->t->offset[id];
        plain = at;
    }
    return encode_plain(e, text + plain, len - plain);
}

int64_t tok_encode(const struct tokenizer *t, const char *text, size_t len, bool parse_special,
                   int32_t *ids, size_t cap)
{
    if (len > INT32_MAX) /* positions in a word are 32 bits wide */
        return -EOVERFLOW;
    struct encoder e = {.t = t, .ids = ids, .cap = cap};
    int rc = tok_pre_walk_open(t->pretok, &e.walk);
    if (rc)
        return rc;
    rc = encode(&e, text, len, parse_special);
    tok_bpe_free(&e.bpe);
    tok_pre_walk_close(&e.walk);
    return rc ? rc : e.n;
}

/* --- ids to text ------------------------------------------------------------------------------ */

/* What the id shows, borrowed; -EINVAL. */
static int64_t piece(const struct tokenizer *t, int32_t id, bool special, const char **bytes)
{
    size_t len;
    if (id < 0 || (uint32_t)id >= t->n_vocab)
        return -EINVAL;
    *bytes = tok_bytes(t, id, &len);
    if (t->type[id] == TOKEN_UNUSED || (!special && tok_is_control(t, id)))
        return 0;
    return (int64_t)len;
}

int64_t tok_piece(const struct tokenizer *t, int32_t id, bool special, char *buf, size_t cap)
{
    return tok_decode(t, &id, 1, special, buf, cap);
}

int64_t tok_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool special, char *buf,
                   size_t cap)
{
    const char *bytes;
    int64_t total = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t len = piece(t, ids[i], special, &bytes);
        if (len < 0)
            return len;
        if (__builtin_add_overflow(total, len, &total))
            return -EOVERFLOW;
    }
    if ((uint64_t)total > cap)
        return total;
    for (size_t i = 0; i < n; i++) {
        int64_t len = piece(t, ids[i], special, &bytes);
        if (len) {
            memcpy(buf, bytes, (size_t)len);
            buf += len;
        }
    }
    return total;
}
