/* SPDX-License-Identifier: Apache-2.0 */
/* front_answer: one prompt, a file of requests, or a chat. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/front.h"
#include "control/generation.h"
#include "control/log.h"
#include "control/report.h"
#include "control/signals.h"

#define STEP_NS                                                                                    \
    50000000u /* how long a step may wait before signals and the child are looked at               \
               */

#define IDLE_MS 200 /* between two looks at the cloud while the user thinks */

/* Give up what is being answered: the engine tells every answer that it ended, so this comes before
 * they are freed. */
static void abandon(struct front *f)
{
    engine_close(f->engine);
    f->engine = NULL;
}

/* Busy sessions; -1 when the cloud is lost, which has been said. */
static int step(struct front *f)
{
    int busy = engine_step(f->engine, port_now_ns() + STEP_NS);
    if (busy >= 0 && f->cloud.pid && child_gone(&f->cloud, 0))
        busy = -EPIPE;
    if (busy < 0) {
        front_say_lost(f);
        return -1;
    }
    return busy;
}

/* More than --kv-budget: text, which is returned. */
static const char *never_fits(const struct front *f, const struct generation *g,
                              char text[PIPELINE_ERR])
{
    const uint32_t tokens = g->n_prompt + g->n_predict;
    snprintf(text, PIPELINE_ERR,
             "an answer of up to %u tokens, its prompt's %u among them, needs %zu bytes of cache, "
             "--kv-budget has %zu: a smaller --n-predict, a shorter prompt or a larger budget will "
             "do",
             tokens, g->n_prompt, stage_seq_bytes(f->stage, tokens),
             f->engine->info->kv_budget_bytes);
    return text;
}

static int start_failed(const struct front *f, const struct generation *g, int rc)
{
    char why[PIPELINE_ERR];
    if (rc == -ERANGE)
        log_error("the prompt has %u tokens, the context %u: no room for an answer", g->n_prompt,
                  f->engine->info->n_ctx);
    else if (rc == -ENOSPC)
        log_error("%s", never_fits(f, g, why));
    else if (rc == -EINVAL && g->n_prompt == 0)
        log_error("the prompt is empty");
    else
        log_error("cannot start the answer: %s", strerror(-rc));
    return rc == -ERANGE || rc == -EINVAL || rc == -ENOSPC ? EXIT_USAGE : EXIT_FAILED;
}

/* Once: nothing new begins, and what is under way may end. */
static void say_drains(bool *said)
{
    if (!*said && signals_caught() && signals_let_end())
        log_info("stopping when what is being answered has ended; another signal ends it at once");
    *said = *said || signals_caught();
}

/* Run one answer to its end. Stopped by a signal, it is cancelled and EXIT_INTERRUPTED returned. */
static int run_one(struct front *f, struct generation *g)
{
    int rc = generation_start(g, f->engine);
    if (rc < 0)
        return start_failed(f, g, rc);
    bool cancelled = false, said = false;
    while (!g->done) {
        say_drains(&said);
        if ((!signals_let_end() || g->write_error) && !cancelled) {
            engine_cancel(f->engine, g->session);
            cancelled = true;
        }
        if (step(f) < 0) {
            abandon(f);
            return EXIT_FAILED;
        }
    }
    if (g->out_of_memory) {
        log_error("out of memory for the answer's text");
        return EXIT_FAILED;
    }
    if (g->write_error) {
        log_error("cannot write the answer: %s", strerror(g->write_error));
        return EXIT_FAILED;
    }
    if (g->result.finish == EDGE_REFUSED || g->result.finish == EDGE_LOST) {
        log_error("%s", g->result.error);
        return EXIT_FAILED;
    }
    return cancelled ? EXIT_INTERRUPTED : EXIT_OK;
}

/* --- one prompt ----------------------------------------------------------------------------------
 */

static int answer_prompt(struct front *f)
{
    const struct front_options *o = f->o;
    struct generation g = {
        .tok = f->model.tok,
        .stream = o->json ? NULL : stdout,
        .ignore_eos = o->ignore_eos,
        .n_predict = o->n_predict,
        .sampler = o->sampler,
        .n_top = o->top_logprobs,
    };
    int32_t *ids = model_encode_prompt(&f->model, f->prompt, f->prompt_bytes, &g.n_prompt);
    if (!ids)
        return EXIT_FAILED;
    g.prompt_ids = ids;

    int rc = run_one(f, &g);
    if (g.stream && g.n_text)
        putchar('\n');
    if (fflush(stdout) == EOF && rc == EXIT_OK) {
        log_error("cannot write the answer: %s", strerror(errno));
        rc = EXIT_FAILED;
    }
    if (rc == EXIT_OK && o->json)
        rc = report_run_json(f, &g);
    else if (rc == EXIT_OK || rc == EXIT_INTERRUPTED)
        report_run_line(f, &g);
    generation_free(&g);
    free(ids);
    return rc;
}

/* --- requests ------------------------------------------------------------------------------------
 */

/* Answers in the making and made; `printed` of them have been printed, in the file's order. */
struct batch {
    struct front *f;
    struct generation *g;
    char (*refused)[PIPELINE_ERR]; /* not started, and why; "": started or not yet */
    size_t n, started, printed;
    struct report_totals totals;
};

static bool any_running(const struct batch *b)
{
    for (size_t i = b->printed; i < b->started; i++)
        if (!b->g[i].done)
            return true;
    return false;
}

/* Start what there is room for. */
static int start_more(struct batch *b)
{
    for (; b->started < b->n; b->started++) {
        struct generation *g = &b->g[b->started];
        const struct request *r = &b->f->requests.list[b->started];
        const int rc = generation_start(g, b->f->engine);
        if (rc == -EAGAIN && any_running(b))
            return EXIT_OK; /* until one is done */
        if (rc == -ERANGE)
            snprintf(b->refused[b->started], PIPELINE_ERR,
                     "the prompt has %u tokens, the context %u: no room for an answer", g->n_prompt,
                     b->f->engine->info->n_ctx);
        else if (rc == -ENOSPC)
            never_fits(b->f, g, b->refused[b->started]);
        else if (rc < 0)
            return start_failed(b->f, g, rc);
        if (rc < 0) {
            log_error("%s:%u: %s", b->f->requests.name, r->line, b->refused[b->started]);
            g->done = true;
        }
    }
    return EXIT_OK;
}

static int print_finished(struct batch *b)
{
    for (; b->printed < b->started && b->g[b->printed].done; b->printed++) {
        struct generation *g = &b->g[b->printed];
        const unsigned line = b->f->requests.list[b->printed].line;
        const char *refused = b->refused[b->printed];
        const bool failed = *refused || g->result.error[0] || g->out_of_memory;
        if (!*refused && g->result.error[0])
            log_error("%s:%u: %s", b->f->requests.name, line, g->result.error);
        const int rc = *refused ? report_error_json(line, refused) : report_result_json(line, g);
        if (rc != EXIT_OK)
            return rc;
        b->totals.requests++;
        b->totals.failed += failed;
        b->totals.prompt_tokens += g->n_prompt;
        b->totals.shared_tokens += g->result.n_shared;
        b->totals.tokens += g->n_ids;
        generation_free(g);
    }
    return EXIT_OK;
}

static int run_batch(struct batch *b)
{
    bool cancelled = false, said = false;
    const size_t asked = b->n;
    while (b->printed < b->n) {
        say_drains(&said);
        if (signals_caught())
            b->n = b->started;
        if (!signals_let_end() && !cancelled) {
            for (size_t i = 0; i < b->started; i++)
                if (!b->g[i].done)
                    engine_cancel(b->f->engine, b->g[i].session);
            cancelled = true;
        }
        int rc = start_more(b);
        if (rc == EXIT_OK)
            rc = print_finished(b);
        if (rc != EXIT_OK)
            return rc;
        if (b->printed < b->n && step(b->f) < 0)
            return EXIT_FAILED;
    }
    if (b->n < asked)
        log_info("%zu request%s not begun", asked - b->n, asked - b->n == 1 ? " was" : "s were");
    return cancelled || b->n < asked ? EXIT_INTERRUPTED : EXIT_OK;
}

static int answer_requests(struct front *f)
{
    const struct front_options *o = f->o;
    const size_t n = f->requests.n;
    struct batch b = {.f = f, .n = n};
    int rc = EXIT_FAILED;
    b.g = calloc(n, sizeof *b.g);
    b.refused = calloc(n, sizeof *b.refused);
    if (!b.g || !b.refused) {
        log_error("out of memory for %zu requests", n);
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        const struct request *r = &f->requests.list[i];
        b.g[i] = (struct generation){
            .tok = f->model.tok,
            .ignore_eos = o->ignore_eos,
            .prompt_ids = r->prompt_ids,
            .n_prompt = r->n_prompt,
            .n_predict = r->n_predict,
            .sampler = r->sampler,
            .n_top = o->top_logprobs,
        };
    }

    const uint64_t start_ns = port_now_ns();
    rc = run_batch(&b);
    b.totals.elapsed_ns = port_now_ns() - start_ns;
    if (rc != EXIT_OK && rc != EXIT_INTERRUPTED)
        abandon(f);
    if (rc == EXIT_OK && o->json)
        rc = report_totals_json(f, &b.totals);
    else if (rc == EXIT_OK || rc == EXIT_INTERRUPTED)
        report_totals_line(f, &b.totals);
    if (rc == EXIT_OK && b.totals.failed)
        rc = EXIT_FAILED;
out:
    for (size_t i = 0; b.g && i < n; i++)
        generation_free(&b.g[i]);
    free(b.g);
    free(b.refused);
    return rc;
}

/* --- chat ----------------------------------------------------------------------------------------
 */

struct chat {
    struct chat_message *messages;
    size_t n;
};

/* Takes over content. */
static int chat_add(struct chat *c, const char *role, char *content)
{
    struct chat_message *m = realloc(c->messages, (c->n + 1) * sizeof *m);
    if (!m || !content) {
        log_error("out of memory for the conversation");
        free(content);
        return EXIT_FAILED;
    }
    c->messages = m;
    m[c->n++] = (struct chat_message){.role = role, .content = content};
    return EXIT_OK;
}

static void chat_forget(struct chat *c, size_t n)
{
    while (c->n > n)
        free((char *)c->messages[--c->n].content);
}

/* Answer the conversation so far; the answer joins it. */
static int chat_turn(struct front *f, struct chat *c)
{
    int32_t *ids;
    size_t n_ids;
    const int err = tok_chat_encode(f->model.tok, c->messages, c->n, true, &ids, &n_ids);
    if (err < 0) {
        log_error("cannot tokenize the conversation: %s", strerror(-err));
        return EXIT_FAILED;
    }
    struct generation g = {
        .tok = f->model.tok,
        .stream = stdout,
        .n_predict = f->o->n_predict,
        .sampler = f->o->sampler,
        .prompt_ids = ids,
        .n_prompt = (uint32_t)n_ids,
    };

    int rc = EXIT_OK;
    if (g.n_prompt >= f->engine->info->n_ctx) {
        log_error(
            "the conversation (%u tokens) no longer fits the context (%u): /clear starts anew",
            g.n_prompt, f->engine->info->n_ctx);
        chat_forget(c, c->n - 1);
    } else {
        rc = run_one(f, &g);
        putchar('\n');
        fflush(stdout);
        if (rc == EXIT_INTERRUPTED && signals_only_interrupts()) {
            signals_forget(); /* ^C ends the answer, not the chat */
            rc = EXIT_OK;
        }
        if (rc == EXIT_OK) {
            report_run_line(f, &g);
            rc = chat_add(c, "assistant", generation_take_text(&g));
        }
    }
    generation_free(&g);
    free(ids);
    return rc;
}

/* Until there is something to read: meanwhile the cloud is told that we are still here. EXIT_OK, or
 * EXIT_FAILED when it is lost. */
static int await_input(struct front *f)
{
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    while (!signals_caught() && poll(&in, 1, IDLE_MS) == 0)
        if (step(f) < 0) {
            abandon(f);
            return EXIT_FAILED;
        }
    return EXIT_OK; /* also for a signal: reading ends by it, too */
}

static int answer_chat(struct front *f)
{
    setvbuf(stdin, NULL, _IONBF, 0); /* what is there to read is in the kernel, for poll to see */
    const bool terminal = isatty(STDIN_FILENO);
    if (terminal)
        log_info("a chat: ^D ends it, ^C an answer, /clear forgets what was said");
    struct chat c = {0};
    char *line = NULL;
    size_t cap = 0;
    int rc = EXIT_OK;
    while (rc == EXIT_OK) {
        if (terminal) {
            fputs("> ", stdout);
            fflush(stdout);
        }
        rc = await_input(f);
        if (rc != EXIT_OK || signals_caught())
            break;
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0)
            break;
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            line[--n] = '\0';
        if (n == 0)
            continue;
        if (strcmp(line, "/clear") == 0) {
            chat_forget(&c, 0);
            continue;
        }
        rc = chat_add(&c, "user", strdup(line));
        if (rc == EXIT_OK)
            rc = chat_turn(f, &c);
    }
    if (terminal)
        putchar('\n');
    free(line);
    chat_forget(&c, 0);
    free(c.messages);
    return rc == EXIT_OK && signals_caught() ? EXIT_INTERRUPTED : rc;
}

int front_answer(struct front *f)
{
    signals_catch();
    int rc;
    if (f->o->requests)
        rc = answer_requests(f);
    else if (f->o->prompt)
        rc = answer_prompt(f);
    else
        rc = answer_chat(f);
    return rc == EXIT_INTERRUPTED ? 128 + signals_caught() : rc;
}
