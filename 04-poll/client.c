/* client: copies standard input to an echo server, and the echo to standard output, with poll(2).
 *
 *     cc client.c -o client
 *     ./client                    in another window: ./server; type lines, and Ctrl-D at the end
 *     ./client <file | cmp - file
 *
 * New in stage 04: one poll() waits for standard input, for the socket and for standard output,
 * because poll() takes descriptors of any kind. So the client notices that the server has left
 * while it waits for you to type. Start reading at the struct, then transfer().
 *
 * Watch for: at the end of its input the client half-closes the connection and goes on until the
 * rest of the echo has arrived. And an entry that waits for nothing gets the descriptor -1, because
 * poll() reports POLLHUP and POLLERR though we never ask for them.
 *
 * Left out on purpose: a connect() that does not block (stage 02), and giving up on a server that
 * does not answer (stage 06). The echo is counted but not compared with the input; cmp does that.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BUFFER_SIZE = 64 * 1024, /* the most bytes that a queue holds */
    NAME_SIZE = 80,          /* enough for "[address]:port" */
};

/* The bytes that we have read and not yet passed on. There is one queue for each direction:
 *
 *   to_server   from standard input, with read(), to the server, with send()
 *   to_output   from the server, with recv(), to standard output, with write()
 *
 * A queue is filled by one read() or recv(), and only when it is empty. Then send() or write()
 * takes its bytes, in as many calls as that needs.
 *
 * Assume that standard output is a pipe and its reader is slow. Then to_output is not empty, and we
 * stop reading the echo. Then the server stops reading what we send, so to_server is not empty
 * either, and we stop reading our input. No program has to store more and more. This is called
 * backpressure. */
struct queue {
    char bytes[BUFFER_SIZE];
    size_t length;            /* how many bytes there were at first; 0 if the queue is empty */
    size_t sent;              /* how many of them have been passed on */
    unsigned long long total; /* how many bytes this queue has passed on since we started */
};

static struct queue to_server;
static struct queue to_output;

static bool input_ended;   /* standard input has ended, or we no longer need it */
static bool sending_ended; /* we have told the server that we will send no more */
static bool server_ended;  /* the server will send no more, or the connection is broken */
static bool failed;        /* something went wrong: the exit status will be 1 */

static const char *port, *host; /* where the server listens, as text */
static bool quiet;              /* -q: print only errors */

/* ---- Reporting ---------------------------------------------------------------------------- */

/* Logs a line about what happens, unless -q is given. It goes to standard error, because standard
 * output is for the echo alone. */
#define say(...) ((void)(quiet || fprintf(stderr, __VA_ARGS__)))

/* Reports what went wrong, with an error (0 if there is none). The program goes on, because bytes
 * that have come back are still to be written. */
static void note_failure(const char *what, int error) {
    fprintf(stderr, "client: %s%s%s (%llu bytes sent, %llu came back)\n", what, error ? ": " : "",
            error ? strerror(error) : "", to_server.total, to_output.total);
    failed = true;
}

static void usage(const char *problem) {
    fprintf(stderr,
            "client: %s\n"
            "usage: client [-q] [PORT [HOST]]\n"
            "sends standard input to an echo server, and prints what comes back\n"
            "-q: print only errors; default PORT 10000, HOST 127.0.0.1\n",
            problem);
    exit(2);
}

/* Ends the program because a call has failed and there is no connection to go on with. */
static void die(const char *call, int error) {
    const char *advice = "see its manual page";

    if (error == ECONNREFUSED)
        advice = "is the server running there?";
    else if (error == ETIMEDOUT || error == EHOSTUNREACH || error == ENETUNREACH)
        advice = "is HOST right, and is there a route to it?";
    fprintf(stderr, "client: %s %s port %s: %s (%s)\n", call, host, port, strerror(error), advice);
    exit(1);
}

/* ---- Helpers ------------------------------------------------------------------------------ */

/* Should we just make the failed call again, later? EAGAIN or EWOULDBLOCK: it would have blocked.
 * (They are the same on Linux.) EINTR: it was interrupted, by a signal that does not kill us. */
static bool is_temporary(int error) {
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

/* From now on a call on fd that would block fails with EAGAIN instead: O_NONBLOCK in open(2).
 * Returns -1, with errno set, on failure. */
static int set_nonblocking(int fd) {
    return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/* Writes address as text, such as 127.0.0.1:55821 or, for IPv6, [::1]:55821, into name, which has
 * NAME_SIZE bytes. Always in numbers, because to look up a host's name may take seconds.
 *
 * (There is a struct for each kind of address. sockaddr_storage has room for any of them, and the
 * calls take a pointer to sockaddr, which stands for all of them: hence the casts.) */
static void write_name(char *name, const struct sockaddr_storage *address, socklen_t length) {
    char ip[64] = "?", number[8] = "?";

    getnameinfo((const struct sockaddr *)address, length, ip, sizeof ip, number, sizeof number,
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(name, NAME_SIZE, strchr(ip, ':') ? "[%s]:%s" : "%s:%s", ip, number);
}

/* ---- A connection's life ------------------------------------------------------------------ */

/* Waits until fd is connected, after a signal has interrupted connect(). The kernel goes on with
 * it, and to call connect() again would be an error. When the kernel has finished, fd is writable.
 * It is writable also if connecting has failed, so we ask for the error: SO_ERROR in socket(7). */
static void await_connect(int fd) {
    struct pollfd entry = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t length = sizeof error;

    while (poll(&entry, 1, -1) == -1)
        if (errno != EINTR)
            die("poll", errno);
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0)
        die("connect", error);
}

/* Returns the descriptor of a socket that is connected to the server, or ends the program. Only
 * connect() may block here, because there is nothing else to do yet. Later calls do not. */
static int open_connection(void) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *address; /* host and port in the form that socket() and connect() want */
    struct sockaddr_storage own = {0};
    socklen_t length = sizeof own;
    char name[NAME_SIZE];

    /* SOCK_STREAM means TCP; the AI_ flags mean that both texts are numbers. */
    if (getaddrinfo(host, port, &hints, &address) != 0)
        usage("HOST is not a numeric address, such as 127.0.0.1 or ::1");
    say("connecting to %s port %s\n", host, port);
    int server = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (server == -1)
        die("socket", errno);
    if (connect(server, address->ai_addr, address->ai_addrlen) == -1) {
        if (errno != EINTR)
            die("connect", errno);
        await_connect(server);
    }
    freeaddrinfo(address);
    if (set_nonblocking(server) == -1)
        die("fcntl", errno);
    getsockname(server, (struct sockaddr *)&own, &length);
    write_name(name, &own, length);
    say("connected as %s\n", name);
    return server;
}

static bool is_empty(const struct queue *queue) {
    return queue->length == 0;
}

/* Notes that queue, which was empty, has been filled with count bytes. */
static void note_filled(struct queue *queue, ssize_t count) {
    queue->length = (size_t)count;
    queue->sent = 0;
}

/* Notes that count bytes of queue have been passed on. */
static void note_sent(struct queue *queue, ssize_t count) {
    queue->total += (size_t)count;
    queue->sent += (size_t)count;
    if (queue->sent == queue->length)
        queue->length = 0;
}

/* Fills to_server, which is empty, from standard input. */
static void read_input(void) {
    ssize_t received = read(STDIN_FILENO, to_server.bytes, sizeof to_server.bytes);

    if (received > 0) {
        note_filled(&to_server, received);
        return;
    }
    if (received == -1 && is_temporary(errno))
        return;
    input_ended = true;
    if (received == -1 && errno != EIO) /* EIO: our terminal is gone, so this is the end, too */
        note_failure("standard input", errno);
    else
        say("end of input after %llu bytes\n", to_server.total);
}

/* Sends what is left of to_server, or the part of it that send() takes. */
static void send_input(int server) {
    const char *rest = to_server.bytes + to_server.sent;

    /* To send on a broken connection is an error, EPIPE. Without MSG_NOSIGNAL it is also a signal,
     * SIGPIPE, which kills the program without a message. */
    ssize_t sent = send(server, rest, to_server.length - to_server.sent, MSG_NOSIGNAL);

    if (sent >= 0) {
        note_sent(&to_server, sent);
    } else if (!is_temporary(errno)) {
        note_failure("send", errno);
        to_server.length = 0;
        input_ended = true; /* but we can still read what the server sent before it left */
    }
}

/* Tells the server that we will send no more. The result is not checked: if shutdown() fails, the
 * connection is broken, and recv() will say why. */
static void half_close(int server) {
    shutdown(server, SHUT_WR);
    sending_ended = true;
}

/* Fills to_output, which is empty, with what has come back. At end of file all of the echo must be
 * there: we count the bytes. */
static void receive_echo(int server) {
    ssize_t received = recv(server, to_output.bytes, sizeof to_output.bytes, 0);

    if (received > 0) {
        note_filled(&to_output, received);
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

/* Writes a piece of to_output to standard output, which poll() has found writable.
 *
 * Standard output is not ours alone. If we set O_NONBLOCK, it would hold for every program that has
 * the same file open, such as the shell, and their output would fail with EAGAIN. So write() may
 * block, and we keep it from doing so in another way. Linux calls a pipe writable only when it has
 * room for PIPE_BUF bytes, so a write() of no more than that returns at once.
 *
 * If the reader of the pipe has left, SIGPIPE kills us without a message. Here that is right. Every
 * program in a pipeline ends in this way when the next one needs no more. */
static void write_output(void) {
    size_t length = to_output.length - to_output.sent;
    ssize_t written = write(STDOUT_FILENO, to_output.bytes + to_output.sent,
                            length < PIPE_BUF ? length : PIPE_BUF);

    if (written >= 0) {
        note_sent(&to_output, written);
    } else if (!is_temporary(errno)) {
        note_failure("standard output", errno);
        exit(1);
    }
}

/* ---- The loop ----------------------------------------------------------------------------- */

/* Makes entry wait until fd is readable, or writable, or either, or for nothing. For nothing it is
 * not enough to set events to 0: poll() would still report POLLHUP and POLLERR, and return at once,
 * every time. It ignores an entry with the descriptor -1. */
static void set_entry(struct pollfd *entry, int fd, bool reading, bool writing) {
    entry->fd = reading || writing ? fd : -1;
    entry->events = (short)((reading ? POLLIN : 0) | (writing ? POLLOUT : 0));
}

/* Copies in both directions until the server has ended. */
static void transfer(int server) {
    struct pollfd watched[3];
    struct pollfd *input = &watched[0], *connection = &watched[1], *output = &watched[2];

    while (!server_ended) {
        set_entry(input, STDIN_FILENO, !input_ended && is_empty(&to_server), false);
        set_entry(connection, server, is_empty(&to_output), !is_empty(&to_server));
        set_entry(output, STDOUT_FILENO, false, !is_empty(&to_output));
        if (poll(watched, 3, -1) == -1) {
            if (errno != EINTR)
                die("poll", errno);
            continue; /* a signal interrupted it: nothing has been reported */
        }

        /* Whatever is reported, we make the call that we wanted to make. Only the call can tell
         * data, end of file and an error apart. For example, a pipe that has been closed at its
         * other end reports POLLIN and POLLHUP while there are bytes in it, then only POLLHUP. A
         * file reports POLLIN even at its end, and a connection that was reset reports POLLERR. */
        if (input->revents != 0)
            read_input();
        if (output->revents != 0)
            write_output();
        if (connection->events & POLLIN && connection->revents & (POLLIN | POLLHUP | POLLERR))
            receive_echo(server);
        if (connection->events & POLLOUT && connection->revents & (POLLOUT | POLLHUP | POLLERR))
            send_input(server);
        if (input_ended && is_empty(&to_server) && !sending_ended)
            half_close(server);
    }
}

/* ---- Starting up -------------------------------------------------------------------------- */

/* Makes sure that descriptors 0, 1 and 2 are open. A new descriptor is always the lowest free one,
 * so our socket would take the place of a closed one. For example, we would read our input from the
 * server. */
static void check_descriptors(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) == -1) {
            fprintf(stderr,
                    "client: descriptor %d: %s "
                    "(standard input, output and error must be open)\n",
                    fd, strerror(errno));
            exit(1);
        }
}

int main(int argc, char *argv[]) {
    static char log_buffer[BUFSIZ];
    int option;

    opterr = 0; /* usage() says what is wrong, not getopt() */
    while ((option = getopt(argc, argv, "q")) != -1) {
        if (option == 'q')
            quiet = true;
        else
            usage("unknown or incomplete option");
    }
    port = optind < argc ? argv[optind] : "10000";
    host = optind + 1 < argc ? argv[optind + 1] : "127.0.0.1";
    if (optind + 2 < argc)
        usage("there are too many arguments");
    char *end;
    long number = strtol(port, &end, 10);
    /* The first character is a digit, because strtol() would also take a blank or a sign. */
    if (*port < '0' || *port > '9' || *end != '\0' || number < 1 || number > 65535)
        usage("PORT is not a number from 1 to 65535");

    /* stderr has no buffer of its own, so a line of the log would go out in pieces. */
    setvbuf(stderr, log_buffer, _IOLBF, sizeof log_buffer);
    check_descriptors();
    int server = open_connection();
    transfer(server);
    return failed ? 1 : 0;
}
