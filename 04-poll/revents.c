/* revents: what poll(2), select(2) and epoll_wait(2) report of a descriptor, for each thing that
 * can happen to it. The manual pages do not say it all. The kernel does.
 *
 *     cc revents.c -o revents
 *     ./revents                   a table; with --markdown the same for a README
 *
 * Watch for: no situation is described, each is made. Both ends of a connection are in this
 * process: one end does something, and we ask about the other. All three calls are asked about all
 * that they know.
 *
 * Left out on purpose: what recv() and send() have to say then (server.c); and other systems than
 * Linux, which do not agree on what to report.
 */
#define _GNU_SOURCE /* POLLRDHUP, which is Linux's own, as epoll is */

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PATIENCE = 2000,  /* milliseconds until what one end did must have reached the other */
    ANSWER_SIZE = 80, /* room for the names of all events, or for an error */
};

/* The names, in the order in which they are shown. */
static const struct {
    const char *name;
    short poll;
    uint32_t epoll;
} events[] = {
    {"IN", POLLIN, EPOLLIN},          /* select: the first set */
    {"PRI", POLLPRI, EPOLLPRI},       /* select: the third set */
    {"OUT", POLLOUT, EPOLLOUT},       /* select: the second set */
    {"ERR", POLLERR, EPOLLERR},       /* this one and the next are reported unasked */
    {"HUP", POLLHUP, EPOLLHUP},       /* no way in nor out any more */
    {"RDHUP", POLLRDHUP, EPOLLRDHUP}, /* no way in any more */
    {"NVAL", POLLNVAL, 0},            /* no such descriptor; epoll_ctl() fails then */
};

enum { ALL = POLLIN | POLLPRI | POLLOUT | POLLRDHUP }; /* what we ask about */

static int epoll;     /* the one instance that is asked about every descriptor in turn */
static bool markdown; /* --markdown */

static void usage(const char *problem) {
    fprintf(stderr,
            "revents: %s\n"
            "usage: revents [--markdown]\n"
            "--markdown: the table as a README has it\n",
            problem);
    exit(2);
}

/* Returns the result of a call that has no reason to fail here. If it fails, there is no table. */
static int check(const char *call, int result) {
    if (result != -1)
        return result;
    fprintf(stderr, "revents: %s: %s (see its manual page)\n", call, strerror(errno));
    exit(1);
}

/* ---- Two ends of a connection ---- */

/* Returns a socket that is bound to a free port of 127.0.0.1, and sets address to it. */
static int bound_socket(struct sockaddr_in *address) {
    socklen_t length = sizeof *address;
    int fd = check("socket", socket(AF_INET, SOCK_STREAM, 0));

    *address = (struct sockaddr_in){.sin_family = AF_INET};
    address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    check("bind", bind(fd, (struct sockaddr *)address, sizeof *address));
    check("getsockname", getsockname(fd, (struct sockaddr *)address, &length));
    return fd;
}

static int listening_socket(struct sockaddr_in *address, int backlog) {
    int fd = bound_socket(address);

    check("listen", listen(fd, backlog));
    return fd;
}

/* Returns a socket that has begun to connect to the address. */
static int begin_to_connect(const struct sockaddr_in *address) {
    int fd = check("socket", socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));

    if (connect(fd, (const struct sockaddr *)address, sizeof *address) == -1 &&
        errno != EINPROGRESS)
        check("connect", -1);
    return fd;
}

/* Returns one end of a connection, and sets peer to the other. */
static int connected(int *peer) {
    struct sockaddr_in address;
    int listener = listening_socket(&address, 1);

    *peer = begin_to_connect(&address);
    int fd = check("accept", accept(listener, NULL, NULL));
    close(listener);
    return fd;
}

static void say_abc(int fd) {
    check("write", (int)write(fd, "abc", 3));
}

/* Waits until poll() reports this event of fd: what one end does may take a moment to reach the
 * other. If it never is reported, the table will show that. */
static void wait_for(int fd, short event) {
    struct pollfd waiting = {.fd = fd, .events = event};

    check("poll", poll(&waiting, 1, PATIENCE));
}

/* ---- Situations: each function returns a descriptor that is in its own, or soon will be ----
 *
 * What else it has opened stays open until the program ends: to close it would be an event. */

static int nothing(void) {
    int peer;

    return connected(&peer);
}

static int data(void) {
    int peer, fd = connected(&peer);

    say_abc(peer);
    return fd;
}

static int end_of_file(void) {
    int peer, fd = connected(&peer);

    close(peer);
    return fd;
}

static int end_of_file_after_data(void) {
    int peer, fd = connected(&peer);

    say_abc(peer);
    close(peer);
    return fd;
}

static int half_closed(void) {
    int fd = nothing();

    shutdown(fd, SHUT_WR);
    return fd;
}

static int both_halves_closed(void) {
    int fd = end_of_file();

    shutdown(fd, SHUT_WR);
    return fd;
}

/* To linger for no time at all means that close() resets the connection: SO_LINGER in socket(7). */
static void reset_by(int peer) {
    const struct linger none = {.l_onoff = 1, .l_linger = 0};

    check("setsockopt", setsockopt(peer, SOL_SOCKET, SO_LINGER, &none, sizeof none));
    close(peer);
}

static int reset(void) {
    int peer, fd = connected(&peer);

    reset_by(peer);
    return fd;
}

static int reset_after_data(void) {
    int peer, fd = connected(&peer);

    say_abc(peer);
    reset_by(peer);
    return fd;
}

static int urgent_byte(void) {
    int peer, fd = connected(&peer);

    check("send", (int)send(peer, "!", 1, MSG_OOB));
    return fd;
}

static int not_connected(void) {
    return check("socket", socket(AF_INET, SOCK_STREAM, 0));
}

/* The port is taken, and nobody listens. */
static int connect_refused(void) {
    struct sockaddr_in address;

    bound_socket(&address);
    return begin_to_connect(&address);
}

/* A backlog of 0 holds one connection. To whoever comes next the kernel does not answer. */
static int connect_under_way(void) {
    struct sockaddr_in address;
    int listener = listening_socket(&address, 0);

    begin_to_connect(&address);
    wait_for(listener, POLLIN);
    return begin_to_connect(&address);
}

static int connect_done(void) {
    struct sockaddr_in address;

    listening_socket(&address, 1);
    return begin_to_connect(&address);
}

static int listener(void) {
    struct sockaddr_in address;

    return listening_socket(&address, 1);
}

static int listener_with_connection(void) {
    struct sockaddr_in address;
    int fd = listening_socket(&address, 1);

    begin_to_connect(&address);
    return fd;
}

static int pipe_writer_left(void) {
    int ends[2];

    check("pipe", pipe(ends));
    close(ends[1]);
    return ends[0];
}

static int pipe_writer_left_data(void) {
    int ends[2];

    check("pipe", pipe(ends));
    say_abc(ends[1]);
    close(ends[1]);
    return ends[0];
}

static int pipe_reader_left(void) {
    int ends[2];

    check("pipe", pipe(ends));
    close(ends[0]);
    return ends[1];
}

static int closed(void) {
    int fd = nothing();

    close(fd);
    return fd;
}

static int regular_file(void) {
    FILE *file = tmpfile();

    return file == NULL ? check("tmpfile", -1) : fileno(file);
}

static const struct situation {
    const char *name;
    int (*make)(void);
    short until;    /* the event that shows that it is there; 0: it is there at once */
    short interest; /* the events that we ask about */
} situations[] = {
    {"connected, nothing to read", nothing, POLLOUT, ALL},
    {"data to read", data, POLLIN, ALL},
    {"end of file (the peer closed)", end_of_file, POLLRDHUP, ALL},
    {"end of file, data still unread", end_of_file_after_data, POLLRDHUP, ALL},
    {"our own half-close alone", half_closed, 0, ALL},
    {"both halves closed", both_halves_closed, POLLHUP, ALL},
    {"reset", reset, POLLHUP, ALL},
    {"reset, data still unread", reset_after_data, POLLHUP, ALL},
    {"reset, and `events` is 0", reset, POLLHUP, 0},
    {"urgent byte", urgent_byte, POLLPRI, ALL},
    {"socket without a connection", not_connected, 0, ALL},
    {"connect refused", connect_refused, POLLHUP, ALL},
    {"connect under way", connect_under_way, 0, ALL},
    {"connect done", connect_done, POLLOUT, ALL},
    {"listener, nobody waits", listener, 0, ALL},
    {"listener, a connection waits", listener_with_connection, POLLIN, ALL},
    {"pipe, writer left, empty", pipe_writer_left, 0, ALL},
    {"pipe, writer left, data unread", pipe_writer_left_data, 0, ALL},
    {"pipe, reader left", pipe_reader_left, 0, ALL},
    {"closed descriptor", closed, 0, ALL},
    {"regular file", regular_file, 0, ALL},
};

/* ---- Questions: each of the three calls, and no wait ---- */

/* Adds a word to an answer. */
static void add(char *answer, const char *word) {
    size_t length = strlen(answer);

    snprintf(answer + length, ANSWER_SIZE - length, "%s%s", length > 0 ? " " : "", word);
}

static void add_error(char *answer) {
    add(answer, errno == EBADF ? "EBADF" : errno == EPERM ? "EPERM" : strerror(errno));
}

static void ask_poll(int fd, short interest, char *answer) {
    struct pollfd watched = {.fd = fd, .events = interest};

    if (poll(&watched, 1, 0) == -1)
        add_error(answer);
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        if (watched.revents & events[i].poll)
            add(answer, events[i].name);
}

static void ask_select(int fd, short interest, char *answer) {
    static struct timeval at_once;
    fd_set readable, writable, exceptional;

    FD_ZERO(&readable);
    FD_ZERO(&writable);
    FD_ZERO(&exceptional);
    if (interest & POLLIN)
        FD_SET(fd, &readable);
    if (interest & POLLOUT)
        FD_SET(fd, &writable);
    if (interest & POLLPRI)
        FD_SET(fd, &exceptional);
    if (select(fd + 1, &readable, &writable, &exceptional, &at_once) == -1) {
        add_error(answer); /* and the sets are as we made them: they say nothing */
        return;
    }
    if (FD_ISSET(fd, &readable))
        add(answer, "read");
    if (FD_ISSET(fd, &writable))
        add(answer, "write");
    if (FD_ISSET(fd, &exceptional))
        add(answer, "except");
}

static void ask_epoll(int fd, short interest, char *answer) {
    struct epoll_event event = {.events = 0};

    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        if (interest & events[i].poll)
            event.events |= events[i].epoll;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == -1) {
        add_error(answer);
        return;
    }
    event.events = 0;
    if (epoll_wait(epoll, &event, 1, 0) == -1)
        add_error(answer);
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        if (event.events & events[i].epoll)
            add(answer, events[i].name);
    epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
}

static void print_row(const char *situation, const char *by_poll, const char *by_select,
                      const char *by_epoll) {
    static const char plain[] = "%-32s %-21s %-13s %s\n";
    static const char with_bars[] = "| %-31s | %-20s | %-12s | %-20s |\n";

    printf(markdown ? with_bars : plain, situation, by_poll, by_select, by_epoll);
}

int main(int argc, char *argv[]) {
    if (argc == 2 && strcmp(argv[1], "--markdown") == 0)
        markdown = true;
    else if (argc > 1)
        usage("there is one option, and no argument");

    epoll = check("epoll_create1", epoll_create1(0));
    print_row("situation", "poll", "select", "epoll");
    if (markdown)
        print_row("---", "---", "---", "---");
    for (size_t i = 0; i < sizeof situations / sizeof *situations; i++) {
        const struct situation *s = &situations[i];
        char answers[3][ANSWER_SIZE] = {"", "", ""};
        int fd = s->make();

        if (s->until != 0)
            wait_for(fd, s->until);
        ask_poll(fd, s->interest, answers[0]);
        ask_select(fd, s->interest, answers[1]);
        ask_epoll(fd, s->interest, answers[2]);
        for (int j = 0; j < 3; j++)
            if (*answers[j] == '\0')
                add(answers[j], "-");
        print_row(s->name, answers[0], answers[1], answers[2]);
    }
}
