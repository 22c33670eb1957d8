/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus tokenize`: text to ids and back, a JSON object a line. */
#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compute/gguf.h"
#include "compute/tokenizer.h"
#include "control/cmd.h"
#include "control/log.h"
#include "control/utf8.h"

struct options {
    const char *model;
    bool decode;
};

struct job {
    const struct tokenizer *tok;
    bool decode;
    unsigned line;
};

static const struct argp_option option_list[] = {
    {"model", 'm', "FILE", 0, "The model, a GGUF file", 0},
    {"decode", 'd', NULL, 0, "From ids to text", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct options *o = state->input;
    switch (key) {
    case 'm':
        o->model = arg;
        return 0;
    case 'd':
        o->decode = true;
        return 0;
    case ARGP_KEY_END:
        if (!o->model)
            argp_error(state,
                       "-m FILE is missing: `tools/fetch-model smollm2` prints the path of a "
                       "small model");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    option_list,
    parse,
    NULL,
    "Turns text into the model's token ids, or ids into text.\v"
    "Reads a JSON object a line from stdin: {\"text\": ..., \"parse_special\": ...} (the second "
    "may be left out: control tokens in the text are plain text then) and writes {\"ids\": [...]} "
    "for each. With --decode reads {\"ids\": [...]} and writes {\"text\": ...}; bytes that are no "
    "UTF-8 become U+FFFD there, and \"bytes\" has the exact ones in hexadecimal. Other fields are "
    "ignored.",
    NULL,
    NULL,
    NULL,
};

static int bad(const struct job *j, const char *what)
{
    log_error("stdin:%u: %s", j->line, what);
    return EXIT_USAGE;
}

static int no_memory(const struct job *j)
{
    log_error("stdin:%u: out of memory", j->line);
    return EXIT_FAILED;
}

/* Prints the object and drops it. */
static int print(const struct job *j, json_t *object)
{
    int rc = EXIT_OK;
    if (!object)
        return no_memory(j);
    if (json_dumpf(object, stdout, 0) < 0 || putchar('\n') == EOF) {
        log_error("stdout: %s", strerror(errno));
        rc = EXIT_FAILED;
    }
    json_decref(object);
    return rc;
}

/* --- text to ids ------------------------------------------------------------------------------ */

static int print_ids(const struct job *j, const int32_t *ids, int64_t n)
{
    json_t *array = json_array();
    for (int64_t i = 0; i < n; i++)
        json_array_append_new(array, json_integer(ids[i]));
    return print(j, json_pack("{s:o}", "ids", array));
}

static int encode(const struct job *j, const json_t *object)
{
    const json_t *text = json_object_get(object, "text");
    const json_t *special = json_object_get(object, "parse_special");
    if (!json_is_string(text))
        return bad(j, "\"text\" must be a string");
    if (special && !json_is_boolean(special))
        return bad(j, "\"parse_special\" must be true or false");

    size_t len = json_string_length(text);
    int32_t *ids = reallocarray(NULL, len + 1, sizeof *ids); /* an id has at least a byte */
    int64_t n = -ENOMEM;
    if (ids)
        n = tok_encode(j->tok, json_string_value(text), len, json_is_true(special), ids, len);
    int rc = n >= 0         ? print_ids(j, ids, n)
             : n == -ENOMEM ? no_memory(j)
                            : bad(j, "the text is too long");
    free(ids);
    return rc;
}

/* --- ids to text ------------------------------------------------------------------------------ */

static json_t *hex(const char *bytes, size_t n)
{
    char *text = malloc(2 * n + 1);
    if (!text)
        return NULL;
    for (size_t i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02x", (unsigned char)bytes[i]);
    json_t *string = json_stringn(text, 2 * n);
    free(text);
    return string;
}

static int print_text(const struct job *j, const char *bytes, size_t n)
{
    json_t *text = json_stringn(bytes, n);
    if (text)
        return print(j, json_pack("{s:o}", "text", text));
    /* jansson refuses what is not UTF-8 */
    size_t clean_n;
    char *clean = utf8_clean(bytes, n, &clean_n);
    int rc = clean ? print(j, json_pack("{s:o, s:o}", "text", json_stringn(clean, clean_n), "bytes",
                                        hex(bytes, n)))
                   : no_memory(j);
    free(clean);
    return rc;
}

static int read_ids(const struct job *j, const json_t *array, int32_t *ids)
{
    char what[96];
    size_t i;
    json_t *id;
    json_array_foreach(array, i, id)
    {
        json_int_t v = json_integer_value(id);
        if (!json_is_integer(id) || v < 0 || v >= tok_n_vocab(j->tok)) {
            snprintf(what, sizeof what, "\"ids\"[%zu] must be a token id, 0 to %u", i,
                     tok_n_vocab(j->tok) - 1);
            return bad(j, what);
        }
        ids[i] = (int32_t)v;
    }
    return EXIT_OK;
}

static int decode(const struct job *j, const json_t *object)
{
    const json_t *array = json_object_get(object, "ids");
    size_t n = json_array_size(array);
    if (!json_is_array(array))
        return bad(j, "\"ids\" must be an array of token ids");
    int32_t *ids = reallocarray(NULL, n + 1, sizeof *ids);
    char *bytes = NULL;
    int rc = ids ? read_ids(j, array, ids) : no_memory(j);
    if (rc)
        goto out;
    int64_t len = tok_decode(j->tok, ids, n, true, NULL, 0);
    bytes = len < 0 ? NULL : malloc((size_t)len + 1);
    if (!bytes) {
        rc = no_memory(j);
        goto out;
    }
    tok_decode(j->tok, ids, n, true, bytes, (size_t)len);
    rc = print_text(j, bytes, (size_t)len);
out:
    free(bytes);
    free(ids);
    return rc;
}

/* ---------------------------------------------------------------------------------------------- */

static int run_line(const struct job *j, const char *text, size_t len)
{
    json_error_t error;
    char what[JSON_ERROR_TEXT_LENGTH + 16];
    json_t *object = json_loadb(text, len, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &error);
    if (!object) {
        snprintf(what, sizeof what, "not JSON: %s", error.text);
        return bad(j, what);
    }
    int rc = !json_is_object(object) ? bad(j, "must be a JSON object")
             : j->decode             ? decode(j, object)
                                     : encode(j, object);
    json_decref(object);
    return rc;
}

static int run_lines(struct job *j)
{
    char *text = NULL;
    size_t room = 0;
    ssize_t len;
    int rc = EXIT_OK;
    setlinebuf(stdout); /* whoever feeds us line by line sees each answer at once */
    while (rc == EXIT_OK && (len = getline(&text, &room, stdin)) >= 0) {
        j->line++;
        if (strspn(text, " \t\r\n") != (size_t)len)
            rc = run_line(j, text, (size_t)len);
    }
    if (rc == EXIT_OK && !feof(stdin)) {
        log_error("stdin:%u: %s", j->line + 1, strerror(errno));
        rc = EXIT_FAILED;
    }
    free(text);
    if (fflush(stdout) && rc == EXIT_OK) {
        log_error("stdout: %s", strerror(errno));
        rc = EXIT_FAILED;
    }
    return rc;
}

int cmd_tokenize(int argc, char **argv)
{
    struct options o = {0};
    argp_parse(&argp, argc, argv, 0, NULL, &o);

    char err[GGUF_ERR];
    struct gguf *g = NULL;
    struct tokenizer *tok = NULL;
    int rc = gguf_open(o.model, &g, err);
    if (!rc)
        rc = tok_open(g, &tok, err);
    gguf_close(g); /* also when NULL */
    if (rc) {
        log_error("%s", err);
        return rc == -ENOMEM || rc == -EIO ? EXIT_FAILED : EXIT_USAGE;
    }
    struct job j = {.tok = tok, .decode = o.decode};
    rc = run_lines(&j);
    tok_close(tok);
    return rc;
}
