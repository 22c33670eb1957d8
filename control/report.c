/* SPDX-License-Identifier: Apache-2.0 */
#include "control/report.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/adapt/show.h"
#include "control/cmd.h"
#include "control/codec_arg.h"
#include "control/log.h"
#include "control/profile.h"
#include "control/quality_arg.h"
#include "control/utf8.h"
#include "dataplane/secure/aead.h"

static void set(json_t *o, const char *key, json_t *value)
{
    json_object_set_new(o, key, value);
}

/* Rounded to a millionth: what a clock or a quotient of counters can mean. */
static json_t *real(double v)
{
    return json_real(round(v * 1e6) / 1e6);
}

static json_t *ids_json(const int32_t *ids, uint32_t n)
{
    json_t *a = json_array();
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(a, json_integer(ids[i]));
    return a;
}

/* JSON is UTF-8: bytes of the answer that are not become U+FFFD. */
static json_t *text_json(const char *text, size_t n)
{
    size_t n_clean = 0;
    char *clean = utf8_clean(text, n, &n_clean);
    json_t *v = clean ? json_stringn(clean, n_clean) : NULL;
    free(clean);
    return v;
}

static int print(json_t *o)
{
    const int rc = json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(12));
    json_decref(o);
    if (rc < 0 || putchar('\n') == EOF || fflush(stdout) == EOF) {
        log_error("cannot write the result");
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

static double ratio(uint64_t a, uint64_t b)
{
    return b ? (double)a / (double)b : 0;
}

static double bits_per_value(const struct front *f, const struct engine_stats *s)
{
    return 8 * ratio(s->tile_bytes_up, s->rows_up * f->engine->info->d_model);
}

/* JSON has no infinity: a logit that is one gives null. */
static json_t *logprob_json(float v)
{
    return isfinite(v) ? real((double)v) : json_null();
}

/* [{"id", "logprob", "top": [[id, logprob], ...]}, ...] */
static json_t *logprobs_json(const struct generation *g)
{
    json_t *a = json_array();
    for (uint32_t i = 0; i < g->n_ids; i++) {
        const struct sampler_top *t = g->top + (size_t)i * g->n_top;
        json_t *one = json_object(), *top = json_array();
        for (uint32_t k = 0; k < g->n_top && t[k].id >= 0; k++) {
            json_t *pair = json_array();
            json_array_append_new(pair, json_integer(t[k].id));
            json_array_append_new(pair, logprob_json(t[k].logprob));
            json_array_append_new(top, pair);
        }
        set(one, "id", json_integer(g->ids[i]));
        set(one, "logprob", logprob_json(g->logprobs[i]));
        set(one, "top", top);
        json_array_append_new(a, one);
    }
    return a;
}

static void set_answer(json_t *o, const struct generation *g)
{
    set(o, "text", text_json(g->text, g->n_text));
    set(o, "prompt_ids", ids_json(g->prompt_ids, g->n_prompt));
    set(o, "ids", ids_json(g->ids, g->n_ids));
    if (g->n_top)
        set(o, "logprobs", logprobs_json(g));
    set(o, "shared_tokens", json_integer(g->result.n_shared));
    set(o, "finish", json_string(generation_finish_name(g)));
    set(o, "ttft_ms", real(generation_ttft_ms(g)));
    set(o, "prefill_tokens_per_s", real(generation_prefill_tokens_per_s(g)));
    set(o, "decode_tokens_per_s", real(generation_decode_tokens_per_s(g)));
    set(o, "token_gap_ms_p50", real(generation_gap_ms(g, .5)));
    set(o, "token_gap_ms_p99", real(generation_gap_ms(g, .99)));
}

/* Whose it is. */
static const char *head_of(const struct front *f)
{
    return f->engine->info->has_head ? "edge" : "cloud";
}

/* The codec with the parameter it took last under a target, else as it was given. */
static struct codec_params codec_used(const struct front *f, const struct engine_stats *s)
{
    return quality_with(&f->plan.codec, s->parameter.last);
}

static bool target_kept(const struct front *f, const struct engine_stats *s)
{
    const struct quality_outcome o = {
        .rows = s->rows_up,
        .bytes_per_token = ratio(s->tile_bytes_up, s->rows_up),
        .min = s->parameter.min,
        .max = s->parameter.max,
    };
    return quality_kept(f->plan.target, codec_rate_curve(f->plan.profile, f->plan.codec.mode), &o,
                        codec_mode_name(f->plan.codec.mode));
}

static json_t *parameter_json(float v)
{
    return v > 0 ? real((double)v) : json_null();
}

static json_t *target_json(const struct front *f, enum codec_rate_kind kind)
{
    return f->plan.target.kind == kind ? real(f->plan.target.value) : json_null();
}

/* What belongs to the run as a whole. */
static void set_run(json_t *o, struct front *f)
{
    struct engine_stats s;
    engine_stats(f->engine, &s);
    char codec[CODEC_ARG_MAX], profile[33];
    set(o, "wire_bytes_up", json_integer((json_int_t)s.wire_bytes_up));
    set(o, "wire_bytes_down", json_integer((json_int_t)s.wire_bytes_down));
    set(o, "bytes_per_token", real(ratio(s.tile_bytes_up, s.rows_up)));
    set(o, "target_bytes_per_token", target_json(f, CODEC_RATE_BYTES));
    set(o, "target_kl", target_json(f, CODEC_RATE_KL));
    set(o, "target_kept",
        f->plan.target.kind == CODEC_RATE_BYTES ? json_boolean(target_kept(f, &s)) : json_null());
    set(o, "parameter_min", parameter_json(s.parameter.min));
    set(o, "parameter_max", parameter_json(s.parameter.max));
    set(o, "wire_bytes_per_token", real(ratio(s.wire_bytes_up, s.rows_up)));
    set(o, "bits_per_value", real(bits_per_value(f, &s)));
    set(o, "link_rtt_us_p50", real((double)s.link_rtt_ns_p50 / 1e3));
    set(o, "link_mtu_bytes", s.mtu_bytes ? json_integer((json_int_t)s.mtu_bytes) : json_null());
    set(o, "mtu_falls", json_integer((json_int_t)s.mtu_falls));
    set(o, "cut_packets", json_integer((json_int_t)s.cut));
    set(o, "reconnections", json_integer((json_int_t)s.reconnections));
    set(o, "replayed_bytes", json_integer((json_int_t)s.replayed_bytes));
    set(o, "copied_bytes", json_integer((json_int_t)s.copied_bytes));
    set(o, "port_copied_bytes", json_integer((json_int_t)s.port_copied_bytes));
    set(o, "driver_copied_bytes",
        s.driver_copies ? json_integer((json_int_t)(s.wire_bytes_up + s.wire_bytes_down))
                        : json_null());
    set(o, "history_copied_bytes", json_integer((json_int_t)s.kept_bytes));
    set(o, "adaptation", adapt_show_json(&s.adapt));
    set(o, "port", json_string(s.port));
    set(o, "cipher", json_string(s.cipher));
    set(o, "split", f->plan.split ? json_integer(f->plan.split) : json_null());
    set(o, "head", f->plan.split ? json_string(head_of(f)) : json_null());
    const struct codec_params used = codec_used(f, &s);
    set(o, "codec", f->plan.split ? json_string(codec_arg_format(&used, codec)) : json_null());
    set(o, "profile",
        f->plan.codec.profile ? json_string(profile_hex(f->plan.codec.profile->hash, profile))
                              : json_null());
    set(o, "threads", json_integer(team_size(f->team)));
    set(o, "cpus", *team_cpus(f->team) ? json_string(team_cpus(f->team)) : json_null());
    set(o, "edge_rss_bytes", json_integer((json_int_t)process_rss_bytes(0)));
    set(o, "edge_eal_rss_bytes", json_integer((json_int_t)s.eal_rss_bytes));
    if (f->o->stats) {
        struct account a;
        front_account(f, &a);
        set(o, "memory", account_json(&a));
    }
    if (f->cloud.pid) {
        set(o, "cloud_rss_bytes", json_integer((json_int_t)process_rss_bytes(f->cloud.pid)));
        set(o, "cloud_eal_rss_bytes", json_integer((json_int_t)child_eal_rss_bytes(&f->cloud)));
    } else {
        set(o, "cloud_rss_bytes", json_null());
        set(o, "cloud_eal_rss_bytes", json_null());
    }
}

int report_run_json(struct front *f, const struct generation *g)
{
    json_t *o = json_object();
    set_answer(o, g);
    set_run(o, f);
    return print(o);
}

int report_result_json(unsigned line, const struct generation *g)
{
    json_t *o = json_object();
    set(o, "line", json_integer(line));
    if (g->result.error[0])
        set(o, "error", json_string(g->result.error));
    set_answer(o, g);
    set(o, "bytes_per_token", real(ratio(g->result.tile_bytes_up, g->result.rows_up)));
    return print(o);
}

int report_error_json(unsigned line, const char *error)
{
    json_t *o = json_object();
    set(o, "line", json_integer(line));
    set(o, "error", json_string(error));
    return print(o);
}

int report_totals_json(struct front *f, const struct report_totals *t)
{
    json_t *o = json_object();
    set(o, "requests", json_integer((json_int_t)t->requests));
    set(o, "failed", json_integer((json_int_t)t->failed));
    set(o, "prompt_tokens", json_integer((json_int_t)t->prompt_tokens));
    set(o, "shared_tokens", json_integer((json_int_t)t->shared_tokens));
    set(o, "tokens", json_integer((json_int_t)t->tokens));
    set(o, "seconds", real((double)t->elapsed_ns / 1e9));
    set(o, "tokens_per_s", real(1e9 * ratio(t->tokens, t->elapsed_ns)));
    set_run(o, f);
    return print(o);
}

static const char *encryption(const struct engine_stats *s, char *text, size_t n)
{
    if (strcmp(s->cipher, "none") == 0)
        return "NOT ENCRYPTED";
    snprintf(text, n, "encrypted with %s by %s", s->cipher, aead_implementation());
    return text;
}

/* ", 342 bytes a token (...), split 10+20, ..." */
static void wire_line(const struct front *f, char *buf, size_t n)
{
    if (!f->plan.split) {
        snprintf(buf, n, "not split");
        return;
    }
    struct engine_stats s;
    engine_stats(f->engine, &s);
    const struct codec_params used = codec_used(f, &s);
    char codec[CODEC_ARG_MAX], cipher[80], range[64] = "", driver[48] = "";
    if (s.parameter.min < s.parameter.max)
        snprintf(range, sizeof range, " at last, from %.3g to %.3g", (double)s.parameter.min,
                 (double)s.parameter.max);
    if (s.driver_copies)
        snprintf(driver, sizeof driver, ", %llu by its driver",
                 (unsigned long long)(s.wire_bytes_up + s.wire_bytes_down));
    target_kept(f, &s);
    const double bytes = ratio(s.tile_bytes_up, s.rows_up);
    const double f16_bytes = 2.0 * f->engine->info->d_model;
    snprintf(
        buf, n,
        "%.0f bytes/token by %s%s (%.2f bits/value, %.1fx less than f16), %.0f with headers | "
        "RTT %.1f us | %llu bytes copied on the way, %llu by the port%s | split %u+%u%s over %s, "
        "%s",
        bytes, codec_arg_format(&used, codec), range, bits_per_value(f, &s),
        bytes > 0 ? f16_bytes / bytes : 0, ratio(s.wire_bytes_up, s.rows_up),
        (double)s.link_rtt_ns_p50 / 1e3, (unsigned long long)s.copied_bytes,
        (unsigned long long)s.port_copied_bytes, driver, f->plan.split,
        f->model.n_layers - f->plan.split,
        f->engine->info->has_head ? ", the head at the edge," : "", s.port,
        encryption(&s, cipher, sizeof cipher));
}

void report_run_line(const struct front *f, const struct generation *g)
{
    char wire[384], shared[40] = "";
    wire_line(f, wire, sizeof wire);
    if (g->result.n_shared)
        snprintf(shared, sizeof shared, " (%u of them known)", g->result.n_shared);
    log_info("%u prompt tokens%s at %.1f/s, %u tokens at %.1f/s | %s", g->n_prompt, shared,
             generation_prefill_tokens_per_s(g), g->n_ids, generation_decode_tokens_per_s(g), wire);
}

void report_totals_line(const struct front *f, const struct report_totals *t)
{
    char wire[384], shared[64] = "";
    wire_line(f, wire, sizeof wire);
    if (t->shared_tokens)
        snprintf(shared, sizeof shared, "%llu of %llu prompt tokens known, ",
                 (unsigned long long)t->shared_tokens, (unsigned long long)t->prompt_tokens);
    log_info("%llu requests, %llu failed: %s%llu tokens in %.1f s, %.1f/s | %s",
             (unsigned long long)t->requests, (unsigned long long)t->failed, shared,
             (unsigned long long)t->tokens, (double)t->elapsed_ns / 1e9,
             1e9 * ratio(t->tokens, t->elapsed_ns), wire);
}
