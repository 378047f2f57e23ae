/* uring: the server of this stage, but with io_uring(7): the kernel makes the calls for us.
 *
 *     cc uring.c -o uring         needs Linux 5.19 or newer, and the kernel's headers
 *     ./uring                     in another window: ./client, or nc 127.0.0.1 10000
 *
 * New compared with server.c: completion instead of readiness. epoll_wait() reports that a socket
 * is ready, and then we call recv(). Here we write a request, "receive from this socket", into a
 * ring: an array in memory that we share with the kernel. The kernel makes the call when it can be
 * made, and writes a completion with its result into a second ring. One call, io_uring_enter(),
 * hands over all new requests and waits for completions.
 *
 * One request can bring many completions (multishot): we ask once to accept, and get a completion
 * for each client. A request to receive needs no buffer of its own. The kernel takes one from a
 * pool when bytes have arrived, so an idle connection costs no buffer.
 *
 * Start reading at serve(), then complete(), on_received() and on_sent(). Then read "The rings",
 * and open_rings() last.
 *
 * Watch for: what a request points to must stay until its completion. close() does not end a
 * request. So we close and free a connection only when the kernel has no request of it. And our
 * sockets are blocking, unlike those of server.c: it is the kernel that waits for them, and no call
 * of ours can block on one.
 *
 * Left out on purpose: urgent bytes, which need readiness (EPOLLPRI), and most of what programs use
 * to get more out of io_uring: receives that are multishot, sends that copy no bytes, sockets without
 * descriptors, and a thread of the kernel that finds new requests without a call. Programs for real
 * use call the library liburing, which contains what is here under "The rings".
 */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE /* syscall() */

#include <errno.h>
#include <linux/io_uring.h>
#include <linux/time_types.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    BACKLOG = 4096,          /* the most clients in the backlog */
    REQUESTS_MAX = 1024,     /* how many new requests the ring holds */
    BUFFERS = 64,            /* how many buffers the pool has: a power of two */
    BUFFER_SIZE = 64 * 1024, /* the most bytes that one request brings, and that we owe a client */
    SHOWN_MAX = 48,          /* the most bytes of data that a line of the log shows */
    NAME_SIZE = 80,          /* enough for "[address]:port" */
};

/* A connection with a client, which gets back every byte that it sends. It is in one of two states:
 *
 *   reading   queue is NULL: we owe the client nothing. The connection is in the list of readers
 *             until the pool has a buffer for it. Then the kernel has a request to receive.
 *   owing     queue holds what one request received, and the kernel has a request to send that.
 *             If only a part is sent, queue_sent counts it, and we ask for the rest to be sent.
 *             When everything has been sent we free the queue, and are reading again.
 *
 * It ends when the client closes it, so that 0 bytes are received, or when a request fails.
 *
 * So the kernel has at most one request of a connection. We handle its completion before we make
 * the next one. Only in between do we change the queue, or close and free the connection, because
 * then no request points to them.
 *
 * We never read from a client while we owe it something, so a queue holds at most what one request
 * received. If a client sends and sends, but does not read its echo, the kernel's buffers on the
 * way to it fill up, and we stay owing. Because we do not read meanwhile, the buffers on the way
 * from it fill up as well, and then its own send() must wait. This is called backpressure. */
struct connection {
    int fd;               /* our socket, which the kernel has accepted */
    char name[NAME_SIZE]; /* the client's address, for the log */
    char *queue;          /* the bytes to send back, or NULL */
    size_t queue_length;  /* how many bytes it holds */
    size_t queue_sent;    /* how many of them were sent */
    int buffer;           /* the number of the pool's buffer that holds them, or -1: malloc() */

    struct connection *next; /* the one behind it in the list of readers */
};

/* A completion brings back the number that its request had as user_data. This is the address of the
 * connection, or one of these, which are not addresses. */
enum {
    ACCEPT = 1, /* accept clients */
    PAUSE,      /* wait for a second, during a shortage */
    CANCEL,     /* cancel PAUSE */
};

static struct connection *readers;                 /* the first in the list, or NULL */
static struct connection **readers_end = &readers; /* where the next one to join it goes */
static int spare_buffers; /* how many buffers the kernel has, as far as we know */
static bool pausing;      /* the kernel has the request PAUSE, and we have not cancelled it */

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
    fprintf(stderr,
            "uring: %s\n"
            "usage: uring [-q] [PORT [HOST]]\n"
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
    else if (errno == EPERM)
        advice = "io_uring is switched off: see kernel.io_uring_disabled, or the container";
    else if (errno == ENOSYS || errno == EINVAL)
        advice = "uring needs Linux 5.19 or newer";
    fprintf(stderr, "uring: %s %s port %s: %s (%s)\n", call, host, port, strerror(errno), advice);
    exit(1);
}

/* ---- Helpers ------------------------------------------------------------------------------ */

/* Should we just make the failed call or request again? EINTR: a signal has interrupted it. EAGAIN:
 * it would have blocked. EBUSY: there are more completions than their ring can hold. */
static bool is_temporary(int error) {
    return error == EINTR || error == EAGAIN || error == EBUSY;
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

/* ---- The rings ---------------------------------------------------------------------------- */

/* A ring is an array and two counters. One side writes entries at tail, the other side reads them
 * at head, and the counters only grow. "& mask" turns a counter into an index. The ring is empty
 * when head equals tail, and full when tail is ahead by the length of the array. */

static int rings; /* the descriptor of both */

static struct {
    unsigned *head, *tail; /* head is the kernel's, tail is ours */
    unsigned mask;
    struct io_uring_sqe *entries; /* "submission queue entries" */
} requests;

static struct {
    unsigned *head, *tail; /* head is ours, tail is the kernel's */
    unsigned mask;
    struct io_uring_cqe *entries; /* "completion queue entries" */
} completions;

/* The buffers, and a third ring, of those that the kernel may take. This ring must begin where a
 * page of memory begins. A page has 4 KiB on most machines, and 64 KiB on some. */
static char buffers[BUFFERS][BUFFER_SIZE];
static _Alignas(64 * 1024) struct io_uring_buf pool[BUFFERS];

/* The kernel may use a ring at the same time as we do, on another core, and compilers and
 * processors may change the order of reads and writes. With ACQUIRE we read an entry only after the
 * tail that says that it is there. With RELEASE the kernel sees a new tail only after the entry,
 * and a new head only after we have read the entry. */
static unsigned get(const unsigned *counter) {
    return __atomic_load_n(counter, __ATOMIC_ACQUIRE);
}

static void set(unsigned *counter, unsigned value) {
    __atomic_store_n(counter, value, __ATOMIC_RELEASE);
}

/* Hands all new requests to the kernel. If wait is set, waits until there is a completion. */
static void enter(bool wait) {
    unsigned count = *requests.tail - get(requests.head);

    if (syscall(__NR_io_uring_enter, rings, count, wait, IORING_ENTER_GETEVENTS, NULL, 0L) == -1 &&
        !is_temporary(errno))
        die("io_uring_enter");
}

/* Writes a request into the ring. The kernel sees it at the next enter(). */
static void request(struct io_uring_sqe entry) {
    while (*requests.tail - get(requests.head) > requests.mask) /* the ring is full */
        enter(false);
    requests.entries[*requests.tail & requests.mask] = entry;
    set(requests.tail, *requests.tail + 1);
}

/* Gives a buffer to the kernel, which may fill it for any connection. The tail of this ring is in a
 * field of the first entry. So we write the other fields one by one. */
static void give_buffer(int number) {
    uint16_t *tail = &pool[0].resv;
    struct io_uring_buf *entry = &pool[*tail % BUFFERS];

    entry->addr = (uintptr_t)buffers[number];
    entry->len = BUFFER_SIZE;
    entry->bid = (uint16_t)number;
    __atomic_store_n(tail, (uint16_t)(*tail + 1), __ATOMIC_RELEASE); /* as in set() */
    spare_buffers++;
}

/* ---- A connection's life ------------------------------------------------------------------ */

/* Is c reading? If not, it is owing. */
static bool wants_read(const struct connection *c) {
    return c->queue == NULL;
}

/* Puts c at the end of the list of readers. */
static void start_receiving(struct connection *c) {
    c->next = NULL;
    *readers_end = c;
    readers_end = &c->next;
}

/* Asks for what readers send next, for as many as the pool has buffers. The kernel takes a buffer
 * when bytes have arrived. */
static void receive(void) {
    for (int i = 0; i < spare_buffers && readers != NULL; i++) {
        struct connection *c = readers;

        readers = c->next;
        if (readers == NULL)
            readers_end = &readers;
        request((struct io_uring_sqe){.opcode = IORING_OP_RECV,
                                      .flags = IOSQE_BUFFER_SELECT,
                                      .fd = c->fd,
                                      .user_data = (uintptr_t)c});
    }
}

/* Asks for the rest of c's queue to be sent. From a buffer of the pool the kernel sends only what
 * it can send at once (MSG_DONTWAIT). From other memory it waits until it can send more. */
static void start_sending(struct connection *c) {
    unsigned flags = c->buffer == -1 ? MSG_NOSIGNAL : MSG_NOSIGNAL | MSG_DONTWAIT;

    request((struct io_uring_sqe){.opcode = IORING_OP_SEND,
                                  .fd = c->fd,
                                  .addr = (uintptr_t)(c->queue + c->queue_sent),
                                  .len = (unsigned)(c->queue_length - c->queue_sent),
                                  .msg_flags = flags,
                                  .user_data = (uintptr_t)c});
}

static void free_queue(struct connection *c) {
    if (c->buffer == -1)
        free(c->queue);
    else
        give_buffer(c->buffer);
    c->queue = NULL;
    c->buffer = -1;
}

/* Moves the rest of c's queue from a buffer of the pool into memory of its own. A client that does
 * not read its echo may leave it there for hours, and BUFFERS such clients would leave no buffer to
 * the others. Returns false, with errno set, on failure. */
static bool leave_buffer(struct connection *c) {
    size_t rest = c->queue_length - c->queue_sent;
    char *queue = malloc(rest);

    if (queue == NULL)
        return false;
    memcpy(queue, c->queue + c->queue_sent, rest);
    free_queue(c);
    c->queue = queue;
    c->queue_length = rest;
    c->queue_sent = 0;
    return true;
}

/* Closes and frees c. The log says why: after what, and with which error (0 if there is none). */
static void close_connection(struct connection *c, const char *why, int error) {
    say("closing %s after %s%s%s\n", c->name, why, error ? ": " : "", error ? strerror(error) : "");
    close(c->fd); /* this would not end a request of c, but the kernel has none now */
    free_queue(c);
    free(c);
    if (pausing) /* a descriptor is free now */
        request((struct io_uring_sqe){
            .opcode = IORING_OP_ASYNC_CANCEL, .addr = PAUSE, .user_data = CANCEL});
    pausing = false;
}

/* Begins a connection with a new client, for which the kernel has opened fd. */
static void open_connection(int fd) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    struct connection *c = calloc(1, sizeof *c);

    if (c == NULL) {
        say("refusing a client: %s\n", strerror(errno));
        close(fd);
        return;
    }
    c->fd = fd;
    c->buffer = -1;
    if (getpeername(fd, (struct sockaddr *)&address, &length) == -1)
        length = 0; /* the client has reset already: its name is ?:? */
    write_name(c->name, &address, length);

    /* Without this the kernel may hold back a small piece of echo until the client's kernel has
     * acknowledged the piece before (Nagle's algorithm), which may take that kernel 40 ms (delayed
     * ACK): TCP_NODELAY in tcp(7). If it fails we are only slower, so we ignore the result. */
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);

    say("new connection from %s\n", c->name);
    start_receiving(c);
}

/* Called when the kernel has sent some of c's queue. The result is what send() would have returned,
 * or an error, as a negative number. May close and free c. */
static void on_sent(struct connection *c, int result) {
    if (result < 0 && !is_temporary(-result)) {
        close_connection(c, "send", -result);
        return;
    }
    if (result > 0) {
        say("sending \"%s\" to %s\n", escaped(c->queue + c->queue_sent, (size_t)result), c->name);
        c->queue_sent += (size_t)result;
    }
    if (c->queue_sent == c->queue_length) {
        if (c->buffer == -1)
            say("output queue for %s is empty\n", c->name);
        free_queue(c);
        start_receiving(c);
    } else if (c->buffer == -1 || leave_buffer(c)) {
        start_sending(c);
    } else {
        close_connection(c, "malloc", errno);
    }
}

/* Called when the kernel has received something for c into a buffer of the pool, or has failed to.
 * The result is what recv() would have returned, or an error, as a negative number: ENOBUFS if
 * others have taken all buffers. May close and free c. */
static void on_received(struct connection *c, int result, int buffer) {
    c->buffer = buffer;
    if (result > 0) {
        c->queue = buffers[buffer];
        c->queue_length = (size_t)result;
        c->queue_sent = 0;
        say("received \"%s\" from %s\n", escaped(c->queue, c->queue_length), c->name);
        start_sending(c);
    } else if (result == -ENOBUFS || is_temporary(-result)) {
        start_receiving(c);
    } else if (result == 0) { /* end of file: the client has closed, and we owe it nothing */
        close_connection(c, "reading no data", 0);
    } else {
        close_connection(c, "recv", -result);
    }
}

/* ---- Accepting clients -------------------------------------------------------------------- */

static bool out_of_descriptors; /* or of memory: the kernel said so, and we have logged it */

/* Asks for all clients, now and later. Such a request has no place for the address of each client,
 * so open_connection() asks for it. */
static void start_accepting(int listener) {
    request((struct io_uring_sqe){.opcode = IORING_OP_ACCEPT,
                                  .ioprio = IORING_ACCEPT_MULTISHOT,
                                  .fd = listener,
                                  .user_data = ACCEPT});
    pausing = false;
}

/* The kernel has no free descriptor, or no memory, for one more client. This has ended the request
 * to accept. The client stays in the backlog, so the next request would fail at once. Without a
 * pause we would spin: keep a core busy with requests that fail. (Linux reserves the descriptor
 * before it looks into the backlog, so this happens even when no client is waiting.)
 *
 * The pause is a request, too. Its completion comes after a second, or when a client has left and
 * close_connection() has cancelled it. In both cases we accept again. */
static void pause_accepting(void) {
    static const struct __kernel_timespec second = {.tv_sec = 1};

    if (!out_of_descriptors) /* log once per shortage, not at every retry */
        fprintf(stderr,
                "out of descriptors: accept: %s; "
                "trying again when a client leaves, or in a second\n",
                strerror(errno));
    out_of_descriptors = true;
    pausing = true;
    request((struct io_uring_sqe){
        .opcode = IORING_OP_TIMEOUT, .addr = (uintptr_t)&second, .len = 1, .user_data = PAUSE});
}

/* Called for each client with its descriptor, or with an error, as a negative number. more tells
 * whether the kernel still has the request. Besides the temporary errors there are three kinds: a
 * shortage, a mistake of ours, and a client that left too early. */
static void on_accepted(int listener, int result, bool more) {
    errno = -result;
    if (result >= 0)
        open_connection(result);
    else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
        pause_accepting(); /* a shortage, which will pass */
    else if (errno == EBADF || errno == EINVAL || errno == ENOTSOCK || errno == EFAULT)
        die("accept"); /* a mistake of ours, which will not pass */
    else if (!is_temporary(errno))
        say("accept: %s\n", strerror(errno)); /* probably a client that left too early */
    if (!more && !pausing)
        start_accepting(listener);
}

/* Notes whether a shortage is over: the kernel accepts again, and no client is left in the backlog.
 * No completion tells us the second, so we ask. */
static void check_shortage(int listener) {
    struct pollfd entry = {.fd = listener, .events = POLLIN};

    if (out_of_descriptors && !pausing && poll(&entry, 1, 0) == 0)
        out_of_descriptors = false;
}

/* ---- The loop ----------------------------------------------------------------------------- */

/* Handles a completion. The state of its connection tells what the request was. */
static void complete(int listener, const struct io_uring_cqe *completion) {
    struct connection *c = (struct connection *)(uintptr_t)completion->user_data;
    bool filled = completion->flags & IORING_CQE_F_BUFFER; /* a buffer of the pool */
    int buffer = filled ? (int)(completion->flags >> IORING_CQE_BUFFER_SHIFT) : -1;

    spare_buffers -= filled;
    if (completion->user_data == ACCEPT)
        on_accepted(listener, completion->res, completion->flags & IORING_CQE_F_MORE);
    else if (completion->user_data == PAUSE)
        start_accepting(listener);
    else if (completion->user_data == CANCEL)
        return; /* the result does not matter, because PAUSE has its own completion in any case */
    else if (wants_read(c))
        on_received(c, completion->res, buffer);
    else
        on_sent(c, completion->res);
}

/* Runs until a signal kills the program, or until die(). */
static void serve(int listener) {
    start_accepting(listener);
    for (;;) {
        say("waiting for the next event\n");
        enter(readers == NULL); /* do not wait if there were not enough buffers for all readers */
        unsigned tail = get(completions.tail);
        for (unsigned head = *completions.head; head != tail; head++) {
            complete(listener, &completions.entries[head & completions.mask]);
            set(completions.head, head + 1); /* from now on the kernel may overwrite it */
        }
        receive();
        check_shortage(listener);
    }
}

/* ---- Starting up -------------------------------------------------------------------------- */

/* Returns memory that the kernel has made for the rings. */
static void *map(size_t size, off_t offset) {
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, rings, offset);

    if (memory == MAP_FAILED)
        die("mmap");
    return memory;
}

/* Makes the rings for requests and completions. The kernel says in layout where their parts are. */
static void open_rings(void) {
    struct io_uring_params layout = {.flags = 0};

    rings = (int)syscall(__NR_io_uring_setup, REQUESTS_MAX, &layout);
    if (rings == -1)
        die("io_uring_setup");

    /* Both are in one piece of memory, which ends with one of these arrays. */
    size_t size = layout.cq_off.cqes + layout.cq_entries * sizeof *completions.entries;
    size_t other = layout.sq_off.array + layout.sq_entries * sizeof(unsigned);
    char *memory = map(size > other ? size : other, IORING_OFF_SQ_RING);
    requests.head = (unsigned *)(memory + layout.sq_off.head);
    requests.tail = (unsigned *)(memory + layout.sq_off.tail);
    requests.mask = layout.sq_entries - 1;
    completions.head = (unsigned *)(memory + layout.cq_off.head);
    completions.tail = (unsigned *)(memory + layout.cq_off.tail);
    completions.mask = layout.cq_entries - 1;
    completions.entries = (struct io_uring_cqe *)(memory + layout.cq_off.cqes);

    /* The requests are in memory of their own, and their ring holds only the index of each. We use
     * them in turn, so we write the indexes once. */
    requests.entries = map(layout.sq_entries * sizeof *requests.entries, IORING_OFF_SQES);
    unsigned *indexes = (unsigned *)(memory + layout.sq_off.array);
    for (unsigned i = 0; i < layout.sq_entries; i++)
        indexes[i] = i;
}

static void open_pool(void) {
    struct io_uring_buf_reg ring = {.ring_addr = (uintptr_t)pool, .ring_entries = BUFFERS};
    if (syscall(__NR_io_uring_register, rings, IORING_REGISTER_PBUF_RING, &ring, 1) == -1)
        die("io_uring_register");
    for (int i = 0; i < BUFFERS; i++)
        give_buffer(i);

    /* The kernel needs no thread to wait for our sockets. But if a client sends some 128 urgent
     * bytes and nothing else, a thread of the kernel waits for it, and holds a buffer. BUFFERS such
     * clients would leave no buffer to the others. So we allow one such thread, the least. */
    unsigned threads[2] = {1, 1}; /* for work that ends soon, and for work that may not */
    if (syscall(__NR_io_uring_register, rings, IORING_REGISTER_IOWQ_MAX_WORKERS, threads, 2) == -1)
        die("io_uring_register");
}

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
    open_rings();
    open_pool();
    serve(open_listener());
}
