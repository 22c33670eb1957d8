/* SPDX-License-Identifier: Apache-2.0 */
#include "control/adapt/show.h"

static json_t *ms(uint64_t ns)
{
    return ns ? json_real((double)ns / 1e6) : json_null();
}

json_t *adapt_show_json(const struct steer_view *v)
{
    const struct adapt_choice *c = &v->choice;
    if (!v->on)
        return json_null();
    json_t *o = json_pack("{s:i, s:i, s:f, s:f, s:i, s:i, s:b}", "level", (int)c->level, "coarsest",
                          (int)v->levels - 1, "parameter", (double)c->parameter, "bytes_per_token",
                          c->bytes, "chunk_tokens", (int)c->chunk_tokens, "rows_beside_decode",
                          (int)c->bulk_rows, "holds", c->holds);
    const struct {
        const char *name;
        json_t *value;
    } values[] = {
        {"quality_kl", v->calibrated ? json_real(c->kl) : json_null()},
        {"max_tpot_ms", ms(v->max_tpot_ns)},
        {"max_ttft_ms", ms(v->max_ttft_ns)},
        {"tpot_ms", ms(c->tpot_ns)},
        {"ttft_ms", ms(c->ttft_ns)},
        {"floor", json_integer((json_int_t)v->floor)},
        {"changes", json_integer((json_int_t)v->changes)},
        {"tokens", json_integer((json_int_t)v->tokens)},
        {"late_tokens", json_integer((json_int_t)v->late)},
        {"prompts", json_integer((json_int_t)v->prompts)},
        {"late_prompts", json_integer((json_int_t)v->late_prompts)},
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        json_object_set_new(o, values[i].name, values[i].value);
    return o;
}
