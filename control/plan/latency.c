/* SPDX-License-Identifier: Apache-2.0 */
#include "control/plan/latency.h"

#include <errno.h>
#include <math.h>

/* dataplane/pipeline/edge_impl.h: EDGE_CHUNKS_AHEAD. */
#define AHEAD 4u

/* Of a packet: Ethernet, IP, UDP, our header and tag (dataplane/wire.h: WIRE_OVERHEAD), and of
 * those what the MTU counts; of a message: the reply's and the rows' heads (pipeline/proto.h). */
#define PACKET_BYTES     82.0
#define PACKET_MTU_BYTES 68.0
#define PREFIX_BYTES     9.0
#define ROWS_BYTES       12.0
#define ANSWER_BYTES     (PACKET_BYTES + 32)

/* While a session decodes, the link forgets what its path can carry (link/pace.c: RATE_KEPT_NS); a
 * prompt of which more goes in a round trip than it sends without knowing (LEAST_BYTES) waits while
 * that is doubled in each, up to so many: where the link is what the others wait for, and where it
 * never was full. Measured over paths of 4 to 60 ms. */
#define LEARN_BYTES      6000.0
#define LEARN_RTTS       1.5
#define LEARN_SPARE_RTTS .5

double plan_wire_bytes(const struct plan_link *l, uint32_t n, double row_bytes)
{
    const double room = l->mtu_bytes - PACKET_MTU_BYTES - PREFIX_BYTES - ROWS_BYTES;
    const double rows = floor(room / row_bytes);
    const double packets = rows >= 1 ? ceil(n / rows) : n * ceil(row_bytes / room);

    return n * row_bytes + packets * (PACKET_BYTES + PREFIX_BYTES) + ROWS_BYTES;
}

static double up_s(const struct plan_link *l, double bytes)
{
    return bytes * 8 / (l->up_bits_per_s * (1 - l->loss));
}

/* What a lost packet costs the message that it was of, on the average. */
static double loss_s(const struct plan_link *l, double packets)
{
    return l->loss > 0 ? (1 - pow(1 - l->loss, packets)) * 1.25 * l->rtt_s : 0;
}

/* Keys and values of the cloud's layers that travel up for one row, and those of the row back. */
static double travel_s(const struct plan_model *m, const struct plan_latency_case *c, double tokens)
{
    const double row_bytes =
        (double)plan_kv_bytes(m, m->n_layers - c->split, c->kv, KV_PAGE) / KV_PAGE;

    return c->home == PLAN_KV_CLOUD ? 0
                                    : tokens * row_bytes * 8 / c->link->up_bits_per_s +
                                          row_bytes * 8 / c->link->down_bits_per_s;
}

/* --- from token to token ---------------------------------------------------------------------- */

int plan_latency_decode(const struct plan_model *m, const struct plan_latency_case *c,
                        struct plan_latency *out)
{
    const uint32_t n = c->sessions, behind = m->n_layers - c->split;
    const struct plan_link *l = c->link;
    double attend_edge_s, attend_cloud_s;

    *out = (struct plan_latency){0};
    int rc = plan_speed_layers(c->edge, 0, c->split, c->front, n, true, &out->edge_s);
    if (rc == 0)
        rc = plan_speed_layers(c->cloud, c->split, m->n_layers, c->back, n, true, &out->cloud_s);
    if (rc == 0)
        rc = plan_speed_attend(c->edge, c->split, c->kv, 1, c->depth, &attend_edge_s);
    if (rc == 0)
        rc = plan_speed_attend(c->cloud, behind, c->kv, 1, c->depth, &attend_cloud_s);
    if (rc)
        return rc;
    /* The caches that both share hold the other's weights. */
    const double edge_slow = c->beside ? plan_speed_host(c->edge)->evicted : 1;
    const double cloud_slow = c->beside ? plan_speed_host(c->cloud)->evicted : 1;
    out->edge_s = edge_slow * out->edge_s + n * attend_edge_s;
    out->cloud_s = cloud_slow * out->cloud_s + n * attend_cloud_s;
    out->head_s = cloud_slow * plan_speed_head(c->cloud, n);
    out->wire_bytes = plan_wire_bytes(l, 1, c->decode_bytes);
    out->up_s = n * up_s(l, out->wire_bytes) + n * travel_s(m, c, c->depth);
    out->rtt_s = l->rtt_s + n * ANSWER_BYTES * 8 / l->down_bits_per_s + loss_s(l, 2);
    out->wake_s = plan_speed_host(c->edge)->wake_s + plan_speed_host(c->cloud)->wake_s;
    out->tpot_s = out->edge_s + out->up_s + out->rtt_s + out->cloud_s + out->head_s + out->wake_s;
    return 0;
}

/* --- to the first token ------------------------------------------------------------------------
 */

/* A chunk of so many rows at one of the three, and what each token before it adds. */
typedef int chunk_fn(const struct plan_model *m, const struct plan_latency_case *c, uint32_t rows,
                     double *chunk_s, double *token_s);

static int edge_chunk(const struct plan_model *m, const struct plan_latency_case *c, uint32_t rows,
                      double *chunk_s, double *token_s)
{
    const int rc = plan_speed_layers(c->edge, 0, c->split, c->front, rows, false, chunk_s);

    (void)m;
    return rc ? rc : plan_speed_attend(c->edge, c->split, c->kv, rows, 1, token_s);
}

static int cloud_chunk(const struct plan_model *m, const struct plan_latency_case *c, uint32_t rows,
                       double *chunk_s, double *token_s)
{
    const uint32_t behind = m->n_layers - c->split;
    const int rc =
        plan_speed_layers(c->cloud, c->split, m->n_layers, c->back, rows, false, chunk_s);

    return rc ? rc : plan_speed_attend(c->cloud, behind, c->kv, rows, 1, token_s);
}

static double chunk_bytes(const struct plan_latency_case *c, uint32_t rows)
{
    return plan_wire_bytes(c->link, rows, rows == 1 ? c->decode_bytes : c->prefill_bytes);
}

static double chunk_loss_s(const struct plan_latency_case *c, uint32_t rows)
{
    return loss_s(c->link, ceil(chunk_bytes(c, rows) / c->link->mtu_bytes));
}

static int link_chunk(const struct plan_model *m, const struct plan_latency_case *c, uint32_t rows,
                      double *chunk_s, double *token_s)
{
    const double none_s = travel_s(m, c, 0);

    *chunk_s = up_s(c->link, chunk_bytes(c, rows)) + none_s;
    *token_s = travel_s(m, c, 1) - none_s;
    return 0;
}

/* Chunks of a prompt have one of few lengths: the first, the last and those between. */
struct chunk_times {
    uint32_t rows;
    double edge_s, cloud_s;
    double edge_token_s, cloud_token_s; /* for each token of depth */
    double up_s, loss_s;
};

static int time_chunk(const struct plan_model *m, const struct plan_latency_case *c, uint32_t rows,
                      struct chunk_times *t)
{
    if (t->rows == rows)
        return 0;
    int rc = edge_chunk(m, c, rows, &t->edge_s, &t->edge_token_s);
    if (rc == 0)
        rc = cloud_chunk(m, c, rows, &t->cloud_s, &t->cloud_token_s);
    t->rows = rows;
    t->up_s = up_s(c->link, chunk_bytes(c, rows));
    t->loss_s = chunk_loss_s(c, rows);
    return rc;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static uint32_t next_rows(const struct plan_latency_case *c, uint32_t done)
{
    const uint32_t left = c->prompt - done;

    return left <= c->chunk ? left : done || c->chunk < 2 ? c->chunk : c->chunk / 2;
}

/* The slower half takes halves_s for the first chunk. */
static double learn_s(const struct plan_latency_case *c, double halves_s)
{
    const double first_bytes = chunk_bytes(c, next_rows(c, 0));
    const double link_s = up_s(c->link, first_bytes);
    const double rtts_of_first = larger(halves_s, link_s) / c->link->rtt_s;
    const double bytes =
        fmin(first_bytes / fmin(1, rtts_of_first), c->prompt * c->prefill_bytes);
    const double most = link_s > halves_s ? LEARN_RTTS : LEARN_SPARE_RTTS;
    const double doublings = log2(bytes / LEARN_BYTES);

    return doublings > 0 ? fmin(doublings, most) * c->link->rtt_s : 0;
}

/* From the cloud's end to the edge's token. */
static double answer_s(const struct plan_latency_case *c, double wake_s)
{
    return c->link->rtt_s / 2 + ANSWER_BYTES * 8 / c->link->down_bits_per_s + wake_s +
           loss_s(c->link, 1);
}

int plan_latency_prompt(const struct plan_model *m, const struct plan_latency_case *c,
                        struct plan_latency *out)
{
    const double half_s = c->link->rtt_s / 2;
    double edge_s = 0, link_s = 0, cloud_s = 0, answered_s[AHEAD] = {0};
    double learning_s = 0;
    struct chunk_times t = {.rows = 0};
    uint32_t n = 0;

    for (uint32_t done = 0, rows; done < c->prompt; done += rows, n++) {
        rows = next_rows(c, done);
        const int rc = time_chunk(m, c, rows, &t);
        if (rc)
            return rc;
        if (n == 0)
            learning_s = learn_s(c, larger(t.edge_s, t.cloud_s));
        /* After the first, both are at work at once. */
        const double edge_slow = c->beside && n ? plan_speed_host(c->edge)->beside : 1;
        const bool last = done + rows == c->prompt;
        const double cloud_slow = c->beside && !last ? plan_speed_host(c->cloud)->beside : 1;

        edge_s =
            larger(edge_s, answered_s[n % AHEAD]) + edge_slow * (t.edge_s + done * t.edge_token_s);
        /* The session is opened meanwhile: the first chunk waits for the cloud's word. */
        link_s = larger(link_s, n ? edge_s : larger(edge_s, c->link->rtt_s) + learning_s) + t.up_s +
                 travel_s(m, c, done);
        const double at_cloud_s = link_s + half_s + t.loss_s;
        cloud_s = larger(cloud_s, at_cloud_s) + cloud_slow * (t.cloud_s + done * t.cloud_token_s) +
                  (last ? plan_speed_head(c->cloud, 1) : 0);
        answered_s[n % AHEAD] = cloud_s + half_s;
    }
    out->ttft_s = cloud_s + answer_s(c, out->wake_s);
    return 0;
}

/* --- at least ----------------------------------------------------------------------------------
 */

/* What rounding may add to a sum in one order and not in another. */
#define ROUNDING (1 - 1e-9)

void plan_chunks_of(const struct plan_latency_case *c, struct plan_chunks *out)
{
    *out = (struct plan_chunks){.chunk = c->chunk};
    for (uint32_t done = 0, rows; done < c->prompt; done += rows) {
        rows = next_rows(c, done);
        if (done == 0)
            out->first = rows;
        out->last = rows;
        out->last_before = done;
        out->n++;
    }
    const uint32_t to_last = (out->n - 1) % AHEAD; /* one that the last waits for, by others */
    for (uint32_t i = 1; i + 1 < out->n; i++) {
        const double before = out->first + (double)(i - 1) * c->chunk;
        out->before += before;
        if (i % AHEAD == to_last) {
            out->n_chain++;
            out->chain_before += before;
        }
    }
    out->chain_first = out->n > 1 && to_last == 0;
}

/* The first, the last and those between are slowed down so much. */
static int add_chunks(const struct plan_model *m, const struct plan_latency_case *c,
                      const struct plan_chunks *k, chunk_fn *chunk, const double slow[3],
                      struct plan_part *out)
{
    double first_s, last_s, last_token_s, s = 0, token_s = 0;
    int rc = chunk(m, c, k->first, &first_s, &token_s);

    if (rc == 0)
        rc = chunk(m, c, k->last, &last_s, &last_token_s);
    if (rc == 0 && k->n > 2)
        rc = chunk(m, c, k->chunk, &s, &token_s);
    if (rc)
        return rc;
    out->first_s = slow[0] * first_s;
    out->last_s = slow[1] * (last_s + k->last_before * last_token_s);
    out->all_s = out->last_s;
    if (k->n > 1)
        out->all_s += out->first_s + slow[2] * ((k->n - 2) * s + k->before * token_s);
    out->chain_s = out->last_s + (k->chain_first ? out->first_s : 0) +
                   slow[2] * (k->n_chain * s + k->chain_before * token_s);
    return 0;
}

int plan_part_edge(const struct plan_model *m, const struct plan_latency_case *c,
                   const struct plan_chunks *k, struct plan_part *out)
{
    const double slow = c->beside ? plan_speed_host(c->edge)->beside : 1;
    const double slows[3] = {1, k->n > 1 ? slow : 1, slow};

    return add_chunks(m, c, k, edge_chunk, slows, out);
}

int plan_part_cloud(const struct plan_model *m, const struct plan_latency_case *c,
                    const struct plan_chunks *k, struct plan_part *out)
{
    const double slow = c->beside ? plan_speed_host(c->cloud)->beside : 1;
    const double slows[3] = {k->n > 1 ? slow : 1, 1, slow};
    const double head_s = plan_speed_head(c->cloud, 1);
    const int rc = add_chunks(m, c, k, cloud_chunk, slows, out);

    out->last_s += head_s;
    out->all_s += head_s;
    out->chain_s += head_s;
    return rc;
}

/* Up to where the cloud has it; a chain's chunks but the last are answered, too. */
void plan_part_link(const struct plan_model *m, const struct plan_latency_case *c,
                    const struct plan_chunks *k, struct plan_part *out)
{
    const double half_s = c->link->rtt_s / 2, slows[3] = {1, 1, 1};
    const double lost_s = chunk_loss_s(c, k->last) + half_s;

    add_chunks(m, c, k, link_chunk, slows, out);
    out->first_s += chunk_loss_s(c, k->first) + half_s;
    out->last_s += lost_s;
    out->all_s += lost_s;
    out->chain_s += lost_s + (k->n_chain + k->chain_first) * 2 * half_s +
                    k->n_chain * chunk_loss_s(c, k->chunk);
}

double plan_latency_least_prompt(const struct plan_latency_case *c, const struct plan_part *edge,
                                 const struct plan_part *link, const struct plan_part *cloud)
{
    const double learning_s = learn_s(c, larger(edge->first_s, cloud->first_s));
    const double opened_s = larger(edge->first_s, c->link->rtt_s) + learning_s;
    const double wake_s = plan_speed_host(c->edge)->wake_s + plan_speed_host(c->cloud)->wake_s;
    double least_s = edge->all_s + link->last_s + cloud->last_s;

    least_s = larger(least_s, opened_s + link->all_s + cloud->last_s);
    least_s = larger(least_s, opened_s + link->first_s + cloud->all_s);
    least_s = larger(least_s, edge->chain_s + link->chain_s + cloud->chain_s);
    return ROUNDING * (least_s + answer_s(c, wake_s));
}

int plan_latency(const struct plan_model *m, const struct plan_latency_case *c,
                 struct plan_latency *out)
{
    const int rc = plan_latency_decode(m, c, out);

    return rc ? rc : plan_latency_prompt(m, c, out);
}
