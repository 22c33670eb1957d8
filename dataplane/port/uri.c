/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/uri.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/port.h"

static const struct {
    const char *scheme, *usage;
} kinds[] = {
    [URI_MEMIF] = {"memif", "memif:PATH or memif:@NAME"},
    [URI_UDP] = {"udp", "udp:HOST:PORT[,mtu=N][,io=io_uring|syscalls]"},
    [URI_PACKET] = {"packet", "packet:IF,ip=ADDR/LEN,peer=ADDR[,gw=ADDR][,port=N][,mtu=N]"},
    [URI_XDP] = {"xdp", "xdp:IF,ip=ADDR/LEN,peer=ADDR[,gw=ADDR][,port=N][,mtu=N]"},
    [URI_PCI] = {"pci", "pci:ADDRESS,ip=ADDR/LEN,peer=ADDR[,gw=ADDR][,port=N][,mtu=N]"},
};
#define N_KINDS (sizeof(kinds) / sizeof(*kinds))

static int parse_number(const char *text, uint32_t min, uint32_t max, uint32_t *x)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || v < min || v > max)
        return -EINVAL;
    *x = (uint32_t)v;
    return 0;
}

/* An address that a single host can have. */
static int parse_ip(const char *text, uint32_t *ip)
{
    struct in_addr a;
    if (inet_pton(AF_INET, text, &a) != 1)
        return -EINVAL;
    *ip = ntohl(a.s_addr);
    return *ip >> 24 == 0 || *ip >> 28 >= 14 ? -EINVAL : 0;
}

static int parse_network(char *text, struct port_uri *u)
{
    char *slash = strchr(text, '/');
    uint32_t bits = 0;
    if (!slash)
        return -EINVAL;
    *slash = '\0';
    if (parse_number(slash + 1, 1, 32, &bits) < 0)
        return -EINVAL;
    u->netmask = 0xffffffffu << (32 - bits);
    return parse_ip(text, &u->ip);
}

static int parse_io(const char *text, enum uri_io *io)
{
    if (!strcmp(text, "io_uring"))
        *io = URI_IO_URING;
    else if (!strcmp(text, "syscalls"))
        *io = URI_IO_SYSCALLS;
    else
        return -EINVAL;
    return 0;
}

static int parse_option(const char *key, char *value, struct port_uri *u)
{
    bool udp = u->kind == URI_UDP;
    uint32_t x = 0;
    int rc = -EINVAL;
    if (!strcmp(key, "mtu"))
        return parse_number(value, URI_MTU_MIN, URI_MTU_MAX, &u->mtu_bytes);
    if (udp)
        return !strcmp(key, "io") ? parse_io(value, &u->io) : -EINVAL;
    if (!strcmp(key, "ip"))
        rc = parse_network(value, u);
    else if (!strcmp(key, "peer"))
        rc = parse_ip(value, &u->peer);
    else if (!strcmp(key, "gw"))
        rc = parse_ip(value, &u->gateway);
    else if (!strcmp(key, "port")) {
        rc = parse_number(value, 1, UINT16_MAX, &x);
        u->port = (uint16_t)x;
    }
    return rc;
}

/* "key=value,..." 0, or -EINVAL and the item that is wrong. */
static int parse_options(char *text, struct port_uri *u, char **wrong)
{
    char *save = NULL;
    for (char *item = strtok_r(text, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        char *eq = strchr(item, '=');
        *wrong = item;
        if (!eq)
            return -EINVAL;
        *eq = '\0';
        int rc = parse_option(item, eq + 1, u);
        if (rc < 0) {
            *eq = '=';
            return rc;
        }
    }
    *wrong = NULL;
    return 0;
}

/* "HOST:PORT", "[HOST]:PORT", "*:PORT", ":PORT". */
static int parse_host(char *text, struct port_uri *u)
{
    char *colon = strrchr(text, ':');
    uint32_t port;
    if (!colon || parse_number(colon + 1, 1, UINT16_MAX, &port) < 0)
        return -EINVAL;
    *colon = '\0';
    u->port = (uint16_t)port;
    size_t n = strlen(text);
    if (text[0] == '[') {
        if (n < 3 || text[n - 1] != ']')
            return -EINVAL;
        text[n - 1] = '\0';
        memmove(text, text + 1, n - 1);
    } else if (strchr(text, ':')) {
        return -EINVAL; /* an IPv6 address without brackets */
    } else if (strcmp(text, "*") == 0) {
        text[0] = '\0';
    }
    if (strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:%") !=
        strlen(text))
        return -EINVAL;
    snprintf(u->name, sizeof(u->name), "%s", text);
    return 0;
}

/* It goes into DPDK's argument strings: nothing that has a meaning there. */
static int parse_interface(const char *text, struct port_uri *u)
{
    size_t n = strlen(text);
    if (n == 0 || n > URI_INTERFACE_MAX || !strcmp(text, ".") || !strcmp(text, ".."))
        return -EINVAL;
    for (size_t i = 0; i < n; i++)
        if (text[i] <= ' ' || text[i] > '~' || strchr("/:=[](){}\"'\\", text[i]))
            return -EINVAL;
    snprintf(u->name, sizeof(u->name), "%s", text);
    return 0;
}

/* "0000:01:00.0", or "01:00.0" for domain 0. */
static int parse_pci(const char *text, struct port_uri *u)
{
    unsigned domain = 0, bus, device, function;
    int used = 0;
    if (strspn(text, "0123456789abcdefABCDEF:.") != strlen(text) || strlen(text) > 12)
        return -EINVAL;
    if (sscanf(text, "%4x:%2x:%2x.%1x%n", &domain, &bus, &device, &function, &used) != 4 ||
        text[used]) {
        domain = 0;
        used = 0;
        if (sscanf(text, "%2x:%2x.%1x%n", &bus, &device, &function, &used) != 3 || text[used])
            return -EINVAL;
    }
    if (device > 31 || function > 7)
        return -EINVAL;
    snprintf(u->name, sizeof(u->name), "%04x:%02x:%02x.%x", domain, bus, device, function);
    return 0;
}

static const char *addresses_wrong(const struct port_uri *u)
{
    if (!u->ip)
        return "ip=ADDR/LEN is missing: the address of this end";
    if (u->peer == u->ip)
        return "peer= is this end's own address";
    if (u->gateway == u->ip)
        return "gw= is this end's own address";
    if (u->gateway && (u->gateway ^ u->ip) & u->netmask)
        return "gw= is not in the network of ip=";
    if (u->peer && !u->gateway && (u->peer ^ u->ip) & u->netmask)
        return "peer= is not in the network of ip=: give the gateway, gw=";
    return NULL;
}

const char *port_uri_ip(uint32_t ip, char buf[URI_IP_TEXT])
{
    snprintf(buf, URI_IP_TEXT, "%u.%u.%u.%u", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255);
    return buf;
}

/* As far as text is one of ours: 0, or -EINVAL and a reason that quotes nothing. */
static int parse_rest(char *rest, struct port_uri *u, char *why, size_t room)
{
    char *comma = strchr(rest, ','), *wrong = NULL;
    if (comma)
        *comma = '\0';
    int rc = u->kind == URI_UDP   ? parse_host(rest, u)
             : u->kind == URI_PCI ? parse_pci(rest, u)
                                  : parse_interface(rest, u);
    if (rc < 0) {
        snprintf(why, room, "%s is not right",
                 u->kind == URI_UDP   ? "HOST:PORT"
                 : u->kind == URI_PCI ? "the PCI address"
                                      : "the interface's name");
        return rc;
    }
    if (comma && parse_options(comma + 1, u, &wrong) < 0) {
        snprintf(why, room, "'%.40s' is not right", wrong);
        return -EINVAL;
    }
    const char *addresses = u->kind != URI_UDP ? addresses_wrong(u) : NULL;
    if (addresses)
        snprintf(why, room, "%s", addresses);
    return addresses ? -EINVAL : 0;
}

int port_uri_parse(const char *text, struct port_uri *u, char *err)
{
    char rest[URI_NAME_MAX], why[96] = "it is too long";
    const char *colon = strchr(text, ':');
    size_t n = colon ? (size_t)(colon - text) : 0, k = 0;

    *u = (struct port_uri){.port = URI_DEFAULT_PORT};
    while (k < N_KINDS && !(n == strlen(kinds[k].scheme) && !memcmp(text, kinds[k].scheme, n)))
        k++;
    if (k == N_KINDS || !colon) {
        snprintf(err, PORT_ERR,
                 "there is no port '%.60s': write memif:PATH, udp:HOST:PORT, packet:IF,..., "
                 "xdp:IF,... or pci:ADDRESS,...",
                 text);
        return -EINVAL;
    }
    u->kind = (enum uri_kind)k;
    if (strlen(colon + 1) < sizeof(rest)) {
        strcpy(rest, colon + 1);
        if (u->kind == URI_MEMIF) {
            strcpy(u->name, rest); /* any name is one: memif has its own rules */
            return 0;
        }
        if (parse_rest(rest, u, why, sizeof(why)) == 0)
            return 0;
    }
    snprintf(err, PORT_ERR, "port '%.60s': %s; write %s", text, why, kinds[k].usage);
    return -EINVAL;
}

bool port_uri_has_name(const struct port_uri *u)
{
    uint8_t address[16];
    return u->kind == URI_UDP && u->name[0] && inet_pton(AF_INET, u->name, address) != 1 &&
           inet_pton(AF_INET6, u->name, address) != 1;
}
