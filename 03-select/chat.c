/* chat: a chat room for nc and telnet, with pselect(2).
 *
 *     cc chat.c -o chat
 *     ./chat                      in other windows, one per guest: nc 127.0.0.1 8008
 *
 * This is server.c with two new subjects. First, we owe what one guest says to all the others.
 * Therefore a queue fills even while its owner says nothing. A line must be found in the stream of
 * bytes, and it must not harm the terminals that show it. Second, the program ends in good order
 * when you press Ctrl-C, and it misses no signal.
 *
 * Start reading at the struct, then tell_all() and close_marked(), then wait_and_serve(), which is
 * one turn of the loop of server.c, and then block_signals().
 *
 * Watch for: a guest that does not read delays no other. Its queue fills, and then we disconnect it
 * instead of waiting. When you press Ctrl-C, all guests get a last line, and time to read it.
 *
 * Left out on purpose: names that people choose, urgent bytes (server.c), and more than FD_SETSIZE
 * descriptors (stage 04). We took a shortcut: the queue is an array, so that its bound takes no
 * code, but even a silent guest costs 66 KB.
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
    BACKLOG = 4096,         /* the most clients in the backlog */
    ACCEPTS_MAX = 64,       /* the most clients that one turn of the loop accepts */
    BUFFER_SIZE = 4096,     /* the most bytes that one recv() returns */
    LINE_SIZE = 1024,       /* the most bytes of a line that we pass on */
    QUEUE_SIZE = 64 * 1024, /* the most bytes that we owe a client */
    SHOWN_MAX = 100,        /* the most bytes that a line of the log shows */
    NAME_SIZE = 80,         /* enough for "[address]:port" */
};

/* A connection with a client, a guest in the room. It stores two things:
 *
 *   line    what this guest has begun to say. recv() may return half a line, or five. The bytes
 *           stay here until the line is complete, and then pass_on_line() puts it into the queues
 *           of all the others.
 *   queue   what the others have said, and this guest has not got yet. send() takes it from here
 *           whenever the kernel has room.
 *
 * We read from every guest at any time, even from one that we owe something, because we owe what it
 * says to others. So the backpressure of server.c would not help here, and a queue can fill up. Its
 * owner does not read, so we disconnect it.
 *
 * While we walk along the list of connections to tell all guests something, we may find that one of
 * them must go. To free it at once could pull the list from under another walk that is going on. So
 * it is only marked as leaving, and close_marked() closes it at the end of the turn. */
struct connection {
    int fd;                 /* our socket, which accept() returned */
    char name[NAME_SIZE];   /* the guest's address, which stands before each of its lines */
    char line[LINE_SIZE];   /* what the guest has said since its last end of line */
    size_t line_length;     /* how many bytes that is */
    bool line_cut;          /* the line was longer: we have dropped the rest of it */
    char queue[QUEUE_SIZE]; /* what the guest has not got yet */
    size_t queue_length;    /* how many bytes that is */
    bool leaving;           /* marked: close_marked() will close this connection */
    struct connection *next;
};

static struct connection *connections; /* all of them, the newest first */
static size_t clients;                 /* how many there are */
static double accept_again_at;         /* in seconds(): no accept() until then, after a shortage */

static volatile sig_atomic_t ending; /* SIGINT or SIGTERM has come */
static sigset_t waiting_mask;        /* the blocked signals while we wait: not these two */

static const char *port, *host; /* where we listen, as text */
static bool quiet;              /* -q: do not log individual clients */

/* ---- Reporting ---------------------------------------------------------------------------- */

/* Logs a line, unless -q is given. With -q the arguments are not even evaluated.
 *
 * We took a shortcut here, in all six stages: writing to stderr may block. While its terminal is
 * stopped (Ctrl-S), or the program at the other end of a pipe does not read, the whole server
 * stands still. */
#define say(...) ((void)(quiet || fprintf(stderr, __VA_ARGS__)))

static void usage(const char *problem) {
    fprintf(stderr,
            "chat: %s\n"
            "usage: chat [-q] [PORT [HOST]]\n"
            "-q: do not log individual clients; default PORT 8008 (0: any), HOST 127.0.0.1\n",
            problem);
    exit(2);
}

/* Ends the program because of an error that is not a client's and will not pass: we cannot start,
 * or have used a call wrongly. No client's error ends the program, and once it has started no
 * shortage of descriptors does. */
static void die(const char *call) {
    const char *advice = "see its manual page";

    if (errno == EADDRINUSE)
        advice = "another program has this port; try another, or 0";
    else if (errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT)
        advice = "this machine does not have that address; try 127.0.0.1";
    else if (errno == EACCES)
        advice = "ports below 1024 need privileges; try 10000";
    fprintf(stderr, "chat: %s %s port %s: %s (%s)\n", call, host, port, strerror(errno), advice);
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

/* ---- A connection's life ------------------------------------------------------------------ */

/* Marks c. The log says why: after what, and with which error, or 0 if there was none. The caller
 * may be walking along the list of connections, so only close_marked() takes c out of it. */
static void mark_for_closing(struct connection *c, const char *why, int error) {
    say("closing %s after %s%s%s\n", c->name, why, error ? ": " : "", error ? strerror(error) : "");
    c->leaving = true;
}

/* Sends what is in c's queue, or the part of it that send() takes. */
static void send_queue(struct connection *c) {
    /* To send on a broken connection is an error, EPIPE. Without MSG_NOSIGNAL it is also a signal,
     * SIGPIPE, which kills the program without a message. */
    ssize_t sent = send(c->fd, c->queue, c->queue_length, MSG_NOSIGNAL);

    if (sent == -1 && is_temporary(errno))
        return;
    if (sent == -1) {
        /* This guest gets nothing more. But the kernel may still hold lines that it has said, and
         * the others must get them. So we drop the queue here, and close the connection later,
         * when recv() has returned these lines and then the end. If the others say something
         * meanwhile, we come here again, with EPIPE. */
        if (errno != EPIPE)
            say("send to %s: %s\n", c->name, strerror(errno));
        shutdown(c->fd, SHUT_RDWR);
        sent = (ssize_t)c->queue_length;
    }
    c->queue_length -= (size_t)sent;
    memmove(c->queue, c->queue + sent, c->queue_length);
}

/* Puts text into c's queue. If it does not fit, c has to go. To leave the text out would be worse:
 * the guest would miss a line and not even know. */
static void tell(struct connection *c, const char *text) {
    size_t length = strlen(text);

    if (length > QUEUE_SIZE - c->queue_length)
        send_queue(c);
    if (length > QUEUE_SIZE - c->queue_length) {
        mark_for_closing(c, "its queue was full: it does not read", 0);
        return;
    }
    memcpy(c->queue + c->queue_length, text, length);
    c->queue_length += length;
}

/* Tells the log, and every guest but the speaker (NULL: every guest). A guest that is leaving gets
 * nothing more. No guest does while we are ending, because its last line is "Shutdown Server". */
static void tell_all(const struct connection *speaker, const char *text) {
    say("%.*s%s", SHOWN_MAX, text, strlen(text) > SHOWN_MAX ? "...\n" : "");
    for (struct connection *c = connections; c != NULL; c = c->next)
        if (c != speaker && !c->leaving && !ending)
            tell(c, text);
}

/* May a terminal show this character? Terminals obey control characters: with them a guest could
 * move the cursor back, and overwrite what another one said. iswprint() says no to these. It says
 * yes to characters that are invisible, or that reverse the direction of writing. They can make a
 * line look like another one, so we name them here. (There is a price: some words in Persian and
 * Hindi, and some emoji, need U+200C or U+200D, and these are escaped, too.) */
static bool is_harmless(wchar_t character) {
    return iswprint((wint_t)character) && !(character >= 0x200b && character <= 0x200f) &&
           !(character >= 0x202a && character <= 0x202e) &&
           !(character >= 0x2066 && character <= 0x2069) && character != 0xfeff;
}

/* Tells the others what c has said since its last end of line, and begins a new line. Harmless
 * characters in UTF-8 are passed on as they are. Any other byte becomes \x1b or the like, so a line
 * grows to four times its length at most. */
static void pass_on_line(struct connection *c) {
    char text[NAME_SIZE + 4 * LINE_SIZE + 64];
    char *end = text + sprintf(text, "%s: ", c->name);
    size_t length = c->line_length;

    if (length > 0 && c->line[length - 1] == '\r') /* telnet ends lines with \r\n, nc with \n */
        length--;
    for (size_t i = 0; i < length;) {
        wchar_t character;
        mbstate_t state = {0};
        size_t bytes = mbrtowc(&character, c->line + i, length - i, &state);

        /* If no whole character begins here, mbrtowc() returns a huge number, (size_t)-1 or -2. */
        if (bytes > 0 && bytes <= length - i && is_harmless(character)) {
            while (bytes-- > 0)
                *end++ = c->line[i++];
        } else {
            end += sprintf(end, "\\x%02x", (unsigned)(unsigned char)c->line[i++]);
        }
    }
    sprintf(end, "%s\n", c->line_cut ? " (cut: too long)" : "");
    c->line_length = 0;
    c->line_cut = false;
    tell_all(c, text);
}

/* Closes and frees the connections that are marked, and tells the other guests. */
static void close_marked(void) {
    struct connection **link = &connections, *c; /* link is the pointer that points to c */

    while ((c = *link) != NULL) {
        if (!c->leaving) {
            link = &c->next;
            continue;
        }
        if (c->line_length > 0) /* its last line has no end */
            pass_on_line(c);
        if (c->queue_length > 0) /* a guest that says nothing more may still read */
            send_queue(c);
        *link = c->next;
        clients--;

        char text[NAME_SIZE + 64];
        sprintf(text, "%s has left (clients: %zu)\n", c->name, clients);
        tell_all(NULL, text);
        close(c->fd);
        free(c);
        accept_again_at = 0; /* a descriptor is free now */
        link = &connections; /* tell_all() may have marked others: begin again */
    }
}

/* Begins a connection with a new client; accept() has returned its fd and its address. */
static void open_connection(int fd, const struct sockaddr_storage *address, socklen_t length) {
    struct connection *c = calloc(1, sizeof *c);

    if (c == NULL || set_nonblocking(fd) == -1) {
        say("refusing a client: %s\n", strerror(errno));
        close(fd);
        free(c);
        return;
    }
    c->fd = fd;
    write_name(c->name, address, length);

    /* FD_SET() with such a descriptor would write past the end of the set: select(2). */
    if (fd >= FD_SETSIZE) {
        say("refusing %s: select cannot watch descriptor %d\n", c->name, fd);
        close(fd);
        free(c);
        return;
    }

    /* Without this the kernel may hold back a line until the client's kernel has acknowledged the
     * line before (Nagle's algorithm), which may take that kernel 40 ms (delayed ACK): TCP_NODELAY
     * in tcp(7). If it fails we are only slower, so we ignore the result. */
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);

    c->next = connections;
    connections = c;
    clients++;

    char text[NAME_SIZE + 64];
    sprintf(text, "New connection from %s (clients: %zu)\n", c->name, clients);
    tell_all(NULL, text);
}

/* Reads what c has said, and passes on each line that is complete now. */
static void receive_lines(struct connection *c) {
    char buffer[BUFFER_SIZE];
    ssize_t received = recv(c->fd, buffer, sizeof buffer, 0);

    if (received == -1 && !is_temporary(errno))
        mark_for_closing(c, "recv", errno);
    if (received == 0)
        mark_for_closing(c, "reading no data", 0);
    for (ssize_t i = 0; i < received; i++) {
        if (buffer[i] == '\n')
            pass_on_line(c);
        else if (c->line_length < LINE_SIZE)
            c->line[c->line_length++] = buffer[i];
        else
            c->line_cut = true;
    }
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
        open_connection(fd, &address, length);
        return true;
    }
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
        pause_accepting(); /* a shortage, which will pass */
    else if (errno == EBADF || errno == EINVAL || errno == ENOTSOCK || errno == EFAULT)
        die("accept"); /* a mistake of ours, which will not pass */
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

/* ---- Signals ------------------------------------------------------------------------------ */

/* The handler of SIGINT and SIGTERM. It only sets a flag, because hardly any function may be called
 * in a signal handler: signal-safety(7). */
static void note_signal(int signal) {
    (void)signal;
    ending = 1;
}

/* From now on SIGINT and SIGTERM are blocked, except where we use waiting_mask. A blocked signal
 * has to wait. Without this, a signal could come after we have looked at ending and before select()
 * sleeps: it would set the flag, and end no sleep. pselect() unblocks the signals, sleeps, and
 * blocks them again, in one step. */
static void block_signals(void) {
    struct sigaction action = {.sa_handler = note_signal};

    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGINT);
    sigaddset(&action.sa_mask, SIGTERM);
    sigprocmask(SIG_BLOCK, &action.sa_mask, &waiting_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

/* ---- The loop ----------------------------------------------------------------------------- */

/* Waits until a socket is ready or a signal comes, and serves what is ready. While we are not
 * accepting, listener is -1, and the wait is over after a second. */
static void wait_and_serve(int listener) {
    static const struct timespec a_second = {.tv_sec = 1};
    const struct timespec *timeout = listener == -1 ? &a_second : NULL;
    fd_set readable, writable;
    int highest = listener;

    /* pselect() overwrites the sets with its answer, so each turn fills them again. */
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

    if (pselect(highest + 1, &readable, &writable, NULL, timeout, &waiting_mask) == -1) {
        if (errno != EINTR)
            die("pselect");
        return; /* a signal interrupted it: nothing has been reported */
    }

    if (listener != -1 && FD_ISSET(listener, &readable))
        accept_connections(listener);
    for (struct connection *c = connections; c != NULL; c = c->next) {
        if (FD_ISSET(c->fd, &readable) && !c->leaving)
            receive_lines(c);
        if (FD_ISSET(c->fd, &writable) && c->queue_length > 0)
            send_queue(c);
    }
    close_marked();
}

/* Runs until SIGINT or SIGTERM has come, or until die(). */
static void serve(int listener) {
    sigset_t blocked;

    while (!ending) {
        wait_and_serve(may_accept() ? listener : -1);

        /* If a guest is ready at once, pselect() does not wait, and then Linux delivers no signal:
         * a guest that never stops talking would keep it out forever. So we let it in here, too. */
        sigprocmask(SIG_SETMASK, &waiting_mask, &blocked);
        sigprocmask(SIG_SETMASK, &blocked, NULL);
    }
}

/* ---- Ending ------------------------------------------------------------------------------- */

/* Tells all guests that we end, and gives them a second or two to read it. */
static void say_goodbye(void) {
    double deadline = seconds() + 1;

    fprintf(stderr, "Shutdown Server ......\n");
    for (struct connection *c = connections; c != NULL; c = c->next)
        tell(c, "Shutdown Server\n");

    /* If we called close() while a byte is unread, it would reset the connection, and our kernel
     * would discard what it has not sent: RFC 1122, 4.2.2.13. So we close our direction only, and
     * read until the guest has closed its own. */
    while (connections != NULL && seconds() < deadline) {
        wait_and_serve(-1);
        for (struct connection *c = connections; c != NULL; c = c->next)
            if (c->queue_length == 0)
                shutdown(c->fd, SHUT_WR);
    }
}

/* ---- Starting up -------------------------------------------------------------------------- */

/* Returns the descriptor of a new listener on host and port, or ends the program. */
static int open_listener(void) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *address; /* host and port in the form that socket() and bind() want */

    /* SOCK_STREAM means TCP; the AI_ flags mean that both texts are numbers. */
    if (getaddrinfo(host, port, &hints, &address) != 0)
        usage("HOST is not a numeric address, such as 127.0.0.1 or ::1");
    int listener = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (listener == -1)
        die("socket");
    if (listener >= FD_SETSIZE) { /* the program that started us left too many files open */
        errno = EMFILE;
        die("select");
    }

    /* When a server ends, the kernel keeps its connections for another minute, and bind() to their
     * port would fail. With SO_REUSEADDR it does not, unless another program listens there. */
    int on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);

    if (bind(listener, address->ai_addr, address->ai_addrlen) == -1)
        die("bind");
    if (listen(listener, BACKLOG) == -1) /* the system may cap BACKLOG: listen(2) */
        die("listen");
    if (set_nonblocking(listener) == -1)
        die("fcntl");

    /* For port 0 the kernel has picked a free one: ask the socket which. */
    char bound_port[8] = "?";
    if (getsockname(listener, address->ai_addr, &address->ai_addrlen) == -1)
        die("getsockname");
    getnameinfo(address->ai_addr, address->ai_addrlen, NULL, 0, bound_port, sizeof bound_port,
                NI_NUMERICSERV);
    fprintf(stderr, "starting up on %s port %s\n", host, bound_port);
    freeaddrinfo(address);
    return listener;
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
    port = optind < argc ? argv[optind] : "8008";
    host = optind + 1 < argc ? argv[optind + 1] : "127.0.0.1";
    if (optind + 2 < argc)
        usage("there are too many arguments");
    char *end;
    long number = strtol(port, &end, 10);
    /* The first character is a digit, because strtol() would also take a blank or a sign. */
    if (*port < '0' || *port > '9' || *end != '\0' || number > 65535)
        usage("PORT is not a number from 0 to 65535");

    /* stderr has no buffer of its own, so a line of the log would go out in pieces. */
    setvbuf(stderr, log_buffer, _IOLBF, sizeof log_buffer);
    setlocale(LC_CTYPE, "C.UTF-8"); /* for mbrtowc() and iswprint(); if it fails they know ASCII */
    block_signals();
    int listener = open_listener();
    serve(listener);
    close(listener);
    say_goodbye();
}
