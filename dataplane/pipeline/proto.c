/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/pipeline/proto.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "dataplane/link/bytes.h"

static void put_f32(uint8_t *p, float v)
{
    uint32_t bits;

    memcpy(&bits, &v, sizeof bits);
    put_be32(p, bits);
}

static float get_f32(const uint8_t *p)
{
    uint32_t bits = get_be32(p);
    float v;

    memcpy(&v, &bits, sizeof v);
    return v;
}

const char *proto_codec_text(uint32_t codec_id, const uint8_t profile[16],
                             char buf[PROTO_CODEC_TEXT_MAX])
{
    static const uint8_t none[16];
    int n = snprintf(buf, PROTO_CODEC_TEXT_MAX, "%08x", codec_id);

    for (unsigned mode = 0; mode < CODEC_MODES; mode++) {
        const struct codec_params p = codec_params_default((enum codec_mode)mode);
        if (codec_params_id(&p) == codec_id)
            n = snprintf(buf, PROTO_CODEC_TEXT_MAX, "%s", codec_mode_name(p.mode));
    }
    if (memcmp(profile, none, sizeof none) == 0)
        return buf;
    n += snprintf(buf + n, PROTO_CODEC_TEXT_MAX - (size_t)n, " ");
    for (unsigned i = 0; i < 16; i++)
        n += snprintf(buf + n, PROTO_CODEC_TEXT_MAX - (size_t)n, "%02x", profile[i]);
    return buf;
}

size_t proto_write_open(uint8_t *p, const struct proto_open *m)
{
    p[0] = PROTO_OPEN;
    p[1] = m->version;
    p[2] = m->n_top;
    p[3] = m->has_head;
    put_be32(p + 4, m->session);
    memcpy(p + 8, m->fingerprint, 16);
    put_be32(p + 24, m->split);
    put_be32(p + 28, m->n_layers);
    put_be32(p + 32, m->d_model);
    put_be32(p + 36, m->n_vocab);
    put_be32(p + 40, m->codec_id);
    put_be32(p + 44, m->numerics_id);
    put_be32(p + 48, m->max_tokens);
    put_f32(p + 52, m->sampler.temp);
    put_be32(p + 56, m->sampler.top_k);
    put_f32(p + 60, m->sampler.top_p);
    put_f32(p + 64, m->sampler.min_p);
    put_f32(p + 68, m->sampler.repeat_penalty);
    put_be64(p + 72, m->sampler.seed);
    memcpy(p + 80, m->profile, 16);
    put_be32(p + 96, m->like);
    put_be32(p + 100, m->n_like);
    return PROTO_OPEN_BYTES;
}

int proto_read_open(const uint8_t *p, size_t len, struct proto_open *m)
{
    *m = (struct proto_open){0};
    if (len < 8 || p[0] != PROTO_OPEN)
        return -EBADMSG;
    m->version = p[1];
    m->session = get_be32(p + 4);
    if (m->version != PROTO_VERSION)
        return 0;
    m->n_top = p[2];
    m->has_head = p[3];
    if (len != PROTO_OPEN_BYTES || m->n_top > SAMPLER_TOP_MAX || p[3] > 1 ||
        (m->has_head && m->n_top))
        return -EBADMSG;
    memcpy(m->fingerprint, p + 8, 16);
    m->split = get_be32(p + 24);
    m->n_layers = get_be32(p + 28);
    m->d_model = get_be32(p + 32);
    m->n_vocab = get_be32(p + 36);
    m->codec_id = get_be32(p + 40);
    m->numerics_id = get_be32(p + 44);
    m->max_tokens = get_be32(p + 48);
    m->sampler.temp = get_f32(p + 52);
    m->sampler.top_k = get_be32(p + 56);
    m->sampler.top_p = get_f32(p + 60);
    m->sampler.min_p = get_f32(p + 64);
    m->sampler.repeat_penalty = get_f32(p + 68);
    m->sampler.seed = get_be64(p + 72);
    memcpy(m->profile, p + 80, 16);
    m->like = get_be32(p + 96);
    m->n_like = get_be32(p + 100);
    if (!m->like != !m->n_like || (m->like && m->n_like >= m->max_tokens))
        return -EBADMSG;
    return 0;
}

size_t proto_write_opened(uint8_t *p, const struct proto_opened *m)
{
    put_be32(p, (uint32_t)PROTO_OPENED << 24);
    put_be32(p + 4, m->max_rows);
    put_be32(p + 8, m->max_fragments);
    put_be32(p + 12, m->n_like);
    return PROTO_OPENED_BYTES;
}

int proto_read_opened(const uint8_t *p, size_t len, struct proto_opened *m)
{
    if (len != PROTO_OPENED_BYTES || get_be32(p) != (uint32_t)PROTO_OPENED << 24)
        return -EBADMSG;
    m->max_rows = get_be32(p + 4);
    m->max_fragments = get_be32(p + 8);
    m->n_like = get_be32(p + 12);
    return m->max_rows && m->max_fragments ? 0 : -EBADMSG;
}

size_t proto_write_rows(uint8_t *p, const struct proto_rows *m)
{
    p[0] = PROTO_ROWS;
    p[1] = m->n_drafts;
    put_be16(p + 2, m->n_rows);
    put_be16(p + 4, m->n_logits);
    put_be16(p + 6, 0);
    put_be32(p + 8, m->position);
    for (unsigned i = 0; i < m->n_drafts; i++)
        put_be32(p + PROTO_ROWS_BYTES + 4 * i, (uint32_t)m->drafts[i]);
    return PROTO_ROWS_BYTES + 4u * m->n_drafts;
}

int proto_read_rows(const uint8_t *p, size_t len, struct proto_rows *m, size_t *tile_at)
{
    if (len < PROTO_ROWS_BYTES || p[0] != PROTO_ROWS || get_be16(p + 6))
        return -EBADMSG;
    m->n_drafts = p[1];
    m->n_rows = get_be16(p + 2);
    m->n_logits = get_be16(p + 4);
    m->position = get_be32(p + 8);
    *tile_at = PROTO_ROWS_BYTES + 4u * m->n_drafts;
    if (m->n_drafts > PROTO_DRAFTS_MAX || len < *tile_at || m->n_drafts >= m->n_rows)
        return -EBADMSG;
    if (m->n_drafts ? m->n_logits != m->n_drafts + 1
                    : m->n_logits > PROTO_DRAFTS_MAX + 1 || m->n_logits > m->n_rows)
        return -EBADMSG;
    for (unsigned i = 0; i < m->n_drafts; i++)
        m->drafts[i] = (int32_t)get_be32(p + PROTO_ROWS_BYTES + 4 * i);
    return 0;
}

static uint8_t *put_token(uint8_t *p, int32_t id, float logprob)
{
    put_be32(p, (uint32_t)id);
    put_f32(p + 4, logprob);
    return p + 8;
}

size_t proto_write_tokens(uint8_t *p, const struct proto_tokens *m)
{
    uint8_t *to = p + PROTO_TOKENS_BYTES;

    p[0] = PROTO_TOKENS;
    p[1] = m->n;
    p[2] = m->n_top;
    p[3] = 0;
    put_be32(p + 4, m->position);
    for (unsigned i = 0; i < m->n; i++) {
        to = put_token(to, m->ids[i], m->logprobs[i]);
        for (unsigned k = 0; k < m->n_top; k++)
            to = put_token(to, m->top[i][k].id, m->top[i][k].logprob);
    }
    return (size_t)(to - p);
}

static const uint8_t *get_token(const uint8_t *p, int32_t *id, float *logprob)
{
    *id = (int32_t)get_be32(p);
    *logprob = get_f32(p + 4);
    return p + 8;
}

int proto_read_tokens(const uint8_t *p, size_t len, struct proto_tokens *m)
{
    const uint8_t *from = p + PROTO_TOKENS_BYTES;

    if (len < PROTO_TOKENS_BYTES || p[0] != PROTO_TOKENS || p[3])
        return -EBADMSG;
    m->n = p[1];
    m->n_top = p[2];
    m->position = get_be32(p + 4);
    if (m->n > PROTO_DRAFTS_MAX + 1 || m->n_top > (m->n ? SAMPLER_TOP_MAX : 0) ||
        len != PROTO_TOKENS_BYTES + m->n * proto_token_bytes(m->n_top))
        return -EBADMSG;
    for (unsigned i = 0; i < m->n; i++) {
        from = get_token(from, &m->ids[i], &m->logprobs[i]);
        for (unsigned k = 0; k < m->n_top; k++)
            from = get_token(from, &m->top[i][k].id, &m->top[i][k].logprob);
    }
    return 0;
}

size_t proto_write_hidden(uint8_t *p, const struct proto_hidden *m)
{
    put_be32(p, (uint32_t)PROTO_HIDDEN << 24 | (uint32_t)m->n << 16);
    put_be32(p + 4, m->position);
    return PROTO_HIDDEN_BYTES;
}

int proto_read_hidden(const uint8_t *p, size_t len, struct proto_hidden *m)
{
    if (len < PROTO_HIDDEN_BYTES || p[0] != PROTO_HIDDEN || get_be16(p + 2))
        return -EBADMSG;
    m->n = p[1];
    m->position = get_be32(p + 4);
    return m->n && m->n <= PROTO_DRAFTS_MAX + 1 ? 0 : -EBADMSG;
}

void proto_put_values(uint8_t *p, const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        put_f32(p + 4 * i, values[i]);
}

void proto_get_values(const uint8_t *p, float *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        values[i] = get_f32(p + 4 * i);
}

size_t proto_write_close(uint8_t *p, uint32_t session, bool linger)
{
    put_be32(p, (uint32_t)PROTO_CLOSE << 24 | (uint32_t)linger << 16);
    put_be32(p + 4, session);
    return PROTO_CLOSE_BYTES;
}

int proto_read_close(const uint8_t *p, size_t len, uint32_t *session, bool *linger)
{
    if (len != PROTO_CLOSE_BYTES || p[0] != PROTO_CLOSE || p[1] > 1 || get_be16(p + 2))
        return -EBADMSG;
    *linger = p[1];
    *session = get_be32(p + 4);
    return 0;
}

size_t proto_write_ids(uint8_t *p, uint32_t first, const int32_t *ids, uint16_t n)
{
    p[0] = PROTO_IDS;
    p[1] = 0;
    put_be16(p + 2, n);
    put_be32(p + 4, first);
    for (unsigned i = 0; i < n; i++)
        put_be32(p + PROTO_IDS_BYTES + 4 * i, (uint32_t)ids[i]);
    return PROTO_IDS_BYTES + 4u * n;
}

int proto_read_ids(const uint8_t *p, size_t len, struct proto_ids *m)
{
    if (len < PROTO_IDS_BYTES || p[0] != PROTO_IDS || p[1])
        return -EBADMSG;
    m->n = get_be16(p + 2);
    m->first = get_be32(p + 4);
    if (!m->n || m->n > PROTO_IDS_MAX || len != PROTO_IDS_BYTES + 4u * m->n)
        return -EBADMSG;
    for (unsigned i = 0; i < m->n; i++)
        m->ids[i] = (int32_t)get_be32(p + PROTO_IDS_BYTES + 4 * i);
    return 0;
}

size_t proto_write_status(uint8_t *p, const struct proto_status *m)
{
    put_be32(p, (uint32_t)PROTO_STATUS << 24 | (uint32_t)m->draining << 16 |
                    (uint32_t)m->headless << 8 | (uint32_t)m->kv_asked);
    put_be32(p + 4, m->sessions_free);
    put_be32(p + 8, m->tokens_free);
    put_be32(p + 12, m->tokens_total);
    put_be32(p + 16, m->tokens_max);
    put_be32(p + 20, m->sessions_open);
    put_be32(p + 24, m->split);
    put_be32(p + 28, m->codec_id);
    put_be32(p + 32, m->numerics_id);
    memcpy(p + 36, m->fingerprint, 16);
    memcpy(p + 52, m->profile, 16);
    return PROTO_STATUS_BYTES;
}

int proto_read_status(const uint8_t *p, size_t len, struct proto_status *m)
{
    if (len != PROTO_STATUS_BYTES || p[0] != PROTO_STATUS || p[1] > 1 || p[2] > 1 ||
        p[3] >= KV_FORMATS)
        return -EBADMSG;
    m->draining = p[1];
    m->headless = p[2];
    m->kv_asked = (enum kv_format)p[3];
    m->sessions_free = get_be32(p + 4);
    m->tokens_free = get_be32(p + 8);
    m->tokens_total = get_be32(p + 12);
    m->tokens_max = get_be32(p + 16);
    m->sessions_open = get_be32(p + 20);
    m->split = get_be32(p + 24);
    m->codec_id = get_be32(p + 28);
    m->numerics_id = get_be32(p + 32);
    memcpy(m->fingerprint, p + 36, 16);
    memcpy(m->profile, p + 52, 16);
    return m->tokens_free <= m->tokens_total ? 0 : -EBADMSG;
}

size_t proto_write_ask(uint8_t *p)
{
    put_be32(p, (uint32_t)PROTO_ASK << 24);
    return PROTO_ASK_BYTES;
}

int proto_read_ask(const uint8_t *p, size_t len)
{
    return len == PROTO_ASK_BYTES && get_be32(p) == (uint32_t)PROTO_ASK << 24 ? 0 : -EBADMSG;
}

size_t proto_write_text(uint8_t *p, enum proto_kind kind, enum proto_reason reason,
                        const char *text)
{
    size_t n = strnlen(text, PROTO_TEXT_MAX);

    p[0] = (uint8_t)kind;
    p[1] = (uint8_t)reason;
    put_be16(p + 2, (uint16_t)n);
    memcpy(p + PROTO_TEXT_BYTES, text, n);
    return PROTO_TEXT_BYTES + n;
}

int proto_read_text(const uint8_t *p, size_t len, struct proto_text *m)
{
    size_t n;

    if (len < PROTO_TEXT_BYTES || (p[0] != PROTO_REFUSED && p[0] != PROTO_ERROR))
        return -EBADMSG;
    n = get_be16(p + 2);
    if (n > PROTO_TEXT_MAX || len != PROTO_TEXT_BYTES + n)
        return -EBADMSG;
    m->reason = p[1];
    for (size_t i = 0; i < n; i++) { /* it goes to a terminal */
        uint8_t c = p[PROTO_TEXT_BYTES + i];

        m->text[i] = c >= 0x20 && c < 0x7f ? (char)c : '?';
    }
    m->text[n] = 0;
    return 0;
}
