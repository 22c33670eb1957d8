/* SPDX-License-Identifier: Apache-2.0 */
/* A driver's poll() sleeps as long as it says, but for where it must not. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "dataplane/port.h"
#include "dataplane/port/nowait.h"

#define SLEEP_MS 100

/* How long it took; *came: what it returned. */
static uint64_t asleep_ns(int fd, int *came)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    const uint64_t start_ns = port_now_ns();

    *came = poll(&p, 1, SLEEP_MS);
    return port_now_ns() - start_ns;
}

static void does_not_sleep(void **state)
{
    const int fd = eventfd(0, EFD_CLOEXEC);
    int came;

    (void)state;
    assert_true(fd >= 0);
    assert_true(asleep_ns(fd, &came) >= SLEEP_MS * 990000ull);
    nowait_enter();
    const uint64_t took_ns = asleep_ns(fd, &came);
    nowait_leave();
    assert_int_equal(came, 0);
    assert_true(took_ns < SLEEP_MS * 500000ull);
    assert_true(asleep_ns(fd, &came) >= SLEEP_MS * 990000ull);

    /* What is there is seen all the same. */
    assert_int_equal(eventfd_write(fd, 1), 0);
    nowait_enter();
    asleep_ns(fd, &came);
    nowait_leave();
    assert_int_equal(came, 1);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(does_not_sleep)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
