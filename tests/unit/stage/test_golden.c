/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hidden states of a real model against an f32 reference, layer by layer: golden/
 * smollm2-hidden-f32.bin, f32 little-endian [31][5][576], the embedding and then each layer's
 * output.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compute/embed.h"
#include "compute/gguf.h"
#include "compute/stage.h"
#include "compute/team.h"

enum { LAYERS = 30, TOKENS = 5, WIDTH = 576 };

static const int32_t prompt[TOKENS] = {504, 3575, 282, 4649, 314}; /* The capital of France is */
static float golden[LAYERS + 1][TOKENS][WIDTH];
static struct gguf *model;
static struct team *team;

/* The largest relative error of a row. */
static double worst_error(float x[TOKENS][WIDTH], float want[TOKENS][WIDTH])
{
    double worst = 0;

    for (int t = 0; t < TOKENS; t++) {
        double diff = 0, norm = 0;

        for (int i = 0; i < WIDTH; i++) {
            double d = (double)x[t][i] - want[t][i];

            diff += d * d;
            norm += (double)want[t][i] * want[t][i];
        }
        worst = fmax(worst, sqrt(diff / norm));
    }
    return worst;
}

static void embedding(void **state)
{
    static float x[TOKENS][WIDTH];
    struct embed *e;
    char err[GGUF_ERR];

    assert_int_equal(embed_open(model, gguf_find(model, "token_embd.weight"), &e, err), 0);
    assert_int_equal(embed_rows(e, prompt, TOKENS, &x[0][0]), 0);
    assert_memory_equal(x, golden[0], sizeof(x));
    embed_close(e);
}

/* One stage a layer, each fed by the one before: errors add up as in the whole model. */
static double chain_error(bool exact)
{
    static float in[TOKENS][WIDTH], out[TOKENS][WIDTH];
    double worst = 0;

    for (uint32_t l = 0; l < LAYERS - 1; l++) {
        struct stage_params p = {
            .first_layer = l, .end_layer = l + 1, .max_rows = TOKENS, .exact = exact};
        struct stage *s;
        char err[GGUF_ERR];

        if (stage_open(model, &p, team, &s, err))
            fail_msg("%s", err);
        struct stage_rows r = {.seq = stage_seq_open(s, TOKENS), .n = TOKENS};
        assert_int_equal(
            stage_run(s, &r, 1, l ? NULL : prompt, l ? &in[0][0] : NULL, &out[0][0], NULL), 0);
        stage_close(s);
        worst = fmax(worst, worst_error(out, golden[l + 1]));
        memcpy(in, out, sizeof(in));
    }
    print_message("%s: largest relative error of a row %.2g\n", exact ? "f32" : "int8", worst);
    return worst;
}

static void layers_exact(void **state)
{
    assert_true(chain_error(true) < 2e-3);
}

static void layers_int8(void **state)
{
    assert_true(chain_error(false) < .1);
}

static int skipped(const char *why)
{
    printf("skipped: %s\n", why);
    return 77;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embedding),
        cmocka_unit_test(layers_exact),
        cmocka_unit_test(layers_int8),
    };
    const char *shared = getenv("ISTHMUS_SHARED"), *path = getenv("ISTHMUS_SMOLLM2");
    char name[4096], err[GGUF_ERR];
    unsigned used;

    snprintf(name, sizeof(name), "%s/golden/smollm2-hidden-f32.bin",
             shared ? shared : ISTHMUS_SOURCE_ROOT "/../shared");
    FILE *f = fopen(name, "rb");
    if (!f || !path)
        return skipped(f ? "ISTHMUS_SMOLLM2 names no model" : "no golden/smollm2-hidden-f32.bin");
    size_t got = fread(golden, 1, sizeof(golden), f);
    fclose(f);
    if (got != sizeof(golden) || gguf_open(path, &model, err) || team_open(2, -1, &team, &used)) {
        printf("cannot read the golden file or the model\n");
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    team_close(team);
    gguf_close(model);
    return failed;
}
