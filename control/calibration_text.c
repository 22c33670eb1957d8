/* SPDX-License-Identifier: Apache-2.0 */
#include "control/calibration_text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define MAGIC       "ISTHTEXT"
#define MAGIC_BYTES 8u
#define VERSION     1u
#define HASH_BYTES  8u

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "fields are copied as they are");

struct foot {
    char magic[MAGIC_BYTES];
    uint32_t version, window, n, reserved;
    uint8_t fingerprint[16];
    uint64_t hash;
};
_Static_assert(sizeof(struct foot) == CALIBRATION_TEXT_FOOT, "no padding");

int calibration_text_find(const uint8_t *bytes, size_t len, struct calibration_text *t)
{
    struct foot foot;

    if (len < sizeof(foot))
        return -ENOENT;
    memcpy(&foot, bytes + len - sizeof(foot), sizeof(foot));
    if (memcmp(foot.magic, MAGIC, MAGIC_BYTES) != 0)
        return -ENOENT;
    if (foot.version != VERSION)
        return -ENOTSUP;
    if (foot.n > (len - sizeof(foot)) / sizeof(uint32_t) || foot.window == 0 || foot.n == 0 ||
        foot.n % foot.window || foot.reserved)
        return -EBADMSG;
    const size_t at = len - sizeof(foot) - (size_t)foot.n * sizeof(uint32_t);
    if (XXH3_64bits(bytes + at, len - at - HASH_BYTES) != foot.hash)
        return -EBADMSG;
    *t = (struct calibration_text){.ids = bytes + at, .n = foot.n, .window = foot.window, .at = at};
    memcpy(t->fingerprint, foot.fingerprint, sizeof(t->fingerprint));
    for (size_t i = 0; i < foot.n; i++)
        if (t->ids[4 * i + 3] & 0x80)
            return -EBADMSG;
    return 0;
}

uint8_t *calibration_text_make(const int32_t *ids, uint32_t n, uint32_t window,
                               const uint8_t fingerprint[16], size_t *len)
{
    const size_t ids_bytes = (size_t)n * sizeof(*ids);
    struct foot foot = {.magic = MAGIC, .version = VERSION, .window = window, .n = n};
    uint8_t *bytes = malloc(ids_bytes + sizeof(foot));

    if (!bytes)
        return NULL;
    *len = ids_bytes + sizeof(foot);
    memcpy(foot.fingerprint, fingerprint, sizeof(foot.fingerprint));
    memcpy(bytes, ids, ids_bytes);
    memcpy(bytes + ids_bytes, &foot, sizeof(foot));
    foot.hash = XXH3_64bits(bytes, *len - HASH_BYTES);
    memcpy(bytes + ids_bytes, &foot, sizeof(foot));
    return bytes;
}
