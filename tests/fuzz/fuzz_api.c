/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a request's body, or as a file of API keys: refused with a reason, or sound. */
#include <stdlib.h>
#include <string.h>

#include "control/gateway/api.h"
#include "control/gateway/keys.h"

static void check(int ok)
{
    if (!ok)
        abort();
}

static void check_request(const struct api_request *r)
{
    check(r->model && r->n >= 1 && r->n <= API_N && r->n_stops <= API_STOPS);
    check(sampler_params_check(&r->sampler) == 0 && r->sampler.temp <= 2);
    for (uint32_t i = 0; i < r->n_stops; i++)
        check(r->stops[i].n >= 1 && r->stops[i].n <= API_STOP_BYTES);
    check(r->kind == API_CHAT ? r->n_messages >= 1
                              : r->n_prompts >= 1 && r->n_prompts * r->n <= API_CHOICES);
    for (uint32_t i = 0; i < r->n_messages; i++)
        check(r->messages[i].role && r->messages[i].content);
    for (uint32_t i = 0; i < r->n_prompts; i++) {
        const struct api_prompt *p = &r->prompts[i];
        check((p->text != NULL) != (p->ids != NULL));
        check(!p->text || strlen(p->text) == p->n_text);
        check(!p->ids || (p->n_ids >= 1 && p->ids[0] >= 0));
    }
}

static void try_request(enum api_kind kind, const char *body, size_t n)
{
    struct api_request r;
    struct api_error e = {.status = 0};
    if (api_parse(kind, body, n, &r, &e) == 0)
        check_request(&r);
    else
        check(e.status >= 400 && e.type && e.message[0]);
    api_free(&r);
}

static void try_keys(const char *text, size_t n)
{
    struct api_keys *k;
    char err[API_KEYS_ERR];
    if (api_keys_parse(text, n, &k, err) < 0) {
        check(err[0] != '\0');
        return;
    }
    check(!api_keys_find(k, text, n) || n >= API_KEY_MIN);
    api_keys_free(k);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte chooses. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const char *rest = (const char *)data + 1;
    if (data[0] % 3 == 2)
        try_keys(rest, size - 1);
    else
        try_request(data[0] % 3 == 0 ? API_COMPLETION : API_CHAT, rest, size - 1);
    return 0;
}
