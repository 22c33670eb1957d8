/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/pretok.h"

#define PCRE2_CODE_UNIT_WIDTH 8

#include <errno.h>
#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Unicode's White_Space, spelled out: pcre2's own \s also holds U+180E. */
#define SPACES                                                                                     \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
#define SPACE    "[" SPACES "]"
#define OTHER    "[^" SPACES "\\p{L}\\p{N}]"
#define TRAIL    SPACE "+(?![^" SPACES "])" /* all but the last space before a word */
#define SUFFIXES "'s|'t|'re|'ve|'m|'ll|'d"
#define ANY_CASE "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
#define ANY_CASE_OF(digits)                                                                        \
    ANY_CASE "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?" OTHER "+[\\r\\n]*|" SPACE              \
             "*[\\r\\n]+|" TRAIL "|" SPACE "+"

struct kind {
    const char *name;
    const char *pattern; /* its alternatives match at every character */
    bool whole_words, default_add_bos;
};

static const struct kind kinds[] = {
    {"gpt-2", SUFFIXES "| ?\\p{L}+| ?\\p{N}+| ?" OTHER "+|" TRAIL "|" SPACE "+", false, false},
    /* gpt-2 after the digits were cut out one by one: spaces before a digit end their part, so
     * none of them goes with the digit. */
    {"smollm",
     SUFFIXES "| ?\\p{L}+|\\p{N}| ?" OTHER "+|" SPACE "+(?![^" SPACES "\\p{N}])|" SPACE "+", false,
     false},
    {"qwen2", ANY_CASE_OF("\\p{N}"), false, false},
    {"llama-bpe", ANY_CASE_OF("\\p{N}{1,3}"), true, true},
};

struct pretok {
    const struct kind *kind;
    pcre2_code *code;
    pcre2_match_context *limits;
};

const char *tok_pre_supported(void)
{
    return "gpt-2 smollm qwen2 llama-bpe";
}

int tok_pre_open(const char *name, size_t name_len, struct pretok **out)
{
    const struct kind *kind = NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strlen(kinds[i].name) == name_len && memcmp(kinds[i].name, name, name_len) == 0)
            kind = &kinds[i];
    if (!kind)
        return -ENOTSUP;

    struct pretok *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    int error;
    size_t where;
    p->kind = kind;
    p->code =
        pcre2_compile((PCRE2_SPTR)kind->pattern, PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_ANCHORED | PCRE2_NO_AUTO_CAPTURE, &error, &where, NULL);
    p->limits = pcre2_match_context_create(NULL);
    if (!p->code || !p->limits) {
        tok_pre_close(p);
        return -ENOMEM; /* the patterns are constants: nothing else can be wrong */
    }
    /* A run of spaces costs steps in proportion to its length; the default bound is for patterns
     * that may explode, which these can't. */
    pcre2_set_match_limit(p->limits, UINT32_MAX);
    pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE); /* where there is no JIT it is only slower */
    *out = p;
    return 0;
}

void tok_pre_close(struct pretok *p)
{
    if (!p)
        return;
    pcre2_match_context_free(p->limits);
    pcre2_code_free(p->code);
    free(p);
}

bool tok_pre_whole_words(const struct pretok *p)
{
    return p->kind->whole_words;
}

bool tok_pre_default_add_bos(const struct pretok *p)
{
    return p->kind->default_add_bos;
}

int tok_pre_walk_open(const struct pretok *p, struct pretok_walk *w)
{
    *w = (struct pretok_walk){.pretok = p, .match = pcre2_match_data_create(1, NULL)};
    return w->match ? 0 : -ENOMEM;
}

void tok_pre_walk_text(struct pretok_walk *w, const char *text, size_t len)
{
    w->at = w->valid = text;
    w->end = text + len;
}

void tok_pre_walk_close(struct pretok_walk *w)
{
    pcre2_match_data_free(w->match);
}

static int match(const struct pretok_walk *w, const char *end, uint32_t options)
{
    const struct pretok *p = w->pretok;
    size_t len = (size_t)(end - w->at);
    int rc = pcre2_match(p->code, (PCRE2_SPTR)w->at, len, 0, options, w->match, p->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(p->code, (PCRE2_SPTR)w->at, len, 0, options | PCRE2_NO_JIT, w->match,
                         p->limits);
    return rc;
}

/* pcre2 checks UTF-8 before it matches and tells where it fails: so the first match in new text
 * finds how far that text is valid, and those after it need no check. */
static int match_valid(struct pretok_walk *w)
{
    if (w->at < w->valid)
        return match(w, w->valid, PCRE2_NO_UTF_CHECK);
    int rc = match(w, w->end, 0);
    if (rc > PCRE2_ERROR_UTF8_ERR1 || rc < PCRE2_ERROR_UTF8_ERR21) {
        w->valid = w->end;
        return rc;
    }
    w->valid = w->at + pcre2_get_startchar(w->match);
    return w->at < w->valid ? match(w, w->valid, PCRE2_NO_UTF_CHECK) : rc;
}

int tok_pre_next(struct pretok_walk *w, const char **word, size_t *len)
{
    if (w->at == w->end)
        return 0;
    int rc = match_valid(w);
    *word = w->at;
    if (rc > 0) {
        *len = pcre2_get_ovector_pointer(w->match)[1];
    } else if (w->at == w->valid) { /* no UTF-8 here */
        *len = 1;
        w->valid++;
    } else {
        return rc == PCRE2_ERROR_NOMEMORY ? -ENOMEM : -EOVERFLOW;
    }
    w->at += *len;
    return 1;
}
