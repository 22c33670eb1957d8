/* SPDX-License-Identifier: Apache-2.0 */
/* How long a sleeper takes to come back: a processor that has slept is slow to wake, on virtual
 * machines most of all. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "control/bench/turns.h"
#include "control/measure/measure.h"

#define TURNS   101u
#define REST_NS 2000000l /* about what the other half works for a token */

struct sleeper {
    int bell, awake;
    double woke_ns[TURNS];
    int rc;
};

static int take(int fd)
{
    uint64_t n;

    return read(fd, &n, sizeof n) == sizeof n ? 0 : -EIO;
}

static int ring(int fd)
{
    const uint64_t one = 1;

    return write(fd, &one, sizeof one) == sizeof one ? 0 : -EIO;
}

static void *sleep_again(void *arg)
{
    struct sleeper *s = arg;

    for (unsigned i = 0; i < TURNS && s->rc == 0; i++) {
        s->rc = take(s->bell);
        s->woke_ns[i] = turns_now_ns();
        if (ring(s->awake) < 0)
            s->rc = -EIO;
    }
    return NULL;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static int wake(struct sleeper *s, double *median_s)
{
    const struct timespec rest = {.tv_nsec = REST_NS};
    double took_s[TURNS];
    pthread_t thread;
    int rc = -pthread_create(&thread, NULL, sleep_again, s);

    if (rc)
        return rc;
    for (unsigned i = 0; i < TURNS && rc == 0; i++) {
        nanosleep(&rest, NULL);
        const double rang_ns = turns_now_ns();
        rc = ring(s->bell);
        if (rc == 0)
            rc = take(s->awake);
        took_s[i] = (s->woke_ns[i] - rang_ns) * 1e-9;
    }
    if (rc)
        pthread_cancel(thread);
    pthread_join(thread, NULL);
    if (rc == 0)
        rc = s->rc;
    qsort(took_s, TURNS, sizeof(*took_s), compare);
    *median_s = took_s[TURNS / 2];
    return rc;
}

int measure_wake(double *s)
{
    struct sleeper sleeper = {.bell = eventfd(0, EFD_CLOEXEC), .awake = eventfd(0, EFD_CLOEXEC)};
    int rc = sleeper.bell < 0 || sleeper.awake < 0 ? -errno : wake(&sleeper, s);

    if (sleeper.bell >= 0)
        close(sleeper.bell);
    if (sleeper.awake >= 0)
        close(sleeper.awake);
    return rc;
}
