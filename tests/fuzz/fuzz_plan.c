/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a host's profile, a link's, a link's text or a table of quality: refused with one
 * line, or such that writing it and reading it again gives the same, and that can be asked
 * anything. */
#include <stdlib.h>
#include <string.h>

#include "control/plan/host.h"
#include "control/plan/quality.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct plan_model model = {
    .fingerprint = "00112233445566778899aabbccddeeff", .n_layers = 12, .d_model = 64};

static void refused(int rc, const char *err)
{
    if (rc >= 0 || !err[0] || strchr(err, '\n') || strlen(err) >= PLAN_ERR)
        abort();
}

static void as_host(const char *text, size_t size)
{
    struct plan_host h, again;
    char err[PLAN_ERR] = "";
    const int rc = plan_host_parse(text, size, "file", &h, err);

    if (rc) {
        refused(rc, err);
        return;
    }
    char *once = plan_host_format(&h);
    if (!once)
        return; /* a name that is no UTF-8 can't be: jansson refuses it; memory can be short */
    if (plan_host_parse(once, strlen(once), "again", &again, err) || again.n_rows != h.n_rows ||
        again.n_stages != h.n_stages || again.n_types != h.n_types)
        abort();
    free(once);
}

static void as_link(const char *text, size_t size)
{
    struct plan_link l, again;
    char err[PLAN_ERR] = "", copy[256];
    int rc = plan_link_parse(text, size, "file", &l, err);

    if (rc == 0) {
        char *once = plan_link_format(&l);
        if (once && plan_link_parse(once, strlen(once), "again", &again, err))
            abort();
        free(once);
    } else {
        refused(rc, err);
    }
    if (size >= sizeof copy || memchr(text, 0, size))
        return;
    memcpy(copy, text, size);
    copy[size] = 0;
    err[0] = 0;
    rc = plan_link_arg(copy, &l, err);
    if (rc)
        refused(rc, err);
    else if (!(l.up_bits_per_s > 0 && l.down_bits_per_s > 0 && l.rtt_s >= 0 && l.loss < 1))
        abort();
}

static void as_quality(const char *text, size_t size)
{
    static struct plan_quality q;
    struct plan_codec_point p;
    char err[PLAN_ERR] = "";
    double kl;
    const int rc = plan_quality_parse(text, size, "file", &model, &q, err);

    if (rc) {
        refused(rc, err);
        return;
    }
    for (uint32_t split = 1; split < model.n_layers; split++) {
        for (uint32_t i = 0; i < q.n_codecs; i++)
            if (plan_quality_codec(&q.codecs[i], split, &p) == 0 &&
                !(p.kl >= 0 && p.decode_bytes >= 1 && p.split == split))
                abort();
        for (unsigned s = 0; s < PLAN_SCHEMES; s++)
            if (plan_quality_scheme(&q, PLAN_FRONT, (enum plan_scheme)s, split, &kl) == 0 &&
                !(kl >= 0))
                abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size ? size : 1);

    if (!text)
        return 0;
    memcpy(text, data, size); /* exactly as long: reads past it are seen */
    as_host(text, size);
    as_link(text, size);
    as_quality(text, size);
    free(text);
    return 0;
}
