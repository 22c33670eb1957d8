/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine without a model: every step gives each session one id, (prompt[0] + n) % vocab. It
 * sleeps as engines do, and can be made to refuse and to fail.
 */
#ifndef ISTHMUS_TESTS_FAKE_ENGINE_H
#define ISTHMUS_TESTS_FAKE_ENGINE_H

#include <stdatomic.h>

#include "control/front.h"

#define FAKE_SESSIONS 8u
#define FAKE_VOCAB    100u
#define FAKE_CTX      64u

struct fake_engine {
    struct engine base; /* first */
    struct stage stage;
    struct stage_info info;
    struct front_options options;
    struct front front;
    struct {
        int64_t id;
        struct edge_request r;
        int32_t first;
        uint32_t n;
        bool cancelled;
    } sessions[FAKE_SESSIONS];
    uint32_t busy, most_busy;
    int64_t last_id;
    _Atomic uint64_t steps;
    atomic_bool held;         /* no ids for now: sessions stay busy */
    atomic_bool apart;        /* no cloud */
    atomic_int no_room_above; /* busy sessions beyond which it has no room (-EAGAIN); 0: none */
    atomic_int kv_asked;      /* by the cloud, of sessions: enum kv_format */
    atomic_bool fails;        /* the next step */
};

/* Opens f->front with it. */
void fake_engine_open(struct fake_engine *f, uint32_t parallel);

#endif
