/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "dataplane/port/doorbell.h"

static bool rings(const struct bell *b)
{
    struct pollfd p = {.fd = bell_fd(b), .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

/* The other side's view, as if its descriptors had come over a socket. */
static void adopt(const struct bell *a, struct bell *b)
{
    int fds[BELL_FDS];
    bell_fds(a, fds);
    for (int i = 0; i < BELL_FDS; i++)
        fds[i] = dup(fds[i]);
    assert_int_equal(bell_adopt(b, 1, fds), 0);
}

static void only_a_sleeper_is_rung(void **state)
{
    struct bell a, b;
    assert_int_equal(bell_create(&a, 0), 0);
    adopt(&a, &b);
    bell_ring(&a);
    assert_false(rings(&b));
    bell_before_sleep(&b);
    assert_false(rings(&b));
    bell_ring(&a);
    assert_true(rings(&b));
    assert_false(rings(&a));
    bell_after_sleep(&b);
    assert_false(rings(&b));
    bell_ring(&a);
    assert_false(rings(&b));
    bell_before_sleep(&a);
    bell_ring(&b);
    assert_true(rings(&a));
    bell_close(&b);
    bell_close(&a);
}

static void garbage_in_the_page_harms_nobody(void **state)
{
    struct bell a, b;
    int fds[BELL_FDS];
    assert_int_equal(bell_create(&a, 0), 0);
    adopt(&a, &b);
    bell_fds(&a, fds);
    uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
    assert_true(page != MAP_FAILED);
    for (int i = 0; i < 2000; i++) {
        for (int k = 0; k < 4096; k++)
            page[k] = (uint8_t)rand();
        bell_ring(&a);
        bell_before_sleep(&a);
        bell_after_sleep(&a);
        bell_shares_cpu(&a);
        bell_ring(&b);
    }
    munmap(page, 4096);
    bell_close(&b);
    bell_close(&a);
}

static void a_page_that_could_shrink_is_refused(void **state)
{
    for (int i = 0; i < 5; i++) {
        struct bell a, b;
        int fds[BELL_FDS];
        assert_int_equal(bell_create(&a, 0), 0);
        bell_fds(&a, fds);
        for (int k = 1; k < BELL_FDS; k++)
            fds[k] = dup(fds[k]);
        fds[0] = i == 4 ? open("/dev/zero", O_RDWR) : memfd_create("page", MFD_ALLOW_SEALING);
        if (i < 4)
            assert_int_equal(ftruncate(fds[0], i == 0 ? 100 : 4096), 0);
        if (i == 0) /* sealed, but too short */
            assert_int_equal(fcntl(fds[0], F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
        if (i == 1) /* can only grow */
            assert_int_equal(fcntl(fds[0], F_ADD_SEALS, F_SEAL_GROW), 0);
        if (i == 3) /* cannot be mapped for writing */
            assert_int_equal(fcntl(fds[0], F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE), 0);
        assert_true(bell_adopt(&b, 1, fds) < 0);
        assert_int_equal(fcntl(fds[0], F_GETFD), -1); /* it took them, and closed them */
        bell_close(&a);
    }
}

static void what_the_creator_makes_cannot_shrink(void **state)
{
    struct bell a;
    int fds[BELL_FDS];
    assert_int_equal(bell_create(&a, 0), 0);
    bell_fds(&a, fds);
    assert_int_equal(ftruncate(fds[0], 0), -1);
    bell_close(&a);
    bell_close(&a); /* twice is once */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_a_sleeper_is_rung),
        cmocka_unit_test(garbage_in_the_page_harms_nobody),
        cmocka_unit_test(a_page_that_could_shrink_is_refused),
        cmocka_unit_test(what_the_creator_makes_cannot_shrink),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
