/* SPDX-License-Identifier: Apache-2.0 */
#include "control/account.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/log.h"
#include "dataplane/pipeline/proto.h"

static const char *const names[ACCOUNT_TERMS] = {
    [ACCOUNT_WEIGHTS] = "weights", [ACCOUNT_KV] = "kv cache",       [ACCOUNT_SCRATCH] = "scratch",
    [ACCOUNT_LOGITS] = "logits",   [ACCOUNT_HISTORY] = "histories", [ACCOUNT_PACKETS] = "packets",
    [ACCOUNT_DPDK] = "DPDK",       [ACCOUNT_PROGRAM] = "program",   [ACCOUNT_HEAP] = "heap beside",
    [ACCOUNT_REST] = "the rest",
};

static uint64_t program_bytes, heap_before;

/* Of all arenas, in use or not, and what malloc mapped by itself. */
static uint64_t heap_bytes(void)
{
    const struct mallinfo2 m = mallinfo2();
    return m.arena + m.hblkhd;
}

const char *account_name(enum account_term t)
{
    return names[t];
}

uint64_t process_memory(const char *key)
{
    char line[256];
    uint64_t bytes = 0;
    const size_t n = strlen(key);
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, key, n) == 0 && line[n] == ':')
            bytes = strtoull(line + n + 1, NULL, 10) * 1024;
    if (f)
        fclose(f);
    return bytes;
}

void account_begin(void)
{
    program_bytes = process_memory("RssAnon");
    heap_before = heap_bytes();
}

void account_less(uint64_t bytes)
{
    program_bytes -= bytes < program_bytes ? bytes : program_bytes;
    heap_before = heap_before > bytes ? heap_before - bytes : 0;
}

void account_take(const struct account_source *s, struct account *a)
{
    *a = (struct account){
        .resident_bytes = process_memory("VmRSS"),
        .peak_bytes = process_memory("VmHWM"),
        .locked_bytes = process_memory("VmLck"),
        .budget_bytes = s->budget_bytes,
        .kv_busy_bytes = s->kv_busy_bytes,
        .busy = s->busy,
        .history_busy_bytes = s->history_busy_bytes,
    };
    uint64_t *bytes = a->bytes, *limits = a->limits;
    if (s->stage) {
        const struct stage_info *info = stage_info(s->stage);
        bytes[ACCOUNT_WEIGHTS] = info->weights_bytes;
        bytes[ACCOUNT_KV] = info->kv_bytes;
        limits[ACCOUNT_KV] = info->kv_budget_bytes;
        bytes[ACCOUNT_SCRATCH] = info->scratch_bytes;
        a->kv_reserved_bytes = info->kv_reserved_bytes;
        a->kv_shared_bytes = info->kv_shared_bytes;
        a->kv_format = info->kv_format;
    }
    bytes[ACCOUNT_LOGITS] = s->logits_bytes;
    bytes[ACCOUNT_HISTORY] = s->history_bytes;
    limits[ACCOUNT_HISTORY] = s->history_limit_bytes;
    /* EAL's account has the pools of DPDK's ports in it. */
    bytes[ACCOUNT_DPDK] = s->dpdk_bytes;
    for (uint32_t i = 0; i < s->n_ports && !bytes[ACCOUNT_DPDK]; i++) {
        const struct pkt_pool *pool = s->ports[i] ? s->ports[i]->pool : NULL;
        if (!pool)
            continue;
        bytes[ACCOUNT_PACKETS] += (uint64_t)pool->n_touched * pool->room;
        limits[ACCOUNT_PACKETS] += (uint64_t)pool->n_total * pool->room;
    }
    /* Code is resident as it is used, and is used more and more. */
    bytes[ACCOUNT_PROGRAM] = program_bytes + process_memory("RssFile");
    const uint64_t counted = heap_before + bytes[ACCOUNT_SCRATCH] + bytes[ACCOUNT_LOGITS] +
                             bytes[ACCOUNT_HISTORY] + bytes[ACCOUNT_PACKETS];
    const uint64_t heap = heap_bytes();
    bytes[ACCOUNT_HEAP] = heap > counted ? heap - counted : 0;
    const uint64_t known = account_known(a);
    bytes[ACCOUNT_REST] = a->resident_bytes > known ? a->resident_bytes - known : 0;
}

uint64_t account_known(const struct account *a)
{
    uint64_t sum = 0;
    for (int i = 0; i < ACCOUNT_REST; i++)
        sum += a->bytes[i];
    return sum;
}

uint64_t account_most(const struct account *a)
{
    uint64_t sum = 0;
    for (int i = 0; i < ACCOUNT_TERMS; i++)
        sum += a->limits[i] > a->bytes[i] ? a->limits[i] : a->bytes[i];
    return sum;
}

json_t *account_json(const struct account *a)
{
    json_t *list = json_array();
    for (int i = 0; i < ACCOUNT_TERMS; i++) {
        json_t *o = json_pack("{s:s, s:I}", "what", names[i], "bytes", (json_int_t)a->bytes[i]);
        json_object_set_new(o, "limit_bytes",
                            a->limits[i] ? json_integer((json_int_t)a->limits[i]) : json_null());
        json_array_append_new(list, o);
    }
    json_t *o = json_pack("{s:I, s:I, s:I, s:I, s:I, s:s, s:I, s:o}", "rss_bytes",
                          (json_int_t)a->resident_bytes, "peak_rss_bytes",
                          (json_int_t)a->peak_bytes, "locked_bytes", (json_int_t)a->locked_bytes,
                          "kv_reserved_bytes", (json_int_t)a->kv_reserved_bytes, "kv_shared_bytes",
                          (json_int_t)a->kv_shared_bytes, "kv_format", kv_format_name(a->kv_format),
                          "known_bytes", (json_int_t)account_known(a), "items", list);
    json_object_set_new(o, "budget_bytes",
                        a->budget_bytes ? json_integer((json_int_t)a->budget_bytes) : json_null());
    return o;
}

void account_print(const struct account *a)
{
    log_info("memory: %.1f MB resident, %.1f at the peak", (double)a->resident_bytes * 1e-6,
             (double)a->peak_bytes * 1e-6);
    if (a->budget_bytes)
        log_info("memory: %8.1f MB budget, %.1f the most that all may come to",
                 (double)a->budget_bytes * 1e-6, (double)account_most(a) * 1e-6);
    for (int i = 0; i < ACCOUNT_TERMS; i++) {
        char limit[40] = "";
        if (a->limits[i])
            snprintf(limit, sizeof limit, " (at most %.1f)", (double)a->limits[i] * 1e-6);
        log_info("memory: %8.1f MB %s%s", (double)a->bytes[i] * 1e-6, names[i], limit);
    }
}

uint64_t account_logits(uint32_t d_model, uint32_t n_vocab, uint32_t max_rows, uint32_t sessions)
{
    const uint64_t wanted = proto_wanted_rows(sessions, max_rows);
    return (uint64_t)max_rows * d_model * 4 + wanted * n_vocab * 4;
}

uint64_t account_hidden(uint32_t d_model, uint32_t max_rows, uint32_t sessions)
{
    return (uint64_t)proto_wanted_rows(sessions, max_rows) * d_model * 4;
}
