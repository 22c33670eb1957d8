/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filling matrices from a file: the same panels whatever way it is read and by how many, nothing
 * but them in memory, and a clear error when the disk, the file or the kernel does not play along.
 * The linker's
 * --wrap lets the tests stand in for the kernel.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compute/arch/fill.h"
#include "compute/kernels/internal.h"
#include "tests/unit/model/gguf_build.h"

/* --- a kernel with faults -------------------------------------------------------------------- */

static struct {
    bool no_ring, no_direct, ring_reads_fail;
    long preads_left; /* until one fails; -1: none does */
} fault;

static struct team *team;

int __real_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
    return fault.no_ring ? -EPERM : __real_io_uring_queue_init(entries, ring, flags);
}

/* Reads of a descriptor that is not open fail. */
int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring)
{
    if (fault.ring_reads_fail)
        ring->sq.sqes[(ring->sq.sqe_tail - 1) & ring->sq.ring_mask].fd = -1;
    return __real_io_uring_submit(ring);
}

ssize_t __real_pread64(int fd, void *buf, size_t n, off_t at);
ssize_t __wrap_pread64(int fd, void *buf, size_t n, off_t at);
ssize_t __wrap_pread64(int fd, void *buf, size_t n, off_t at)
{
    if (fault.preads_left == 0) {
        errno = EIO;
        return -1;
    }
    fault.preads_left -= fault.preads_left > 0;
    return __real_pread64(fd, buf, n, at);
}

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...)
{
    if (fault.no_direct && flags & O_DIRECT) {
        errno = EINVAL;
        return -1;
    }
    return __real_open64(path, flags);
}

/* --- a file and its jobs --------------------------------------------------------------------- */

static const struct {
    const char *name;
    enum qtype type;
    uint32_t rows, cols; /* rows 0: a vector */
} tensors[] = {
    {"first.weight", QTYPE_Q8_0, 1500, 576},   {"norm.weight", QTYPE_F32, 0, 776},
    {"middle.weight", QTYPE_Q4_K, 2000, 1024}, {"odd.weight", QTYPE_F16, 33, 96},
    {"wide.weight", QTYPE_F32, 20, 40032}, /* 16 rows are more than a piece */
    {"last.weight", QTYPE_Q6_K, 1, 256},
};
enum { N = sizeof(tensors) / sizeof(tensors[0]), NORM = 1, MIDDLE = 2 };

static struct build file;
static char path[] = "/var/tmp/isthmus-load-XXXXXX"; /* seldom a tmpfs */

static size_t bytes_of(unsigned i)
{
    const struct qtype_info *q = qtype_info(tensors[i].type);
    size_t rows = tensors[i].rows ? tensors[i].rows : 1;

    return rows * tensors[i].cols / q->block_values * q->block_bytes;
}

static void write_file(void)
{
    int fd = open(path, O_WRONLY | O_TRUNC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, file.bytes, file.n), (ssize_t)file.n);
    close(fd);
}

static int make(void **state)
{
    uint32_t random = 1;
    uint64_t at = 0;
    unsigned used;

    put_header(&file, N, 0);
    for (unsigned i = 0; i < N; i++) {
        put_str(&file, tensors[i].name);
        put_u32(&file, tensors[i].rows ? 2 : 1);
        put_u64(&file, tensors[i].cols);
        if (tensors[i].rows)
            put_u64(&file, tensors[i].rows);
        put_u32(&file, tensors[i].type);
        put_u64(&file, at);
        at = (at + bytes_of(i) + 31) / 32 * 32;
    }
    put_pad(&file, 32);
    for (; at; at--) { /* no byte makes a float that is not finite */
        random = random * 1664525 + 1013904223;
        put(&file, &(uint8_t){random >> 24 & 0xbb}, 1);
    }
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    return team_open(0, -1, &team, &used);
}

static int unmake(void **state)
{
    team_close(team);
    unlink(path);
    free(file.bytes);
    return 0;
}

struct heard {
    uint64_t done, total;
    unsigned calls, notes;
};

static void progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    struct heard *h = arg;

    assert_true(done_bytes > h->done && done_bytes <= total_bytes);
    h->done = done_bytes;
    h->total = total_bytes;
    h->calls++;
}

static void note(void *arg, const char *line)
{
    assert_non_null(strstr(line, "io_uring"));
    ((struct heard *)arg)->notes++;
}

static unsigned open_files(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");

    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* Fill all tensors of g anew and, when that works, hold them against the file's bytes. */
static int fill(const struct gguf *g, enum gguf_reading how, struct team *by, struct heard *h,
                char *err)
{
    const struct loading loading = {.progress = progress, .note = note, .arg = h};
    struct fill_job jobs[N];
    const unsigned files = open_files();

    *h = (struct heard){0};
    for (unsigned i = 0; i < N; i++) {
        jobs[i] = (struct fill_job){.t = gguf_tensor_at(g, i)};
        if (tensors[i].rows)
            assert_int_equal(
                mat_new(tensors[i].type, tensors[i].rows, tensors[i].cols, &jobs[i].mat), 0);
        else
            jobs[i].vector = malloc(tensors[i].cols * sizeof(float));
    }
    int rc = weights_fill(g, jobs, N, how, by, &loading, err);
    for (unsigned i = 0; i < N; i++) {
        const uint8_t *src = file.bytes + jobs[i].t->offset;

        if (rc == 0 && jobs[i].mat) {
            struct mat *want;
            assert_int_equal(
                mat_from_blocks(tensors[i].type, src, tensors[i].rows, tensors[i].cols, &want), 0);
            assert_memory_equal(jobs[i].mat->panels, want->panels, want->bytes);
            mat_free(want);
        } else if (rc == 0) {
            float want[776];
            qtype_dequantize(tensors[i].type, src, want, tensors[i].cols);
            assert_memory_equal(jobs[i].vector, want, sizeof(want));
        }
        mat_free(jobs[i].mat);
        free(jobs[i].vector);
    }
    assert_int_equal(open_files(), files);
    return rc;
}

static struct gguf *open_model(void)
{
    char err[GGUF_ERR];
    struct gguf *g;

    fault = (typeof(fault)){.preads_left = -1};
    write_file();
    if (gguf_open(path, &g, err))
        fail_msg("%s", err);
    return g;
}

/* --- all is well ----------------------------------------------------------------------------- */

static void test_every_way(void **state)
{
    struct gguf *g = open_model();
    char err[GGUF_ERR];
    struct heard h;
    uint64_t total = 0;

    for (unsigned i = 0; i < N; i++)
        total += bytes_of(i);
    for (unsigned threads = 1; threads <= 4; threads++) {
        struct team *by;
        unsigned used;

        assert_int_equal(team_open(threads, -1, &by, &used), 0);
        for (int how = GGUF_READ_PLAIN; how <= GGUF_READ_DIRECT; how++) {
            if (fill(g, (enum gguf_reading)how, by, &h, err))
                fail_msg("way %d, %u threads: %s", how, used, err);
            assert_true(h.calls > 0);
            assert_int_equal(h.total, total);
            if (used == 1)
                assert_int_equal(h.done, total);
            assert_int_equal(h.notes, 0);
        }
        team_close(by);
    }
    gguf_close(g);
}

static void test_in_memory(void **state)
{
    char err[GGUF_ERR];
    struct gguf *g;
    struct heard h;

    assert_int_equal(gguf_open_mem(file.bytes, file.n, "memory", &g, err), 0);
    assert_int_equal(fill(g, GGUF_READ_DIRECT, team, &h, err), 0);
    gguf_close(g);
}

/* --- what is not to be had is done without --------------------------------------------------- */

static void test_without(void **state)
{
    struct gguf *g = open_model();
    char err[GGUF_ERR];
    struct heard h;

    fault.no_direct = true;
    assert_int_equal(fill(g, GGUF_READ_DIRECT, team, &h, err), 0);
    assert_int_equal(h.notes, 0);
    fault.ring_reads_fail = true;
    assert_int_equal(fill(g, GGUF_READ_QUEUED, team, &h, err), 0);
    fault.no_ring = true;
    assert_int_equal(fill(g, GGUF_READ_QUEUED, team, &h, err), 0);
    assert_int_equal(h.notes, 1);
    gguf_close(g);
}

/* --- errors ---------------------------------------------------------------------------------- */

static void refused(const struct gguf *g, enum gguf_reading how, int rc, const char *tensor,
                    const char *why)
{
    char err[GGUF_ERR] = "";
    struct heard h;

    assert_int_equal(fill(g, how, team, &h, err), rc);
    if (!strstr(err, path) || !strstr(err, tensor) || !strstr(err, why))
        fail_msg("\"%s\" does not say %s of %s", err, why, tensor);
}

/* The file ends in the middle of a tensor, after it was opened. */
static void test_shorter(void **state)
{
    for (int how = GGUF_READ_PLAIN; how <= GGUF_READ_DIRECT; how++) {
        struct gguf *g = open_model();
        const struct gguf_tensor *t = gguf_tensor_at(g, MIDDLE);

        assert_int_equal(truncate(path, (off_t)(t->offset + t->bytes / 3)), 0);
        refused(g, (enum gguf_reading)how, -EIO, "middle.weight", "shorter");
        gguf_close(g);
    }
}

/* The disk fails, at any read there is. */
static void test_disk_error(void **state)
{
    struct gguf *g = open_model();

    for (int ring = 0; ring < 2; ring++) {
        unsigned failures = 0;

        for (long n = 0;; n++) {
            char err[GGUF_ERR] = "";
            struct team *one;
            struct heard h;
            unsigned used;

            assert_int_equal(team_open(1, -1, &one, &used), 0);
            fault = (typeof(fault)){.preads_left = n, .ring_reads_fail = ring};
            int rc = fill(g, ring ? GGUF_READ_QUEUED : GGUF_READ_PLAIN, one, &h, err);
            team_close(one);
            if (rc == 0)
                break;
            assert_int_equal(rc, -EIO);
            assert_non_null(strstr(err, path));
            assert_non_null(strstr(err, "read error"));
            assert_non_null(strstr(err, ".weight"));
            failures++;
        }
        assert_true(failures > 2 * N); /* tensors are read in several pieces */
    }
    fault = (typeof(fault)){.preads_left = 2};
    refused(g, GGUF_READ_PLAIN, -EIO, ".weight", "read error");
    gguf_close(g);
}

static void test_no_number(void **state)
{
    static const uint8_t nan[4] = {0xff, 0xff, 0xff, 0x7f};

    for (int how = GGUF_READ_PLAIN; how <= GGUF_READ_DIRECT; how++) {
        struct gguf *g = open_model();
        const struct gguf_tensor *middle = gguf_tensor_at(g, MIDDLE),
                                 *norm = gguf_tensor_at(g, NORM);
        int fd = open(path, O_WRONLY);

        /* of row 1234: its first block's two scales */
        const off_t spoilt = (off_t)(middle->offset + 1234 * 4 * 144);
        assert_int_equal(pwrite(fd, nan, 4, spoilt), 4);
        refused(g, (enum gguf_reading)how, -EBADMSG, "middle.weight", "in rows ");
        assert_int_equal(pwrite(fd, file.bytes + spoilt, 4, spoilt), 4);
        assert_int_equal(pwrite(fd, nan, 4, (off_t)norm->offset), 4);
        close(fd);
        refused(g, (enum gguf_reading)how, -EBADMSG, "norm.weight", "NaN value");
        gguf_close(g);
    }
}

/* --- memory ---------------------------------------------------------------------------------- */

static size_t status_bytes(const char *key)
{
    char line[128];
    size_t kb = 0;
    FILE *f = fopen("/proc/self/status", "r");

    while (fgets(line, sizeof(line), f))
        if (!strncmp(line, key, strlen(key)))
            kb = strtoull(line + strlen(key), NULL, 10);
    fclose(f);
    assert_true(kb > 0);
    return kb << 10;
}

#define SLACK ((size_t)8 << 20)

/* The peak is the end: the panels, and a buffer that does not grow with the model. */
static void test_peak(void **state)
{
    enum { ROWS = 100000, COLS = 1024 }; /* Q8_0: 109 MB */
    const size_t bytes = (size_t)ROWS * COLS / 32 * 34;
    struct build b = {0};
    char err[GGUF_ERR], big[] = "/var/tmp/isthmus-load-XXXXXX";
    const struct loading quiet = {0};
    struct gguf *g;

    put_header(&b, 1, 0);
    put_tensor(&b, "big.weight", QTYPE_Q8_0, COLS, ROWS, 0);
    put_pad(&b, 32);
    int fd = mkstemp(big);
    assert_int_equal(write(fd, b.bytes, b.n), (ssize_t)b.n);
    assert_int_equal(ftruncate(fd, (off_t)(b.n + bytes)), 0); /* zeros are weights too */
    free(b.bytes);
    fault = (typeof(fault)){.preads_left = -1};
    assert_int_equal(gguf_open(big, &g, err), 0);
    for (int how = GGUF_READ_PLAIN; how <= GGUF_READ_DIRECT; how++) {
        struct fill_job job = {.t = gguf_tensor_at(g, 0)};

        assert_int_equal(mat_new(QTYPE_Q8_0, ROWS, COLS, &job.mat), 0);
        int clear = open("/proc/self/clear_refs", O_WRONLY); /* the peak, from here on */
        assert_int_equal(write(clear, "5", 1), 1);
        close(clear);
        const size_t before = status_bytes("VmRSS:");
        assert_int_equal(weights_fill(g, &job, 1, (enum gguf_reading)how, team, &quiet, err), 0);
        const size_t after = status_bytes("VmRSS:"), peak = status_bytes("VmHWM:");
        print_message("way %d: %zu MB of tensors; %zu MB more resident, at the peak %zu\n", how,
                      bytes >> 20, (after - before) >> 20, (peak - before) >> 20);
        assert_true(after - before >= bytes);
        assert_true(after - before <= bytes + bytes / 32 + SLACK);
        assert_true(peak - after <= SLACK);
        mat_free(job.mat);
    }
    gguf_close(g);
    close(fd);
    unlink(big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_way),  cmocka_unit_test(test_in_memory),
        cmocka_unit_test(test_without),    cmocka_unit_test(test_shorter),
        cmocka_unit_test(test_disk_error), cmocka_unit_test(test_no_number),
        cmocka_unit_test(test_peak),
    };
    return cmocka_run_group_tests(tests, make, unmake);
}
