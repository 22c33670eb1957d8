/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tokens behind a profile: any bytes have some or none, and what is found lies within them and
 * is written the same again.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "control/calibration_text.h"

#define N_AT 16u /* of the foot */

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition))                                                                          \
            abort();                                                                               \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The hash keeps a fuzzer out: it is made right where the foot's count says that it begins. */
static void set_hash(uint8_t *src, size_t size)
{
    uint32_t n;
    uint64_t hash;

    if (size < CALIBRATION_TEXT_FOOT)
        return;
    memcpy(&n, src + size - CALIBRATION_TEXT_FOOT + N_AT, sizeof(n));
    if (n > (size - CALIBRATION_TEXT_FOOT) / 4)
        return;
    const size_t at = size - CALIBRATION_TEXT_FOOT - (size_t)n * 4;
    hash = XXH3_64bits(src + at, size - at - sizeof(hash));
    memcpy(src + size - sizeof(hash), &hash, sizeof(hash));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *src = malloc(size ? size : 1);
    struct calibration_text t;

    memcpy(src, data, size);
    set_hash(src, size);
    if (calibration_text_find(src, size, &t) == 0) {
        size_t len;

        REQUIRE(t.n && t.window && t.n % t.window == 0 && t.at <= size);
        REQUIRE(t.ids == src + t.at && t.at + 4 * (size_t)t.n + CALIBRATION_TEXT_FOOT == size);
        int32_t *ids = malloc((size_t)t.n * sizeof(*ids));
        memcpy(ids, t.ids, (size_t)t.n * sizeof(*ids));
        for (size_t i = 0; i < t.n; i++)
            REQUIRE(ids[i] >= 0);
        uint8_t *again = calibration_text_make(ids, t.n, t.window, t.fingerprint, &len);
        REQUIRE(len == size - t.at && memcmp(again, src + t.at, len) == 0);
        free(again);
        free(ids);
    }
    free(src);
    return 0;
}
