/* callbacks: the server of this stage, turned inside out: an event loop that calls callbacks.
 *
 *     cc callbacks.c -o callbacks         with an old glibc, add -pthread
 *     ./callbacks --slow 1000             each message takes a second, and every client waits
 *     ./callbacks --slow 1000 --worker    the work is done in a thread, so the others do not wait
 *
 * New compared with server.c, in three steps. First, the loop is on its own. It knows descriptors
 * and functions, but neither clients nor echo: you register a descriptor with a callback, and the
 * loop calls this function when the descriptor is ready. Second, a callback may close any
 * connection, not only its own. To show this, a client that sends "login" ends the connection of
 * the client that did so before. Third, work that takes long is done by a worker, a thread that
 * wakes the loop through an eventfd(2) when it is done.
 *
 * Start reading at "The loop", then main(), which registers the first callbacks, and then
 * connection_callback(), log_in() and start_worker().
 *
 * Watch for: pointers to memory that has been freed. epoll_wait() may have returned an event of a
 * connection that a callback closes before we come to that event. And a worker has a pointer to its
 * connection. So the loop frees a source only when all events of the batch have been served, and we
 * free a connection only when no worker has it.
 *
 * Left out on purpose: a limit on the number of threads (a program for real use has a few threads
 * that take messages from a queue), passwords, and a protocol ("login" must be the first bytes that
 * one recv() returns). The loop lacks what libraries have: timeouts, signals, systems other than
 * Linux, and a way to register a descriptor from another thread.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum {
    BACKLOG = 4096,          /* the most clients in the backlog */
    ACCEPTS_MAX = 64,        /* the most clients that one turn of the loop accepts */
    BUFFER_SIZE = 64 * 1024, /* the most bytes that one recv() returns, and that we owe a client */
    EVENTS_MAX = 64,         /* the most events that one epoll_wait() returns */
    SHOWN_MAX = 48,          /* the most bytes of data that a line of the log shows */
    NAME_SIZE = 80,          /* enough for "[address]:port" */
};

/* A connection with a client, which gets back every byte that it sends. It is in one of three
 * states:
 *
 *   reading   queue is NULL: we owe the client nothing, and wait for what it sends.
 *   working   with --worker only: queue holds what one recv() brought, and a thread works on it.
 *             The thread has a pointer to the connection. So if we close the connection before the
 *             thread is done, we set closed, and free the connection later.
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

    struct source *source;   /* its entry in the loop, or NULL */
    bool working;            /* does a worker have a pointer to it? */
    bool closed;             /* has it been closed while a worker had it? */
    struct connection *next; /* the next one in the list finished */
};

static struct connection *logged_in;   /* the one that sent "login" last, or NULL */
static struct source *listener_source; /* calls accept_callback() */
static struct source *timer_source;    /* calls it, too, a second after a shortage */

static int slowness;    /* --slow: how many milliseconds each message takes */
static bool use_worker; /* --worker */
static int wake_up;     /* an eventfd: a worker makes it readable when it is done */

static struct connection *finished; /* the list of those whose worker is done */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* to be held when finished is used */

static const char *port, *host; /* where we listen, as text */
static bool quiet;              /* -q: do not log individual clients */

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
    fprintf(
        stderr,
        "callbacks: %s\n"
        "usage: callbacks [-q] [--slow MS] [--worker] [PORT [HOST]]\n"
        "-s, --slow: each message takes MS milliseconds (0); -w, --worker: do this in a thread\n"
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
    fprintf(stderr, "callbacks: %s %s port %s: %s (%s)\n", call, host, port, strerror(errno),
            advice);
    exit(1);
}

/* ---- The loop ----------------------------------------------------------------------------- */

/* This part could be a library, and libevent, libev and libuv are such libraries. register_source()
 * is called event_add(), ev_io_start() and uv_poll_start() there. In libuv, uv_queue_work() does
 * what start_worker() does below. */

/* A callback gets the data with which it was registered, and the events that are ready. */
typedef void callback(void *data, uint32_t ready);

/* A descriptor and its callback. Only the loop frees a source. */
struct source {
    int fd;
    uint32_t events;     /* what the kernel watches for */
    callback *call;      /* NULL after unregister_source() */
    void *data;          /* the loop hands it to the callback, and does not look at it */
    struct source *next; /* the next one in the list unregistered */
};

static int epoll;                   /* the descriptor of the kernel's list */
static struct source *unregistered; /* the list of those to free when the batch is over */

/* From now on the loop calls call(data, ...) when one of events is ready on fd. Returns NULL, with
 * errno set, on failure. */
static struct source *register_source(int fd, uint32_t events, callback *call, void *data) {
    struct source *source = malloc(sizeof *source);

    if (source == NULL)
        return NULL;
    *source = (struct source){.fd = fd, .events = events, .call = call, .data = data};
    struct epoll_event event = {.events = events, .data.ptr = source};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == -1) {
        free(source);
        return NULL;
    }
    return source;
}

/* Has the kernel watch for other events. Returns -1, with errno set, on failure, and then source is
 * as it was. */
static int modify_source(struct source *source, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = source};

    if (events != source->events && epoll_ctl(epoll, EPOLL_CTL_MOD, source->fd, &event) == -1)
        return -1;
    source->events = events;
    return 0;
}

/* The loop does not call the callback again. To be used before the descriptor is closed.
 *
 * An event with a pointer to this source may still be in the batch. If we freed the source now, the
 * next one to be registered might get the same memory, and its callback would be called for an
 * event of this one. So we keep the source, without a callback, until the batch is over. */
static void unregister_source(struct source *source) {
    epoll_ctl(epoll, EPOLL_CTL_DEL, source->fd, NULL);
    source->call = NULL;
    source->next = unregistered;
    unregistered = source;
}

static void free_unregistered(void) {
    for (struct source *next; unregistered != NULL; unregistered = next) {
        next = unregistered->next;
        free(unregistered);
    }
}

/* Runs until a signal kills the program, or until die(). */
static void run_loop(void) {
    for (;;) {
        struct epoll_event events[EVENTS_MAX];

        say("waiting for the next event\n");
        int count = epoll_wait(epoll, events, EVENTS_MAX, -1);
        if (count == -1 && errno != EINTR)
            die("epoll_wait");

        /* -1 here means that a signal interrupted it: there are no events. */
        for (int i = 0; i < count; i++) {
            struct source *source = events[i].data.ptr;

            if (source->call != NULL) /* NULL: a callback before this one has unregistered it */
                source->call(source->data, events[i].events);
        }
        free_unregistered();
    }
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

/* Is c reading? If not, it is working or owing. */
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

/* Has the loop watch the listener again, if it does not. A time of 0 stops the timer, which is then
 * no longer readable: timerfd_create(2). */
static void resume_accepting(void) {
    if (listener_source->events != 0)
        return;
    timerfd_settime(timer_source->fd, 0, &(struct itimerspec){.it_value.tv_sec = 0}, NULL);
    if (modify_source(listener_source, EPOLLIN) == -1)
        die("epoll_ctl");
}

static void free_connection(struct connection *c) {
    free(c->queue);
    free(c);
}

/* Closes c. The log says why: after what, and with which error (0 if there is none). Frees c as
 * well, unless a worker has it: in that case finished_callback() frees it. */
static void close_connection(struct connection *c, const char *why, int error) {
    say("closing %s after %s%s%s\n", c->name, why, error ? ": " : "", error ? strerror(error) : "");
    if (c->source != NULL)
        unregister_source(c->source);
    close(c->fd);
    if (c == logged_in)
        logged_in = NULL;
    c->closed = true;
    if (!c->working)
        free_connection(c);
    resume_accepting(); /* a descriptor is free now */
}

/* Has the loop watch for what c waits for now. While a worker has c we neither read nor send. May
 * close and free c. */
static void update_interest(struct connection *c) {
    uint32_t interest = wants_read(c) ? EPOLLIN | EPOLLPRI : EPOLLOUT | EPOLLPRI;

    if (modify_source(c->source, c->working ? EPOLLPRI : interest) == -1)
        close_connection(c, "epoll_ctl", errno);
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
        if (c->source->events & EPOLLOUT)
            say("output queue for %s is empty\n", c->name);
    }
    update_interest(c);
}

/* The work that takes long. It stands for a computation, a query to a database, or the like. */
static void work(void) {
    poll(NULL, 0, slowness); /* without a descriptor to wait for, poll() only sleeps */
}

/* Runs in a thread, at the same time as the loop. So it touches nothing of the connection but next.
 * It adds the connection to the list finished, while it holds the lock, and wakes the loop. */
static void *worker(void *data) {
    struct connection *c = data;

    work();
    pthread_mutex_lock(&lock);
    c->next = finished;
    finished = c;
    pthread_mutex_unlock(&lock);
    eventfd_write(wake_up, 1);
    return NULL;
}

/* Starts a thread that works on what c has sent. May close c, but never frees it. */
static void start_worker(struct connection *c) {
    pthread_t thread;

    c->working = true;
    if (pthread_create(&thread, NULL, worker, c) == 0)
        pthread_detach(thread);
    else
        worker(c); /* there are no more threads: do the work here, though every client waits */
    update_interest(c);
}

/* Called when a worker is done: answers its client, or frees the connection if it was closed. */
static void finished_callback(void *data, uint32_t ready) {
    eventfd_t count;

    (void)data, (void)ready;
    eventfd_read(wake_up, &count); /* first, so that a worker that is done later wakes us again */
    pthread_mutex_lock(&lock);
    struct connection *c = finished;
    finished = NULL;
    pthread_mutex_unlock(&lock);

    for (struct connection *next; c != NULL; c = next) {
        next = c->next; /* c may be freed */
        c->working = false;
        if (c->closed)
            free_connection(c);
        else
            send_queue(c);
    }
}

/* Makes c the one that is logged in, and closes the one that was. That connection may be in any
 * state, and the batch may hold an event of it. */
static void log_in(struct connection *c) {
    if (logged_in != NULL && logged_in != c)
        close_connection(logged_in, "another login", 0);
    logged_in = c;
}

/* Fills the queue of c, which is NULL, with what the client has sent. May close and free c. */
static void fill_queue(struct connection *c) {
    static char buffer[BUFFER_SIZE]; /* for all connections: nothing stays in it */
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
    if (received >= 5 && memcmp(buffer, "login", 5) == 0)
        log_in(c);
    if (use_worker) {
        start_worker(c);
        return;
    }
    work();
    send_queue(c); /* the socket is nearly always writable, so this is usually all that it takes */
}

/* Called when the socket of a connection is ready. */
static void connection_callback(void *data, uint32_t ready) {
    struct connection *c = data;

    if (ready & EPOLLPRI)
        receive_urgent(c); /* first, because a plain recv() would lose it */
    /* IN and HUP can be set together: read what is left before believing the hang-up, or the
     * client's last words are lost. */
    if (ready & EPOLLIN)
        fill_queue(c); /* may free c: hence the else */
    else if (ready & (EPOLLHUP | EPOLLERR))
        close_connection(c, "receiving HUP", pending_error(c->fd));
    else if (ready & EPOLLOUT)
        send_queue(c);
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
    c->source = register_source(fd, EPOLLIN | EPOLLPRI, connection_callback, c);
    if (c->source == NULL)
        close_connection(c, "epoll_ctl", errno);
}

/* ---- Accepting clients -------------------------------------------------------------------- */

static bool out_of_descriptors; /* or of memory: accept() said so, and we have logged it */

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
    timerfd_settime(timer_source->fd, 0, &(struct itimerspec){.it_value.tv_sec = 1}, NULL);
    if (modify_source(listener_source, 0) == -1)
        die("epoll_ctl");
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

/* Called when a client is in the backlog, and by the timer a second after a shortage. */
static void accept_callback(void *data, uint32_t ready) {
    (void)data, (void)ready;
    resume_accepting();
    accept_connections(listener_source->fd);
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

/* Returns the number from 0 to limit that text says. If it does not say one, ends the program. */
static int read_number(const char *text, long limit, const char *problem) {
    char *end;
    long number = strtol(text, &end, 10);

    /* The first character is a digit, because strtol() would also take a blank or a sign. */
    if (*text < '0' || *text > '9' || *end != '\0' || number > limit)
        usage(problem);
    return (int)number;
}

int main(int argc, char *argv[]) {
    const struct option options[] = {{"slow", required_argument, NULL, 's'},
                                     {"worker", no_argument, NULL, 'w'},
                                     {NULL, 0, NULL, 0}};
    static char log_buffer[BUFSIZ];
    int option;

    opterr = 0; /* usage() says what is wrong, not getopt() */
    while ((option = getopt_long(argc, argv, "qs:w", options, NULL)) != -1) {
        if (option == 'q')
            quiet = true;
        else if (option == 's')
            slowness = read_number(optarg, 60000, "MS is not a number from 0 to 60000");
        else if (option == 'w')
            use_worker = true;
        else
            usage("unknown or incomplete option");
    }
    port = optind < argc ? argv[optind] : "10000";
    host = optind + 1 < argc ? argv[optind + 1] : "127.0.0.1";
    if (optind + 2 < argc)
        usage("there are too many arguments");
    read_number(port, 65535, "PORT is not a number from 0 to 65535");

    /* stderr has no buffer of its own, so a line of the log would go out in pieces. */
    setvbuf(stderr, log_buffer, _IOLBF, sizeof log_buffer);
    int listener = open_listener();
    epoll = epoll_create1(0);
    if (epoll == -1)
        die("epoll_create1");
    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    if (timer == -1)
        die("timerfd_create");
    wake_up = eventfd(0, EFD_NONBLOCK);
    if (wake_up == -1)
        die("eventfd");
    listener_source = register_source(listener, EPOLLIN, accept_callback, NULL);
    timer_source = register_source(timer, EPOLLIN, accept_callback, NULL);
    if (register_source(wake_up, EPOLLIN, finished_callback, NULL) == NULL ||
        listener_source == NULL || timer_source == NULL)
        die("epoll_ctl");
    run_loop();
}
