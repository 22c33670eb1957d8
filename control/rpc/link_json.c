/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rpc/link_json.h"

#include "control/rpc/process.h"

json_t *link_json(const struct link_stats *s, const char *port, const char *cipher, uint64_t tokens)
{
    json_t *o = json_pack("{s:s, s:s}", "port", port, "cipher", cipher);
    const struct {
        const char *name;
        json_t *value;
    } values[] = {
        {"rtt_ms", rpc_known_ms(s->rtt_p50_ns)},
        {"rtt_min_ms", rpc_known_ms(s->rtt_min_ns)},
        {"rtt_smoothed_ms", rpc_known_ms(s->srtt_ns)},
        {"loss", rpc_ratio((double)link_lost_packets(s), (double)s->tx_packets)},
        {"wire_bytes_per_answer_token",
         rpc_ratio((double)(s->tx_bytes + s->rx_bytes), (double)tokens)},
        {"rate_bit_per_s",
         s->rate_byte_per_s ? json_real(8 * (double)s->rate_byte_per_s) : json_null()},
        {"tx_packets", rpc_count(s->tx_packets)},
        {"tx_bytes", rpc_count(s->tx_bytes)},
        {"tx_messages", rpc_count(s->tx_messages)},
        {"retransmits", rpc_count(s->retransmits)},
        {"spurious", rpc_count(s->spurious)},
        {"rx_packets", rpc_count(s->rx_packets)},
        {"rx_bytes", rpc_count(s->rx_bytes)},
        {"rx_messages", rpc_count(s->rx_messages)},
        {"duplicates", rpc_count(s->duplicates)},
        {"bad_frames", rpc_count(s->bad_frames)},
        {"strangers", rpc_count(s->strangers)},
        {"replays", rpc_count(s->replays)},
        {"moves", rpc_count(s->moves)},
        {"in_flight_packets", rpc_count(s->in_flight_packets)},
        {"key_epoch", rpc_count(s->epoch)},
        {"copied_bytes", rpc_count(link_copied_bytes(s))},
        {"mtu_bytes", s->mtu_bytes ? rpc_count(s->mtu_bytes) : json_null()},
        {"mtu_falls", rpc_count(s->mtu_falls)},
        {"cut_packets", rpc_count(s->cut)},
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        json_object_set_new(o, values[i].name, values[i].value);
    return o;
}
