/* SPDX-License-Identifier: Apache-2.0 */
/* Which cores a team gets, on machines described to hwloc. */
#include "common.h"
#include "compute/placement.h"
#include "compute/topology.h"

/* PU numbers of synthetic machines run from left to right. */
#define LAPTOP      "node:1 core:4 pu:1"
#define SMT         "node:1 core:4 pu:2"
#define TWO_SOCKETS "package:2 [numa] core:8 pu:2"
#define SNC         "package:2 group:2 [numa] core:4 pu:1"
#define NO_CORES    "node:1 pu:4"

struct machine {
    hwloc_topology_t topo;
    hwloc_bitmap_t allowed;
};

static void begin(struct machine *m)
{
    assert_int_equal(hwloc_topology_init(&m->topo), 0);
    topology_keep(m->topo);
}

static struct machine machine(const char *synthetic)
{
    struct machine m;

    begin(&m);
    assert_int_equal(hwloc_topology_set_synthetic(m.topo, synthetic), 0);
    assert_int_equal(hwloc_topology_load(m.topo), 0);
    m.allowed = hwloc_bitmap_dup(hwloc_topology_get_topology_cpuset(m.topo));
    return m;
}

static void allow(struct machine *m, const char *cpus)
{
    assert_int_equal(hwloc_bitmap_list_sscanf(m->allowed, cpus), 0);
}

static void end(struct machine *m)
{
    hwloc_bitmap_free(m->allowed);
    hwloc_topology_destroy(m->topo);
}

static struct team_params params(unsigned n, int first)
{
    return (struct team_params){
        .n_threads = n, .first_core = first, .numa_node = -1, .near_numa_node = -1};
}

/* want: the CPUs of each thread with blanks between, then "/" and the nodes: "0-1 2-3 / 0". */
static void expect(const struct machine *m, const struct team_params *p, const char *want)
{
    char err[TEAM_ERR], got[512] = "", one[64];
    struct placement pl;

    assert_int_equal(placement_choose(m->topo, m->allowed, p, &pl, err), 0);
    for (unsigned i = 0; i < pl.n; i++) {
        hwloc_bitmap_list_snprintf(one, sizeof one, pl.pus[i]);
        strcat(strcat(got, one), " ");
    }
    hwloc_bitmap_list_snprintf(one, sizeof one, pl.nodes);
    strcat(strcat(got, "/ "), one);
    placement_free(&pl);
    assert_string_equal(got, want);
}

static void expect_n(const struct machine *m, unsigned n, int first, const char *want)
{
    struct team_params p = params(n, first);
    expect(m, &p, want);
}

static void refuse(const struct machine *m, struct team_params p, const char *why)
{
    char err[TEAM_ERR];
    struct placement pl;

    assert_int_equal(placement_choose(m->topo, m->allowed, &p, &pl, err), -EINVAL);
    placement_free(&pl);
    if (!strstr(err, why))
        fail_msg("says: %s", err);
}

static void test_one_node(void **state)
{
    struct machine m = machine(LAPTOP);

    expect_n(&m, 2, 0, "0 1 / 0");
    expect_n(&m, 2, 2, "2 3 / 0");
    expect_n(&m, 2, 3, "3 0 / 0"); /* wraps round */
    expect_n(&m, 2, 4, "0 1 / 0");
    expect_n(&m, 0, 0, "0 1 2 3 / 0");
    expect_n(&m, 99, 0, "0 1 2 3 / 0");
    expect_n(&m, 1, -1, "0 / 0");
    end(&m);
}

static void test_one_thread_a_core(void **state)
{
    struct machine m = machine(SMT);

    expect_n(&m, 2, 0, "0-1 2-3 / 0");
    expect_n(&m, 0, 0, "0-1 2-3 4-5 6-7 / 0");
    expect_n(&m, 8, 0, "0-1 2-3 4-5 6-7 / 0");
    allow(&m, "1,2-3,7"); /* half of two cores */
    expect_n(&m, 0, 0, "1 2-3 7 / 0");
    end(&m);
}

static void test_two_sockets(void **state)
{
    struct machine m = machine(TWO_SOCKETS); /* 0-15 and 16-31 */
    struct team_params near = params(4, 0);

    expect_n(&m, 4, 0, "0-1 2-3 4-5 6-7 / 0");
    expect_n(&m, 4, 4, "8-9 10-11 12-13 14-15 / 0");
    expect_n(&m, 4, 6, "16-17 18-19 20-21 22-23 / 1"); /* two are left on the first socket */
    expect_n(&m, 8, 8, "16-17 18-19 20-21 22-23 24-25 26-27 28-29 30-31 / 1");
    expect_n(&m, 9, 0, "0-1 2-3 4-5 6-7 8-9 10-11 12-13 14-15 16-17 / 0-1"); /* fits in none */
    allow(&m, "6-7,16-31"); /* a cpuset that leaves the first socket one core */
    expect_n(&m, 2, 0, "16-17 18-19 / 1");
    expect_n(&m, 1, 0, "6-7 / 0");
    near.near_numa_node = 1;
    expect(&m, &near, "16-17 18-19 20-21 22-23 / 1");
    near.near_numa_node = 0; /* together goes before near */
    expect(&m, &near, "16-17 18-19 20-21 22-23 / 1");
    near.near_numa_node = 7; /* a card that lies */
    near.n_threads = 1;
    expect(&m, &near, "6-7 / 0");
    end(&m);
}

static void test_sub_numa(void **state)
{
    struct machine m = machine(SNC); /* nodes of 0-3, 4-7 | 8-11, 12-15 */
    struct team_params p = params(6, 0);

    expect_n(&m, 4, 2, "4 5 6 7 / 1");
    expect_n(&m, 6, 4, "8 9 10 11 12 13 / 2-3"); /* one package rather than two nodes of two */
    p.near_numa_node = 3; /* then its package's other node, before the other package */
    expect(&m, &p, "12 13 14 15 8 9 / 2-3");
    p.n_threads = 2;
    p.numa_node = 1; /* by order, near or not */
    expect(&m, &p, "4 5 / 1");
    p.n_threads = 0;
    expect(&m, &p, "4 5 6 7 / 1");
    end(&m);
}

/* Two fast cores behind four slow ones, as some laptops number them. */
static struct machine hybrid(void)
{
    struct machine m = machine("node:1 core:6 pu:1");
    hwloc_bitmap_t slow = hwloc_bitmap_alloc(), fast = hwloc_bitmap_alloc();

    hwloc_bitmap_set_range(slow, 0, 3);
    hwloc_bitmap_set_range(fast, 4, 5);
    assert_int_equal(hwloc_cpukinds_register(m.topo, fast, 9, 0, NULL, 0), 0);
    assert_int_equal(hwloc_cpukinds_register(m.topo, slow, 1, 0, NULL, 0), 0);
    hwloc_bitmap_free(slow);
    hwloc_bitmap_free(fast);
    return m;
}

static void check_hybrid(struct machine *m)
{
    expect_n(m, 2, 0, "4 5 / 0");
    expect_n(m, 3, 0, "4 5 0 / 0");
    expect_n(m, 2, 2, "0 1 / 0");
    allow(m, "0-2,5");
    expect_n(m, 2, 0, "5 0 / 0");
}

static void test_hybrid(void **state)
{
    struct machine m = hybrid();
    check_hybrid(&m);
    end(&m);
}

/* The same machine from a description, as lstopo would write it. */
static void test_xml(void **state)
{
    struct machine m = hybrid(), copy;
    char *xml;
    int bytes;

    assert_int_equal(hwloc_topology_export_xmlbuffer(m.topo, &xml, &bytes, 0), 0);
    begin(&copy);
    assert_int_equal(hwloc_topology_set_xmlbuffer(copy.topo, xml, bytes), 0);
    assert_int_equal(hwloc_topology_load(copy.topo), 0);
    hwloc_free_xmlbuffer(m.topo, xml);
    copy.allowed = hwloc_bitmap_dup(hwloc_topology_get_topology_cpuset(copy.topo));
    check_hybrid(&copy);
    end(&copy);
    end(&m);
}

static void test_little_is_known(void **state)
{
    struct machine m = machine(NO_CORES), one = machine(SMT);

    expect_n(&m, 2, 1, "1 2 / 0");
    expect_n(&m, 0, 0, "0 1 2 3 / 0");
    end(&m);

    allow(&one, "5"); /* a cpuset of one */
    expect_n(&one, 4, 0, "5 / 0");
    expect_n(&one, 4, 3, "5 / 0");
    hwloc_bitmap_zero(one.allowed);
    refuse(&one, params(1, 0), "no CPU is allowed");
    end(&one);
}

static void test_cpus(void **state)
{
    struct machine m = machine(TWO_SOCKETS);
    struct team_params p = params(0, 0);

    p.cpus = "2,4-5"; /* a thread for each, siblings last */
    expect(&m, &p, "2 4 5 / 0");
    p.cpus = "0-3,16";
    expect(&m, &p, "0 2 16 1 3 / 0-1");
    p.n_threads = 2;
    expect(&m, &p, "0 2 / 0");
    p.first_core = 2;
    expect(&m, &p, "1 3 / 0"); /* two of one node rather than 16 and 1 */
    p.first_core = 0;
    p.numa_node = 1;
    expect(&m, &p, "16 / 1");
    p.cpus = "0-3";
    refuse(&m, p, "no CPU of NUMA node 1 (16-31)");
    end(&m);
}

static void test_bad_requests(void **state)
{
    static const char *const not_lists[] = {"",
                                            ",",
                                            "0,",
                                            ",0",
                                            "0-",
                                            "-1",
                                            "1-0",
                                            "0x1",
                                            "a",
                                            "0 1",
                                            "0--1",
                                            "0-1-2",
                                            " 1",
                                            "1 ",
                                            "+1",
                                            "65536",
                                            "0-99999999999999999999",
                                            "1,,2"};
    struct machine m = machine(LAPTOP);
    struct team_params p = params(1, 0);

    for (size_t i = 0; i < sizeof not_lists / sizeof *not_lists; i++) {
        p.cpus = not_lists[i];
        refuse(&m, p, "like 0-3,8");
    }
    p.cpus = "2-5,7";
    refuse(&m, p, "no CPU 4-5,7: it has 0-3");
    allow(&m, "1-2");
    p.cpus = "0-1,3";
    refuse(&m, p, "CPU 0,3 is not allowed to this process: 1-2 are");
    p.cpus = NULL;
    p.numa_node = 2;
    refuse(&m, p, "no NUMA node 2: it has 0");
    end(&m);
}

/* Whatever is allowed and asked for: threads apart from each other, each within what is allowed. */
static void test_random(void **state)
{
    static const char *const kinds[] = {LAPTOP, SMT, TWO_SOCKETS, SNC, NO_CORES};

    for (int i = 0; i < 2000; i++) {
        struct machine m = machine(kinds[rng() % 5]);
        hwloc_bitmap_t seen = hwloc_bitmap_alloc();
        struct team_params p = params(rng() % 20, (int)(rng() % 40));
        struct placement pl;
        char err[TEAM_ERR];
        unsigned pu;

        hwloc_bitmap_foreach_begin(pu, hwloc_topology_get_topology_cpuset(m.topo))
        {
            if (rng() % 3 == 0 && hwloc_bitmap_weight(m.allowed) > 1)
                hwloc_bitmap_clr(m.allowed, pu);
        }
        hwloc_bitmap_foreach_end();
        p.near_numa_node = (int)(rng() % 5) - 1;
        assert_int_equal(placement_choose(m.topo, m.allowed, &p, &pl, err), 0);
        assert_true(pl.n >= 1 && pl.n <= pl.available);
        assert_int_equal(pl.n,
                         p.n_threads && p.n_threads < pl.available ? p.n_threads : pl.available);
        for (unsigned t = 0; t < pl.n; t++) {
            assert_false(hwloc_bitmap_iszero(pl.pus[t]));
            assert_true(hwloc_bitmap_isincluded(pl.pus[t], m.allowed));
            assert_false(hwloc_bitmap_intersects(pl.pus[t], seen));
            hwloc_bitmap_or(seen, seen, pl.pus[t]);
        }
        placement_free(&pl);
        hwloc_bitmap_free(seen);
        end(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_node),        cmocka_unit_test(test_one_thread_a_core),
        cmocka_unit_test(test_two_sockets),     cmocka_unit_test(test_sub_numa),
        cmocka_unit_test(test_hybrid),          cmocka_unit_test(test_xml),
        cmocka_unit_test(test_little_is_known), cmocka_unit_test(test_cpus),
        cmocka_unit_test(test_bad_requests),    cmocka_unit_test(test_random),
    };
    rng_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
