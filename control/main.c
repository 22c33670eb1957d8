/* SPDX-License-Identifier: Apache-2.0 */
#include <argp.h>
#include <stdio.h>

#include "control/cmd.h"
#include "control/dispatch.h"
#include "control/log.h"
#include "control/privileges.h"

static const struct command commands[] = {
    {"run", "generate text, split over two processes of this machine", cmd_run},
    {"edge", "the front half, joined to a cloud started by itself", cmd_edge},
    {"cloud", "the back half: answers the edges that join", cmd_cloud},
    {"ctl", "what a serving process does, and telling it to do something", cmd_ctl},
    {"top", "a serving process on one page, live", cmd_top},
    {"netem", "a slow, lossy path between two interfaces, for measuring", cmd_netem},
    {"keygen", "the identity of an edge or a cloud, and its fingerprint", cmd_keygen},
    {"tokenize", "text to token ids, and back", cmd_tokenize},
    {"score", "log-probabilities of given continuations, from JSON lines", cmd_score},
    {"eval", "what codecs cost: KL divergence, perplexity, accuracy, bytes", cmd_eval},
    {"calibrate", "a codec profile for a split of a model, from a text", cmd_calibrate},
    {"quantize", "a model in two files of fewer bits, for an edge and a cloud", cmd_quantize},
    {"plan", "where to cut a model: the best split under limits", cmd_plan},
    {"profile", "what this host, or a link, can do: a file for plan", cmd_profile},
    {"bench", "how fast the parts are", cmd_bench},
    {"config", "what a configuration file and options come to", cmd_config},
    {"doctor", "what this machine offers and lacks", cmd_doctor},
    {NULL, NULL, NULL},
};

static const struct command_group isthmus = {
    .name = "isthmus",
    .kind = "command",
    .about = "Runs a language model cut in two: the front layers at the edge, the back layers in "
             "the\ncloud, compressed activations between them.\n",
    .members = commands,
};

/* Visible: argp, in libc, looks for it. */
__attribute__((visibility("default"))) const char *argp_program_version =
    "isthmus " ISTHMUS_VERSION;

int main(int argc, char **argv)
{
    argp_err_exit_status = EXIT_USAGE;
    log_begin();
    privileges_begin();
    return dispatch(&isthmus, argc, argv);
}
