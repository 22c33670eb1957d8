/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of `isthmus bench transport`. */
#ifndef ISTHMUS_CONTROL_BENCH_TRANSPORT_OPTIONS_H
#define ISTHMUS_CONTROL_BENCH_TRANSPORT_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "control/bench/transport.h"
#include "control/options.h"
#include "control/port_arg.h"
#include "control/table.h"

struct transport_options {
    struct security_options security;
    struct netem_options netem;
    const char *ports[PORTS_MAX];
    unsigned n_ports;
    bool listen, connect, once;
    uint32_t floors_ip; /* 0: none */
    int core;           /* -1: any */
    bool kinds[TRANSPORT_KINDS];
    struct opt_list sizes, sessions;
    double rate_per_s, time_s;
    uint32_t transfer;
    enum table_format format;
};

/* With the defaults where nothing is said. Ends the process where it can't be meant. */
void transport_options_parse(int argc, char **argv, struct transport_options *o);

#endif
