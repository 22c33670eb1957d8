/* SPDX-License-Identifier: Apache-2.0 */
/* How much memory there is, as a /proc and /sys of our own say it, and what fits in so much. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/memory.h"
#include "tests/unit/stage/tiny_model.h"

/* --- what is there --------------------------------------------------------------------------- */

static char root[] = "/tmp/isthmus-memory-XXXXXX";

static void write_at(const char *name, const char *text)
{
    char path[512];

    snprintf(path, sizeof(path), "%s/%s", root, name);
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void new_root(void)
{
    strcpy(root + strlen(root) - 6, "XXXXXX");
    assert_non_null(mkdtemp(root));
}

static void drop_root(void)
{
    char command[64];

    snprintf(command, sizeof(command), "rm -r %s", root);
    assert_int_equal(system(command), 0);
}

static void test_system(void **state)
{
    new_root();
    assert_int_equal(memory_there_under(root), 0); /* unknown */
    write_at("proc/meminfo", "MemTotal:  24684092 kB\nMemAvailable:   1000 kB\nSwapFree: 5 kB\n");
    assert_int_equal(memory_there_under(root), 1000 * 1024);
    write_at("proc/self/cgroup", "0::/\n"); /* no limits at the top */
    assert_int_equal(memory_there_under(root), 1000 * 1024);
    drop_root();
    assert_true(memory_there() > 0);
}

static void test_cgroup_v2(void **state)
{
    new_root();
    write_at("proc/meminfo", "MemAvailable: 1000000 kB\n");
    write_at("proc/self/cgroup", "0::/user/app\n");
    write_at("sys/fs/cgroup/user/app/memory.max", "max\n");
    write_at("sys/fs/cgroup/user/app/memory.current", "5000\n");
    assert_int_equal(memory_there_under(root), UINT64_C(1024000000));
    write_at("sys/fs/cgroup/user/memory.max", "100000000\n"); /* of the one above */
    write_at("sys/fs/cgroup/user/memory.current", "60000000\n");
    assert_int_equal(memory_there_under(root), 40000000);
    write_at("sys/fs/cgroup/user/memory.stat",
             "anon 30000000\ninactive_file 7000000\nactive_file 3000000\n"
             "inactive_file_more 999\n");
    assert_int_equal(memory_there_under(root), 50000000);
    write_at("sys/fs/cgroup/user/app/memory.max", "6000\n");
    assert_int_equal(memory_there_under(root), 1000);
    write_at("sys/fs/cgroup/user/app/memory.max", "4000\n"); /* over it already */
    write_at("sys/fs/cgroup/user/memory.max", "max\n");
    assert_int_equal(memory_there_under(root), 0);
    drop_root();
}

static void test_cgroup_v1(void **state)
{
    new_root();
    write_at("proc/meminfo", "MemAvailable: 1000000 kB\n");
    write_at("proc/self/cgroup",
             "9:name=systemd:/memory\n5:cpu,cpuacct:/\n4:memory:/docker/0123\n0::/\n");
    write_at("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    write_at("sys/fs/cgroup/memory/memory.usage_in_bytes", "70000\n");
    assert_int_equal(memory_there_under(root), UINT64_C(1024000000));
    write_at("sys/fs/cgroup/memory/docker/0123/memory.limit_in_bytes", "90000\n");
    write_at("sys/fs/cgroup/memory/docker/0123/memory.usage_in_bytes", "50000\n");
    write_at("sys/fs/cgroup/memory/docker/0123/memory.stat",
             "inactive_file 1\ntotal_inactive_file 10000\ntotal_active_file 1000\n");
    assert_int_equal(memory_there_under(root), 51000);
    /* In a container the path is the host's, the mount the container's. */
    write_at("proc/self/cgroup", "4:memory:/elsewhere\n");
    write_at("sys/fs/cgroup/memory/memory.limit_in_bytes", "90000\n");
    assert_int_equal(memory_there_under(root), 20000);
    write_at("proc/self/cgroup", "4:memory\n:\n\n4:memory:\n"); /* no path: the top */
    assert_int_equal(memory_there_under(root), 20000);
    drop_root();
}

/* --- what fits ------------------------------------------------------------------------------- */

static struct gguf *model;
static char *path;

static int open_model(void **state)
{
    char err[GGUF_ERR];

    path = tiny_write(&(struct tiny_params){.arch = "llama"});
    return gguf_open(path, &model, err);
}

static int close_model(void **state)
{
    gguf_close(model);
    unlink(path);
    free(path);
    return 0;
}

static size_t need(struct stage_params p)
{
    char err[GGUF_ERR];
    size_t weights, kv;

    assert_int_equal(stage_footprint(model, &p, 0, &weights, &kv, err), 0);
    return weights + kv + MEMORY_REST_BYTES;
}

static void test_fits(void **state)
{
    const struct stage_params whole = {0};
    char line[MEMORY_LINE] = "";

    assert_int_equal(memory_fits(model, &whole, TINY_LAYERS, need(whole), line), 0);
    assert_string_equal(line, "");
    assert_int_equal(memory_fits(model, &whole, TINY_LAYERS, need(whole) - 1, line), -ENOMEM);
    assert_non_null(strstr(line, path));
    assert_non_null(strstr(line, "layers 0 to 2 need 40."));
    assert_non_null(strstr(line, " MB are there: "));
}

static void test_split_that_fits(void **state)
{
    char line[MEMORY_LINE], want[32];

    for (uint32_t split = 1; split < TINY_LAYERS; split++) {
        const struct stage_params edge = {.end_layer = split}, cloud = {.first_layer = split},
                                  more = {.first_layer = split - 1};
        snprintf(want, sizeof(want), "--split %u is the most", split);
        assert_int_equal(
            memory_fits(model, &(struct stage_params){0}, TINY_LAYERS, need(edge), line), -ENOMEM);
        assert_non_null(strstr(line, want));
        if (split == 1)
            continue;
        snprintf(want, sizeof(want), "--split %u is the least", split);
        assert_int_equal(memory_fits(model, &more, TINY_LAYERS, need(cloud), line), -ENOMEM);
        assert_non_null(strstr(line, want));
    }
    assert_int_equal(memory_fits(model, &(struct stage_params){0}, TINY_LAYERS, 1000, line),
                     -ENOMEM);
    assert_non_null(strstr(line, "no part of it fits"));
    assert_null(strstr(line, "--"));
}

/* The longest sequence is what does not fit: a shorter one would. */
static void test_ctx_that_fits(void **state)
{
    const struct tiny_params long_ctx = {.arch = "llama", .key = "context_length", .value = 16384};
    const struct stage_params full = {.n_ctx = 0}, shorter = {.n_ctx = 2048};
    char line[MEMORY_LINE], err[GGUF_ERR], *tiny_path = path;
    struct gguf *tiny = model;

    path = tiny_write(&long_ctx);
    assert_int_equal(gguf_open(path, &model, err), 0);
    assert_true(need(shorter) < need(full));
    assert_int_equal(memory_fits(model, &full, TINY_LAYERS, need(shorter), line), -ENOMEM);
    assert_non_null(strstr(line, "--ctx 2048 would fit"));
    close_model(state);
    path = tiny_path;
    model = tiny;
}

/* Keys and values never take more than their budget. */
static void test_budget_that_fits(void **state)
{
    const size_t whole = need((struct stage_params){0});
    char line[MEMORY_LINE], err[GGUF_ERR];
    size_t weights, kv;

    assert_int_equal(stage_footprint(model, &(struct stage_params){0}, 0, &weights, &kv, err), 0);
    for (size_t budget = kv - 1; budget <= kv + 1; budget++) {
        const struct stage_params p = {.kv_budget_bytes = budget};
        const size_t least = whole - (budget < kv ? kv - budget : 0);
        assert_int_equal(memory_fits(model, &p, TINY_LAYERS, least, line), 0);
        assert_int_equal(memory_fits(model, &p, TINY_LAYERS, least - 1, line), -ENOMEM);
    }
}

/* A cache without a budget gets what is there, if that is not enough for all. */
static void test_cache_without_budget(void **state)
{
    const struct stage_params p = {.max_seqs = 5};
    const size_t one = need(p);
    char err[GGUF_ERR];
    size_t weights, kv;

    assert_int_equal(stage_footprint(model, &p, 0, &weights, &kv, err), 0);
    assert_int_equal(memory_cache(model, &p, one + 4 * kv), 0);
    assert_int_equal(memory_cache(model, &p, one + 4 * kv - 1), 5 * kv - 1);
    assert_int_equal(memory_cache(model, &p, one + 1), kv + 1);
    assert_int_equal(memory_cache(model, &p, one - 1), kv); /* --no-memory-check */
    assert_int_equal(memory_cache(model, &p, 1), kv);
}

/* What is wrong with the model itself is for stage_open to say. */
static void test_model_errors_pass(void **state)
{
    char line[MEMORY_LINE] = "";
    const struct stage_params beyond = {.end_layer = 99};

    assert_int_equal(memory_fits(model, &beyond, TINY_LAYERS, 1, line), -ERANGE);
    assert_string_equal(line, "");
}

static void test_skip(void **state)
{
    char line[MEMORY_LINE] = "";
    uint64_t there;

    assert_int_equal(memory_check(model, &(struct stage_params){0}, TINY_LAYERS, &there, line), 0);
    assert_true(there > 0);
    memory_check_skip();
    assert_int_equal(memory_check(model, &(struct stage_params){0}, TINY_LAYERS, &there, line), 0);
    assert_true(there > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_system),
        cmocka_unit_test(test_cgroup_v2),
        cmocka_unit_test(test_cgroup_v1),
        cmocka_unit_test(test_fits),
        cmocka_unit_test(test_split_that_fits),
        cmocka_unit_test(test_ctx_that_fits),
        cmocka_unit_test(test_budget_that_fits),
        cmocka_unit_test(test_cache_without_budget),
        cmocka_unit_test(test_model_errors_pass),
        cmocka_unit_test(test_skip),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
