/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/echo.h"

#include <netinet/in.h>
#include <string.h>

#include <rte_byteorder.h>
#include <rte_ether.h>
#include <rte_icmp.h>
#include <rte_ip.h>

#define FRAGMENT 0x3fffu /* more fragments, or not the first */

struct headers {
    struct rte_ether_hdr ether;
    struct rte_ipv4_hdr ip;
    struct rte_icmp_hdr icmp;
} __attribute__((packed, aligned(2)));

static bool is_request(const struct headers *h, size_t len, uint32_t ip)
{
    uint16_t total = rte_be_to_cpu_16(h->ip.total_length);
    return h->ether.ether_type == rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV4) &&
           h->ip.version_ihl == RTE_IPV4_VHL_DEF && h->ip.next_proto_id == IPPROTO_ICMP &&
           h->ip.dst_addr == rte_cpu_to_be_32(ip) &&
           !(h->ip.fragment_offset & rte_cpu_to_be_16(FRAGMENT)) &&
           total >= sizeof(h->ip) + sizeof(h->icmp) && total <= len - sizeof(h->ether) &&
           h->icmp.icmp_type == RTE_IP_ICMP_ECHO_REQUEST && h->icmp.icmp_code == 0 &&
           rte_is_valid_assigned_ether_addr(&h->ether.src_addr);
}

bool echo_reply(uint8_t *frame, size_t len, uint32_t ip, const uint8_t mac[6])
{
    struct headers h;
    if (len < sizeof(h))
        return false;
    memcpy(&h, frame, sizeof(h));
    if (!is_request(&h, len, ip))
        return false;
    h.ether.dst_addr = h.ether.src_addr;
    memcpy(h.ether.src_addr.addr_bytes, mac, 6);
    h.ip.dst_addr = h.ip.src_addr; /* swapped: the checksum stays */
    h.ip.src_addr = rte_cpu_to_be_32(ip);
    h.icmp.icmp_type = RTE_IP_ICMP_ECHO_REPLY;
    uint32_t sum = rte_be_to_cpu_16(h.icmp.icmp_cksum) + (RTE_IP_ICMP_ECHO_REQUEST << 8);
    h.icmp.icmp_cksum = rte_cpu_to_be_16((uint16_t)((sum & 0xffff) + (sum >> 16)));
    memcpy(frame, &h, sizeof(h));
    return true;
}
