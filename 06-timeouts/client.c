/* client: sends messages to an echo server, with pauses, and gives up when it takes too long.
 *
 *     cc client.c -o client
 *     ./client -p 1.5 -l 5                              in another window: ./server
 *     ./client -p 15                                    slower than the server's patience
 *
 * Watch for: each wait lasts until a deadline, not for so many seconds. What comes meanwhile, a
 * signal or a byte now and then, does not move the deadline: so the limit (-l) holds for the whole
 * reply. Connecting has the same limit, and when the server refuses we try again, a few times,
 * after pauses that double.
 *
 * Left out on purpose: more than one connection (03 has them).
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netdb.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    BUFFER_SIZE = 64 * 1024, /* bytes that one recv() may bring */
    SHOWN_MAX = 48,          /* bytes of a message that a line shows */
    NAME_SIZE = 80,          /* room for "[address]:port" */
};

enum state {
    CONNECTING,
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

static double pause_length = INFINITY; /* -p: seconds to pause after each message; or never */
static double limit = 5;               /* -l: seconds that connecting, or a whole reply, may take */

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
            "usage: client [-p SECONDS] [-l SECONDS] [PORT [HOST [MESSAGE...]]]\n"
            "-p: pause after a message (0); -l: limit on connecting and on a reply (5); 0: never\n"
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

/* Returns the seconds that text says, at most a day; for 0, which means never, INFINITY. */
static double read_seconds(const char *text) {
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value >= 0 && value <= 24 * 60 * 60))
        usage("SECONDS is not a number from 0 to 86400");
    return value == 0 ? INFINITY : value;
}

/* Returns for how many milliseconds to wait at most; -1 is for ever. Rounded up: after a wait that
 * is a little too short we would come back again and again, with waits of 0 ms, until the deadline
 * is there. */
static int time_to_wait(double deadline) {
    if (deadline == INFINITY)
        return -1;
    double left = deadline - seconds();
    return left > 0 ? (int)(left * 1000) + 1 : 0;
}

/* A signal may cut the sleep short; the time that it was to last until has not changed. */
static void sleep_until(double deadline) {
    while (seconds() < deadline)
        poll(NULL, 0, time_to_wait(deadline));
}

/* From now on a call on fd that would have to wait fails with EAGAIN instead: O_NONBLOCK in
 * open(2). Returns -1, with errno set, if that cannot be had. */
static int set_nonblocking(int fd) {
    int flags = fcntl(fd, F_GETFL);

    return flags == -1 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
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
 * the rest of its message, and before that to be connected. */
static bool wants_read(const struct connection *c) {
    return c->received < c->length || c->state == HALF_CLOSED;
}

static bool wants_write(const struct connection *c) {
    return c->state == CONNECTING || c->sent < c->length;
}

/* Sleeps until c can do something that it waits for, at most until the deadline. If that has passed
 * the program ends. */
static void wait_for(const struct connection *c, double deadline) {
    /* In the order of enum state. */
    static const char *const awaited[] = {"answer", "whole reply", "end of file", "nothing"};
    struct pollfd one = {.fd = c->fd, .events = POLLIN};

    if (seconds() >= deadline)
        fail(c, "no %s within %g s (-l)", awaited[c->state], limit);
    if (wants_write(c))
        one.events |= POLLOUT;
    if (poll(&one, 1, time_to_wait(deadline)) == -1 && errno != EINTR)
        die("poll", errno);
}

/* Begins to connect c to the server. An interrupted connect() goes on too, and to call it again
 * would be an error: EINTR and EALREADY in connect(2). Returns EINPROGRESS, or the error if it has
 * failed already. */
static int open_connection(struct connection *c) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *address;

    if (getaddrinfo(server_host, server_port, &hints, &address) != 0)
        usage("HOST is not a numeric address, such as 127.0.0.1 or ::1");
    /* Our own name comes with the connection. */
    snprintf(c->name, NAME_SIZE, "connect %s port %s", server_host, server_port);
    c->fd = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (c->fd == -1)
        die("socket", errno);
    if (set_nonblocking(c->fd) == -1)
        die("fcntl", errno);
    int result = connect(c->fd, address->ai_addr, address->ai_addrlen);
    int error = result == -1 && errno != EINTR ? errno : EINPROGRESS;
    freeaddrinfo(address);
    c->state = CONNECTING;
    return error;
}

/* Asks how the connecting goes. SO_ERROR knows why it failed, but tells only once: socket(7). Where
 * it tells of no error, getpeername() fails until we are connected. Returns 0 if we are connected,
 * EINPROGRESS if not yet, or else the error. */
static int finish_connect(struct connection *c) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    int error = 0;
    socklen_t error_length = sizeof error;

    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &error_length);
    if (error != 0)
        return error;
    if (getpeername(c->fd, (struct sockaddr *)&address, &length) == -1)
        return EINPROGRESS;
    getsockname(c->fd, (struct sockaddr *)&address, &length);
    write_name(c->name, &address, length);
    c->state = OPEN;
    return 0;
}

/* Connects c to the server. One that is just starting refuses us; so we try again, 0.1, 0.2 and
 * 0.4 s later, each time with a new socket: NOTES in connect(2). The pauses double, because a
 * server that is in trouble needs clients that ask less, not more. The limit is for all of it
 * together; a pause that would outlast it is not begun. */
static void connect_patiently(struct connection *c) {
    double deadline = seconds() + limit;

    for (double backoff = 0.1;; backoff *= 2) {
        int error = open_connection(c);

        while (error == EINPROGRESS) {
            wait_for(c, deadline);
            error = finish_connect(c);
        }
        if (error == 0)
            return;
        if (error != ECONNREFUSED || backoff > 0.4 || seconds() + backoff >= deadline)
            die("connect", error);
        printf("connect: %s; trying again in %g s\n", strerror(error), backoff);
        close(c->fd);
        sleep_until(seconds() + backoff);
    }
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

/* Lets c do what it waits for, until it waits for nothing, or its deadline has passed. */
static void exchange(struct connection *c) {
    double deadline = seconds() + limit;

    while (wants_write(c) || wants_read(c)) {
        wait_for(c, deadline);
        if (wants_write(c))
            send_to(c);
        if (wants_read(c))
            receive_from(c);
    }
}

int main(int argc, char *argv[]) {
    char *walkthrough[] = {"This is the message. ", "It will be sent ", "in parts.", NULL};
    struct connection connection = {0};
    int option;

    opterr = 0;
    while ((option = getopt(argc, argv, "p:l:")) != -1) {
        if (option == 'p')
            pause_length = read_seconds(optarg);
        else if (option == 'l')
            limit = read_seconds(optarg);
        else
            usage("there is no such option");
    }
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
    connect_patiently(&connection);

    for (; *messages != NULL; messages++) {
        start_message(&connection, *messages);
        exchange(&connection);
        if (pause_length != INFINITY)
            sleep_until(seconds() + pause_length);
    }
    half_close(&connection);
    exchange(&connection);
}
