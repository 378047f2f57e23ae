/* callbacks: an event loop that knows neither sockets nor echo, and an echo server on top of it.
 *
 *     cc callbacks.c -o callbacks         with -pthread, if the C library wants that
 *     ./callbacks --slow 1000             each message takes a second, and everybody waits for it
 *     ./callbacks --slow 1000 --worker    in a thread: nobody waits for another's message
 *
 * Watch for: whoever wants to hear of a descriptor registers a callback, and the loop calls it. A
 * callback may close any connection: even one whose event is still to come in the same batch, and
 * whose number a new client has by then. To make that happen there is a login: a client that sends
 * "login" ends the connection of the client that did so before.
 *
 * Left out on purpose: a pool of threads (one for each message is simpler), passwords, a protocol
 * ("login" must stand at the beginning of one recv(), as when somebody types it).
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
#include <time.h>
#include <unistd.h>

enum {
    BACKLOG = 4096,          /* clients that the kernel may connect for us ahead of accept() */
    BUFFER_SIZE = 64 * 1024, /* bytes that one recv() may bring: the most we owe one client */
    SHOWN_MAX = 48,          /* bytes of a message that a line of the log shows */
    NAME_SIZE = 80,          /* room for "[address]:port" */
    EVENTS_MAX = 64,         /* events that one epoll_wait() may bring; the rest come next time */
};

static bool quiet; /* -q: not a word about single clients */

/* A line about a client. With -q its arguments are not even evaluated. */
#define say(...) ((void)(quiet || fprintf(stderr, __VA_ARGS__)))

/* ---- The loop --------------------------------------------------------------------------- */

/* Is given the data that it was registered with, and the events that happened. */
typedef void callback(void *data, uint32_t happened);

/* A descriptor that is watched. The loop owns it. */
struct source {
    int fd;
    uint32_t events;     /* what it is watched for */
    callback *call;      /* NULL: it has been unregistered */
    void *data;          /* only the callback knows what that is */
    struct source *next; /* among the unregistered */
};

static int epoll;                   /* the descriptor of the kernel's list */
static struct source *unregistered; /* by a callback of this batch; to be freed at its end */

/* Calls call(data, ...) whenever one of events happens on fd. Returns NULL, with errno set, if that
 * cannot be had. */
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

/* Watches for other events from now on. Returns -1, with errno set, if that cannot be had. */
static int modify_source(struct source *source, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = source};

    if (events == source->events)
        return 0;
    source->events = events;
    return epoll_ctl(epoll, EPOLL_CTL_MOD, source->fd, &event);
}

/* Never calls again; to be used before the descriptor is closed. But the batch may hold an event of
 * this source, with a pointer to it. If the source were freed at once, another that is registered
 * meanwhile might get its memory, and be called for what happened to another. So it stays, and
 * calls nobody, until the batch is over. */
static void unregister_source(struct source *source) {
    epoll_ctl(epoll, EPOLL_CTL_DEL, source->fd, NULL);
    source->call = NULL;
    source->next = unregistered;
    unregistered = source;
}

static void run_loop(void) {
    for (;;) {
        struct epoll_event events[EVENTS_MAX];

        say("waiting for the next event\n");
        int count = epoll_wait(epoll, events, EVENTS_MAX, -1);

        /* -1: nothing has been reported. That a signal came is no error. */
        if (count == -1 && errno != EINTR)
            fprintf(stderr, "epoll_wait: %s\n", strerror(errno));

        for (int i = 0; i < count; i++) {
            struct source *source = events[i].data.ptr;

            if (source->call != NULL) /* else: unregistered by a callback before this one */
                source->call(source->data, events[i].events);
        }

        /* Now nobody holds a pointer to these. */
        while (unregistered != NULL) {
            struct source *next = unregistered->next;

            free(unregistered);
            unregistered = next;
        }
    }
}

/* ---- The server ------------------------------------------------------------------------- */

struct connection {
    int fd;
    char name[NAME_SIZE]; /* the client's address and port, for the log */
    char *queue;          /* what it sent and has not got back, or NULL if we owe it nothing */
    size_t queue_length;  /* bytes in the queue, */
    size_t queue_sent;    /* of which so many have been sent */

    struct source *source;   /* by which the loop knows it */
    bool with_worker;        /* a worker has its message, and nothing may be freed */
    bool closed;             /* meanwhile the connection has been closed */
    struct connection *next; /* among those whose worker is done */
};

static struct source *listener_source; /* calls accept_callback */
static struct source *timer_source;    /* calls resume_accepting */
static double accept_again_at;         /* out of descriptors: when to try again, in seconds() */

static struct connection *logged_in; /* who said "login" last, or NULL */

static int slowness;    /* --slow: milliseconds that each message takes */
static bool use_worker; /* --worker */
static int wake_up;     /* an eventfd: readable when a worker is done */

static struct connection *done; /* those whose worker is done; touched only by who holds the lock */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Says what happened to data, and shows its first bytes. They are escaped, so that no client can
 * forge a line of our log, or drive the terminal that shows it. */
static void say_data(const char *event, const char *data, size_t length, const char *preposition,
                     const struct connection *c) {
    if (quiet)
        return;
    fprintf(stderr, "%s \"", event);
    for (size_t i = 0; i < length && i < SHOWN_MAX; i++) {
        unsigned char byte = (unsigned char)data[i];
        if (byte == '\n')
            fprintf(stderr, "\\n");
        else if (byte == '"' || byte == '\\')
            fprintf(stderr, "\\%c", byte);
        else
            fprintf(stderr, byte < ' ' || byte > '~' ? "\\x%02x" : "%c", byte);
    }
    fprintf(stderr, "%s\" %s %s\n", length > SHOWN_MAX ? "..." : "", preposition, c->name);
}

static void usage(const char *problem) {
    fprintf(stderr,
            "callbacks: %s\n"
            "usage: callbacks [-q] [--slow MS] [--worker] [PORT [HOST]]\n"
            "-q: no word about single clients; PORT 10000, or 0 for a free one; HOST 127.0.0.1\n"
            "-s, --slow: each message takes so many milliseconds; -w, --worker: in a thread\n",
            problem);
    exit(2);
}

/* Returns the number that text says, from 0 to limit; ends the program if it says none. */
static long read_number(const char *text, long limit, const char *problem) {
    if (strspn(text, "0123456789") != strlen(text) || *text == '\0' || atol(text) > limit)
        usage(problem);
    return atol(text);
}

/* Ends the program: for start-up only. A client's error never comes here. */
static void die(const char *call, const char *host, const char *port) {
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

/* Tells the loop what c waits for now. We do not read from a client that we owe something. So one
 * that does not take its echo cannot make us store more and more: its own sends come to a halt.
 * Returns -1, with errno set, if the loop cannot be told. */
static int watch(struct connection *c) {
    uint32_t events = EPOLLPRI;

    if (c->queue == NULL)
        events |= EPOLLIN;
    else if (!c->with_worker)
        events |= EPOLLOUT;
    return modify_source(c->source, events);
}

/* Called by the timer. To set it to 0 stops it, and it is ready no more: timerfd_create(2). */
static void resume_accepting(void *data, uint32_t happened) {
    (void)data, (void)happened;
    timerfd_settime(timer_source->fd, 0, &(struct itimerspec){0}, NULL);
    modify_source(listener_source, EPOLLIN);
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
    timerfd_settime(timer_source->fd, 0, &(struct itimerspec){.it_value.tv_sec = 1}, NULL);
    modify_source(listener_source, 0);
}

static void free_connection(struct connection *c) {
    free(c->queue);
    free(c);
}

/* Closes c, and says why: after which call, with which error (0: none). Frees it, too, unless a
 * worker has it: then done_callback does that. */
static void close_connection(struct connection *c, const char *why, int error) {
    say("closing %s after %s%s%s\n", c->name, why, error ? ": " : "", error ? strerror(error) : "");
    if (c->source != NULL)
        unregister_source(c->source);
    close(c->fd);
    if (accept_again_at > seconds()) {
        accept_again_at = seconds(); /* now there is a descriptor to be had */
        resume_accepting(NULL, 0);
    }
    if (c == logged_in)
        logged_in = NULL;
    c->closed = true;
    if (!c->with_worker)
        free_connection(c);
}

/* Reads the urgent byte, and so ends the exceptional condition. It is no part of the stream; a
 * plain recv() would pass over it and throw it away: tcp(7). */
static void receive_urgent(struct connection *c) {
    char byte;

    say("handling exceptional condition for %s\n", c->name);
    if (recv(c->fd, &byte, 1, MSG_OOB) == 1)
        say_data("received urgent", &byte, 1, "from", c);
}

/* Sends as much of c's queue as the kernel takes, which may be less than all. May close c. */
static void send_to(struct connection *c) {
    const char *rest = c->queue + c->queue_sent;

    /* If the client is gone we want an error, EPIPE, not the signal SIGPIPE, which would end us
     * without a word. */
    ssize_t sent = send(c->fd, rest, c->queue_length - c->queue_sent, MSG_NOSIGNAL);

    if (sent == -1 && !is_temporary(errno)) {
        close_connection(c, "send", errno);
        return;
    }
    if (sent > 0) {
        say_data("sending", rest, (size_t)sent, "to", c);
        c->queue_sent += (size_t)sent;
    }
    if (c->queue_sent == c->queue_length) {
        free(c->queue);
        c->queue = NULL;
        if (c->source->events & EPOLLOUT)
            say("output queue for %s is empty\n", c->name);
    }
    if (watch(c) == -1)
        close_connection(c, "epoll_ctl", errno);
}

/* The slow part: it stands for a computation, a database, a question to a name server. */
static void work(void) {
    poll(NULL, 0, slowness); /* no descriptors: time passes */
}

/* What runs in the thread. Of the connection it may touch nothing that the loop might touch at the
 * same time: it puts it on the list of those done, under the lock, and wakes the loop. */
static void *worker(void *data) {
    struct connection *c = data;

    work();
    pthread_mutex_lock(&lock);
    c->next = done;
    done = c;
    pthread_mutex_unlock(&lock);
    eventfd_write(wake_up, 1);
    return NULL;
}

/* Has a thread do the work on what c has sent; done_callback goes on with it. May close c. */
static void start_worker(struct connection *c) {
    pthread_t thread;

    c->with_worker = true;
    if (pthread_create(&thread, NULL, worker, c) == 0)
        pthread_detach(thread);
    else
        worker(c); /* there are no more threads: everybody waits, but nobody is lost */
    if (watch(c) == -1)
        close_connection(c, "epoll_ctl", errno);
}

/* Called by the eventfd: answers the clients whose work is done, if they are still there. */
static void done_callback(void *data, uint32_t happened) {
    eventfd_t count;

    (void)data, (void)happened;
    eventfd_read(wake_up, &count); /* before we take the list: who is done later wakes us again */
    pthread_mutex_lock(&lock);
    struct connection *c = done;
    done = NULL;
    pthread_mutex_unlock(&lock);

    while (c != NULL) {
        struct connection *next = c->next;

        c->with_worker = false;
        if (c->closed)
            free_connection(c);
        else
            send_to(c);
        c = next;
    }
}

/* Makes c the one who is logged in. The one who was may be anywhere: idle, owed something, with a
 * worker, or next in this very batch. */
static void log_in(struct connection *c) {
    if (logged_in != NULL && logged_in != c)
        close_connection(logged_in, "another login", 0);
    logged_in = c;
}

/* Fills the queue of c, which is empty, with what the client has sent. May close c. */
static void receive_from(struct connection *c) {
    static char buffer[BUFFER_SIZE]; /* one for all: nothing stays in it between two calls */
    ssize_t received = recv(c->fd, buffer, sizeof buffer, 0);

    if (received == -1) {
        if (!is_temporary(errno))
            close_connection(c, "recv", errno);
        return;
    }
    if (received == 0) { /* end of file; and nothing is owed, or we would not have read */
        close_connection(c, "reading no data", 0);
        return;
    }
    say_data("received", buffer, (size_t)received, "from", c);
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
    } else {
        work();
        send_to(c); /* a socket is nearly always writable: most often this is all there is to do */
    }
}

static void connection_callback(void *data, uint32_t happened) {
    struct connection *c = data;

    if (happened & EPOLLPRI)
        receive_urgent(c);
    /* EPOLLIN and EPOLLHUP can come together: what is still unread must be read before the hang-up
     * is believed, or the client's last words are lost. */
    if (happened & EPOLLIN)
        receive_from(c);
    else if (happened & (EPOLLHUP | EPOLLERR))
        close_connection(c, "receiving HUP", 0);
    else if (happened & EPOLLOUT)
        send_to(c);
}

/* Takes the next client from the listener's backlog, if one is there. */
static void accept_callback(void *data, uint32_t happened) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    int fd = accept(listener_source->fd, (struct sockaddr *)&address, &length);

    (void)data, (void)happened;
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

    /* Without this a small piece of echo waits until the client has acknowledged the one before,
     * which may take 40 ms: TCP_NODELAY in tcp(7). If this fails, that is all that happens. */
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);

    say("new connection from %s\n", c->name);
    c->source = register_source(fd, EPOLLPRI | EPOLLIN, connection_callback, c);
    if (c->source == NULL)
        close_connection(c, "epoll_ctl", errno);
}

int main(int argc, char *argv[]) {
    const struct option options[] = {{"slow", required_argument, NULL, 's'},
                                     {"worker", no_argument, NULL, 'w'},
                                     {NULL, 0, NULL, 0}};
    int option;

    opterr = 0;
    while ((option = getopt_long(argc, argv, "qs:w", options, NULL)) != -1) {
        if (option == 'q')
            quiet = true;
        else if (option == 's')
            slowness = (int)read_number(optarg, 60000, "MS is not a number from 0 to 60000");
        else if (option == 'w')
            use_worker = true;
        else
            usage("there is no such option, or it lacks its MS");
    }
    const char *port = optind < argc ? argv[optind] : "10000";
    const char *host = optind + 1 < argc ? argv[optind + 1] : "127.0.0.1";
    if (optind + 2 < argc)
        usage("there are too many arguments");
    read_number(port, 65535, "PORT is not a number from 0 to 65535");

    setvbuf(stderr, NULL, _IOLBF, BUFSIZ); /* a line of the log goes out whole */
    int listener = open_listener(port, host);
    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    wake_up = eventfd(0, EFD_NONBLOCK);
    epoll = epoll_create1(0);
    if (timer == -1 || wake_up == -1 || epoll == -1)
        die("timerfd_create, eventfd or epoll_create1", host, port);
    listener_source = register_source(listener, EPOLLIN, accept_callback, NULL);
    timer_source = register_source(timer, EPOLLIN, resume_accepting, NULL);
    if (listener_source == NULL || timer_source == NULL ||
        register_source(wake_up, EPOLLIN, done_callback, NULL) == NULL)
        die("epoll_ctl", host, port);
    run_loop();
}

/* What is missing for a library: time-outs, signals, other systems than Linux, threads that may
 * register. That is where libevent, libev and libuv begin: their event_add(), ev_io_start() and
 * uv_poll_start() are register_source(), and uv_queue_work() is start_worker(). */
