/*
 * torture: makes every call of our programs fail in every way that its manual page documents, and
 * checks each time that only the right thing goes wrong.
 *
 *     tests/torture/run                                        builds what it needs, and runs it all
 *     tests/torture/run 03-select/server recv:ECONNRESET:2     one run, with all that it showed
 *
 * A run is one program, under faults.so with some rules, in its scene. In the scene of a server we
 * play three clients: a good one, whose every byte is checked, one that resets, and one that never
 * reads; and then one more, which shows that the server still serves. For a client we play the
 * server. At the end judge() compares what was seen with what the table in tests/torture/calls
 * requires of the faults that hit, and with a first run without any.
 *
 * The first run also tells which calls the program makes, how many before its first client, and how
 * many descriptors and blocks of memory it has when all clients have left. So a call that the table
 * lacks is noticed, and so is a leak of one descriptor or one block.
 *
 * Start reading at main(), then make_runs(), run_once() and judge(); and the scenes before these.
 *
 * Left out on purpose: faults in what libc calls inside itself, such as the memory of getaddrinfo()
 * and the write() of fprintf().
 */
#define _GNU_SOURCE /* accept4, strsep, wait4, POLLRDHUP */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    PATIENCE = 10,       /* seconds that a client of ours waits for a byte; times SLOW */
    WINDOW = 5,          /* milliseconds: a program with nothing to do sleeps at least this long */
    SPIN_MAX = 300,      /* milliseconds of a core without such a sleep: it spins */
    OCCURRENCES = 5,     /* the first calls of each kind that fail, one in each run */
    WAITS_TRIED = 20,    /* the same for the calls that wait, when they are interrupted */
    PAIRS = 80,          /* runs with two faults, for each program */
    CPU_MAX = 300,       /* milliseconds that a program may compute, more than in its first run */
    TEXT_MAX = 1 << 22,  /* of a log */
    PROBLEM_MAX = 400,   /* of a message of ours */
    CALLS_MAX = 40,      /* kinds of calls */
    ROWS_MAX = 200,      /* lines of the table */
    RULES_MAX = 128,     /* characters of the rules of a run */
    SHORTAGES_MAX = 20,  /* calls that may fail in half a second for lack of descriptors */
    INPUT_SIZE = 100000, /* bytes that the client of 04 has to read */
    HITS_MAX = 256,      /* faults with an error that are kept, of one run */
    JOBS_MAX = 1024,     /* workers */
};

/* ---- The programs ---- */

enum scene { ECHO, ONE_BY_ONE, GREETER, PORTS, CHAT, IDLE, CLIENT, PIPE_CLIENT, ALONE };

struct program {
    const char *name;
    const char *arguments; /* PORT stands for the port of the server that we play */
    const char *only;      /* if it is not NULL, only these calls fail */
    enum scene scene;
    bool busy; /* it never sleeps */
};

static const struct program programs[] = {
    {"01-blocking/server", "0", .scene = ONE_BY_ONE},
    {"01-blocking/greeter", "0", .scene = GREETER},
    {"01-blocking/threads", "0", .scene = ECHO},
    {"01-blocking/client", "PORT", .scene = CLIENT},
    {"02-nonblocking/server", "0", .scene = ECHO, .busy = true},
    {"02-nonblocking/client", "PORT", .scene = CLIENT, .busy = true},
    {"03-select/server", "0", .scene = ECHO},
    {"03-select/client", "-c 2 PORT", .scene = CLIENT},
    {"03-select/chat", "0", .scene = CHAT},
    {"03-select/two-ports", "0 0", .scene = PORTS},
    {"04-poll/server", "0", .scene = ECHO},
    {"04-poll/client", "-q PORT", .scene = PIPE_CLIENT},
    {"04-poll/revents", "", .scene = ALONE},
    {"05-epoll/server", "0", .scene = ECHO},
    {"05-epoll/client", "-q -c 3 -n 40 -s 700 -P 3 PORT", .scene = CLIENT},
    {"05-epoll/edge", "0", .scene = ECHO},
    {"05-epoll/callbacks", "0", .scene = ECHO},
    {"05-epoll/callbacks --worker", "--worker --slow 1 0", .scene = ECHO},
    {"05-epoll/workers", "-j 2 0", .scene = ECHO},
    {"05-epoll/uring", "0", .scene = ECHO},
    {"06-timeouts/server", "-t 0.05 0", .scene = ECHO},
    {"06-timeouts/server -i", "-t 0.05 -i 0.02 0", .scene = IDLE, .only = "poll close epoll_wait"},
    {"06-timeouts/client", "-p 0.001 PORT", .scene = CLIENT},
    {"06-timeouts/select-timeout", "-t 0.05 0", .scene = ECHO},
};

enum { PROGRAMS = sizeof programs / sizeof programs[0] };

static bool is_server(const struct program *program) {
    return program->scene < CLIENT;
}

/* ---- The table of calls ---- */

struct row {
    char *program, *call, *on, *required, *errors, *with;
};

static struct row rows[ROWS_MAX];
static int row_count;

/* ---- A run, and what was seen in it ---- */

struct count {
    char call[24];
    unsigned long calls, hits;
};

/* What we play: a client of a server, or a connection of a client. */
struct peer {
    const char *name;
    int fd;
    int port;          /* its own, by which a fault says that it hit this one */
    uint64_t sent;     /* bytes so far */
    uint64_t received; /* bytes of echo so far */
    bool greeted;      /* the greeter has spoken */
    char problem[160]; /* why it is no longer served, or "" */
};

struct hit {
    char rule[RULES_MAX];
    char call[24], action[24];
    unsigned long number; /* which of the calls it was */
    int error;            /* if the action is one */
    int port;             /* of the peer, or 0 */
    const char *on;       /* "listener", "peer" or "-" */
    const struct row *row;
};

struct seen {
    bool started;     /* a server: it has printed its first line */
    bool alive;       /* a server: it was there at the end */
    int status;       /* as from waitpid() */
    long cpu;         /* milliseconds of computing */
    int descriptors;  /* when all clients had left */
    long blocks;      /* of memory, then */
    int reports;      /* lines of its log that are not about an ordinary event */
    int last_line_at; /* where its last line begins in the log */
    bool spins;
    uint64_t total; /* bytes that a client under test has sent to us */
    struct peer good, resets, mute, late[4];
    int late_count;
    int faults;                /* that hit */
    struct hit hits[HITS_MAX]; /* those with an error */
    int hit_count;
    struct count counts[CALLS_MAX];
    int count_count;
    char problem[PROBLEM_MAX]; /* what is wrong for any program, or "" */
};

/* Of the first run. */
struct baseline {
    struct seen seen;
    struct count at_start[CALLS_MAX]; /* calls made before the first client */
    int at_start_count;
};

static struct baseline baselines[PROGRAMS];

static const struct baseline *baseline_of(const struct program *program) {
    return &baselines[program - programs];
}

static const char *build = "build"; /* where the programs are */
static const char *left_out = "";   /* a program that does not run on this machine */
static char scratch[64];            /* the directory of this worker */
static double slow = 1;
static char text[TEXT_MAX]; /* of the file that was read last */

static double seconds(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void nap(double time) {
    struct timespec pause = {.tv_nsec = (long)(time * 1e9)};

    nanosleep(&pause, NULL);
}

_Noreturn static void give_up(const char *what) {
    fprintf(stderr, "torture: %s: %s\n", what, strerror(errno));
    exit(2);
}

/* Returns the bytes of a file, as a text, in a buffer that the next call overwrites. */
static char *read_file(const char *name) {
    char path[128];
    size_t length = 0;
    ssize_t got;
    int fd;

    snprintf(path, sizeof path, "%s%s%s", *name == '/' ? "" : scratch, *name == '/' ? "" : "/",
             name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd != -1 && length < sizeof text - 1 &&
           (got = read(fd, text + length, sizeof text - 1 - length)) > 0)
        length += (size_t)got;
    if (fd != -1)
        close(fd);
    text[length] = '\0';
    return text;
}

/* ---- What we play ---- */

__attribute__((format(printf, 2, 3))) static void lose(struct peer *peer, const char *format, ...) {
    va_list arguments;

    if (peer->problem[0] != '\0')
        return;
    va_start(arguments, format);
    vsnprintf(peer->problem, sizeof peer->problem, format, arguments);
    va_end(arguments);
    if (peer->fd != -1)
        close(peer->fd);
    peer->fd = -1;
}

/* Notes what is wrong, unless something was wrong before. */
__attribute__((format(printf, 2, 3))) static void blame(struct seen *seen, const char *format,
                                                        ...) {
    va_list arguments;

    if (seen->problem[0] != '\0')
        return;
    va_start(arguments, format);
    vsnprintf(seen->problem, sizeof seen->problem, format, arguments);
    va_end(arguments);
}

static bool is_lost(const struct peer *peer) {
    return peer->problem[0] != '\0';
}

/* Waits until the peer's socket is ready; returns 0 when it was not within PATIENCE. */
static short await(struct peer *peer, short events) {
    struct pollfd entry = {.fd = peer->fd, .events = events};

    return poll(&entry, 1, (int)(PATIENCE * 1000 * slow)) > 0 ? entry.revents : 0;
}

static int new_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd == -1)
        give_up("socket");
    return fd;
}

static int own_port(int fd) {
    struct sockaddr_in own = {0};
    socklen_t length = sizeof own;

    return getsockname(fd, (struct sockaddr *)&own, &length) == 0 ? ntohs(own.sin_port) : 0;
}

static void play_connect(struct peer *peer, const char *name, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int error = 0, small = 4096;
    socklen_t length = sizeof error;

    *peer = (struct peer){.name = name, .fd = new_socket()};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (strcmp(name, "mute") == 0)
        setsockopt(peer->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (connect(peer->fd, (struct sockaddr *)&address, sizeof address) == -1 &&
        errno != EINPROGRESS) {
        lose(peer, "connect: %s", strerror(errno));
        return;
    }
    peer->port = own_port(peer->fd);
    if (await(peer, POLLOUT) == 0) {
        lose(peer, "no answer to connect()");
        return;
    }
    getsockopt(peer->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0)
        lose(peer, "connect: %s", strerror(error));
}

/* The byte at this place of a peer's stream. A byte that is lost or doubled changes all after it. */
static unsigned char pattern(uint64_t place) {
    place = (place ^ (place >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    return (unsigned char)(place >> 33);
}

/* Sends this many bytes of the pattern, and reads their echo at the same time. */
static void play_exchange(struct peer *peer, uint64_t length) {
    static unsigned char buffer[65536];
    uint64_t end = peer->sent + length;

    while (!is_lost(peer) && peer->received < end) {
        short ready = await(peer, (short)(POLLIN | (peer->sent < end ? POLLOUT : 0)));
        ssize_t got = -1;

        if (ready == 0) {
            lose(peer, "%llu of %llu bytes came back, and then nothing more",
                 (unsigned long long)peer->received, (unsigned long long)peer->sent);
            return;
        }
        if (ready & POLLOUT && peer->sent < end) {
            size_t size = 0;

            while (size < sizeof buffer && peer->sent + size < end) {
                buffer[size] = pattern(peer->sent + size);
                size++;
            }
            got = send(peer->fd, buffer, size, MSG_NOSIGNAL);
            if (got > 0)
                peer->sent += (uint64_t)got;
            else if (errno != EAGAIN)
                lose(peer, "send: %s", strerror(errno));
        }
        if (is_lost(peer) || !(ready & (POLLIN | POLLHUP | POLLERR)))
            continue;
        got = recv(peer->fd, buffer, sizeof buffer, 0);
        if (got <= 0) {
            lose(peer, "%s after %llu of %llu bytes had come back",
                 got == 0 ? "end of file" : strerror(errno), (unsigned long long)peer->received,
                 (unsigned long long)peer->sent);
            return;
        }
        for (ssize_t i = 0; i < got; i++) {
            if (peer->received == peer->sent) {
                lose(peer, "a byte came that was never sent");
                return;
            }
            if (buffer[i] != pattern(peer->received)) {
                lose(peer, "a wrong byte came back: byte %llu (it is lost, doubled or changed)",
                     (unsigned long long)peer->received);
                return;
            }
            peer->received++;
        }
    }
}

static void play_send(struct peer *peer, const char *bytes, size_t length, int flags) {
    while (!is_lost(peer) && length > 0) {
        ssize_t sent = send(peer->fd, bytes, length, flags | MSG_NOSIGNAL);

        if (sent == -1 && errno != EAGAIN) {
            lose(peer, "send: %s", strerror(errno));
        } else if (sent == -1 && await(peer, POLLOUT) == 0) {
            lose(peer, "the server does not read");
        } else if (sent > 0) {
            bytes += sent;
            length -= (size_t)sent;
        }
    }
}

/* Reads a line into `line`, without its end. At end of file it is empty, and the result is false. */
static bool play_read_line(struct peer *peer, char *line, size_t size) {
    size_t length = 0;
    char byte;

    line[0] = '\0';
    while (!is_lost(peer)) {
        ssize_t got;

        if (await(peer, POLLIN) == 0) {
            lose(peer, "no line came, but \"%s\"", line);
            break;
        }
        got = recv(peer->fd, &byte, 1, 0);
        if (got == -1 && errno != EAGAIN)
            lose(peer, "recv: %s", strerror(errno));
        if (got == 0)
            return false;
        if (got <= 0)
            continue;
        if (byte == '\n')
            return true;
        if (length + 1 < size) {
            line[length++] = byte;
            line[length] = '\0';
        }
    }
    return false;
}

/* Reads until a line that contains this, which must come. */
static void play_wait_for(struct peer *peer, const char *wanted) {
    char line[8192];

    while (!is_lost(peer)) {
        if (!play_read_line(peer, line, sizeof line))
            lose(peer, "end of file came before \"%s\"", wanted);
        else if (strstr(line, wanted))
            return;
    }
}

/* A greeter answers each piece that one recv() returned with " good" after it. How the bytes
 * were cut does not matter. Therefore we take these words out, and the rest must be what was sent. */
static void play_greeter(struct peer *peer, const char *message) {
    char line[8192], *good;

    if (!peer->greeted) {
        if (!play_read_line(peer, line, sizeof line) || strcmp(line, "Beijing welcomes you") != 0)
            lose(peer, "the greeting was \"%.60s\"", line);
        peer->greeted = true;
    }
    play_send(peer, message, strlen(message), 0);
    play_send(peer, "\n", 1, 0);
    if (!play_read_line(peer, line, sizeof line)) {
        lose(peer, "end of file came instead of an answer");
        return;
    }
    while ((good = strstr(line, " good")) != NULL)
        memmove(good, good + 5, strlen(good + 5) + 1);
    if (strcmp(line, message) != 0)
        lose(peer, "the answer was \"%.60s\"", line);
}

/* Half-closes, and waits for end of file. */
static void play_leave(struct peer *peer) {
    char byte;
    ssize_t got;

    if (is_lost(peer))
        return;
    shutdown(peer->fd, SHUT_WR);
    if (await(peer, POLLIN) == 0)
        lose(peer, "no end of file after our own");
    else if ((got = recv(peer->fd, &byte, 1, 0)) != 0)
        lose(peer, "%s came instead of end of file", got == 1 ? "a byte" : strerror(errno));
    if (!is_lost(peer))
        close(peer->fd);
    peer->fd = -1;
}

static void play_close(struct peer *peer, bool reset) {
    const struct linger no_time = {.l_onoff = 1};

    if (peer->fd == -1)
        return;
    if (reset)
        setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &no_time, sizeof no_time);
    close(peer->fd);
    peer->fd = -1;
}

/* Sends until the server takes no more for a few milliseconds, and never reads. */
static void play_mute(struct peer *peer) {
    static const char bytes[8192];
    int refusals = 0;

    while (!is_lost(peer) && refusals < 5) {
        ssize_t sent = send(peer->fd, bytes, sizeof bytes, MSG_NOSIGNAL);

        if (sent > 0)
            refusals = 0;
        else if (errno != EAGAIN)
            lose(peer, "send: %s", strerror(errno));
        else if (refusals++ < 5)
            nap(0.001);
    }
}

/* ---- The scenes of servers ---- */

static int ports[2]; /* where the server listens */
static pid_t child;

/* Do all its threads sleep? *ran is how many nanoseconds they have run so far. */
static bool sleeps(unsigned long long *ran) {
    char path[128], tasks[64];
    struct dirent *entry;
    bool all = true;
    DIR *directory;

    snprintf(tasks, sizeof tasks, "/proc/%d/task", (int)child);
    directory = opendir(tasks);
    *ran = 0;
    while (directory != NULL && (entry = readdir(directory)) != NULL) {
        unsigned long long thread = 0;
        char state = 'S';

        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%.20s/schedstat", tasks, entry->d_name);
        sscanf(read_file(path), "%llu", &thread);
        *ran += thread;
        snprintf(path, sizeof path, "%s/%.20s/stat", tasks, entry->d_name);
        sscanf(read_file(path), "%*d (%*[^)]) %c", &state);
        all = all && (state == 'S' || state == 'Z'); /* Z: it has ended */
    }
    if (directory != NULL)
        closedir(directory);
    return all;
}

/* Does it run though it has nothing to do? No, if it sleeps through one WINDOW. What it may use until
 * then is time on a core, not time on the clock: on a busy machine a program waits for its core. */
static bool spins(void) {
    double deadline = seconds() + PATIENCE * slow;
    unsigned long long first, before, after;

    sleeps(&first);
    do {
        bool calm = sleeps(&before);

        nap(WINDOW / 1000.0);
        if (sleeps(&after) && calm && after == before)
            return false;
    } while (after < first + SPIN_MAX * 1000000ULL && seconds() < deadline);
    return true;
}

/* To be called while its clients do nothing, so that it has nothing to do. */
static void watch(struct seen *seen, const struct program *program) {
    if (!program->busy && spins())
        blame(seen, "it spins while its clients do nothing");
}

/* A client that comes when everything is over: is the server still there for it? */
static struct peer *newcomer(struct seen *seen) {
    struct peer *peer = &seen->late[seen->late_count++];

    play_connect(peer, "late", ports[0]);
    return peer;
}

static void scene_echo(struct seen *seen, const struct program *program) {
    bool one_by_one = program->scene == ONE_BY_ONE;

    play_connect(&seen->good, "good", ports[0]);
    play_connect(&seen->resets, "resets", ports[0]);
    play_connect(&seen->mute, "mute", ports[0]);
    play_exchange(&seen->good, 1);
    play_exchange(&seen->good, 1000);
    play_send(&seen->resets, "to be reset", 11, 0);
    if (!one_by_one)
        play_mute(&seen->mute);
    watch(seen, program);
    play_send(&seen->good, "!", 1, MSG_OOB); /* the servers do not echo it */
    play_exchange(&seen->good, 70000);
    play_close(&seen->resets, true);
    play_exchange(&seen->good, 3000);
    if (one_by_one) {
        play_leave(&seen->good);
        play_mute(&seen->mute);
    }
    play_close(&seen->mute, false); /* its unread bytes make this a reset, too */
    if (!one_by_one) {
        play_exchange(&seen->good, 100);
        play_leave(&seen->good);
    }
}

static void scene_late_echo(struct seen *seen) {
    struct peer *peer = newcomer(seen);

    play_exchange(peer, 100);
    play_leave(peer);
}

static void scene_greeter(struct seen *seen, const struct program *program) {
    play_connect(&seen->good, "good", ports[0]);
    play_connect(&seen->resets, "resets", ports[0]);
    play_connect(&seen->mute, "mute", ports[0]);
    play_greeter(&seen->good, "ni hao");
    play_send(&seen->resets, "to be reset", 11, 0);
    play_greeter(&seen->good, "how are things in the north of the town?");
    watch(seen, program);
    play_close(&seen->resets, true);
    play_greeter(&seen->good, "all right");
    play_leave(&seen->good);
    play_mute(&seen->mute);
    play_close(&seen->mute, false);
}

static void scene_late_greeter(struct seen *seen) {
    struct peer *peer = newcomer(seen);

    play_greeter(peer, "hello");
    play_leave(peer);
}

/* It says hello to whatever one recv() brought: to each of our single bytes. */
static void play_hello(struct peer *peer) {
    char line[64];

    play_send(peer, "x", 1, 0);
    if (!play_read_line(peer, line, sizeof line) || strcmp(line, "hello") != 0)
        lose(peer, "the answer was \"%s\"", line);
}

static void scene_ports(struct seen *seen, const struct program *program) {
    play_connect(&seen->good, "good", ports[0]);
    play_connect(&seen->resets, "resets", ports[1]);
    play_connect(&seen->mute, "mute", ports[1]);
    play_send(&seen->mute, "x", 1, 0);
    play_hello(&seen->good);
    play_send(&seen->resets, "to be reset", 11, 0);
    play_hello(&seen->good);
    play_hello(&seen->good);
    watch(seen, program);
    play_close(&seen->resets, true);
    play_hello(&seen->good);
    play_close(&seen->mute, true);
    play_hello(&seen->good);
    play_leave(&seen->good);
}

static void scene_late_ports(struct seen *seen) {
    struct peer *peer = newcomer(seen);

    play_hello(peer);
    play_leave(peer);
}

/* Has the server closed this client, which may never have read? */
static bool is_closed(const struct peer *peer) {
    struct pollfd entry = {.fd = peer->fd, .events = POLLRDHUP};

    return peer->fd == -1 || poll(&entry, 1, 0) > 0;
}

static void read_hits(struct seen *seen, const struct program *program);
static bool is_excused(const struct seen *seen, const struct program *program,
                       const struct peer *peer);

/* The good client must hear what the mute one says: each line once, and in order. If the mute one
 * was hit by a fault, what it said last may be lost. */
static void hear(struct seen *seen, const struct program *program) {
    char line[8192], *found;

    for (int next = 0; next < 10 && !is_lost(&seen->good);) {
        struct pollfd entry = {.fd = seen->good.fd, .events = POLLIN};

        if (poll(&entry, 1, 100) == 0 && is_closed(&seen->mute)) {
            read_hits(seen, program);
            if (!is_excused(seen, program, &seen->mute))
                lose(&seen->good, "it has not heard line %d", next);
            return;
        }
        if (!play_read_line(&seen->good, line, sizeof line)) {
            lose(&seen->good, "end of file came before line %d", next);
        } else if ((found = strstr(line, ": number ")) != NULL) {
            if (atoi(found + 9) != next)
                lose(&seen->good, "line %d came instead of %d", atoi(found + 9), next);
            next++;
        }
    }
}

static void scene_chat(struct seen *seen, const struct program *program) {
    char line[8192];

    play_connect(&seen->good, "good", ports[0]);
    play_connect(&seen->mute, "mute", ports[0]);
    play_connect(&seen->resets, "resets", ports[0]);
    play_send(&seen->good, "from the good one\n", 18, 0);
    play_wait_for(&seen->resets, "from the good one");
    play_send(&seen->resets, "half a li", 9, 0);
    for (int i = 0; i < 10; i++) {
        snprintf(line, sizeof line, "number %d\n", i);
        play_send(&seen->mute, line, strlen(line), 0);
    }
    hear(seen, program);
    watch(seen, program);
    play_close(&seen->resets, true);
    memset(line, 'x', 1000);
    line[999] = '\n';
    for (int i = 0; i < 400; i++) /* more than the mute one's queue holds */
        play_send(&seen->good, line, 1000, 0);
    play_close(&seen->mute, false);
    if (!is_lost(&seen->good)) {
        shutdown(seen->good.fd, SHUT_WR);
        while (play_read_line(&seen->good, line, sizeof line))
            continue;
    }
    play_close(&seen->good, false);
}

static void scene_late_chat(struct seen *seen) {
    struct peer *peer = newcomer(seen);
    char line[8192], itself[80];

    snprintf(itself, sizeof itself, "New connection from 127.0.0.1:%d ", peer->port);
    play_wait_for(peer, itself);
    if (!is_lost(peer))
        shutdown(peer->fd, SHUT_WR);
    while (play_read_line(peer, line, sizeof line)) /* others may still be leaving */
        continue;
    play_close(peer, false);
}

/* Clients that do nothing, which the server must close. When it does so depends on the machine,
 * so we do not check that. */
static void scene_idle(struct seen *seen) {
    struct peer *peers[] = {&seen->good, &seen->resets, &seen->mute};

    for (int i = 0; i < 3; i++)
        play_connect(peers[i], "idle", ports[0]);
    play_mute(&seen->mute);
    play_send(&seen->resets, "to be reset", 11, 0);
    play_close(&seen->resets, true);
    if (!is_lost(&seen->good) && await(&seen->good, POLLIN) == 0)
        lose(&seen->good, "it was not closed though it was idle");
    play_close(&seen->good, false);
    play_close(&seen->mute, false);
}

static void scene_late_idle(struct seen *seen) {
    struct peer *peer = newcomer(seen);

    if (!is_lost(peer) && await(peer, POLLIN) == 0)
        lose(peer, "it was not closed though it was idle");
    play_close(peer, false);
}

static void play_clients(struct seen *seen, const struct program *program) {
    switch (program->scene) {
    case GREETER:
        scene_greeter(seen, program);
        break;
    case PORTS:
        scene_ports(seen, program);
        break;
    case CHAT:
        scene_chat(seen, program);
        break;
    case IDLE:
        scene_idle(seen);
        break;
    default:
        scene_echo(seen, program);
    }
}

static void play_newcomer(struct seen *seen, const struct program *program) {
    switch (program->scene) {
    case GREETER:
        scene_late_greeter(seen);
        break;
    case PORTS:
        scene_late_ports(seen);
        break;
    case CHAT:
        scene_late_chat(seen);
        break;
    case IDLE:
        scene_late_idle(seen);
        break;
    default:
        scene_late_echo(seen);
    }
}

/* ---- The process ---- */

static bool has_ended(struct seen *seen) {
    struct rusage usage;

    if (child == 0)
        return true;
    if (wait4(child, &seen->status, WNOHANG, &usage) != child)
        return false;
    seen->cpu = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
                (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
    child = 0;
    return true;
}

/* For make coverage, a program writes its counts when it gets SIGUSR2: see tests/lib/finish.c. */
static void finish_child(struct seen *seen) {
    double deadline = seconds() + 1;

    if (getenv("FINISH_SIGNAL") == NULL)
        return;
    kill(child, SIGUSR2);
    while (!has_ended(seen) && seconds() < deadline)
        nap(0.001);
}

static void kill_child(struct seen *seen, int signal) {
    if (child != 0 && signal == SIGKILL)
        finish_child(seen);
    if (child == 0)
        return;
    kill(child, signal);
    while (!has_ended(seen))
        nap(0.0002);
}

static char *split_word(char **rest) {
    char *word;

    do
        word = strsep(rest, " \t");
    while (word != NULL && *word == '\0');
    return word;
}

/* Starts the program with its standard streams in files of ours. */
static void start(const struct program *program, const char *rules, int port) {
    char path[512], words[256], number[8], counts[128], hits[128], output[128], log[128],
        input[128];
    char *rest = words, *word, *arguments[16];
    int count = 0;

    snprintf(path, sizeof path, "%s/%.*s", build, (int)strcspn(program->name, " "), program->name);
    snprintf(words, sizeof words, "%s", program->arguments);
    snprintf(number, sizeof number, "%d", port);
    snprintf(counts, sizeof counts, "%s/counts", scratch);
    snprintf(hits, sizeof hits, "%s/hits", scratch);
    snprintf(output, sizeof output, "%s/output", scratch);
    snprintf(log, sizeof log, "%s/log", scratch);
    snprintf(input, sizeof input, "%s/input", scratch);
    unlink(counts);
    unlink(hits);
    unlink(output);
    unlink(log);
    arguments[count++] = path;
    while ((word = split_word(&rest)) != NULL)
        arguments[count++] = strcmp(word, "PORT") == 0 ? number : word;
    arguments[count] = NULL;

    child = fork();
    if (child == -1)
        give_up("fork");
    if (child > 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* it must not be left over when we are killed */
    signal(SIGPIPE, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    if (dup2(open(program->scene == PIPE_CLIENT ? input : "/dev/null", O_RDONLY), 0) == -1 ||
        dup2(open(output, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0666), 1) == -1 ||
        dup2(open(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0666), 2) == -1)
        _exit(99);
    for (int fd = 3; fd < 64; fd++)
        close(fd);
    setenv("FAULTS", rules, 1);
    setenv("FAULTS_COUNTS", counts, 1);
    setenv("FAULTS_HITS", hits, 1);
    setenv("LD_PRELOAD", "build/torture/faults.so", 1);
    execv(path, arguments);
    _exit(98);
}

/* Waits for the first line, or two of them; or until it ends. */
static bool await_start(struct seen *seen, const struct program *program) {
    int wanted = program->scene == PORTS ? 2 : 1;
    double deadline = seconds() + PATIENCE * slow;

    for (;;) {
        bool ended = has_ended(seen);
        char *line = read_file("log");
        int found = 0;

        while ((line = strstr(line, "starting up on ")) != NULL && strchr(line, '\n') != NULL &&
               found < wanted) {
            line = strstr(line, " port ");
            ports[found++] = atoi(line + 6);
        }
        if (found == wanted)
            return true;
        if (ended)
            return false;
        if (seconds() > deadline) {
            blame(seen, "it did not start, and did not end");
            return false;
        }
        nap(0.0003);
    }
}

static void read_counts(struct count *counts, int *count) {
    char *rest = read_file("counts"), *line;

    *count = 0;
    while ((line = strsep(&rest, "\n")) != NULL && *count < CALLS_MAX)
        if (sscanf(line, "%23s calls %lu hits %lu", counts[*count].call, &counts[*count].calls,
                   &counts[*count].hits) == 3)
            ++*count;
}

static unsigned long calls_of(const struct count *counts, int count, const char *call) {
    for (int i = 0; i < count; i++)
        if (strcmp(counts[i].call, call) == 0)
            return counts[i].calls;
    return 0;
}

/* How many blocks of memory the program has that it has not given back. */
static long blocks_of(const struct count *counts, int count) {
    long blocks = 0;

    for (int i = 0; i < count; i++) {
        if (strcmp(counts[i].call, "malloc") == 0 || strcmp(counts[i].call, "calloc") == 0 ||
            strcmp(counts[i].call, "strdup") == 0)
            blocks += (long)counts[i].calls - (long)counts[i].hits;
        if (strcmp(counts[i].call, "free") == 0)
            blocks -= (long)counts[i].calls;
    }
    return blocks;
}

static int count_descriptors(void) {
    char path[64];
    struct stat status;
    int count = 0;

    for (int fd = 0; fd < 64; fd++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)child, fd);
        if (lstat(path, &status) == 0)
            count++;
    }
    return count;
}

/* Waits until the server has as few descriptors and blocks as before its first client. */
static void settle(struct seen *seen, const struct baseline *baseline) {
    double deadline = seconds() + PATIENCE * slow;

    while (!has_ended(seen) && seconds() < deadline) {
        read_counts(seen->counts, &seen->count_count);
        seen->descriptors = count_descriptors();
        seen->blocks = blocks_of(seen->counts, seen->count_count);
        if (seen->descriptors <= baseline->seen.descriptors &&
            seen->blocks <= baseline->seen.blocks)
            return;
        nap(0.0005);
    }
}

/* ---- The log ---- */

/* Lines about ordinary events. Every other line reports something that went wrong. */
static const char *const ordinary[] = {
    "starting up on *",
    "listening sockets: *",
    "waiting for the next event",
    "new connection from *",
    "received *",
    "sending *",
    "output queue for *",
    "closing * after reading no data",
    "closing * after its q",
    "handling exceptional condition for *",
    "timed out, do some *",
    "select left *",
    "ready to be *",
    "New connection from *",
    "* has left (clients: *",
    "closing * after its queue was full: *",
    "closing * without progress",
    "127.0.0.1:*: *",
    "Shutdown Server *",
};

static void read_log(struct seen *seen) {
    char *begin = read_file("log"), *rest = begin, *line;

    seen->reports = 0;
    while (*(line = rest) != '\0') {
        bool report = true;

        rest = strchr(line, '\n');
        rest = rest == NULL ? line + strlen(line) : rest + 1;
        if (rest[-1] == '\n')
            rest[-1] = '\0';
        for (size_t i = 0; i < sizeof ordinary / sizeof ordinary[0] && report; i++)
            report = fnmatch(ordinary[i], line, 0) != 0;
        seen->reports += report ? 1 : 0;
        seen->last_line_at = (int)(line - begin);
    }
}

static const char *last_line(const struct seen *seen) {
    char *line = read_file("log") + seen->last_line_at;

    line[strcspn(line, "\n")] = '\0';
    return line;
}

/* Does this line of the table hold for this program? */
static bool is_for(const struct row *row, const struct program *program) {
    if (strcmp(row->program, "server") == 0)
        return is_server(program);
    if (strcmp(row->program, "client") == 0)
        return program->scene == CLIENT || program->scene == PIPE_CLIENT;
    return fnmatch(row->program, program->name, 0) == 0;
}

/* Is `word` one of the words of `list`? */
static bool has_word(const char *list, const char *word) {
    size_t length = strlen(word);

    for (const char *at = list; (at = strstr(at, word)) != NULL; at += length)
        if ((at == list || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0'))
            return true;
    return false;
}

static const struct row *find_row(const struct program *program, const char *call, const char *on,
                                  const char *error) {
    for (int i = 0; i < row_count; i++)
        if (is_for(&rows[i], program) && strcmp(rows[i].call, call) == 0 &&
            (on == NULL || strcmp(rows[i].on, "*") == 0 || strcmp(rows[i].on, on) == 0) &&
            has_word(rows[i].errors, error))
            return &rows[i];
    return NULL;
}

/* Counts all hits, and keeps those with an error: the others require nothing. */
static void read_hits(struct seen *seen, const struct program *program) {
    char *rest = read_file("hits"), *line;

    seen->faults = 0;
    seen->hit_count = 0;
    while ((line = strsep(&rest, "\n")) != NULL && *line != '\0' && seen->hit_count < HITS_MAX) {
        struct hit *hit = &seen->hits[seen->hit_count];
        char on[24];

        *hit = (struct hit){.on = "-"};
        if (sscanf(line, "%127s %lu %d %23s", hit->rule, &hit->number, &hit->error, on) != 4)
            continue;
        seen->faults++;
        sscanf(hit->rule, "%23[^:]:%23[^:]", hit->call, hit->action);
        if (hit->action[0] != 'E')
            continue;
        hit->port = atoi(on);
        hit->on = hit->port > 0 || *on == 'g' ? "peer" : *on == 'l' ? "listener" : "-";
        hit->row = find_row(program, hit->call, hit->on, hit->action);
        seen->hit_count++;
    }
}

/* ---- Judging ---- */

static const char *required_of(const struct hit *hit, const struct program *program) {
    const struct baseline *baseline = baseline_of(program);
    const char *required = hit->row == NULL ? "retry" : hit->row->required;

    if (is_server(program) && strcmp(required, "client") == 0 && hit->port == 0 &&
        hit->number <= calls_of(baseline->at_start, baseline->at_start_count, hit->call))
        return "startup";
    return required;
}

/* Is this required by one of the faults that hit? */
static bool is_required(const struct seen *seen, const struct program *program, const char *what) {
    for (int i = 0; i < seen->hit_count; i++)
        if (strcmp(required_of(&seen->hits[i], program), what) == 0)
            return true;
    return false;
}

/* Must the program end, with status 1? */
static bool must_end(const struct seen *seen, const struct program *program) {
    return is_required(seen, program, "startup") || is_required(seen, program, "fails") ||
           is_required(seen, program, "breaks");
}

/* May this client have ended because of a fault? One of its own, or one that has no socket. */
static bool is_excused(const struct seen *seen, const struct program *program,
                       const struct peer *peer) {
    for (int i = 0; i < seen->hit_count; i++) {
        const char *required = required_of(&seen->hits[i], program);

        if ((strcmp(required, "client") == 0 || strcmp(required, "refusal") == 0) &&
            (seen->hits[i].port == 0 || seen->hits[i].port == peer->port))
            return true;
    }
    return false;
}

static void judge_end(struct seen *seen) {
    if (WIFSIGNALED(seen->status))
        blame(seen, "it was killed by a signal: %s", strsignal(WTERMSIG(seen->status)));
    else
        blame(seen, "it ended with status %d: %s", WEXITSTATUS(seen->status), last_line(seen));
}

/* It must have ended with 1, and a line must begin with its name, and give the error. That need not
 * be the last line: another thread may have had something to say. */
static void judge_exit(struct seen *seen, const struct program *program) {
    const char *name = strrchr(program->name, '/') + 1;
    size_t length = strcspn(name, " ");
    char *rest, *line;

    if (seen->alive)
        blame(seen, "it went on, though this fault must end it");
    else if (!WIFEXITED(seen->status) || WEXITSTATUS(seen->status) != 1)
        judge_end(seen);
    rest = read_file("log");
    while ((line = strsep(&rest, "\n")) != NULL) {
        if (strncmp(line, name, length) != 0 || line[length] != ':')
            continue;
        if (is_required(seen, program, "breaks"))
            return;
        for (int i = 0; i < seen->hit_count; i++)
            if (strstr(line, strerror(seen->hits[i].error)) != NULL)
                return;
    }
    blame(seen, "it ended without a line that says what failed: %s", last_line(seen));
}

static void judge_client(struct seen *seen, const struct program *program) {
    const struct baseline *baseline = baseline_of(program);
    bool told = is_required(seen, program, "told"), early = is_required(seen, program, "early");

    if (!WIFEXITED(seen->status) || WEXITSTATUS(seen->status) > (told ? 1 : 0))
        judge_end(seen);
    else if (!early && seen->total != baseline->seen.total)
        blame(seen, "it sent %llu bytes, and without faults %llu", (unsigned long long)seen->total,
              (unsigned long long)baseline->seen.total);
    else if (!early && is_lost(&seen->good))
        blame(seen, "%s", seen->good.problem);
}

static void judge_server(struct seen *seen, const struct program *program) {
    const struct baseline *baseline = baseline_of(program);
    int excused = 0;

    if (!seen->alive)
        judge_end(seen);
    for (int i = -1; i < seen->late_count; i++) {
        const struct peer *peer = i == -1 ? &seen->good : &seen->late[i];

        if (!is_lost(peer))
            continue;
        if (!is_excused(seen, program, peer) || ++excused > seen->hit_count)
            blame(seen, "the %s client: %s", peer->name, peer->problem);
    }
    if (seen->descriptors > baseline->seen.descriptors)
        blame(seen, "%d descriptors are left open", seen->descriptors - baseline->seen.descriptors);
    if (seen->blocks > baseline->seen.blocks)
        blame(seen, "%ld blocks of memory are not freed", seen->blocks - baseline->seen.blocks);
    if (seen->spins)
        blame(seen, "it spins when all clients have left");
}

/* A shortage and a failed accept() must be logged, so that their cause can be found. */
static void judge_silence(struct seen *seen, const struct program *program) {
    const char *log = read_file("log");
    bool shortage =
        false; /* the first one was looked for: those that go on have no line of their own */

    for (int i = 0; i < seen->hit_count; i++) {
        const char *required = required_of(&seen->hits[i], program);
        const char *error = strerror(seen->hits[i].error);
        bool first = strcmp(required, "shortage") == 0 && !shortage;

        shortage = shortage || first;
        if ((first || strcmp(required, "note") == 0) && strstr(log, error) == NULL)
            blame(seen, "its log lacks \"%s\"", error);
    }
}

/* A line for each fault, but only one for a shortage that goes on. */
static void judge_log(struct seen *seen, const struct program *program) {
    int lines = baseline_of(program)->seen.reports, shortages = 0;

    for (int i = 0; i < seen->hit_count; i++) {
        const char *required = required_of(&seen->hits[i], program);
        bool goes_on = false;

        if (strcmp(required, "shortage") == 0) {
            shortages++;
            for (int j = 0; j < i; j++)
                goes_on = goes_on || strcmp(seen->hits[i].rule, seen->hits[j].rule) == 0;
        }
        if (strcmp(required, "retry") != 0 && strcmp(required, "once") != 0 && !goes_on)
            lines += strcmp(required, "refusal") == 0 ? 2 : 1;
    }
    if (shortages > SHORTAGES_MAX)
        blame(seen, "it asked %d times for what it could not get", shortages);
    if (seen->reports > lines)
        blame(seen, "its log has %d lines too many about what went wrong", seen->reports - lines);
}

static void judge(struct seen *seen, const struct program *program) {
    for (int i = 0; i < seen->hit_count; i++)
        if (seen->hits[i].row == NULL)
            blame(seen, "the table has no line for %s on %s", seen->hits[i].rule, seen->hits[i].on);
    if (is_required(seen, program, "sigpipe")) {
        if (!WIFSIGNALED(seen->status) || WTERMSIG(seen->status) != SIGPIPE)
            judge_end(seen);
    } else if (must_end(seen, program)) {
        judge_exit(seen, program);
    } else if (is_server(program)) {
        judge_server(seen, program);
        judge_silence(seen, program);
    } else {
        judge_client(seen, program);
    }
    judge_log(seen, program);
    if (!program->busy && seen->cpu > baseline_of(program)->seen.cpu + CPU_MAX)
        blame(seen, "it used %ld ms of a core, and without faults %ld", seen->cpu,
              baseline_of(program)->seen.cpu);
}

/* ---- One run ---- */

/* The server that a client talks to: it echoes, and counts the bytes. */
static void serve_client(struct seen *seen, int listener) {
    static char buffer[65536];
    struct pollfd entries[16] = {{.fd = listener, .events = POLLIN}};
    const struct timeval a_while = {.tv_sec = PATIENCE};
    double deadline = seconds() + PATIENCE * slow;
    int count = 1;

    while (!has_ended(seen)) {
        if (seconds() > deadline) {
            blame(seen, "it did not end");
            break;
        }
        if (poll(entries, (nfds_t)count, 1) <= 0)
            continue;
        if (entries[0].revents != 0 && count < 16) {
            int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

            if (fd != -1)
                setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &a_while, sizeof a_while);
            if (fd != -1)
                entries[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
        }
        for (int i = 1; i < count; i++) {
            ssize_t got;

            if (entries[i].revents == 0)
                continue;
            got = recv(entries[i].fd, buffer, sizeof buffer, 0);
            if (got > 0) {
                seen->total += (uint64_t)got;
                for (ssize_t sent = 0, more; sent < got; sent += more)
                    if ((more = send(entries[i].fd, buffer + sent, (size_t)(got - sent),
                                     MSG_NOSIGNAL)) <= 0)
                        break;
            } else {
                close(entries[i].fd);
                entries[i] = entries[--count];
                i--;
            }
        }
    }
    kill_child(seen, SIGKILL);
    for (int i = 1; i < count; i++)
        close(entries[i].fd);
}

/* What the client of 04 has written must be what it was given to read: see make_scratch(). */
static void compare_output(struct seen *seen) {
    char path[128];
    uint64_t place = 0;
    FILE *file;
    int byte;

    snprintf(path, sizeof path, "%s/output", scratch);
    file = fopen(path, "re");
    if (file == NULL)
        give_up(path);
    while ((byte = fgetc(file)) != EOF && byte == pattern(place))
        place++;
    if (byte != EOF || place != INPUT_SIZE)
        lose(&seen->good, "its output differs from its input at byte %llu of %d",
             (unsigned long long)place, INPUT_SIZE);
    fclose(file);
}

static void run_client(struct seen *seen, const struct program *program, const char *rules) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listener == -1 || bind(listener, (struct sockaddr *)&address, sizeof address) == -1 ||
        listen(listener, 16) == -1)
        give_up("listen");
    start(program, rules, own_port(listener));
    serve_client(seen, listener);
    close(listener);
    if (program->scene == PIPE_CLIENT)
        compare_output(seen);
}

/* Waits until the program ends; only for a while. */
static void await_end(struct seen *seen) {
    double deadline = seconds() + PATIENCE * slow;

    while (!has_ended(seen) && seconds() < deadline)
        nap(0.0005);
}

/* The last client of the chat room is there when the room closes, by SIGINT. */
static void close_chat(struct seen *seen) {
    struct peer *peer = newcomer(seen);

    play_wait_for(peer, "New connection from");
    kill(child, SIGINT);
    play_wait_for(peer, "Shutdown Server");
    play_close(peer, false);
    await_end(seen);
    if (!has_ended(seen))
        blame(seen, "SIGINT did not end it");
    else if (WIFEXITED(seen->status) && WEXITSTATUS(seen->status) == 0)
        seen->alive = true; /* as if it were: it ended as it should */
}

static void run_server(struct seen *seen, const struct program *program, const char *rules,
                       struct baseline *baseline, bool first) {
    start(program, rules, 0);
    seen->started = await_start(seen, program);
    if (seen->started && first) {
        if (program->busy || spins())
            nap(0.1);
        read_counts(baseline->at_start, &baseline->at_start_count);
        baseline->seen.descriptors = count_descriptors();
        baseline->seen.blocks = blocks_of(baseline->at_start, baseline->at_start_count);
    }
    if (seen->started) {
        play_clients(seen, program);
        do { /* a fault may hit the newcomer as well: then there is one more */
            play_newcomer(seen, program);
            read_hits(seen, program);
        } while (is_lost(&seen->late[seen->late_count - 1]) && seen->late_count < 3 &&
                 seen->late_count <= seen->hit_count && !has_ended(seen));
        if (!must_end(seen, program))
            settle(seen, baseline);
        seen->spins = !program->busy && spins();
        if (!has_ended(seen) && program->scene == CHAT)
            close_chat(seen);
    }
    read_hits(seen, program);
    if (must_end(seen, program)) /* it may be about to */
        await_end(seen);
    if (!has_ended(seen)) {
        seen->alive = true;
        kill_child(seen, SIGKILL);
    }
}

static void run_once(struct seen *seen, int index, const char *rules, bool first) {
    const struct program *program = &programs[index];

    *seen = (struct seen){.good.fd = -1, .resets.fd = -1, .mute.fd = -1};
    if (is_server(program)) {
        run_server(seen, program, rules, &baselines[index], first);
    } else if (program->scene == ALONE) {
        start(program, rules, 0);
        await_end(seen);
        if (!has_ended(seen))
            blame(seen, "it did not end");
        kill_child(seen, SIGKILL);
    } else {
        run_client(seen, program, rules);
    }
    play_close(&seen->good, true);
    play_close(&seen->resets, true);
    play_close(&seen->mute, true);
    for (int i = 0; i < seen->late_count; i++)
        play_close(&seen->late[i], true);
    if (!seen->alive || first || seen->count_count == 0)
        read_counts(seen->counts, &seen->count_count);
    read_hits(seen, program);
    read_log(seen);
    if (first) {
        int descriptors = baselines[index].seen.descriptors;
        long blocks = baselines[index].seen.blocks;

        baselines[index].seen = *seen;
        baselines[index].seen.descriptors = descriptors;
        baselines[index].seen.blocks = blocks;
        /* How the others leave is not certain in these scenes. */
        if (program->scene == CHAT || program->scene == IDLE)
            baselines[index].seen.reports += 2;
    }
    judge(seen, program);
}

/* ---- All runs ---- */

/* A call of a program, and a way in which it can fail or lie: this must be reached at least once. */
struct way {
    const struct row *row; /* NULL: cap, ready and ready-read, which are in no line of the table */
    char call[24], action[24];
    int program;
    bool reached;
};

struct run {
    int program;
    int way; /* or -1 */
    char rules[RULES_MAX];
    bool done, failed;
    int hits;
};

/* What the workers share. */
struct shared {
    atomic_int next, done, failed, hits;
    struct run runs[];
};

enum { WAYS_MAX = 8192, RUNS_MAX = 60000 };

static struct way ways[WAYS_MAX];
static int way_count;
static struct shared *shared;
static int run_count;
static uint64_t seed;
static double time_limit; /* seconds, or 0 */

static uint64_t random_number(void) {
    seed += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t x = (seed ^ (seed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);

    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

__attribute__((format(printf, 3, 4))) static void add_run(int program, int way, const char *format,
                                                          ...) {
    struct run *run = &shared->runs[run_count];
    va_list arguments;

    if (run_count == RUNS_MAX)
        give_up("too many runs");
    *run = (struct run){.program = program, .way = way};
    va_start(arguments, format);
    vsnprintf(run->rules, sizeof run->rules, format, arguments);
    va_end(arguments);
    run_count++;
}

static int add_way(int program, const char *call, const char *action, const struct row *row) {
    struct way *way = &ways[way_count];

    if (way_count == WAYS_MAX)
        give_up("too many ways");
    *way = (struct way){.program = program, .row = row};
    snprintf(way->call, sizeof way->call, "%s", call);
    snprintf(way->action, sizeof way->action, "%s", action);
    return way_count++;
}

static bool is_wait(const char *call) {
    return strcmp(call, "select") == 0 || strcmp(call, "poll") == 0 ||
           strcmp(call, "epoll_wait") == 0;
}

/* The runs with this error of this call. */
static void add_error(int program, const struct count *count, const char *error,
                      const struct row *row) {
    unsigned long most =
        is_wait(count->call) && strcmp(error, "EINTR") == 0 ? WAITS_TRIED : OCCURRENCES;

    for (int i = 0; i < way_count; i++)
        if (ways[i].program == program && strcmp(ways[i].call, count->call) == 0 &&
            strcmp(ways[i].action, error) == 0)
            return; /* an earlier line of the table, for another kind of descriptor */
    int way = add_way(program, count->call, error, row);

    if (strcmp(row->required, "none") == 0)
        return;
    for (unsigned long n = 1; n <= most && (n <= count->calls || *row->with != '\0'); n++)
        add_run(program, way, "%s:%s:%lu%s%s", count->call, error, n, *row->with != '\0' ? "," : "",
                row->with);
    for (unsigned long n = 2 * OCCURRENCES; n <= count->calls && n <= 100; n *= 2)
        add_run(program, way, "%s:%s:%lu", count->call, error, n);
    if (strcmp(row->required, "retry") == 0 && count->calls > 1 && *row->with == '\0') {
        add_run(program, way, "%s:%s:1-40", count->call, error);
        add_run(program, way, "%s:%s:2-9", count->call, error);
    }
    if (strcmp(row->required, "shortage") == 0)
        add_run(program, way, "%s:%s:before=0.5", count->call, error);
}

/* The runs in which the call moves fewer bytes than it could. */
static void add_caps(int program, const char *call) {
    static const int caps[] = {1, 2, 3, 5, 7, 16, 100, 1000};
    int way = add_way(program, call, "cap", find_row(&programs[program], call, NULL, "cap"));

    if (ways[way].row != NULL)
        return;
    for (size_t i = 0; i < sizeof caps / sizeof caps[0]; i++) {
        add_run(program, way, "%s:cap=%d:1-200", call, caps[i]);
        add_run(program, way, "recv:cap=100:1-200,%s:cap=%d:1-200", call, caps[i]);
        add_run(program, way, "%s:cap=%d:3%%3", call, caps[i] * 10);
    }
}

/* The runs in which the call says that all is ready, though it may not be. */
static void add_lies(int program, const struct count *count) {
    static const char *const lies[] = {"ready", "ready-read"};

    for (int i = 0; i < 2; i++) {
        int way = add_way(program, count->call, lies[i],
                          find_row(&programs[program], count->call, NULL, lies[i]));

        if (ways[way].row != NULL)
            continue;
        for (unsigned long n = 1; n <= WAITS_TRIED && n <= count->calls; n++)
            add_run(program, way, "%s:%s:%lu", count->call, lies[i], n);
        add_run(program, way, "%s:%s:1-30", count->call, lies[i]);
        add_run(program, way, "%s:%s:3%%3", count->call, lies[i]);
    }
}

/* Two faults of those that were tried alone. */
static void add_pairs(int program, int first) {
    int last = run_count;

    for (int i = 0; i < PAIRS && last > first; i++) {
        const char *one =
            shared->runs[first + (int)(random_number() % (uint64_t)(last - first))].rules;
        const char *other =
            shared->runs[first + (int)(random_number() % (uint64_t)(last - first))].rules;

        if (strlen(one) + strlen(other) + 2 < RULES_MAX && strcmp(one, other) != 0)
            add_run(program, -1, "%s,%s", one, other);
    }
}

/* Makes all runs of a program, from the calls that it made in its first run. Returns how many calls
 * the table lacks. */
static int make_runs(int program) {
    const struct baseline *baseline = &baselines[program];
    int first = run_count, missing = 0;

    for (int i = 0; i < baseline->seen.count_count; i++) {
        const struct count *count = &baseline->seen.counts[i];
        bool listed = false;

        if (programs[program].only != NULL && !has_word(programs[program].only, count->call))
            continue;
        for (int j = 0; j < row_count; j++) {
            char errors[512], *rest = errors, *error;

            if (!is_for(&rows[j], &programs[program]) || strcmp(rows[j].call, count->call) != 0 ||
                (count->calls == 0 && *rows[j].with == '\0'))
                continue;
            listed = true;
            snprintf(errors, sizeof errors, "%s", rows[j].errors);
            while ((error = split_word(&rest)) != NULL)
                if (error[0] == 'E')
                    add_error(program, count, error, &rows[j]);
        }
        if (count->calls > 0 && !listed && strcmp(count->call, "free") != 0 &&
            strcmp(count->call, "urgent") != 0 && strcmp(count->call, "clock") != 0) {
            printf("%s makes %lu calls of %s, which tests/torture/calls lacks\n",
                   programs[program].name, count->calls, count->call);
            missing++;
        }
        if (count->calls == 0 || programs[program].scene == ALONE)
            continue;
        if (strcmp(count->call, "recv") == 0 || strcmp(count->call, "send") == 0 ||
            strcmp(count->call, "read") == 0 || strcmp(count->call, "write") == 0)
            add_caps(program, count->call);
        if (is_wait(count->call))
            add_lies(program, count);
    }
    add_pairs(program, first);
    return missing;
}

static void shuffle_runs(void) {
    for (int i = run_count - 1; i > 0; i--) {
        int other = (int)(random_number() % (uint64_t)(i + 1));
        struct run swapped = shared->runs[i];

        shared->runs[i] = shared->runs[other];
        shared->runs[other] = swapped;
    }
}

/* The line that repeats a run. */
static void print_failure(const struct run *run, const struct seen *seen) {
    printf("\n%s: %s\n    tests/torture/run '%s' %s\n", programs[run->program].name, seen->problem,
           programs[run->program].name, run->rules);
    fflush(stdout);
}

static void make_scratch(const char *directory, int worker) {
    char path[128];
    FILE *file;

    snprintf(scratch, sizeof scratch, "%.40s/%d", directory, worker);
    if (mkdir(scratch, 0777) == -1 && errno != EEXIST)
        give_up(scratch);
    snprintf(path, sizeof path, "%s/input", scratch);
    file = fopen(path, "we");
    for (uint64_t i = 0; file != NULL && i < INPUT_SIZE; i++)
        fputc(pattern(i), file);
    if (file == NULL || fclose(file) == EOF)
        give_up(path);
}

static void work(double end) {
    static struct seen seen;

    for (;;) {
        int index = atomic_fetch_add(&shared->next, 1);
        struct run *run = &shared->runs[index];

        if (index >= run_count || (end > 0 && seconds() > end))
            return;
        run_once(&seen, run->program, run->rules, false);
        run->hits = seen.faults;
        run->done = true;
        atomic_fetch_add(&shared->hits, seen.faults);
        if (seen.problem[0] != '\0') {
            run->failed = true;
            atomic_fetch_add(&shared->failed, 1);
            print_failure(run, &seen);
        }
        atomic_fetch_add(&shared->done, 1);
    }
}

static int work_in_parallel(const char *directory, int jobs) {
    double end = time_limit > 0 ? seconds() + time_limit : 0;
    pid_t workers[JOBS_MAX];
    int left = jobs, failed = 0, status;

    fflush(stdout);
    for (int i = 0; i < jobs; i++) {
        workers[i] = fork();
        if (workers[i] == -1)
            give_up("fork");
        if (workers[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGTERM);
            make_scratch(directory, i + 1);
            work(end);
            fflush(stdout);
            _exit(0);
        }
    }
    while (left > 0) {
        nap(0.1);
        for (int i = 0; i < jobs; i++)
            if (workers[i] != 0 && waitpid(workers[i], &status, WNOHANG) == workers[i]) {
                workers[i] = 0;
                left--;
                failed += status != 0;
            }
        if (isatty(1)) {
            printf("\r%d of %d runs, %d faults, %d failures ", shared->done, run_count,
                   shared->hits, shared->failed);
            fflush(stdout);
        }
    }
    if (isatty(1))
        printf("\r\033[K");
    return failed;
}

/* One line for each program; returns how many ways were never reached, and should have been. */
static int summarize(void) {
    int never = 0;

    for (int i = 0; i < run_count; i++)
        if (shared->runs[i].hits > 0 && shared->runs[i].way >= 0)
            ways[shared->runs[i].way].reached = true;
    printf("%-30s %6s %7s %6s %8s %8s\n", "program", "runs", "faults", "ways", "excluded",
           "failures");
    for (int p = 0; p < PROGRAMS; p++) {
        int runs = 0, hits = 0, reached = 0, excluded = 0, failures = 0;

        for (int i = 0; i < run_count; i++) {
            if (shared->runs[i].program != p || !shared->runs[i].done)
                continue;
            runs++;
            hits += shared->runs[i].hits;
            failures += shared->runs[i].failed ? 1 : 0;
        }
        for (int i = 0; i < way_count; i++) {
            if (ways[i].program != p)
                continue;
            if (ways[i].row != NULL && strcmp(ways[i].row->required, "none") == 0) {
                excluded++;
            } else if (ways[i].reached) {
                reached++;
            } else if (time_limit <= 0) {
                printf("%s: no run reached %s of %s\n", programs[p].name, ways[i].action,
                       ways[i].call);
                never++;
            }
        }
        if (runs > 0)
            printf("%-30s %6d %7d %6d %8d %8d\n", programs[p].name, runs, hits, reached, excluded,
                   failures);
    }
    return never;
}

/* ---- Start ---- */

static void read_table(const char *path) {
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t size = 0;

    if (file == NULL)
        give_up(path);
    while (getline(&line, &size, file) != -1) {
        char *copy = strdup(line), *rest = copy, *with;
        struct row *row = &rows[row_count];

        if (copy == NULL || row_count == ROWS_MAX)
            give_up(path);
        copy[strcspn(copy, "#\n")] = '\0';
        row->with = "";
        if ((with = strstr(copy, " with ")) != NULL) {
            *with = '\0';
            row->with = with + 6;
        }
        row->program = split_word(&rest);
        if (row->program == NULL || strcmp(row->program, "libc") == 0)
            continue;
        row->call = split_word(&rest);
        row->on = split_word(&rest);
        row->required = split_word(&rest);
        row->errors = rest;
        if (row->errors == NULL) {
            fprintf(stderr, "torture: %s: a line with fewer than five words: %s", path, line);
            exit(2);
        }
        row_count++;
    }
    free(line);
    fclose(file);
}

/* Runs it without faults: what happens then is what all other runs are compared with. */
static bool run_first(int program) {
    static struct seen seen;

    run_once(&seen, program, "", true);
    if (seen.problem[0] == '\0')
        return true;
    printf("%s, without any fault: %s\n", programs[program].name, seen.problem);
    return false;
}

/* One run, and all that it showed. */
static int show_run(int program, const char *rules) {
    static struct seen seen;

    run_once(&seen, program, rules, false);
    printf("%s", read_file("log"));
    printf("----\n");
    for (int i = 0; i < seen.hit_count; i++)
        printf("hit: %s, call %lu, on %s %d: %s\n", seen.hits[i].rule, seen.hits[i].number,
               seen.hits[i].on, seen.hits[i].port, required_of(&seen.hits[i], &programs[program]));
    printf("good client (port %d): %s\n", seen.good.port,
           seen.good.problem[0] ? seen.good.problem : "all right");
    printf("%s: %s\n", seen.problem[0] == '\0' ? "passed" : "failed",
           seen.problem[0] == '\0' ? rules : seen.problem);
    return seen.problem[0] == '\0' ? 0 : 1;
}

_Noreturn static void usage(const char *problem, const char *what) {
    fprintf(stderr,
            "torture: %s%s\n"
            "usage: torture [-j JOBS] [-t SECONDS] [-r SEED] [-b BUILD] [-d DIRECTORY] "
            "[-x PROGRAM] TABLE [PROGRAM [RULES]]\n",
            problem, what);
    exit(2);
}

static double read_number(const char *word, double least, double most) {
    char *end = NULL;
    double number = word == NULL ? 0 : strtod(word, &end);

    if (end == NULL || end == word || *end != '\0' || !(number >= least && number <= most))
        usage("not a number, or too large or small: ", word == NULL ? "" : word);
    return number;
}

/* Makes the runs of all programs whose names begin with `only`. Returns how much is wrong already. */
static int prepare(const char *only) {
    int problems = 0;

    shared = mmap(NULL, sizeof *shared + RUNS_MAX * sizeof(struct run), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        give_up("mmap");
    for (int i = 0; i < PROGRAMS; i++) {
        if (strncmp(programs[i].name, only, strlen(only)) != 0 ||
            strcmp(programs[i].name, left_out) == 0)
            continue;
        if (run_first(i))
            problems += make_runs(i);
        else
            problems++;
    }
    if (run_count == 0 && problems == 0)
        usage("there is no program whose name begins with ", only);
    shuffle_runs();
    return problems;
}

int main(int argc, char **argv) {
    const char *directory = "/tmp";
    int jobs = 2, option, problems, never;

    signal(SIGPIPE, SIG_IGN);
    seed = (uint64_t)getpid();
    if (getenv("SLOW") != NULL)
        slow = read_number(getenv("SLOW"), 0.1, 100);
    while ((option = getopt(argc, argv, "j:t:r:b:d:x:")) != -1) {
        if (option == 'j')
            jobs = (int)read_number(optarg, 1, JOBS_MAX);
        else if (option == 't')
            time_limit = read_number(optarg, 0, 1e6);
        else if (option == 'r')
            seed = (uint64_t)read_number(optarg, 0, 1e15);
        else if (option == 'b')
            build = optarg;
        else if (option == 'd')
            directory = optarg;
        else if (option == 'x')
            left_out = optarg;
        else
            usage("unknown option", "");
    }
    argv += optind;
    if (argv[0] == NULL)
        usage("TABLE is missing", "");
    read_table(argv[0]);
    make_scratch(directory, 0);
    if (argv[1] != NULL && argv[2] != NULL) {
        for (int i = 0; i < PROGRAMS; i++)
            if (strcmp(programs[i].name, argv[1]) == 0)
                return run_first(i) ? show_run(i, argv[2]) : 1;
        usage("there is no program ", argv[1]);
    }
    printf("seed %llu\n", (unsigned long long)seed);
    problems = prepare(argv[1] == NULL ? "" : argv[1]);
    problems += work_in_parallel(directory, jobs);
    never = summarize();
    printf("%d of %d runs, %d faults that hit, %d failures, %d ways never reached\n", shared->done,
           run_count, shared->hits, shared->failed, never);
    return problems + never + shared->failed > 0 ? 1 : 0;
}
