/* client: sends messages to an echo server and checks what comes back; no call on a socket blocks.
 *
 *     cc client.c -o client
 *     ./client                                          in another window: ./server
 *     ./client 10000 127.0.0.1 'Hello, ' 'world'        the port, the host, and your own messages
 *
 * New in stage 02: our socket has O_NONBLOCK, as those of server.c have. Even connect() does not
 * block: it begins to connect and fails with EINPROGRESS. begin_connect() calls it, and
 * finish_connect() asks later how it went. Start reading at exchange(), then see these two.
 *
 * Watch for: exchange() asks all the time whether anything can be done, and usually the answer is
 * no. We count how often we asked in vain, because in that time the program could have done
 * something else.
 *
 * Left out on purpose: sleep, and more than one connection (stage 03), and giving up on a server
 * that does not answer (stage 06).
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BUFFER_SIZE = 64 * 1024, /* the most bytes that one recv() returns */
    SHOWN_MAX = 48,          /* the most bytes of data that a line shows */
    NAME_SIZE = 80,          /* enough for "[address]:port" */
};

enum state {
    CONNECTING,  /* connect() has begun, and we do not know yet how it ends */
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
static unsigned long in_vain;   /* how often we asked for something that could not be done yet */

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

/* Does c wait for the rest of its echo or, after the half-close, for end of file? */
static bool wants_read(const struct connection *c) {
    return c->received < c->length || c->state == HALF_CLOSED;
}

/* Does c wait to be connected, or has it a part of its message left to send? */
static bool wants_write(const struct connection *c) {
    return c->state == CONNECTING || c->sent < c->length;
}

/* Begins to connect c to the server. If a signal interrupts connect(), the kernel goes on with it,
 * and to call it again would be an error: so EINTR means the same as EINPROGRESS. */
static void begin_connect(struct connection *c) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *address; /* host and port in the form that socket() and connect() want */

    /* SOCK_STREAM means TCP; the AI_ flags mean that both texts are numbers. */
    if (getaddrinfo(host, port, &hints, &address) != 0)
        usage("HOST is not a numeric address, such as 127.0.0.1 or ::1");
    c->fd = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (c->fd == -1)
        die("socket", errno);
    if (set_nonblocking(c->fd) == -1)
        die("fcntl", errno);
    if (connect(c->fd, address->ai_addr, address->ai_addrlen) == -1 && errno != EINPROGRESS &&
        errno != EINTR)
        die("connect", errno);
    freeaddrinfo(address);
    c->state = CONNECTING;
}

/* Asks how the connecting of c goes. If it has failed, the socket has the error, and returns it
 * once: SO_ERROR in socket(7). If there is no error we may be connected, or not yet. Only
 * getpeername() tells the two apart, because it fails until we are. */
static void finish_connect(struct connection *c) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    int error = 0;
    socklen_t error_length = sizeof error;

    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &error_length);
    if (error != 0)
        die("connect", error);
    if (getpeername(c->fd, (struct sockaddr *)&address, &length) == -1) {
        in_vain++;
        return;
    }
    length = sizeof address;
    getsockname(c->fd, (struct sockaddr *)&address, &length);
    write_name(c->name, &address, length);
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
    if (sent == -1)
        in_vain++;
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
        in_vain++;
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

/* Does what c waits for, until c waits for nothing: connects it, sends a message and reads its
 * echo, or reads end of file. It reads while it still sends, so a message may have any length: the
 * server never has to wait for us to read. */
static void exchange(struct connection *c) {
    while (wants_write(c) || wants_read(c)) {
        if (c->state == CONNECTING)
            finish_connect(c);
        else if (wants_write(c))
            send_message(c);
        if (wants_read(c))
            read_echo(c);
    }
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
    for (int i = 0; messages[i] != NULL; i++)
        if (messages[i][0] == '\0')
            usage("a MESSAGE is empty, so nothing would come back");

    say("connecting to %s port %s\n", host, port);
    begin_connect(&connection);
    exchange(&connection);

    for (; *messages != NULL; messages++) {
        start_message(&connection, *messages);
        exchange(&connection);
    }
    half_close(&connection);
    exchange(&connection);
    say("%s: asked in vain %lu times\n", connection.name, in_vain);
}
