/* SPDX-License-Identifier: Apache-2.0 */
/* The barrier under pthreads, which ThreadSanitizer understands: build with -Db_sanitize=thread. */
#include <pthread.h>
#include <time.h>

#include "common.h"
#include "compute/barrier.h"

#define MEMBERS 4
#define ROUNDS  300

static struct barrier barrier;
static unsigned slot[MEMBERS]; /* plain: only the barrier orders them */
static bool slow;

static void *member(void *arg)
{
    unsigned me = (unsigned)(uintptr_t)arg, wrong = 0;

    for (unsigned r = 1; r <= ROUNDS; r++) {
        if (slow && r % 16 == 0 && r / 16 % MEMBERS == me) /* the others fall asleep */
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        slot[me] = r;
        team_barrier_wait(&barrier, 1000);
        for (unsigned i = 0; i < MEMBERS; i++)
            wrong += slot[i] != r;
        team_barrier_wait(&barrier, 1000);
    }
    return (void *)(uintptr_t)wrong;
}

static void run(bool with_sleep)
{
    pthread_t t[MEMBERS];

    slow = with_sleep;
    team_barrier_init(&barrier, MEMBERS);
    for (uintptr_t i = 0; i < MEMBERS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, member, (void *)i), 0);
    for (int i = 0; i < MEMBERS; i++) {
        void *wrong;
        pthread_join(t[i], &wrong);
        assert_null(wrong);
    }
}

static void test_orders_memory(void **state)
{
    run(false);
}

static void test_wakes_sleepers(void **state)
{
    run(true);
    assert_int_equal(atomic_load(&barrier.sleepers), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_orders_memory),
        cmocka_unit_test(test_wakes_sleepers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
