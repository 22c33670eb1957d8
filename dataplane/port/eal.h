/* SPDX-License-Identifier: Apache-2.0 */
/* DPDK's environment (EAL), started once for the process. */
#ifndef ISTHMUS_DATAPLANE_PORT_EAL_H
#define ISTHMUS_DATAPLANE_PORT_EAL_H

#include <stdint.h>

/* Start EAL unless it runs. It needs no privilege and no hugepages, leaves nothing in the file
 * system, and neither the caller's CPU affinity nor its signals change. pci: the address of the one
 * PCI device it is to take, or NULL; only whoever starts it can have one. 0, -EBUSY (it runs without
 * that device), or -errno, and err. */
int eal_start(const char *pci, char *err);

/* What DPDK said last, for error messages; "" if nothing. */
const char *eal_last_words(void);

/* Count what this process grew by, from rss_before on, as DPDK's; or what it shrank by as no more.
 */
uint64_t eal_rss_now(void);
void eal_rss_account(uint64_t rss_before);
void eal_rss_release(uint64_t rss_before);

#endif
