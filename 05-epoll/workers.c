/* workers: the server of this stage, with a thread per core, and an event loop in each of them.
 *
 *     cc workers.c -o workers     add -pthread if your glibc is older than 2.34
 *     ./workers                   in another window: ./client, or nc 127.0.0.1 10000
 *     ./workers -j 4              four threads, however many cores there are
 *
 * New compared with server.c: SO_REUSEPORT. With this option several listeners may have the same
 * port, and the kernel spreads new clients over them. Each thread, called a worker, has a listener,
 * an epoll instance and clients of its own. It runs the loop of server.c, which does not know that
 * there are other threads. The threads share nothing but the log, and one flag that keeps the log
 * short. So there is no lock of ours. Start reading at the end of main(), and at run_worker(). To
 * see all that is different, run "diff server.c workers.c".
 *
 * Watch for: variables that change after the start. Each of them, except that flag, exists once per
 * thread (_Thread_local). If you forget one, such as the buffer, clients get each other's bytes, but
 * only under load. And SO_REUSEPORT lets a second server join the first without an error. Therefore
 * main() begins with a listener that does not have this option.
 *
 * Left out on purpose: pinning threads to cores, and moving a client to a thread that has less to
 * do. The kernel chooses the thread when the client connects, and does not know how busy it is.
 */
#define _DEFAULT_SOURCE /* SO_REUSEPORT, besides POSIX */

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    BACKLOG = 4096,          /* the most clients in the backlog */
    ACCEPTS_MAX = 64,        /* the most clients that one turn of the loop accepts */
    BUFFER_SIZE = 64 * 1024, /* the most bytes that one recv() returns, and that we owe a client */
    EVENTS_MAX = 64,         /* the most events that one epoll_wait() returns */
    SHOWN_MAX = 48,          /* the most bytes of data that a line of the log shows */
    NAME_SIZE = 80,          /* enough for "[address]:port" */
    THREADS_MAX = 256,       /* the most threads */
};

/* A connection with a client, which gets back every byte that it sends. It is in one of two states:
 *
 *   reading   queue is NULL: we owe the client nothing, and wait for what it sends.
 *   owing     queue holds what one recv() brought. send() may take only part of it, so queue_sent
 *             counts how much it took. When it has taken everything we free the queue, and are
 *             reading again.
 *
 * It ends when the client closes it, which recv() reports by returning 0, or when a call fails.
 *
 * We never read from a client while we owe it something, so a queue holds at most what one recv()
 * brought. If a client sends and sends, but does not read its echo, the kernel's buffers on the way
 * to it fill up, and we stay owing. Because we do not read meanwhile, the buffers on the way from
 * it fill up as well, and then its own send() must wait. This is called backpressure. */
struct connection {
    int fd;               /* our socket, which accept() returned */
    char name[NAME_SIZE]; /* the client's address, for the log */
    char *queue;          /* the bytes to send back, or NULL */
    size_t queue_length;  /* how many bytes it holds */
    size_t queue_sent;    /* how many of them send() has taken */
    uint32_t interest;    /* the events that the kernel watches for, 0 before it does */
};

static _Thread_local int epoll;              /* the descriptor of the kernel's list */
static _Thread_local double accept_again_at; /* in seconds(): no accept() until then */

static const char *port, *host; /* where we listen, as text */
static bool quiet;              /* -q: do not log individual clients */

/* ---- Reporting ---------------------------------------------------------------------------- */

/* Logs a line, unless -q is given. With -q the arguments are not even evaluated, which saves the
 * time for escaped().
 *
 * We took a shortcut here, in all six stages: writing to stderr may block. While its terminal is
 * stopped (Ctrl-S), or the program at the other end of a pipe does not read, the whole server
 * stands still.
 *
 * Any thread may log: each call of fprintf() locks stderr, so lines stay whole.
 * (01-blocking/threads.c says why strerror() is safe, too.) */
#define say(...) ((void)(quiet || fprintf(stderr, __VA_ARGS__)))

/* Returns a text that shows data, its first SHOWN_MAX bytes at most. What is not printable is
 * escaped, so that no client can forge a line of the log, or send commands to the terminal that
 * shows it. The next call overwrites the text. */
static const char *escaped(const char *data, size_t length) {
    static _Thread_local char text[SHOWN_MAX * sizeof "\\x00" + sizeof "..."]; /* the worst case */
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
            "workers: %s\n"
            "usage: workers [-q] [-j THREADS] [PORT [HOST]]\n"
            "-j: the number of threads, 1 to 256 (default: one per core)\n"
            "-q: do not log individual clients; default PORT 10000 (0: any), HOST 127.0.0.1\n",
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
    flockfile(stderr); /* if another thread comes here as well, it waits here for our exit() */
    fprintf(stderr, "workers: %s %s port %s: %s (%s)\n", call, host, port, strerror(errno), advice);
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

/* Is c reading? If not, it is owing. */
static bool wants_read(const struct connection *c) {
    return c->queue == NULL;
}

/* Returns the error that broke the connection on fd, or 0, and clears it: SO_ERROR in socket(7). */
static int pending_error(int fd) {
    int error = 0;
    socklen_t length = sizeof error;

    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    return error;
}

/* Closes and frees c. The log says why: after what, and with which error (0 if there is none). */
static void close_connection(struct connection *c, const char *why, int error) {
    say("closing %s after %s%s%s\n", c->name, why, error ? ": " : "", error ? strerror(error) : "");
    close(c->fd); /* epoll forgets it as well, since no dup() or fork() has made a copy of it */
    free(c->queue);
    free(c);
    accept_again_at = 0; /* a descriptor is free now */
}

/* Has the kernel watch for what c waits for now, if that has changed. May close and free c. */
static void update_interest(struct connection *c) {
    uint32_t interest = wants_read(c) ? EPOLLIN | EPOLLPRI : EPOLLOUT | EPOLLPRI;
    struct epoll_event event = {.events = interest, .data.ptr = c};
    int operation = c->interest == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

    if (interest != c->interest && epoll_ctl(epoll, operation, c->fd, &event) == -1) {
        close_connection(c, "epoll_ctl", errno);
        return;
    }
    c->interest = interest;
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

    /* Without this the kernel may hold back a small piece of echo until the client's kernel has
     * acknowledged the piece before (Nagle's algorithm), which may take that kernel 40 ms (delayed
     * ACK): TCP_NODELAY in tcp(7). If it fails we are only slower, so we ignore the result. */
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);

    say("new connection from %s\n", c->name);
    update_interest(c);
}

/* Reads the urgent byte with MSG_OOB ("out of band"), which ends the exceptional condition. It is
 * not part of the stream, so we do not echo it. A plain recv() would skip and lose it: tcp(7). */
static void receive_urgent(struct connection *c) {
    char byte;

    say("handling exceptional condition for %s\n", c->name);
    if (recv(c->fd, &byte, 1, MSG_OOB) == 1)
        say("received urgent \"%s\" from %s\n", escaped(&byte, 1), c->name);
}

/* Sends what is left of c's queue, or the part of it that send() takes. May close and free c. */
static void send_queue(struct connection *c) {
    const char *rest = c->queue + c->queue_sent;

    /* To send on a broken connection is an error, EPIPE. Without MSG_NOSIGNAL it is also a signal,
     * SIGPIPE, which kills the program without a message. */
    ssize_t sent = send(c->fd, rest, c->queue_length - c->queue_sent, MSG_NOSIGNAL);

    if (sent == -1 && !is_temporary(errno)) {
        close_connection(c, "send", errno);
        return;
    }
    if (sent > 0) {
        say("sending \"%s\" to %s\n", escaped(rest, (size_t)sent), c->name);
        c->queue_sent += (size_t)sent;
    }
    if (c->queue_sent == c->queue_length) {
        free(c->queue);
        c->queue = NULL;
        if (c->interest & EPOLLOUT)
            say("output queue for %s is empty\n", c->name);
    }
    update_interest(c);
}

/* Fills the queue of c, which is NULL, with what the client has sent. May close and free c. */
static void fill_queue(struct connection *c) {
    static _Thread_local char buffer[BUFFER_SIZE]; /* for all connections: nothing stays in it */
    ssize_t received = recv(c->fd, buffer, sizeof buffer, 0);

    if (received == -1) {
        if (!is_temporary(errno))
            close_connection(c, "recv", errno);
        return;
    }
    if (received == 0) { /* end of file: the client has closed, and we owe it nothing */
        close_connection(c, "reading no data", 0);
        return;
    }
    say("received \"%s\" from %s\n", escaped(buffer, (size_t)received), c->name);
    c->queue = malloc((size_t)received);
    if (c->queue == NULL) {
        close_connection(c, "malloc", errno);
        return;
    }
    memcpy(c->queue, buffer, (size_t)received);
    c->queue_length = (size_t)received;
    c->queue_sent = 0;
    send_queue(c); /* the socket is nearly always writable, so this is usually all that it takes */
}

/* ---- Accepting clients -------------------------------------------------------------------- */

/* accept() lacks descriptors or memory, which all threads share, and we have logged it. */
static atomic_bool out_of_descriptors;

static bool may_accept(void) {
    return seconds() >= accept_again_at;
}

/* accept() has no free descriptor, or no memory, for one more client. The client stays in the
 * backlog, so accept() would fail again at once. Without a pause we would spin: keep a core busy
 * with calls that fail. (Linux reserves the descriptor before it looks into the backlog, so this
 * happens even when no client is waiting.) */
static void pause_accepting(void) {
    if (!atomic_exchange(&out_of_descriptors, true)) /* log once per shortage, not at every retry */
        fprintf(stderr,
                "out of descriptors: accept: %s; "
                "trying again when a client leaves, or in a second\n",
                strerror(errno));
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

/* Has the kernel watch the listener, or not while we are not accepting. The event's pointer is
 * NULL, which is how serve() recognises it. */
static void watch_listener(int listener, bool accepting) {
    static _Thread_local int watched = -1; /* not yet */
    struct epoll_event event = {.events = accepting ? EPOLLIN : 0};
    int operation = watched == -1 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

    if ((int)accepting != watched && epoll_ctl(epoll, operation, listener, &event) == -1)
        die("epoll_ctl");
    watched = accepting;
}

/* ---- The loop ----------------------------------------------------------------------------- */

/* Returns how long to wait for events: forever, or a second while no newcomer can wake us. */
static int timeout(bool accepting) {
    return accepting ? -1 : 1000; /* in milliseconds; -1 is forever */
}

/* Runs until a signal kills the program, or until die(). */
static void serve(int listener) {
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        bool accepting = may_accept();

        say("waiting for the next event\n");
        watch_listener(listener, accepting);
        int count = epoll_wait(epoll, events, EVENTS_MAX, timeout(accepting));
        if (count == -1) {
            if (errno != EINTR)
                die("epoll_wait");
            continue; /* a signal interrupted it: nothing has been reported */
        }

        /* Serving one connection closes no other. If it did, a later event might belong to the
         * closed one, and its pointer would dangle; callbacks.c shows how to handle that. */
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            uint32_t ready = events[i].events;

            if (c == NULL) {
                accept_connections(listener);
                continue;
            }
            if (ready & EPOLLPRI)
                receive_urgent(c); /* first, because a plain recv() would lose it */
            /* IN and HUP can be set together: read what is left before believing the hang-up, or
             * the client's last words are lost. */
            if (ready & EPOLLIN)
                fill_queue(c); /* may free c: hence the else */
            else if (ready & (EPOLLHUP | EPOLLERR))
                close_connection(c, "receiving HUP", pending_error(c->fd));
            else if (ready & EPOLLOUT)
                send_queue(c);
        }
    }
}

/* ---- Starting up -------------------------------------------------------------------------- */

/* Returns the descriptor of a new listener on host and port, or ends the program. If it is
 * shared, other shared listeners may have the same host and port. */
static int open_listener(bool shared) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *address; /* host and port in the form that socket() and bind() want */

    /* SOCK_STREAM means TCP; the AI_ flags mean that both texts are numbers. */
    if (getaddrinfo(host, port, &hints, &address) != 0)
        usage("HOST is not a numeric address, such as 127.0.0.1 or ::1");
    int listener = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (listener == -1)
        die("socket");

    /* When a server ends, the kernel keeps its connections for another minute, and bind() to their
     * port would fail. With SO_REUSEADDR it does not, unless another program listens there. */
    int on = 1;
    if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == -1 ||
        (shared && setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) == -1))
        die("setsockopt");

    if (bind(listener, address->ai_addr, address->ai_addrlen) == -1)
        die("bind");
    if (listen(listener, BACKLOG) == -1) /* the system may cap BACKLOG: listen(2) */
        die("listen");
    if (set_nonblocking(listener) == -1)
        die("fcntl");

    /* For port 0 the kernel has picked a free one: ask the socket which. */
    static char bound_port[8] = "?";
    if (getsockname(listener, address->ai_addr, &address->ai_addrlen) == -1)
        die("getsockname");
    getnameinfo(address->ai_addr, address->ai_addrlen, NULL, 0, bound_port, sizeof bound_port,
                NI_NUMERICSERV);
    port = bound_port; /* for the next listener, and for the log */
    freeaddrinfo(address);
    return listener;
}

/* What each thread gets of its own. */
struct worker {
    int listener, epoll;
};

/* What each thread does: it serves the clients that the kernel gives to its listener. */
static void *run_worker(void *data) {
    const struct worker *worker = data;

    epoll = worker->epoll;
    serve(worker->listener);
    return NULL;
}

static void start_worker(struct worker *worker) {
    pthread_t thread;

    errno = pthread_create(&thread, NULL, run_worker, worker);
    if (errno != 0)
        die("pthread_create");
}

/* Returns the number of threads that text asks for, or ends the program. */
static long read_threads(const char *text) {
    char *end;
    long number = strtol(text, &end, 10);

    if (*text < '0' || *text > '9' || *end != '\0' || number < 1 || number > THREADS_MAX)
        usage("THREADS is not a number from 1 to 256");
    return number;
}

int main(int argc, char *argv[]) {
    static struct worker workers[THREADS_MAX];
    static char log_buffer[BUFSIZ];
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    long threads = cores < THREADS_MAX ? cores : THREADS_MAX;
    int option;

    opterr = 0; /* usage() says what is wrong, not getopt() */
    while ((option = getopt(argc, argv, "qj:")) != -1) {
        if (option == 'q')
            quiet = true;
        else if (option == 'j')
            threads = read_threads(optarg);
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
    if (*port < '0' || *port > '9' || *end != '\0' || number > 65535)
        usage("PORT is not a number from 0 to 65535");

    /* stderr has no buffer of its own, so a line of the log would go out in pieces. */
    setvbuf(stderr, log_buffer, _IOLBF, sizeof log_buffer);

    /* All listeners with SO_REUSEPORT share the port, also those of a second server of the same user:
     * it would take a part of our clients, and no call would fail. So the first listener is without
     * it, and cannot be opened while any other server has the port. */
    close(open_listener(false));
    for (int i = 0; i < threads; i++) {
        workers[i].listener = open_listener(true);
        workers[i].epoll = epoll_create1(0);
        if (workers[i].epoll == -1)
            die("epoll_create1");
    }
    fprintf(stderr, "starting up on %s port %s\n", host, port);
    for (int i = 1; i < threads; i++)
        start_worker(&workers[i]);
    run_worker(&workers[0]); /* this thread is a worker, too */
}
