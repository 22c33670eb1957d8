/* SPDX-License-Identifier: Apache-2.0 */
/* Root, where a port needs it, is needed to open the port only. */
#ifndef ISTHMUS_CONTROL_PRIVILEGES_H
#define ISTHMUS_CONTROL_PRIVILEGES_H

/* First of all, for what is set for one thread holds for those that it starts later: a process of
 * root can't get new privileges from here on. */
void privileges_begin(void);

/*
 * Once `uri` is open, and everything else that needs rights: a process that is root for a packet:,
 * xdp: or pci: port goes on as `user`; NULL: as who called sudo, or as nobody. In all threads, for
 * good, and without a capability but those that an xdp: port needs to be closed. What was done is
 * said. Other ports, and who is not root: nothing. EXIT_OK or an exit code, the error said.
 */
int privileges_drop(const char *uri, const char *user);

/* For --check-config: whether there is such a user, where one would be needed. */
int privileges_check(const char *uri, const char *user);

#endif
