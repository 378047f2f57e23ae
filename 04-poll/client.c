/* client: a pipe to the server, with poll(2).
 *
 *     cc client.c -o client
 *     ./client                    in another window: ./server; type lines, and Ctrl-D at the end
 *     ./client <file | cmp - file
 *
 * Watch for: one call waits for standard input, for the socket and for standard output alike. So
 * we hear that the server has left even while we wait for somebody to type; and a file of any size
 * goes through, because we read its echo while we still send it.
 *
 * Left out on purpose: a connect() that does not wait (02), an end to our patience with a server
 * that never answers (06).
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BUFFER_SIZE = 64 * 1024, /* bytes that may be on their way through us, in each direction */
    NAME_SIZE = 80,          /* room for "[address]:port" */
};

/* What came in on one side and has not gone out on the other. */
struct queue {
    char bytes[BUFFER_SIZE];
    size_t length;            /* bytes in the queue, */
    size_t sent;              /* of which so many have gone out */
    unsigned long long total; /* bytes that have gone out since we began */
};

static struct queue to_server; /* from standard input to the socket */
static struct queue to_output; /* from the socket to standard output */

static bool input_ended;   /* nothing more comes in from standard input, */
static bool sending_ended; /* nothing more goes out to the server, */
static bool server_ended;  /* nothing more comes back */
static bool failed;        /* not all went well, and we have said what */
static bool quiet;         /* -q: nothing but errors */

static const char *server_port = "10000";
static const char *server_host = "127.0.0.1";

/* A line about what happens. Not on standard output, which is for the echo alone. */
#define say(...) ((void)(quiet || fprintf(stderr, __VA_ARGS__)))

/* Says what went wrong: a call and its error, or something else (0: no error). It does not end
 * the program. What has come back is still to be written; but the exit status will be 1. */
static void note_failure(const char *what, int error) {
    fprintf(stderr, "client: %s%s%s (%llu bytes sent, %llu came back)\n", what, error ? ": " : "",
            error ? strerror(error) : "", to_server.total, to_output.total);
    failed = true;
}

static void usage(const char *problem) {
    fprintf(stderr,
            "client: %s\n"
            "usage: client [-q] [PORT [HOST]]\n"
            "sends standard input to an echo server, and what comes back to standard output\n"
            "-q: nothing but errors; PORT 10000; HOST 127.0.0.1\n",
            problem);
    exit(2);
}

/* Ends the program: there is no connection, because this call failed. */
static void die(const char *call, int error) {
    const char *advice = "see its manual page";

    if (error == ECONNREFUSED)
        advice = "is the server running there?";
    else if (error == ETIMEDOUT || error == EHOSTUNREACH || error == ENETUNREACH)
        advice = "is HOST right, and is there a way to it?";
    fprintf(stderr, "client: %s %s port %s: %s (%s)\n", call, server_host, server_port,
            strerror(error), advice);
    exit(1);
}

/* Not an error: there is nothing yet, or a signal came first. We ask again next time.
 * (POSIX lets EAGAIN and EWOULDBLOCK differ. On Linux they are one.) */
static bool is_temporary(int error) {
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

/* From now on a call on fd that would have to wait fails with EAGAIN instead: O_NONBLOCK in
 * open(2). Returns -1, with errno set, if that cannot be had. */
static int set_nonblocking(int fd) {
    int flags = fcntl(fd, F_GETFL);

    return flags == -1 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

/* Returns the server's address in the form that connect() takes. */
static struct addrinfo *server_address(void) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *address;

    if (getaddrinfo(server_host, server_port, &hints, &address) != 0)
        usage("HOST is not a numeric address, such as 127.0.0.1 or ::1");
    return address;
}

/* Writes the address as 127.0.0.1:55821 or [::1]:55821. Always in numbers: to ask a name server
 * would keep everybody waiting. */
static void write_name(char *name, const struct sockaddr_storage *address, socklen_t length) {
    char host[64] = "?", port[8] = "?";

    getnameinfo((const struct sockaddr *)address, length, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(name, NAME_SIZE, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

/* A signal ended our wait in connect(), but the connecting goes on, and to call connect() again
 * would be an error. When it is done the socket becomes writable; also when it has failed, so we
 * must ask SO_ERROR: EINPROGRESS in connect(2). */
static void finish_connect(int server) {
    struct pollfd one = {.fd = server, .events = POLLOUT};
    int error = 0;
    socklen_t length = sizeof error;

    while (poll(&one, 1, -1) == -1 && is_temporary(errno))
        continue;
    getsockopt(server, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0)
        die("connect", error);
}

/* Returns the descriptor of a socket that is connected to the server. */
static int open_connection(const struct addrinfo *address) {
    struct sockaddr_storage own;
    socklen_t length = sizeof own;
    char name[NAME_SIZE];
    int server = socket(address->ai_family, address->ai_socktype, address->ai_protocol);

    if (server == -1)
        die("socket", errno);
    /* This call alone may wait: there is nothing else to do yet. 02 shows the other way. */
    if (connect(server, address->ai_addr, address->ai_addrlen) == -1) {
        if (errno != EINTR)
            die("connect", errno);
        finish_connect(server);
    }
    if (set_nonblocking(server) == -1)
        die("fcntl", errno);
    getsockname(server, (struct sockaddr *)&own, &length);
    write_name(name, &own, length);
    say("connected as %s\n", name);
    return server;
}

/* What a queue waits for, as in the servers: more, only when it is empty. So if nobody takes what
 * we write, we soon stop reading the echo, then the server stops reading what we send, and then we
 * stop reading our input: nobody has to store more and more. */
static bool wants_read(const struct queue *queue) {
    return queue->length == 0;
}

static bool wants_write(const struct queue *queue) {
    return queue->length > 0;
}

static void fill(struct queue *queue, ssize_t received) {
    queue->length = (size_t)received;
    queue->sent = 0;
}

static void take(struct queue *queue, ssize_t sent) {
    queue->total += (size_t)sent;
    queue->sent += (size_t)sent;
    if (queue->sent == queue->length)
        queue->length = 0;
}

/* Fills the queue to the server, which is empty. */
static void read_input(void) {
    ssize_t received = read(STDIN_FILENO, to_server.bytes, sizeof to_server.bytes);

    if (received > 0) {
        fill(&to_server, received);
        return;
    }
    if (received == -1 && is_temporary(errno))
        return;
    input_ended = true;
    if (received == -1 && errno != EIO) /* EIO: a terminal, and nobody is there any more */
        note_failure("read", errno);
    else
        say("end of input after %llu bytes\n", to_server.total);
}

/* Sends as much of the queue to the server as the kernel takes, which may be less than all. */
static void send_to(int server) {
    const char *rest = to_server.bytes + to_server.sent;

    /* If the server is gone we want an error, EPIPE, not the signal SIGPIPE, which would end us
     * without a word. */
    ssize_t sent = send(server, rest, to_server.length - to_server.sent, MSG_NOSIGNAL);

    if (sent >= 0) {
        take(&to_server, sent);
    } else if (!is_temporary(errno)) {
        note_failure("send", errno);
        to_server.length = 0;
        input_ended = true; /* but what the server sent before it left can still be read */
    }
}

/* Tells the server that nothing more will come from us; it can still answer: shutdown(2). If this
 * fails the connection has broken, and recv() will say how. */
static void half_close(int server) {
    shutdown(server, SHUT_WR);
    sending_ended = true;
}

/* Fills the queue to the output, which is empty. */
static void receive_from(int server) {
    ssize_t received = recv(server, to_output.bytes, sizeof to_output.bytes, 0);

    if (received > 0) {
        fill(&to_output, received);
        return;
    }
    if (received == -1 && is_temporary(errno))
        return;
    server_ended = true;
    if (received == -1)
        note_failure("recv", errno);
    else if (!failed && (!sending_ended || to_output.total < to_server.total))
        note_failure("the server closed the connection early", 0);
    else if (!failed && to_output.total > to_server.total)
        note_failure("the server sent more than its echo", 0);
    else
        say("closing socket after %llu bytes came back\n", to_output.total);
}

/* Writes a piece of the queue to the output, which poll() has found writable.
 *
 * If that is a pipe with a slow reader, a long write() would wait for it, and we could not hear the
 * server. O_NONBLOCK is no way out: it would hold for all who have the same file open, the shell
 * and its other programs, and their output would fail with EAGAIN. But Linux calls a pipe writable
 * only when it has room for PIPE_BUF bytes; so a write() of no more than that returns at once.
 *
 * If the reader has left, SIGPIPE ends us without a word. Here that is right: nobody wants the
 * rest, and this is what every program in a pipeline does. */
static void write_output(void) {
    size_t length = to_output.length - to_output.sent;
    ssize_t written = write(STDOUT_FILENO, to_output.bytes + to_output.sent,
                            length < PIPE_BUF ? length : PIPE_BUF);

    if (written >= 0) {
        take(&to_output, written);
    } else if (!is_temporary(errno)) {
        note_failure("write", errno);
        exit(1);
    }
}

/* Has poll() watch fd for reading, for writing, for both, or not at all. To ask for no event would
 * not be enough: POLLHUP and POLLERR are reported unasked, and if we have no use for them now,
 * again and again. An entry with -1 is passed over. */
static void watch(struct pollfd *entry, int fd, bool reading, bool writing) {
    entry->fd = reading || writing ? fd : -1;
    entry->events = (short)((reading ? POLLIN : 0) | (writing ? POLLOUT : 0));
}

/* Carries bytes both ways, until nothing more comes back. */
static void converse(int server) {
    struct pollfd watched[3], *input = &watched[0], *connection = &watched[1],
                              *output = &watched[2];

    while (!server_ended) {
        watch(input, STDIN_FILENO, !input_ended && wants_read(&to_server), false);
        watch(connection, server, wants_read(&to_output), wants_write(&to_server));
        watch(output, STDOUT_FILENO, false, wants_write(&to_output));
        if (poll(watched, 3, -1) == -1) {
            /* Nothing has been reported. That a signal came is no error. */
            if (errno != EINTR)
                die("poll", errno);
            continue;
        }

        /* A pipe whose writer has left gives POLLIN and POLLHUP as long as bytes are in it, then
         * POLLHUP alone; a file gives POLLIN at its end, too; a reset socket POLLERR. So whatever
         * is reported, we make the call that we wanted to make. Only it tells data, end and error
         * apart, and it gives all the data before the end. */
        if (input->revents != 0)
            read_input();
        if (output->revents != 0)
            write_output();
        if (connection->events & POLLIN && connection->revents & (POLLIN | POLLHUP | POLLERR))
            receive_from(server);
        if (connection->events & POLLOUT && connection->revents & (POLLOUT | POLLHUP | POLLERR))
            send_to(server);
        if (input_ended && !wants_write(&to_server) && !sending_ended)
            half_close(server);
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
    if (optind < argc)
        server_port = argv[optind++];
    if (optind < argc)
        server_host = argv[optind++];
    if (optind < argc)
        usage("there are too many arguments");
    if (strspn(server_port, "0123456789") != strlen(server_port) || atol(server_port) < 1 ||
        atol(server_port) > 65535)
        usage("PORT is not a number from 1 to 65535");

    /* A new descriptor is the lowest free one. If one of the first three were closed, our socket
     * would take its place, and we would read our input from the server, or write to it. */
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) == -1) {
            fprintf(stderr, "client: descriptor %d: %s (it must be open)\n", fd, strerror(errno));
            exit(1);
        }

    setvbuf(stderr, NULL, _IOLBF, BUFSIZ); /* a line goes out whole */
    struct addrinfo *address = server_address();
    say("connecting to %s port %s\n", server_host, server_port);
    int server = open_connection(address);
    freeaddrinfo(address);
    converse(server);
    return failed ? 1 : 0;
}
