/* SPDX-License-Identifier: Apache-2.0 */
/* The NUMA node of the card that a port names, from a sysfs of our own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "control/port_arg.h"

#define ADDRESS ",ip=10.0.0.1/24,peer=10.0.0.2"

static char sys[] = "/tmp/isthmus-sys-XXXXXX";

static void write_node(const char *folder, const char *text)
{
    char command[256], path[256];

    snprintf(command, sizeof command, "mkdir -p %s/%s", sys, folder);
    assert_int_equal(system(command), 0);
    snprintf(path, sizeof path, "%s/%s/numa_node", sys, folder);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void test_node_of_the_card(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(sys));
    write_node("class/net/eth1/device", "1\n");
    write_node("class/net/eth2/device", "-1\n");
    write_node("class/net/eth3/device", "none\n");
    write_node("bus/pci/devices/0000:01:00.0", "3\n");

    assert_int_equal(port_arg_numa_node(sys, "packet:eth1" ADDRESS), 1);
    assert_int_equal(port_arg_numa_node(sys, "xdp:eth1" ADDRESS), 1);
    assert_int_equal(port_arg_numa_node(sys, "pci:0000:01:00.0" ADDRESS), 3);
    assert_int_equal(port_arg_numa_node(sys, "pci:0000:02:00.0" ADDRESS), -1);
    assert_int_equal(port_arg_numa_node(sys, "packet:eth2" ADDRESS), -1);
    assert_int_equal(port_arg_numa_node(sys, "packet:eth3" ADDRESS), -1);
    assert_int_equal(port_arg_numa_node(sys, "packet:eth4" ADDRESS), -1);
    assert_int_equal(port_arg_numa_node(sys, "memif:/tmp/x"), -1);
    assert_int_equal(port_arg_numa_node(sys, "udp:127.0.0.1:7300"), -1);
    assert_int_equal(port_arg_numa_node(sys, "no port"), -1);

    char command[64];
    snprintf(command, sizeof command, "rm -r %s", sys);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_node_of_the_card)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
