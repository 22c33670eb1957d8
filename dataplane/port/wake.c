/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <time.h>

#include "dataplane/port.h"

static _Thread_local int wake_fd = -1;

void port_wake_on(int fd)
{
    wake_fd = fd;
}

int port_wake_fd(void)
{
    return wake_fd;
}

int port_rest(uint64_t deadline_ns)
{
    struct pollfd fd = {.fd = wake_fd, .events = POLLIN};
    const uint64_t now_ns = port_now_ns();
    const uint64_t ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
    const struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u),
                               .tv_nsec = (long)(ns % 1000000000u)};
    return ppoll(&fd, 1, &t, NULL) < 0 && errno == EINTR ? -EINTR : 0;
}
