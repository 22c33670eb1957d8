/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket itself: its thread, its file, clients of every kind. Threads: run it under
 * TSan. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/rpc/listen.h"
#include "control/rpc/mailbox.h"
#include "control/rpc/rpc.h"
#include "dataplane/port.h"

static char folder[] = "/tmp/isthmus-test-rpc-XXXXXX";
static char path[64];
static pthread_t engine_thread;

static json_t *where(struct rpc_call *c)
{
    return json_boolean(pthread_equal(pthread_self(), engine_thread));
}

static json_t *big(struct rpc_call *c)
{
    const size_t n = (size_t)rpc_number(c, "n", 0);
    char *text = malloc(n + 1);
    memset(text, 'x', n);
    text[n] = '\0';
    json_t *o = json_string(text);
    free(text);
    return o;
}

static json_t *role(struct rpc_call *c)
{
    return json_string(rpc_role_name(c->who.role));
}

static const struct rpc_param big_params[] = {
    {"n", "bytes", RPC_WHOLE, true, 0, 1e7, NULL},
    {NULL, NULL, RPC_TEXT, false, 0, 0, NULL},
};
static const struct rpc_method methods[] = {
    {"where", RPC_USER, "in the engine's thread?", NULL, true, where},
    {"here", RPC_USER, "in the engine's thread?", NULL, false, where},
    {"big", RPC_USER, "a long answer", big_params, false, big},
    {"role", RPC_USER, "the caller's", NULL, false, role},
    {NULL, RPC_NOBODY, NULL, NULL, false, NULL},
};
static const struct rpc_methods sets[] = {{methods, NULL}, {NULL, NULL}};

/* --- a server, and an engine that looks into its mailbox -----------------------------------------
 */

static bool plain;

static struct rpc *open_as(const struct rpc_roles *roles, gid_t group)
{
    char err[RPC_ERR] = "";
    struct rpc *r = NULL;
    const struct rpc_params p = {
        .path = path, .group = group, .roles = *roles, .sets = sets, .plain = plain};
    const int rc = rpc_open(&p, &r, err);
    if (rc < 0)
        fail_msg("%s", err);
    return r;
}

static const struct rpc_roles nobody = {RPC_NO_GROUP, RPC_NO_GROUP};

static struct rpc *open_server(void)
{
    return open_as(&nobody, RPC_NO_GROUP);
}

static int connected(void)
{
    const int fd = rpc_connect(path);
    if (fd < 0)
        fail_msg("%s: %s", path, strerror(-fd));
    return fd;
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* Bytes up to the newline, which is dropped; the engine runs meanwhile. NULL: the end. malloc'd. */
static char *hear(struct rpc *r, int fd)
{
    size_t n = 0, room = 65536;
    char *line = malloc(room);
    struct pollfd p = {fd, POLLIN, 0};
    const uint64_t end_ns = port_now_ns() + UINT64_C(60000000000);
    while (port_now_ns() < end_ns) {
        rpc_run_pending(r);
        if (poll(&p, 1, 1) <= 0)
            continue;
        if (n == room)
            line = realloc(line, room *= 2);
        const ssize_t got = recv(fd, line + n, 1, 0);
        if (got <= 0) {
            free(line);
            return NULL;
        }
        if (line[n] == '\n') {
            line[n] = '\0';
            return line;
        }
        n++;
    }
    fail_msg("no answer");
    return NULL;
}

static void assert_heard(struct rpc *r, int fd, const char *word)
{
    char *line = hear(r, fd);
    assert_non_null(line);
    if (!strstr(line, word))
        fail_msg("%s has no %s", line, word);
    free(line);
}

#define CALL(method) "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"" method "\"}\n"

/* --- tests ---------------------------------------------------------------------------------------
 */

static void threads(void **state)
{
    struct rpc *r = open_server();
    engine_thread = pthread_self();
    const int fd = connected();
    assert_string_equal(rpc_how(r), plain ? "poll" : "io_uring");
    for (int i = 0; i < 20; i++) {
        say(fd, CALL("where"));
        assert_heard(r, fd, "\"result\":true");
        say(fd, CALL("here"));
        assert_heard(r, fd, "\"result\":false");
    }
    close(fd);
    rpc_close(r);
    assert_int_equal(access(path, F_OK), -1);
}

/* Lines in pieces, several at once, blank ones; nothing is lost, the order is kept. */
static void pieces(void **state)
{
    struct rpc *r = open_server();
    const int fd = connected(), other = connected();
    const char *line = CALL("role");
    for (size_t i = 0; line[i]; i++) {
        say(fd, (char[]){line[i], '\0'});
        if (i == 5) {
            say(other, CALL("role")); /* who is slow holds nobody up */
            assert_heard(r, other, "\"result\":\"admin\"");
        }
    }
    assert_heard(r, fd, "\"result\":\"admin\"");
    say(fd, "\n \r\n{\"jsonrpc\":\"2.0\",\"method\":\"role\"}\n" CALL("where")
                CALL("here") "garbage\n" CALL("role"));
    engine_thread = pthread_self();
    assert_heard(r, fd, "\"result\":true");
    assert_heard(r, fd, "\"result\":false");
    assert_heard(r, fd, "-32700");
    assert_heard(r, fd, "\"result\":\"admin\"");
    close(other);
    close(fd);
    rpc_close(r);
}

static void long_lines(void **state)
{
    struct rpc *r = open_server();
    int fd = connected();
    char *line = malloc(RPC_LINE_MAX + 2);

    /* The longest there may be. */
    memset(line, ' ', RPC_LINE_MAX);
    const char *call = CALL("role");
    memcpy(line + RPC_LINE_MAX - strlen(call), call, strlen(call) + 1);
    say(fd, line);
    assert_heard(r, fd, "\"result\":\"admin\"");
    say(fd, call);
    assert_heard(r, fd, "\"result\":\"admin\"");

    /* One more. */
    memset(line, 'x', RPC_LINE_MAX);
    line[RPC_LINE_MAX] = '\0';
    say(fd, line);
    assert_heard(r, fd, "65536");
    assert_null(hear(r, fd));
    close(fd);
    free(line);
    rpc_close(r);
}

/* Answers that are not taken stop who asked, and nobody else; then they come, whole. */
static void who_does_not_read(void **state)
{
    struct rpc *r = open_server();
    const int fd = connected(), other = connected();
    for (int i = 0; i < 3; i++)
        say(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"big\",\"params\":[3000000]}\n");
    for (int i = 0; i < 10; i++) {
        say(other, CALL("role"));
        assert_heard(r, other, "\"result\":\"admin\"");
    }
    for (int i = 0; i < 3; i++) {
        char *line = hear(r, fd);
        assert_true(strlen(line) > 3000000);
        free(line);
    }
    /* And one that leaves in the middle of it. */
    say(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"big\",\"params\":[3000000]}\n");
    close(fd);
    say(other, CALL("role"));
    assert_heard(r, other, "\"result\":\"admin\"");
    close(other);
    rpc_close(r);
}

static void crowds(void **state)
{
    struct rpc *r = open_server();
    int fds[RPC_CLIENTS_MAX];
    for (unsigned i = 0; i < RPC_CLIENTS_MAX; i++) {
        fds[i] = connected();
        say(fds[i], CALL("role"));
        assert_heard(r, fds[i], "admin");
    }
    int late = connected();
    assert_heard(r, late, "-32005");
    assert_null(hear(r, late));
    close(late);
    close(fds[7]);
    for (bool in = false; !in;) { /* its place is free as soon as its end was seen */
        late = connected();
        say(late, CALL("role"));
        char *line = hear(r, late);
        in = line && strstr(line, "admin");
        free(line);
        if (!in)
            close(late);
    }
    fds[7] = late;
    for (unsigned i = 0; i < RPC_CLIENTS_MAX; i++)
        close(fds[i]);
    rpc_close(r);
}

/* Nobody looks into the mailbox any more: the caller hears so, and the close does not hang. */
static void closing(void **state)
{
    struct rpc *r = open_server();
    const int fd = connected(), idle = connected(), half = connected();
    say(half, "{\"jsonrpc\"");
    say(fd, CALL("where"));
    usleep(20000);
    rpc_close(r);
    char *line = malloc(4096);
    const ssize_t n = recv(fd, line, 4095, 0);
    assert_true(n <= 0 || strstr(line, "-32004"));
    free(line);
    assert_true(recv(idle, &(char){0}, 1, 0) <= 0);
    close(fd);
    close(idle);
    close(half);
}

static void files(void **state)
{
    char err[RPC_ERR] = "";
    struct rpc *second = NULL;
    struct stat st;
    struct rpc *r = open_server();
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0660);

    /* A live one stays; its place is not taken. */
    const struct rpc_params p = {
        .path = path, .group = RPC_NO_GROUP, .roles = nobody, .sets = sets, .plain = plain};
    assert_int_equal(rpc_open(&p, &second, err), -EADDRINUSE);
    assert_non_null(strstr(err, "another process"));
    const int fd = connected();
    say(fd, CALL("role"));
    assert_heard(r, fd, "admin");
    close(fd);
    rpc_close(r);

    /* A dead one's is replaced: what is left is a socket that nobody listens at. */
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strcpy(a.sun_path, path);
    const int dead = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(dead, (struct sockaddr *)&a, sizeof a), 0);
    close(dead);
    r = open_server();
    rpc_close(r);

    /* What is no socket stays. */
    FILE *f = fopen(path, "w");
    assert_int_equal(fclose(f), 0);
    assert_int_equal(rpc_open(&p, &second, err), -EEXIST);
    assert_non_null(strstr(err, "no socket"));
    unlink(path);

    /* No such folder; a path too long. */
    struct rpc_params q = p;
    q.path = "/nonexistent/isthmus/control.sock";
    assert_int_equal(rpc_open(&q, &second, err), -ENOENT);
    char longest[200];
    memset(longest, 'x', sizeof longest - 1);
    longest[0] = '/';
    longest[sizeof longest - 1] = '\0';
    q.path = longest;
    assert_int_equal(rpc_open(&q, &second, err), -ENAMETOOLONG);

    /* Closed after somebody else took the place: theirs stays. */
    r = open_server();
    unlink(path);
    struct rpc *heir = open_server();
    rpc_close(r);
    const int heard = connected();
    say(heard, CALL("role"));
    assert_heard(heir, heard, "admin");
    close(heard);
    rpc_close(heir);
}

#define STRANGER 65534

/* Another uid, in the groups given: the role it has. */
static void assert_role_of(struct rpc *r, gid_t group, const gid_t *more, size_t n,
                           const char *role_)
{
    int out[2];
    char got[64] = "";
    assert_int_equal(pipe(out), 0);
    const pid_t pid = fork();
    if (pid == 0) {
        char line[512] = "";
        if (setgroups(n, more) < 0 || setgid(group) < 0 || setuid(STRANGER) < 0)
            _exit(3);
        const int fd = rpc_connect(path);
        if (fd < 0) {
            dprintf(out[1], "%s", fd == -EACCES ? "refused" : "failed");
            _exit(0);
        }
        if (send(fd, CALL("role"), strlen(CALL("role")), 0) < 0 ||
            recv(fd, line, sizeof line - 1, 0) <= 0)
            _exit(4);
        const char *result = strstr(line, "\"result\":\"");
        dprintf(out[1], "%.*s", result ? (int)strcspn(result + 10, "\"") : 0,
                result ? result + 10 : "");
        _exit(0);
    }
    int status = -1;
    for (struct pollfd p = {out[0], POLLIN, 0};
         poll(&p, 1, 1) == 0 && waitpid(pid, &status, WNOHANG) == 0;)
        rpc_run_pending(r);
    if (status == -1)
        waitpid(pid, &status, 0);
    close(out[1]);
    const ssize_t bytes = read(out[0], got, sizeof got - 1);
    close(out[0]);
    assert_int_equal(status, 0);
    assert_true(bytes > 0);
    assert_string_equal(got, role_);
}

static void roles(void **state)
{
    if (geteuid() != 0) {
        print_message("not root: roles of other users are not tried\n");
        skip();
    }
    assert_int_equal(chmod(folder, 0755), 0);
    struct rpc *r = open_as(&nobody, 40001);
    assert_role_of(r, 40001, NULL, 0, "operator");
    assert_role_of(r, STRANGER, &(gid_t){40001}, 1, "operator");
    assert_role_of(r, STRANGER, NULL, 0, "refused");
    rpc_close(r);

    const struct rpc_roles both = {.admin_group = 40003, .operator_group = 40002};
    gid_t many[100] = {[98] = 40003, [99] = 40001}; /* more than are asked for at first */
    r = open_as(&both, 40001);
    assert_role_of(r, 40001, NULL, 0, "user");
    assert_role_of(r, 40001, &(gid_t){40002}, 1, "operator");
    assert_role_of(r, 40003, &(gid_t){40001}, 1, "admin");
    for (gid_t i = 0; i < 98; i++)
        many[i] = 50000 + i;
    assert_role_of(r, STRANGER, many, 100, "admin");
    assert_role_of(r, 40002, NULL, 0,
                   "refused"); /* may, but can't: the socket is another group's */
    rpc_close(r);
}

/* --- the mailbox
 * ---------------------------------------------------------------------------------- */

struct letters {
    struct rpc_mailbox box;
    atomic_int done, failed, woken;
    atomic_bool end;
};

static void count(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

static void *sender(void *arg)
{
    struct letters *l = arg;
    for (int i = 0; i < 2000; i++)
        if (rpc_mailbox_call(&l->box, count, &l->done) < 0)
            atomic_fetch_add(&l->failed, 1);
    atomic_store(&l->end, true);
    return NULL;
}

static void mailbox(void **state)
{
    struct letters l = {0};
    pthread_t t;
    assert_int_equal(rpc_mailbox_open(&l.box, count, &l.woken, UINT64_C(20000000000)), 0);
    assert_int_equal(pthread_create(&t, NULL, sender, &l), 0);
    while (!atomic_load(&l.end))
        rpc_mailbox_run(&l.box);
    pthread_join(t, NULL);
    assert_int_equal(atomic_load(&l.done), 2000);
    assert_int_equal(atomic_load(&l.failed), 0);
    assert_int_equal(atomic_load(&l.woken), 2000);

    /* Nobody came for it: it is taken back, and not done later. */
    l.box.patience_ns = 1000000;
    assert_int_equal(rpc_mailbox_call(&l.box, count, &l.done), -ETIMEDOUT);
    rpc_mailbox_run(&l.box);
    assert_int_equal(atomic_load(&l.done), 2000);
    rpc_mailbox_shut(&l.box);
    assert_int_equal(rpc_mailbox_call(&l.box, count, &l.done), -ESHUTDOWN);
    rpc_mailbox_close(&l.box);
}

static int setup(void **state)
{
    plain = *state != NULL;
    return 0;
}

int main(void)
{
    static char by_poll[] = "poll";
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof path, "%s/control.sock", folder);
#define BOTH(test)                                                                                 \
    cmocka_unit_test_setup(test, setup),                                                           \
        cmocka_unit_test_prestate_setup_teardown(test, setup, NULL, by_poll)
    const struct CMUnitTest tests[] = {
        BOTH(threads),
        BOTH(pieces),
        BOTH(long_lines),
        BOTH(who_does_not_read),
        BOTH(crowds),
        BOTH(closing),
        BOTH(files),
        cmocka_unit_test(roles),
        cmocka_unit_test(mailbox),
    };
    const int rc = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return rc;
}
