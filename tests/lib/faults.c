/*
 * faults.so: makes certain what only luck would show.
 *
 * On one machine the network is too kind. send() takes all it is given, nobody interrupts recv(),
 * accept() never fails: code that forgot those cases looks right for years. This library is loaded
 * before libc and stands between a program and its calls, and does to it what a bad day would do:
 *
 *     cc -O2 -fPIC -shared tests/lib/faults.c -o build/faults.so    (glibc before 2.34: and -ldl)
 *     FAULTS=recv:cap=100,send:cap=7 LD_PRELOAD=$PWD/build/faults.so ./server
 *
 * FAULTS is a list of rules, CALL:ACTION or CALL:ACTION:WHEN, with commas between them. For each
 * call the first rule that matches is the only one that counts.
 *
 *   CALL         covers
 *   accept       accept accept4
 *   connect      connect
 *   recv         recv recvfrom recvmsg read readv
 *   send         send sendto sendmsg write writev
 *   close        close
 *   socket       socket
 *   getpeername  getpeername
 *   setsockopt   setsockopt
 *   fcntl        fcntl
 *   select       select pselect
 *   poll         poll ppoll
 *   epoll_wait   epoll_wait epoll_pwait epoll_pwait2
 *   epoll_ctl    epoll_ctl
 *   clock        time gettimeofday, and clock_gettime of CLOCK_REALTIME
 *   urgent       those of recv that ask for an urgent byte (MSG_OOB). They are counted here as well,
 *                but only a rule for recv changes them.
 *
 *   From accept to fcntl only IPv4 and IPv6 sockets are meant: a read() on a file, a pipe, an
 *   eventfd or a socketpair is neither counted nor touched.
 *
 *   ACTION       what the call does
 *   EAGAIN ...   fails with this error and is not made (a pending connection stays pending, unread
 *                bytes stay unread). To be interrupted is to fail with EINTR. As in the kernel
 *                - close() closes, whatever error it gives;
 *                - connect() that fails with EINTR or EINPROGRESS goes on in the background;
 *                - EPIPE comes with SIGPIPE, unless the call said MSG_NOSIGNAL;
 *                - EAGAIN comes only if the descriptor is non-blocking (or the call says
 *                  MSG_DONTWAIT). It does not come if epoll watches the descriptor with EPOLLET:
 *                  there EAGAIN is a promise that a new event will follow, which we cannot keep.
 *   cap=N        recv, send: asks for at most N bytes
 *   sig=N        is made after signal N was raised
 *   ready        select, poll, epoll_wait: returns at once and says that all that is watched for
 *                reading is readable and all that is watched for writing is writable; in epoll
 *                not what is edge-triggered or one-shot. With nothing to say the call is made,
 *                and that is no hit.
 *   ready-read   the same, and nothing is writable
 *   shift=S      clock: is S seconds ahead (S may be negative)
 *
 *   WHEN         which calls; each CALL above has one count, from 1
 *   (nothing)    all
 *   N            the Nth
 *   N+           from the Nth on
 *   N-M          from the Nth to the Mth
 *   N%M          the Nth and every Mth after it
 *   after=S      all that come S seconds or more (fractions allowed) after the start
 *
 * FAULTS_COUNTS=FILE keeps score in FILE while the program runs, a line for each CALL:
 *
 *     recv calls 0000000012 hits 0000000003
 *
 * A hit is a call that a rule changed: one that a cap did not shorten is none. Digits are changed
 * in place, so the file can be read at any time, also after kill -9; nobody may shorten it while
 * the program runs. Forked children count along. A program started anew by exec (`env ... server`)
 * sets all to zero: the file belongs to the last that was started.
 *
 * Not reached: static programs, languages that make their own system calls (Go), and what libc
 * calls inside itself (stdio, getaddrinfo). They leave no file, or only zeros (a wrapper such as
 * env was reached). gcc -fsanitize=address needs ASAN_OPTIONS=verify_asan_link_order=0.
 *
 * A rule that cannot be understood ends the program, with the reason on stderr and status 2.
 */

/* This file defines the calls that these two would replace by others. */
#undef _FORTIFY_SOURCE
#undef _FILE_OFFSET_BITS

#define _GNU_SOURCE /* RTLD_NEXT, accept4, ppoll */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAX_RULES  32
#define MAX_TEXT   128 /* of one rule */
#define DIGITS     10  /* of a number in FAULTS_COUNTS */
#define MAX_PIECES 64

enum family {
    ACCEPT,
    CONNECT,
    RECV,
    SEND,
    CLOSE,
    SOCKET,
    GETPEERNAME,
    SETSOCKOPT,
    FCNTL,
    SELECT,
    POLL,
    EPOLL_WAIT,
    EPOLL_CTL,
    CLOCK,
    URGENT,
    FAMILIES
};

static const char *const family_names[FAMILIES] = {
    [ACCEPT] = "accept",
    [CONNECT] = "connect",
    [RECV] = "recv",
    [SEND] = "send",
    [CLOSE] = "close",
    [SOCKET] = "socket",
    [GETPEERNAME] = "getpeername",
    [SETSOCKOPT] = "setsockopt",
    [FCNTL] = "fcntl",
    [SELECT] = "select",
    [POLL] = "poll",
    [EPOLL_WAIT] = "epoll_wait",
    [EPOLL_CTL] = "epoll_ctl",
    [CLOCK] = "clock",
    [URGENT] = "urgent",
};

enum action { FAIL, CAP, SIGNAL, READY, READY_READ, SHIFT };

struct rule {
    enum family family;
    enum action action;
    long value;          /* the error, the bytes, the signal, the seconds */
    unsigned long first; /* the calls it is for: first, first + step ... up to last */
    unsigned long last;
    unsigned long step;
    double after; /* seconds since the start before which it does nothing */
};

static struct rule rules[MAX_RULES];
static size_t rule_count;
static struct timespec start;

/* ------------------------------------------------------------------ the real calls */

/* Programs built with _FORTIFY_SOURCE call these instead; no header shows them to us. */
/* NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */
ssize_t __read_chk(int, void *, size_t, size_t);
ssize_t __recv_chk(int, void *, size_t, size_t, int);
ssize_t __recvfrom_chk(int, void *, size_t, size_t, int, __SOCKADDR_ARG, socklen_t *);
int __poll_chk(struct pollfd *, nfds_t, int, size_t);
int __ppoll_chk(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t);
/* NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */

/* These two are not in every glibc that is still in use. */
int fcntl64(int, int, ...);
int epoll_pwait2(int, struct epoll_event *, int, const struct timespec *, const sigset_t *);

/* clang-format off */
#define REAL_CALLS(X)                                                                              \
    X(accept) X(accept4) X(connect) X(socket) X(close) X(getpeername) X(setsockopt) X(fcntl)       \
    X(fcntl64) X(recv) X(recvfrom) X(recvmsg) X(read) X(readv) X(__recv_chk) X(__recvfrom_chk)     \
    X(__read_chk) X(send) X(sendto) X(sendmsg) X(write) X(writev) X(select) X(pselect) X(poll)     \
    X(ppoll) X(__poll_chk) X(__ppoll_chk) X(epoll_wait) X(epoll_pwait) X(epoll_pwait2)             \
    X(epoll_ctl) X(time) X(gettimeofday) X(clock_gettime)
/* clang-format on */

#define AS_INDEX(name)  REAL_##name,
#define AS_STRING(name) #name,

enum { REAL_CALLS(AS_INDEX) CALL_COUNT };

static const char *const call_names[CALL_COUNT] = {REAL_CALLS(AS_STRING)};

typedef void function(void);
static _Atomic(function *) real_calls[CALL_COUNT];

/* Stands in for a call that this libc does not have. */
static int missing_call(void) {
    errno = ENOSYS;
    return -1;
}

/*
 * The function of this name that comes next after ours, nearly always libc's. It is looked up when
 * first needed and not only in the constructor, for sanitizers make calls before that has run.
 */
static function *real_call(int index) {
    function *found = atomic_load_explicit(&real_calls[index], memory_order_relaxed);

    if (!found) {
        void *symbol = dlsym(RTLD_NEXT, call_names[index]);

        /* C knows no cast from an object's address to a function's; POSIX says it is the same. */
        if (symbol)
            memcpy(&found, &symbol, sizeof found);
        else
            found = (function *)missing_call;
        atomic_store_explicit(&real_calls[index], found, memory_order_relaxed);
    }
    return found;
}

#define REAL(name) ((__typeof__(&(name)))real_call(REAL_##name))

/* ------------------------------------------------------------------ counting */

struct count {
    atomic_ulong calls;
    atomic_ulong hits;
};

/* Where to count until the constructor has found memory that forked children share. */
static struct count early_counts[FAMILIES];
static struct count *counts = early_counts;

/* Where the digits stand in the file of FAULTS_COUNTS, or null. */
static struct {
    volatile char *calls;
    volatile char *hits;
} shown[FAMILIES];

/*
 * Writes a counter into the file. Threads and signal handlers may do so at the same time, and a
 * lock would hang the handler: so whoever has written looks again, and writes again if the counter
 * has moved on. The last digit goes first: a reader in between sees too little, not too much.
 */
static void show(volatile char *digits, atomic_ulong *counter) {
    unsigned long value;

    if (!digits)
        return;
    do {
        unsigned long rest = value = atomic_load(counter);

        for (int i = DIGITS - 1; i >= 0; i--) {
            digits[i] = (char)('0' + rest % 10);
            rest /= 10;
        }
        atomic_thread_fence(memory_order_seq_cst);
    } while (value != atomic_load(counter));
}

static void count_hit(const struct rule *rule) {
    atomic_fetch_add(&counts[rule->family].hits, 1);
    show(shown[rule->family].hits, &counts[rule->family].hits);
}

/* ------------------------------------------------------------------ rules at work */

static bool too_early(const struct rule *rule) {
    struct timespec now = {0};

    if (rule->after <= 0)
        return false;
    REAL(clock_gettime)(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start.tv_sec) + (double)(now.tv_nsec - start.tv_nsec) / 1e9 <
           rule->after;
}

/* Counts a call. Returns the rule for it, or null. */
static const struct rule *rule_for(enum family family) {
    unsigned long n = atomic_fetch_add(&counts[family].calls, 1) + 1;

    show(shown[family].calls, &counts[family].calls);
    for (const struct rule *rule = rules; rule < rules + rule_count; rule++) {
        if (rule->family == family && n >= rule->first && n <= rule->last &&
            (n - rule->first) % rule->step == 0 && !too_early(rule))
            return rule;
    }
    return NULL;
}

/*
 * Does what a rule asks before a call. Returns true if the call is to fail, with errno set, and not
 * to be made. A cap shortens *length; flags are those of send().
 */
static bool fails(const struct rule *rule, int flags, size_t *length) {
    if (!rule)
        return false;
    if (rule->action == FAIL) {
        count_hit(rule);
        if (rule->value == EPIPE && rule->family == SEND && !(flags & MSG_NOSIGNAL))
            raise(SIGPIPE);
        errno = (int)rule->value;
        return true;
    }
    if (rule->action == SIGNAL) {
        count_hit(rule);
        raise((int)rule->value);
    }
    if (rule->action == CAP && *length > (size_t)rule->value) {
        count_hit(rule);
        *length = (size_t)rule->value;
    }
    return false;
}

/* The descriptors that epoll watches with EPOLLET. */
static atomic_bool edge_triggered[65536];

static void set_edge_triggered(int fd, bool edge) {
    if (fd >= 0 && (size_t)fd < sizeof edge_triggered / sizeof edge_triggered[0])
        atomic_store(&edge_triggered[fd], edge);
}

/* May the kernel say "not now" of this descriptor, without a new event to follow? */
static bool may_say_not_now(int fd, int flags) {
    int saved = errno;
    bool waits = !(flags & MSG_DONTWAIT) && !(REAL(fcntl)(fd, F_GETFL) & O_NONBLOCK);

    errno = saved;
    return !waits && ((size_t)fd >= sizeof edge_triggered / sizeof edge_triggered[0] ||
                      !atomic_load(&edge_triggered[fd]));
}

/* rule_for() for a call on a descriptor. */
static const struct rule *rule_for_call(enum family family, int fd, int flags) {
    const struct rule *rule = rule_for(family);

    if (family == RECV && (flags & MSG_OOB))
        rule_for(URGENT);
    if (rule && rule->action == FAIL && rule->value == EAGAIN && !may_say_not_now(fd, flags))
        return NULL;
    return rule;
}

/* The same for a call that moves no bytes. */
static bool refused(enum family family, int fd) {
    size_t none = 0;

    return fails(rule_for_call(family, fd, 0), 0, &none);
}

static bool is_network_domain(int domain) {
    return domain == AF_INET || domain == AF_INET6;
}

/* Asked anew each time: after a close() the same number may be a file. */
static bool is_network(int fd) {
    int domain = AF_UNSPEC;
    socklen_t size = sizeof domain;
    int saved = errno; /* some programs look at it only after the next call */

    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == -1)
        domain = AF_UNSPEC;
    errno = saved;
    return is_network_domain(domain);
}

/* ------------------------------------------------------------------ calls that only fail */

#define WRAP(family, counted, name, parameters, arguments)                                         \
    int name parameters {                                                                          \
        if ((counted) && refused(family, fd))                                                      \
            return -1;                                                                             \
        return REAL(name) arguments;                                                               \
    }

/* glibc's headers want just these types for an address: they are unions of all kinds of it. */
typedef __SOCKADDR_ARG address_to_fill;
typedef __CONST_SOCKADDR_ARG address_given;

WRAP(ACCEPT, is_network(fd), accept, (int fd, address_to_fill address, socklen_t *size),
     (fd, address, size))
WRAP(ACCEPT, is_network(fd), accept4, (int fd, address_to_fill address, socklen_t *size, int flags),
     (fd, address, size, flags))
WRAP(GETPEERNAME, is_network(fd), getpeername, (int fd, address_to_fill address, socklen_t *size),
     (fd, address, size))
WRAP(SETSOCKOPT, is_network(fd), setsockopt,
     (int fd, int level, int option, const void *value, socklen_t size),
     (fd, level, option, value, size))

int socket(int domain, int type, int protocol) {
    size_t none = 0;

    if (is_network_domain(domain) && fails(rule_for(SOCKET), 0, &none))
        return -1;
    return REAL(socket)(domain, type, protocol);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
    size_t none = 0;
    int result;

    if (fails(rule_for(EPOLL_CTL), 0, &none))
        return -1;
    result = REAL(epoll_ctl)(epoll, operation, fd, event);
    if (result == 0)
        set_edge_triggered(fd, operation != EPOLL_CTL_DEL && (event->events & EPOLLET));
    return result;
}

/* fcntl() has one more argument or none, and whatever it is it fits where a pointer does. */
#define WRAP_FCNTL(name)                                                                           \
    int name(int fd, int command, ...) {                                                           \
        va_list list;                                                                              \
        void *argument;                                                                            \
                                                                                                   \
        va_start(list, command);                                                                   \
        argument = va_arg(list, void *);                                                           \
        va_end(list);                                                                              \
        if (is_network(fd) && refused(FCNTL, fd))                                                  \
            return -1;                                                                             \
        return REAL(name)(fd, command, argument);                                                  \
    }

WRAP_FCNTL(fcntl)
WRAP_FCNTL(fcntl64)

/* Linux gives the descriptor back before anything can go wrong: an error does not keep it open. */
int close(int fd) {
    bool failed = is_network(fd) && refused(CLOSE, fd);
    int error = errno;
    int result;

    set_edge_triggered(fd, false);
    result = REAL(close)(fd);

    if (failed && result == 0) {
        errno = error;
        result = -1;
    }
    return result;
}

/*
 * A connect() that is interrupted, or told not to wait, has begun all the same. So this one begins
 * too: who calls connect() again, and who waits for the socket to be writable, finds what is true.
 */
static int begin_connect(int fd, address_given address, socklen_t size, int error) {
    int flags = REAL(fcntl)(fd, F_GETFL);
    int result;

    REAL(fcntl)(fd, F_SETFL, flags | O_NONBLOCK);
    result = REAL(connect)(fd, address, size);
    if (result == -1 && errno != EINPROGRESS)
        error = errno;
    REAL(fcntl)(fd, F_SETFL, flags);
    errno = error;
    return -1;
}

int connect(int fd, address_given address, socklen_t size) {
    if (is_network(fd) && refused(CONNECT, fd)) {
        if (errno == EINTR || errno == EINPROGRESS)
            return begin_connect(fd, address, size, errno);
        return -1;
    }
    return REAL(connect)(fd, address, size);
}

/* ------------------------------------------------------------------ calls that move bytes */

/* Each has a parameter `fd` and a parameter `length`, which a cap may shorten. */
#define WRAP_BYTES(family, given_flags, name, parameters, arguments)                               \
    ssize_t name parameters {                                                                      \
        if (is_network(fd) && fails(rule_for_call(family, fd, given_flags), given_flags, &length)) \
            return -1;                                                                             \
        return REAL(name) arguments;                                                               \
    }

WRAP_BYTES(RECV, 0, read, (int fd, void *buffer, size_t length), (fd, buffer, length))
WRAP_BYTES(RECV, 0, __read_chk, (int fd, void *buffer, size_t length, size_t room),
           (fd, buffer, length, room))
WRAP_BYTES(RECV, flags, recv, (int fd, void *buffer, size_t length, int flags),
           (fd, buffer, length, flags))
WRAP_BYTES(RECV, flags, __recv_chk, (int fd, void *buffer, size_t length, size_t room, int flags),
           (fd, buffer, length, room, flags))
WRAP_BYTES(RECV, flags, recvfrom,
           (int fd, void *buffer, size_t length, int flags, address_to_fill address,
            socklen_t *size),
           (fd, buffer, length, flags, address, size))
WRAP_BYTES(RECV, flags, __recvfrom_chk,
           (int fd, void *buffer, size_t length, size_t room, int flags, address_to_fill address,
            socklen_t *size),
           (fd, buffer, length, room, flags, address, size))
WRAP_BYTES(SEND, 0, write, (int fd, const void *buffer, size_t length), (fd, buffer, length))
WRAP_BYTES(SEND, flags, send, (int fd, const void *buffer, size_t length, int flags),
           (fd, buffer, length, flags))
WRAP_BYTES(SEND, flags, sendto,
           (int fd, const void *buffer, size_t length, int flags, address_given address,
            socklen_t size),
           (fd, buffer, length, flags, address, size))

/*
 * Copies pieces until they hold `length` bytes; returns how many it took. Empty ones are left out,
 * so that a full copy is never of no bytes at all: recv() of none looks like the end of the file.
 */
static size_t shorten(struct iovec *copy, const struct iovec *pieces, size_t count, size_t length) {
    size_t taken = 0;

    for (size_t i = 0; i < count && length > 0 && taken < MAX_PIECES; i++) {
        if (pieces[i].iov_len == 0)
            continue;
        copy[taken] = pieces[i];
        if (copy[taken].iov_len > length)
            copy[taken].iov_len = length;
        length -= copy[taken].iov_len;
        taken++;
    }
    return taken;
}

static size_t bytes_in(const struct iovec *pieces, size_t count) {
    size_t bytes = 0;

    for (size_t i = 0; i < count; i++)
        bytes += pieces[i].iov_len;
    return bytes;
}

#define WRAP_PIECES(family, name)                                                                  \
    ssize_t name(int fd, const struct iovec *pieces, int count) {                                  \
        struct iovec copy[MAX_PIECES];                                                             \
        size_t all, length;                                                                        \
                                                                                                   \
        if (count <= 0 || !is_network(fd))                                                         \
            return REAL(name)(fd, pieces, count);                                                  \
        length = all = bytes_in(pieces, (size_t)count);                                            \
        if (fails(rule_for_call(family, fd, 0), 0, &length))                                       \
            return -1;                                                                             \
        if (length == all)                                                                         \
            return REAL(name)(fd, pieces, count);                                                  \
        return REAL(name)(fd, copy, (int)shorten(copy, pieces, (size_t)count, length));            \
    }

WRAP_PIECES(RECV, readv)
WRAP_PIECES(SEND, writev)

/* Makes *cut the message to hand to the real call; `copy` is room for its pieces. */
static bool message_fails(enum family family, int fd, const struct msghdr *message, int flags,
                          struct msghdr *cut, struct iovec *copy) {
    size_t all = bytes_in(message->msg_iov, message->msg_iovlen);
    size_t length = all;

    *cut = *message;
    if (fails(rule_for_call(family, fd, flags), flags, &length))
        return true;
    if (length < all) {
        cut->msg_iovlen = shorten(copy, message->msg_iov, message->msg_iovlen, length);
        cut->msg_iov = copy;
    }
    return false;
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    struct iovec copy[MAX_PIECES];
    struct msghdr cut;
    ssize_t result;

    if (!is_network(fd))
        return REAL(recvmsg)(fd, message, flags);
    if (message_fails(RECV, fd, message, flags, &cut, copy))
        return -1;
    result = REAL(recvmsg)(fd, &cut, flags);
    message->msg_namelen = cut.msg_namelen;
    message->msg_controllen = cut.msg_controllen;
    message->msg_flags = cut.msg_flags;
    return result;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    struct iovec copy[MAX_PIECES];
    struct msghdr cut;

    if (!is_network(fd))
        return REAL(sendmsg)(fd, message, flags);
    if (message_fails(SEND, fd, message, flags, &cut, copy))
        return -1;
    return REAL(sendmsg)(fd, &cut, flags);
}

/* ------------------------------------------------------------------ calls that wait */

/*
 * Each lie below fills in what a call that waits would, returns how many it reported, and changes
 * nothing if there is nothing to report. `writable` is false for ready-read.
 */
#define WRAP_WAIT(family, name, parameters, arguments, lie)                                        \
    int name parameters {                                                                          \
        const struct rule *rule = rule_for(family);                                                \
        size_t none = 0;                                                                           \
                                                                                                   \
        if (fails(rule, 0, &none))                                                                 \
            return -1;                                                                             \
        if (rule && (rule->action == READY || rule->action == READY_READ)) {                       \
            bool writable = rule->action == READY;                                                 \
            int reported = (lie);                                                                  \
                                                                                                   \
            if (reported > 0) {                                                                    \
                count_hit(rule);                                                                   \
                return reported;                                                                   \
            }                                                                                      \
        }                                                                                          \
        return REAL(name) arguments;                                                               \
    }

static int members(const fd_set *set, int limit) {
    int found = 0;

    for (int fd = 0; set && fd < limit; fd++)
        found += FD_ISSET(fd, set) ? 1 : 0;
    return found;
}

/* Like the kernel, up to the end of the last word that `limit` reaches into. */
static void empty(fd_set *set, int from, int limit) {
    for (int fd = from; set && (fd < limit || fd % NFDBITS != 0); fd++)
        FD_CLR(fd, set);
}

static int lie_to_select(int limit, fd_set *reads, fd_set *writes, fd_set *exceptions,
                         bool writable) {
    int reported = members(reads, limit) + (writable ? members(writes, limit) : 0);

    if (reported > 0) {
        empty(reads, limit, limit);
        empty(writes, writable ? limit : 0, limit);
        empty(exceptions, 0, limit);
    }
    return reported;
}

static int lie_to_poll(struct pollfd *fds, nfds_t count, bool writable) {
    short lies = writable ? POLLIN | POLLOUT : POLLIN;
    int reported = 0;

    for (nfds_t i = 0; i < count; i++)
        reported += fds[i].fd >= 0 && (fds[i].events & lies) ? 1 : 0;
    for (nfds_t i = 0; i < count && reported > 0; i++)
        fds[i].revents = fds[i].fd >= 0 ? (short)(fds[i].events & lies) : (short)0;
    return reported;
}

/*
 * Who is registered, for what and with which data, only the kernel knows for sure: descriptors
 * leave its list when they are closed, by whatever call. It tells in /proc, a line for each.
 */
static int lie_to_epoll(int epoll, struct epoll_event *events, int room, bool writable) {
    uint32_t lies = writable ? EPOLLIN | EPOLLOUT : EPOLLIN;
    int saved = errno;
    int reported = 0;
    char line[256];
    FILE *list;

    snprintf(line, sizeof line, "/proc/self/fdinfo/%d", epoll);
    list = fopen(line, "re");
    while (list && reported < room && fgets(line, sizeof line, list)) {
        unsigned int watched;
        unsigned long long data;

        if (sscanf(line, "tfd: %*d events: %x data: %llx", &watched, &data) != 2)
            continue;
        if ((watched & (EPOLLET | EPOLLONESHOT)) || !(watched & lies))
            continue;
        events[reported].events = watched & lies;
        events[reported].data.u64 = data;
        reported++;
    }
    if (list)
        fclose(list);
    errno = saved;
    return reported;
}

WRAP_WAIT(SELECT, select,
          (int limit, fd_set *reads, fd_set *writes, fd_set *exceptions, struct timeval *timeout),
          (limit, reads, writes, exceptions, timeout),
          lie_to_select(limit, reads, writes, exceptions, writable))
WRAP_WAIT(SELECT, pselect,
          (int limit, fd_set *reads, fd_set *writes, fd_set *exceptions,
           const struct timespec *timeout, const sigset_t *mask),
          (limit, reads, writes, exceptions, timeout, mask),
          lie_to_select(limit, reads, writes, exceptions, writable))
WRAP_WAIT(POLL, poll, (struct pollfd * fds, nfds_t count, int timeout), (fds, count, timeout),
          lie_to_poll(fds, count, writable))
WRAP_WAIT(POLL, __poll_chk, (struct pollfd * fds, nfds_t count, int timeout, size_t room),
          (fds, count, timeout, room), lie_to_poll(fds, count, writable))
WRAP_WAIT(POLL, ppoll,
          (struct pollfd * fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask),
          (fds, count, timeout, mask), lie_to_poll(fds, count, writable))
WRAP_WAIT(POLL, __ppoll_chk,
          (struct pollfd * fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask,
           size_t room),
          (fds, count, timeout, mask, room), lie_to_poll(fds, count, writable))
WRAP_WAIT(EPOLL_WAIT, epoll_wait, (int epoll, struct epoll_event *events, int room, int timeout),
          (epoll, events, room, timeout), lie_to_epoll(epoll, events, room, writable))
WRAP_WAIT(EPOLL_WAIT, epoll_pwait,
          (int epoll, struct epoll_event *events, int room, int timeout, const sigset_t *mask),
          (epoll, events, room, timeout, mask), lie_to_epoll(epoll, events, room, writable))
WRAP_WAIT(EPOLL_WAIT, epoll_pwait2,
          (int epoll, struct epoll_event *events, int room, const struct timespec *timeout,
           const sigset_t *mask),
          (epoll, events, room, timeout, mask), lie_to_epoll(epoll, events, room, writable))

/* ------------------------------------------------------------------ the clock on the wall */

static time_t clock_shift(void) {
    const struct rule *rule = rule_for(CLOCK);
    size_t none = 0;

    if (!rule || fails(rule, 0, &none) || rule->action != SHIFT)
        return 0;
    count_hit(rule);
    return (time_t)rule->value;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = REAL(clock_gettime)(clock, now);

    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += clock_shift();
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    int result = REAL(gettimeofday)(now, zone);

    if (result == 0)
        now->tv_sec += clock_shift();
    return result;
}

time_t time(time_t *copy) {
    time_t now = REAL(time)(NULL) + clock_shift();

    if (copy)
        *copy = now;
    return now;
}

/* ------------------------------------------------------------------ reading FAULTS */

#define E(name)                                                                                    \
    { #name, name }
static const struct {
    const char *name;
    int number;
} errors[] = {
    E(EACCES),      E(EADDRINUSE), E(EADDRNOTAVAIL), E(EAFNOSUPPORT), E(EAGAIN),
    E(EALREADY),    E(EBADF),      E(ECONNABORTED),  E(ECONNREFUSED), E(ECONNRESET),
    E(EDQUOT),      E(EEXIST),     E(EFAULT),        E(EHOSTDOWN),    E(EHOSTUNREACH),
    E(EINPROGRESS), E(EINTR),      E(EINVAL),        E(EIO),          E(EISCONN),
    E(EMFILE),      E(EMSGSIZE),   E(ENETDOWN),      E(ENETRESET),    E(ENETUNREACH),
    E(ENFILE),      E(ENOBUFS),    E(ENOENT),        E(ENOMEM),       E(ENONET),
    E(ENOPROTOOPT), E(ENOSPC),     E(ENOSYS),        E(ENOTCONN),     E(ENOTSOCK),
    E(EOPNOTSUPP),  E(EPERM),      E(EPIPE),         E(EPROTO),       E(EPROTONOSUPPORT),
    E(ESHUTDOWN),   E(ETIMEDOUT),  E(EWOULDBLOCK),
};

#define BIT(family) (1U << (family))
#define EVERY       (BIT(FAMILIES) - 1)
#define WAITS       (BIT(SELECT) | BIT(POLL) | BIT(EPOLL_WAIT))

/* The actions that are no error: their names, whom they suit, and the numbers that they take. */
static const struct {
    const char *name;
    enum action action;
    unsigned int families;
    long least, most; /* both 0: takes none */
} actions[] = {
    {"cap", CAP, BIT(RECV) | BIT(SEND), 1, 1L << 30},
    {"sig", SIGNAL, EVERY, 1, _NSIG - 1},
    {"ready", READY, WAITS, 0, 0},
    {"ready-read", READY_READ, WAITS, 0, 0},
    {"shift", SHIFT, BIT(CLOCK), -(1L << 30), 1L << 30},
};

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static _Noreturn void give_up(const char *what, const char *text, const char *why) {
    dprintf(STDERR_FILENO, "faults.so: %s \"%s\": %s\n", what, text, why);
    _exit(2);
}

/* Returns why the text is not understood, or null; so do the others below. */
static const char *read_family(struct rule *rule, const char *text) {
    for (int family = 0; family < FAMILIES; family++) {
        if (strcmp(text, family_names[family]) == 0) {
            rule->family = (enum family)family;
            return NULL;
        }
    }
    return "no such call";
}

static const char *read_error(struct rule *rule, const char *text) {
    if (rule->family == CLOCK)
        return "the clock takes shift=SECONDS alone";
    for (size_t i = 0; i < LENGTH(errors); i++) {
        if (strcmp(text, errors[i].name) == 0) {
            rule->action = FAIL;
            rule->value = errors[i].number;
            return NULL;
        }
    }
    return "no such action";
}

static const char *read_action(struct rule *rule, const char *text) {
    size_t length = strcspn(text, "=");
    const char *number = text[length] == '=' ? text + length + 1 : NULL;
    char *end = NULL;
    size_t i = 0;

    while (i < LENGTH(actions) &&
           (strlen(actions[i].name) != length || strncmp(text, actions[i].name, length) != 0))
        i++;
    if (i == LENGTH(actions))
        return read_error(rule, text);
    rule->action = actions[i].action;
    if (!(actions[i].families & BIT(rule->family)))
        return "this call cannot do that";
    if (actions[i].least == actions[i].most)
        return number ? "this action takes no number" : NULL;
    if (!number)
        return "this action takes =NUMBER";
    errno = 0;
    rule->value = strtol(number, &end, 10);
    if (end == number || *end != '\0')
        return "this is no number";
    if (errno == ERANGE || rule->value < actions[i].least || rule->value > actions[i].most)
        return "the number is too small or too large";
    return NULL;
}

/* Reads a count, from 1 up. strtoul() alone would take " 7" and "-7" as well. */
static bool read_count(const char *text, unsigned long *count, char **end) {
    if (*text < '1' || *text > '9')
        return false;
    errno = 0;
    *count = strtoul(text, end, 10);
    return errno == 0;
}

static const char *read_when(struct rule *rule, const char *text) {
    static const char *const forms = "WHEN is N, N+, N-M, N%M (counted from 1) or after=SECONDS";
    unsigned long second = 0;
    char *end;
    char sign;

    if (strncmp(text, "after=", 6) == 0) {
        rule->after = strtod(text + 6, &end);
        return end > text + 6 && *end == '\0' && rule->after >= 0 ? NULL : forms;
    }
    if (!read_count(text, &rule->first, &end))
        return forms;
    sign = *end;
    if (sign == '\0')
        rule->last = rule->first;
    else if (sign == '+')
        return end[1] == '\0' ? NULL : forms;
    else if (!read_count(end + 1, &second, &end) || *end != '\0')
        return forms;
    else if (sign == '-' && second >= rule->first)
        rule->last = second;
    else if (sign == '%')
        rule->step = second;
    else
        return forms;
    return NULL;
}

static const char *read_rule(struct rule *rule, char *text) {
    const char *family = strsep(&text, ":");
    const char *action = strsep(&text, ":");
    const char *why = read_family(rule, family);

    rule->first = 1;
    rule->last = ULONG_MAX;
    rule->step = 1;
    if (!why)
        why = action ? read_action(rule, action) : "a rule is CALL:ACTION or CALL:ACTION:WHEN";
    if (!why && text)
        why = read_when(rule, text);
    return why;
}

static void read_rules(const char *text) {
    char copy[MAX_TEXT];
    size_t length;

    for (; *text != '\0'; text += length + (text[length] == ',' ? 1 : 0)) {
        const char *why;

        length = strcspn(text, ",");
        if (length == 0)
            continue;
        if (length >= sizeof copy)
            give_up("rule", text, "this is too long");
        if (rule_count == MAX_RULES)
            give_up("rule", text, "there are too many rules");
        memcpy(copy, text, length);
        copy[length] = '\0';
        why = read_rule(&rules[rule_count], copy);
        if (why) {
            memcpy(copy, text, length); /* the colons are back */
            give_up("rule", copy, why);
        }
        rule_count++;
    }
}

/* ------------------------------------------------------------------ start */

/*
 * The file keeps its size for ever: an older process may have it mapped, and dies of SIGBUS if the
 * page under it goes away.
 */
static void show_counts_in(const char *path) {
    char text[FAMILIES * 64];
    size_t calls_at[FAMILIES], hits_at[FAMILIES], size = 0;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    char *page;

    for (int family = 0; family < FAMILIES; family++) {
        size += (size_t)snprintf(text + size, sizeof text - size, "%s calls %0*d hits %0*d\n",
                                 family_names[family], DIGITS, 0, DIGITS, 0);
        hits_at[family] = size - 1 - DIGITS;
        calls_at[family] = hits_at[family] - strlen(" hits ") - DIGITS;
    }
    if (fd == -1 || ftruncate(fd, (off_t)size) == -1)
        give_up("FAULTS_COUNTS", path, strerror(errno));
    page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        give_up("FAULTS_COUNTS", path, strerror(errno));
    REAL(close)(fd);
    memcpy(page, text, size);
    for (int family = 0; family < FAMILIES; family++) {
        shown[family].calls = page + calls_at[family];
        shown[family].hits = page + hits_at[family];
    }
}

/* What forked children count, their parent sees, and the other way round. */
static void share_counts(void) {
    void *memory =
        mmap(NULL, sizeof early_counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (memory != MAP_FAILED)
        counts = memory;
}

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("FAULTS");
    const char *path = getenv("FAULTS_COUNTS");

    for (int index = 0; index < CALL_COUNT; index++)
        real_call(index); /* dlsym() is not for signal handlers */
    REAL(clock_gettime)(CLOCK_MONOTONIC, &start);
    share_counts();
    if (path && *path != '\0')
        show_counts_in(path);
    if (text)
        read_rules(text);
}
