/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The devices of Ethernet ports. DPDK's drivers accept wrong arguments silently and say little when
 * they fail, so everything is checked here before.
 */
#include <dirent.h>
#include <errno.h>
#include <linux/capability.h>
#include <linux/if_xdp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bpf/libbpf.h>
#include <rte_bus_vdev.h>
#include <rte_dev.h>
#include <rte_ethdev.h>
#include <xdp/libxdp.h>

#include "dataplane/port/eal.h"
#include "dataplane/port/ether.h"
#include "dataplane/port/ifflags.h"
#include "dataplane/port/mbuf.h"
#include "dataplane/port/netif.h"

#define RING 512
/* An AF_XDP chunk is a packet with its mbuf, of 2,048 to 4,096 bytes; the kernel keeps 256 of them
 * free in front of a frame. */
#define XDP_EXTRA     (256u + 16u) /* and Ethernet's header */
#define XDP_MTU_MAX   3462u
#define XDP_CHUNK_MAX 4096u
#define XDP_FILL        2048u   /* packets the kernel has for each queue, */
#define XDP_SENT        2048u   /* and of those that were sent */
#define XDP_RINGS_BYTES 200000u /* of a queue */
#define PCI_RESERVE   1024u
#define OPEN_FDS_MAX  1024u
#define FRAMES_PACKET 512u

/* The mempool's header, the mbuf, our packet, and the frame. */
_Static_assert(RTE_ALIGN_CEIL(sizeof(struct rte_mempool_objhdr), RTE_MEMPOOL_ALIGN) +
                       sizeof(struct rte_mbuf) + MBUF_PRIV_BYTES + RTE_PKTMBUF_HEADROOM +
                       XDP_MTU_MAX + XDP_EXTRA <=
                   XDP_CHUNK_MAX,
               "the longest packet of xdp: in a chunk");

static const char *scheme(enum uri_kind kind)
{
    return kind == URI_PACKET ? "packet" : kind == URI_XDP ? "xdp" : "pci";
}

/* --- before ------------------------------------------------------------------------------------
 */

static int lacks(const struct port_uri *uri, const char *capabilities, const char *setcap,
                 char *err)
{
    char exe[128];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    exe[n > 0 ? n : 0] = '\0';
    snprintf(err, PORT_ERR,
             "port %s:%.15s needs %.48s: run it as root, or once `sudo setcap %s+ep %.64s`; "
             "udp:HOST:PORT needs none",
             scheme(uri->kind), uri->name, capabilities, setcap, n > 0 ? exe : "isthmus");
    return -EACCES;
}

static int check_rights(const struct port_uri *uri, char *err)
{
    bool raw = netif_may(CAP_NET_RAW);
    if (uri->kind == URI_PACKET)
        return raw ? 0 : lacks(uri, "CAP_NET_RAW", "cap_net_raw", err);
    /* libxdp finds the map of the program that it has loaded by the map's number, which CAP_BPF alone
     * may not. */
    if (!raw || !netif_may(CAP_SYS_ADMIN) || !netif_may(CAP_NET_ADMIN))
        return lacks(uri, "CAP_NET_RAW, CAP_NET_ADMIN and CAP_SYS_ADMIN",
                     "cap_net_raw,cap_net_admin,cap_sys_admin", err);
    int fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        snprintf(err, PORT_ERR,
                 "port xdp:%.15s: this kernel gives no AF_XDP sockets (%.60s): use packet:%.15s",
                 uri->name, strerror(errno), uri->name);
        return -EIO;
    }
    close(fd);
    return 0;
}

/* Packets that no socket takes at their queue would be the kernel's. */
static int check_queues(const struct port_uri *uri, unsigned there, unsigned *queues, char *err)
{
    *queues = there ? there : 1;
    if (!there)
        port_tell("port xdp:%.15s: /sys/class/net/%.15s/queues doesn't say how many receive queues "
                  "there are: only the first is read",
                  uri->name, uri->name);
    if (there <= ETHER_QUEUES_MAX)
        return 0;
    snprintf(err, PORT_ERR,
             "port xdp:%.15s: the interface has %u receive queues, and %u at most are read: "
             "ethtool -L %.15s combined %u, or use packet:%.15s",
             uri->name, there, ETHER_QUEUES_MAX, uri->name, ETHER_QUEUES_MAX, uri->name);
    return -EINVAL;
}

static int check_interface(const struct port_uri *uri, struct ether_shape *shape, char *err)
{
    char names[96];
    struct netif n;
    if (netif_read(uri->name, &n) < 0 || !n.ethernet) {
        snprintf(err, PORT_ERR,
                 "port %s:%.15s: there is no such Ethernet interface; this host has: %.90s",
                 scheme(uri->kind), uri->name, netif_names(names, sizeof(names)));
        return -ENODEV;
    }
    int rc = check_rights(uri, err);
    if (rc < 0)
        return rc;
    if (!n.up) {
        snprintf(err, PORT_ERR, "port %s:%.15s: the interface is down: ip link set %.15s up",
                 scheme(uri->kind), uri->name, uri->name);
        return -ENODEV;
    }
    if (uri->kind == URI_PACKET && netif_has_address(uri->name, uri->ip)) {
        char ip[URI_IP_TEXT];
        snprintf(
            err, PORT_ERR,
            "port packet:%.15s: %s is the kernel's own address there, which would answer for it: "
            "give ip= another one of the same network",
            uri->name, port_uri_ip(uri->ip, ip));
        return -EADDRINUSE;
    }
    if (uri->kind == URI_XDP && n.mtu_bytes > XDP_MTU_MAX) {
        snprintf(
            err, PORT_ERR,
            "port xdp:%.15s: AF_XDP takes packets of at most %u bytes, the interface's MTU is %u: "
            "ip link set %.15s mtu 1500, or use packet:%.15s",
            uri->name, XDP_MTU_MAX, n.mtu_bytes, uri->name, uri->name);
        return -EINVAL;
    }
    shape->mtu_bytes = n.mtu_bytes < URI_MTU_MAX ? n.mtu_bytes : URI_MTU_MAX;
    return uri->kind == URI_XDP ? check_queues(uri, n.rx_queues, &shape->rx_queues, err) : 0;
}

static int check_pci(const struct port_uri *uri, char *err)
{
    char path[96];
    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%.15s", uri->name);
    if (access(path, F_OK) < 0) {
        snprintf(err, PORT_ERR, "port pci:%.15s: there is no such PCI device: see `lspci -D`",
                 uri->name);
        return -ENODEV;
    }
    char driver[128];
    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%.15s/driver", uri->name);
    ssize_t n = readlink(path, driver, sizeof(driver) - 1);
    driver[n > 0 ? n : 0] = '\0';
    const char *name = strrchr(driver, '/') ? strrchr(driver, '/') + 1 : "none";
    if (strcmp(name, "vfio-pci") != 0) {
        snprintf(
            err, PORT_ERR,
            "port pci:%.15s: its driver is %.20s: give it to DPDK, as root: dpdk-devbind.py -b "
            "vfio-pci %.15s (the kernel then has it no more); see `isthmus doctor`",
            uri->name, name, uri->name);
        return -ENODEV;
    }
    if (access("/dev/vfio/vfio", R_OK | W_OK) < 0) {
        int error = errno;
        snprintf(err, PORT_ERR,
                 "port pci:%.15s: /dev/vfio/vfio can't be used (%.60s): run it as root, or chown "
                 "/dev/vfio/* to the user; see `isthmus doctor`",
                 uri->name, strerror(error));
        return -EACCES;
    }
    return 0;
}

int ether_dev_check(const struct port_uri *uri, struct ether_shape *shape, char *err)
{
    *shape = (struct ether_shape){.mtu_bytes = 1500, .rx_queues = 1};
    int rc = uri->kind == URI_PCI ? check_pci(uri, err) : check_interface(uri, shape, err);
    if (rc < 0 || !uri->mtu_bytes)
        return rc;
    if (uri->kind != URI_PCI && uri->mtu_bytes > shape->mtu_bytes) {
        snprintf(err, PORT_ERR,
                 "port %s:%.15s: mtu=%u is more than the interface's %u: ip link set %.15s "
                 "mtu %u",
                 scheme(uri->kind), uri->name, uri->mtu_bytes, shape->mtu_bytes, uri->name,
                 uri->mtu_bytes);
        return -EINVAL;
    }
    shape->mtu_bytes = uri->mtu_bytes;
    return 0;
}

/* Bytes of a slot in AF_PACKET's ring: with Ethernet's header and its own. */
static uint32_t slot_bytes(uint32_t mtu)
{
    uint32_t n = 2048;
    while (n < mtu + 128)
        n *= 2;
    return n;
}

uint32_t ether_dev_room(enum uri_kind kind, uint32_t mtu)
{
    if (kind == URI_PACKET)
        return slot_bytes(mtu); /* the driver wants a whole slot to fit */
    return kind == URI_XDP ? mtu + XDP_EXTRA : mtu + 128;
}

struct ether_shape ether_dev_shape(const struct port_uri *uri)
{
    struct ether_shape s = {.mtu_bytes = 1500, .rx_queues = 1};
    struct netif n;
    if (uri->kind != URI_PCI && netif_read(uri->name, &n) == 0) {
        s.mtu_bytes = n.mtu_bytes < URI_MTU_MAX ? n.mtu_bytes : URI_MTU_MAX;
        if (uri->kind == URI_XDP && n.rx_queues > 0)
            s.rx_queues = n.rx_queues < ETHER_QUEUES_MAX ? n.rx_queues : ETHER_QUEUES_MAX;
    }
    if (uri->mtu_bytes)
        s.mtu_bytes = uri->mtu_bytes;
    return s;
}

uint64_t ether_dev_bytes(enum uri_kind kind, const struct ether_shape *shape)
{
    return kind == URI_PACKET ? 2 * FRAMES_PACKET * slot_bytes(shape->mtu_bytes)
                              : shape->rx_queues * XDP_RINGS_BYTES;
}

uint32_t ether_dev_reserve(enum uri_kind kind, unsigned rx_queues)
{
    return kind == URI_XDP ? rx_queues * XDP_FILL + XDP_SENT : kind == URI_PCI ? PCI_RESERVE : 0;
}

/* --- sockets -----------------------------------------------------------------------------------
 */

static bool is_socket(int fd, int family)
{
    int domain;
    socklen_t len = sizeof(domain);
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == family;
}

/* The open descriptors that are sockets of this family, in a set. */
static void sockets(int family, bool set[OPEN_FDS_MAX])
{
    for (int fd = 0; fd < (int)OPEN_FDS_MAX; fd++)
        set[fd] = is_socket(fd, family);
}

/* The driver's, which it keeps to itself: those that were opened meanwhile. To sleep on, if they
 * are one for each queue: else nobody knows what would wake us. */
static void find_sockets(struct ether_dev *d, int family, const bool before[OPEN_FDS_MAX])
{
    bool after[OPEN_FDS_MAX];
    unsigned n = 0;
    sockets(family, after);
    for (unsigned fd = 0; fd < OPEN_FDS_MAX; fd++) {
        if (!after[fd] || before[fd])
            continue;
        if (n < ETHER_QUEUES_MAX)
            d->fds[d->n_opened++] = (int)fd;
        n++;
    }
    d->n_fds = n == d->n_queues ? n : 0;
}

/* --- the device --------------------------------------------------------------------------------
 */

/* They tell people's terminals about what is as it should be. */
static void hush_bpf(void)
{
    libbpf_set_print(NULL);
    libxdp_set_print(NULL);
}

static int add_vdev(struct ether_dev *d, unsigned queue, const struct port_uri *uri, uint32_t mtu)
{
    static atomic_uint serial;
    struct ether_queue *q = &d->queues[queue];
    char args[160];
    unsigned number = atomic_fetch_add(&serial, 1);
    if (d->kind == URI_PACKET) {
        uint32_t frame = slot_bytes(mtu);
        unsigned block = frame < 4096 ? 4096 : frame;
        snprintf(q->name, sizeof(q->name), "net_af_packet%u", number);
        snprintf(args, sizeof(args), "iface=%.15s,qpairs=1,blocksz=%u,framesz=%u,framecnt=%u",
                 uri->name, block, frame, FRAMES_PACKET);
    } else {
        hush_bpf();
        snprintf(q->name, sizeof(q->name), "net_af_xdp%u", number);
        snprintf(args, sizeof(args), "iface=%.15s,start_queue=%u,queue_count=1,busy_budget=0",
                 uri->name, queue);
    }
    return rte_vdev_init(q->name, args);
}

/* What the device can take off us. Of UDP's checksums nothing, for ours have none; what IPv4's of a
 * frame that is sent cost to write is less than to tell the device of each. */
static void choose_offloads(struct ether_queue *q, struct rte_eth_conf *conf)
{
    struct rte_eth_dev_info info;
    if (rte_eth_dev_info_get(q->id, &info) < 0)
        return;
    conf->rxmode.offloads = info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
    q->checks_ip = conf->rxmode.offloads;
}

static int set_up(struct ether_queue *q, enum uri_kind kind, uint32_t mtu, struct pkt_pool *pool)
{
    struct rte_eth_conf conf = {0};
    int rc = rte_eth_dev_get_port_by_name(q->name, &q->id);
    if (rc < 0)
        return rc;
    q->have = true;
    if (kind == URI_PCI)
        conf.rxmode.mtu = mtu;
    choose_offloads(q, &conf);
    rc = rte_eth_dev_configure(q->id, 1, 1, &conf);
    if (rc == 0)
        rc = rte_eth_rx_queue_setup(q->id, 0, RING, (unsigned)SOCKET_ID_ANY, NULL,
                                    mbuf_pool_mempool(pool));
    if (rc == 0)
        rc = rte_eth_tx_queue_setup(q->id, 0, RING, (unsigned)SOCKET_ID_ANY, NULL);
    if (rc == 0) {
        port_keep_ifflags(true);
        rc = rte_eth_dev_start(q->id);
        port_keep_ifflags(false);
    }
    return rc;
}

static int add_queue(struct ether_dev *d, const struct port_uri *uri, uint32_t mtu,
                     struct pkt_pool *pool)
{
    unsigned i = d->n_queues++;
    int rc = 0;
    if (uri->kind == URI_PCI) /* EAL was started for it */
        snprintf(d->queues[i].name, sizeof(d->queues[i].name), "%.15s", uri->name);
    else
        rc = add_vdev(d, i, uri, mtu);
    return rc < 0 ? rc : set_up(&d->queues[i], d->kind, mtu, pool);
}

/* The kernel locks the pool once for each queue, and says no more than EINVAL where it may not. */
static int check_locked(const struct port_uri *uri, unsigned queues, const struct pkt_pool *pool,
                        char *err)
{
    struct rlimit limit;
    uint64_t need = queues * mbuf_pool_bytes(pool->n_total, pool->room);
    if (uri->kind != URI_XDP || netif_may(CAP_IPC_LOCK) || getrlimit(RLIMIT_MEMLOCK, &limit) < 0 ||
        need <= limit.rlim_cur)
        return 0;
    snprintf(err, PORT_ERR,
             "port xdp:%.15s: %u queues lock %llu kB of memory, and the limit is %llu: ulimit -l "
             "%llu, or fewer queues (ethtool -L %.15s combined 1), or CAP_IPC_LOCK",
             uri->name, queues, (unsigned long long)need / 1024,
             (unsigned long long)limit.rlim_cur / 1024, (unsigned long long)need / 1024 + 1024,
             uri->name);
    return -EACCES;
}

int ether_dev_open(struct ether_dev *d, const struct port_uri *uri, const struct ether_shape *shape,
                   struct pkt_pool *pool, char *err)
{
    bool before[OPEN_FDS_MAX];
    int family = uri->kind == URI_XDP ? AF_XDP : AF_PACKET;
    struct rte_ether_addr mac;
    *d = (struct ether_dev){.kind = uri->kind};
    int rc = check_locked(uri, shape->rx_queues, pool, err);
    if (rc < 0)
        return rc;
    sockets(family, before);
    while (rc == 0 && d->n_queues < shape->rx_queues)
        rc = add_queue(d, uri, shape->mtu_bytes, pool);
    if (uri->kind != URI_PCI)
        find_sockets(d, family, before);
    if (rc == 0)
        rc = rte_eth_macaddr_get(d->queues[0].id, &mac);
    if (rc < 0) {
        snprintf(err, PORT_ERR, "port %s:%.15s: the driver failed (%.60s): %.120s",
                 scheme(uri->kind), uri->name, strerror(-rc), eal_last_words());
        ether_dev_close(d);
        return rc == -ENODEV ? rc : -EIO;
    }
    memcpy(d->mac, mac.addr_bytes, 6);
    return 0;
}

void ether_dev_close(struct ether_dev *d)
{
    for (unsigned i = 0; i < d->n_queues; i++) {
        struct ether_queue *q = &d->queues[i];
        if (q->have) {
            rte_eth_dev_stop(q->id);
            rte_eth_dev_close(q->id);
        }
        if (d->kind != URI_PCI)
            rte_vdev_uninit(q->name);
    }
    /* The AF_XDP driver leaves them open, and so the queues taken, for as long as we live. */
    for (unsigned i = 0; i < d->n_opened && d->kind == URI_XDP; i++)
        if (is_socket(d->fds[i], AF_XDP))
            close(d->fds[i]);
    *d = (struct ether_dev){0};
}
