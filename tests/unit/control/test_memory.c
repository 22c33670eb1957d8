/* SPDX-License-Identifier: Apache-2.0 */
/* How much memory there is, as a /proc and /sys of our own say it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/account.h"
#include "control/memory.h"

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

/* What is ours counts as there, what we take from then on does not. */
static void test_for_us(void **state)
{
    const size_t more = 64u << 20;
    const uint64_t before = memory_for_us(), there = memory_there(),
                   ours = process_memory("RssAnon");

    assert_true(ours > 0 && before > 0);
    assert_true(before > there / 10 * 9 && before < there / 10 * 11 + ours);
    char *taken = malloc(more);
    assert_non_null(taken);
    memset(taken, 1, more);
    assert_true(process_memory("RssAnon") > ours + more / 2);
    assert_true(memory_for_us() <= memory_there() + ours + more / 4);
    free(taken);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_system),
        cmocka_unit_test(test_cgroup_v2),
        cmocka_unit_test(test_cgroup_v1),
        cmocka_unit_test(test_for_us),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
