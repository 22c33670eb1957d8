/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/rawif.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define BURST        16
#define VLAN_BYTES   4u
#define FRAME_MAX    (65535u + ETH_HLEN + 2 * VLAN_BYTES)
#define BUFFER_BYTES (VLAN_BYTES + FRAME_MAX)

/* A burst of TCP that is let in at once must not be lost here. */
#define SOCKET_BUFFER_BYTES (8 << 20)

struct slot {
    struct virtio_net_hdr header;
    struct iovec io[2];
    uint8_t control[CMSG_SPACE(sizeof(struct tpacket_auxdata))] __attribute__((aligned(8)));
    uint8_t buffer[BUFFER_BYTES]; /* room for a tag, then the frame */
};

struct rawif {
    int receive_fd, send_fd;
    int index;
    bool was_down; /* since the last frame */
    struct rawif_stats stats;
    struct mmsghdr messages[BURST];
    struct slot slots[BURST];
    uint8_t scratch[SEGMENT_HEADERS_MAX + 65536];
};

/* Two sockets, as a header before each frame is for what is received only. */
static int open_socket(int index, uint16_t protocol)
{
    const struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = index};
    /* Protocol 0 until it is bound: frames of other interfaces would get in. */
    const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (bind(fd, (const struct sockaddr *)&address, sizeof address) < 0) {
        const int rc = -errno;
        close(fd);
        return rc;
    }
    return fd;
}

static int set_up_receiving(struct rawif *r)
{
    static const int on = 1, bytes = SOCKET_BUFFER_BYTES;
    const struct packet_mreq all = {.mr_ifindex = r->index, .mr_type = PACKET_MR_PROMISC};
    const int fd = r->receive_fd = open_socket(r->index, 0);
    if (fd < 0)
        return fd;
    if (setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) < 0 ||
        setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &on, sizeof on) < 0 ||
        setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on) < 0 ||
        setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all) < 0)
        return -errno;
    /* Beyond the system's limit with CAP_NET_ADMIN only; without, what it allows. */
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) < 0 &&
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes) < 0)
        return -errno;
    const struct sockaddr_ll everything = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = r->index};
    return bind(fd, (const struct sockaddr *)&everything, sizeof everything) < 0 ? -errno : 0;
}

int rawif_open(const char *name, struct rawif **out, char *err)
{
    const unsigned index = if_nametoindex(name);
    if (!index) {
        snprintf(err, RAWIF_ERR, "there is no interface %.40s", name);
        return -ENODEV;
    }
    struct rawif *r = calloc(1, sizeof *r);
    if (!r) {
        snprintf(err, RAWIF_ERR, "out of memory");
        return -ENOMEM;
    }
    r->index = (int)index;
    r->send_fd = -1;
    int rc = set_up_receiving(r);
    if (rc == 0)
        rc = r->send_fd = open_socket(r->index, 0);
    if (rc < 0) {
        snprintf(err, RAWIF_ERR, "cannot open raw sockets on interface %.40s: %s%s", name,
                 strerror(-rc), rc == -EPERM ? ": CAP_NET_RAW is needed, so run it by sudo" : "");
        rawif_close(r);
        return rc;
    }
    *out = r;
    return 0;
}

void rawif_close(struct rawif *r)
{
    if (!r)
        return;
    if (r->receive_fd >= 0)
        close(r->receive_fd);
    if (r->send_fd >= 0)
        close(r->send_fd);
    free(r);
}

int rawif_receive_fd(const struct rawif *r)
{
    return r->receive_fd;
}

int rawif_send_fd(const struct rawif *r)
{
    return r->send_fd;
}

static void make_ready(struct rawif *r)
{
    for (int i = 0; i < BURST; i++) {
        struct slot *s = &r->slots[i];
        s->io[0] = (struct iovec){&s->header, sizeof s->header};
        s->io[1] = (struct iovec){s->buffer + VLAN_BYTES, FRAME_MAX};
        r->messages[i].msg_hdr = (struct msghdr){.msg_iov = s->io,
                                                 .msg_iovlen = 2,
                                                 .msg_control = s->control,
                                                 .msg_controllen = sizeof s->control};
    }
}

/* Put the VLAN tag back that the kernel took off; returns where the frame begins. */
static uint8_t *tagged(struct slot *s, struct msghdr *m, uint32_t *len)
{
    uint8_t *frame = s->buffer + VLAN_BYTES;
    const struct cmsghdr *c = CMSG_FIRSTHDR(m);
    struct tpacket_auxdata aux;
    if (!c || c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA)
        return frame;
    memcpy(&aux, CMSG_DATA(c), sizeof aux);
    if (!(aux.tp_status & TP_STATUS_VLAN_VALID))
        return frame;
    const uint16_t type =
        aux.tp_status & TP_STATUS_VLAN_TPID_VALID ? aux.tp_vlan_tpid : (uint16_t)ETH_P_8021Q;
    frame = memmove(s->buffer, frame, 2 * ETH_ALEN);
    frame[12] = (uint8_t)(type >> 8);
    frame[13] = (uint8_t)type;
    frame[14] = (uint8_t)(aux.tp_vlan_tci >> 8);
    frame[15] = (uint8_t)aux.tp_vlan_tci;
    s->header.csum_start += VLAN_BYTES; /* read when there is one only */
    *len += VLAN_BYTES;
    return frame;
}

static void one_frame(struct rawif *r, int i, segment_fn *each, void *arg)
{
    struct msghdr *m = &r->messages[i].msg_hdr;
    struct slot *s = &r->slots[i];
    if (r->messages[i].msg_len < sizeof s->header + ETH_HLEN || m->msg_flags & MSG_TRUNC) {
        r->stats.unreadable++;
        return;
    }
    uint32_t len = r->messages[i].msg_len - (uint32_t)sizeof s->header;
    uint8_t *frame = tagged(s, m, &len);
    const int n = segment_frame(&s->header, frame, len, r->scratch, each, arg);
    r->stats.unreadable += n < 0;
    r->stats.super_frames += n > 1;
}

static bool is_gone(const struct rawif *r)
{
    struct ifreq q = {.ifr_ifindex = r->index};
    return ioctl(r->receive_fd, SIOCGIFNAME, &q) < 0 && errno == ENODEV;
}

int rawif_receive(struct rawif *r, segment_fn *each, void *arg)
{
    make_ready(r);
    const int n = recvmmsg(r->receive_fd, r->messages, BURST, MSG_DONTWAIT, NULL);
    if (n < 0) {
        if (errno ==
            EINVAL) { /* a kind of super-frame that this kernel cannot describe; it is gone */
            r->stats.unreadable++;
            return 1;
        }
        /* One on its way out is told to be down first, and then nothing more: so look again. */
        r->was_down = r->was_down || (errno != EAGAIN && errno != EINTR);
        return r->was_down && is_gone(r) ? -ENODEV : 0;
    }
    r->was_down = false;
    for (int i = 0; i < n; i++)
        one_frame(r, i, each, arg);
    return n;
}

int rawif_send(struct rawif *r, const uint8_t *frame, uint32_t len)
{
    const ssize_t sent = send(r->send_fd, frame, len, MSG_DONTWAIT);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR))
        return -EAGAIN;
    r->stats.send_failed += sent < 0;
    return 0;
}

void rawif_stats(struct rawif *r, struct rawif_stats *s)
{
    struct tpacket_stats k; /* reading sets it back to 0 */
    socklen_t bytes = sizeof k;
    if (getsockopt(r->receive_fd, SOL_PACKET, PACKET_STATISTICS, &k, &bytes) == 0)
        r->stats.kernel_dropped += k.tp_drops;
    *s = r->stats;
}
