/* client: a load generator for echo servers, with epoll(7).
 *
 *     cc client.c -o client
 *     ./client -c 1000 -d 5       in another window: ./server -q
 *
 * New in stage 05: ten thousand connections, with epoll as in server.c. The clients of the other
 * stages check whether an echo is right. This one also measures how long it takes.
 *
 *   opening     The connections open, at most OPENING_MAX at a time. Each gets one message back
 *               that does not count, which shows that the server has accepted it.
 *   measuring   The clock starts when all are open. A connection sends messages, with at most -P of
 *               them in flight, and begins the next one when an echo is back.
 *   reporting   The clock stops with the last echo.
 *
 * We store neither messages nor times. All messages are cut from one pattern, so each byte that
 * comes back can be checked by its place in the stream. The times are counted in a histogram.
 *
 * Start reading at the struct, then run(), then send_messages(), read_echoes() and may_send().
 *
 * Watch for: a message also waits for its turn in this program. Use the figures to compare servers
 * with each other, and not as the time that one server takes.
 *
 * Left out on purpose: a steady rate. A connection sends again only when something has come back,
 * so a slow server gets fewer messages, and its latency looks better than users would find it.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    BUFFER_SIZE = 64 * 1024, /* the most bytes that one recv() or send() moves */
    EVENTS_MAX = 64,         /* the most events that one epoll_wait() returns */
    NAME_SIZE = 80,          /* enough for "[address]:port" */
    PATTERN_PERIOD = 65521,  /* after this many bytes the pattern repeats: a prime number */
    BUCKETS = 32,            /* buckets of the histogram for each doubling of the time */
    OPENING_MAX = 100,       /* the most connections that are opening at the same time */
    SOURCES_MAX = 200,       /* the most addresses that we connect from */
    DESCRIPTORS_SPARE = 16,  /* descriptors for everything that is not a connection */
    PATIENCE = 5,            /* seconds without an echo after which we give up */
};

/* A connection with the server. Its messages follow each other in one stream of bytes, and two
 * positions in this stream say everything about it:
 *
 *   sent       how many bytes send() has taken. The message in which this position lies has begun,
 *              and all messages before it have been sent.
 *   received   how many bytes have come back. All messages before this position are complete.
 *
 * The messages between the two are in flight. For each of them we keep the time when it began,
 * until it is complete. There are at most in_flight_max of them, so that many places are enough:
 * message i has the place i % in_flight_max. */
struct connection {
    int fd;
    uint32_t interest;  /* the events that the kernel watches for, 0 before it does */
    long long sent;     /* how many bytes of its stream send() has taken */
    long long received; /* how many of them have come back */
    double *begun_at;   /* when message i began, in seconds(), at [i % in_flight_max] */
};

static long long connection_count = 100;    /* -c: connections */
static long long message_count = INT64_MAX; /* -n: messages, of all connections together */
static double duration = INFINITY;          /* -d: seconds after which no message begins */
static long long message_size = 64;         /* -s: bytes in a message */
static long long in_flight_max = 1;         /* -P: the most messages in flight per connection */
static bool quiet;                          /* -q: do not show the progress */

static int epoll;                      /* the descriptor of the kernel's list */
static struct connection *connections; /* connection_count of them */
static bool opening = true;            /* not all connections have had their first echo */
static long long begun_count;          /* how many of them have begun to connect */
static long long open_count;           /* how many have had their first echo */
static long long messages_left;        /* how many messages may still begin */
static long long in_flight;            /* how many have begun and are not complete */
static long long finished;             /* how many are complete */
static double started_at;              /* when the first of them began, in seconds() */
static double last_progress;           /* when something last came back */

static char pattern[PATTERN_PERIOD + BUFFER_SIZE]; /* a buffer may begin anywhere in the period */

static long long histogram[64 * BUCKETS]; /* how many messages took that many nanoseconds */
static long long longest;                 /* the nanoseconds that the slowest of them took */

static const char *port, *host; /* where the server listens, as text */

/* ---- Reporting ---------------------------------------------------------------------------- */

static void usage(const char *problem) {
    fprintf(stderr,
            "client: %s\n"
            "usage: client [-q] [-c CONNECTIONS] [-n MESSAGES] [-d SECONDS] [-s BYTES]\n"
            "              [-P IN_FLIGHT] [PORT [HOST]]\n"
            "-c: connections to open (100)\n"
            "-n: messages to send, on all connections together (no limit)\n"
            "-d: seconds to send messages for (10, or no limit if there is -n)\n"
            "-s: bytes in a message (64)\n"
            "-P: messages that each connection may have in flight (1)\n"
            "-q: do not show the progress; default PORT 10000, HOST 127.0.0.1\n",
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
    else if (error == EMFILE)
        advice = "ask for fewer connections with -c, or raise ulimit -n";
    else if (error == EADDRNOTAVAIL || error == EADDRINUSE || error == EAFNOSUPPORT)
        advice = "no port is free, or this machine cannot reach such addresses; try 127.0.0.1";
    fprintf(stderr, "client: %s %s port %s: %s (%s)\n", call, host, port, strerror(error), advice);
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

/* ---- The pattern -------------------------------------------------------------------------- */

/* Fills the pattern with bytes that look random but are the same in each run. */
static void make_pattern(void) {
    uint32_t state = 1;

    for (size_t i = 0; i < sizeof pattern; i++) {
        state = state * 1664525 + 1013904223;
        pattern[i] = i < PATTERN_PERIOD ? (char)(state >> 24) : pattern[i - PATTERN_PERIOD];
    }
}

/* Returns the bytes of c's stream from position on, BUFFER_SIZE of them. Each connection begins at
 * another place in the pattern, and no two stretches of it are alike. So we notice bytes that are
 * lost, doubled, or meant for another connection. */
static const char *stream_at(const struct connection *c, long long position) {
    return pattern + ((c - connections) * 7919LL + position) % PATTERN_PERIOD;
}

/* ---- The histogram ------------------------------------------------------------------------ */

/* Returns the number of the bucket for a time. Below 2 * BUCKETS each nanosecond has its own.
 * Above, the buckets become twice as wide whenever the time doubles. So no bucket is wider than
 * 1/32, or 3%, of the times in it. The histogram is as exact for seconds as for microseconds, and
 * takes only 16 KiB. */
static int bucket_of(long long nanoseconds) {
    int doublings = 0;

    while (nanoseconds >> doublings >= 2 * BUCKETS)
        doublings++;
    return doublings * BUCKETS + (int)(nanoseconds >> doublings);
}

/* Returns the first time that is too long for a bucket. */
static long long bucket_end(int bucket) {
    int doublings = bucket < 2 * BUCKETS ? 0 : bucket / BUCKETS - 1;

    return (long long)(bucket - doublings * BUCKETS + 1) << doublings;
}

/* Returns the milliseconds within which this share of the messages came back, rounded up to the end
 * of a bucket. */
static double percentile(double share) {
    long long count = histogram[0];
    int bucket = 0;

    while ((double)count < share * (double)finished)
        count += histogram[++bucket];
    return (double)(bucket_end(bucket) < longest ? bucket_end(bucket) : longest) / 1e6;
}

/* ---- A connection's life ------------------------------------------------------------------ */

/* Ends the program because c has broken, or because what came back is not our echo. */
static void fail(const struct connection *c, const char *format, ...) {
    struct sockaddr_storage own = {0};
    socklen_t length = sizeof own;
    char name[NAME_SIZE];
    va_list arguments;

    getsockname(c->fd, (struct sockaddr *)&own, &length);
    write_name(name, &own, length);
    fprintf(stderr, "client: %s: ", name);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    if (opening)
        fprintf(stderr, " (%lld of %lld connections were open)", open_count, connection_count);
    fprintf(stderr, "\n");
    exit(1);
}

/* Returns how many messages of c have begun. */
static long long messages_begun(const struct connection *c) {
    return (c->sent + message_size - 1) / message_size;
}

/* Returns how many messages of c are complete. */
static long long messages_complete(const struct connection *c) {
    return c->received / message_size;
}

/* Returns how many bytes c may send now: the rest of the message that has begun, and those messages
 * that may begin. While connections open this is one message for each. It shows that the server has
 * accepted the connection. connect() does not show this, because the server's kernel connects us
 * as soon as we are in the backlog. */
static long long may_send(const struct connection *c) {
    long long begun = messages_begun(c);
    long long more = in_flight_max - (begun - messages_complete(c));

    if (opening)
        more = begun == 0 ? 1 : 0;
    else if (more > messages_left)
        more = messages_left;
    return (begun + more) * message_size - c->sent;
}

/* Tells the kernel what c waits for now, if that has changed. c always waits to read, also while it
 * has something to send. If both we and the server sent first and read later, both could block. */
static void update_interest(struct connection *c) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    int operation = c->interest == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

    if (may_send(c) > 0)
        event.events |= EPOLLOUT;
    if (event.events == c->interest)
        return;
    if (epoll_ctl(epoll, operation, c->fd, &event) == -1)
        die("epoll_ctl", errno);
    c->interest = event.events;
}

/* Sends what c may send, or the part of it that send() takes. */
static void send_messages(struct connection *c) {
    long long begun = messages_begun(c);
    long long length = may_send(c);

    if (length > 0) {
        double now = seconds();
        if (length > BUFFER_SIZE)
            length = BUFFER_SIZE;
        ssize_t sent = send(c->fd, stream_at(c, c->sent), (size_t)length, MSG_NOSIGNAL);
        if (sent == -1 && !is_temporary(errno))
            fail(c, "send: %s", strerror(errno));
        if (sent > 0)
            c->sent += sent;
        for (; begun < messages_begun(c); begun++) {
            c->begun_at[begun % in_flight_max] = now;
            in_flight++;
            messages_left--;
        }
    }
    update_interest(c);
}

/* Counts a message that is complete, and the time that it took. */
static void finish_message(double begun_at) {
    in_flight--;
    if (opening) {
        open_count++;
        return;
    }
    long long nanoseconds = (long long)((last_progress - begun_at) * 1e9);
    histogram[bucket_of(nanoseconds)]++;
    if (longest < nanoseconds)
        longest = nanoseconds;
    finished++;
}

/* Reads what has come back, which may be parts of several echoes, and checks every byte. */
static void read_echoes(struct connection *c) {
    static char buffer[BUFFER_SIZE];
    const char *expected = stream_at(c, c->received);
    long long complete = messages_complete(c);
    ssize_t received = recv(c->fd, buffer, sizeof buffer, 0);

    if (received == -1) {
        if (is_temporary(errno))
            return;
        if (c->sent == 0) /* this is the error that 02 gets from SO_ERROR */
            die("connect", errno);
        fail(c, "recv: %s", strerror(errno));
    }
    if (received == 0)
        fail(c, "the server closed the connection after %lld of %lld bytes", c->received, c->sent);
    if (received > c->sent - c->received)
        fail(c, "the server sent more than its echo");
    if (memcmp(buffer, expected, (size_t)received) != 0) {
        int i = 0;
        while (buffer[i] == expected[i])
            i++;
        fail(c, "the server answered something else: byte %lld is 0x%02x, not 0x%02x",
             c->received + i + 1, (unsigned char)buffer[i], (unsigned char)expected[i]);
    }
    last_progress = seconds();
    c->received += received;
    for (; complete < messages_complete(c); complete++)
        finish_message(c->begun_at[complete % in_flight_max]);
}

/* Returns the descriptor of a new socket that is being connected, or ends the program.
 *
 * One address has some 28,000 ports to connect from (ip_local_port_range in ip(7)). But a machine
 * has many addresses, because all that begin with 127 are its own. When 127.0.0.1 has no free port
 * left we go on with 127.0.0.2, and so on. */
static int connect_from_free_port(const struct addrinfo *address) {
    static uint32_t source; /* how many addresses have no free port */
    struct sockaddr_in own = {.sin_family = AF_INET};
    int on = 1;

    for (;;) {
        int fd = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
        int status = 0;
        if (fd == -1)
            die("socket", errno);
        if (set_nonblocking(fd) == -1)
            die("fcntl", errno);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* as in the servers */
        if (source > 0) {
            own.sin_addr.s_addr = htonl(INADDR_LOOPBACK + source);
            status = bind(fd, (struct sockaddr *)&own, sizeof own);
        }
        if (status == 0)
            status = connect(fd, address->ai_addr, address->ai_addrlen);
        if (status == 0 || errno == EINPROGRESS || errno == EINTR)
            return fd;
        bool out_of_ports = errno == EADDRNOTAVAIL || errno == EADDRINUSE;
        if (!out_of_ports || strncmp(host, "127.", 4) != 0 || source == SOURCES_MAX)
            die("connect", errno);
        source++;
        close(fd); /* it may be bound already, and a socket can be bound only once */
    }
}

/* Begins to connect c to the server. It becomes writable when it is connected, or has failed. */
static void begin_connect(struct connection *c, const struct addrinfo *address) {
    c->begun_at = calloc((size_t)in_flight_max, sizeof *c->begun_at);
    if (c->begun_at == NULL)
        die("calloc", errno);
    c->fd = connect_from_free_port(address);
    update_interest(c);
}

/* ---- The loop ----------------------------------------------------------------------------- */

/* Starts the clock, and a message on each connection, when all connections are open. */
static void start_messages(void) {
    opening = false;
    messages_left = message_count;
    started_at = last_progress = seconds();
    for (long long i = 0; i < connection_count; i++)
        send_messages(&connections[i]);
}

/* Ends the measurement after -d seconds. Gives up if the server makes us wait for too long. */
static void check_deadlines(double now) {
    static double give_up_at = INFINITY;

    if (!opening && messages_left > 0 && now >= started_at + duration) {
        messages_left = 0; /* no more begin, and those in flight should soon be complete */
        give_up_at = now + PATIENCE;
    }
    if (now < last_progress + PATIENCE && now < give_up_at)
        return;
    fprintf(stderr, "client: gave up after %d s: ", PATIENCE);
    if (opening)
        fprintf(stderr,
                "%lld of %lld connections were open "
                "(does the server answer? is its ulimit -n too low?)\n",
                open_count, connection_count);
    else
        fprintf(stderr, "%lld messages have not come back\n", in_flight);
    exit(1);
}

/* Shows the progress on the terminal, if there is one, five times per second. */
static void show_progress(double now) {
    static double show_again_at;

    if (quiet || !isatty(STDERR_FILENO) || now < show_again_at)
        return;
    show_again_at = now + 0.2;
    /* Clear the line, and at its end go back to the start: the next text is written over it. */
    fprintf(stderr, "\033[K%lld of %lld connections   %.0f messages/s\r", open_count,
            connection_count, opening ? 0 : (double)finished / (now - started_at));
}

/* Opens the connections, and runs until all messages are complete. */
static void run(const struct addrinfo *address) {
    last_progress = seconds();
    while (opening || messages_left > 0 || in_flight > 0) {
        struct epoll_event events[EVENTS_MAX];

        /* Not all at once. If the server's backlog is full, its kernel drops our attempt, and ours
         * tries again only after a second, then two, then four (tcp_syn_retries in tcp(7)). */
        while (begun_count < connection_count && begun_count - open_count < OPENING_MAX)
            begin_connect(&connections[begun_count++], address);

        /* We took a shortcut here: to wake up every 100 ms, and look at the clock. In stage 06 the
         * wait lasts until the nearest deadline. */
        int count = epoll_wait(epoll, events, EVENTS_MAX, 100);
        if (count == -1) {
            if (errno != EINTR)
                die("epoll_wait", errno);
            continue; /* a signal interrupted it: nothing has been reported */
        }
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;

            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                read_echoes(c);
            send_messages(c);
        }
        if (opening && open_count == connection_count)
            start_messages();
        double now = seconds();
        check_deadlines(now);
        show_progress(now);
    }
}

/* Closes all connections with a reset (SO_LINGER in socket(7)). After a normal close() our kernel
 * would keep each port for another minute (TIME_WAIT in tcp(7)), and after thousands of them the
 * next run would find no free port. A reset also discards bytes in flight, in both directions, so
 * we do this only when all echoes are complete. */
static void close_connections(void) {
    const struct linger reset = {.l_onoff = 1, .l_linger = 0};

    for (long long i = 0; i < connection_count; i++) {
        setsockopt(connections[i].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(connections[i].fd);
    }
}

/* Prints the figures. Ends the program if they cannot be written, for example because the disk is
 * full. (printf() only fills a buffer.) */
static void report(void) {
    double elapsed = last_progress - started_at;
    double rate = (double)finished / elapsed;

    printf("%lld connections, %lld-byte messages, %lld in flight, %.2f s\n", connection_count,
           message_size, in_flight_max, elapsed);
    printf("%lld messages, every byte right\n", finished);
    printf("%.0f messages/s   %.1f MB/s\n", rate, rate * (double)message_size / 1e6);
    printf("latency: p50 %.3f ms   p99 %.3f ms   p99.9 %.3f ms   longest %.3f ms\n",
           percentile(0.5), percentile(0.99), percentile(0.999), (double)longest / 1e6);
    if (fflush(stdout) == EOF || ferror(stdout)) {
        fprintf(stderr, "client: standard output: %s\n", strerror(errno));
        exit(1);
    }
}

/* ---- Starting up -------------------------------------------------------------------------- */

/* Raises our limit on descriptors as far as we may: getrlimit(2). Each connection needs one, so we
 * find out now whether they suffice, and not in the middle of the run. */
static void raise_descriptor_limit(void) {
    struct rlimit limit;
    long long needed = connection_count + DESCRIPTORS_SPARE;

    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < (rlim_t)needed) {
        fprintf(stderr,
                "client: too few descriptors: raise the limit with ulimit -n %lld (as root)\n",
                needed);
        exit(1);
    }
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* Returns host and port in the form that socket() and connect() want. */
static struct addrinfo *server_address(void) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *address;

    /* SOCK_STREAM means TCP; the AI_ flags mean that both texts are numbers. */
    if (getaddrinfo(host, port, &hints, &address) != 0)
        usage("HOST is not a numeric address, such as 127.0.0.1 or ::1");
    return address;
}

/* Returns the number that text says, from 1 to most. */
static long long read_number(const char *name, const char *text, long long most) {
    char *end, problem[80];
    long long value = strtoll(text, &end, 10);

    snprintf(problem, sizeof problem, "%s is not a number from 1 to %lld", name, most);
    /* The first character is a digit, because strtoll() would also take a blank or a sign. */
    if (*text < '0' || *text > '9' || *end != '\0' || value < 1 || value > most)
        usage(problem);
    return value;
}

/* Returns the seconds that text says, more than 0 and at most a day. */
static double read_duration(const char *text) {
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value > 0 && value <= 24 * 60 * 60))
        usage("SECONDS is not a number above 0, up to 86400");
    return value;
}

static void read_arguments(int argc, char *argv[]) {
    int option;

    opterr = 0; /* usage() says what is wrong, not getopt() */
    while ((option = getopt(argc, argv, "qc:n:d:s:P:")) != -1) {
        if (option == 'q')
            quiet = true;
        else if (option == 'c')
            connection_count = read_number("CONNECTIONS", optarg, 1000000);
        else if (option == 'n')
            message_count = read_number("MESSAGES", optarg, INT64_MAX - 1);
        else if (option == 'd')
            duration = read_duration(optarg);
        else if (option == 's')
            message_size = read_number("BYTES", optarg, 1 << 30);
        else if (option == 'P')
            in_flight_max = read_number("IN_FLIGHT", optarg, 1000);
        else
            usage("unknown or incomplete option");
    }
    port = optind < argc ? argv[optind] : "10000";
    host = optind + 1 < argc ? argv[optind + 1] : "127.0.0.1";
    if (optind + 2 < argc)
        usage("there are too many arguments");
    read_number("PORT", port, 65535);
    if (message_count == INT64_MAX && duration == INFINITY)
        duration = 10;
}

int main(int argc, char *argv[]) {
    read_arguments(argc, argv);
    struct addrinfo *address = server_address();
    raise_descriptor_limit();
    make_pattern();
    epoll = epoll_create1(0);
    if (epoll == -1)
        die("epoll_create1", errno);
    connections = calloc((size_t)connection_count, sizeof *connections);
    if (connections == NULL)
        die("calloc", errno);
    run(address);
    close_connections();
    freeaddrinfo(address);
    report();
}
