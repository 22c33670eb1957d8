/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus score`: log-probabilities of given continuations, for comparing with a reference. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compute/sampler.h"
#include "control/cmd.h"
#include "control/log.h"
#include "control/model.h"
#include "control/options.h"
#include "control/quality_arg.h"
#include "control/split_plan.h"
#include "control/splitpass.h"

#define TOP 20

enum { OPT_LOCAL = OPT_OWN, OPT_EXACT };

struct score_options {
    struct model_options model;
    struct split_options split;
    bool local, exact;
};

static const struct argp_option options[] = {
    {"local", OPT_LOCAL, NULL, 0, "The whole model, not split", 2},
    {"exact", OPT_EXACT, NULL, 0, "f32 activations instead of int8: slow", 2},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct score_options *o = state->input;
    (void)arg;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->model;
        state->child_inputs[1] = &o->split;
        return 0;
    case OPT_LOCAL:
        o->local = true;
        return 0;
    case OPT_EXACT:
        o->exact = true;
        return 0;
    case ARGP_KEY_END:
        if (o->local)
            split_refuse_local(state, &o->split, NULL);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {
    {&model_argp, 0, NULL, 0}, {&split_argp, 0, NULL, 0}, {0}};
static const struct argp argp = {
    options,
    parse,
    NULL,
    "Read JSON lines {\"prompt_ids\":[...],\"forced_ids\":[...]} from stdin and write for each the "
    "20 "
    "best log-probabilities at every forced position: {\"prompt_ids\":...,\"forced_ids\":...,"
    "\"top20\":[[[id,logprob],...],...]}. Position i is the distribution that predicts "
    "forced_ids[i].",
    children,
    NULL,
    NULL,
};

struct scorer {
    struct splitpass pass;
    struct codec *codec; /* NULL: whole */
    const struct split_plan *plan;
    struct sampler *sampler;
    unsigned line;
    struct splitpass_traffic traffic; /* of all lines */
};

/* One line: prompt and forced ids in one array. */
struct item {
    int32_t *ids;
    uint32_t n_prompt, n_forced;
};

/* --- reading --------------------------------------------------------------------------------- */

static int bad_line(const struct scorer *s, const char *field, const char *why)
{
    log_error("stdin:%u: %s%s%s", s->line, field, *field ? " " : "", why);
    return EXIT_USAGE;
}

static int check_ids(const struct scorer *s, const json_t *line, const char *field,
                     const json_t **ids)
{
    const json_t *v = *ids = json_object_get(line, field);
    if (!v)
        return bad_line(s, field, "is missing");
    if (!json_is_array(v) || json_array_size(v) == 0)
        return bad_line(s, field, "must be an array of token ids, not empty");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *id = json_array_get(v, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= s->pass.n_vocab)
            return bad_line(s, field, "has an id that is not in the vocabulary");
    }
    return EXIT_OK;
}

static int read_item(const struct scorer *s, const json_t *line, struct item *it)
{
    const json_t *prompt, *forced;
    int rc = check_ids(s, line, "prompt_ids", &prompt);
    if (rc == EXIT_OK)
        rc = check_ids(s, line, "forced_ids", &forced);
    if (rc != EXIT_OK)
        return rc;

    const size_t n_prompt = json_array_size(prompt), n_forced = json_array_size(forced);
    if (n_prompt + n_forced > s->pass.n_ctx) {
        log_error("stdin:%u: %zu ids are more than the context of %u: see --ctx", s->line,
                  n_prompt + n_forced, s->pass.n_ctx);
        return EXIT_USAGE;
    }
    *it = (struct item){.ids = malloc((n_prompt + n_forced) * sizeof *it->ids),
                        .n_prompt = (uint32_t)n_prompt,
                        .n_forced = (uint32_t)n_forced};
    if (!it->ids)
        return bad_line(s, "", "out of memory"), EXIT_FAILED;
    for (size_t i = 0; i < n_prompt; i++)
        it->ids[i] = (int32_t)json_integer_value(json_array_get(prompt, i));
    for (size_t i = 0; i < n_forced; i++)
        it->ids[n_prompt + i] = (int32_t)json_integer_value(json_array_get(forced, i));
    return EXIT_OK;
}

/* --- writing --------------------------------------------------------------------------------- */

static void print_ids(const char *field, const int32_t *ids, uint32_t n)
{
    printf("\"%s\": [", field);
    for (uint32_t i = 0; i < n; i++)
        printf("%s%d", i ? ", " : "", ids[i]);
    printf("], ");
}

static void print_line(const struct item *it, const struct sampler_top *top, size_t per_position)
{
    printf("{");
    print_ids("prompt_ids", it->ids, it->n_prompt);
    print_ids("forced_ids", it->ids + it->n_prompt, it->n_forced);
    printf("\"top20\": [");
    for (uint32_t i = 0; i < it->n_forced; i++) {
        printf("%s[", i ? ", " : "");
        for (size_t k = 0; k < per_position; k++, top++)
            printf("%s[%d, %.5f]", k ? ", " : "", top->id, (double)top->logprob);
        printf("]");
    }
    printf("]}\n");
}

/* --- scoring --------------------------------------------------------------------------------- */

/* What is kept of a line's logits until all of them are there. */
struct tops {
    struct sampler *sampler;
    size_t n_vocab, per_position;
    struct sampler_top *next;
    bool finite;
};

static void keep_tops(void *arg, const struct stage_rows *rows, uint32_t first, uint32_t count,
                      const float *logits)
{
    struct tops *t = arg;
    for (uint32_t i = 0; i < count; i++, t->next += t->per_position) {
        sampler_top_logprobs(t->sampler, logits + i * t->n_vocab, t->next, t->per_position);
        /* A NaN among the logits makes all of them NaN; else the last is the least. */
        t->finite &= isfinite(t->next[t->per_position - 1].logprob) != 0;
    }
}

static void say_target(const struct scorer *s)
{
    const struct split_plan *plan = s->plan;
    const struct codec_stats *sent = &s->traffic.codec;
    const struct quality_outcome o = {
        .rows = sent->rows,
        .bytes_per_token = sent->rows ? (double)sent->bytes / (double)sent->rows : 0,
        .min = s->traffic.parameter.min,
        .max = s->traffic.parameter.max,
    };

    quality_kept(plan->target, codec_rate_curve(plan->profile, plan->codec.mode), &o,
                 codec_mode_name(plan->codec.mode));
}

static int score_item(struct scorer *s, const struct item *it)
{
    /* The last forced id is predicted, never fed. */
    const uint32_t n = it->n_prompt + it->n_forced - 1;
    const size_t bytes = (size_t)n * s->pass.d_model * sizeof(float);
    const size_t per_position = s->pass.n_vocab < TOP ? s->pass.n_vocab : TOP;
    struct sampler_top *top = calloc(it->n_forced, per_position * sizeof(*top));
    struct tops tops = {.sampler = s->sampler,
                        .n_vocab = s->pass.n_vocab,
                        .per_position = per_position,
                        .next = top,
                        .finite = true};
    const struct stage_rows rows = {.n = n, .n_logits = it->n_forced};
    struct codec_rate rate = {.curve = NULL};
    float *sent = NULL, *got = NULL;
    int rc = top ? 0 : -ENOMEM;

    if (rc == 0 && s->codec) {
        const struct split_plan *plan = s->plan;
        if (plan->target.kind) /* a line is a session */
            rc = codec_rate_init(&rate, codec_rate_curve(plan->profile, plan->codec.mode),
                                 plan->target);
        sent = malloc(bytes);
        got = malloc(bytes);
        if (rc == 0)
            rc = sent && got
                     ? splitpass_run(&s->pass, 0, 0, &rows, 1, it->ids, NULL, &sent, NULL, NULL)
                     : -ENOMEM;
        if (rc == 0)
            rc = splitpass_carry_rated(s->codec, &s->plan->codec, &rate, sent, n, 0,
                                       s->pass.d_model, SPLITPASS_MESSAGE_ROWS, got, &s->traffic);
        if (rc == 0)
            rc = splitpass_run(&s->pass, 1, 1, &rows, 1, NULL, got, NULL, keep_tops, &tops);
    } else if (rc == 0) {
        rc = splitpass_run(&s->pass, 0, 0, &rows, 1, it->ids, NULL, NULL, keep_tops, &tops);
    }
    if (rc == 0 && tops.finite)
        print_line(it, top, per_position);
    free(top);
    free(sent);
    free(got);
    if (rc == -EDOM)
        log_error("stdin:%u: the codec cannot carry the value at token %u, column %u", s->line,
                  s->traffic.codec.bad_token, s->traffic.codec.bad_col);
    else if (rc < 0)
        log_error("stdin:%u: %s", s->line, strerror(-rc));
    else if (!tops.finite)
        log_error("stdin:%u: the model's logits are not finite: its file must be damaged", s->line);
    return rc == 0 && tops.finite ? EXIT_OK : EXIT_FAILED;
}

static int score_line(struct scorer *s, const char *text, size_t len)
{
    json_error_t error;
    struct item it = {0};
    json_t *line = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
    int rc;

    if (!line)
        rc = bad_line(s, "", error.text);
    else if (!json_is_object(line))
        rc = bad_line(s, "", "must be a JSON object");
    else
        rc = read_item(s, line, &it);
    json_decref(line);
    if (rc == EXIT_OK)
        rc = score_item(s, &it);
    free(it.ids);
    return rc;
}

static int score_lines(struct scorer *s)
{
    char *text = NULL;
    size_t room = 0;
    ssize_t len;
    int rc = EXIT_OK;

    while (rc == EXIT_OK && (len = getline(&text, &room, stdin)) >= 0) {
        s->line++;
        if (strspn(text, " \t\r\n") != (size_t)len)
            rc = score_line(s, text, (size_t)len);
    }
    free(text);
    if (rc == EXIT_OK && (ferror(stdin) || fflush(stdout) || ferror(stdout))) {
        log_error("stdin or stdout: %s", strerror(errno));
        rc = EXIT_FAILED;
    }
    return rc;
}

static int open_scorer(struct scorer *s, const struct codec_params *codec)
{
    int rc = sampler_open(s->pass.n_vocab, &s->sampler);
    if (rc == 0 && codec)
        rc = codec_open(codec, s->pass.d_model, &s->codec);
    if (rc < 0)
        log_error("cannot begin: %s", strerror(-rc));
    return rc < 0 ? EXIT_FAILED : EXIT_OK;
}

int cmd_score(int argc, char **argv)
{
    struct score_options o = {0};
    struct split_plan plan = {0};
    struct scorer s = {.plan = &plan};
    struct model model;
    struct team *team = NULL;

    argp_parse(&argp, argc, argv, 0, NULL, &o);
    int rc = model_open(o.model.path, false, &model);
    if (rc != EXIT_OK)
        return rc;
    if (!o.local)
        rc = split_plan(&o.split, &model, &plan);
    if (rc == EXIT_OK)
        rc = model_team(&o.model, 0, 0, &team);
    const struct splitpass_params pass = {
        .cuts = &plan.split,
        .n_cuts = !o.local,
        .ctx = o.model.ctx,
        .n_seqs = 1,
        .kv = o.model.kv,
        .exact = o.exact,
    };
    if (rc == EXIT_OK)
        rc = splitpass_open(&model, &pass, team, &s.pass);
    if (rc == EXIT_OK)
        rc = open_scorer(&s, o.local ? NULL : &plan.codec);
    if (rc == EXIT_OK)
        rc = score_lines(&s);
    if (rc == EXIT_OK)
        say_target(&s);

    codec_close(s.codec);
    sampler_close(s.sampler);
    splitpass_close(&s.pass);
    team_close(team);
    split_plan_free(&plan);
    model_close(&model);
    return rc;
}
