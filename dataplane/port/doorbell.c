/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/doorbell.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE_BYTES 4096u

/* Either side may write anything here: a value is only ever a hint whether to make a system call.
 */
struct bell_page {
    struct {
        _Atomic uint32_t asleep;
        _Atomic uint32_t cpu; /* 1 + CPU; 0: not known */
        uint8_t own_cache_line[128 - 8];
    } side[2];
};

void bell_init(struct bell *b)
{
    *b = (struct bell){.page_fd = -1, .event_fd = {-1, -1}};
}

static int map(struct bell *b)
{
    void *p = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, b->page_fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    b->page = p;
    return 0;
}

int bell_create(struct bell *b, unsigned side)
{
    bell_init(b);
    b->side = side;
    b->page_fd = memfd_create("isthmus-doorbell", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    b->event_fd[0] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    b->event_fd[1] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = -EIO;
    if (b->page_fd < 0 || b->event_fd[0] < 0 || b->event_fd[1] < 0 ||
        ftruncate(b->page_fd, PAGE_BYTES) < 0 ||
        fcntl(b->page_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0 ||
        (rc = map(b)) < 0)
        bell_close(b);
    else
        rc = 0;
    return rc;
}

int bell_adopt(struct bell *b, unsigned side, const int fds[BELL_FDS])
{
    *b = (struct bell){.page_fd = fds[0], .event_fd = {fds[1], fds[2]}, .side = side};
    /* A file the peer could shrink would be a SIGBUS for us. */
    struct stat st;
    int seals = fcntl(b->page_fd, F_GET_SEALS);
    int rc = -EPROTO;
    if (seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(b->page_fd, &st) == 0 &&
        st.st_size >= (off_t)PAGE_BYTES)
        rc = map(b);
    for (int i = 0; i < 2 && rc == 0; i++) /* we must never block on a descriptor of the peer's */
        if (fcntl(b->event_fd[i], F_SETFL, O_NONBLOCK) < 0)
            rc = -EPROTO;
    if (rc < 0)
        bell_close(b);
    return rc;
}

void bell_fds(const struct bell *b, int fds[BELL_FDS])
{
    fds[0] = b->page_fd;
    fds[1] = b->event_fd[0];
    fds[2] = b->event_fd[1];
}

void bell_close(struct bell *b)
{
    if (b->page)
        munmap(b->page, PAGE_BYTES);
    for (int i = 0; i < 2; i++)
        if (b->event_fd[i] >= 0)
            close(b->event_fd[i]);
    if (b->page_fd >= 0)
        close(b->page_fd);
    bell_init(b);
}

/*
 * Sleeper: set flag, fence, look into the ring, sleep. Sender: put into the ring, fence, look at
 * the flag. With both fences at least one of the two sees the other's store.
 */
void bell_ring(struct bell *b)
{
    _Atomic uint32_t *asleep = &b->page->side[1 - b->side].asleep;
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(asleep, memory_order_relaxed) != 0 &&
        atomic_exchange_explicit(asleep, 0, memory_order_relaxed) != 0) {
        const uint64_t one = 1;
        ssize_t n = write(b->event_fd[1 - b->side], &one, sizeof(one));
        (void)n; /* EAGAIN: it is already rung */
    }
}

void bell_before_sleep(struct bell *b)
{
    atomic_store_explicit(&b->page->side[b->side].asleep, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
}

void bell_after_sleep(struct bell *b)
{
    uint64_t count;
    atomic_store_explicit(&b->page->side[b->side].asleep, 0, memory_order_relaxed);
    ssize_t n = read(b->event_fd[b->side], &count, sizeof(count));
    (void)n; /* EAGAIN: nobody rang */
}

int bell_fd(const struct bell *b)
{
    return b->event_fd[b->side];
}

bool bell_shares_cpu(struct bell *b)
{
    uint32_t mine = 1 + (uint32_t)sched_getcpu();
    atomic_store_explicit(&b->page->side[b->side].cpu, mine, memory_order_relaxed);
    return atomic_load_explicit(&b->page->side[1 - b->side].cpu, memory_order_relaxed) == mine;
}
