/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/service/fake_engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct stage_info *info(const struct stage *s)
{
    const struct fake_engine *f =
        (const struct fake_engine *)((const char *)s - offsetof(struct fake_engine, stage));
    return &f->info;
}

static size_t seq_bytes(const struct stage *s, enum kv_format kv, uint32_t max_tokens)
{
    (void)s;
    return max_tokens * 10u / (1 + (size_t)kv);
}

static const struct stage_ops stage_ops = {.info = info, .seq_bytes = seq_bytes};

static int64_t submit(struct engine *e, const struct edge_request *r)
{
    struct fake_engine *f = (struct fake_engine *)e;
    const int limit = atomic_load(&f->no_room_above);
    if (f->busy == f->options.parallel || (limit && f->busy >= (uint32_t)limit))
        return -EAGAIN;
    for (unsigned i = 0; i < FAKE_SESSIONS; i++) {
        if (f->sessions[i].id)
            continue;
        f->sessions[i].id = ++f->last_id;
        f->sessions[i].r = *r;
        f->sessions[i].first = r->prompt_ids[0];
        f->sessions[i].n = 0;
        f->sessions[i].cancelled = false;
        if (++f->busy > f->most_busy)
            f->most_busy = f->busy;
        return f->last_id;
    }
    return -EAGAIN;
}

static void cancel(struct engine *e, int64_t session)
{
    struct fake_engine *f = (struct fake_engine *)e;
    for (unsigned i = 0; i < FAKE_SESSIONS; i++)
        if (f->sessions[i].id == session)
            f->sessions[i].cancelled = true;
}

static void finish(struct fake_engine *f, unsigned i, enum edge_finish how)
{
    const struct edge_request r = f->sessions[i].r;
    struct edge_result result = {
        .finish = how, .n_prompt = r.n_prompt, .n_generated = f->sessions[i].n};
    if (how == EDGE_LOST)
        strcpy(result.error, "the cloud is lost");
    f->sessions[i].id = 0;
    f->busy--;
    r.on_done(r.arg, &result);
}

static int step(struct engine *e, uint64_t until_ns)
{
    struct fake_engine *f = (struct fake_engine *)e;
    bool any = false;
    atomic_fetch_add(&f->steps, 1);
    const bool fails = atomic_load(&f->fails);
    for (unsigned i = 0; i < FAKE_SESSIONS; i++) {
        if (!f->sessions[i].id)
            continue;
        if (fails) {
            finish(f, i, EDGE_LOST);
        } else if (f->sessions[i].cancelled) {
            finish(f, i, EDGE_CANCELLED);
            any = true;
        } else if (!atomic_load(&f->held)) {
            const struct edge_request r = f->sessions[i].r;
            const uint32_t n = ++f->sessions[i].n;
            any = true;
            static const struct sampler_top tops[SAMPLER_TOP_MAX];
            const int32_t id = (f->sessions[i].first + (int32_t)n) % (int32_t)FAKE_VOCAB;
            r.on_token(r.arg, &(struct token_sample){id, -.5f, r.n_top, tops});
            if (n == r.n_predict)
                finish(f, i, EDGE_LENGTH);
        }
    }
    if (fails)
        return -EPIPE;
    if (!any && (f->busy || e->stays))
        port_rest(until_ns);
    return (int)f->busy;
}

static const char *error(const struct engine *e)
{
    (void)e;
    return "the cloud is lost";
}

static void stats(const struct engine *e, struct engine_stats *s)
{
    const struct fake_engine *f = (const struct fake_engine *)e;
    *s = (struct engine_stats){.port = "fake", .cipher = "none", .ready = !atomic_load(&f->apart)};
}

static void close_engine(struct engine *e)
{
    struct fake_engine *f = (struct fake_engine *)e;
    for (unsigned i = 0; i < FAKE_SESSIONS; i++)
        if (f->sessions[i].id)
            finish(f, i, EDGE_CANCELLED);
}

static bool session(const struct engine *e, int64_t id, struct engine_session *out)
{
    const struct fake_engine *f = (const struct fake_engine *)e;
    for (unsigned i = 0; i < FAKE_SESSIONS; i++)
        if (f->sessions[i].id == id) {
            const int own = (int)f->sessions[i].r.kv - 1, asked = atomic_load(&f->kv_asked);
            *out = (struct engine_session){.kv = (enum kv_format)(asked > own ? asked : own),
                                           .tile_bytes_up = f->sessions[i].n * 100u,
                                           .rows_up = f->sessions[i].n,
                                           .worker = "fake"};
            return true;
        }
    return false;
}

static const struct engine_ops ops = {
    .submit = submit,
    .cancel = cancel,
    .step = step,
    .error = error,
    .stats = stats,
    .close = close_engine,
    .session = session,
};

void fake_engine_open(struct fake_engine *f, uint32_t parallel)
{
    *f = (struct fake_engine){.base = {.ops = &ops}};
    f->stage.ops = &stage_ops;
    f->info = (struct stage_info){.n_ctx = FAKE_CTX,
                                  .n_vocab = FAKE_VOCAB,
                                  .kv_formats = (1u << KV_FORMATS) - 1,
                                  .kv_budget_bytes = (FAKE_CTX - 4) * 10u};
    f->base.info = &f->info;
    f->options.parallel = parallel;
    f->front = (struct front){.o = &f->options, .stage = &f->stage, .engine = &f->base};
}
