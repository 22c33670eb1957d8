/* SPDX-License-Identifier: Apache-2.0 */
/* --split, --codec and --profile together: what becomes of them, and what is refused with which
 * words. The model is a file of one tensor, the profile is made up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "codec/synth.h"
#include "control/cmd.h"
#include "control/profile.h"
#include "control/split_plan.h"
#include "tests/unit/model/gguf_build.h"

#define SPLIT 10u

static struct build file, other_file;
static struct model model, other_model;
static uint8_t *profile_bytes;
static size_t profile_len;
static char path[] = "/tmp/isthmus-profile-XXXXXX";

static void build_model(struct build *b, const char *name, struct model *m)
{
    char err[GGUF_ERR];

    put_header(b, 1, 1);
    put_kv_str(b, "general.name", name);
    put_tensor(b, "t", 0, 32, 1, 0);
    put_pad(b, 32);
    put_data(b, 128);
    *m = (struct model){.path = name, .n_layers = 30};
    assert_int_equal(gguf_open_mem(b->bytes, b->n, name, &m->gguf, err), 0);
}

static int set_up(void **state)
{
    (void)state;
    char err[CODEC_PROFILE_ERR];
    struct codec_profile *p;

    build_model(&file, "this.gguf", &model);
    build_model(&other_file, "other.gguf", &other_model);
    assert_int_equal(codec_synth_profile(64, 8, 1, &p), 0);
    p->split = SPLIT;
    assert_int_equal(gguf_fingerprint(model.gguf, p->fingerprint), 0);
    assert_int_equal(codec_profile_serialize(p, &profile_bytes, &profile_len, err), 0);
    codec_profile_free(p);
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(path);
    gguf_close(model.gguf);
    gguf_close(other_model.gguf);
    free(file.bytes);
    free(other_file.bytes);
    free(profile_bytes);
    return 0;
}

static void write_profile(const uint8_t *bytes, size_t len)
{
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static struct split_options options(int split, const char *profile)
{
    return (struct split_options){
        .split = split, .codec = codec_params_default(CODEC_TSQ), .profile = profile};
}

static struct split_options with_codec(int split, enum codec_mode mode, const char *profile)
{
    struct split_options o = options(split, profile);

    o.codec = codec_params_default(mode);
    o.codec_given = true;
    return o;
}

static struct split_plan planned(struct split_options o)
{
    struct split_plan plan;

    assert_int_equal(split_plan(&o, &model, &plan), EXIT_OK);
    assert_int_equal(codec_params_check(&plan.codec), 0);
    return plan;
}

/* Run with what is said kept in `said`. */
static int plan_saying(const struct split_options *o, const struct model *m,
                       struct split_plan *plan, char said[1024])
{
    const int kept = dup(STDERR_FILENO), memory = memfd_create("stderr", 0);

    fflush(stderr);
    dup2(memory, STDERR_FILENO);
    const int rc = split_plan(o, m, plan);
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    const ssize_t n = pread(memory, said, 1023, 0);
    said[n > 0 ? n : 0] = '\0';
    close(kept);
    close(memory);
    return rc;
}

static void refused(struct split_options o, const struct model *m, const char *words)
{
    struct split_plan plan;
    char said[1024];

    const int rc = plan_saying(&o, m, &plan, said);
    if (rc != EXIT_USAGE || !strstr(said, words))
        fail_msg("exit code %d, says: %s", rc, said);
}

static void without_a_profile(void **state)
{
    (void)state;
    struct split_plan plan = planned(options(-1, NULL));
    assert_int_equal(plan.split, 10);
    assert_int_equal(plan.codec.mode, CODEC_TSQ);
    plan = planned(with_codec(7, CODEC_RANS, NULL));
    assert_int_equal(plan.split, 7);
    assert_int_equal(plan.codec.mode, CODEC_RANS);
    assert_null(plan.codec.profile);
}

static void xform_without_a_profile_is_tsq(void **state)
{
    (void)state;
    const struct split_options o = with_codec(7, CODEC_XFORM, NULL);
    struct split_plan plan;
    char said[1024];

    assert_int_equal(plan_saying(&o, &model, &plan, said), EXIT_OK);
    assert_int_equal(plan.codec.mode, CODEC_TSQ);
    assert_non_null(strstr(said, "tsq is used instead"));
    assert_int_equal(plan_saying(&o, &model, &plan, said), EXIT_OK);
    assert_string_equal(said, ""); /* once is enough */
}

static void with_a_profile(void **state)
{
    (void)state;
    write_profile(profile_bytes, profile_len);
    struct split_plan plan = planned(options(-1, path));
    assert_int_equal(plan.split, SPLIT);
    assert_int_equal(plan.codec.mode, CODEC_XFORM);
    assert_ptr_equal(plan.codec.profile, plan.profile);
    split_plan_free(&plan);
    plan = planned(with_codec(SPLIT, CODEC_RANS, path));
    assert_int_equal(plan.codec.mode, CODEC_RANS);
    assert_ptr_equal(plan.codec.profile, plan.profile);
    split_plan_free(&plan);
}

static void what_does_not_fit(void **state)
{
    (void)state;
    write_profile(profile_bytes, profile_len);
    refused(options(11, path), &model, "is for split 10, not 11");
    refused(options(30, path), &model, "1 to 29");
    refused(options(-1, path), &other_model, "of another model");
    refused(with_codec(SPLIT, CODEC_F16, path), &model, "f16 uses none");
    refused(with_codec(SPLIT, CODEC_XFORM, "/tmp"), &model, "not a codec profile");
    refused(with_codec(SPLIT, CODEC_XFORM, "/none.prof"), &model, "/none.prof");
}

static void damaged(void **state)
{
    (void)state;
    for (size_t len = 0; len < profile_len; len += 1 + len / 4) {
        write_profile(profile_bytes, len);
        refused(options(-1, path), &model, path);
    }
    for (size_t at = 0; at < profile_len; at += 1 + profile_len / 97) {
        profile_bytes[at] ^= 0x10;
        write_profile(profile_bytes, profile_len);
        profile_bytes[at] ^= 0x10;
        refused(options(-1, path), &model, path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_profile), cmocka_unit_test(xform_without_a_profile_is_tsq),
        cmocka_unit_test(with_a_profile),    cmocka_unit_test(what_does_not_fit),
        cmocka_unit_test(damaged),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
