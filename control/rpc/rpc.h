/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket: JSON-RPC 2.0 over a Unix stream socket, a request (or a batch of them) a
 * line, an answer a line, for whoever operates the process. docs/control.md has the protocol.
 *
 * A thread of its own serves it, by io_uring, or by poll where the kernel refuses that (which is
 * said). Methods come in tables: a serving edge's (edge.h), a cloud's (cloud.h), any process's
 * (process.h). Those that are marked run in the engine's thread: brought there by the owner's hop,
 * or by a mailbox that the owner's loop looks into (rpc_run_pending).
 *
 * What a client may do is its role, taken from the credentials that the kernel knows of it.
 */
#ifndef ISTHMUS_CONTROL_RPC_RPC_H
#define ISTHMUS_CONTROL_RPC_RPC_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define RPC_LINE_MAX    65536u                /* bytes of a request's line, the newline counted */
#define RPC_BATCH_MAX   64u                   /* requests of a batch */
#define RPC_CLIENTS_MAX 64u                   /* connections at once */
#define RPC_RESERVED    8u                    /* of them not for role user */
#define RPC_SLOW_NS     UINT64_C(10000000000) /* for a line once begun, and for taking an answer */
#define RPC_ERR         256

/* Codes of errors beside JSON-RPC's own. */
enum {
    RPC_PARSE = -32700,
    RPC_INVALID_REQUEST = -32600,
    RPC_UNKNOWN_METHOD = -32601,
    RPC_INVALID_PARAMS = -32602,
    RPC_INTERNAL = -32603,
    RPC_NOT_ALLOWED = -32001, /* data: {"needs": "operator", "role": "user"} */
    RPC_NOT_FOUND = -32002,   /* no such session, worker, ... */
    RPC_NOT_NOW = -32003, /* the process is in no state for it, or was not given what it takes */
    RPC_SHUTDOWN = -32004,
    RPC_CROWDED = -32005, /* RPC_CLIENTS_MAX are connected */
};

/* --- methods ------------------------------------------------------------------------------------
 */

enum rpc_role { RPC_NOBODY, RPC_USER, RPC_OPERATOR, RPC_ADMIN };
const char *rpc_role_name(enum rpc_role role);

enum rpc_type { RPC_TEXT, RPC_WHOLE, RPC_REAL, RPC_BOOL };

struct rpc_param {
    const char *name, *help;
    enum rpc_type type;
    bool required;
    double min, max;            /* of numbers; both 0: any */
    const char *const *choices; /* of texts, up to a NULL; NULL: any */
};

/* Who asks. */
struct rpc_who {
    enum rpc_role role;
    uid_t uid;
    pid_t pid;
};

struct rpc_method;

/* Brings fn into the engine's thread and waits for its end: 0, or -errno when it was not run. */
struct rpc_hop {
    int (*run)(void *arg, void (*fn)(void *fn_arg), void *fn_arg);
    void *arg;
};

static inline int rpc_hop_run(const struct rpc_hop *hop, void (*fn)(void *fn_arg), void *fn_arg)
{
    if (hop->run)
        return hop->run(hop->arg, fn, fn_arg);
    fn(fn_arg);
    return 0;
}

struct rpc_call {
    const struct rpc_method *method;
    const struct rpc_hop *hop;
    void *arg;      /* of its table */
    json_t *params; /* an object that agrees with method->params; borrowed */
    struct rpc_who who;
    int code; /* of the error; 0: none */
    char error[RPC_ERR];
};

struct rpc_method {
    const char *name;
    enum rpc_role role;             /* the least that may call it */
    const char *help;               /* one line */
    const struct rpc_param *params; /* up to one without a name; NULL: none */
    bool in_engine;                 /* call runs in the engine's thread, else in the socket's */
    /* The result, or NULL after rpc_fail. Must not block; in the socket's thread it may wait for
     * the engine's some seconds, in which nobody else is heard. */
    json_t *(*call)(struct rpc_call *c);
};

/* Returns NULL, for `return rpc_fail(...)`. */
json_t *rpc_fail(struct rpc_call *c, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* What rpc_hop_run returned, < 0. */
json_t *rpc_fail_hop(struct rpc_call *c, int rc);

/* Parameters as they were given, or a default. */
const char *rpc_text(const struct rpc_call *c, const char *name, const char *otherwise);
double rpc_number(const struct rpc_call *c, const char *name, double otherwise);
bool rpc_flag(const struct rpc_call *c, const char *name, bool otherwise);
bool rpc_given(const struct rpc_call *c, const char *name);

/* Methods up to one without a name; methods NULL ends a list of tables. Names are unique. */
struct rpc_methods {
    const struct rpc_method *methods;
    void *arg;
};

struct rpc_table {
    const struct rpc_methods *sets;
    struct rpc_hop hop; /* run NULL: in the caller's thread (tests) */
};

/*
 * What a line gets as its answer: malloc'd, one line without its newline; NULL: nothing (only
 * notifications), or out of memory. No I/O of its own; every byte of line is outside input.
 */
char *rpc_answer(const struct rpc_table *t, const struct rpc_who *who, const char *line,
                 size_t len);

/* An answer that is an error of no request: {"jsonrpc": "2.0", "error": ..., "id": null}. */
char *rpc_error_line(int code, const char *message);

/* The one of the table's names that is most like `name`; NULL: none is. */
const char *rpc_nearest(const struct rpc_table *t, const char *name);

/* --- roles --------------------------------------------------------------------------------------
 */

#define RPC_NO_GROUP ((gid_t)-1)

/* root and the process's own user are admins, always. RPC_NO_GROUP: nobody else is. */
struct rpc_roles {
    gid_t admin_group, operator_group;
};

/* Of a connected Unix socket. 0 or -errno. */
int rpc_who(int fd, const struct rpc_roles *roles, struct rpc_who *who);

/* --- the socket ---------------------------------------------------------------------------------
 */

struct rpc;

struct rpc_params {
    const char *path;               /* copied */
    gid_t group;                    /* the socket's, mode 0660; RPC_NO_GROUP: the process's */
    struct rpc_roles roles;         /* operator_group RPC_NO_GROUP: the socket's group's members */
    const struct rpc_methods *sets; /* up to one with NULL; they and what they hold are borrowed */
    struct rpc_hop hop;             /* run NULL: the mailbox of rpc_run_pending */
    void (*wake)(void *arg); /* of the mailbox: something is in it; from any thread; may be NULL */
    void *wake_arg;
    /* In the socket's thread, every now and then: returns after how many ns at the latest it wants
     * to be called again, UINT64_MAX: not until a call was answered. May be NULL. */
    uint64_t (*tick)(void *arg, const struct rpc_hop *hop);
    void *tick_arg;
    bool plain; /* poll instead of io_uring: tests */
};

/*
 * Listen, and serve from now on. A socket of a process that is gone is replaced. err: RPC_ERR
 * bytes, a line that names the path and the mend. 0; -EADDRINUSE: another process serves there;
 * -ENAMETOOLONG; -EACCES, -ENOENT and others of bind; -ENOMEM.
 */
int rpc_open(const struct rpc_params *p, struct rpc **out, char *err);

/* No calls after this; the socket is removed. In the engine's thread: calls that wait for it are
 * told that it shuts down. */
void rpc_close(struct rpc *r);

/* The engine's thread, often: does what waits in the mailbox. Costs a load when nothing does. */
void rpc_run_pending(struct rpc *r);

/* "io_uring" or "poll". */
const char *rpc_how(const struct rpc *r);

#endif
