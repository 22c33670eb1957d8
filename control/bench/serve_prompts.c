/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/serve_prompts.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"

/* --- chance
 * --------------------------------------------------------------------------------------- */

/* SplitMix64. */
static uint64_t mixed(uint64_t seed, uint64_t n)
{
    uint64_t z = seed + (n + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double prompts_chance(uint64_t seed, uint64_t n)
{
    return (double)((mixed(seed, n) >> 11) + 1) * 0x1p-53;
}

/* --- made-up prompts
 * ------------------------------------------------------------------------------ */

/* With a space before, each is one token of GPT-2's, SmolLM2's, Qwen2's and Llama 3's vocabularies.
 */
static const char *const words[] = {
    " the",     " of",    " and",   " to",      " in",    " is",     " that",   " for",
    " was",     " with",  " as",    " on",      " by",    " at",     " from",   " this",
    " have",    " are",   " be",    " not",     " which", " or",     " but",    " one",
    " all",     " their", " has",   " been",    " when",  " who",    " will",   " more",
    " if",      " no",    " out",   " so",      " what",  " up",     " about",  " into",
    " than",    " them",  " can",   " only",    " other", " time",   " new",    " some",
    " could",   " these", " two",   " may",     " first", " then",   " do",     " any",
    " like",    " my",    " now",   " over",    " such",  " our",    " man",    " even",
    " most",    " made",  " after", " also",    " many",  " before", " must",   " through",
    " years",   " where", " much",  " way",     " well",  " down",   " should", " because",
    " people",  " just",  " state", " good",    " very",  " make",   " world",  " still",
    " see",     " own",   " work",  " men",     " long",  " here",   " get",    " both",
    " life",    " being", " under", " three",   " never", " day",    " same",   " another",
    " know",    " year",  " while", " last",    " might", " us",     " great",  " old",
    " go",      " come",  " since", " against", " right", " take",   " used",   " states",
    " himself", " few",   " house", " use",     " place", " water",  " during", " without"};
#define WORDS (sizeof words / sizeof *words)

static char *made_up(uint64_t seed, uint64_t n, uint32_t tokens)
{
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    if (!f)
        return NULL;
    const uint64_t own = mixed(seed, n);
    for (uint32_t i = 0; i < tokens; i++)
        fputs(words[mixed(own, i) % WORDS], f);
    const bool failed = ferror(f);
    if (fclose(f) || failed) {
        free(text);
        return NULL;
    }
    return text;
}

/* --- of a file
 * ------------------------------------------------------------------------------------ */

struct prompts {
    json_t **lines;
    size_t n, room;
};

static const char *wrong_messages(const json_t *messages)
{
    size_t i;
    json_t *m;
    if (!json_is_array(messages) || json_array_size(messages) == 0)
        return "\"messages\" must be an array of messages";
    json_array_foreach(messages, i, m)
    {
        if (!json_is_string(json_object_get(m, "role")) ||
            !json_is_string(json_object_get(m, "content")))
            return "each of \"messages\" must have \"role\" and \"content\", both texts";
    }
    return NULL;
}

static const char *wrong(const json_t *line)
{
    const json_t *prompt = json_object_get(line, "prompt"),
                 *messages = json_object_get(line, "messages"),
                 *max_tokens = json_object_get(line, "max_tokens");
    if (!json_is_object(line))
        return "must be a JSON object";
    if (!prompt == !messages)
        return "must have \"prompt\" or \"messages\"";
    if (prompt && !json_is_string(prompt))
        return "\"prompt\" must be a text";
    if (max_tokens && (!json_is_integer(max_tokens) || json_integer_value(max_tokens) < 1 ||
                       json_integer_value(max_tokens) > PROMPTS_TOKENS_MAX))
        return "\"max_tokens\" must be a whole number from 1 to 1000000";
    return messages ? wrong_messages(messages) : NULL;
}

static int add_line(struct prompts *p, const char *path, unsigned number, const char *text,
                    size_t len)
{
    json_error_t error;
    json_t *line = json_loadb(text, len, 0, &error);
    const char *why = line ? wrong(line) : error.text;
    if (why) {
        log_error("%s:%u: %s", path, number, why);
        json_decref(line);
        return EXIT_USAGE;
    }
    if (p->n == p->room) {
        const size_t room = p->room ? p->room * 2 : 64;
        json_t **grown = reallocarray(p->lines, room, sizeof *grown);
        if (!grown) {
            log_error("out of memory for the prompts of %s", path);
            json_decref(line);
            return EXIT_FAILED;
        }
        p->lines = grown;
        p->room = room;
    }
    p->lines[p->n++] = line;
    return EXIT_OK;
}

static int read_lines(struct prompts *p, const char *path, FILE *f)
{
    char *text = NULL;
    size_t room = 0;
    ssize_t len;
    int rc = EXIT_OK;
    for (unsigned number = 1; rc == EXIT_OK && (len = getline(&text, &room, f)) > 0; number++)
        if (text[strspn(text, " \t\r\n")])
            rc = add_line(p, path, number, text, (size_t)len);
    free(text);
    if (rc == EXIT_OK && ferror(f)) {
        log_error("%s: %s", path, strerror(errno));
        return EXIT_USAGE;
    }
    if (rc == EXIT_OK && p->n == 0) {
        log_error("%s: there are no prompts in it", path);
        return EXIT_USAGE;
    }
    return rc;
}

int prompts_read(const char *path, struct prompts **out)
{
    FILE *f = fopen(path, "re");
    if (!f) {
        log_error("%s: %s", path, strerror(errno));
        return EXIT_USAGE;
    }
    struct prompts *p = calloc(1, sizeof *p);
    int rc = EXIT_FAILED;
    if (p)
        rc = read_lines(p, path, f);
    else
        log_error("out of memory for the prompts of %s", path);
    fclose(f);
    if (rc != EXIT_OK) {
        prompts_free(p);
        return rc;
    }
    *out = p;
    return EXIT_OK;
}

void prompts_free(struct prompts *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n; i++)
        json_decref(p->lines[i]);
    free(p->lines);
    free(p);
}

/* --- bodies
 * --------------------------------------------------------------------------------------- */

/* The messages that a line has, or the one that its prompt, or a made-up one, makes. */
static json_t *messages_of(const json_t *line, const char *text)
{
    json_t *messages = json_object_get(line, "messages");
    if (messages)
        return json_incref(messages);
    return json_pack("[{s:s,s:s}]", "role", "user", "content", text);
}

char *prompts_body(const struct prompts *p, const struct prompts_ask *ask, uint64_t n, bool *chat,
                   size_t *len)
{
    const json_t *line = p ? p->lines[n % p->n] : NULL;
    const json_t *own = json_object_get(line, "max_tokens");
    char *text = line ? NULL : made_up(ask->seed, n, ask->prompt_tokens);
    const char *prompt = line ? json_string_value(json_object_get(line, "prompt")) : text;
    *chat = ask->chat || json_object_get(line, "messages");
    if (!line && !text)
        return NULL;
    json_t *body = json_pack("{s:s, s:b, s:{s:b}, s:I, s:i, s:I}", "model", ask->model, "stream", 1,
                             "stream_options", "include_usage", 1, "max_tokens",
                             own ? json_integer_value(own) : (json_int_t)ask->max_tokens,
                             "temperature", 0, "seed", (json_int_t)(mixed(ask->seed, n) >> 33));
    int rc = body ? 0 : -1;
    if (rc == 0)
        rc = *chat ? json_object_set_new(body, "messages", messages_of(line, prompt))
                   : json_object_set_new(body, "prompt", json_string(prompt));
    if (rc == 0 && ask->ignore_eos)
        rc = json_object_set_new(body, "ignore_eos", json_true());
    char *dump = rc == 0 ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    free(text);
    *len = dump ? strlen(dump) : 0;
    return dump;
}
