/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/pipeline/fit.h"

#include <stdio.h>
#include <string.h>

#include "compute/stage.h"

static void hex(char *to, const uint8_t *bytes, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        sprintf(to + 2 * i, "%02x", bytes[i]);
}

enum proto_reason fit_check(const struct proto_open *edge, const struct proto_status *cloud,
                            char *text, size_t room)
{
    char a[33], b[33], edge_codec[PROTO_CODEC_TEXT_MAX], cloud_codec[PROTO_CODEC_TEXT_MAX];

    if (memcmp(edge->fingerprint, cloud->fingerprint, sizeof edge->fingerprint)) {
        hex(a, edge->fingerprint, 16);
        hex(b, cloud->fingerprint, 16);
        snprintf(text, room, "model mismatch: edge %s, cloud %s", a, b);
        return PROTO_BAD_MODEL;
    }
    if (edge->split != cloud->split) {
        snprintf(text, room, "split mismatch: edge ends before layer %u, cloud begins at layer %u",
                 edge->split, cloud->split);
        return PROTO_BAD_SPLIT;
    }
    if (edge->codec_id != cloud->codec_id ||
        memcmp(edge->profile, cloud->profile, sizeof edge->profile)) {
        snprintf(text, room,
                 "codec mismatch: edge %s, cloud %s: give both the same --codec and --profile",
                 proto_codec_text(edge->codec_id, edge->profile, edge_codec),
                 proto_codec_text(cloud->codec_id, cloud->profile, cloud_codec));
        return PROTO_BAD_CODEC;
    }
    if ((edge->numerics_id ^ cloud->numerics_id) & ~STAGE_NUMERICS_KV) {
        snprintf(text, room, "numerics mismatch: edge %08x, cloud %08x: different arithmetic",
                 edge->numerics_id, cloud->numerics_id);
        return PROTO_BAD_NUMERICS;
    }
    if (!edge->has_head && cloud->headless) {
        snprintf(text, room,
                 "this cloud has no head (--head edge): start the edge with --head edge, too, or "
                 "the cloud without it");
        return PROTO_BAD_HEAD;
    }
    return 0;
}

void fit_add_parent(char *text, size_t room, const char *whose, const uint8_t parent[16])
{
    const size_t n = strlen(text);
    char id[33];

    hex(id, parent, 16);
    snprintf(text + n, room - n, " (%s is a half of %s)", whose, id);
}
