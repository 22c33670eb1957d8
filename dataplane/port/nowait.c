/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/nowait.h"

#include <poll.h>
#include <stdbool.h>

static _Thread_local bool hurried;

int __real_poll(struct pollfd *fds, nfds_t n, int timeout_ms);
int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout_ms);

void nowait_enter(void)
{
    hurried = true;
}

void nowait_leave(void)
{
    hurried = false;
}

int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout_ms)
{
    return __real_poll(fds, n, hurried ? 0 : timeout_ms);
}
