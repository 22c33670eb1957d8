/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/port.h"
#include "dataplane/port/uri.h"

static struct port_uri good(const char *text)
{
    struct port_uri u;
    char err[PORT_ERR] = "";

    if (port_uri_parse(text, &u, err) != 0)
        fail_msg("'%s': %s", text, err);
    return u;
}

static void names_are_understood(void **state)
{
    struct port_uri u = good("memif:/tmp/a,b=c");
    assert_int_equal(u.kind, URI_MEMIF);
    assert_string_equal(u.name, "/tmp/a,b=c");

    u = good("udp:cloud.example.org:7301");
    assert_int_equal(u.kind, URI_UDP);
    assert_string_equal(u.name, "cloud.example.org");
    assert_int_equal(u.port, 7301);
    assert_int_equal(u.mtu_bytes, 0);
    assert_int_equal(u.io, URI_IO_BEST);
    u = good("udp:[fe80::1%eth0]:65535,mtu=9000,io=syscalls");
    assert_string_equal(u.name, "fe80::1%eth0");
    assert_int_equal(u.port, 65535);
    assert_int_equal(u.mtu_bytes, 9000);
    assert_int_equal(u.io, URI_IO_SYSCALLS);
    u = good("udp:*:1,io=io_uring");
    assert_string_equal(u.name, "");
    assert_int_equal(u.io, URI_IO_URING);
    assert_string_equal(good("udp::7300").name, "");

    u = good("packet:eth0,ip=10.1.2.3/24,peer=10.1.2.4");
    assert_int_equal(u.kind, URI_PACKET);
    assert_string_equal(u.name, "eth0");
    assert_int_equal(u.ip, 0x0a010203);
    assert_int_equal(u.netmask, 0xffffff00);
    assert_int_equal(u.peer, 0x0a010204);
    assert_int_equal(u.gateway, 0);
    assert_int_equal(u.port, URI_DEFAULT_PORT);
    u = good("xdp:enp1s0f0np0,ip=10.1.2.3/24,peer=8.8.8.8,gw=10.1.2.1,port=9,mtu=1400");
    assert_int_equal(u.kind, URI_XDP);
    assert_int_equal(u.gateway, 0x0a010201);
    assert_int_equal(u.port, 9);
    assert_int_equal(u.mtu_bytes, 1400);
}

static void pci_addresses_are_made_whole(void **state)
{
    assert_string_equal(good("pci:01:00.0,ip=10.0.0.1/8,peer=10.0.0.2").name, "0000:01:00.0");
    assert_string_equal(good("pci:a0b1:0C:1f.7,ip=10.0.0.1/8").name, "a0b1:0c:1f.7");
    char buf[URI_IP_TEXT];
    assert_string_equal(port_uri_ip(0xfffefdfc, buf), "255.254.253.252");
}

static void faults_are_named(void **state)
{
    static const struct {
        const char *text, *word;
    } bad[] = {
        {"", "no port"},
        {"udp", "no port"},
        {"tcp:1.2.3.4:5", "tcp:1.2.3.4:5"},
        {"UDP:1.2.3.4:5", "no port"},
        {"udp:", "HOST:PORT"},
        {"udp:1.2.3.4", "HOST:PORT"},
        {"udp:1.2.3.4:", "HOST:PORT"},
        {"udp:1.2.3.4:0", "HOST:PORT"},
        {"udp:1.2.3.4:65536", "HOST:PORT"},
        {"udp:1.2.3.4:99999999999999999999", "HOST:PORT"},
        {"udp:1.2.3.4:-1", "HOST:PORT"},
        {"udp:1.2.3.4: 5", "HOST:PORT"},
        {"udp:::1:5", "HOST:PORT"},
        {"udp:[]:5", "HOST:PORT"},
        {"udp:[::1:5", "HOST:PORT"},
        {"udp:a b:5", "HOST:PORT"},
        {"udp:h:5,mtu=575", "mtu=575"},
        {"udp:h:5,mtu=9001", "mtu=9001"},
        {"udp:h:5,mtu=", "mtu="},
        {"udp:h:5,mtu", "'mtu'"},
        {"udp:h:5,io=fast", "io=fast"},
        {"udp:h:5,ip=10.0.0.1/8", "ip=10.0.0.1"},
        {"packet:", "interface"},
        {"packet:eth0", "ip=ADDR/LEN is missing"},
        {"packet:eth0,", "ip=ADDR/LEN is missing"},
        {"packet:abcdefghijklmnop,ip=10.0.0.1/8", "interface"},
        {"packet:..,ip=10.0.0.1/8", "interface"},
        {"packet:a/b,ip=10.0.0.1/8", "interface"},
        {"packet:a[0],ip=10.0.0.1/8", "interface"},
        {"packet:eth0,ip=10.0.0.1", "ip=10.0.0.1"},
        {"packet:eth0,ip=10.0.0.1/0", "ip=10.0.0.1"},
        {"packet:eth0,ip=10.0.0.1/33", "ip=10.0.0.1"},
        {"packet:eth0,ip=10.0.0/8", "ip=10.0.0"},
        {"packet:eth0,ip=0.0.0.0/8", "ip="},
        {"packet:eth0,ip=224.0.0.1/8", "ip="},
        {"packet:eth0,ip=10.0.0.1/24,peer=10.0.0.1", "own address"},
        {"packet:eth0,ip=10.0.0.1/24,peer=10.0.1.1", "gw="},
        {"packet:eth0,ip=10.0.0.1/24,peer=1.1.1.1,gw=10.0.1.1", "not in the network"},
        {"packet:eth0,ip=10.0.0.1/24,peer=1.1.1.1,gw=10.0.0.1", "own address"},
        {"packet:eth0,ip=10.0.0.1/24,port=0", "port=0"},
        {"packet:eth0,ip=10.0.0.1/24,colour=red", "colour=red"},
        {"pci:,ip=10.0.0.1/8", "PCI"},
        {"pci:eth0,ip=10.0.0.1/8", "PCI"},
        {"pci:01:20.0,ip=10.0.0.1/8", "PCI"},
        {"pci:01:00.8,ip=10.0.0.1/8", "PCI"},
        {"pci:01:00.0x,ip=10.0.0.1/8", "PCI"},
    };
    char long_one[700];

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct port_uri u;
        char err[PORT_ERR] = "";
        if (port_uri_parse(bad[i].text, &u, err) != -EINVAL)
            fail_msg("'%s' was accepted", bad[i].text);
        if (!strstr(err, bad[i].word))
            fail_msg("'%s': %s", bad[i].text, err);
    }
    for (int i = 0; i < 3; i++) {
        struct port_uri u;
        char err[PORT_ERR] = "";
        memset(long_one, 'x', sizeof(long_one));
        memcpy(long_one, (const char *[]){"memif:", "udp:h", "xdp:e,"}[i], 6);
        long_one[sizeof(long_one) - 1] = '\0';
        assert_int_equal(port_uri_parse(long_one, &u, err), -EINVAL);
        assert_true(strlen(err) > 20);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pci_addresses_are_made_whole),
        cmocka_unit_test(faults_are_named),
        cmocka_unit_test(names_are_understood),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
