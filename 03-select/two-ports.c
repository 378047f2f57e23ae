/* two-ports: a server with several listeners in one select(2).
 *
 *     cc two-ports.c -o two-ports
 *     ./two-ports                 in other windows: nc 127.0.0.1 8001, and nc 127.0.0.1 8002
 *     ./two-ports 0 0 0           three ports, which the kernel picks
 *
 * This is server.c with two differences. First, there are several listeners: a listener is one
 * descriptor among others, and select() takes as many as you like. Second, server.c fills its sets
 * in each turn, from what it knows of each connection. Here the sets are what we know. We keep them
 * from turn to turn, and give select() copies. Start reading at the struct, then serve().
 *
 * Watch for: a client that has sent something moves to the second set, and gets its answer, hello,
 * only when select() says that this client is writable. Watch the log, too: the program wakes up
 * every second, because select() has a timeout, and logs that nothing is ready.
 *
 * Left out on purpose: an allocated struct for each connection, IPv6, urgent bytes (server.c), and
 * more than FD_SETSIZE descriptors (stage 04).
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
    BACKLOG = 4096,          /* the most clients in the backlog */
    ACCEPTS_MAX = 64,        /* the most clients that one turn of the loop accepts */
    BUFFER_SIZE = 64 * 1024, /* the most bytes that one recv() returns */
    SHOWN_MAX = 48,          /* the most bytes of data that a line of the log shows */
    NAME_SIZE = 80,          /* enough for "[address]:port" */
};

static const char ANSWER[] = "hello\n";

/* What we know of a socket, apart from its descriptor. A connection with a client is in one of two
 * states, and the set that its descriptor is in says which:
 *
 *   to_read     we owe the client nothing, and read what it sends. Whatever that is, the connection
 *               moves to the other set.
 *   to_answer   we owe the client an answer. send() may take only part of it, so sent counts how
 *               much it took. When it has taken everything the connection moves back.
 *
 * A connection is never in both, so we do not read from a client while we owe it something. It has
 * no queue, because the answer is always the same.
 *
 * The listeners are in to_read, too, so that select() reports them as well. They are also in a set
 * of their own, which tells us where to call accept() and where recv(). */
struct connection {
    char name[NAME_SIZE]; /* for the log: the client's address, or "port 8001" for a listener */
    size_t sent;          /* how many bytes of the answer send() has taken */
};

static struct connection connections[FD_SETSIZE]; /* the one with descriptor 5 is connections[5] */
static fd_set listeners, to_read, to_answer;      /* empty at first, like all static variables */
static int highest = -1;                          /* no set has a descriptor above this one */
static double accept_again_at; /* in seconds(): no accept() until then, after a shortage */

static const char host[] = "127.0.0.1"; /* where we listen, on all ports */
static bool quiet;                      /* -q: do not log individual clients */

/* ---- Reporting ---------------------------------------------------------------------------- */

/* Logs a line, unless -q is given. With -q the arguments are not even evaluated, which saves the
 * time for escaped().
 *
 * We took a shortcut here, in all six stages: writing to stderr may block. While its terminal is
 * stopped (Ctrl-S), or the program at the other end of a pipe does not read, the whole server
 * stands still. */
#define say(...) ((void)(quiet || fprintf(stderr, __VA_ARGS__)))

/* Returns a text that shows data, its first SHOWN_MAX bytes at most. What is not printable is
 * escaped, so that no client can forge a line of the log, or send commands to the terminal that
 * shows it. The next call overwrites the text. */
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
            "two-ports: %s\n"
            "usage: two-ports [-q] [PORT...]\n"
            "-q: do not log individual clients; default PORT 8001 and 8002 (0: any)\n",
            problem);
    exit(2);
}

/* Ends the program because of an error that is not a client's and will not pass: we cannot start,
 * or have used a call wrongly. No client's error ends the program, and once it has started no
 * shortage of descriptors does. where says which port is concerned: "port 8001". */
static void die(const char *call, const char *where) {
    const char *advice = "see its manual page";

    if (errno == EADDRINUSE)
        advice = "another program has this port; try another, or 0";
    else if (errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT)
        advice = "this machine does not have that address; try 127.0.0.1";
    else if (errno == EACCES)
        advice = "ports below 1024 need privileges; try 10000";
    fprintf(stderr, "two-ports: %s %s %s: %s (%s)\n", call, host, where, strerror(errno), advice);
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

/* Returns the seconds since some moment in the past: CLOCK_MONOTONIC in clock_gettime(2). */
static double seconds(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
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

/* From now on select() can report fd. */
static void watch(int fd) {
    FD_SET(fd, &to_read);
    if (fd > highest)
        highest = fd;
}

/* ---- A connection's life ------------------------------------------------------------------ */

/* Closes fd. The log says why: after what, and with which error, or 0 if there was none. */
static void close_connection(int fd, const char *why, int error) {
    say("closing %s after %s%s%s\n", connections[fd].name, why, error ? ": " : "",
        error ? strerror(error) : "");
    FD_CLR(fd, &to_read);
    FD_CLR(fd, &to_answer);
    close(fd);
    accept_again_at = 0; /* a descriptor is free now */
}

/* Begins a connection with a client that came to listener; accept() has returned fd and address. */
static void open_connection(int fd, const struct sockaddr_storage *address, socklen_t length,
                            int listener) {
    char name[NAME_SIZE];

    if (set_nonblocking(fd) == -1) {
        say("refusing a client: %s\n", strerror(errno));
        close(fd);
        return;
    }
    write_name(name, address, length);

    /* FD_SET() with such a descriptor would write past the end of the set: select(2). */
    if (fd >= FD_SETSIZE) {
        say("refusing %s: select cannot watch descriptor %d\n", name, fd);
        close(fd);
        return;
    }

    /* Without this the kernel may hold back an answer until the client's kernel has acknowledged
     * the answer before (Nagle's algorithm), which may take that kernel 40 ms (delayed ACK):
     * TCP_NODELAY in tcp(7). If it fails we are only slower, so we ignore the result. */
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);

    memcpy(connections[fd].name, name, sizeof name);
    watch(fd);
    say("new connection from %s on %s\n", name, connections[listener].name);
}

/* Sends what is left of the answer to fd, or the part of it that send() takes. May close fd. */
static void send_answer(int fd) {
    struct connection *c = &connections[fd];
    const char *rest = ANSWER + c->sent;

    /* To send on a broken connection is an error, EPIPE. Without MSG_NOSIGNAL it is also a signal,
     * SIGPIPE, which kills the program without a message. */
    ssize_t sent = send(fd, rest, strlen(rest), MSG_NOSIGNAL);

    if (sent == -1) {
        if (!is_temporary(errno))
            close_connection(fd, "send", errno);
        return;
    }
    say("sending \"%s\" to %s\n", escaped(rest, (size_t)sent), c->name);
    c->sent += (size_t)sent;
    if (c->sent == strlen(ANSWER)) {
        FD_CLR(fd, &to_answer);
        FD_SET(fd, &to_read);
    }
}

/* Reads what the client has sent. Whatever it is, we owe the client an answer now. May close fd. */
static void read_question(int fd) {
    static char buffer[BUFFER_SIZE]; /* for all connections: nothing stays in it */
    ssize_t received = recv(fd, buffer, sizeof buffer, 0);

    if (received == -1) {
        if (!is_temporary(errno))
            close_connection(fd, "recv", errno);
        return;
    }
    if (received == 0) { /* end of file: the client has closed, and we owe it nothing */
        close_connection(fd, "reading no data", 0);
        return;
    }
    say("received \"%s\" from %s\n", escaped(buffer, (size_t)received), connections[fd].name);
    connections[fd].sent = 0;
    FD_CLR(fd, &to_read);
    FD_SET(fd, &to_answer);
}

/* ---- Accepting clients -------------------------------------------------------------------- */

static bool out_of_descriptors; /* or of memory: accept() said so, and we have logged it */

static bool may_accept(void) {
    return seconds() >= accept_again_at;
}

/* accept() has no free descriptor, or no memory, for one more client. The client stays in the
 * backlog, so accept() would fail again at once. Without a pause we would spin: keep a core busy
 * with calls that fail. (Linux reserves the descriptor before it looks into the backlog, so this
 * happens even when no client is waiting.) */
static void pause_accepting(void) {
    if (!out_of_descriptors) /* log once per shortage, not at every retry */
        fprintf(stderr,
                "out of descriptors: accept: %s; "
                "trying again when a client leaves, or in a second\n",
                strerror(errno));
    out_of_descriptors = true;
    accept_again_at = seconds() + 1;
}

/* Accepts the next client in the backlog. Returns false if accept() failed. Besides the temporary
 * errors there are three kinds: a shortage, a mistake of ours, and a client that left too early. */
static bool accept_connection(int listener) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    int fd = accept(listener, (struct sockaddr *)&address, &length);

    if (fd != -1) {
        open_connection(fd, &address, length, listener);
        return true;
    }
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
        pause_accepting(); /* a shortage, which will pass */
    else if (errno == EBADF || errno == EINVAL || errno == ENOTSOCK || errno == EFAULT)
        die("accept", connections[listener].name); /* a mistake of ours, which will not pass */
    else if (is_temporary(errno))
        out_of_descriptors = false; /* no client is waiting, and a descriptor was free */
    else
        say("accept: %s\n", strerror(errno)); /* probably a client that left too early */
    return false;
}

/* Accepts up to ACCEPTS_MAX clients. With one per turn, a newcomer would wait a whole turn for each
 * client ahead of it. Without a limit, the others would wait for all of the newcomers. */
static void accept_connections(int listener) {
    for (int i = 0; i < ACCEPTS_MAX && accept_connection(listener); i++)
        continue;
}

/* ---- The loop ----------------------------------------------------------------------------- */

/* Logs which sockets are in a set that select() has returned. */
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

/* Takes the listeners out of a set. */
static void remove_listeners(fd_set *set) {
    for (int fd = 0; fd <= highest; fd++)
        if (FD_ISSET(fd, &listeners))
            FD_CLR(fd, set);
}

/* Runs until a signal kills the program, or until die(). */
static void serve(void) {
    for (;;) {
        /* select() overwrites the sets with its answer, so it gets copies. The timeval is set again
         * each time, too: with glibc, select() leaves in it what was left of the time; musl does
         * not. With glibc, a program that sets it only once sleeps less and less, and finally not
         * at all. */
        fd_set readable = to_read, writable = to_answer;
        struct timeval a_second = {.tv_sec = 1};

        if (!may_accept())
            remove_listeners(&readable);
        if (select(highest + 1, &readable, &writable, NULL, &a_second) == -1) {
            if (errno != EINTR)
                die("select", "all ports");
            continue; /* a signal interrupted it: nothing has been reported */
        }

        say_ready("ready to be read", &readable);
        say_ready("ready to be answered", &writable);
        for (int fd = 0; fd <= highest; fd++) {
            if (FD_ISSET(fd, &writable))
                send_answer(fd);
            else if (FD_ISSET(fd, &readable) && FD_ISSET(fd, &listeners))
                accept_connections(fd);
            else if (FD_ISSET(fd, &readable))
                read_question(fd);
        }
    }
}

/* ---- Starting up -------------------------------------------------------------------------- */

/* Opens a listener on host and port, or ends the program. */
static void open_listener(const char *port) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *address; /* host and port in the form that socket() and bind() want */
    char where[NAME_SIZE];

    snprintf(where, sizeof where, "port %s", port);

    /* SOCK_STREAM means TCP; the AI_ flags mean that both texts are numbers. */
    if (getaddrinfo(host, port, &hints, &address) != 0)
        usage("PORT is not a number from 0 to 65535");
    int listener = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (listener == -1)
        die("socket", where);
    if (listener >= FD_SETSIZE) { /* the program that started us left too many files open */
        errno = EMFILE;
        die("select", where);
    }

    /* When a server ends, the kernel keeps its connections for another minute, and bind() to their
     * port would fail. With SO_REUSEADDR it does not, unless another program listens there. */
    int on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);

    if (bind(listener, address->ai_addr, address->ai_addrlen) == -1)
        die("bind", where);
    if (listen(listener, BACKLOG) == -1) /* the system may cap BACKLOG: listen(2) */
        die("listen", where);
    if (set_nonblocking(listener) == -1)
        die("fcntl", where);

    /* For port 0 the kernel has picked a free one: ask the socket which. */
    char bound_port[8] = "?";
    if (getsockname(listener, address->ai_addr, &address->ai_addrlen) == -1)
        die("getsockname", where);
    getnameinfo(address->ai_addr, address->ai_addrlen, NULL, 0, bound_port, sizeof bound_port,
                NI_NUMERICSERV);
    fprintf(stderr, "starting up on %s port %s\n", host, bound_port);
    freeaddrinfo(address);

    snprintf(connections[listener].name, NAME_SIZE, "port %s", bound_port);
    FD_SET(listener, &listeners);
    watch(listener);
}

int main(int argc, char *argv[]) {
    static char *default_ports[] = {"8001", "8002"};
    static char log_buffer[BUFSIZ];
    char **ports = default_ports, *end;
    int count = 2, option;

    opterr = 0; /* usage() says what is wrong, not getopt() */
    while ((option = getopt(argc, argv, "q")) != -1) {
        if (option == 'q')
            quiet = true;
        else
            usage("unknown or incomplete option");
    }
    if (optind < argc) {
        ports = argv + optind;
        count = argc - optind;
    }
    for (int i = 0; i < count; i++) {
        long number = strtol(ports[i], &end, 10);
        /* The first character is a digit, because strtol() would also take a blank or a sign. */
        if (*ports[i] < '0' || *ports[i] > '9' || *end != '\0' || number > 65535)
            usage("PORT is not a number from 0 to 65535");
    }

    /* stderr has no buffer of its own, so a line of the log would go out in pieces. */
    setvbuf(stderr, log_buffer, _IOLBF, sizeof log_buffer);
    for (int i = 0; i < count; i++)
        open_listener(ports[i]);
    fprintf(stderr, "listening sockets: %d\n", count);
    serve();
}
