/* SPDX-License-Identifier: Apache-2.0 */
/* Where panels lie, and whether they stay there. */
#include <linux/capability.h>
#include <linux/mempolicy.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"
#include "compute/kernels/kernels.h"

#define NOBODY   65534
#define REGION   ((size_t)256 << 20) /* what mem.c reserves at once */
#define NOT_HERE 77

/* The policy of the page at p. */
static int policy_at(void *p, struct team_nodes *nodes)
{
    int mode = -1;

    memset(nodes, 0, sizeof *nodes);
    if (syscall(SYS_get_mempolicy, &mode, nodes->bits, (unsigned long)TEAM_NODES_MAX, p,
                MPOL_F_ADDR))
        return -errno;
    return mode;
}

static void test_binds(void **state)
{
    const struct team_nodes anywhere = {.n = 0}, here = {.bits = {1}, .n = 1};
    struct team_nodes got;
    size_t bytes = REGION + 1; /* a region of its own each time */
    int rc = kernels_mem_place(&here);

    if (rc == -EPERM || rc == -ENOSYS)
        skip(); /* this container forbids it */
    assert_int_equal(rc, 0);
    char *p = kernels_mem_alloc(bytes);
    assert_non_null(p);
    p[0] = p[bytes - 1] = 1;
    assert_int_equal(policy_at(p, &got), MPOL_PREFERRED);
    assert_int_equal(got.bits[0], 1);
    assert_int_equal(policy_at(p + bytes - 1, &got), MPOL_PREFERRED);
    kernels_mem_free(p, bytes);

    /* A machine that is not this one: said, and then as if nothing had been asked for. */
    struct team_nodes nowhere = {.n = 1};
    nowhere.bits[TEAM_NODES_MAX / (8 * sizeof nowhere.bits[0]) - 1] = 1ul << 62;
    assert_true(kernels_mem_place(&nowhere) < 0);
    p = kernels_mem_alloc(bytes);
    assert_non_null(p);
    assert_int_equal(policy_at(p, &got), MPOL_DEFAULT);
    kernels_mem_free(p, bytes);

    /* Several take turns: a kernel drops those that are not there. */
    struct team_nodes two = {.bits = {3}, .n = 2};
    assert_int_equal(kernels_mem_place(&two), 0);
    p = kernels_mem_alloc(bytes);
    assert_non_null(p);
    assert_int_equal(policy_at(p, &got), MPOL_INTERLEAVE);
    kernels_mem_free(p, bytes);

    assert_int_equal(kernels_mem_place(&anywhere), 0);
    p = kernels_mem_alloc(bytes);
    assert_non_null(p);
    assert_int_equal(policy_at(p, &got), MPOL_DEFAULT);
    kernels_mem_free(p, bytes);
}

static size_t locked_kb(void)
{
    char line[128];
    size_t kb = 0;
    FILE *f = fopen("/proc/self/status", "re");

    while (f && fgets(line, sizeof line, f))
        sscanf(line, "VmLck: %zu kB", &kb);
    if (f)
        fclose(f);
    return kb;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1 /* sanitizers make munlock do nothing */
#else
#define SANITIZED 0
#endif

static void test_locks(void **state)
{
    const size_t bytes = 5 << 20;
    struct rlimit l = {RLIM_INFINITY, RLIM_INFINITY};
    size_t locked;

    if (SANITIZED)
        skip();
    if (setrlimit(RLIMIT_MEMLOCK, &l) && getrlimit(RLIMIT_MEMLOCK, &l) == 0 &&
        l.rlim_cur < 4 * bytes && geteuid() != 0)
        skip();
    char *a = kernels_mem_alloc(bytes), *b = kernels_mem_alloc(bytes);
    memset(a, 1, bytes);
    memset(b, 2, bytes);
    assert_int_equal(kernels_mem_lock(&locked), 0);
    assert_true(locked >= 2 * bytes && locked <= 2 * bytes + (2 << 20));
    assert_int_equal(locked_kb(), locked >> 10);
    assert_int_equal(kernels_mem_lock(&locked), 0); /* again: no more */
    assert_int_equal(locked_kb(), locked >> 10);

    kernels_mem_free(b, bytes); /* given back, though it was locked */
    assert_true(locked_kb() <= (locked - bytes) / 1024 + 8);
    assert_int_equal(b[bytes / 2], 0);
    assert_int_equal(a[bytes - 1], 1);
    kernels_mem_free(a, bytes);
    assert_int_equal(locked_kb(), 0);
}

/* As a user whose limit is too low. */
static int lock_as_nobody(void)
{
    const size_t bytes = 5 << 20;
    struct rlimit l = {1 << 20, 1 << 20};
    size_t locked = 0;

    if (setrlimit(RLIMIT_MEMLOCK, &l))
        return NOT_HERE;
    if (geteuid() == 0 && (setgid(NOBODY) || setuid(NOBODY)))
        return NOT_HERE;
    char *p = kernels_mem_alloc(bytes);
    if (!p)
        return 1;
    memset(p, 3, bytes);
    if (kernels_mem_lock(&locked) != -ENOMEM || locked < bytes)
        return 2;
    if (p[bytes - 1] != 3) /* and goes on */
        return 3;
    kernels_mem_free(p, bytes);
    return locked_kb() != 0;
}

static void test_says_that_it_cannot_lock(void **state)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0)
        _exit(lock_as_nobody());
    assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == NOT_HERE)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_binds),
        cmocka_unit_test(test_locks),
        cmocka_unit_test(test_says_that_it_cannot_lock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
