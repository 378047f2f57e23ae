/* client: sends messages to an echo server and checks what comes back, with blocking calls.
 *
 *     cc client.c -o client
 *     ./client                                          in another window: ./server
 *     ./client 10000 127.0.0.1 'Hello, ' 'world'        the port, the host, and messages of yours
 *
 * Watch for: TCP carries bytes and knows nothing of messages. A reply may come in pieces, cut
 * anywhere, so one recv() is not one reply: we read until the echo is whole. And when all is said
 * we close our half only, and read on until the server closes its own.
 *
 * Left out on purpose: anything else to do while a call waits (02), more than one connection (03),
 * an end to our patience with a server that never answers (06).
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BUFFER_SIZE = 64 * 1024, /* bytes that one recv() may bring */
    SHOWN_MAX = 48,          /* bytes of a message that a line shows */
    NAME_SIZE = 80,          /* room for "[address]:port" */
};

enum state {
    OPEN,
    HALF_CLOSED, /* we have said our last word; only end of file may come now */
    CLOSED,
};

struct connection {
    int fd;
    enum state state;
    char name[NAME_SIZE]; /* our own address and port on this connection */
    const char *message;  /* the message that is on its way there and back, */
    size_t length;        /* its bytes, */
    size_t sent;          /* those that the kernel has taken from us, */
    size_t received;      /* and those that have come back */
};

static const char *server_port, *server_host;

/* Says what happened to data, and shows its first bytes. They are escaped, so that no server can
 * forge a line of ours, or drive the terminal that shows it. */
static void say_data(const struct connection *c, const char *event, const char *data,
                     size_t length) {
    printf("%s: %s \"", c->name, event);
    for (size_t i = 0; i < length && i < SHOWN_MAX; i++) {
        unsigned char byte = (unsigned char)data[i];
        if (byte == '\n')
            printf("\\n");
        else if (byte == '"' || byte == '\\')
            printf("\\%c", byte);
        else
            printf(byte < ' ' || byte > '~' ? "\\x%02x" : "%c", byte);
    }
    printf("%s\"\n", length > SHOWN_MAX ? "..." : "");
}

static void usage(const char *problem) {
    fprintf(stderr,
            "client: %s\n"
            "usage: client [PORT [HOST [MESSAGE...]]]\n"
            "PORT 10000; HOST 127.0.0.1; each MESSAGE is sent when the one before has come back\n",
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

/* Ends the program: the connection broke, or what came back is not our echo. */
static void fail(const struct connection *c, const char *why, ...) {
    va_list arguments;

    fprintf(stderr, "client: %s: ", c->name);
    va_start(arguments, why);
    vfprintf(stderr, why, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    exit(1);
}

/* Not an error: a signal came first. We ask again. */
static bool is_temporary(int error) {
    return error == EINTR;
}

/* Writes the address as 127.0.0.1:55821 or [::1]:55821. Always in numbers: to ask a name server
 * would keep everybody waiting. */
static void write_name(char *name, const struct sockaddr_storage *address, socklen_t length) {
    char host[64] = "?", port[8] = "?";

    getnameinfo((const struct sockaddr *)address, length, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(name, NAME_SIZE, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

/* What a connection waits for: to read the rest of its echo or, in the end, end of file; to send
 * the rest of its message. */
static bool wants_read(const struct connection *c) {
    return c->received < c->length || c->state == HALF_CLOSED;
}

static bool wants_write(const struct connection *c) {
    return c->sent < c->length;
}

/* A signal ended our wait in connect(), but the connecting goes on, and to call connect() again
 * would be an error. When it is done the socket becomes writable; also when it has failed, so we
 * must ask SO_ERROR: EINPROGRESS in connect(2). */
static void finish_connect(struct connection *c) {
    struct pollfd one = {.fd = c->fd, .events = POLLOUT};
    int error = 0;
    socklen_t length = sizeof error;

    while (poll(&one, 1, -1) == -1 && is_temporary(errno))
        continue;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0)
        die("connect", error);
}

/* Connects c to the server. */
static void open_connection(struct connection *c) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *address;
    struct sockaddr_storage own;
    socklen_t length = sizeof own;

    if (getaddrinfo(server_host, server_port, &hints, &address) != 0)
        usage("HOST is not a numeric address, such as 127.0.0.1 or ::1");
    c->fd = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (c->fd == -1)
        die("socket", errno);
    if (connect(c->fd, address->ai_addr, address->ai_addrlen) == -1) {
        if (errno != EINTR)
            die("connect", errno);
        finish_connect(c);
    }
    freeaddrinfo(address);
    getsockname(c->fd, (struct sockaddr *)&own, &length);
    write_name(c->name, &own, length);
    c->state = OPEN;
}

/* From here on message is what c has to send and to get back. */
static void start_message(struct connection *c, const char *message) {
    c->message = message;
    c->length = strlen(message);
    c->sent = c->received = 0;
}

/* Tells the server that nothing more will come from us; it can still answer: shutdown(2). If this
 * fails the connection has broken, and recv() will say how. */
static void half_close(struct connection *c) {
    shutdown(c->fd, SHUT_WR);
    c->state = HALF_CLOSED;
}

/* Sends as much of c's message as the kernel takes, which may be less than all. */
static void send_to(struct connection *c) {
    const char *rest = c->message + c->sent;

    /* If the server is gone we want an error, EPIPE, not the signal SIGPIPE, which would end us
     * without a word. */
    ssize_t sent = send(c->fd, rest, c->length - c->sent, MSG_NOSIGNAL);

    if (sent == -1 && !is_temporary(errno))
        fail(c, "send: %s", strerror(errno));
    if (sent > 0) {
        say_data(c, "sending", rest, (size_t)sent);
        c->sent += (size_t)sent;
    }
}

/* Reads what has come back, which may be less than the whole echo, and checks every byte. */
static void receive_from(struct connection *c) {
    static char buffer[BUFFER_SIZE];
    ssize_t received = recv(c->fd, buffer, sizeof buffer, 0);

    if (received == -1) {
        if (!is_temporary(errno))
            fail(c, "recv: %s", strerror(errno));
        return;
    }
    if (received == 0) { /* end of file */
        if (c->state != HALF_CLOSED)
            fail(c, "the server closed the connection after %zu of %zu bytes", c->received,
                 c->length);
        printf("%s: closing socket\n", c->name);
        close(c->fd);
        c->state = CLOSED;
        return;
    }
    say_data(c, "received", buffer, (size_t)received);
    for (const char *byte = buffer; byte < buffer + received; byte++) {
        if (c->received == c->length)
            fail(c, "the server sent more than its echo");
        if (*byte != c->message[c->received])
            fail(c, "the server answered something else: byte %zu of %zu differs", c->received + 1,
                 c->length);
        c->received++;
    }
}

/* Lets c do what it waits for, until it waits for nothing. To send all before we read is safe only
 * because a message is an argument, and Linux takes none beyond 128 KiB: execve(2). The kernels on
 * both sides hold more than that. With no such bound the server could come to wait for us to read
 * its echo, while we wait for it to read our message: for ever. */
static void exchange(struct connection *c) {
    while (wants_write(c))
        send_to(c);
    while (wants_read(c))
        receive_from(c);
}

int main(int argc, char *argv[]) {
    char *walkthrough[] = {"This is the message. ", "It will be sent ", "in parts.", NULL};
    struct connection connection = {0};

    opterr = 0;
    if (getopt(argc, argv, "") != -1)
        usage("there is no such option");
    server_port = optind < argc ? argv[optind++] : "10000";
    server_host = optind < argc ? argv[optind++] : "127.0.0.1";
    char **messages = optind < argc ? argv + optind : walkthrough;
    if (strspn(server_port, "0123456789") != strlen(server_port) || atol(server_port) < 1 ||
        atol(server_port) > 65535)
        usage("PORT is not a number from 1 to 65535");
    for (int i = 0; messages[i] != NULL; i++)
        if (messages[i][0] == '\0')
            usage("a MESSAGE is empty; nothing would come back");

    setvbuf(stdout, NULL, _IOLBF, BUFSIZ); /* a line goes out whole, and at once */
    printf("connecting to %s port %s\n", server_host, server_port);
    open_connection(&connection);

    for (; *messages != NULL; messages++) {
        start_message(&connection, *messages);
        exchange(&connection);
    }
    half_close(&connection);
    exchange(&connection);
}
