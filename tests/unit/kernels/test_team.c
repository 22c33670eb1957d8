/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <sched.h>

#include "common.h"
#include "compute/team.h"

static void test_share(void **state)
{
    for (int i = 0; i < 2000; i++) {
        size_t n = rng() % 500, grain = 1 + rng() % 20, at = 0, least = SIZE_MAX, most = 0;
        unsigned parts = 1 + rng() % 9;

        for (unsigned p = 0; p < parts; p++) {
            size_t from, to;
            team_share(n, grain, p, parts, &from, &to);
            assert_true(from == at && to >= from && (from % grain == 0 || from == n));
            size_t units = (to - from + grain - 1) / grain;
            least = units < least ? units : least;
            most = units > most ? units : most;
            at = to;
        }
        assert_true(at == n);
        assert_true(most - least <= 1);
    }
}

static void test_topology(void **state)
{
    struct topology t;
    cpu_set_t set;

    assert_int_equal(topology_read(&t), 0);
    assert_true(t.sockets >= 1 && t.numa_nodes >= 1 && t.cores >= 1 && t.pus >= t.cores);
    assert_true(t.allowed_cores >= 1 && t.allowed_cores <= t.cores);
    assert_int_equal(sched_getaffinity(0, sizeof(set), &set), 0);
    assert_true(t.allowed_pus >= 1 && t.allowed_pus <= (unsigned)CPU_COUNT(&set));
}

struct shared {
    struct team *team;
    unsigned slot[64], sum[64];
    int cpus[64];
};

static void step(void *arg, unsigned part, unsigned parts)
{
    struct shared *s = arg;
    cpu_set_t set;

    sched_getaffinity(0, sizeof(set), &set);
    s->cpus[part] = CPU_COUNT(&set);
    for (unsigned r = 1; r <= 50; r++) {
        s->slot[part] = r * (part + 1);
        team_barrier(s->team);
        unsigned sum = 0;
        for (unsigned i = 0; i < parts; i++)
            sum += s->slot[i];
        s->sum[part] += sum;
        team_barrier(s->team);
    }
}

static void check_team(unsigned ask, int first_core)
{
    struct shared s = {0};
    struct topology topo;
    cpu_set_t before, after;
    unsigned used, want = 0;

    assert_int_equal(topology_read(&topo), 0);
    sched_getaffinity(0, sizeof(before), &before);
    assert_int_equal(team_open(ask, first_core, &s.team, &used), 0);
    assert_int_equal(used, team_size(s.team));
    assert_int_equal(used, ask == 0 || ask > topo.allowed_cores ? topo.allowed_cores : ask);
    for (int run = 0; run < 5; run++)
        team_run(s.team, step, &s);
    for (unsigned r = 1; r <= 50; r++)
        want += 5 * r * used * (used + 1) / 2;
    for (unsigned p = 0; p < used; p++) {
        assert_int_equal(s.sum[p], want);
        if (first_core >= 0) /* one core's PUs */
            assert_true(s.cpus[p] * (int)topo.allowed_cores <= (int)topo.allowed_pus + 1);
    }
    team_close(s.team);
    sched_getaffinity(0, sizeof(after), &after);
    assert_true(CPU_EQUAL(&before, &after));
}

static void test_teams(void **state)
{
    check_team(1, -1);
    check_team(2, -1);
    check_team(0, 0);
    check_team(1, 1); /* wraps on a host with one core */
    check_team(1000, 0);
}

/* A process confined to one CPU gets one thread, however many it asks for. */
static void test_obeys_affinity(void **state)
{
    cpu_set_t before, one;
    int cpu = 0;
    struct team *t;
    unsigned used;

    sched_getaffinity(0, sizeof(before), &before);
    while (!CPU_ISSET(cpu, &before))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    assert_int_equal(team_open(4, 3, &t, &used), 0);
    assert_int_equal(used, 1);
    assert_int_equal(sched_getcpu(), cpu);
    team_close(t);
    sched_setaffinity(0, sizeof(before), &before);
    assert_int_equal(team_open(1, -2, &t, &used), -EINVAL);
    assert_null(t);
    team_close(NULL);
}

/* --- more threads than cores -------------------------------------------------------------------
 */

#define CROWD_STEPS    100
#define CROWD_BARRIERS 10
/* A waiting member that only spun would keep the core until the scheduler takes it away, 3 ms at
 * least; one that sleeps gives it up after some 50 us. */
#define CROWD_BOUND_MS 3

static int one_cpu;

static void crowd_together(void *arg, unsigned part, unsigned parts)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(one_cpu, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

static void crowd_step(void *arg, unsigned part, unsigned parts)
{
    for (int i = 0; i < CROWD_BARRIERS; i++)
        team_barrier(arg);
}

static void *crowd(void *arg)
{
    struct team *t;
    unsigned used;

    if (team_open(2, -1, &t, &used))
        return NULL;
    team_run(t, crowd_together, NULL);
    for (int i = 0; i < CROWD_STEPS; i++)
        team_run(t, crowd_step, t);
    team_close(t);
    return arg;
}

/* Two teams of two threads, all on one core: they share it, they do not burn it. */
static void test_over_subscribed(void **state)
{
    struct timespec from, to;
    struct topology topo;
    pthread_t leaders[2];
    void *done;

    assert_int_equal(topology_read(&topo), 0);
    if (topo.allowed_cores < 2)
        skip(); /* teams are of one thread here */
    one_cpu = sched_getcpu();
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&leaders[i], NULL, crowd, &one_cpu), 0);
    for (int i = 0; i < 2; i++) {
        pthread_join(leaders[i], &done);
        assert_ptr_equal(done, &one_cpu);
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    long ms = (to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000;
    long meetings = 2 * CROWD_STEPS * (CROWD_BARRIERS + 2);
    printf("%ld meetings in %ld ms\n", meetings, ms);
    assert_true(ms < meetings * CROWD_BOUND_MS);
}

/* --- where it is -------------------------------------------------------------------------------
 */

static void test_says_where(void **state)
{
    struct team_params p = {.numa_node = -1, .near_numa_node = -1};
    char err[TEAM_ERR], one[16];
    struct team_plan plan;
    struct team *t;

    assert_int_equal(team_plan(&p, &plan, err), 0);
    assert_int_equal(team_open_placed(&p, &t, err), 0);
    assert_string_equal(team_cpus(t), plan.cpus);
    assert_int_equal(team_size(t), plan.threads);
    assert_int_equal(plan.threads, plan.available);
    struct topology topo;
    team_close(t);
    assert_int_equal(topology_read(&topo), 0);
    if (topo.numa_nodes == 1)
        assert_string_equal(plan.nodes, "");

    snprintf(one, sizeof one, "%d", sched_getcpu());
    p.cpus = one;
    assert_int_equal(team_open_placed(&p, &t, err), 0);
    assert_string_equal(team_cpus(t), one);
    assert_int_equal(team_size(t), 1);
    assert_int_equal(team_nodes(t)->n, topo.numa_nodes == 1 ? 0 : 1);
    team_close(t);

    p.cpus = "65535";
    assert_int_equal(team_open_placed(&p, &t, err), -EINVAL);
    assert_null(t);
    assert_non_null(strstr(err, "no CPU 65535"));
    p.cpus = NULL;
    p.first_core = -1;
    assert_int_equal(team_open_placed(&p, &t, err), 0);
    assert_string_equal(team_cpus(t), "");
    assert_int_equal(team_nodes(t)->n, 0);
    team_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_share),           cmocka_unit_test(test_topology),
        cmocka_unit_test(test_teams),           cmocka_unit_test(test_obeys_affinity),
        cmocka_unit_test(test_over_subscribed), cmocka_unit_test(test_says_where),
    };
    rng_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
