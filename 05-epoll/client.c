/* client: a load generator for echo servers, with epoll(7).
 *
 *     cc client.c -o client
 *     ./client -c 1000 -d 5       in another window: ./server -q
 *
 * Watch for: ten thousand connections need no more code than two. Each is a few numbers, and what
 * it waits for follows from them. Messages are not stored: all are cut from one pattern, so that
 * every byte that comes back can be checked by its place in the stream. Nor are the times that they
 * took: a histogram counts them. When all connections are open, and each has had one message back
 * that is not counted, the clock starts.
 *
 * Left out on purpose: a steady rate. A connection sends when something has come back, so a server
 * that slows down is asked for less; and with many connections a message also waits for its turn
 * in here. So compare servers with it, but take no figure for the server's alone.
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
    BUFFER_SIZE = 64 * 1024, /* bytes that one recv() or send() may move */
    PATTERN_PERIOD = 65521,  /* bytes after which the pattern repeats: a prime number */
    BUCKETS = 32,            /* of the histogram, for each doubling of the time */
    EVENTS_MAX = 64,         /* events that one epoll_wait() may bring; the rest come next time */
    OPENING_MAX = 100,       /* connections that may be on their way into the server at once */
    SOURCES_MAX = 200,       /* addresses that we may connect from */
    DESCRIPTORS_SPARE = 16,  /* descriptors for all that is no connection */
    PATIENCE = 5,            /* seconds that we wait for an echo */
};

struct connection {
    int fd;
    uint32_t interest;  /* the events that the kernel watches for; 0 before it does */
    long long sent;     /* bytes of its stream that the kernel has taken from us, */
    long long received; /* and those that have come back */
    double *begun_at;   /* when message i went out, at [i % in_flight_max], until it is back */
};

static long long connection_count = 100; /* -c */
static long long messages = INT64_MAX;   /* -n: in all */
static double duration = INFINITY;       /* -d: seconds */
static long long message_size = 64;      /* -s */
static long long in_flight_max = 1;      /* -P: messages of one connection on their way at once */
static bool quiet;                       /* -q: no progress line */
static const char *server_port = "10000";
static const char *server_host = "127.0.0.1";

static int epoll; /* the descriptor of the kernel's list */
static struct connection *connections;
static char pattern[PATTERN_PERIOD + BUFFER_SIZE]; /* a buffer can begin anywhere in the period */

static bool opening = true;     /* not all connections have had their first echo, */
static long long begun_count;   /* though so many have begun to connect, */
static long long open_count;    /* and so many have had it */
static long long messages_left; /* messages that may still be begun, */
static long long in_flight;     /* those that have begun and are not back, */
static long long finished;      /* and those that are back */
static double started_at;       /* when the first of them could begin, in seconds() */
static double last_progress;    /* when something last came back */

static long long histogram[64 * BUCKETS]; /* messages, by the nanoseconds that they took */
static long long longest;

static void usage(const char *problem) {
    fprintf(
        stderr,
        "client: %s\n"
        "usage: client [-q] [-c CONNECTIONS] [-n MESSAGES] [-d SECONDS] [-s BYTES]\n"
        "              [-P IN_FLIGHT] [PORT [HOST]]\n"
        "-c: connections (100); -s: bytes in a message (64); -P: messages that a connection may\n"
        "have on their way at once (1); -n: end after so many messages, of all connections;\n"
        "-d: end after so long (10, unless there is -n); -q: no progress line;\n"
        "PORT 10000; HOST 127.0.0.1\n",
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
    else if (error == EMFILE)
        advice = "ask for fewer connections with -c, or raise ulimit -n";
    else if (error == EADDRNOTAVAIL || error == EADDRINUSE || error == EAFNOSUPPORT)
        advice = "no port is free, or this machine cannot reach such addresses; try 127.0.0.1";
    fprintf(stderr, "client: %s %s port %s: %s (%s)\n", call, server_host, server_port,
            strerror(error), advice);
    exit(1);
}

/* Ends the program: the connection broke, or what came back is not our echo. */
static void fail(const struct connection *c, const char *why, ...) {
    struct sockaddr_storage own;
    socklen_t length = sizeof own;
    char host[64] = "?", port[8] = "?";
    va_list arguments;

    getsockname(c->fd, (struct sockaddr *)&own, &length);
    getnameinfo((struct sockaddr *)&own, length, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    fprintf(stderr, strchr(host, ':') ? "client: [%s]:%s: " : "client: %s:%s: ", host, port);
    va_start(arguments, why);
    vfprintf(stderr, why, arguments);
    va_end(arguments);
    if (opening)
        fprintf(stderr, " (%lld of %lld connections were open)", open_count, connection_count);
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

/* From now on a call on fd that would have to wait fails with EAGAIN instead: O_NONBLOCK in
 * open(2). Returns -1, with errno set, if that cannot be had. */
static int set_nonblocking(int fd) {
    int flags = fcntl(fd, F_GETFL);

    return flags == -1 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

/* Fills the pattern with bytes that look like chance but are the same in each run. */
static void make_pattern(void) {
    uint32_t state = 1;

    for (size_t i = 0; i < sizeof pattern; i++) {
        state = state * 1664525 + 1013904223;
        pattern[i] = i < PATTERN_PERIOD ? (char)(state >> 24) : pattern[i - PATTERN_PERIOD];
    }
}

/* The bytes of c's stream from position on, BUFFER_SIZE of them. Each connection begins elsewhere
 * in the pattern, and no stretch of it is like another: bytes that are lost, doubled, or those of
 * another connection do not fit. */
static const char *stream(const struct connection *c, long long position) {
    return pattern + ((c - connections) * 7919LL + position) % PATTERN_PERIOD;
}

/* The number of the bucket for a time. Below 2 * BUCKETS each nanosecond has its own. From there on
 * buckets are twice as wide whenever the time has doubled, and so never wider than 1/32, or 3%, of
 * the times in them: a second and a microsecond are known equally well, and 16 KiB are enough. */
static int bucket_of(long long nanoseconds) {
    int doublings = 0;

    while (nanoseconds >> doublings >= 2 * BUCKETS)
        doublings++;
    return doublings * BUCKETS + (int)(nanoseconds >> doublings);
}

/* The other way round: the first time that is too long for a bucket. */
static long long bucket_end(int bucket) {
    int doublings = bucket < 2 * BUCKETS ? 0 : bucket / BUCKETS - 1;

    return (long long)(bucket - doublings * BUCKETS + 1) << doublings;
}

/* The milliseconds in which this share of the messages came back, rounded up to a bucket's end. */
static double percentile(double share) {
    long long count = histogram[0];
    int bucket = 0;

    while ((double)count < share * (double)finished)
        count += histogram[++bucket];
    return (double)(bucket_end(bucket) < longest ? bucket_end(bucket) : longest) / 1e6;
}

static long long messages_begun(const struct connection *c) {
    return (c->sent + message_size - 1) / message_size;
}

static long long messages_back(const struct connection *c) {
    return c->received / message_size;
}

/* How many bytes c may send now: the rest of a message that it has begun, and the messages that it
 * may begin. While connections open that is one for each. For connect() succeeds as soon as the
 * server's kernel has put us into the backlog. Only an echo shows that the server has met us. */
static long long may_send(const struct connection *c) {
    long long begun = messages_begun(c);
    long long more = in_flight_max - (begun - messages_back(c));

    if (opening)
        more = begun == 0 ? 1 : 0;
    else if (more > messages_left)
        more = messages_left;
    return (begun + more) * message_size - c->sent;
}

/* Tells the kernel what c waits for now, unless it knows. We are always ready to read: if we did
 * not read before all is sent, and the server not before we take its echo, nobody would go on. */
static void watch(struct connection *c) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};

    if (may_send(c) > 0)
        event.events |= EPOLLOUT;
    if (event.events == c->interest)
        return;
    int operation = c->interest == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    c->interest = event.events;
    if (epoll_ctl(epoll, operation, c->fd, &event) == -1)
        die("epoll_ctl", errno);
}

/* Sends what c may send, or as much of it as the kernel takes. */
static void send_to(struct connection *c) {
    long long begun = messages_begun(c);
    long long length = may_send(c);

    if (length > 0) {
        double now = seconds();
        if (length > BUFFER_SIZE)
            length = BUFFER_SIZE;
        ssize_t sent = send(c->fd, stream(c, c->sent), (size_t)length, MSG_NOSIGNAL);
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
    watch(c);
}

/* Counts a message that is back as a whole, and notes how long that took. */
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

/* Reads what has come back to c, and checks every byte. */
static void receive_from(struct connection *c) {
    static char buffer[BUFFER_SIZE];
    const char *expected = stream(c, c->received);
    long long back = messages_back(c);
    ssize_t received = recv(c->fd, buffer, sizeof buffer, 0);

    if (received == -1) {
        if (is_temporary(errno))
            return;
        if (c->sent == 0) /* then this is the error of connect(); 02 asks SO_ERROR for it */
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
    for (; back < messages_back(c); back++)
        finish_message(c->begun_at[back % in_flight_max]);
}

/* Begins to connect fd, without waiting for the end. Returns -1, with errno set, if that fails.
 *
 * An address has some 28,000 ports to connect from: ip_local_port_range in ip(7). But on this
 * machine we have more addresses than one: all that begin with 127. So when the ports of 127.0.0.1
 * run out we go on from 127.0.0.2, and so forth. */
static int begin_connect(int fd, const struct addrinfo *address) {
    static uint32_t source; /* how many addresses have run out */
    struct sockaddr_in own = {.sin_family = AF_INET};

    for (;;) {
        int status = 0;
        if (source > 0) {
            own.sin_addr.s_addr = htonl(INADDR_LOOPBACK + source);
            status = bind(fd, (struct sockaddr *)&own, sizeof own);
        }
        if (status == 0)
            status = connect(fd, address->ai_addr, address->ai_addrlen);
        if (status == 0 || errno == EINPROGRESS || errno == EINTR)
            return 0;
        bool out_of_ports = errno == EADDRNOTAVAIL || errno == EADDRINUSE;
        if (!out_of_ports || strncmp(server_host, "127.", 4) != 0 || source == SOURCES_MAX)
            return -1;
        source++;
    }
}

/* Begins to open c. It is done when c is writable, or has failed. */
static void open_connection(struct connection *c, const struct addrinfo *address) {
    int on = 1;

    c->begun_at = calloc((size_t)in_flight_max, sizeof *c->begun_at);
    if (c->begun_at == NULL)
        die("calloc", errno);
    c->fd = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (c->fd == -1)
        die("socket", errno);
    if (set_nonblocking(c->fd) == -1)
        die("fcntl", errno);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* as in the servers */
    if (begin_connect(c->fd, address) == -1)
        die("connect", errno);
    watch(c);
}

/* All connections have had their first echo. Now the clock starts, and all begin at once. */
static void start_messages(void) {
    opening = false;
    messages_left = messages;
    started_at = last_progress = seconds();
    for (long long i = 0; i < connection_count; i++)
        send_to(&connections[i]);
}

/* Looks at the clock. Is it over? Have we waited long enough, for anything, or for the last echoes?
 * Would somebody who looks on like to see how far we are? */
static void check_time(void) {
    static double give_up_at = INFINITY, show_again_at;
    double now = seconds();

    if (!opening && messages_left > 0 && now >= started_at + duration) {
        messages_left = 0;           /* no more begin, */
        give_up_at = now + PATIENCE; /* and those on their way should soon be back */
    }
    if (now >= last_progress + PATIENCE || now >= give_up_at) {
        fprintf(stderr, "client: gave up after %d s: ", PATIENCE);
        if (opening)
            fprintf(stderr,
                    "%lld of %lld connections were open (does the server answer? is its ulimit -n "
                    "too low?)\n",
                    open_count, connection_count);
        else
            fprintf(stderr, "%lld messages are not back\n", in_flight);
        exit(1);
    }
    if (quiet || !isatty(STDERR_FILENO) || now < show_again_at)
        return;
    show_again_at = now + 0.2;
    /* Wipe the line before, and go to its start after: what comes next is written over it. */
    fprintf(stderr, "\033[K%lld of %lld connections   %.0f messages/s\r", open_count,
            connection_count, opening ? 0 : (double)finished / (now - started_at));
}

static void run(const struct addrinfo *address) {
    last_progress = seconds();
    while (opening || messages_left > 0 || in_flight > 0) {
        struct epoll_event events[EVENTS_MAX];

        /* Not all at once: a backlog that is full loses us, and we would try again only after a
         * second, then two, then four: tcp_syn_retries in tcp(7). */
        while (begun_count < connection_count && begun_count - open_count < OPENING_MAX)
            open_connection(&connections[begun_count++], address);

        /* A look at the clock every 100 ms at least is enough here. 06 waits just long enough. */
        int count = epoll_wait(epoll, events, EVENTS_MAX, 100);
        if (count == -1) {
            if (errno != EINTR)
                die("epoll_wait", errno);
            continue;
        }
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;

            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                receive_from(c);
            send_to(c);
        }
        if (opening && open_count == connection_count)
            start_messages();
        check_time();
    }
}

/* A close() that says goodbye keeps our port in TIME_WAIT for a minute: tcp(7). After thousands of
 * them the next run would find no port free. A reset leaves nothing behind. It also throws away
 * what is still on its way, in both directions: so not before all echoes are in. */
static void close_connections(void) {
    const struct linger reset = {.l_onoff = 1, .l_linger = 0};

    for (long long i = 0; i < connection_count; i++) {
        setsockopt(connections[i].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(connections[i].fd);
    }
}

static void report(void) {
    double elapsed = last_progress - started_at;
    double rate = (double)finished / elapsed;

    printf("%lld connections, %lld-byte messages, %lld in flight, %.2f s\n", connection_count,
           message_size, in_flight_max, elapsed);
    printf("%lld messages, every byte right\n", finished);
    printf("%.0f messages/s   %.1f MB/s\n", rate, rate * (double)message_size / 1e6);
    printf("latency: p50 %.3f ms   p99 %.3f ms   p99.9 %.3f ms   longest %.3f ms\n",
           percentile(0.5), percentile(0.99), percentile(0.999), (double)longest / 1e6);
}

/* Every connection is a descriptor, and a process may have only so many. Up to the hard limit we
 * may help ourselves: getrlimit(2). */
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

/* Returns the server's address in the form that connect() takes. */
static struct addrinfo *server_address(void) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *address;

    if (getaddrinfo(server_host, server_port, &hints, &address) != 0)
        usage("HOST is not a numeric address, such as 127.0.0.1 or ::1");
    return address;
}

/* Returns the number that text says, from 1 to most. */
static long long read_number(const char *name, const char *text, long long most) {
    long long value = strtoll(text, NULL, 10);
    char problem[80];

    snprintf(problem, sizeof problem, "%s is not a number from 1 to %lld", name, most);
    if (strspn(text, "0123456789") != strlen(text) || value < 1 || value > most)
        usage(problem);
    return value;
}

/* Returns the seconds that text says, at most a day. */
static double read_seconds(const char *text) {
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value > 0 && value <= 24 * 60 * 60))
        usage("SECONDS is not a number above 0, up to 86400");
    return value;
}

static void read_arguments(int argc, char *argv[]) {
    int option;

    opterr = 0;
    while ((option = getopt(argc, argv, "qc:n:d:s:P:")) != -1) {
        if (option == 'q')
            quiet = true;
        else if (option == 'c')
            connection_count = read_number("CONNECTIONS", optarg, 1000000);
        else if (option == 'n')
            messages = read_number("MESSAGES", optarg, INT64_MAX);
        else if (option == 'd')
            duration = read_seconds(optarg);
        else if (option == 's')
            message_size = read_number("BYTES", optarg, 1 << 30);
        else if (option == 'P')
            in_flight_max = read_number("IN_FLIGHT", optarg, 1000);
        else
            usage("there is no such option");
    }
    if (optind < argc)
        server_port = argv[optind++];
    if (optind < argc)
        server_host = argv[optind++];
    if (optind < argc)
        usage("there are too many arguments");
    read_number("PORT", server_port, 65535);
    if (messages == INT64_MAX && duration == INFINITY)
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
