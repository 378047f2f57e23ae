/* chat: a chat room for nc and telnet, with pselect(2).
 *
 *     cc chat.c -o chat
 *     ./chat                      in other windows, one a person: nc 127.0.0.1 8008
 *
 * Watch for: what one client says, all the others are owed. So everybody has a queue, and nobody
 * waits for somebody who does not listen. The program ends in good order at Ctrl-C: pselect()
 * lets signals in while it sleeps and at no other time, so none can come just before the sleep and
 * be slept over.
 *
 * Left out on purpose: names that people choose, urgent bytes (server.c), and a way past FD_SETSIZE
 * (04).
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>
#include <wctype.h>

enum {
    BACKLOG = 4096,         /* clients that the kernel may connect for us ahead of accept() */
    BUFFER_SIZE = 4096,     /* bytes that one recv() may bring */
    LINE_SIZE = 1024,       /* bytes of a line that are passed on */
    QUEUE_SIZE = 64 * 1024, /* bytes that one client has yet to hear: the most we owe one */
    SHOWN_MAX = 100,        /* bytes of a line that the log shows */
    NAME_SIZE = 80,         /* room for "[address]:port" */
};

struct connection {
    int fd;
    char name[NAME_SIZE];   /* the client's address and port: who speaks */
    char line[LINE_SIZE];   /* what it has said since its last end of line */
    size_t line_length;     /* bytes of that, */
    bool line_cut;          /* and whether there were more than we keep */
    char queue[QUEUE_SIZE]; /* what it has yet to hear */
    size_t queue_length;    /* bytes in the queue; 0: we owe it nothing */
    bool leaving;           /* marked: to be closed at the end of this turn */
    struct connection *next;
};

static struct connection *connections; /* all of them, the newest first */
static size_t clients;                 /* how many there are */

static double accept_again_at; /* out of descriptors: when to try again, in seconds() */
static bool quiet;             /* -q: not a word about single clients */

static volatile sig_atomic_t ending; /* SIGINT or SIGTERM has come */

/* A line about a client. With -q its arguments are not even evaluated. */
#define say(...) ((void)(quiet || fprintf(stderr, __VA_ARGS__)))

static void usage(const char *problem) {
    fprintf(stderr,
            "chat: %s\n"
            "usage: chat [-q] [PORT [HOST]]\n"
            "-q: no word about single clients; PORT 8008, or 0 for a free one; HOST 127.0.0.1\n",
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
        advice = "ports below 1024 need privileges; try 8008";
    fprintf(stderr, "chat: %s %s port %s: %s (%s)\n", call, host, port, strerror(errno), advice);
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

/* Says why c is to be closed, after which call, with which error (0: none). It is closed at the end
 * of the turn, in close_marked(), and nowhere else: who calls this may be walking over them all. */
static void mark_for_closing(struct connection *c, const char *why, int error) {
    say("closing %s after %s%s%s\n", c->name, why, error ? ": " : "", error ? strerror(error) : "");
    c->leaving = true;
}

/* Sends as much of c's queue as the kernel takes, which may be less than all. */
static void send_to(struct connection *c) {
    /* If the client is gone we want an error, EPIPE, not the signal SIGPIPE, which would end us
     * without a word. */
    ssize_t sent = send(c->fd, c->queue, c->queue_length, MSG_NOSIGNAL);

    if (sent == -1 && is_temporary(errno))
        return;
    if (sent == -1) {
        /* It hears no more. But what it said before that is still to be read and passed on. So we
         * do not close it here, but when recv() has come to the end too. */
        say("send to %s: %s\n", c->name, strerror(errno));
        shutdown(c->fd, SHUT_RDWR);
        sent = (ssize_t)c->queue_length;
    }
    c->queue_length -= (size_t)sent;
    memmove(c->queue, c->queue + sent, c->queue_length);
}

/* Puts text into c's queue. When neither the kernel nor the queue has room for it, c has to go. To
 * leave out a line would be worse: it would not even know that it has missed one. */
static void tell(struct connection *c, const char *text) {
    size_t length = strlen(text);

    if (length > QUEUE_SIZE - c->queue_length)
        send_to(c);
    if (length > QUEUE_SIZE - c->queue_length) {
        mark_for_closing(c, "its queue was full: it does not read", 0);
    } else {
        memcpy(c->queue + c->queue_length, text, length);
        c->queue_length += length;
    }
}

/* Tells the log, and everybody but the speaker (NULL: everybody). */
static void tell_all(const struct connection *speaker, const char *text) {
    say("%.*s%s", SHOWN_MAX, text, strlen(text) > SHOWN_MAX ? "...\n" : "");
    for (struct connection *c = connections; c != NULL && !ending; c = c->next)
        if (c != speaker && !c->leaving)
            tell(c, text);
}

/* Copies the line of c as any terminal can bear it, and returns where the copy ends. Terminals obey
 * control characters: they would let one client move another's cursor, or forge what others say. So
 * those, and what is not UTF-8, become \x1b and the like: four bytes for one at most. */
static char *copy_line(char *text, const struct connection *c) {
    size_t length = c->line_length;

    if (length > 0 && c->line[length - 1] == '\r') /* telnet ends lines with \r\n, nc with \n */
        length--;
    for (size_t i = 0; i < length;) {
        wchar_t character;
        mbstate_t state = {0};
        size_t bytes = mbrtowc(&character, c->line + i, length - i, &state);

        /* What is not, or not wholly, a character gives more bytes than there are: mbrtowc(3). */
        if (bytes > 0 && bytes <= length - i && iswprint((wint_t)character)) {
            memcpy(text, c->line + i, bytes);
            text += bytes;
            i += bytes;
        } else {
            text += sprintf(text, "\\x%02x", (unsigned)(unsigned char)c->line[i++]);
        }
    }
    return text;
}

/* Passes on what c has said since its last end of line, and begins a new line. */
static void pass_on_line(struct connection *c) {
    char text[NAME_SIZE + 4 * LINE_SIZE + 64];
    char *end = copy_line(text + sprintf(text, "%s: ", c->name), c);

    sprintf(end, "%s\n", c->line_cut ? " (cut: too long)" : "");
    c->line_length = 0;
    c->line_cut = false;
    tell_all(c, text);
}

/* Closes and frees those that are marked, and tells the others that they have left. */
static void close_marked(void) {
    struct connection **link = &connections; /* the pointer that points to c */
    struct connection *c;

    while ((c = *link) != NULL) {
        if (!c->leaving) {
            link = &c->next;
            continue;
        }
        if (c->line_length > 0) /* its last words have no end of line */
            pass_on_line(c);
        if (c->queue_length > 0) /* one that has no more to say may still read */
            send_to(c);
        *link = c->next;
        clients--;

        char text[NAME_SIZE + 64];
        sprintf(text, "%s has left (clients: %zu)\n", c->name, clients);
        tell_all(NULL, text);
        close(c->fd);
        free(c);
        if (accept_again_at > seconds())
            accept_again_at = seconds(); /* now there is a descriptor to be had */
        link = &connections; /* that may have filled queues: once more, from the first */
    }
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

    struct connection *c = calloc(1, sizeof *c);
    if (c == NULL || set_nonblocking(fd) == -1) {
        say("refusing a client: %s\n", strerror(errno));
        close(fd);
        free(c);
        return;
    }
    c->fd = fd;
    write_name(c->name, &address, length);

    /* An fd_set is an array of FD_SETSIZE bits, usually 1024. FD_SET() beyond its end writes into
     * whatever memory lies there: select(2). */
    if (fd >= FD_SETSIZE) {
        say("refusing %s: select cannot watch descriptor %d\n", c->name, fd);
        close(fd);
        free(c);
        return;
    }

    /* Without this a small piece waits until the client has acknowledged the one before, which may
     * take 40 ms: TCP_NODELAY in tcp(7). If this fails, that is all that happens. */
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);

    c->next = connections;
    connections = c;
    clients++;

    char text[NAME_SIZE + 64];
    sprintf(text, "New connection from %s (clients: %zu)\n", c->name, clients);
    tell_all(NULL, text);
}

/* Takes in what c has said, and passes on each line that is whole now. */
static void receive_from(struct connection *c) {
    char buffer[BUFFER_SIZE];
    ssize_t received = recv(c->fd, buffer, sizeof buffer, 0);

    if (received == -1 && !is_temporary(errno))
        mark_for_closing(c, "recv", errno);
    if (received == 0)
        mark_for_closing(c, "reading no data", 0);

    /* recv() knows nothing of lines: it may bring half a line, or five. */
    for (ssize_t i = 0; i < received; i++) {
        if (buffer[i] == '\n')
            pass_on_line(c);
        else if (c->line_length < LINE_SIZE)
            c->line[c->line_length++] = buffer[i];
        else
            c->line_cut = true;
    }
}

/* Waits until something happens, for so many seconds at most (negative: for ever), and deals with
 * it. Signals are let in during the wait, and end it. */
static void wait_and_serve(int listener, double longest, const sigset_t *unblocked) {
    struct timespec limit = {.tv_sec = (time_t)longest};
    const struct timespec *timeout = longest < 0 ? NULL : &limit;
    fd_set readable, writable;
    int highest = listener;

    FD_ZERO(&readable);
    FD_ZERO(&writable);
    if (listener != -1)
        FD_SET(listener, &readable);
    for (struct connection *c = connections; c != NULL; c = c->next) {
        FD_SET(c->fd, &readable);
        if (c->queue_length > 0)
            FD_SET(c->fd, &writable);
        if (c->fd > highest)
            highest = c->fd;
    }

    limit.tv_nsec = (long)((longest - (double)limit.tv_sec) * 1e9);
    if (pselect(highest + 1, &readable, &writable, NULL, timeout, unblocked) == -1) {
        /* Nothing has been reported. That a signal came is no error. */
        if (errno != EINTR)
            fprintf(stderr, "pselect: %s\n", strerror(errno));
        return;
    }

    if (listener != -1 && FD_ISSET(listener, &readable))
        accept_connection(listener);
    for (struct connection *c = connections; c != NULL; c = c->next) {
        if (FD_ISSET(c->fd, &readable) && !c->leaving)
            receive_from(c);
        if (FD_ISSET(c->fd, &writable) && c->queue_length > 0)
            send_to(c);
    }
    close_marked();
}

static void serve(int listener, const sigset_t *unblocked) {
    sigset_t blocked;

    while (!ending) {
        bool accepting = seconds() >= accept_again_at;

        wait_and_serve(accepting ? listener : -1, accepting ? -1 : 1, unblocked);

        /* When somebody is ready at once, pselect() does not wait, and Linux lets no signal in. A
         * client that never falls silent would keep it out for ever. So here is a second door. */
        sigprocmask(SIG_SETMASK, unblocked, &blocked);
        sigprocmask(SIG_SETMASK, &blocked, NULL);
    }
}

/* Tells everybody that we end, and gives the news a second to get there. */
static void say_goodbye(const sigset_t *unblocked) {
    double deadline = seconds() + 1;

    fprintf(stderr, "Shutdown Server ......\n");
    for (struct connection *c = connections; c != NULL; c = c->next)
        tell(c, "Shutdown Server\n");

    /* Had we left a byte unread, close() would reset the connection, and the kernel of the client
     * might throw our last words away: RFC 1122, 4.2.2.13. So we close our direction only, and read
     * until the client has closed its own. */
    for (double left = 1; connections != NULL && left > 0; left = deadline - seconds()) {
        wait_and_serve(-1, left, unblocked);
        for (struct connection *c = connections; c != NULL; c = c->next)
            if (c->queue_length == 0)
                shutdown(c->fd, SHUT_WR);
    }
}

/* A signal handler may do next to nothing: signal-safety(7). */
static void note_signal(int signal) {
    (void)signal;
    ending = 1;
}

/* From now on SIGINT and SIGTERM are blocked, and come in only where we let them: where the signals
 * in unblocked, which is set here, are all that is blocked. */
static void take_signals(sigset_t *unblocked) {
    struct sigaction action = {.sa_handler = note_signal};

    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGINT);
    sigaddset(&action.sa_mask, SIGTERM);
    sigprocmask(SIG_BLOCK, &action.sa_mask, unblocked);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int main(int argc, char *argv[]) {
    int option;

    opterr = 0;
    while ((option = getopt(argc, argv, "q")) != -1) {
        if (option != 'q')
            usage("there is no such option");
        quiet = true;
    }
    const char *port = optind < argc ? argv[optind] : "8008";
    const char *host = optind + 1 < argc ? argv[optind + 1] : "127.0.0.1";
    if (optind + 2 < argc)
        usage("there are too many arguments");
    if (strspn(port, "0123456789") != strlen(port) || *port == '\0' || atol(port) > 65535)
        usage("PORT is not a number from 0 to 65535");

    setvbuf(stderr, NULL, _IOLBF, BUFSIZ); /* a line of the log goes out whole */
    setlocale(LC_CTYPE, "C.UTF-8");        /* what iswprint() calls a character; else it is ASCII */
    sigset_t unblocked;
    take_signals(&unblocked);
    int listener = open_listener(port, host);
    serve(listener, &unblocked);
    close(listener);
    say_goodbye(&unblocked);
}
