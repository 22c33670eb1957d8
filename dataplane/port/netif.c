/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/netif.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/capability.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static unsigned count_rx_queues(const char *name)
{
    char path[64];
    unsigned n = 0;
    snprintf(path, sizeof(path), "/sys/class/net/%s/queues", name);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        n += strncmp(e->d_name, "rx-", 3) == 0;
    if (d)
        closedir(d);
    return n;
}

static int ask(int fd, unsigned long what, const char *name, struct ifreq *r)
{
    *r = (struct ifreq){0};
    snprintf(r->ifr_name, sizeof(r->ifr_name), "%s", name);
    return ioctl(fd, what, r);
}

int netif_read(const char *name, struct netif *n)
{
    struct ifreq flags, mtu, mac;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -ENODEV;
    bool there = ask(fd, SIOCGIFFLAGS, name, &flags) == 0 && ask(fd, SIOCGIFMTU, name, &mtu) == 0 &&
                 ask(fd, SIOCGIFHWADDR, name, &mac) == 0;
    close(fd);
    if (!there)
        return -ENODEV;
    *n = (struct netif){.mtu_bytes = (uint32_t)mtu.ifr_mtu,
                        .up = flags.ifr_flags & IFF_UP,
                        .ethernet = mac.ifr_hwaddr.sa_family == ARPHRD_ETHER,
                        .rx_queues = count_rx_queues(name)};
    memcpy(n->mac, mac.ifr_hwaddr.sa_data, 6);
    return 0;
}

static bool same_address(const struct sockaddr *a, const struct sockaddr *b)
{
    if (!b || a->sa_family != b->sa_family)
        return false;
    if (a->sa_family == AF_INET)
        return ((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)(const void *)b)->sin_addr.s_addr;
    return a->sa_family == AF_INET6 &&
           memcmp(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr,
                  &((const struct sockaddr_in6 *)(const void *)b)->sin6_addr, 16) == 0;
}

/* Calls of(arg, name) for each interface that has the address until that is true: whether it was. */
static bool any_with(const struct sockaddr *a, bool (*of)(void *arg, const char *name), void *arg)
{
    struct ifaddrs *list;
    bool found = false;
    if (getifaddrs(&list) < 0)
        return false;
    for (const struct ifaddrs *i = list; i && !found; i = i->ifa_next)
        found = same_address(a, i->ifa_addr) && of(arg, i->ifa_name);
    freeifaddrs(list);
    return found;
}

static bool is_called(void *arg, const char *name)
{
    return strcmp(arg, name) == 0;
}

bool netif_has_address(const char *name, uint32_t ip)
{
    const struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(ip)}};
    return any_with((const struct sockaddr *)(const void *)&a, is_called, (void *)name);
}

/* One that went meanwhile is passed over. */
static bool reads(void *arg, const char *name)
{
    return netif_read(name, arg) == 0;
}

uint32_t netif_mtu_of(const struct sockaddr *a)
{
    struct netif n;
    return any_with(a, reads, &n) ? n.mtu_bytes : 0;
}

const char *netif_names(char *buf, size_t room)
{
    struct if_nameindex *list = if_nameindex();
    size_t at = 0;
    buf[0] = '\0';
    for (const struct if_nameindex *i = list; i && i->if_index; i++) {
        struct netif n;
        if (netif_read(i->if_name, &n) < 0 || !n.ethernet)
            continue;
        int k = snprintf(buf + at, room - at, "%s%s", at ? ", " : "", i->if_name);
        if (k < 0 || (size_t)k >= room - at) {
            buf[at] = '\0';
            break;
        }
        at += (size_t)k;
    }
    if (list)
        if_freenameindex(list);
    if (at == 0)
        snprintf(buf, room, "none");
    return buf;
}

bool netif_may(unsigned capability)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};
    if (syscall(SYS_capget, &header, data) < 0)
        return false;
    return data[CAP_TO_INDEX(capability)].effective & CAP_TO_MASK(capability);
}
