/* SPDX-License-Identifier: Apache-2.0 */
/* `isthmus bench`: one benchmark for each part. */
#include "control/bench/bench.h"
#include "control/cmd.h"
#include "control/dispatch.h"

static const struct command benchmarks[] = {
    {"machine", "what this machine allows: reading memory and caches, multiplying", bench_machine},
    {"compute", "a model's prefill and decode by batch, depth and threads, beside the bound",
     bench_compute},
    {"kernels", "products of each weight format, and row operations, beside C and the bound",
     bench_kernels},
    {"codec", "encoding and decoding rows, each codec, width, batch and instruction set",
     bench_codec},
    {"transport", "round trips and streams between two processes, beside the port alone, UDP and TCP",
     bench_transport},
    {"serve", "an OpenAI server under load: time to first token, token to token, goodput, errors",
     bench_serve},
    {0},
};

static const struct command_group bench = {
    .name = "isthmus bench",
    .kind = "benchmark",
    .about = "Measures how fast the parts are on this machine, beside bounds measured in the same "
             "run.\n",
    .members = benchmarks,
};

int cmd_bench(int argc, char **argv)
{
    return dispatch(&bench, argc, argv);
}
