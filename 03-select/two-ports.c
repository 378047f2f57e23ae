/* two-ports: a server with several listening sockets, in one select(2).
 *
 *     cc two-ports.c -o two-ports
 *     ./two-ports                 in other windows: nc 127.0.0.1 8001, and nc 127.0.0.1 8002
 *     ./two-ports 0 0 0           three ports, whichever are free
 *
 * Watch for: a listening socket is one descriptor among others, and there may be as many as you
 * like. Two sets are kept from turn to turn: who may be read, and who is to be answered. A client
 * is in one of them, never in both; who has spoken moves to the second, and is answered, with
 * hello, when select() says that there is room. select() gets copies, for it overwrites them.
 *
 * Left out on purpose: a struct for each connection, with a queue (server.c). As long as all that
 * we owe is a hello, a place in a set says it.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    BACKLOG = 4096,          /* clients that the kernel may connect for us ahead of accept() */
    BUFFER_SIZE = 64 * 1024, /* bytes that one recv() may bring */
    SHOWN_MAX = 48,          /* bytes of a message that a line of the log shows */
    NAME_SIZE = 80,          /* room for "[address]:port" */
};

static const char HOST[] = "127.0.0.1";
static const char ANSWER[] = "hello\n";

struct connection {
    char name[NAME_SIZE]; /* the client's address and port, for the log; of a listener: its port */
    size_t sent;          /* bytes of the answer that have been sent */
};

static struct connection connections[FD_SETSIZE]; /* by descriptor */

static fd_set listeners; /* the listening sockets */
static fd_set to_read;   /* those, and the clients that may speak */
static fd_set to_answer; /* the clients that have spoken */
static int highest = -1; /* no descriptor above this one is in a set */

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
            "two-ports: %s\n"
            "usage: two-ports [-q] [PORT...]\n"
            "-q: no word about single clients; PORT 8001 and 8002, or 0 for a free one\n",
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
        advice = "ports below 1024 need privileges; try 8001";
    fprintf(stderr, "two-ports: %s %s port %s: %s (%s)\n", call, host, port, strerror(errno),
            advice);
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

/* From now on select() may be asked about fd. */
static void watch(int fd) {
    FD_SET(fd, &to_read);
    if (fd > highest)
        highest = fd;
}

/* Opens a socket that listens on port; without it there is no server, and the program ends. */
static void open_listener(const char *port) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *address;

    if (getaddrinfo(HOST, port, &hints, &address) != 0)
        die("getaddrinfo", HOST, port);
    int listener = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (listener >= FD_SETSIZE)
        errno = EMFILE;
    if (listener == -1 || listener >= FD_SETSIZE)
        die("socket", HOST, port);

    /* The connections of a server that ended a moment ago still hold the port, for a minute.
     * Without this, which must come before bind(), a restart fails until they are gone. */
    int on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);

    if (bind(listener, address->ai_addr, address->ai_addrlen) == -1)
        die("bind", HOST, port);
    if (listen(listener, BACKLOG) == -1)
        die("listen", HOST, port);
    if (set_nonblocking(listener) == -1)
        die("fcntl", HOST, port);

    /* For port 0 the kernel picked one: the socket knows which. */
    char bound_port[8] = "?";
    getsockname(listener, address->ai_addr, &address->ai_addrlen);
    getnameinfo(address->ai_addr, address->ai_addrlen, NULL, 0, bound_port, sizeof bound_port,
                NI_NUMERICSERV);
    fprintf(stderr, "starting up on %s port %s\n", HOST, bound_port);
    freeaddrinfo(address);

    snprintf(connections[listener].name, NAME_SIZE, "port %s", bound_port);
    FD_SET(listener, &listeners);
    watch(listener);
}

/* Writes the address as 127.0.0.1:55821 or [::1]:55821. Always in numbers: to ask a name server
 * would keep everybody waiting. */
static void write_name(char *name, const struct sockaddr_storage *address, socklen_t length) {
    char host[64] = "?", port[8] = "?";

    getnameinfo((const struct sockaddr *)address, length, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(name, NAME_SIZE, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

/* Closes fd, and says why: after which call, with which error (0: none). */
static void close_connection(int fd, const char *why, int error) {
    say("closing %s after %s%s%s\n", connections[fd].name, why, error ? ": " : "",
        error ? strerror(error) : "");
    FD_CLR(fd, &to_read);
    FD_CLR(fd, &to_answer);
    close(fd);
    if (accept_again_at > seconds())
        accept_again_at = seconds(); /* now there is a descriptor to be had */
}

/* There is no descriptor or no memory for one more client: accept(2). It stays in the backlog, and
 * the listener stays ready; so we must look away for a while, or we would try and fail as fast as
 * the machine can. */
static void pause_accepting(void) {
    /* Said once. When a client has left, and others still wait, it is no news. */
    if (seconds() > accept_again_at + 1)
        fprintf(stderr,
                "out of descriptors: accept: %s; "
                "trying again when a client leaves, or in a second\n",
                strerror(errno));
    accept_again_at = seconds() + 1;
}

/* Takes the next client from the listener's backlog, if one is there. */
static void accept_connection(int listener) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    int fd = accept(listener, (struct sockaddr *)&address, &length);

    if (fd == -1) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            pause_accepting();
        else if (!is_temporary(errno))
            say("accept: %s\n", strerror(errno)); /* a client that failed before we met it */
        return;
    }

    char name[NAME_SIZE];
    write_name(name, &address, length);

    /* An fd_set is an array of FD_SETSIZE bits, usually 1024. FD_SET() beyond its end writes into
     * whatever memory lies there: select(2). */
    if (fd >= FD_SETSIZE) {
        say("refusing %s: select cannot watch descriptor %d\n", name, fd);
        close(fd);
        return;
    }
    if (set_nonblocking(fd) == -1) {
        say("refusing %s: fcntl: %s\n", name, strerror(errno));
        close(fd);
        return;
    }

    /* Without this an answer waits until the client has acknowledged the one before, which may
     * take 40 ms: TCP_NODELAY in tcp(7). If this fails, that is all that happens. */
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);

    memcpy(connections[fd].name, name, NAME_SIZE);
    watch(fd);
    say("new connection from %s on %s\n", name, connections[listener].name);
}

/* Takes in what a client says. Whatever it is, the client will be answered. */
static void receive_from(int fd) {
    static char buffer[BUFFER_SIZE];
    ssize_t received = recv(fd, buffer, sizeof buffer, 0);

    if (received == -1) {
        if (!is_temporary(errno))
            close_connection(fd, "recv", errno);
        return;
    }
    if (received == 0) {
        close_connection(fd, "reading no data", 0);
        return;
    }
    say_data("received", buffer, (size_t)received, "from", &connections[fd]);
    connections[fd].sent = 0;
    FD_CLR(fd, &to_read);
    FD_SET(fd, &to_answer);
}

/* Sends the answer, or as much of it as the kernel takes. */
static void send_to(int fd) {
    struct connection *c = &connections[fd];
    const char *rest = ANSWER + c->sent;

    /* If the client is gone we want an error, EPIPE, not the signal SIGPIPE, which would end us
     * without a word. */
    ssize_t sent = send(fd, rest, strlen(rest), MSG_NOSIGNAL);

    if (sent == -1) {
        if (!is_temporary(errno))
            close_connection(fd, "send", errno);
        return;
    }
    say_data("sending", rest, (size_t)sent, "to", c);
    c->sent += (size_t)sent;
    if (c->sent == strlen(ANSWER)) {
        FD_CLR(fd, &to_answer);
        FD_SET(fd, &to_read);
    }
}

/* Says who is in a set that select() has given back. */
static void say_ready(const char *what, const fd_set *ready) {
    const char *separator = ": ";

    say("%s", what);
    for (int fd = 0; fd <= highest; fd++) {
        if (FD_ISSET(fd, ready)) {
            say("%s%s", separator, connections[fd].name);
            separator = ", ";
        }
    }
    say("%s\n", *separator == ':' ? ": none" : "");
}

static void serve(void) {
    for (;;) {
        /* select() overwrites what it is given with its answer: so it gets copies. The same goes
         * for the second, in which Linux leaves what remains of it. */
        fd_set readable = to_read, writable = to_answer;
        struct timeval second = {.tv_sec = 1};

        if (seconds() < accept_again_at)
            for (int fd = 0; fd <= highest; fd++)
                if (FD_ISSET(fd, &listeners))
                    FD_CLR(fd, &readable);

        if (select(highest + 1, &readable, &writable, NULL, &second) == -1) {
            /* Nothing has been reported. That a signal came is no error. */
            if (errno != EINTR)
                fprintf(stderr, "select: %s\n", strerror(errno));
            continue;
        }

        say_ready("ready to be read", &readable);
        say_ready("ready to be answered", &writable);
        for (int fd = 0; fd <= highest; fd++) {
            if (FD_ISSET(fd, &writable))
                send_to(fd);
            else if (FD_ISSET(fd, &readable) && FD_ISSET(fd, &listeners))
                accept_connection(fd);
            else if (FD_ISSET(fd, &readable))
                receive_from(fd);
        }
    }
}

int main(int argc, char *argv[]) {
    static char *usual_ports[] = {"8001", "8002"};
    char **ports = usual_ports;
    int count = 2, option;

    opterr = 0;
    while ((option = getopt(argc, argv, "q")) != -1) {
        if (option != 'q')
            usage("there is no such option");
        quiet = true;
    }
    if (optind < argc) {
        ports = argv + optind;
        count = argc - optind;
    }
    for (int i = 0; i < count; i++)
        if (strspn(ports[i], "0123456789") != strlen(ports[i]) || *ports[i] == '\0' ||
            atol(ports[i]) > 65535)
            usage("PORT is not a number from 0 to 65535");

    setvbuf(stderr, NULL, _IOLBF, BUFSIZ); /* a line of the log goes out whole */
    for (int i = 0; i < count; i++)
        open_listener(ports[i]);
    fprintf(stderr, "listening sockets: %d\n", count);
    serve();
}
