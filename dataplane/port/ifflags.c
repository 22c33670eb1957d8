/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An interface's flags are its host's. A driver that starts puts them to what it believes they are,
 * not promiscuous: that would end what somebody else wants there, and needs CAP_NET_ADMIN, which
 * packet: does without, from the start or once root is given up. So the linker's --wrap brings
 * ioctl() here, and while a driver starts, flags stay as they are.
 */
#include "dataplane/port/ifflags.h"

#include <stdarg.h>
#include <sys/ioctl.h>

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, ...);

static _Thread_local bool kept;

void port_keep_ifflags(bool keep)
{
    kept = keep;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
    va_list more;
    va_start(more, request);
    void *arg = va_arg(more, void *);
    va_end(more);
    return request == SIOCSIFFLAGS && kept ? 0 : __real_ioctl(fd, request, arg);
}
