/* SPDX-License-Identifier: Apache-2.0 */
/* What an Ethernet port is counted with before it is opened, beside what was measured of one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dataplane/port/ether.h"

static uint64_t bytes_of(const char *text)
{
    struct port_uri uri;
    char err[PORT_ERR];

    assert_int_equal(port_uri_parse(text, &uri, err), 0);
    return ether_memory_bytes(&uri);
}

/* Resident, of an edge and a cloud that answered: it is counted, and no tenth more. Of packet's long
 * slots a few answers touch half. */
static void test_measured(void **state)
{
    static const struct {
        const char *uri;
        uint64_t bytes, more;
    } of[] = {
        {"packet:not-here,ip=192.0.2.1/24,peer=192.0.2.2", 15100000, 1510000},
        {"packet:not-here,ip=192.0.2.1/24,peer=192.0.2.2,mtu=9000", 28300000, 28300000},
        {"xdp:not-here,ip=192.0.2.1/24,peer=192.0.2.2", 21200000, 2120000},
        {"xdp:not-here,ip=192.0.2.1/24,peer=192.0.2.2,mtu=3462", 28500000, 2850000},
    };

    (void)state;
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        const uint64_t is = bytes_of(of[i].uri);
        print_message("%s: %.1f MB\n", of[i].uri, (double)is * 1e-6);
        assert_in_range(is, of[i].bytes, of[i].bytes + of[i].more);
    }
}

/* Each receive queue of an AF_XDP port has packets of its own; of the others there is one. */
static void test_queues(void **state)
{
    const uint32_t one = ether_dev_reserve(URI_XDP, 1), four = ether_dev_reserve(URI_XDP, 4);

    (void)state;
    assert_true(four >= one + 3 * 2048);
    assert_int_equal(ether_dev_reserve(URI_PACKET, 4), ether_dev_reserve(URI_PACKET, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_measured),
                                       cmocka_unit_test(test_queues)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
