/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/transport_report.h"

#include <math.h>

#include "control/bench/transport_tls.h"
#include "control/commit.h"

static const struct table_column columns[] = {
    {"bench", NULL, TABLE_TEXT},
    {"port", "port", TABLE_TEXT},
    {"kind", "kind", TABLE_TEXT},
    {"cipher", "cipher", TABLE_TEXT},
    {"size_bytes", "bytes", TABLE_COUNT},
    {"sessions", "sessions", TABLE_COUNT},
    {"rate_per_s", NULL, TABLE_REAL},
    {"rtt_ns_min", "RTT ns min", TABLE_COUNT},
    {"rtt_ns_p50", "p50", TABLE_COUNT},
    {"rtt_ns_p90", "p90", TABLE_COUNT},
    {"rtt_ns_p99", "p99", TABLE_COUNT},
    {"rtt_ns_p999", "p99.9", TABLE_COUNT},
    {"rtt_ns_max", "max", TABLE_COUNT},
    {"core_lost", "core lost", TABLE_REAL},
    {"rtt_ns_p50_kept", "p50 kept", TABLE_COUNT},
    {"rtt_ns_p99_kept", "p99 kept", TABLE_COUNT},
    {"kept", NULL, TABLE_COUNT},
    {"round_trips", NULL, TABLE_COUNT},
    {"round_trips_per_s", "round trips/s", TABLE_COUNT},
    {"lost", "lost", TABLE_COUNT},
    {"messages_per_s", "messages/s", TABLE_COUNT},
    {"goodput_bit_per_s", "goodput bit/s", TABLE_REAL},
    {"cpu_ns_per_message", "CPU ns/message", TABLE_COUNT},
    {"retransmits", "sent again", TABLE_COUNT},
    {"copied_bytes", "copied", TABLE_COUNT},
    {"driver_copied_bytes", "copied by the driver", TABLE_COUNT},
    {"time_s", NULL, TABLE_REAL},
    {"netem", NULL, TABLE_TEXT},
    {"cpu", NULL, TABLE_TEXT},
    {"cores", NULL, TABLE_COUNT},
    {"kernel", NULL, TABLE_TEXT},
    {"version", NULL, TABLE_TEXT},
    {"commit", NULL, TABLE_TEXT},
    {0},
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]) - 1)

int transport_report_head(enum table_format format)
{
    return table_head(format, columns);
}

int transport_report_row(const struct transport_report *t, const struct load *l,
                         enum transport_kind k, const struct load_result *r,
                         const struct link_counts *link)
{
    const bool open = l->rate_per_s > 0;
    const double trips_per_s =
        r->round_trip_ns ? (double)r->round_trips * 1e9 / (double)r->round_trip_ns : NAN;
    const double per_s = open            ? trips_per_s
                         : r->message_ns ? (double)r->messages * 1e9 / (double)r->message_ns
                                         : NAN;
    struct table_cell cells[N_COLUMNS] = {0}, *cell = cells;

    (cell++)->text = "transport";
    (cell++)->text = t->caps->name;
    (cell++)->text = transport_kind_name(k);
    (cell++)->text = k == TRANSPORT_LINK  ? t->cipher
                     : k == TRANSPORT_TLS ? TLS_CIPHER
                                          : "none";
    (cell++)->value = l->size_bytes;
    (cell++)->value = l->sessions;
    (cell++)->value = open ? l->rate_per_s : NAN;
    (cell++)->value = r->rtt.n ? (double)r->rtt.min_ns : NAN;
    (cell++)->value = histogram_at(&r->rtt, .5);
    (cell++)->value = histogram_at(&r->rtt, .9);
    (cell++)->value = histogram_at(&r->rtt, .99);
    (cell++)->value = histogram_at(&r->rtt, .999);
    (cell++)->value = r->rtt.n ? (double)r->rtt.max_ns : NAN;
    (cell++)->value =
        r->gaps_known ? (double)r->lost_core_ns / (double)r->round_trip_ns : NAN;
    (cell++)->value = histogram_at(&r->kept, .5);
    (cell++)->value = histogram_at(&r->kept, .99);
    (cell++)->value = r->gaps_known ? (double)r->kept.n : NAN;
    (cell++)->value = (double)r->round_trips;
    (cell++)->value = round(trips_per_s);
    (cell++)->value = (double)r->lost;
    (cell++)->value = round(per_s);
    (cell++)->value = per_s * 8 * l->size_bytes;
    (cell++)->value = r->cpu_messages ? round((double)r->cpu_ns / (double)r->cpu_messages) : NAN;
    (cell++)->value = k == TRANSPORT_LINK ? (double)link->retransmits : NAN;
    (cell++)->value = k == TRANSPORT_LINK ? (double)link->copied_bytes : NAN;
    (cell++)->value = k == TRANSPORT_LINK && t->caps->driver_copies
                          ? (double)link->driver_copied_bytes
                          : NAN;
    (cell++)->value = (double)(r->round_trip_ns + r->message_ns) / 1e9;
    (cell++)->text = t->netem && k < TRANSPORT_UDP ? t->netem : NULL;
    (cell++)->text = t->cpu;
    (cell++)->value = t->cores;
    (cell++)->text = t->kernel;
    (cell++)->text = ISTHMUS_VERSION;
    (cell++)->text = ISTHMUS_COMMIT;
    return table_row(t->format, columns, cells);
}
