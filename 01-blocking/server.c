/* server: an echo server for one client at a time, with blocking calls.
 *
 *     cc server.c -o server
 *     ./server                    in another window: ./client, or nc 127.0.0.1 10000
 *
 * Watch for: accept(), recv() and send() each wait until they can do what they were asked for.
 * While one waits, nothing else happens. Start a second client beside the first: the kernel
 * connects it, but it gets no echo until the first has left.
 *
 * Left out on purpose: a second client (02).
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BACKLOG = 4096,          /* clients that the kernel may connect for us ahead of accept() */
    BUFFER_SIZE = 64 * 1024, /* bytes that one recv() may bring: the most we owe one client */
    SHOWN_MAX = 48,          /* bytes of a message that a line of the log shows */
    NAME_SIZE = 80,          /* room for "[address]:port" */
};

struct connection {
    int fd;
    char name[NAME_SIZE]; /* the client's address and port, for the log */
    char *queue;          /* what it sent and has not got back, or NULL if we owe it nothing */
    size_t queue_length;  /* bytes in the queue, */
    size_t queue_sent;    /* of which so many have been sent */
};

static struct connection *connection; /* the one that we serve, or NULL */

static bool out_of_descriptors; /* and we have said so */
static bool quiet;              /* -q: not a word about single clients */

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

/* Not an error: a signal came first. We ask again. */
static bool is_temporary(int error) {
    return error == EINTR;
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

/* Closes and frees c, and says why: after which call, with which error (0: none). */
static void close_connection(struct connection *c, const char *why, int error) {
    say("closing %s after %s%s%s\n", c->name, why, error ? ": " : "", error ? strerror(error) : "");
    close(c->fd);
    free(c->queue);
    free(c);
    connection = NULL;
}

/* There is no descriptor or no memory for one more client: accept(2). It stays in the backlog, and
 * the listener stays ready; so we must look away for a while, or we would try and fail as fast as
 * the machine can. */
static void pause_accepting(void) {
    if (!out_of_descriptors)
        fprintf(stderr,
                "out of descriptors: accept: %s; "
                "trying again when a client leaves, or in a second\n",
                strerror(errno));
    out_of_descriptors = true;
    sleep(1);
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
    out_of_descriptors = false;

    struct connection *c = calloc(1, sizeof *c);
    if (c == NULL) {
        say("refusing a client: %s\n", strerror(errno));
        close(fd);
        return;
    }
    c->fd = fd;
    write_name(c->name, &address, length);

    /* Without this a small piece of echo waits until the client has acknowledged the one before,
     * which may take 40 ms: TCP_NODELAY in tcp(7). If this fails, that is all that happens. */
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);

    connection = c;
    say("new connection from %s\n", c->name);
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
    if (sent > 0) {
        say_data("sending", rest, (size_t)sent, "to", c);
        c->queue_sent += (size_t)sent;
    }
    if (c->queue_sent == c->queue_length) {
        free(c->queue);
        c->queue = NULL;
    }
}

/* Fills the queue of c, which is empty, with what the client has sent. May close c. */
static void receive_from(struct connection *c) {
    static char buffer[BUFFER_SIZE]; /* one for all: nothing stays in it between two calls */
    ssize_t received = recv(c->fd, buffer, sizeof buffer, 0);

    if (received == -1) {
        if (!is_temporary(errno))
            close_connection(c, "recv", errno);
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
}

static void serve(int listener) {
    for (;;) {
        accept_connection(listener);
        while (connection != NULL) {
            if (wants_read(connection))
                receive_from(connection);
            else if (wants_write(connection))
                send_to(connection);
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
    serve(listener);
}
