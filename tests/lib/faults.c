/*
 * faults.so: makes chosen system calls fail, fall short, or be interrupted.
 *
 * Within one machine send() nearly always accepts all bytes, no signal interrupts recv(), and
 * accept() does not fail. Code that forgets these cases looks right for years. This library is
 * loaded before libc, stands between a program and its calls, and makes these cases happen:
 *
 *     cc -O2 -fPIC -shared tests/lib/faults.c -o build/faults.so    (glibc before 2.34: and -ldl)
 *     FAULTS=recv:cap=100,send:cap=7 LD_PRELOAD=$PWD/build/faults.so ./server
 *
 * FAULTS is a list of rules, CALL:ACTION or CALL:ACTION:WHEN, with commas between them. Only the
 * first rule that matches a call is applied to it.
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
 *   listen       listen
 *   select       select pselect
 *   poll         poll ppoll
 *   epoll_wait   epoll_wait epoll_pwait epoll_pwait2
 *   epoll_ctl    epoll_ctl
 *   bind shutdown getsockname getsockopt epoll_create1 eventfd timerfd_create pipe pthread_create
 *                the call of that name
 *   io_uring_setup io_uring_enter io_uring_register
 *                the call of that name, made by syscall()
 *   malloc calloc realloc strdup free
 *                the call of that name, if the program itself makes it, and not libc or another
 *                library. They need -DWITH_MEMORY when this file is compiled, because a sanitizer
 *                has a malloc() of its own. free() cannot fail: it is only counted, and free(NULL)
 *                is not.
 *   read write   read and write where they do not count for recv and send
 *   clock        time gettimeofday, and clock_gettime of CLOCK_REALTIME
 *   urgent       the calls of recv that ask for an urgent byte (MSG_OOB). They are counted here as
 *                well, but only a rule for recv changes them.
 *
 *   From accept to listen, and from bind to getsockopt, only calls on IPv4 and IPv6 sockets are
 *   counted and changed, not a fcntl() on a file, a pipe, an eventfd or a socketpair.
 *
 *   ACTION       what happens
 *   EAGAIN ...   The call fails with this error and is not made: a pending connection stays
 *                pending, unread bytes stay unread. EINTR means that a signal has interrupted the
 *                call. As with the kernel,
 *                - close() closes the descriptor, whatever error it returns;
 *                - a connect() that fails with EINTR or EINPROGRESS goes on in the background;
 *                - EPIPE comes with SIGPIPE, unless the call has the flag MSG_NOSIGNAL;
 *                - shutdown() that fails with ENOTCONN leaves a socket without a connection;
 *                - EAGAIN comes only if the descriptor is non-blocking, or the call has the flag
 *                  MSG_DONTWAIT. It does not come if epoll watches the descriptor with EPOLLET:
 *                  then EAGAIN would promise a new event, which we cannot send.
 *   cap=N        recv, send: The call asks for at most N bytes.
 *   late=MS      recv, send: The call is made, and returns MS milliseconds later. It is a hit when it
 *                returns. (recvmsg, sendmsg, readv and writev are never late.)
 *   sndbuf=N     accept: The new connection gets a send buffer of N bytes, or of the few KB that the
 *                kernel gives at least.
 *   sig=NAME     The signal (INT, STOP ...) is raised, and then the call is made.
 *   ready        select, poll, epoll_wait: The call returns at once and reports everything that is
 *                watched for reading as readable, and everything that is watched for writing as
 *                writable; for epoll, except what is edge-triggered or one-shot. If there is
 *                nothing to report, the call is made, and this is no hit.
 *   ready-read   The same, but nothing is reported as writable.
 *   shift=S      clock: The clock is S seconds ahead (S may be negative).
 *   count        The call is made, and is no hit. All calls are counted; use this action for a
 *                program whose calls are only to be counted.
 *
 *   WHEN         which calls. Each CALL above has one count, from 1.
 *   (nothing)    all
 *   N            the Nth
 *   N+           from the Nth on
 *   N-M          from the Nth to the Mth
 *   N%M          the Nth and every Mth after it
 *   after=S      all that come S seconds or more (fractions allowed) after the start
 *   before=S     all that come earlier
 *
 * FAULTS_COUNTS=FILE keeps the counts in FILE while the program runs, a line for each CALL:
 *
 *     recv calls 0000000012 hits 0000000003
 *
 * A hit is a call that a rule has changed; a call that a cap did not shorten is no hit. The digits
 * are changed in place, so the file can be read at any time, also after kill -9. Do not shorten it
 * while the program runs. Forked children count in the same file. A program that exec() starts, as
 * in `env ... server`, begins again with zeros.
 *
 * FAULTS_HITS=FILE gets a line for each hit: the rule, which call it was, the error (or the number of
 * another action), and what the call was made on. That is the port of the peer, "gone" for a
 * connection whose peer has reset it, "listener" for a listening socket, or "-" for anything else:
 *
 *     recv:ECONNRESET:2 2 104 40412
 *
 * Some calls are out of reach: those of static programs, of languages that make their own system
 * calls (Go), and those inside libc (stdio, getaddrinfo). Such programs leave no file, or one with
 * zeros, from a wrapper such as env. gcc -fsanitize=address needs
 * ASAN_OPTIONS=verify_asan_link_order=0.
 *
 * A rule that is not understood ends the program, with the reason on stderr and status 2.
 */

/* This file defines the calls that these two would replace by others. */
#undef _FORTIFY_SOURCE
#undef _FILE_OFFSET_BITS

#define _GNU_SOURCE /* RTLD_NEXT, accept4, ppoll */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAX_RULES  32
#define MAX_TEXT   128 /* of one rule */
#define DIGITS     10  /* of a number in FAULTS_COUNTS */
#define MAX_PIECES 64

/* Every CALL of a rule, in the order of FAULTS_COUNTS. */
/* clang-format off */
#define CALLS(X)                                                                                   \
    X(ACCEPT, "accept") X(CONNECT, "connect") X(RECV, "recv") X(SEND, "send") X(CLOSE, "close")    \
    X(SOCKET, "socket") X(GETPEERNAME, "getpeername") X(SETSOCKOPT, "setsockopt")                  \
    X(FCNTL, "fcntl") X(LISTEN, "listen") X(SELECT, "select") X(POLL, "poll")                      \
    X(EPOLL_WAIT, "epoll_wait") X(EPOLL_CTL, "epoll_ctl") X(BIND, "bind")                          \
    X(SHUTDOWN, "shutdown") X(GETSOCKNAME, "getsockname") X(GETSOCKOPT, "getsockopt")              \
    X(EPOLL_CREATE1, "epoll_create1") X(EVENTFD, "eventfd") X(TIMERFD_CREATE, "timerfd_create")    \
    X(PIPE, "pipe") X(PTHREAD_CREATE, "pthread_create") X(MALLOC, "malloc") X(CALLOC, "calloc")    \
    X(REALLOC, "realloc") X(STRDUP, "strdup") X(FREE, "free") X(READ, "read") X(WRITE, "write")    \
    X(CLOCK, "clock") X(URGENT, "urgent") X(IO_URING_SETUP, "io_uring_setup")                      \
    X(IO_URING_ENTER, "io_uring_enter") X(IO_URING_REGISTER, "io_uring_register")
/* clang-format on */

#define AS_FAMILY(family, name)      family,
#define AS_FAMILY_NAME(family, name) name,

enum family { CALLS(AS_FAMILY) FAMILIES };

static const char *const family_names[FAMILIES] = {CALLS(AS_FAMILY_NAME)};

#define BIT(family) (UINT64_C(1) << (family))
#define EVERY       (BIT(FAMILIES) - 1)
#define READS       (BIT(RECV) | BIT(READ))
#define WRITES      (BIT(SEND) | BIT(WRITE))
#define WAITS       (BIT(SELECT) | BIT(POLL) | BIT(EPOLL_WAIT))

enum action { FAIL, CAP, LATE, SNDBUF, SIGNAL, READY, READY_READ, SHIFT, COUNT };

struct rule {
    char text[MAX_TEXT]; /* as it was given */
    enum family family;
    enum action action;
    long value;          /* the error, the bytes, the signal, the seconds */
    unsigned long first; /* the calls that it is for: first, first + step ... up to last */
    unsigned long last;
    unsigned long step;
    double after;  /* seconds since the start before which it does nothing */
    double before; /* and from which on it does nothing, or 0 */
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

/* Some C libraries that are still in use lack these two. */
int fcntl64(int, int, ...);
int epoll_pwait2(int, struct epoll_event *, int, const struct timespec *, const sigset_t *);

/* clang-format off */
#define REAL_CALLS(X)                                                                              \
    X(accept) X(accept4) X(connect) X(socket) X(close) X(getpeername) X(setsockopt) X(fcntl)       \
    X(fcntl64) X(recv) X(recvfrom) X(recvmsg) X(read) X(readv) X(__recv_chk) X(__recvfrom_chk)     \
    X(__read_chk) X(send) X(sendto) X(sendmsg) X(write) X(writev) X(select) X(pselect) X(poll)     \
    X(ppoll) X(__poll_chk) X(__ppoll_chk) X(epoll_wait) X(epoll_pwait) X(epoll_pwait2)             \
    X(epoll_ctl) X(listen) X(bind) X(shutdown) X(getsockname) X(getsockopt) X(epoll_create1)       \
    X(eventfd) X(timerfd_create) X(pipe) X(pthread_create) X(malloc) X(calloc) X(realloc)          \
    X(strdup) X(free) X(time) X(gettimeofday) X(clock_gettime) X(syscall)
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

static void *no_memory(void) {
    return NULL;
}

static _Thread_local bool looking_up;

/*
 * Returns the function of this name that comes after ours, which nearly always is that of libc. It
 * is looked up when it is needed first, because sanitizers make calls before our constructor has
 * run.
 */
static function *real_call(int index) {
    function *found = atomic_load_explicit(&real_calls[index], memory_order_relaxed);

    if (!found) {
        void *symbol;

        if (looking_up) /* In an old glibc dlsym() calls calloc(), and goes on without memory. */
            return (function *)no_memory;
        looking_up = true;
        symbol = dlsym(RTLD_NEXT, call_names[index]);
        looking_up = false;

        /* C has no cast from an object pointer to a function pointer. In POSIX it works. */
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

/* glibc declares addresses with these types, which are unions of all kinds of addresses. */
typedef __SOCKADDR_ARG address_to_fill;
typedef __CONST_SOCKADDR_ARG address_given;

struct count {
    atomic_ulong calls;
    atomic_ulong hits;
};

/* Used until the constructor has allocated memory that forked children share. */
static struct count early_counts[FAMILIES];
static struct count *counts = early_counts;

/* Where the digits are in the file of FAULTS_COUNTS, or null. */
static struct {
    volatile char *calls;
    volatile char *hits;
} shown[FAMILIES];

/*
 * Writes a counter into the file. Threads and signal handlers may do so at the same time, and a
 * lock could block a handler forever. Therefore the counter is read again after it was written, and
 * written again if it has changed. The last digit is written first, so that a reader in between
 * sees too small a number, never one that is too large.
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

/* The call that this thread has counted last: its number, and its descriptor or -1. */
static _Thread_local struct {
    unsigned long number;
    int fd;
} current;

static int hits_file = -1; /* that of FAULTS_HITS */

static void log_hit(const struct rule *rule) {
    struct sockaddr_in6 peer = {0}; /* its port is in the same place as in sockaddr_in */
    socklen_t size = sizeof peer;
    address_to_fill address = {(struct sockaddr *)&peer};
    int listens = 0;
    socklen_t listens_size = sizeof listens;
    char line[MAX_TEXT + 64], target[16];
    int saved = errno, length;

    if (REAL(getpeername)(current.fd, address, &size) == 0 && peer.sin6_port != 0) {
        snprintf(target, sizeof target, "%d", ntohs(peer.sin6_port));
    } else {
        /* After a reset, a socket has lost its peer's address, but not its own. */
        bool gone = REAL(getsockname)(current.fd, address, &size) == 0 && peer.sin6_port != 0;

        REAL(getsockopt)(current.fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &listens_size);
        snprintf(target, sizeof target, "%s", listens ? "listener" : gone ? "gone" : "-");
    }
    length = snprintf(line, sizeof line, "%s %lu %ld %s\n", rule->text, current.number, rule->value,
                      target);
    REAL(write)(hits_file, line, (size_t)length);
    errno = saved;
}

static void count_hit(const struct rule *rule) {
    if (hits_file != -1)
        log_hit(rule);
    atomic_fetch_add(&counts[rule->family].hits, 1);
    show(shown[rule->family].hits, &counts[rule->family].hits);
}

/* ------------------------------------------------------------------ rules at work */

/* Is it too early, or too late, for this rule? */
static bool is_out_of_time(const struct rule *rule) {
    struct timespec now = {0};
    double elapsed;

    if (rule->after <= 0 && rule->before <= 0)
        return false;
    REAL(clock_gettime)(CLOCK_MONOTONIC, &now);
    elapsed = (double)(now.tv_sec - start.tv_sec) + (double)(now.tv_nsec - start.tv_nsec) / 1e9;
    return elapsed < rule->after || (rule->before > 0 && elapsed >= rule->before);
}

/* Counts a call. Returns the rule for it, or null. */
static const struct rule *rule_for(enum family family) {
    unsigned long n = atomic_fetch_add(&counts[family].calls, 1) + 1;

    current.number = n;
    current.fd = -1;
    show(shown[family].calls, &counts[family].calls);
    for (const struct rule *rule = rules; rule < rules + rule_count; rule++) {
        if (rule->family == family && n >= rule->first && n <= rule->last &&
            (n - rule->first) % rule->step == 0 && !is_out_of_time(rule))
            return rule;
    }
    return NULL;
}

/*
 * Does what a rule demands before a call. Returns true if the call fails, with errno set, and must
 * not be made. A cap shortens *length. `flags` are those of send().
 */
static bool fails(const struct rule *rule, int flags, size_t *length) {
    if (!rule)
        return false;
    if (rule->action == FAIL) {
        count_hit(rule);
        if (rule->value == EPIPE && (BIT(rule->family) & WRITES) && !(flags & MSG_NOSIGNAL))
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

/* Returns whether a call on this descriptor may fail with EAGAIN, although no new event follows. */
static bool may_return_eagain(int fd, int flags) {
    int saved = errno;
    bool waits = !(flags & MSG_DONTWAIT) && !(REAL(fcntl)(fd, F_GETFL) & O_NONBLOCK);

    errno = saved;
    return !waits && ((size_t)fd >= sizeof edge_triggered / sizeof edge_triggered[0] ||
                      !atomic_load(&edge_triggered[fd]));
}

/* rule_for() for a call on a descriptor. */
static const struct rule *rule_for_call(enum family family, int fd, int flags) {
    const struct rule *rule;

    if (family == RECV && (flags & MSG_OOB))
        rule_for(URGENT); /* first, because current keeps the number of the call counted last */
    rule = rule_for(family);
    current.fd = fd;
    if (rule && rule->action == FAIL && rule->value == EAGAIN && !may_return_eagain(fd, flags))
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

/* The kernel is asked each time, because after a close() the same number may be that of a file. */
static bool is_network(int fd) {
    int domain = AF_UNSPEC;
    socklen_t size = sizeof domain;
    int saved = errno; /* the program may look at it only after this call */

    if (REAL(getsockopt)(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == -1)
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

WRAP(GETPEERNAME, is_network(fd), getpeername, (int fd, address_to_fill address, socklen_t *size),
     (fd, address, size))
WRAP(LISTEN, is_network(fd), listen, (int fd, int backlog), (fd, backlog))
WRAP(SETSOCKOPT, is_network(fd), setsockopt,
     (int fd, int level, int option, const void *value, socklen_t size),
     (fd, level, option, value, size))

/* What a rule asks for after accept() has returned fd. */
static int accepted(const struct rule *rule, int fd) {
    if (fd != -1 && rule && rule->action == SNDBUF) {
        int size = (int)rule->value;

        count_hit(rule);
        REAL(setsockopt)(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    }
    return fd;
}

#define WRAP_ACCEPT(name, parameters, arguments)                                                   \
    int name parameters {                                                                          \
        const struct rule *rule = is_network(fd) ? rule_for_call(ACCEPT, fd, 0) : NULL;            \
        size_t none = 0;                                                                           \
                                                                                                   \
        if (fails(rule, 0, &none))                                                                 \
            return -1;                                                                             \
        return accepted(rule, REAL(name) arguments);                                               \
    }

WRAP_ACCEPT(accept, (int fd, address_to_fill address, socklen_t *size), (fd, address, size))
WRAP_ACCEPT(accept4, (int fd, address_to_fill address, socklen_t *size, int flags),
            (fd, address, size, flags))

WRAP(BIND, is_network(fd), bind, (int fd, address_given address, socklen_t size),
     (fd, address, size))
WRAP(GETSOCKNAME, is_network(fd), getsockname, (int fd, address_to_fill address, socklen_t *size),
     (fd, address, size))
WRAP(GETSOCKOPT, is_network(fd), getsockopt,
     (int fd, int level, int option, void *value, socklen_t *size),
     (fd, level, option, value, size))

/* A socket on which shutdown() fails with ENOTCONN has no connection: therefore this one ends. */
int shutdown(int fd, int how) {
    if (is_network(fd) && refused(SHUTDOWN, fd)) {
        struct sockaddr nothing = {.sa_family = AF_UNSPEC};
        address_given address = {&nothing};
        int error = errno;

        if (error == ENOTCONN)
            REAL(connect)(fd, address, sizeof nothing);
        errno = error;
        return -1;
    }
    return REAL(shutdown)(fd, how);
}

int socket(int domain, int type, int protocol) {
    size_t none = 0;

    if (is_network_domain(domain) && fails(rule_for(SOCKET), 0, &none))
        return -1;
    return REAL(socket)(domain, type, protocol);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
    size_t none = 0;
    int result;

    if (fails(rule_for_call(EPOLL_CTL, fd, 0), 0, &none))
        return -1;
    result = REAL(epoll_ctl)(epoll, operation, fd, event);
    if (result == 0)
        set_edge_triggered(fd, operation != EPOLL_CTL_DEL && (event->events & EPOLLET));
    return result;
}

/* These calls have no descriptor. `failure` is what the call returns when it fails. */
#define WRAP_PLAIN(family, counted, type, failure, name, parameters, arguments)                    \
    type name parameters {                                                                         \
        size_t none = 0;                                                                           \
                                                                                                   \
        if ((counted) && fails(rule_for(family), 0, &none))                                        \
            return failure;                                                                        \
        return REAL(name) arguments;                                                               \
    }

WRAP_PLAIN(EPOLL_CREATE1, true, int, -1, epoll_create1, (int flags), (flags))
WRAP_PLAIN(EVENTFD, true, int, -1, eventfd, (unsigned int value, int flags), (value, flags))
WRAP_PLAIN(TIMERFD_CREATE, true, int, -1, timerfd_create, (int clock, int flags), (clock, flags))
WRAP_PLAIN(PIPE, true, int, -1, pipe, (int ends[2]), (ends))
WRAP_PLAIN(PTHREAD_CREATE, true, int, errno, pthread_create,
           (pthread_t * thread, const pthread_attr_t *attributes, void *(*call)(void *),
            void *argument),
           (thread, attributes, call, argument))

/* Returns the family of a call that is made by its number, or FAMILIES. */
static enum family family_of(long number) {
#ifdef SYS_io_uring_setup
    if (number == SYS_io_uring_setup)
        return IO_URING_SETUP;
    if (number == SYS_io_uring_enter)
        return IO_URING_ENTER;
    if (number == SYS_io_uring_register)
        return IO_URING_REGISTER;
#endif
    (void)number;
    return FAMILIES;
}

/* No call has more than six arguments, and each fits into a long. */
long syscall(long number, ...) {
    enum family family = family_of(number);
    size_t none = 0;
    long a[6];
    va_list list;

    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (family != FAMILIES && fails(rule_for(family), 0, &none))
        return -1;
    return REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

#ifdef WITH_MEMORY

/* Where the program's own code is, to tell its calls from those of the libraries. */
static uintptr_t program_begin, program_end;

/* The first object that is reported is the program. */
static int find_program(struct dl_phdr_info *object, size_t size, void *data) {
    (void)size, (void)data;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        uintptr_t begin = object->dlpi_addr + object->dlpi_phdr[i].p_vaddr;

        if (object->dlpi_phdr[i].p_type == PT_LOAD && (object->dlpi_phdr[i].p_flags & PF_X)) {
            program_begin = begin;
            program_end = begin + object->dlpi_phdr[i].p_memsz;
        }
    }
    return 1; /* no further one */
}

#define FROM_PROGRAM                                                                               \
    ((uintptr_t)__builtin_return_address(0) >= program_begin &&                                    \
     (uintptr_t)__builtin_return_address(0) < program_end)

WRAP_PLAIN(MALLOC, FROM_PROGRAM, void *, NULL, malloc, (size_t size), (size))
WRAP_PLAIN(CALLOC, FROM_PROGRAM, void *, NULL, calloc, (size_t count, size_t size), (count, size))
WRAP_PLAIN(REALLOC, FROM_PROGRAM, void *, NULL, realloc, (void *old, size_t size), (old, size))
/* cppcheck-suppress CastIntegerToAddressAtReturn */
WRAP_PLAIN(STRDUP, FROM_PROGRAM, char *, NULL, strdup, (const char *text), (text))

void free(void *memory) {
    if (memory && FROM_PROGRAM)
        rule_for(FREE);
    REAL(free)(memory);
}

#endif

/* fcntl() may have one more argument. Whatever its type is, it fits where a pointer fits. */
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

/* Linux frees the descriptor before an error can occur, so an error does not keep it open. */
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
 * A connect() that fails with EINTR or EINPROGRESS has begun. Therefore this one begins, too, and a
 * program that calls connect() again, or waits until the socket is writable, learns its result.
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

/* Returns the result of a call, at once or late. */
static ssize_t returned(const struct rule *rule, ssize_t result) {
    int saved = errno;

    if (rule && rule->action == LATE) {
        struct timespec pause = {rule->value / 1000, rule->value % 1000 * 1000000};

        while (nanosleep(&pause, &pause) == -1 && errno == EINTR)
            continue;
        count_hit(rule);
    }
    errno = saved;
    return result;
}

/* Each call has the parameters `fd` and `length`. A cap may shorten `length`. */
#define WRAP_BYTES(family, given_flags, name, parameters, arguments)                               \
    ssize_t name parameters {                                                                      \
        const struct rule *rule = is_network(fd) ? rule_for_call(family, fd, given_flags) : NULL;  \
                                                                                                   \
        if (fails(rule, given_flags, &length))                                                     \
            return -1;                                                                             \
        return returned(rule, REAL(name) arguments);                                               \
    }

#define WRAP_PLAIN_BYTES(family, other_family, name, parameters)                                   \
    ssize_t name parameters {                                                                      \
        const struct rule *rule = rule_for_call(is_network(fd) ? family : other_family, fd, 0);    \
                                                                                                   \
        if (fails(rule, 0, &length))                                                               \
            return -1;                                                                             \
        return returned(rule, REAL(name)(fd, buffer, length));                                     \
    }

WRAP_PLAIN_BYTES(RECV, READ, read, (int fd, void *buffer, size_t length))
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
WRAP_PLAIN_BYTES(SEND, WRITE, write, (int fd, const void *buffer, size_t length))
WRAP_BYTES(SEND, flags, send, (int fd, const void *buffer, size_t length, int flags),
           (fd, buffer, length, flags))
WRAP_BYTES(SEND, flags, sendto,
           (int fd, const void *buffer, size_t length, int flags, address_given address,
            socklen_t size),
           (fd, buffer, length, flags, address, size))

/*
 * Copies pieces until they hold `length` bytes. Returns the number of pieces in the copy. Empty
 * pieces are left out, because a copy of MAX_PIECES empty ones would receive 0 bytes, as at end of
 * file.
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

/* Sets *cut to the message for the real call. `copy` has room for its pieces. */
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
 * Each `lie` below fills in the results of the call and returns how many descriptors it has
 * reported. If there are none to report, it changes nothing. `writable` is false for ready-read.
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

/* Like the kernel, it goes on to the end of the last word in which there is a descriptor below
 * `limit`. */
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
 * Only the kernel knows for sure which descriptors are registered, for what, and with which data,
 * because a descriptor leaves the list when it is closed, by whatever call. A file in /proc has a
 * line for each.
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

struct named {
    const char *name;
    int number;
};

#define E(name)                                                                                    \
    { #name, name }
static const struct named errors[] = {
    E(EACCES),          E(EADDRINUSE),   E(EADDRNOTAVAIL),
    E(EAFNOSUPPORT),    E(EAGAIN),       E(EALREADY),
    E(EBADF),           E(ECONNABORTED), E(ECONNREFUSED),
    E(ECONNRESET),      E(EDESTADDRREQ), E(EDQUOT),
    E(EEXIST),          E(EFAULT),       E(EFBIG),
    E(EHOSTDOWN),       E(EHOSTUNREACH), E(EINPROGRESS),
    E(EINTR),           E(EINVAL),       E(EIO),
    E(EISCONN),         E(EISDIR),       E(ELOOP),
    E(EMFILE),          E(EMSGSIZE),     E(ENETDOWN),
    E(ENETRESET),       E(ENETUNREACH),  E(ENFILE),
    E(ENOBUFS),         E(ENODEV),       E(ENOENT),
    E(ENOMEM),          E(ENONET),       E(ENOPROTOOPT),
    E(ENOSPC),          E(ENOSR),        E(ENOSYS),
    E(ENOTCONN),        E(ENOTSOCK),     E(EOPNOTSUPP),
    E(EPERM),           E(EPIPE),        E(EPROTO),
    E(EPROTONOSUPPORT), E(EPROTOTYPE),   E(ESHUTDOWN),
    E(ESOCKTNOSUPPORT), E(ETIMEDOUT),    E(EWOULDBLOCK),
    E(EBUSY),
};

#define S(name)                                                                                    \
    { #name, SIG##name }
static const struct named signals[] = {
    S(ALRM), S(CHLD), S(CONT), S(HUP),  S(INT),  S(KILL), S(PIPE),
    S(QUIT), S(STOP), S(TERM), S(TSTP), S(USR1), S(USR2),
};

/*
 * The actions that are no error: their names, the calls that they suit, and the numbers that they
 * take. (SIGNAL takes a name, see read_action().)
 */
static const struct {
    const char *name;
    enum action action;
    uint64_t families;
    long least, most; /* both 0: none */
} actions[] = {
    {"cap", CAP, READS | WRITES, 1, 1L << 30},
    {"late", LATE, READS | WRITES, 1, 60000},
    {"sndbuf", SNDBUF, BIT(ACCEPT), 1, 1L << 30},
    {"sig", SIGNAL, EVERY, 0, 0},
    {"ready", READY, WAITS, 0, 0},
    {"ready-read", READY_READ, WAITS, 0, 0},
    {"shift", SHIFT, BIT(CLOCK), -(1L << 30), 1L << 30},
    {"count", COUNT, EVERY, 0, 0},
};

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static _Noreturn void give_up(const char *what, const char *text, const char *why) {
    dprintf(STDERR_FILENO, "faults.so: %s \"%s\": %s\n", what, text, why);
    _exit(2);
}

/* Returns why the text is not understood, or null, as do the other functions that read. */
static const char *read_family(struct rule *rule, const char *text) {
    for (int family = 0; family < FAMILIES; family++) {
        if (strcmp(text, family_names[family]) == 0) {
            rule->family = (enum family)family;
            return NULL;
        }
    }
    return "no such call";
}

/* Returns the number of this name, or -1. */
static int number_of(const char *name, const struct named *table, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (strcmp(name, table[i].name) == 0)
            return table[i].number;
    }
    return -1;
}

static const char *read_error(struct rule *rule, const char *text) {
    if (rule->family == CLOCK)
        return "the clock takes shift=SECONDS or count";
    rule->action = FAIL;
    rule->value = number_of(text, errors, LENGTH(errors));
    return rule->value == -1 ? "no such action" : NULL;
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
    if (rule->action == SIGNAL) {
        rule->value = number_of(number ? number : "", signals, LENGTH(signals));
        return rule->value == -1 ? "this action takes =NAME, the name of a signal: sig=STOP" : NULL;
    }
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

/* Reads a number from 1 up. strtoul() alone would also accept " 7" and "-7". */
static bool read_count(const char *text, unsigned long *count, char **end) {
    if (*text < '1' || *text > '9')
        return false;
    errno = 0;
    *count = strtoul(text, end, 10);
    return errno == 0;
}

static const char *read_when(struct rule *rule, const char *text) {
    static const char *const forms =
        "WHEN is N, N+, N-M, N%M (counted from 1), after=SECONDS or before=SECONDS";
    unsigned long second = 0;
    char *end;
    char sign;

    if (strncmp(text, "after=", 6) == 0) {
        rule->after = strtod(text + 6, &end);
        return end > text + 6 && *end == '\0' && rule->after >= 0 ? NULL : forms;
    }
    if (strncmp(text, "before=", 7) == 0) {
        rule->before = strtod(text + 7, &end);
        return end > text + 7 && *end == '\0' && rule->before > 0 ? NULL : forms;
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
        memcpy(rules[rule_count].text, copy, length + 1);
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
 * The file keeps its size. An older process may have mapped it, and would be killed by SIGBUS if
 * the file became shorter.
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

/* Lets a process and its forked children count together. */
static void share_counts(void) {
    void *memory =
        mmap(NULL, sizeof early_counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (memory != MAP_FAILED)
        counts = memory;
}

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("FAULTS");
    const char *path = getenv("FAULTS_COUNTS");
    const char *hits = getenv("FAULTS_HITS");

    for (int index = 0; index < CALL_COUNT; index++)
        real_call(index); /* dlsym() is not for signal handlers */
    REAL(clock_gettime)(CLOCK_MONOTONIC, &start);
#ifdef WITH_MEMORY
    dl_iterate_phdr(find_program, NULL);
#endif
    share_counts();
    if (path && *path != '\0')
        show_counts_in(path);
    if (hits && *hits != '\0') {
        hits_file = open(hits, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        if (hits_file == -1)
            give_up("FAULTS_HITS", hits, strerror(errno));
    }
    if (text)
        read_rules(text);
}
