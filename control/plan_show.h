/* SPDX-License-Identifier: Apache-2.0 */
/* A plan for people, for programs, and as configuration files from which edge and cloud start. */
#ifndef ISTHMUS_CONTROL_PLAN_SHOW_H
#define ISTHMUS_CONTROL_PLAN_SHOW_H

#include "control/plan/search.h"

struct plan_paper {
    const struct plan_wish *w;
    const struct plan_answer *a;
    const struct plan *more_kl; /* what a greater limit of KL would allow; NULL: not asked, none */
    const char *model;          /* its path */
    const char *quality;        /* the table's; NULL: none */
    const char *folder;         /* -o; NULL: not given */
    const char *port, *connect; /* the cloud's, and where the edge finds it */
    const char *listen;         /* of the edge; NULL: not given */
    uint64_t edge_budget_bytes, cloud_budget_bytes; /* that they are to keep; 0: not given */
};

/* Limits that contradict each other, the model or the link: EXIT_USAGE, said. Reads w and model. */
int plan_check_limits(const struct plan_paper *p);

/* Beyond the limit of KL, with all others: the plan of the least KL whose front is stored in fewer
 * bits than the file's, if it has a twentieth less of what is to be least than the answer. 0 or
 * -ENOMEM. */
int plan_with_more_kl(const struct plan_wish *w, const struct plan_answer *a, bool *found,
                      struct plan *more);

/* On stdout. EXIT_OK or EXIT_FAILED, said; here and below. */
int plan_show(const struct plan_paper *p);
int plan_show_json(const struct plan_paper *p);

/* Where an edge finds a cloud whose port is this (NULL: PLAN_PORT) if nobody said, and whose
 * profile names this host. EXIT_OK, or EXIT_USAGE, said. */
#define PLAN_PORT        "udp:*:7300"
#define PLAN_CONNECT_MAX 600u
int plan_connect(const char *port, const char *host, char to[PLAN_CONNECT_MAX]);

/* edge.ini and cloud.ini in the folder, which is made where it is missing, and keys for both where
 * there are none. */
int plan_write_config(const struct plan_paper *p);

/* Whether this program can run it as it is: what it can't is said in why (PLAN_ERR bytes). */
bool plan_is_runnable(const struct plan *p, char *why);

/* The command that makes its weights, in a folder that plan -o names or else in "DIR"; NULL: they
 * stay those of the file. Returns to (PLAN_COMMAND bytes). */
#define PLAN_COMMAND 8192
char *plan_quantize_command(const struct plan_paper *p, const struct plan *b, char *to);
/* What that command's FILE is, to follow it; "": it wants none. Returns to (PLAN_ERR bytes). */
char *plan_calibration_note(const struct plan_paper *p, const struct plan *b, char *to);

/* Where nothing could be computed: which of the wished has no row in the table or no times in a
 * profile, and the command that measures it. Returns why (PLAN_MISSING bytes). */
#define PLAN_MISSING 8192
char *plan_missing(const struct plan_paper *p, char *why);

/* A metric as text with its unit, "12.3 MB", "34.5 ms", ".0061"; returns to. */
#define PLAN_AMOUNT 32
char *plan_amount(enum plan_metric m, double x, char to[PLAN_AMOUNT]);
/* The option that limits it: "--max-tpot". */
const char *plan_limit_option(enum plan_metric m);

#endif
