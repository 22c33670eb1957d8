/* SPDX-License-Identifier: Apache-2.0 */
/* What `isthmus doctor` says of ports: those that cost nothing are tried, for the others the
 * rights, the kernel and the devices are looked at. */
#include <dirent.h>
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/doctor.h"
#include "dataplane/port.h"
#include "dataplane/port/netif.h"

#define UDP_BUFFER_WANTED (1u << 20)
#define TRY_SECONDS       15u
#define TRY_PACKETS       1000
#define NOBODY            65534

struct trial {
    int rc;
    char err[PORT_ERR];
    uint64_t rtt_ns, eal_rss_bytes, start_ns;
    bool unprivileged;
};

/* Send one packet and receive it on the other side. */
static bool cross(struct port *from, struct port *to)
{
    struct pkt *p = pkt_alloc(from->pool), *in = NULL;
    if (!p)
        return false;
    memset(p->data, 0x5a, 60);
    p->len = 60;
    const bool sent = port_tx(from, &p, 1) == 1;
    pkt_unref(p);
    if (!sent || port_rx(to, &in, 1) != 1)
        return false;
    const bool same = in->len == 60 && in->data[59] == 0x5a;
    pkt_unref(in);
    return same;
}

static int bounce(struct port *a, struct port *b, uint64_t *rtt_ns)
{
    const uint64_t from = port_now_ns();
    for (int i = 0; i < TRY_PACKETS; i++)
        if (!cross(a, b) || !cross(b, a))
            return -EIO;
    *rtt_ns = (port_now_ns() - from) / TRY_PACKETS;
    return 0;
}

/* Both ends of a memif in this process, packets to and fro. */
static void try_memif(struct trial *t)
{
    struct port *server = NULL, *client = NULL;
    char uri[64];
    snprintf(uri, sizeof uri, "memif:@isthmus-doctor-%d", (int)getpid());
    const uint64_t from = port_now_ns();
    t->rc = port_open(uri, PORT_SERVER, &server, t->err);
    if (t->rc == 0)
        t->rc = port_open(uri, PORT_CLIENT, &client, t->err);
    if (t->rc == 0) {
        while (port_alive(server) + port_alive(client) != 2) /* each call does its side's part */
            if (port_now_ns() - from > 5000000000u) {
                t->rc = -ETIMEDOUT;
                snprintf(t->err, sizeof t->err, "its two ends did not meet within 5 s");
                break;
            }
        t->start_ns = port_now_ns() - from;
    }
    if (t->rc == 0) {
        t->rc = bounce(server, client, &t->rtt_ns);
        if (t->rc < 0)
            snprintf(t->err, sizeof t->err, "packets were lost");
    }
    t->eal_rss_bytes = port_eal_rss_bytes();
    port_close(client);
    port_close(server);
}

/* In a child, because DPDK stays in the process that started it; and as an ordinary user, because
 * that is what it must work for. */
static void try_memif_in_child(struct trial *t)
{
    int fds[2];
    *t = (struct trial){.rc = -EIO};
    snprintf(t->err, sizeof t->err, "the trial process died");
    if (pipe(fds) < 0)
        return;
    const pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(TRY_SECONDS);
        close(fds[0]);
        t->unprivileged = geteuid() != 0 ||
                          (setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
        try_memif(t);
        _exit(write(fds[1], t, sizeof *t) != sizeof *t);
    }
    close(fds[1]);
    struct trial got;
    if (pid > 0 && read(fds[0], &got, sizeof got) == sizeof got)
        *t = got;
    close(fds[0]);
    if (pid > 0)
        waitpid(pid, NULL, 0);
}

static void check_memif(struct report *r)
{
    struct trial t;
    try_memif_in_child(&t);
    if (t.rc < 0) {
        t.err[sizeof t.err - 1] = '\0';
        doctor_say(r, "port memif", MISSING,
                   "the packages of tools/packages.txt, /dev/null and 64 MB of "
                   "memory must be there; `isthmus run --local` works without it",
                   "%s", t.err);
        return;
    }
    doctor_figure(r, "memif_round_trip_ns", t.rtt_ns);
    doctor_figure(r, "memif_start_ns", t.start_ns);
    doctor_figure(r, "eal_rss_bytes", t.eal_rss_bytes);
    doctor_say(
        r, "port memif", GOOD, NULL,
        "works%s: tried just now, %.0f ms to start, %.1f MB for DPDK with two packet pools, %.1f "
        "us "
        "there and back within one process",
        t.unprivileged ? " without privileges"
                       : " (tried as root: could not become an ordinary user)",
        (double)t.start_ns / 1e6, (double)t.eal_rss_bytes / 1e6, (double)t.rtt_ns / 1e3);
}

static void check_loop(struct report *r)
{
    struct port *a, *b;
    uint64_t rtt_ns;
    int rc = port_loop_pair(8, 8, 1500, &a, &b);
    if (rc == 0) {
        rc = bounce(a, b, &rtt_ns);
        port_close(a);
        port_close(b);
    }
    doctor_say(r, "port loop", rc == 0 ? GOOD : MISSING, rc == 0 ? NULL : "free some memory",
               rc == 0 ? "works (inside one process, for tests)" : "does not work");
}

/* Sends and receives at a loopback address. */
static int try_udp(struct port **server, struct port **client, char *err)
{
    char uri[64];
    int rc = -EADDRINUSE;
    for (unsigned i = 0; i < 16 && rc == -EADDRINUSE; i++) {
        snprintf(uri, sizeof uri, "udp:127.0.0.1:%u",
                 20000 + ((unsigned)getpid() * 16 + i) % 40000);
        rc = port_open(uri, PORT_SERVER, server, err);
    }
    return rc < 0 ? rc : port_open(uri, PORT_CLIENT, client, err);
}

static bool udp_crosses(struct port *from, struct port *to)
{
    struct pkt *p = pkt_alloc(from->pool), *in = NULL;
    if (!p)
        return false;
    outer_write(p->data, from->path, 8 + 18);
    p->len = OUTER_BYTES + 18;
    const bool sent = port_tx(from, &p, 1) == 1;
    pkt_unref(p);
    if (sent)
        port_wait(to, port_now_ns() + 1000000000u);
    if (!sent || port_rx(to, &in, 1) != 1)
        return false;
    pkt_unref(in);
    return true;
}

static uint64_t read_number(const char *path)
{
    unsigned long long x = 0;
    FILE *f = fopen(path, "re");
    if (f) {
        if (fscanf(f, "%llu", &x) != 1)
            x = 0;
        fclose(f);
    }
    return x;
}

static void check_udp(struct report *r)
{
    struct port *server = NULL, *client = NULL;
    char err[PORT_ERR] = "";
    const int rc = try_udp(&server, &client, err);
    const uint64_t most = read_number("/proc/sys/net/core/rmem_max");
    const bool small = most < UDP_BUFFER_WANTED && !netif_may(CAP_NET_ADMIN);
    doctor_figure(r, "udp_receive_buffer_bytes_max", most);
    if (rc == 0 && udp_crosses(client, server)) {
        const bool plain = strstr(server->caps.how, "recvmmsg");
        doctor_say(
            r, "port udp", plain || small ? NOTE : GOOD,
            plain   ? "io_uring needs kernel 6.0, kernel.io_uring_disabled=0 and no seccomp filter "
                      "against it; the port works without"
            : small ? "bursts may be lost in the socket: sysctl -w net.core.rmem_max=4194304"
                    : NULL,
            "works, at any host: %s", server->caps.how);
    } else {
        doctor_say(r, "port udp", UNUSABLE, "allow UDP on the loopback interface",
                   "does not work: %s", *err ? err : "a packet was lost");
    }
    port_close(client);
    port_close(server);
}

static const char *rights_mend = "run it as root, or once: sudo setcap "
                                 "cap_net_raw,cap_net_admin,cap_sys_admin+ep on the isthmus binary";

static void check_packet(struct report *r)
{
    char names[128];
    netif_names(names, sizeof names);
    const bool none = strcmp(names, "none") == 0, may = netif_may(CAP_NET_RAW);
    doctor_say(r, "port packet", none || !may ? UNUSABLE : GOOD,
               none   ? "an Ethernet interface is needed"
               : !may ? rights_mend
                      : NULL,
               "%s; Ethernet interfaces: %s", may ? "allowed here" : "CAP_NET_RAW is missing",
               names);
}

static void check_xdp(struct report *r)
{
    char names[128];
    netif_names(names, sizeof names);
    const bool none = strcmp(names, "none") == 0;
    const bool may =
        netif_may(CAP_NET_RAW) && netif_may(CAP_NET_ADMIN) && netif_may(CAP_SYS_ADMIN);
    const int fd = may ? socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0) : -1;
    const int error = errno;
    if (fd >= 0)
        close(fd);
    if (!may)
        doctor_say(r, "port xdp", UNUSABLE, rights_mend,
                   "CAP_NET_RAW, CAP_NET_ADMIN and CAP_SYS_ADMIN are needed");
    else if (fd < 0)
        doctor_say(r, "port xdp", UNUSABLE,
                   "a kernel with CONFIG_XDP_SOCKETS; packet: works without",
                   "no AF_XDP sockets: %s", strerror(error));
    else
        doctor_say(r, "port xdp", none ? UNUSABLE : GOOD,
                   none ? "an Ethernet interface is needed"
                        : "give it an interface of its own: it takes all that arrives there",
                   "allowed here; Ethernet interfaces: %s", names);
}

/* Entries of a folder, up to room bytes of their names; how many. */
static unsigned list_folder(const char *path, const char *having, char *names, size_t room)
{
    unsigned n = 0;
    size_t at = 0;
    names[0] = '\0';
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strstr(e->d_name, having) || e->d_name[0] == '.')
            continue;
        const int k = snprintf(names + at, room - at, "%s%s", at ? ", " : "", e->d_name);
        if (k > 0 && (size_t)k < room - at)
            at += (size_t)k;
        else
            names[at] = '\0';
        n++;
    }
    if (d)
        closedir(d);
    return n;
}

/* What a PCI device needs before DPDK can have it. */
static void check_pci(struct report *r)
{
    char bound[128], groups[64];
    const unsigned n = list_folder("/sys/bus/pci/drivers/vfio-pci", ":", bound, sizeof bound);
    const unsigned iommu = list_folder("/sys/kernel/iommu_groups", "", groups, sizeof groups);
    const bool vfio = access("/dev/vfio/vfio", F_OK) == 0;
    const bool may = vfio && access("/dev/vfio/vfio", R_OK | W_OK) == 0;
    const char *mend =
        !vfio ? "as root: modprobe vfio-pci"
        : !iommu
            ? "switch the IOMMU on in the firmware and boot with intel_iommu=on or amd_iommu=on"
        : !n   ? "as root: dpdk-devbind.py -b vfio-pci ADDRESS (lspci -D lists them). It takes the "
                 "device away from the kernel: not the one you are logged in through"
        : !may ? "as root, or chown /dev/vfio/* to the user"
               : NULL;
    doctor_say(r, "port pci", mend ? UNUSABLE : GOOD, mend,
               "vfio %s, IOMMU %s, devices bound to it: %s", vfio ? "there" : "not loaded",
               iommu ? "on" : "off", n ? bound : "none");
}

void doctor_ports(struct report *r)
{
    check_memif(r);
    check_loop(r);
    check_udp(r);
    check_packet(r);
    check_xdp(r);
    check_pci(r);
}
