/* edge: the server beside this file, told of each change once, by edge-triggered epoll(7).
 *
 *     cc edge.c -o edge
 *     ./edge                      in another window: ./client, or nc 127.0.0.1 10000
 *
 * Watch for: in server.c the kernel says again and again that there is something to read, for as
 * long as that is so. Here it says so when something arrives, and never again. So we keep for
 * ourselves what it has said (ready), until a call fails with EAGAIN and so takes it back; and
 * whoever is ready for what it waits for stands on a list until then. No epoll_ctl() after the
 * first, and no event can be lost: what cannot be used now is used when its time comes.
 *
 * Left out on purpose: to take a short recv() for the last, which would save a call. It is not the
 * last if an end of file or an urgent byte came behind it: of those, too, we are told but once.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    BACKLOG = 4096,          /* clients that the kernel may connect for us ahead of accept() */
    BUFFER_SIZE = 64 * 1024, /* bytes that one recv() may bring: the most we owe one client */
    SHOWN_MAX = 48,          /* bytes of a message that a line of the log shows */
    NAME_SIZE = 80,          /* room for "[address]:port" */
    EVENTS_MAX = 64,         /* events that one epoll_wait() may bring; the rest come next time */
};

struct connection {
    int fd;
    char name[NAME_SIZE]; /* the client's address and port, for the log */
    char *queue;          /* what it sent and has not got back, or NULL if we owe it nothing */
    size_t queue_length;  /* bytes in the queue, */
    size_t queue_sent;    /* of which so many have been sent */
    uint32_t interest;    /* the events that it waits for */
    uint32_t ready;       /* the events that were reported, and that no EAGAIN has taken back */

    bool listed; /* is it on the list of those who have a turn to come? */
    struct connection *next;
};

static int epoll; /* the descriptor of the kernel's list */

static struct connection *list; /* of our own: those who are ready for what they wait for */
static bool clients_wait;       /* the listener was ready, and no EAGAIN has taken that back */

static double accept_again_at; /* out of descriptors: when to try again, in seconds() */
static bool quiet;             /* -q: not a word about single clients */

/* A line about a client. With -q its arguments are not even evaluated. */
#define say(...) ((void)(quiet || fprintf(stderr, __VA_ARGS__)))

/* Says what happened to data, and shows its first bytes. They are escaped, so that no client can
 * forge a line of our log, or drive the terminal that shows it. */
static void say_data(const char *event, const char *data, size_t length, const char *preposition,
                     const struct connection *c) {
    if (quiet)
        return;
    fprintf(stderr, "%s \"", event);
    for (size_t i = 0; i < length && i < SHOWN_MAX; i++) {
        unsigned char byte = (unsigned char)data[i];
        if (byte == '\n')
            fprintf(stderr, "\\n");
        else if (byte == '"' || byte == '\\')
            fprintf(stderr, "\\%c", byte);
        else
            fprintf(stderr, byte < ' ' || byte > '~' ? "\\x%02x" : "%c", byte);
    }
    fprintf(stderr, "%s\" %s %s\n", length > SHOWN_MAX ? "..." : "", preposition, c->name);
}

static void usage(const char *problem) {
    fprintf(stderr,
            "server: %s\n"
            "usage: server [-q] [PORT [HOST]]\n"
            "-q: no word about single clients; PORT 10000, or 0 for a free one; HOST 127.0.0.1\n",
            problem);
    exit(2);
}

/* Ends the program: for start-up only. A client's error never comes here. */
static void die(const char *call, const char *host, const char *port) {
    const char *advice = "see its manual page";

    if (errno == EADDRINUSE)
        advice = "another program has this port; try another, or 0";
    else if (errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT)
        advice = "this machine does not have that address; try 127.0.0.1";
    else if (errno == EACCES)
        advice = "ports below 1024 need privileges; try 10000";
    fprintf(stderr, "server: %s %s port %s: %s (%s)\n", call, host, port, strerror(errno), advice);
    exit(1);
}

/* Not an error: there is nothing yet, or a signal came first. We ask again next time.
 * (POSIX lets EAGAIN and EWOULDBLOCK differ. On Linux they are one.) */
static bool is_temporary(int error) {
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

/* Seconds on a clock that nobody can set: see CLOCK_MONOTONIC in clock_gettime(2). */
static double seconds(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* From now on a call on fd that would have to wait fails with EAGAIN instead: O_NONBLOCK in
 * open(2). Returns -1, with errno set, if that cannot be had. */
static int set_nonblocking(int fd) {
    int flags = fcntl(fd, F_GETFL);

    return flags == -1 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

/* Returns the descriptor of a socket that listens on port of host; without one there is no server,
 * and the program ends. */
static int open_listener(const char *port, const char *host) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *address;

    if (getaddrinfo(host, port, &hints, &address) != 0)
        usage("HOST is not a numeric address, such as 127.0.0.1 or ::1");
    int listener = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (listener == -1)
        die("socket", host, port);

    /* The connections of a server that ended a moment ago still hold the port, for a minute.
     * Without this, which must come before bind(), a restart fails until they are gone. */
    int on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);

    if (bind(listener, address->ai_addr, address->ai_addrlen) == -1)
        die("bind", host, port);
    if (listen(listener, BACKLOG) == -1)
        die("listen", host, port);
    if (set_nonblocking(listener) == -1)
        die("fcntl", host, port);

    /* For port 0 the kernel picked one: the socket knows which. */
    char bound_port[8] = "?";
    getsockname(listener, address->ai_addr, &address->ai_addrlen);
    getnameinfo(address->ai_addr, address->ai_addrlen, NULL, 0, bound_port, sizeof bound_port,
                NI_NUMERICSERV);
    fprintf(stderr, "starting up on %s port %s\n", host, bound_port);
    freeaddrinfo(address);
    return listener;
}

/* Writes the address as 127.0.0.1:55821 or [::1]:55821. Always in numbers: to ask a name server
 * would keep everybody waiting. */
static void write_name(char *name, const struct sockaddr_storage *address, socklen_t length) {
    char host[64] = "?", port[8] = "?";

    getnameinfo((const struct sockaddr *)address, length, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(name, NAME_SIZE, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

/* What a connection waits for. We do not read from a client while we owe it something. So one that
 * does not take its echo cannot make us store more and more: its own sends come to a halt. */
static bool wants_read(const struct connection *c) {
    return c->queue == NULL;
}

static bool wants_write(const struct connection *c) {
    return c->queue != NULL;
}

/* Puts c on the list if it is ready for what it waits for. At the front, which is simplest: all on
 * the list have a turn before one of them has the next. */
static void enlist(struct connection *c) {
    if (c->listed || (c->ready & c->interest) == 0)
        return;
    c->listed = true;
    c->next = list;
    list = c;
}

/* Notes what c waits for now. It may be ready for that already: input that came while we owed it
 * something was reported then, and will not be again. */
static void watch(struct connection *c) {
    c->interest = EPOLLPRI | EPOLLERR | EPOLLHUP;
    if (wants_read(c))
        c->interest |= EPOLLIN;
    if (wants_write(c))
        c->interest |= EPOLLOUT;
    enlist(c);
}

/* Asks the kernel once and for all for whatever happens on fd: with EPOLLET it reports each change
 * once, so writability may be asked for, too. The listener's c is NULL: so the loop knows it. */
static int watch_edges(int fd, struct connection *c) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLET, .data.ptr = c};

    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

/* Closes and frees c, and says why: after which call, with which error (0: none). */
static void close_connection(struct connection *c, const char *why, int error) {
    say("closing %s after %s%s%s\n", c->name, why, error ? ": " : "", error ? strerror(error) : "");
    close(c->fd); /* and so the kernel forgets it */
    free(c->queue);
    free(c);
    if (accept_again_at > seconds())
        accept_again_at = seconds(); /* now there is a descriptor to be had */
}

/* There is no descriptor or no memory for one more client: accept(2). It stays in the backlog, and
 * nothing will remind us of it; so we must try again by ourselves, but not as fast as the machine
 * can. */
static void pause_accepting(void) {
    /* Said once. When a client has left, and others still wait, it is no news. */
    if (seconds() > accept_again_at + 1)
        fprintf(stderr,
                "out of descriptors: accept: %s; "
                "trying again when a client leaves, or in a second\n",
                strerror(errno));
    accept_again_at = seconds() + 1;
}

/* Takes the next client from the listener's backlog, if one is there. That none is, only EAGAIN
 * says; after any other error there may be more. */
static void accept_connection(int listener) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    int fd = accept(listener, (struct sockaddr *)&address, &length);

    if (fd == -1) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            pause_accepting();
        else if (is_temporary(errno))
            clients_wait = errno == EINTR;
        else
            say("accept: %s\n", strerror(errno)); /* a client that failed before we met it */
        return;
    }

    struct connection *c = calloc(1, sizeof *c);
    if (c == NULL || set_nonblocking(fd) == -1) {
        say("refusing a client: %s\n", strerror(errno));
        close(fd);
        free(c);
        return;
    }
    c->fd = fd;
    write_name(c->name, &address, length);

    /* Without this a small piece of echo waits until the client has acknowledged the one before,
     * which may take 40 ms: TCP_NODELAY in tcp(7). If this fails, that is all that happens. */
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);

    say("new connection from %s\n", c->name);
    watch(c);
    if (watch_edges(fd, c) == -1)
        close_connection(c, "epoll_ctl", errno);
}

/* Reads the urgent byte, and so ends the exceptional condition. It is no part of the stream; a
 * plain recv() would pass over it and throw it away: tcp(7). */
static void receive_urgent(struct connection *c) {
    char byte;

    say("handling exceptional condition for %s\n", c->name);
    c->ready &= ~(uint32_t)EPOLLPRI;
    if (recv(c->fd, &byte, 1, MSG_OOB) == 1)
        say_data("received urgent", &byte, 1, "from", c);
}

/* Sends as much of c's queue as the kernel takes, which may be less than all. May close c. */
static void send_to(struct connection *c) {
    const char *rest = c->queue + c->queue_sent;

    /* If the client is gone we want an error, EPIPE, not the signal SIGPIPE, which would end us
     * without a word. */
    ssize_t sent = send(c->fd, rest, c->queue_length - c->queue_sent, MSG_NOSIGNAL);

    if (sent == -1 && !is_temporary(errno)) {
        close_connection(c, "send", errno);
        return;
    }
    if (sent == -1 && errno != EINTR)
        c->ready &= ~(uint32_t)EPOLLOUT;
    if (sent > 0) {
        say_data("sending", rest, (size_t)sent, "to", c);
        c->queue_sent += (size_t)sent;
    }
    if (c->queue_sent == c->queue_length) {
        free(c->queue);
        c->queue = NULL;
        if (c->interest & EPOLLOUT)
            say("output queue for %s is empty\n", c->name);
    }
    watch(c);
}

/* Fills the queue of c, which is empty, with what the client has sent. May close c. */
static void receive_from(struct connection *c) {
    static char buffer[BUFFER_SIZE]; /* one for all: nothing stays in it between two calls */
    ssize_t received = recv(c->fd, buffer, sizeof buffer, 0);

    if (received == -1) {
        if (!is_temporary(errno)) {
            close_connection(c, "recv", errno);
            return;
        }
        if (errno != EINTR) /* after a signal we know nothing, and must ask again */
            c->ready &= ~(uint32_t)EPOLLIN;
        watch(c);
        return;
    }
    if (received == 0) { /* end of file; and nothing is owed, or we would not have read */
        close_connection(c, "reading no data", 0);
        return;
    }
    say_data("received", buffer, (size_t)received, "from", c);
    c->queue = malloc((size_t)received);
    if (c->queue == NULL) {
        close_connection(c, "malloc", errno);
        return;
    }
    memcpy(c->queue, buffer, (size_t)received);
    c->queue_length = (size_t)received;
    c->queue_sent = 0;
    send_to(c); /* a socket is nearly always writable: most often this is all there is to do */
}

/* Is there a client to be had, and have we not just failed to take it? */
static bool may_accept(void) {
    return clients_wait && seconds() >= accept_again_at;
}

static void serve(int listener) {
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int timeout = clients_wait ? 1000 : -1; /* in milliseconds; -1: none */

        if (list != NULL || may_accept())
            timeout = 0; /* we have work, and only look whether there is more */
        else
            say("waiting for the next event\n");
        int count = epoll_wait(epoll, events, EVENTS_MAX, timeout);
        if (count == -1) {
            /* Nothing has been reported. That a signal came is no error. */
            if (errno != EINTR)
                fprintf(stderr, "epoll_wait: %s\n", strerror(errno));
            continue;
        }

        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;

            if (c == NULL) {
                clients_wait = true;
                continue;
            }
            c->ready |= events[i].events;
            enlist(c);
        }

        if (may_accept())
            accept_connection(listener);

        /* A turn for each on the list. It ends after one recv() and one send(): to go on until
         * EAGAIN would be to serve nobody but the one who sends faster than we read. Whoever has
         * not come to EAGAIN is on the new list. */
        struct connection *rest = list;
        list = NULL;
        while (rest != NULL) {
            struct connection *c = rest;
            uint32_t happened = c->ready & c->interest;

            rest = c->next;
            c->listed = false;
            if (happened & EPOLLPRI)
                receive_urgent(c);
            /* EPOLLIN and EPOLLHUP can come together: what is still unread must be read before
             * the hang-up is believed, or the client's last words are lost. */
            if (happened & EPOLLIN)
                receive_from(c);
            else if (happened & (EPOLLHUP | EPOLLERR))
                close_connection(c, "receiving HUP", 0);
            else if (happened & EPOLLOUT)
                send_to(c);
        }
    }
}

int main(int argc, char *argv[]) {
    int option;

    opterr = 0;
    while ((option = getopt(argc, argv, "q")) != -1) {
        if (option != 'q')
            usage("there is no such option");
        quiet = true;
    }
    const char *port = optind < argc ? argv[optind] : "10000";
    const char *host = optind + 1 < argc ? argv[optind + 1] : "127.0.0.1";
    if (optind + 2 < argc)
        usage("there are too many arguments");
    if (strspn(port, "0123456789") != strlen(port) || *port == '\0' || atol(port) > 65535)
        usage("PORT is not a number from 0 to 65535");

    setvbuf(stderr, NULL, _IOLBF, BUFSIZ); /* a line of the log goes out whole */
    int listener = open_listener(port, host);
    epoll = epoll_create1(0);
    if (epoll == -1)
        die("epoll_create1", host, port);
    if (watch_edges(listener, NULL) == -1)
        die("epoll_ctl", host, port);
    serve(listener);
}
