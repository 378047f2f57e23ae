/* revents: a table of what poll(2), select(2) and epoll_wait(2) report about a descriptor, for
 * everything that can happen to it. The manual pages leave some of this open. The kernel does not.
 *
 *     cc revents.c -o revents
 *     ./revents                   prints the table; with --markdown, as revents.md has it
 *
 * New compared with server.c: there is no server and no loop. The program holds both ends of each
 * connection. It makes one end do something, and then asks all three calls about the other end,
 * for every event that they know, without waiting. Start reading at main(), then the table called
 * situations[], and a few of the functions that it names.
 *
 * Watch for: HUP and ERR are reported though we do not ask for them. RDHUP ("the peer has sent its
 * FIN") and HUP ("both directions are closed") are two different things. And select() can only say
 * "read" for many of these situations: recv() must then find out which one it is.
 *
 * Left out on purpose: what recv() and send() return in each situation (server.c handles that), and
 * systems other than Linux, which report other events.
 */
#define _GNU_SOURCE /* for POLLRDHUP, which only Linux has, as epoll */

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
    WAIT_MAX = 2000,  /* the most milliseconds that we wait for an event to reach the other end */
    ANSWER_SIZE = 80, /* enough for the names of all events, or for an error */
};

/* The events, in the order in which the table shows them. poll() and epoll have a bit for each. */
static const struct {
    const char *name;
    short poll;
    uint32_t epoll;
} events[] = {
    {"IN", POLLIN, EPOLLIN},          /* select: the first set */
    {"PRI", POLLPRI, EPOLLPRI},       /* select: the third set */
    {"OUT", POLLOUT, EPOLLOUT},       /* select: the second set */
    {"ERR", POLLERR, EPOLLERR},       /* this one and the next are reported though we do not ask */
    {"HUP", POLLHUP, EPOLLHUP},       /* both directions are closed */
    {"RDHUP", POLLRDHUP, EPOLLRDHUP}, /* the peer will send nothing more */
    {"NVAL", POLLNVAL, 0},            /* there is no such descriptor (epoll_ctl() fails) */
};

enum { ALL = POLLIN | POLLPRI | POLLOUT | POLLRDHUP }; /* all events that you can ask for */

/* A row of the table. First we call make(), which creates the situation and returns a descriptor.
 * What the other end has done may take a moment to arrive, so we wait for the event until. Then we
 * ask the three calls for the events in interest, and print what they report. */
struct situation {
    const char *name;
    int (*make)(void);
    short until;    /* the event that shows that the situation is there, or 0 if it is at once */
    short interest; /* the events that we ask for */
};

static int epoll;     /* one epoll instance, for all descriptors, one after the other */
static bool markdown; /* --markdown */

/* ---- Reporting ---------------------------------------------------------------------------- */

static void usage(const char *problem) {
    fprintf(stderr,
            "revents: %s\n"
            "usage: revents [--markdown]\n"
            "--markdown: print the table in the format of a README\n",
            problem);
    exit(2);
}

/* Returns the result of a call. If it is -1, the call has failed: says so, and ends the program. */
static int check(const char *call, int result) {
    if (result != -1)
        return result;
    fprintf(stderr, "revents: %s: %s (see its manual page)\n", call, strerror(errno));
    exit(1);
}

/* ---- Helpers ------------------------------------------------------------------------------ */

/* Returns a socket that is bound to a free port on 127.0.0.1, and stores that in address. */
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

/* Returns a socket that has begun to connect to address. */
static int begin_to_connect(const struct sockaddr_in *address) {
    int fd = check("socket", socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));

    int result = connect(fd, (const struct sockaddr *)address, sizeof *address);

    if (result == -1 && errno != EINPROGRESS) /* EINPROGRESS: the kernel goes on connecting */
        check("connect", result);
    return fd;
}

/* Returns one end of a new connection, and stores the other end in peer. */
static int connected(int *peer) {
    struct sockaddr_in address;
    int listener = listening_socket(&address, 1);

    *peer = begin_to_connect(&address);
    int fd = check("accept", accept(listener, NULL, NULL));
    close(listener);
    return fd;
}

static void write_abc(int fd) {
    check("write", (int)write(fd, "abc", 3));
}

/* Waits until poll() reports this event on fd, or until WAIT_MAX has passed. In that case we go on,
 * because the table then shows that the event is missing. */
static void wait_for(int fd, short event) {
    struct pollfd waiting = {.fd = fd, .events = event};

    check("poll", poll(&waiting, 1, WAIT_MAX));
}

/* ---- Situations --------------------------------------------------------------------------- */

/* Each function returns a descriptor that is in the situation which gives the function its name, or
 * soon will be. We took a shortcut here: the functions leave the other descriptors open until the
 * program ends. To close them would be an event, too. */

static int nothing(void) {
    int peer;

    return connected(&peer);
}

static int data(void) {
    int peer, fd = connected(&peer);

    write_abc(peer);
    return fd;
}

static int end_of_file(void) {
    int peer, fd = connected(&peer);

    close(peer);
    return fd;
}

static int end_of_file_after_data(void) {
    int peer, fd = connected(&peer);

    write_abc(peer);
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

/* Closes peer with a reset (RST) instead of an end of file (FIN). With SO_LINGER and a time of 0,
 * close() does that: socket(7). */
static void reset_by(int peer) {
    const struct linger no_time = {.l_onoff = 1, .l_linger = 0};

    check("setsockopt", setsockopt(peer, SOL_SOCKET, SO_LINGER, &no_time, sizeof no_time));
    close(peer);
}

static int reset(void) {
    int peer, fd = connected(&peer);

    reset_by(peer);
    return fd;
}

static int reset_after_data(void) {
    int peer, fd = connected(&peer);

    write_abc(peer);
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

/* The port is in use, but its socket does not listen. */
static int connect_refused(void) {
    struct sockaddr_in address;

    bound_socket(&address);
    return begin_to_connect(&address);
}

/* A backlog of 0 has room for one connection. When it is full, the kernel does not answer the next
 * connect(). */
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
    write_abc(ends[1]);
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

    if (file == NULL)
        check("tmpfile", -1);
    return fileno(file);
}

static const struct situation situations[] = {
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
    {"listener, no connection waits", listener, 0, ALL},
    {"listener, a connection waits", listener_with_connection, POLLIN, ALL},
    {"pipe, writer left, empty", pipe_writer_left, 0, ALL},
    {"pipe, writer left, data unread", pipe_writer_left_data, 0, ALL},
    {"pipe, reader left", pipe_reader_left, 0, ALL},
    {"closed descriptor", closed, 0, ALL},
    {"regular file", regular_file, 0, ALL},
};

/* ---- Questions ---------------------------------------------------------------------------- */

/* Adds a word to answer, which has ANSWER_SIZE bytes. */
static void add(char *answer, const char *word) {
    size_t length = strlen(answer);

    snprintf(answer + length, ANSWER_SIZE - length, "%s%s", length > 0 ? " " : "", word);
}

static void add_error(char *answer) {
    if (errno == EBADF)
        add(answer, "EBADF");
    else if (errno == EPERM)
        add(answer, "EPERM");
    else
        add(answer, strerror(errno));
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
    struct timeval no_time = {0};
    fd_set readable, writable, exceptional;

    if (fd >= FD_SETSIZE) { /* the program that started us left too many files open */
        errno = EMFILE;
        check("select", -1);
    }
    FD_ZERO(&readable);
    FD_ZERO(&writable);
    FD_ZERO(&exceptional);
    if (interest & POLLIN)
        FD_SET(fd, &readable);
    if (interest & POLLOUT)
        FD_SET(fd, &writable);
    if (interest & POLLPRI)
        FD_SET(fd, &exceptional);
    if (select(fd + 1, &readable, &writable, &exceptional, &no_time) == -1) {
        add_error(answer); /* the sets still hold our question, and not an answer */
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

/* ---- The table ---------------------------------------------------------------------------- */

static void print_row(const char *name, const char *by_poll, const char *by_select,
                      const char *by_epoll) {
    if (markdown)
        printf("| %-31s | %-20s | %-12s | %-20s |\n", name, by_poll, by_select, by_epoll);
    else
        printf("%-32s %-21s %-13s %s\n", name, by_poll, by_select, by_epoll);
}

/* Returns answer, or "-" if none of the events was reported. */
static const char *or_dash(const char *answer) {
    return answer[0] == '\0' ? "-" : answer;
}

static void try_situation(const struct situation *situation) {
    char by_poll[ANSWER_SIZE] = "", by_select[ANSWER_SIZE] = "", by_epoll[ANSWER_SIZE] = "";
    int fd = situation->make();

    if (situation->until != 0)
        wait_for(fd, situation->until);
    ask_poll(fd, situation->interest, by_poll);
    ask_select(fd, situation->interest, by_select);
    ask_epoll(fd, situation->interest, by_epoll);
    print_row(situation->name, or_dash(by_poll), or_dash(by_select), or_dash(by_epoll));
}

int main(int argc, char *argv[]) {
    if (argc == 2 && strcmp(argv[1], "--markdown") == 0)
        markdown = true;
    else if (argc > 1)
        usage("unknown option or argument");

    epoll = check("epoll_create1", epoll_create1(0));
    print_row("situation", "poll", "select", "epoll");
    if (markdown)
        print_row("---", "---", "---", "---");
    for (size_t i = 0; i < sizeof situations / sizeof *situations; i++)
        try_situation(&situations[i]);
}
