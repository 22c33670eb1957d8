/* SPDX-License-Identifier: Apache-2.0 */
/* Any frames, and look-ups and time between them: bounded, and only answers to those who asked. */
#include <stdlib.h>
#include <string.h>

#include "dataplane/port/arp.h"

#define OUR_IP 0x0a000001u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Commands: 0 a frame of n bytes, 1 look up, 2 time passes. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
    uint8_t out[ARP_FRAME_BYTES], found[6];
    uint64_t now = 1, deadline;
    struct arp a;

    arp_init(&a, mac, OUR_IP, 0xffffff00u);
    while (size >= 2) {
        uint8_t command = data[0] % 3, x = data[1];
        data += 2;
        size -= 2;
        if (command == 0) {
            size_t n = x < size ? x : size, sent = arp_input(&a, data, n, now, out);
            if (sent &&
                (sent != ARP_FRAME_BYTES || memcmp(out + 6, mac, 6) || memcmp(out, data + 22, 6)))
                abort();
            data += n;
            size -= n;
        } else if (command == 1) {
            if (arp_find(&a, (OUR_IP & ~255u) | x, now, found) && found[0] & 1)
                abort(); /* a group address */
        } else {
            now += (uint64_t)x * 1000000000u;
            unsigned n = 0;
            while (arp_poll(&a, now, out, &deadline))
                if (++n > ARP_NEIGHBOURS)
                    abort();
            if (deadline <= now)
                abort();
        }
    }
    return 0;
}
