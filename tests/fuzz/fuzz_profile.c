/* SPDX-License-Identifier: Apache-2.0 */
/* Profiles: any bytes are parsed or refused, and what is parsed serializes to the same bytes. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "codec/profile.h"

#define HASH_AT     8u
#define HASHED_FROM 24u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *src = malloc(size ? size : 1), *bytes;
    struct codec_profile *p;
    char err[CODEC_PROFILE_ERR];
    size_t len;

    memcpy(src, data, size);
    if (size >= HASHED_FROM) { /* the hash keeps a fuzzer out */
        XXH128_canonical_t canonical;
        XXH128_canonicalFromHash(&canonical, XXH3_128bits(src + HASHED_FROM, size - HASHED_FROM));
        memcpy(src + HASH_AT, canonical.digest, 16);
    }
    if (codec_profile_parse(src, size, &p, err) == 0) {
        if (codec_profile_serialize(p, &bytes, &len, err) || len != size || memcmp(bytes, src, len))
            abort();
        free(bytes);
        codec_profile_free(p);
    }
    free(src);
    return 0;
}
