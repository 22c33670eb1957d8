/* SPDX-License-Identifier: Apache-2.0 */
/* Files that tell the truth, and one for each lie that the reader must see through. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "compute/gguf.h"
#include "gguf_build.h"

#define F32  0
#define Q8_0 8

/* --- opening ---------------------------------------------------------------------------------- */

/* In a block of its own size, so that a sanitizer sees every byte read past. */
static int open_exact(const struct build *b, size_t n, void **copy, struct gguf **g, char *err)
{
    *copy = malloc(n ? n : 1);
    assert_non_null(*copy);
    if (n)
        memcpy(*copy, b->bytes, n);
    int rc = gguf_open_mem(*copy, n, "the file", g, err);
    if (rc)
        free(*copy);
    return rc;
}

static int as_file(const struct build *b, char path[64])
{
    int fd = memfd_create("gguf", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, b->bytes, b->n), (ssize_t)b->n);
    snprintf(path, 64, "/proc/self/fd/%d", fd);
    return fd;
}

/* Refused from memory and from a file alike, in one line that has the words. */
static void refuse(struct build *b, int rc, const char *words)
{
    char err[GGUF_ERR] = "", from_file[GGUF_ERR] = "", path[64];
    struct gguf *g;
    void *copy;
    int got = open_exact(b, b->n, &copy, &g, err);
    if (got != rc || !strstr(err, words) || strncmp(err, "the file: ", 10) != 0 ||
        strchr(err, '\n'))
        fail_msg("got %d \"%s\", must be %d and have \"%s\"", got, err, rc, words);
    int fd = as_file(b, path);
    assert_int_equal(gguf_open(path, &g, from_file), rc);
    assert_string_equal(strchr(from_file, ':'), strchr(err, ':'));
    close(fd);
    free(b->bytes);
}

#define LIE(name) static void lie_##name(void **state)

LIE(magic)
{
    struct build b = {0};
    put(&b, "GGML\3\0\0\0", 8);
    put_data(&b, 64);
    refuse(&b, -EBADMSG, "not a GGUF file");
}

static void version(uint32_t v, const char *words)
{
    struct build b = {0};
    put(&b, "GGUF", 4);
    put_u32(&b, v);
    put_u64(&b, 0);
    put_u64(&b, 0);
    refuse(&b, -ENOTSUP, words);
}

LIE(version)
{
    version(1, "version 1 is not supported; supported: 2 3");
    version(4, "version 4 is not supported");
    version(0x03000000, "big-endian");
}

LIE(counts)
{
    const uint64_t counts[] = {5, 1ull << 32, UINT64_MAX};
    for (size_t i = 0; i < 3; i++) {
        struct build b = {0};
        put_header(&b, counts[i], 0);
        put_data(&b, 40);
        refuse(&b, -EBADMSG, "tensors can't fit");
        b = (struct build){0};
        put_header(&b, 0, counts[i]);
        put_data(&b, 40);
        refuse(&b, -EBADMSG, "metadata can't fit");
    }
}

static void key_length(uint64_t len, const char *words)
{
    struct build b = {0};
    put_header(&b, 0, 1);
    put_u64(&b, len);
    put_data(&b, 100);
    refuse(&b, -EBADMSG, words);
}

LIE(key)
{
    key_length(0, "metadata 0: key of 0 bytes");
    key_length(101, "metadata 0: key needs 101 bytes, the file has 100 left");
    key_length(65536, "key of 65536 bytes");
    key_length(UINT64_MAX, "key of 18446744073709551615 bytes");

    struct build b = {0};
    put_header(&b, 0, 1);
    put_bytes(&b, "a\0b", 3);
    put_u32(&b, 4);
    put_u32(&b, 1);
    refuse(&b, -EBADMSG, "zero byte");
}

LIE(key_twice)
{
    struct build b = {0};
    put_header(&b, 0, 3);
    put_kv_u32(&b, "a.b", 1);
    put_kv_u32(&b, "a.c", 1);
    put_kv_str(&b, "a.b", "x");
    refuse(&b, -EBADMSG, "a.b: the key is there twice");
}

LIE(value_type)
{
    struct build b = {0};
    put_header(&b, 0, 1);
    put_key(&b, "k\n\xc2\x9bl", 13); /* U+009B begins a terminal's control sequence */
    put_data(&b, 16);
    refuse(&b, -EBADMSG, "k???l: unknown value type 13");
    b = (struct build){0};
    put_header(&b, 0, 1);
    put_array(&b, "k", 13, 1);
    put_data(&b, 16);
    refuse(&b, -EBADMSG, "k: unknown value type 13");
}

LIE(nested_array)
{
    struct build b = {0};
    put_header(&b, 0, 1);
    put_array(&b, "k", 9, 1);
    put_data(&b, 16);
    refuse(&b, -ENOTSUP, "k: arrays of arrays");
}

LIE(bool)
{
    struct build b = {0};
    put_header(&b, 0, 1);
    put_kv_bool(&b, "k", 2);
    refuse(&b, -EBADMSG, "k: bool is 2");
    b = (struct build){0};
    put_header(&b, 0, 1);
    put_array(&b, "k", 7, 3);
    put(&b, "\0\1\377", 3);
    refuse(&b, -EBADMSG, "k: bool is 255");
}

LIE(string)
{
    const uint64_t lens[] = {3, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < 3; i++) {
        struct build b = {0};
        put_header(&b, 0, 1);
        put_key(&b, "k", 8);
        put_u64(&b, lens[i]);
        put_data(&b, 2);
        refuse(&b, -EBADMSG, "k: string needs");
    }
}

LIE(array_length)
{
    /* 4 x 2^62 elements wrap to 0 bytes */
    const uint64_t lens[] = {3, 1ull << 62, UINT64_MAX};
    for (size_t i = 0; i < 3; i++) {
        struct build b = {0};
        put_header(&b, 0, 1);
        put_array(&b, "k", 5, lens[i]);
        put_data(&b, 8);
        refuse(&b, -EBADMSG, "k: ");
        b = (struct build){0};
        put_header(&b, 0, 1);
        put_array(&b, "k", 8, lens[i]);
        put_data(&b, 8);
        refuse(&b, -EBADMSG, "k: ");
    }
}

LIE(array_string)
{
    struct build b = {0};
    put_header(&b, 0, 1);
    put_array(&b, "k", 8, 2);
    put_str(&b, "one");
    put_u64(&b, 4);
    put_data(&b, 3);
    refuse(&b, -EBADMSG, "k: string in array needs 4 bytes, the file has 3 left");
}

static void alignment(uint32_t v)
{
    struct build b = {0};
    put_header(&b, 0, 1);
    put_kv_u32(&b, "general.alignment", v);
    refuse(&b, -EBADMSG, "general.alignment: ");
}

LIE(alignment)
{
    alignment(0);
    alignment(24);
    alignment(UINT32_MAX);
    alignment(1u << 21);
    struct build b = {0};
    put_header(&b, 0, 1);
    put_kv_str(&b, "general.alignment", "32");
    refuse(&b, -EBADMSG, "general.alignment: ");
}

/* One tensor, two dimensions, enough data for an honest one of 64 bytes. */
static void tensor(uint32_t type, uint64_t ne0, uint64_t ne1, uint64_t offset, int rc,
                   const char *words)
{
    struct build b = {0};
    put_header(&b, 1, 0);
    put_tensor(&b, "t.weight", type, ne0, ne1, offset);
    put_pad(&b, 32);
    put_data(&b, 64);
    refuse(&b, rc, words);
}

LIE(shape)
{
    tensor(F32, 0, 1, 0, -EBADMSG, "tensor t.weight: dimension 0 is zero");
    tensor(F32, 1, 0, 0, -EBADMSG, "tensor t.weight: dimension 1 is zero");
    tensor(F32, 1ull << 32, 1ull << 32, 0, -EBADMSG, "product of the dimensions overflows");
    tensor(F32, UINT64_MAX, 1, 0, -EBADMSG, "product of the dimensions overflows");
    tensor(F32, 1ull << 31, 1ull << 31, 0, -EBADMSG, "size overflows");
    tensor(Q8_0, 33, 1, 0, -EBADMSG, "not a multiple of Q8_0's block of 32");
    tensor(4, 32, 1, 0, -ENOTSUP, "tensor type 4 is not supported; supported: F32 F16");
    for (uint32_t dims = 0; dims < 6; dims += 5) {
        struct build b = {0};
        put_header(&b, 1, 0);
        put_str(&b, "t");
        put_u32(&b, dims);
        put_data(&b, 64);
        refuse(&b, -EBADMSG, "must be 1 to 4");
    }
}

LIE(offset)
{
    tensor(F32, 4, 1, 16, -EBADMSG, "offset 16 is not a multiple of the alignment 32");
    tensor(F32, 16, 1, 32, -EBADMSG, "past the end of the file");
    tensor(F32, 17, 1, 0, -EBADMSG, "past the end of the file");
    tensor(F32, 1, 1, 96, -EBADMSG, "past the end of the file");
    tensor(F32, 1, 1, UINT64_MAX - 31, -EBADMSG, "past the end of the file");
    tensor(F32, 1ull << 60, 1, 0, -EBADMSG, "past the end of the file");
    tensor(F32, 4, 1, 32, -EBADMSG, "data at offset 32, the tensor before it ends at 0");
    for (uint64_t at = 0; at <= 64; at += 64) { /* over the first one, and with a gap */
        struct build b = {0};
        put_header(&b, 2, 0);
        put_tensor(&b, "first", F32, 4, 2, 0);
        put_tensor(&b, "second", F32, 4, 2, at);
        put_pad(&b, 32);
        put_data(&b, 96);
        refuse(&b, -EBADMSG, "tensor second: data at offset");
    }
}

/* The data begins after the alignment, which here lies beyond the end. */
LIE(data_start)
{
    struct build b = {0};
    put_header(&b, 1, 1);
    put_kv_u32(&b, "general.alignment", 1u << 20);
    put_tensor(&b, "t", F32, 1, 1, 0);
    put_data(&b, 64);
    refuse(&b, -EBADMSG, "past the end of the file");
}

LIE(name)
{
    char long_name[257];
    memset(long_name, 'n', 256);
    long_name[256] = 0;
    const char *names[] = {"", long_name};
    for (size_t i = 0; i < 2; i++) {
        struct build b = {0};
        put_header(&b, 1, 0);
        put_tensor(&b, names[i], F32, 1, 1, 0);
        put_pad(&b, 32);
        put_data(&b, 64);
        refuse(&b, -EBADMSG, "tensor 0: name of");
    }
    struct build b = {0};
    put_header(&b, 2, 0);
    put_tensor(&b, "same", F32, 1, 1, 0);
    put_tensor(&b, "same", F32, 1, 1, 32);
    put_pad(&b, 32);
    put_data(&b, 64);
    refuse(&b, -EBADMSG, "tensor same: the name is there twice");
}

/* --- a true file ------------------------------------------------------------------------------ */

static void true_file(struct build *b, uint32_t gguf_version)
{
    put_header(b, 3, 16);
    b->bytes[4] = (uint8_t)gguf_version;
    put_kv_u32(b, "u32", 4000000000u);
    put_key(b, "u8", 0), put_int(b, 200, 1);
    put_key(b, "i8", 1), put_int(b, (uint64_t)-3, 1);
    put_key(b, "u16", 2), put_int(b, 60000, 2);
    put_key(b, "i16", 3), put_int(b, 30000, 2);
    put_key(b, "i32", 5), put_int(b, (uint64_t)-1, 4);
    put_key(b, "f32", 6), put_u32(b, 0x40490fdb);
    put_kv_bool(b, "yes", 1);
    put_kv_str(b, "str", "text");
    put_key(b, "u64", 10), put_u64(b, 77);
    put_key(b, "i64", 11), put_u64(b, 1ull << 32);
    put_key(b, "f64", 12), put_u64(b, 0);
    put_array(b, "i32s", 5, 2), put_u32(b, 7), put_u32(b, 8);
    put_array(b, "f32s", 6, 1), put_u32(b, 0x3f800000);
    put_array(b, "strs", 8, 3), put_str(b, "a"), put_bytes(b, "", 0), put_bytes(b, "c\0d", 3);
    put_kv_u32(b, "general.alignment", 64);
    put_tensor(b, "b", Q8_0, 64, 2, 0);
    put_tensor(b, "a", F32, 3, 5, 192);
    put_str(b, "c");
    put_u32(b, 4);
    put_u64(b, 1), put_u64(b, 2), put_u64(b, 1), put_u64(b, 2);
    put_u32(b, 1);
    put_u64(b, 256);
    put_pad(b, 64);
    put_data(b, 256 + 8);
}

static void check_numbers(const struct gguf *g)
{
    uint32_t v;
    float f;
    bool yes;
    assert_int_equal(gguf_u32(g, "u32", &v), 0);
    assert_true(v == 4000000000u);
    assert_int_equal(gguf_u32(g, "u8", &v), 0);
    assert_int_equal(v, 200);
    assert_int_equal(gguf_u32(g, "u16", &v), 0);
    assert_int_equal(v, 60000);
    assert_int_equal(gguf_u32(g, "i16", &v), 0);
    assert_int_equal(v, 30000);
    assert_int_equal(gguf_u32(g, "u64", &v), 0);
    assert_int_equal(v, 77);
    const char *const unfit[] = {"i8", "i32", "i64", "f32", "f64", "str", "yes", "i32s"};
    for (size_t i = 0; i < sizeof unfit / sizeof unfit[0]; i++)
        assert_int_equal(gguf_u32(g, unfit[i], &v), -EINVAL);
    assert_int_equal(gguf_u32(g, "u3", &v), -ENOENT);
    assert_int_equal(gguf_u32(g, "u322", &v), -ENOENT);
    assert_int_equal(gguf_f32(g, "f32", &f), 0);
    assert_true(f > 3.1415f && f < 3.1416f);
    assert_int_equal(gguf_f32(g, "u32", &f), -EINVAL);
    assert_int_equal(gguf_bool(g, "yes", &yes), 0);
    assert_true(yes);
    assert_int_equal(gguf_bool(g, "u8", &yes), -EINVAL);
}

static void check_strings(const struct gguf *g)
{
    struct gguf_str s;
    struct gguf_str_iter it;
    const void *le32;
    uint64_t n;
    assert_int_equal(gguf_str(g, "str", &s), 0);
    assert_int_equal(s.len, 4);
    assert_memory_equal(s.ptr, "text", 4);
    assert_int_equal(gguf_str(g, "strs", &s), -EINVAL);
    assert_int_equal(gguf_i32_array(g, "i32s", &le32, &n), 0);
    assert_int_equal(n, 2);
    assert_memory_equal(le32, "\7\0\0\0\10\0\0\0", 8);
    assert_int_equal(gguf_f32_array(g, "f32s", &le32, &n), 0);
    assert_int_equal(n, 1);
    assert_int_equal(gguf_f32_array(g, "i32s", &le32, &n), -EINVAL);
    assert_int_equal(gguf_str_array(g, "i32s", &it, &n), -EINVAL);
    assert_int_equal(gguf_str_array(g, "strs", &it, &n), 0);
    assert_int_equal(n, 3);
    assert_true(gguf_str_next(&it, &s) && s.len == 1 && s.ptr[0] == 'a');
    assert_true(gguf_str_next(&it, &s) && s.len == 0);
    assert_true(gguf_str_next(&it, &s) && s.len == 3 && memcmp(s.ptr, "c\0d", 3) == 0);
    assert_false(gguf_str_next(&it, &s));
}

static void check_tensors(const struct gguf *g)
{
    char err[GGUF_ERR];
    uint8_t bytes[64];
    assert_int_equal(gguf_n_tensors(g), 3);
    assert_string_equal(gguf_tensor_at(g, 0)->name, "b");
    assert_string_equal(gguf_tensor_at(g, 2)->name, "c");
    assert_null(gguf_tensor_at(g, 3));
    assert_null(gguf_find(g, "d"));
    const struct gguf_tensor *a = gguf_find(g, "a"), *c = gguf_find(g, "c");
    assert_int_equal(a->type, QTYPE_F32);
    assert_int_equal(a->bytes, 60);
    assert_int_equal(a->ne[0], 3);
    assert_int_equal(a->ne[1], 5);
    assert_int_equal(a->ne[3], 1);
    assert_int_equal(c->n_dims, 4);
    assert_int_equal(c->bytes, 8);
    assert_int_equal(a->offset % 64, 0);
    assert_int_equal(gguf_read(g, a, 1, bytes, 59, err), 0);
    for (unsigned i = 0; i < 59; i++)
        assert_int_equal(bytes[i], (uint8_t)(192 + 1 + i + 1));
    assert_int_equal(gguf_read(g, a, 0, bytes, 61, err), -EINVAL);
    assert_non_null(strstr(err, "tensor a: 61 bytes at 0 are outside"));
    assert_int_equal(gguf_read(g, a, UINT64_MAX, bytes, 2, err), -EINVAL);
    assert_int_equal(gguf_read(g, a, 60, bytes, 0, err), 0);
}

static void test_true_file(void **state)
{
    for (uint32_t v = 2; v <= 3; v++) {
        struct build b = {0};
        struct gguf *g[2];
        char err[GGUF_ERR], path[64];
        uint8_t print[2][16];
        true_file(&b, v);
        int fd = as_file(&b, path);
        assert_int_equal(gguf_open_mem(b.bytes, b.n, "the file", &g[0], err), 0);
        assert_int_equal(gguf_open(path, &g[1], err), 0);
        assert_string_equal(gguf_path(g[1]), path);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(gguf_file_bytes(g[i]), b.n);
            check_numbers(g[i]);
            check_strings(g[i]);
            check_tensors(g[i]);
            assert_int_equal(gguf_fingerprint(g[i], print[i]), 0);
            gguf_close(g[i]);
        }
        assert_memory_equal(print[0], print[1], 16);
        close(fd);
        free(b.bytes);
    }
}

/* Every file that ends too early is refused, wherever it ends. */
static void test_truncated(void **state)
{
    struct build b = {0};
    true_file(&b, 3);
    for (size_t n = 0; n < b.n; n++) {
        char err[GGUF_ERR];
        struct gguf *g;
        void *copy;
        assert_int_equal(open_exact(&b, n, &copy, &g, err), -EBADMSG);
    }
    free(b.bytes);
}

/* Metadata longer than the first read. */
static void test_long_metadata(void **state)
{
    enum { N = 40000 };
    struct build b = {0};
    struct gguf *g;
    struct gguf_str_iter it;
    struct gguf_str s;
    char err[GGUF_ERR], path[64];
    uint64_t n, seen = 0;
    put_header(&b, 0, 2);
    put_array(&b, "strs", 8, N);
    for (int i = 0; i < N; i++) {
        char text[16];
        snprintf(text, sizeof text, "%d", i);
        put_str(&b, text);
    }
    put_kv_u32(&b, "last", 9);
    int fd = as_file(&b, path);
    assert_int_equal(gguf_open(path, &g, err), 0);
    assert_int_equal(gguf_str_array(g, "strs", &it, &n), 0);
    for (; gguf_str_next(&it, &s); seen++)
        assert_int_equal(strtol(s.ptr, NULL, 10), seen);
    assert_int_equal(seen, N);
    gguf_close(g);

    assert_int_equal(ftruncate(fd, (off_t)b.n - 20), 0);
    assert_int_equal(gguf_open(path, &g, err), -EBADMSG);
    close(fd);
    free(b.bytes);
}

static void test_fingerprint(void **state)
{
    struct build b = {0};
    char err[GGUF_ERR];
    uint8_t first[16], other[16];
    struct gguf *g;
    true_file(&b, 3);
    assert_int_equal(gguf_open_mem(b.bytes, b.n, "the file", &g, err), 0);
    const size_t in_data[] = {gguf_find(g, "a")->offset, gguf_find(g, "a")->offset + 59,
                              gguf_find(g, "c")->offset + 7};
    assert_int_equal(gguf_fingerprint(g, first), 0);
    for (size_t i = 0; i < 3; i++) {
        b.bytes[in_data[i]] ^= 1; /* data is read when asked for */
        assert_int_equal(gguf_fingerprint(g, other), 0);
        assert_memory_not_equal(first, other, 16);
        b.bytes[in_data[i]] ^= 1;
    }
    gguf_close(g);
    b.bytes[24 + 8 + 3 + 4] ^= 1; /* the value of the first key, u32 */
    assert_int_equal(gguf_open_mem(b.bytes, b.n, "the file", &g, err), 0);
    assert_int_equal(gguf_fingerprint(g, other), 0);
    assert_memory_not_equal(first, other, 16);
    gguf_close(g);
    put(&b, "", 1); /* only longer */
    b.bytes[24 + 8 + 3 + 4] ^= 1;
    assert_int_equal(gguf_open_mem(b.bytes, b.n, "the file", &g, err), 0);
    assert_int_equal(gguf_fingerprint(g, other), 0);
    assert_memory_not_equal(first, other, 16);
    gguf_close(g);
    free(b.bytes);
}

/* The file gets shorter while it is open: an error, no signal. */
static void test_cut_in_use(void **state)
{
    struct build b = {0};
    struct gguf *g;
    char err[GGUF_ERR], path[64];
    uint8_t bytes[64];
    true_file(&b, 3);
    int fd = as_file(&b, path);
    assert_int_equal(gguf_open(path, &g, err), 0);
    const struct gguf_tensor *a = gguf_find(g, "a");
    assert_int_equal(ftruncate(fd, (off_t)a->offset + 10), 0);
    assert_int_equal(gguf_read(g, a, 0, bytes, 10, err), 0);
    assert_int_equal(gguf_read(g, a, 0, bytes, 60, err), -EIO);
    assert_non_null(strstr(err, "tensor a: "));
    assert_int_equal(gguf_fingerprint(g, bytes), -EIO);
    gguf_close(g);
    close(fd);
    free(b.bytes);
}

static void test_not_a_file(void **state)
{
    char err[GGUF_ERR], folder[] = "/tmp/isthmus-gguf-XXXXXX", fifo[64];
    struct gguf *g;
    assert_int_equal(gguf_open("/nonexistent", &g, err), -ENOENT);
    assert_string_equal(err, "/nonexistent: No such file or directory");
    assert_int_equal(gguf_open("/dev/null", &g, err), -EINVAL);
    assert_non_null(mkdtemp(folder));
    assert_int_equal(gguf_open(folder, &g, err), -EINVAL);
    snprintf(fifo, sizeof fifo, "%s/fifo", folder);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(gguf_open(fifo, &g, err), -EINVAL); /* and does not wait for a writer */
    unlink(fifo);
    rmdir(folder);
    gguf_close(NULL);
}

/* A file of holes is as long as it likes and costs its author nothing: nor may it cost us. */
static void test_sparse(void **state)
{
    struct build b = {0};
    char err[GGUF_ERR], path[64];
    struct gguf *g;
    put_header(&b, 0, 1);
    put_array(&b, "k", 0, 1ull << 40);
    int fd = as_file(&b, path);
    assert_int_equal(ftruncate(fd, 1ll << 41), 0);
    assert_int_equal(gguf_open(path, &g, err), -EBADMSG);
    assert_non_null(strstr(err, "k: value ends at byte"));
    close(fd);
    free(b.bytes);
}

/* A long path must not push the message out of the error. */
static void test_long_path(void **state)
{
    char err[GGUF_ERR], path[1024];
    struct gguf *g;
    memset(path, 'p', sizeof path);
    path[sizeof path - 1] = 0;
    assert_int_equal(gguf_open_mem("GGUF", 4, path, &g, err), -EBADMSG);
    assert_non_null(strstr(err, "ppp: header: version needs 4 bytes, the file has 0 left"));
}

/* Random damage: whatever is accepted can be walked. */
static void test_damage(void **state)
{
    unsigned seed = (unsigned)time(NULL);
    struct build b = {0};
    print_message("seed %u\n", seed);
    true_file(&b, 3);
    for (int round = 0; round < 20000; round++) {
        struct build damaged = {0};
        char err[GGUF_ERR];
        uint8_t print[16];
        struct gguf *g;
        void *copy;
        put(&damaged, b.bytes, b.n);
        for (int i = 0; i < 1 + round % 3; i++)
            damaged.bytes[(size_t)rand_r(&seed) % b.n] = (uint8_t)rand_r(&seed);
        if (open_exact(&damaged, damaged.n, &copy, &g, err) == 0) {
            assert_int_equal(gguf_fingerprint(g, print), 0);
            for (uint32_t i = 0; i < gguf_n_tensors(g); i++) {
                const struct gguf_tensor *t = gguf_tensor_at(g, i);
                assert_ptr_equal(gguf_find(g, t->name), t);
                assert_true(t->offset + t->bytes <= damaged.n);
            }
            gguf_close(g);
            free(copy);
        }
        free(damaged.bytes);
    }
    free(b.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lie_magic),          cmocka_unit_test(lie_version),
        cmocka_unit_test(lie_counts),         cmocka_unit_test(lie_key),
        cmocka_unit_test(lie_key_twice),      cmocka_unit_test(lie_value_type),
        cmocka_unit_test(lie_nested_array),   cmocka_unit_test(lie_bool),
        cmocka_unit_test(lie_string),         cmocka_unit_test(lie_array_length),
        cmocka_unit_test(lie_array_string),   cmocka_unit_test(lie_alignment),
        cmocka_unit_test(lie_shape),          cmocka_unit_test(lie_offset),
        cmocka_unit_test(lie_data_start),     cmocka_unit_test(lie_name),
        cmocka_unit_test(test_true_file),     cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_long_metadata), cmocka_unit_test(test_fingerprint),
        cmocka_unit_test(test_cut_in_use),    cmocka_unit_test(test_not_a_file),
        cmocka_unit_test(test_sparse),        cmocka_unit_test(test_long_path),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
