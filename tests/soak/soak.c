/*
 * soak: clients of every kind, for minutes, against several servers at the same time.
 *
 *     soak [-m MINUTES] [-s SEED] SERVER...      SERVER: "build/06-timeouts/server -t 0.5"
 *
 * Each server has CLIENTS clients at a time, and its log goes into a pipe that we read. A client does what its
 * random numbers say: it gets its echo and half-closes, pauses before it reads on, resets, vanishes, reads
 * nothing, or says nothing. When it has left, the next one comes. The random numbers of a client depend on the
 * seed, the server and the number of the client, and not on time. So the same seed plays the same clients again,
 * although the kernel may cut and mix their bytes in another way.
 *
 * The time is divided into equal rounds. At the end of a round all clients leave. Then each server must
 * have as many descriptors as before its first client, and about as much memory as after the first round.
 * At all times, every byte that comes back must be right, each client that waits for its echo gets all of it
 * and end of file, and the log holds nothing but the lines below. The first thing that does not hold ends
 * the program, with one line and the end of that server's log.
 */
#define _GNU_SOURCE /* pipe2, and SOCK_CLOEXEC */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    SERVERS_MAX = 32,
    CLIENTS = 16,      /* of each server at the same time */
    ROUNDS = 6,        /* the first one is for warming up */
    CHUNK = 64 * 1024, /* the most bytes of one send() or recv() */
    MOST_BITS = 18,    /* a client with patience sends at most 2^18 bytes */
    PAUSE_MAX = 200,   /* the longest pause, in ms */
    PATIENCE = 30,     /* seconds without progress after which an echo is lost */
    GROWTH_MAX = 128,  /* KiB by which a server may grow after the first round */
    POOL = 4096,       /* KiB: the buffers of uring.c, which it uses in turn */
    LINE_SIZE = 4096,
    LINES_KEPT = 8 /* of a log, for the message of a failure */
};

/* All lines that a log may hold. # stands for a number, * for any text. */
static const char *const known_lines[] = {
    "starting up on 127.0.0.1 port #",
    "waiting for the next event",
    "new connection from 127.0.0.1:#",
    "received \"*\" from 127.0.0.1:#",
    "received urgent \"*\" from 127.0.0.1:#",
    "sending \"*\" to 127.0.0.1:#",
    "output queue for 127.0.0.1:# is empty",
    "handling exceptional condition for 127.0.0.1:#",
    "closing 127.0.0.1:# after reading no data",
    "closing 127.0.0.1:# after recv: Connection reset by peer",
    "closing 127.0.0.1:# after send: Connection reset by peer",
    "closing 127.0.0.1:# after send: Broken pipe",
    "closing 127.0.0.1:# after receiving HUP",
    "closing 127.0.0.1:# after receiving HUP: Connection reset by peer",
    "closing 127.0.0.1:# after receiving HUP: Broken pipe",
    "timed out, do some other work here",
    /* uring.c does not know the name of a client that had reset before it was accepted. */
    "new connection from ?:?",
    "received \"*\" from ?:?",
    "closing ?:? after *",
};

/* What a client does. Those up to SILENT half-close and must get all of their echo; the others leave without
 * it. */
enum kind { PATIENT, PATIENT_TO_THE_END, SILENT, RESETS, VANISHES, DEAF, URGENT, KINDS };

struct client {
    int fd; /* -1: none */
    unsigned long number;
    enum kind kind;
    size_t total;    /* bytes that it sends */
    size_t piece;    /* the most that one send() gets */
    size_t pause_at; /* after that many bytes it pauses, or does what its kind says */
    double pause;    /* seconds */
    size_t sent, received;
    double resumes; /* in seconds(): it pauses until then; 0: it has not paused yet */
    bool half_closed;
    double progress; /* when bytes moved last */
};

struct server {
    char *command;
    pid_t pid;
    int log; /* the pipe from its standard error */
    int port;
    int descriptors; /* before the first client */
    long memory;     /* KiB, after the first round */
    unsigned long lines, begun;
    unsigned long long echoed;
    bool one_by_one; /* it serves a client only when the one before has left */
    double progress; /* when a byte came back last, to any of its clients */
    size_t line_length;
    char line[LINE_SIZE]; /* the last one, which is not complete yet */
    char kept[LINES_KEPT][LINE_SIZE];
    struct client clients[CLIENTS];
};

static struct server servers[SERVERS_MAX];
static int server_count;
static unsigned long seed;
static double slow = 1;

static double seconds(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Prints what is wrong with a server, and the end of its log, and ends the program. */
_Noreturn static void fail(const struct server *s, const char *format, ...) {
    va_list arguments;

    fprintf(stderr, "soak: %s: ", s->command);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n  again with SEED=%lu; the end of its log:\n", seed);
    for (unsigned long i = s->lines > LINES_KEPT ? s->lines - LINES_KEPT : 0; i < s->lines; i++)
        fprintf(stderr, "    %s\n", s->kept[i % LINES_KEPT]);
    exit(1);
}

_Noreturn static void die(const char *what) {
    fprintf(stderr, "soak: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* The next number of a series (splitmix64), below limit. */
static unsigned long draw(uint64_t *state, unsigned long limit) {
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return (unsigned long)((x ^ x >> 31) % limit);
}

/* type may be SOCK_NONBLOCK, or 0. */
static int connect_to(const struct server *s, int type) {
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_port = htons((uint16_t)s->port),
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | type, 0);

    if (fd == -1)
        die("socket");
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) == -1 &&
        errno != EINPROGRESS)
        die("connect");
    return fd;
}

/* ---- Servers ------------------------------------------------------------------------------ */

static bool matches(const char *pattern, const char *text) {
    for (; *pattern != '\0' && *pattern != '*'; pattern++) {
        if (*pattern == '#' && isdigit((unsigned char)*text)) {
            while (isdigit((unsigned char)*text))
                text++;
        } else if (*pattern != *text++) {
            return false;
        }
    }
    if (*pattern == '\0')
        return *text == '\0';
    do
        if (matches(pattern + 1, text))
            return true;
    while (*text++ != '\0');
    return false;
}

static void check_line(struct server *s) {
    memcpy(s->kept[s->lines++ % LINES_KEPT], s->line, s->line_length + 1);
    for (size_t i = 0; i < s->line_length; i++)
        if (s->line[i] < ' ' || s->line[i] > '~')
            fail(s, "its log holds the byte 0x%02x", (unsigned char)s->line[i]);
    for (size_t i = 0; i < sizeof known_lines / sizeof *known_lines; i++)
        if (matches(known_lines[i], s->line))
            return;
    fail(s, "no server logs a line such as the last one");
}

static void read_log(struct server *s) {
    char buffer[CHUNK];
    ssize_t count = read(s->log, buffer, sizeof buffer);
    int status = 0;

    if (count == 0) {
        waitpid(s->pid, &status, 0);
        fail(s, WIFSIGNALED(status) ? "it was killed by signal %d" : "it exited with status %d",
             WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
    for (ssize_t i = 0; i < count; i++) {
        if (buffer[i] != '\n' && s->line_length < LINE_SIZE - 1) {
            s->line[s->line_length++] = buffer[i];
            continue;
        }
        s->line[s->line_length] = '\0';
        check_line(s);
        s->line_length = 0;
    }
}

static int descriptors_of(const struct server *s) {
    char name[40];
    int count = 0;

    snprintf(name, sizeof name, "/proc/%d/fd", s->pid);
    DIR *directory = opendir(name);
    if (directory == NULL)
        fail(s, "there is no %s: it has ended", name);
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count - 2; /* . and .. */
}

static long memory_of(const struct server *s) {
    char line[200];
    long memory = 0;

    snprintf(line, sizeof line, "/proc/%d/status", s->pid);
    FILE *status = fopen(line, "re");
    if (status == NULL)
        fail(s, "it has ended");
    while (fgets(line, sizeof line, status) != NULL)
        if (strncmp(line, "RssAnon:", 8) == 0)
            memory = strtol(line + 8, NULL, 10);
    fclose(status);
    return memory;
}

/* Starts a server on a free port, and waits until it has said which. */
static void start_server(struct server *s, char *command) {
    char *words[20], *copy = strdup(command);
    size_t count = 0;
    int log[2];

    s->command = command;
    s->one_by_one = strstr(command, "01-blocking/server") != NULL;
    for (char *word = strtok(copy, " "); word != NULL && count < 18; word = strtok(NULL, " "))
        words[count++] = word;
    words[count] = "0"; /* any free port */
    words[count + 1] = NULL;
    if (pipe2(log, O_CLOEXEC) == -1 || (s->pid = fork()) == -1)
        die("cannot start a server");
    if (s->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(log[1], STDERR_FILENO);
        execvp(words[0], words);
        perror(words[0]);
        _exit(127);
    }
    free(copy);
    close(log[1]);
    s->log = log[0];
    while (s->lines == 0)
        read_log(s);
    s->port = atoi(strrchr(s->kept[0], ' '));
    if (fcntl(s->log, F_SETFL, O_NONBLOCK) == -1)
        die("fcntl");
    /* It has opened all its own descriptors when it has answered a client. */
    int fd = connect_to(s, 0);
    char byte = 'x';
    if (send(fd, &byte, 1, 0) != 1 || recv(fd, &byte, 1, 0) != 1)
        fail(s, "it does not answer the first client");
    s->descriptors = descriptors_of(s) - 1;
    s->memory = memory_of(s) + (strstr(command, "/uring") != NULL ? POOL : 0);
    close(fd);
    for (size_t i = 0; i < CLIENTS; i++)
        s->clients[i].fd = -1;
}

/* ---- Clients ------------------------------------------------------------------------------ */

/* The byte at a place of a client's stream. All values occur, also those that move a cursor. */
static unsigned char pattern(const struct client *c, size_t place) {
    return (unsigned char)(c->number * 151 + place * 31 + (place >> 8) * 7);
}

static void begin_client(struct server *s, struct client *c) {
    uint64_t state = seed * 1000003 + (uint64_t)(s - servers) * 7919 + s->begun * 104729;

    *c = (struct client){.number = s->begun++, .progress = seconds()};
    c->kind = (enum kind)draw(&state, KINDS);
    c->total = draw(&state, (size_t)1 << draw(&state, MOST_BITS + 1)) + 1;
    c->piece = 1 + draw(&state, draw(&state, 2) ? CHUNK : 2000);
    c->pause_at = draw(&state, c->total + 1);
    c->pause = draw(&state, 2) ? (double)draw(&state, PAUSE_MAX) / 1000 : 0;
    if (c->kind == DEAF)
        c->total = (size_t)1 << 26;
    if (c->kind == SILENT)
        c->total = c->pause_at = 0;
    c->fd = connect_to(s, SOCK_NONBLOCK);
}

static void end_client(struct client *c, bool reset) {
    const struct linger linger = {.l_onoff = 1, .l_linger = 0};

    if (reset)
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(c->fd);
    c->fd = -1;
}

static bool pauses(const struct client *c) {
    return seconds() < c->resumes;
}

static short events_of(const struct client *c) {
    bool sends = c->sent < c->total || c->resumes == 0; /* writable means connected, too */

    return (short)((c->kind != DEAF ? POLLIN : 0) | (sends ? POLLOUT : 0));
}

static void send_some(struct server *s, struct client *c) {
    unsigned char buffer[CHUNK];
    size_t length = c->total - c->sent;

    if (c->resumes == 0 && c->sent < c->pause_at)
        length = c->pause_at - c->sent;
    if (length > c->piece)
        length = c->piece;
    for (size_t i = 0; i < length; i++)
        buffer[i] = pattern(c, c->sent + i);
    ssize_t sent = send(c->fd, buffer, length, MSG_NOSIGNAL);
    if (sent == -1 && errno != EAGAIN)
        fail(s, "client %lu: send: %s, after %zu bytes", c->number, strerror(errno), c->sent);
    if (sent > 0) {
        c->sent += (size_t)sent;
        c->progress = seconds();
    }
}

/* How long a client has waited for a byte, in seconds. Where clients are served one by one, it waits as
 * long as others are served, and rightly so. */
static double waited(const struct server *s, const struct client *c) {
    double since = c->progress;

    if (s->one_by_one && s->progress > since)
        since = s->progress;
    return seconds() - since;
}

/* Returns false when the client is done. */
static bool receive_some(struct server *s, struct client *c) {
    unsigned char buffer[CHUNK];
    ssize_t received = recv(c->fd, buffer, sizeof buffer, 0);

    if (received == -1 && errno == EAGAIN)
        return true;
    if (received == -1)
        fail(s, "client %lu: recv: %s, after %zu of %zu bytes", c->number, strerror(errno),
             c->received, c->sent);
    if (received == 0 && (c->received < c->total || !c->half_closed))
        fail(s, "client %lu: end of file after %zu of %zu bytes", c->number, c->received, c->total);
    if ((size_t)received > c->sent - c->received)
        fail(s, "client %lu: more came back than its %zu bytes", c->number, c->sent);
    for (size_t i = 0; i < (size_t)received; i++)
        if (buffer[i] != pattern(c, c->received + i))
            fail(s, "client %lu: byte %zu of its echo is 0x%02x, not 0x%02x", c->number,
                 c->received + i, buffer[i], pattern(c, c->received + i));
    c->received += (size_t)received;
    s->echoed += (unsigned long long)received;
    c->progress = s->progress = seconds();
    return received > 0;
}

static void serve_client(struct server *s, struct client *c, short ready) {
    if (pauses(c))
        return;
    if (c->resumes != 0 && c->kind >= RESETS) { /* its pause is over */
        end_client(c, c->kind == RESETS || c->kind == URGENT);
        return;
    }
    if (ready & (POLLIN | POLLHUP | POLLERR) && c->kind != DEAF && !receive_some(s, c)) {
        end_client(c, false);
        return;
    }
    if (ready & POLLOUT && c->sent < c->total)
        send_some(s, c);
    bool blocked = c->kind == DEAF && seconds() > c->progress + 0.05;
    if (c->resumes == 0 && ((ready & POLLOUT && c->sent >= c->pause_at) || blocked)) {
        if (c->kind == URGENT)
            send(c->fd, "!", 1, MSG_OOB | MSG_NOSIGNAL);
        c->resumes = seconds() + c->pause;
    }
    bool may_close = c->kind == PATIENT_TO_THE_END ? c->received == c->total : c->sent == c->total;
    if (c->kind <= SILENT && c->resumes != 0 && !pauses(c) && may_close && !c->half_closed) {
        shutdown(c->fd, SHUT_WR);
        c->half_closed = true;
    }
    if (waited(s, c) > PATIENCE * slow)
        fail(s, "client %lu: nothing came for %g s, after %zu of %zu bytes", c->number,
             PATIENCE * slow, c->received, c->total);
}

/* ---- The loop ----------------------------------------------------------------------------- */

/* One turn: begins clients, if there are to be new ones, waits, and serves. Returns how many clients there are. */
static int turn(bool coming) {
    static struct pollfd entries[SERVERS_MAX][CLIENTS + 1];
    int left = 0;

    for (int i = 0; i < server_count; i++) {
        for (int k = 0; k < CLIENTS; k++) {
            struct client *c = &servers[i].clients[k];
            if (c->fd == -1 && coming)
                begin_client(&servers[i], c);
            entries[i][k].fd = pauses(c) ? -1 : c->fd; /* poll() ignores -1 */
            entries[i][k].events = events_of(c);
            left += c->fd != -1;
        }
        entries[i][CLIENTS] = (struct pollfd){.fd = servers[i].log, .events = POLLIN};
    }
    if (poll(entries[0], (nfds_t)server_count * (CLIENTS + 1), 10) == -1 && errno != EINTR)
        die("poll");
    for (int i = 0; i < server_count; i++) {
        for (int k = 0; k < CLIENTS; k++)
            if (servers[i].clients[k].fd != -1)
                serve_client(&servers[i], &servers[i].clients[k], entries[i][k].revents);
        if (entries[i][CLIENTS].revents != 0)
            read_log(&servers[i]);
    }
    return left;
}

/* All clients have left: a server must soon have closed their sockets. */
static void check_descriptors(struct server *s) {
    double deadline = seconds() + 5 * slow;

    while (descriptors_of(s) != s->descriptors) {
        if (seconds() > deadline)
            fail(s,
                 "it has %d descriptors after all clients have left, and had %d before the first "
                 "one",
                 descriptors_of(s), s->descriptors);
        turn(false);
    }
}

static void play_rounds(double length) {
    for (int round = 0; round < ROUNDS; round++) {
        double end = seconds() + length;
        while (seconds() < end)
            turn(true);
        while (turn(false) > 0)
            continue;
        for (struct server *s = servers; s < servers + server_count; s++)
            check_descriptors(s);
        for (struct server *s = servers; s < servers + server_count; s++) {
            long memory = memory_of(s);
            if (round == 0 && memory > s->memory)
                s->memory = memory;
            if (memory > s->memory + GROWTH_MAX)
                fail(s, "its memory has grown from %ld KiB after the first round to %ld KiB",
                     s->memory, memory);
        }
    }
}

int main(int argc, char *argv[]) {
    double minutes = 5;
    int option;

    seed = (unsigned long)time(NULL);
    const char *stretch = getenv("SLOW");
    slow = stretch != NULL ? strtod(stretch, NULL) : 1;
    while ((option = getopt(argc, argv, "m:s:")) != -1) {
        if (option == 'm')
            minutes = strtod(optarg, NULL);
        else if (option == 's')
            seed = strtoul(optarg, NULL, 10);
    }
    if (optind == argc || argc - optind > SERVERS_MAX || !(minutes > 0) || !(slow > 0)) {
        fprintf(stderr, "usage: soak [-m MINUTES] [-s SEED] SERVER...    (1 to %d servers)\n",
                SERVERS_MAX);
        return 2;
    }
    /* Memory that is free goes back to the system at once, so that growth can be seen (for glibc). */
    setenv("GLIBC_TUNABLES",
           "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0:glibc.malloc.arena_max=1:"
           "glibc.malloc.trim_threshold=4096:glibc.pthread.stack_cache_size=0",
           1);
    printf("soak: SEED=%lu MINUTES=%g\n", seed, minutes);
    fflush(stdout);
    for (; optind < argc; optind++)
        start_server(&servers[server_count++], argv[optind]);
    play_rounds(minutes * 60 / ROUNDS);
    for (struct server *s = servers; s < servers + server_count; s++)
        printf("%-44s %8lu clients %8.1f MB echoed %5d descriptors %6ld KiB (%+ld)\n", s->command,
               s->begun, (double)s->echoed / 1e6, descriptors_of(s), memory_of(s),
               memory_of(s) - s->memory);
}
