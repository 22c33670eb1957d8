/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls of a driver that must not sleep. The AF_XDP driver, asked for packets where there are none,
 * sleeps in poll() for up to a second if the kernel's driver wants to be woken: packets at another
 * queue, doorbells and deadlines would wait meanwhile. So the linker's --wrap brings its poll()
 * here, and between these two it wakes whom it should and returns at once.
 */
#ifndef ISTHMUS_DATAPLANE_PORT_NOWAIT_H
#define ISTHMUS_DATAPLANE_PORT_NOWAIT_H

/* For this thread; not nested. */
void nowait_enter(void);
void nowait_leave(void);

#endif
