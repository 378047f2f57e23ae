/* client: sends messages to an echo server and checks what comes back, with blocking calls.
 *
 *     cc client.c -o client
 *     ./client                                          in another window: ./server
 *     ./client 10000 127.0.0.1 'Hello, ' 'world'        the port, the host, and your own messages
 *
 * This is the other end of the connections that server.c accepts. Two calls are new here:
 *
 *   connect()    connects a socket to the listener at an address. It blocks until the kernel on the
 *                server's side has answered, which it does before the server calls accept().
 *   shutdown()   with SHUT_WR, tells the server that we will send no more. The server reads this as
 *                end of file, and can still send to us. This is called a half-close.
 *
 * Start reading at the struct, then main() at the end, then exchange() and the functions that it
 * calls.
 *
 * Watch for: TCP carries a stream of bytes and does not know where a message ends. The echo of one
 * message may come in several pieces, so we call recv() until we have all of it. And when we have
 * sent the last message we do not close our socket: we half-close it, and read until the server
 * closes its own. Otherwise we would miss an error that comes late.
 *
 * Left out on purpose: doing something else while a call blocks (stage 02), more than one
 * connection (stage 03), and giving up on a server that does not answer (stage 06).
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
    MESSAGE_MAX = 100 * 1024, /* the most bytes in a message: see exchange() */
    BUFFER_SIZE = 64 * 1024,  /* the most bytes that one recv() returns */
    SHOWN_MAX = 48,           /* the most bytes of data that a line shows */
    NAME_SIZE = 80,           /* enough for "[address]:port" */
};

enum state {
    OPEN,        /* messages go out, and their echo comes back */
    HALF_CLOSED, /* we have sent everything and said so; only end of file may come now */
    CLOSED,      /* the server has closed its end, and we have closed ours */
};

/* A connection with the server. It carries one message at a time, and two counters say how far
 * this message is. They only grow, from 0 to the length of the message:
 *
 *   sent       counts the bytes that send() has taken. It may take only part of the message.
 *   received   counts the bytes of its echo. We do not store them: each byte is compared with the
 *              message as it arrives.
 *
 * When both have reached the length, the next message begins and they start from 0 again. Before
 * the first message length is 0, so c has nothing to send and nothing to read. */
struct connection {
    int fd;
    enum state state;
    char name[NAME_SIZE]; /* our own address on this connection */
    const char *message;  /* the message that we are sending, or have sent last */
    size_t length;        /* how many bytes it has */
    size_t sent;          /* how many of them send() has taken */
    size_t received;      /* how many of them have come back */
};

static const char *port, *host; /* where the server listens, as text */

/* ---- Reporting ---------------------------------------------------------------------------- */

/* Prints a line about what happens. It must reach its place at once: the program ends if it cannot
 * be written, for example because the disk is full. (printf() alone only fills a buffer.) */
static void say(const char *format, ...) {
    va_list arguments;

    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    if (fflush(stdout) == EOF || ferror(stdout)) {
        fprintf(stderr, "client: standard output: %s\n", strerror(errno));
        exit(1);
    }
}

/* Returns a text that shows data, its first SHOWN_MAX bytes at most. What is not printable is
 * escaped, so that no server can forge a line of ours, or send commands to the terminal that shows
 * it. The next call overwrites the text. */
static const char *escaped(const char *data, size_t length) {
    static char text[SHOWN_MAX * sizeof "\\x00" + sizeof "..."]; /* room for the worst case */
    char *end = text;

    for (size_t i = 0; i < length && i < SHOWN_MAX; i++) {
        unsigned char byte = (unsigned char)data[i];

        if (byte == '\n')
            end += snprintf(end, sizeof "\\n", "\\n");
        else if (byte == '"' || byte == '\\')
            end += snprintf(end, sizeof "\\\"", "\\%c", byte);
        else if (byte < ' ' || byte > '~')
            end += snprintf(end, sizeof "\\x00", "\\x%02x", byte);
        else
            *end++ = (char)byte;
    }
    snprintf(end, sizeof "...", "%s", length > SHOWN_MAX ? "..." : "");
    return text;
}

static void usage(const char *problem) {
    fprintf(stderr,
            "client: %s\n"
            "usage: client [PORT [HOST [MESSAGE...]]]\n"
            "sends each MESSAGE when the one before has come back; without any, three of its own\n"
            "default PORT 10000, HOST 127.0.0.1\n",
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

/* Ends the program because c has broken, or because what came back is not our echo. */
static void fail(const struct connection *c, const char *format, ...) {
    va_list arguments;

    fprintf(stderr, "client: %s: ", c->name);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    exit(1);
}

/* ---- Helpers ------------------------------------------------------------------------------ */

/* Should we just make the failed call again? EINTR: it was interrupted, by a signal that does not
 * kill us. */
static bool is_temporary(int error) {
    return error == EINTR;
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

/* Does c wait for the rest of its echo or, after the half-close, for end of file? */
static bool wants_read(const struct connection *c) {
    return c->received < c->length || c->state == HALF_CLOSED;
}

/* Has c a part of its message left to send? */
static bool wants_write(const struct connection *c) {
    return c->sent < c->length;
}

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

/* Connects c to the server, or ends the program. */
static void open_connection(struct connection *c) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *address; /* host and port in the form that socket() and connect() want */
    struct sockaddr_storage own = {0};
    socklen_t length = sizeof own;

    /* SOCK_STREAM means TCP; the AI_ flags mean that both texts are numbers. */
    if (getaddrinfo(host, port, &hints, &address) != 0)
        usage("HOST is not a numeric address, such as 127.0.0.1 or ::1");
    c->fd = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (c->fd == -1)
        die("socket", errno);
    if (connect(c->fd, address->ai_addr, address->ai_addrlen) == -1) {
        if (errno != EINTR)
            die("connect", errno);
        await_connect(c->fd);
    }
    freeaddrinfo(address);
    getsockname(c->fd, (struct sockaddr *)&own, &length);
    write_name(c->name, &own, length);
    c->state = OPEN;
}

/* Makes message the one that c sends and gets back from now on. */
static void start_message(struct connection *c, const char *message) {
    c->message = message;
    c->length = strlen(message);
    c->sent = c->received = 0;
}

/* Sends what is left of c's message, or the part of it that send() takes. */
static void send_message(struct connection *c) {
    const char *rest = c->message + c->sent;

    /* To send on a broken connection is an error, EPIPE. Without MSG_NOSIGNAL it is also a signal,
     * SIGPIPE, which kills the program without a message. */
    ssize_t sent = send(c->fd, rest, c->length - c->sent, MSG_NOSIGNAL);

    if (sent == -1 && !is_temporary(errno))
        fail(c, "send: %s", strerror(errno));
    if (sent > 0) {
        say("%s: sending \"%s\"\n", c->name, escaped(rest, (size_t)sent));
        c->sent += (size_t)sent;
    }
}

/* Reads what has come back, which may be only a part of the echo, and compares it with the message.
 * Closes c at end of file. */
static void read_echo(struct connection *c) {
    static char buffer[BUFFER_SIZE];
    ssize_t received = recv(c->fd, buffer, sizeof buffer, 0);

    if (received == -1) {
        if (!is_temporary(errno))
            fail(c, "recv: %s", strerror(errno));
        return;
    }
    if (received == 0) { /* end of file: the server has closed its end */
        if (c->state != HALF_CLOSED)
            fail(c, "the server closed the connection after %zu of %zu bytes", c->received,
                 c->length);
        say("%s: closing socket\n", c->name);
        close(c->fd);
        c->state = CLOSED;
        return;
    }
    say("%s: received \"%s\"\n", c->name, escaped(buffer, (size_t)received));
    for (const char *byte = buffer; byte < buffer + received; byte++) {
        if (c->received == c->length)
            fail(c, "the server sent more than its echo");
        if (*byte != c->message[c->received])
            fail(c, "the server answered something else: byte %zu of %zu differs", c->received + 1,
                 c->length);
        c->received++;
    }
}

/* Tells the server that we will send no more. The result is not checked: if shutdown() fails, the
 * connection is broken, and recv() will say why. */
static void half_close(struct connection *c) {
    shutdown(c->fd, SHUT_WR);
    c->state = HALF_CLOSED;
}

/* ---- The loop ----------------------------------------------------------------------------- */

/* Sends all of c's message, and then reads all of its echo. After the half-close there is nothing
 * to send, and it reads until end of file.
 *
 * We took a shortcut here: we read nothing while we send. With a message of many megabytes the
 * server would stop reading it, because we do not read the echo, and then send() would block
 * forever. This is called a deadlock. MESSAGE_MAX excludes it: that many bytes fit into the buffers
 * of both kernels. The loop of stage 02 needs no such limit. */
static void exchange(struct connection *c) {
    while (wants_write(c))
        send_message(c);
    while (wants_read(c))
        read_echo(c);
}

/* ---- Starting up -------------------------------------------------------------------------- */

int main(int argc, char *argv[]) {
    char *walkthrough[] = {"This is the message. ", "It will be sent ", "in parts.", NULL};
    struct connection connection = {0};

    opterr = 0; /* usage() says what is wrong, not getopt() */
    if (getopt(argc, argv, "") != -1)
        usage("unknown or incomplete option");
    port = optind < argc ? argv[optind] : "10000";
    host = optind + 1 < argc ? argv[optind + 1] : "127.0.0.1";
    char **messages = optind + 2 < argc ? argv + optind + 2 : walkthrough;
    char *end;
    long number = strtol(port, &end, 10);
    /* The first character is a digit, because strtol() would also take a blank or a sign. */
    if (*port < '0' || *port > '9' || *end != '\0' || number < 1 || number > 65535)
        usage("PORT is not a number from 1 to 65535");
    for (int i = 0; messages[i] != NULL; i++) {
        if (messages[i][0] == '\0')
            usage("a MESSAGE is empty, so nothing would come back");
        if (strlen(messages[i]) > MESSAGE_MAX)
            usage("a MESSAGE is longer than 100 KiB: send it as several");
    }

    say("connecting to %s port %s\n", host, port);
    open_connection(&connection);

    for (; *messages != NULL; messages++) {
        start_message(&connection, *messages);
        exchange(&connection);
    }
    half_close(&connection);
    exchange(&connection);
}
