/* SPDX-License-Identifier: Apache-2.0 */
#include "control/plan_codecs.h"

#include <stdio.h>
#include <string.h>

#include "control/cmd.h"
#include "control/codec_arg.h"
#include "control/log.h"

#define NAMES_MAX 2048u

/* The one text of its parameters. NULL: it has none, see err. */
static char *canonical(const char *text, char to[CODEC_ARG_MAX], char *err)
{
    struct codec_params params;

    return codec_arg_parse(text, &params, err) == 0 ? codec_arg_format(&params, to) : NULL;
}

int plan_codecs_check(const char *path, const struct plan_quality *q)
{
    char text[CODEC_ARG_MAX], err[CODEC_ARG_ERR];

    for (uint32_t i = 0; i < q->n_codecs; i++) {
        if (canonical(q->codecs[i].text, text, err))
            continue;
        log_error("%s: %s", path, err);
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

static int refuse(const char *path, const char *text, const struct plan_quality *q)
{
    char names[NAMES_MAX] = "";
    size_t at = 0;

    for (uint32_t i = 0; i < q->n_codecs && at < sizeof names; i++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", at ? " " : "",
                               q->codecs[i].text);
    if (path)
        log_error("--codec %s: %s has no such entry; it has %s", text, path, names);
    else
        log_error("--codec %s: without a table (--quality) there is no such entry, only %s", text,
                  names);
    return EXIT_USAGE;
}

int plan_codecs_choose(const char *path, const char *const *texts, unsigned n, struct plan_wish *w)
{
    const struct plan_quality *q = w->quality;
    char asked[CODEC_ARG_MAX], entry[CODEC_ARG_MAX], err[CODEC_ARG_ERR];

    for (uint32_t i = 0; i < q->n_codecs; i++)
        w->codec[i] = n == 0;
    for (unsigned k = 0; k < n; k++) {
        bool found = false;
        if (!canonical(texts[k], asked, err)) {
            log_error("--codec: %s", err);
            return EXIT_USAGE;
        }
        for (uint32_t i = 0; i < q->n_codecs; i++) {
            if (!canonical(q->codecs[i].text, entry, err) || strcmp(entry, asked) != 0)
                continue;
            w->codec[i] = found = true;
        }
        if (!found)
            return refuse(path, texts[k], q);
    }
    return EXIT_OK;
}
