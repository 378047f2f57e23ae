/*
 * peer: a TCP peer that does exactly what a script tells it, and says where it went wrong.
 *
 *     peer 10000 connect send "hello\n" expect "hello\n" shutdown eof
 *     peer 10000 @c1..200 connect send-bytes 1K drain close
 *     peer -l accept expect-line send "hi\n" reset
 *     peer -h
 *
 * A test must know why it failed. Therefore each step waits for one thing, until a deadline. The
 * first step that fails ends the script, with one line that says which step it is, what was
 * expected, and what came instead.
 *
 * What to look for while you read:
 *   - The table `commands` near the end drives parsing, help and execution. A new step is one
 *     function and one line of that table.
 *   - Every socket is non-blocking. Every wait is a poll() with a deadline, in wait_for().
 *   - The bytes of send-bytes are computed from the connection's name and their place in the
 *     stream. So a byte that is lost, doubled, swapped, or from another connection is found and
 *     named.
 *
 * No step waits for a server by sleeping. (`pause` plays a client that does nothing for a while.)
 */
#define _GNU_SOURCE /* memmem */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    BACKLOG = 4096,      /* a full one costs the client a second, until its SYN is sent again */
    CHUNK = 64 * 1024,   /* the most that one send or recv moves */
    SHOWN = 60,          /* the most bytes of a stream that a message shows */
    BUCKETS = 4096,      /* of the table of names: chains stay short at 10,000 connections */
    VALUES = 2,          /* the most arguments that a step has */
    WATCHED_MAX = 64,    /* the most processes of a server whose CPU time is watched */
    LINE_LIMIT = 65536,  /* expect-line gives up on a longer line */
    RANGE_LIMIT = 100000 /* @c1..N: a larger N must be a mistake */
};

#define MILLISECOND INT64_C(1000000)
#define SECOND      (1000 * MILLISECOND)
#define QUIET       (300 * MILLISECOND) /* fill, offer: the buffers stay full for that long */
#define PIECE_GAP   MILLISECOND         /* pieces: the other side can read each one by itself */
#define STALL       (30 * MILLISECOND)  /* a delayed ACK takes at least 40 ms, on every machine */
#define LONGEST     (86400 * SECOND)    /* of the times in a script */
#define NEVER       INT64_MAX

struct connection {
    char *name;
    struct connection *next; /* in the same bucket of the table of names */
    int fd;                  /* -1: not open */
    uint64_t key;            /* of the pattern, computed from the name */
    size_t sent;     /* pattern bytes sent so far, and so the place of the next one in the stream */
    size_t received; /* pattern bytes received so far */
    size_t piece;    /* the size of the pieces in which bytes are sent; 0: as large as possible */
    int rcvbuf;      /* the wanted size of the receive buffer; 0: leave it to the kernel */
};

/* One argument of a step, converted according to its kind. */
struct value {
    const char *word; /* as it was written */
    unsigned char *bytes;
    size_t length; /* of bytes */
    size_t number;
    int64_t duration; /* in nanoseconds, like all times in this program */
};

struct step {
    const struct command *command;
    int value_count;
    struct value values[VALUES];
};

enum kind { NONE, NAME, TEXT, BYTE, N, COUNT, MAXIMUM, MS, SECONDS, PID };

/* What a command is for, and how often it runs. */
enum {
    CLIENT = 1,
    SERVER = 2,
    BOTH = CLIENT | SERVER,
    EACH = 4, /* runs for each current connection in turn; otherwise once, without a connection */
    OPEN = 8, /* needs an open connection */
    TALK = BOTH | EACH | OPEN
};

struct command {
    const char *name;
    enum kind kinds[VALUES];
    int flags;
    void (*run)(struct connection *c, const struct value *value);
    const char *help;
};

static struct connection *names[BUCKETS]; /* every connection, by name */
static struct connection **current;       /* those that the next steps are for */
static size_t current_count;

static struct sockaddr_storage address; /* of the server: the other side, or our own address */
static socklen_t address_length;
static int listener = -1;
static int fillers[16]; /* -f: our own connections, which fill the backlog */
static size_t filler_count;

static double slow = 1;            /* SLOW: every deadline is multiplied by it */
static int64_t limit = 5 * SECOND; /* -t: how long a step may wait, multiplied by slow */
static int64_t last_start = NEVER; /* -T: no step begins after that */
static int64_t marked;             /* the time of the last `mark` */
static int64_t quickest;           /* the shortest of the last round trips */
static size_t stalls;              /* how many of them stalled */
static size_t watched_count;       /* `watch`: the processes of the server, see step_roundtrips() */
static char watched_ids[WATCHED_MAX][24];

static struct {                     /* the step that runs, for the message if it fails */
    int number;                     /* of the step, from 1 */
    const struct step *step;        /* NULL while the script is read */
    const struct connection *whose; /* NULL for a step that is for no connection */
    size_t turn;                    /* the index of this connection among the current ones */
    int64_t deadline;
    bool interactive; /* steps come from stdin, and a failure is printed on stdout as well */
} doing;

static unsigned char outgoing[CHUNK], incoming[CHUNK], expected[CHUNK];

/* ---- Reporting ---- */

/* Escapes and cuts bytes from outside, so that they fit in a line and cannot drive a terminal. The
 * result is valid until the fourth call after this one. */
static const char *quoted(const unsigned char *bytes, size_t length) {
    static char results[4][SHOWN * 4 + 8];
    static unsigned turn;
    char *result = results[turn++ % 4];
    char *end = result;

    *end++ = '"';
    for (size_t i = 0; i < length && i < SHOWN; i++) {
        const char *letters = "\n\r\t\\\"";
        const char *names_of = "nrt\\\"";
        const char *found = bytes[i] == '\0' ? NULL : strchr(letters, bytes[i]);
        if (found != NULL) {
            *end++ = '\\';
            *end++ = names_of[found - letters];
        } else if (bytes[i] >= ' ' && bytes[i] <= '~') {
            *end++ = (char)bytes[i];
        } else {
            end += snprintf(end, 5, "\\x%02x", bytes[i]);
        }
    }
    *end++ = '"';
    memcpy(end, length > SHOWN ? "..." : "", length > SHOWN ? 4 : 1);
    return result;
}

/* Adds text to the message. What does not fit is left out. */
__attribute__((format(printf, 1, 2))) static void add(const char *format, ...);
__attribute__((format(printf, 1, 2))) _Noreturn static void fail(const char *format, ...);

static char message[4096];
static size_t message_length;

static void add_list(const char *format, va_list arguments) {
    size_t room = sizeof message - message_length;
    int length = vsnprintf(message + message_length, room, format, arguments);

    if (length > 0) {
        message_length += (size_t)length < room ? (size_t)length : room - 1;
    }
}

static void add(const char *format, ...) {
    va_list arguments;

    va_start(arguments, format);
    add_list(format, arguments);
    va_end(arguments);
}

/* Begins the message with the number of the step, its connection, and its words. */
static void add_step(void) {
    message_length = 0;
    add("peer: ");
    if (doing.number > 0) {
        add("step %d", doing.number);
        if (doing.whose != NULL) {
            add(", %s", doing.whose->name);
        }
        add(": ");
    }
    if (doing.step == NULL) {
        return;
    }
    const struct command *command = doing.step->command;
    add("%s", command->kinds[0] == NAME ? "" : command->name); /* "@NAME" is its own argument */
    for (int i = 0; i < doing.step->value_count; i++) {
        const struct value *value = &doing.step->values[i];
        bool text = command->kinds[i] == TEXT || command->kinds[i] == BYTE;
        bool alone = command->kinds[0] == NAME;
        add("%s%s", alone ? "" : " ", text ? quoted(value->bytes, value->length) : value->word);
    }
    add(": ");
}

/* Prints the message and ends the program. */
_Noreturn static void give_up(int status) {
    fprintf(stderr, "%s\n", message);
    if (doing.interactive) {
        printf("%s\n", message); /* the program that sends the steps waits for "ok" there */
        fflush(stdout);
    }
    exit(status);
}

static void fail(const char *format, ...) {
    va_list arguments;

    add_step();
    va_start(arguments, format);
    add_list(format, arguments);
    va_end(arguments);
    give_up(1);
}

__attribute__((format(printf, 1, 2))) _Noreturn static void usage_error(const char *format, ...) {
    va_list arguments;

    add_step();
    va_start(arguments, format);
    add_list(format, arguments);
    va_end(arguments);
    give_up(2);
}

/* Prints a line on stdout, at once, because the program that started us may wait for it. */
__attribute__((format(printf, 1, 2))) static void print(const char *format, ...) {
    va_list arguments;

    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    if (fflush(stdout) == EOF) {
        fail("cannot write to stdout: %s", strerror(errno));
    }
}

static void *allocate(void *old, size_t size) {
    void *memory = realloc(old, size);

    if (memory == NULL) {
        fail("out of memory");
    }
    return memory;
}

/* ---- Time ---- */

static int64_t clock_now(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * SECOND + now.tv_nsec;
}

static double in_ms(int64_t duration) {
    return (double)duration / (double)MILLISECOND;
}

static double in_seconds(int64_t duration) {
    return (double)duration / (double)SECOND;
}

static int64_t stretched(int64_t duration) {
    return (int64_t)((double)duration * slow);
}

/* The timeout for poll() that ends at `until`. It is rounded up, so that the last millisecond is
 * not spent spinning, and is never negative, because a negative timeout means forever. */
static int poll_time(int64_t until) {
    int64_t left = until - clock_now();

    if (left <= 0) {
        return 0;
    }
    left = (left + MILLISECOND - 1) / MILLISECOND;
    return left > INT32_MAX ? INT32_MAX : (int)left;
}

/* Sets the deadline of a step that is meant to last for `duration`. */
static void allow(int64_t duration) {
    doing.deadline = clock_now() + duration + limit;
}

/* Waits until the descriptor is ready, and returns poll()'s revents; 0 if it was not ready before
 * `until`. With descriptor -1 it only waits. */
static short wait_for(int fd, short events, int64_t until) {
    struct pollfd waited = {.fd = fd, .events = events};

    while (true) {
        int count = poll(&waited, 1, poll_time(until));
        if (count > 0) {
            return waited.revents;
        }
        if (count < 0 && errno != EINTR) {
            fail("poll: %s", strerror(errno));
        }
        if (clock_now() >= until) {
            return 0;
        }
    }
}

/* ---- Addresses ---- */

/* Sets the server's address. It must be numeric, because a name service would make a test depend on
 * the network. */
static bool parse_address(const char *host, const char *port) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *found;

    if (getaddrinfo(host, port, &hints, &found) != 0) {
        return false;
    }
    memcpy(&address, found->ai_addr, found->ai_addrlen);
    address_length = found->ai_addrlen;
    freeaddrinfo(found);
    return true;
}

struct endpoint {
    char host[64]; /* an IPv6 address, perhaps with a zone */
    char port[8];
};

static struct endpoint local_endpoint(int fd) {
    struct sockaddr_storage own;
    socklen_t length = sizeof own;
    struct endpoint result;

    if (getsockname(fd, (struct sockaddr *)&own, &length) < 0) {
        fail("getsockname: %s", strerror(errno));
    }
    int error = getnameinfo((struct sockaddr *)&own, length, result.host, sizeof result.host,
                            result.port, sizeof result.port, NI_NUMERICHOST | NI_NUMERICSERV);
    if (error != 0) {
        fail("getnameinfo: %s", gai_strerror(error));
    }
    return result;
}

/* ---- Connections and their names ---- */

static uint64_t mixed(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9); /* the mixing step of splitmix64 */
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static uint64_t hash(const char *name) {
    uint64_t result = UINT64_C(0xcbf29ce484222325); /* FNV-1a */

    for (; *name != '\0'; name++) {
        result = (result ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
    }
    return mixed(result);
}

/* Returns the connection of that name, and creates it when it is named for the first time. */
static struct connection *find(const char *name) {
    uint64_t key = hash(name);
    struct connection **bucket = &names[key % BUCKETS];

    for (struct connection *c = *bucket; c != NULL; c = c->next) {
        if (strcmp(c->name, name) == 0) {
            return c;
        }
    }
    struct connection *c = allocate(NULL, sizeof *c);
    *c = (struct connection){.fd = -1, .key = key, .next = *bucket};
    c->name = allocate(NULL, strlen(name) + 1);
    memcpy(c->name, name, strlen(name) + 1);
    *bucket = c;
    return c;
}

static void close_connection(struct connection *c) {
    close(c->fd);
    c->fd = -1;
}

static void forget_connections(void) {
    for (size_t i = 0; i < BUCKETS; i++) {
        while (names[i] != NULL) {
            struct connection *c = names[i];
            names[i] = c->next;
            if (c->fd >= 0) {
                close(c->fd);
            }
            free(c->name);
            free(c);
        }
    }
    free(current);
}

/* ---- The pattern ---- */

/* Computes the bytes from `offset` on of the stream of the connection with this key. Each block of
 * 256 bytes holds every value once, in an order that depends on the key and on the number of the
 * block. So neighbouring bytes differ, and a lost or doubled byte shows at once; and blocks differ,
 * as do connections. */
static void make_pattern(uint64_t key, size_t offset, unsigned char *bytes, size_t length) {
    while (length > 0) {
        uint64_t order = mixed(key + offset / 256);
        unsigned multiply = (unsigned)(order & 255) | 1; /* odd: no two values become the same */
        unsigned plus = (unsigned)(order >> 8 & 255);
        unsigned multiply_again = (unsigned)(order >> 16 & 255) | 1;
        unsigned plus_again = (unsigned)(order >> 24 & 255);
        unsigned place = (unsigned)(offset % 256);
        size_t count = 256 - place < length ? 256 - place : length;

        for (size_t i = 0; i < count; i++) {
            unsigned x = (place + (unsigned)i) & 255;
            x = (x * multiply + plus) & 255;
            x ^= x >> 4;
            bytes[i] = (unsigned char)(x * multiply_again + plus_again);
        }
        bytes += count;
        offset += count;
        length -= count;
    }
}

/* Returns where a connection's pattern holds these bytes, near `offset`; SIZE_MAX if nowhere. */
static size_t find_in_pattern(const struct connection *c, const unsigned char *bytes, size_t length,
                              size_t offset) {
    static unsigned char near[8 * CHUNK];
    size_t start = offset > sizeof near / 2 ? offset - sizeof near / 2 : 0;
    size_t end = start + sizeof near < c->sent ? start + sizeof near : c->sent;

    if (length < 4 || end < start + length) { /* fewer bytes may occur by chance */
        return SIZE_MAX;
    }
    make_pattern(c->key, start, near, end - start);
    const unsigned char *found = memmem(near, end - start, bytes, length);
    return found == NULL ? SIZE_MAX : start + (size_t)(found - near);
}

/* Returns what went wrong with a stream, judged by the bytes that came instead of those at
 * `offset`. */
static const char *diagnosis(const struct connection *c, const unsigned char *bytes, size_t length,
                             size_t offset) {
    static char text[160];
    size_t sample = length < 8 ? length : 8;
    size_t place = find_in_pattern(c, bytes, sample, offset);

    text[0] = '\0';
    if (place != SIZE_MAX && place > offset) {
        snprintf(text, sizeof text, " (bytes are missing: this is byte %zu of the stream, not %zu)",
                 place, offset);
    } else if (place != SIZE_MAX) {
        snprintf(text, sizeof text,
                 " (bytes are repeated: this is byte %zu of the stream, not %zu)", place, offset);
    }
    for (size_t i = 0; i < BUCKETS && place == SIZE_MAX; i++) {
        for (const struct connection *other = names[i]; other != NULL; other = other->next) {
            place = other == c ? SIZE_MAX : find_in_pattern(other, bytes, sample, offset);
            if (place != SIZE_MAX) {
                snprintf(text, sizeof text, " (this is byte %zu of another connection, %.40s)",
                         place, other->name);
                break;
            }
        }
    }
    return text;
}

/* ---- Sending and receiving ---- */

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Returns how a call of receive() that brought nothing has ended, to be printed after "got".
 * `before` is the number of bytes that came before. They are shown unless `bytes` is NULL. */
static const char *ending(ssize_t result, size_t before, const unsigned char *bytes) {
    static char text[SHOWN * 4 + 128];
    const char *what = result == 0 ? "end of file" : strerror(errno);
    int length;

    if (result < 0 && errno == EAGAIN) {
        length = snprintf(text, sizeof text, "nothing%s within %g s", before > 0 ? " more" : "",
                          in_seconds(limit));
    } else {
        length = snprintf(text, sizeof text, "%s", what);
    }
    if (before > 0) {
        snprintf(text + length, sizeof text - (size_t)length, " after %zu byte%s%s%s", before,
                 before == 1 ? "" : "s", bytes != NULL ? " " : "",
                 bytes != NULL ? quoted(bytes, before) : "");
    }
    return text;
}

/* A recv() that waits until `until`. Returns 0 at end of file, and -1 with errno for an error:
 * EAGAIN if nothing came. */
static ssize_t receive(const struct connection *c, void *buffer, size_t size, int64_t until) {
    while (true) {
        ssize_t count = recv(c->fd, buffer, size, 0);
        if (count >= 0 || (errno != EAGAIN && errno != EINTR)) {
            return count;
        }
        if (wait_for(c->fd, POLLIN, until) == 0) {
            errno = EAGAIN;
            return -1;
        }
    }
}

/* Sends what the kernel accepts at once, and returns how many bytes that was. */
static size_t send_some(const struct connection *c, const unsigned char *bytes, size_t length) {
    ssize_t count = send(c->fd, bytes, length, MSG_NOSIGNAL);

    if (count < 0 && errno != EAGAIN && errno != EINTR) {
        fail("send: %s", strerror(errno));
    }
    return count < 0 ? 0 : (size_t)count;
}

/* Sends all of it without reading. A long send is done in chunks. `before` and `total` are for the
 * message: how many bytes came before this chunk, and how many all chunks have. */
static void send_all(const struct connection *c, const unsigned char *bytes, size_t length,
                     size_t before, size_t total) {
    size_t sent = 0;

    while (sent < length) {
        size_t want = c->piece > 0 ? smaller(length - sent, c->piece) : length - sent;
        ssize_t count = send(c->fd, bytes + sent, want, MSG_NOSIGNAL);
        if (count > 0) {
            sent += (size_t)count;
            if (c->piece > 0) {
                wait_for(-1, 0, clock_now() + PIECE_GAP);
            }
        } else if (errno != EAGAIN && errno != EINTR) {
            fail("send: %s after %zu of %zu bytes", strerror(errno), before + sent, total);
        } else if (wait_for(c->fd, POLLOUT, doing.deadline) == 0) {
            fail("could send only %zu of %zu bytes within %g s", before + sent, total,
                 in_seconds(limit));
        }
    }
}

/* Compares what came with the pattern. `first` is where in the stream this step has begun. */
static void check_pattern(struct connection *c, size_t length, size_t first) {
    make_pattern(c->key, c->received, expected, length);
    if (memcmp(incoming, expected, length) == 0) {
        c->received += length;
        return;
    }
    size_t i = 0;
    while (incoming[i] == expected[i]) {
        i++;
    }
    size_t offset = c->received + i;
    if (length - i < 8 && length < CHUNK) { /* a longer sample, for the diagnosis */
        ssize_t more = recv(c->fd, incoming + length, CHUNK - length, 0);
        length += more > 0 ? (size_t)more : 0;
    }
    fail("byte %zu is 0x%02x, but should be 0x%02x%s", offset - first, incoming[i], expected[i],
         diagnosis(c, incoming + i, length - i, offset));
}

/* What to send while reading its echo. */
struct plan {
    size_t amount;      /* how many bytes of the pattern */
    int64_t send_until; /* nothing is sent after that */
    size_t piece;       /* the most bytes that one send() gets; 0: as many as possible */
    int64_t gap;        /* the time from one piece to the next */
    bool eager;         /* send the next piece early if all echo has come */
};

static size_t send_pattern(struct connection *c, size_t length) {
    make_pattern(c->key, c->sent, outgoing, length);
    size_t count = send_some(c, outgoing, length);
    c->sent += count;
    return count;
}

/* Whenever bytes come back, the deadline is moved (but not past -T), because servers are slow or
 * fast, and the number of bytes that the kernel can hold differs from machine to machine. */
static void extend_deadline(void) {
    int64_t later = clock_now() + limit;

    later = later < last_start ? later : last_start;
    if (later > doing.deadline) {
        doing.deadline = later;
    }
}

/* Sends as planned, and at the same time reads and checks all bytes that have been sent and have
 * not come back, also those of earlier steps. Returns how many bytes it sent. */
static size_t echo(struct connection *c, struct plan plan) {
    size_t first = c->received;
    size_t owed = c->sent > c->received ? c->sent - c->received : 0;
    size_t sent = 0;
    int64_t next_piece = 0;

    while (true) {
        int64_t now = clock_now();
        bool sending = sent < plan.amount && now < plan.send_until;
        if (!sending && owed == 0) {
            return sent;
        }
        bool may_send = sending && (now >= next_piece || (plan.eager && owed == 0));
        int64_t until = doing.deadline;
        if (sending && !may_send && next_piece < until) {
            until = next_piece;
        }
        if (sending && plan.send_until < until) {
            until = plan.send_until;
        }
        short events = (short)((may_send ? POLLOUT : 0) | (owed > 0 ? POLLIN : 0));
        short ready = wait_for(c->fd, events, until);
        if (ready == 0 && until == doing.deadline && plan.amount == 0) {
            fail("got %zu of %zu bytes back within %g s", c->received - first,
                 c->received - first + owed, in_seconds(limit));
        }
        if (ready == 0 && until == doing.deadline) {
            fail("sent %zu bytes, got %zu of %zu back within %g s", sent, c->received - first,
                 c->received - first + owed, in_seconds(limit));
        }
        if (owed > 0 && (ready & (POLLIN | POLLHUP | POLLERR)) != 0) {
            ssize_t count = receive(c, incoming, smaller(owed, CHUNK), now);
            if (count > 0) {
                check_pattern(c, (size_t)count, first);
                owed -= (size_t)count;
                extend_deadline();
            } else if (count == 0 || errno != EAGAIN) {
                fail("got %s, with %zu byte%s still to come",
                     ending(count, c->received - first, NULL), owed, owed == 1 ? "" : "s");
            }
        }
        if (sending && (ready & (POLLOUT | POLLHUP | POLLERR)) != 0) {
            size_t want = smaller(plan.amount - sent, CHUNK);
            size_t count = send_pattern(c, plan.piece > 0 ? smaller(want, plan.piece) : want);
            sent += count;
            owed += count;
            next_piece = clock_now() + plan.gap;
        }
    }
}

static struct plan simple_plan(const struct connection *c, size_t amount) {
    return (struct plan){.amount = amount,
                         .send_until = NEVER,
                         .piece = c->piece,
                         .gap = c->piece > 0 ? PIECE_GAP : 0,
                         .eager = true};
}

/* ---- Steps: connecting ---- */

static void set_option(int fd, int level, int option, int value, const char *call) {
    if (setsockopt(fd, level, option, &value, sizeof value) < 0) {
        fail("%s: %s", call, strerror(errno));
    }
}

static void make_nonblocking(int fd) {
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        fail("fcntl O_NONBLOCK: %s", strerror(errno));
    }
}

static int new_socket(int family) {
    int fd = socket(family, SOCK_STREAM, 0);

    if (fd < 0) {
        fail("socket: %s", strerror(errno));
    }
    return fd;
}

/* Begins a stream: the socket is non-blocking, without Nagle's delay, the pattern at its start. */
static void start_stream(struct connection *c, int fd) {
    make_nonblocking(fd);
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1, "setsockopt TCP_NODELAY");
    c->fd = fd;
    c->sent = 0;
    c->received = 0;
}

static void set_rcvbuf(int fd, int size) {
    if (fd >= 0 && size > 0) {
        set_option(fd, SOL_SOCKET, SO_RCVBUF, size, "setsockopt SO_RCVBUF");
    }
}

static void step_connect(struct connection *c, const struct value *value) {
    int error = 0;
    socklen_t length = sizeof error;

    (void)value;
    if (c->fd >= 0) {
        fail("the connection is open already");
    }
    start_stream(c, new_socket(address.ss_family));
    set_rcvbuf(c->fd, c->rcvbuf); /* before connect(), which settles the window scale */
    if (connect(c->fd, (const struct sockaddr *)&address, address_length) == 0) {
        return;
    }
    if (errno != EINPROGRESS) {
        fail("%s", strerror(errno));
    }
    if (wait_for(c->fd, POLLOUT, doing.deadline) == 0) {
        fail("no answer within %g s (is the server's backlog full?)", in_seconds(limit));
    }
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0) {
        fail("getsockopt SO_ERROR: %s", strerror(errno));
    }
    if (error != 0) {
        fail("%s", strerror(error));
    }
}

static int buffer_size(const struct value *value) {
    return value->number > INT32_MAX ? INT32_MAX : (int)value->number;
}

static void step_rcvbuf(struct connection *c, const struct value *value) {
    c->rcvbuf = buffer_size(value);
    set_rcvbuf(c->fd >= 0 ? c->fd : listener, c->rcvbuf);
}

static void step_local(struct connection *c, const struct value *value) {
    struct endpoint own = local_endpoint(c->fd);
    bool ipv6 = strchr(own.host, ':') != NULL;

    (void)value;
    print("%s %s%s%s:%s", c->name, ipv6 ? "[" : "", own.host, ipv6 ? "]" : "", own.port);
}

/* ---- Steps: accepting ---- */

static bool is_filler(const struct sockaddr_storage *peer, socklen_t peer_length) {
    for (size_t i = 0; i < filler_count; i++) {
        struct sockaddr_storage own = {0};
        socklen_t length = sizeof own;
        if (getsockname(fillers[i], (struct sockaddr *)&own, &length) == 0 &&
            length == peer_length && memcmp(&own, peer, length) == 0) {
            return true;
        }
    }
    return false;
}

static void step_accept(struct connection *c, const struct value *value) {
    (void)value;
    if (c->fd >= 0) {
        fail("the connection is open already");
    }
    while (true) {
        struct sockaddr_storage peer = {0};
        socklen_t length = sizeof peer;
        if (wait_for(listener, POLLIN, doing.deadline) == 0) {
            fail("no client connected within %g s", in_seconds(limit));
        }
        int fd = accept(listener, (struct sockaddr *)&peer, &length);
        if (fd >= 0 && is_filler(&peer, length)) {
            close(fd); /* makes room in the backlog that -f filled */
        } else if (fd >= 0) {
            start_stream(c, fd);
            return;
        } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
            fail("accept: %s", strerror(errno));
        }
    }
}

static void step_no_accept(struct connection *c, const struct value *value) {
    int64_t start = clock_now();

    (void)c;
    if (wait_for(listener, POLLIN, start + value->duration) != 0) {
        fail("a client connected after %.0f ms", in_ms(clock_now() - start));
    }
}

/* ---- Steps: sending ---- */

static void step_send(struct connection *c, const struct value *value) {
    send_all(c, value->bytes, value->length, 0, value->length);
}

static void step_send_bytes(struct connection *c, const struct value *value) {
    size_t length;

    for (size_t sent = 0; sent < value->number; sent += length) {
        length = smaller(value->number - sent, CHUNK);
        make_pattern(c->key, c->sent, outgoing, length);
        send_all(c, outgoing, length, sent, value->number);
        c->sent += length;
    }
}

static void step_pieces(struct connection *c, const struct value *value) {
    c->piece = value->number;
}

static void step_urgent(struct connection *c, const struct value *value) {
    if (wait_for(c->fd, POLLOUT, doing.deadline) == 0) {
        fail("could send nothing within %g s", in_seconds(limit));
    }
    if (send(c->fd, value->bytes, 1, MSG_OOB | MSG_NOSIGNAL) != 1) {
        fail("send: %s", strerror(errno));
    }
}

static void step_fill(struct connection *c, const struct value *value) {
    size_t start = c->sent;

    allow(stretched(QUIET)); /* the last 300 ms pass in any case */
    do {
        if (send_pattern(c, CHUNK) > 0 && value->word != NULL && c->sent - start > value->number) {
            fail("the other side still takes bytes, after %zu that were not read back",
                 c->sent - start);
        }
        if (clock_now() > doing.deadline) {
            fail("the other side still takes bytes, after %zu that were not read back, at the "
                 "deadline",
                 c->sent - start);
        }
    } while (wait_for(c->fd, POLLOUT, clock_now() + stretched(QUIET)) != 0);
    print("%s filled %zu", c->name, c->sent - start);
}

/* Unlike send-bytes, this ends without an error when there is no room for the rest. */
static void step_offer(struct connection *c, const struct value *value) {
    size_t left = value->number;

    do {
        left -= send_pattern(c, smaller(left, CHUNK));
    } while (left > 0 && wait_for(c->fd, POLLOUT, clock_now() + stretched(QUIET)) != 0);
    print("%s sent %zu", c->name, value->number - left);
}

static void step_shutdown(struct connection *c, const struct value *value) {
    (void)value;
    if (shutdown(c->fd, SHUT_WR) < 0) {
        fail("%s", strerror(errno));
    }
}

static void step_close(struct connection *c, const struct value *value) {
    (void)value;
    close_connection(c);
}

static void step_reset(struct connection *c, const struct value *value) {
    struct linger none = {.l_onoff = 1, .l_linger = 0}; /* close() sends a reset, not a FIN */

    (void)value;
    if (setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none) < 0) {
        fail("setsockopt SO_LINGER: %s", strerror(errno));
    }
    close_connection(c);
}

/* ---- Steps: receiving ---- */

/* Reads, for a message, the rest of what has come, without waiting. */
static size_t read_more(const struct connection *c, unsigned char *bytes, size_t room) {
    ssize_t count = recv(c->fd, bytes, room, 0);

    return count > 0 ? (size_t)count : 0;
}

static void check_text(const struct connection *c, const struct value *value, size_t length) {
    size_t i = 0;

    while (i < length && incoming[i] == value->bytes[i]) {
        i++;
    }
    if (i == length) {
        return;
    }
    length += read_more(c, incoming + length, CHUNK - length);
    size_t from = i > SHOWN / 2 ? i - SHOWN / 2 : 0;
    fail("got %s%s: byte %zu is 0x%02x, but should be 0x%02x", from > 0 ? "..." : "",
         quoted(incoming + from, length - from), i, incoming[i], value->bytes[i]);
}

static void step_expect(struct connection *c, const struct value *value) {
    size_t got = 0;

    while (got < value->length) { /* parse_text() has made sure that it fits into `incoming` */
        ssize_t count = receive(c, incoming + got, value->length - got, doing.deadline);
        if (count <= 0) {
            fail("got %s", ending(count, got, incoming));
        }
        got += (size_t)count;
        check_text(c, value, got);
    }
}

static void step_expect_bytes(struct connection *c, const struct value *value) {
    size_t first = c->received;

    while (c->received - first < value->number) {
        size_t left = value->number - (c->received - first);
        ssize_t count = receive(c, incoming, smaller(left, CHUNK), doing.deadline);
        if (count <= 0) {
            fail("got %s", ending(count, c->received - first, NULL));
        }
        check_pattern(c, (size_t)count, first);
    }
}

static void step_expect_any(struct connection *c, const struct value *value) {
    ssize_t count = receive(c, incoming, CHUNK, doing.deadline);

    (void)value;
    if (count <= 0) {
        fail("got %s", ending(count, 0, NULL));
    }
}

static void step_send_back(struct connection *c, const struct value *value) {
    ssize_t count = receive(c, incoming, CHUNK, doing.deadline);

    (void)value;
    if (count <= 0) {
        fail("got %s", ending(count, 0, NULL));
    }
    send_all(c, incoming, (size_t)count, 0, (size_t)count);
}

static void step_send_wrong(struct connection *c, const struct value *value) {
    ssize_t count = receive(c, incoming, CHUNK, doing.deadline);

    (void)value;
    if (count <= 0) {
        fail("got %s", ending(count, 0, NULL));
    }
    incoming[count - 1] ^= 1;
    send_all(c, incoming, (size_t)count, 0, (size_t)count);
}

static void step_expect_line(struct connection *c, const struct value *value) {
    size_t got = 0;

    (void)value;
    do { /* byte by byte, because what follows the line is for the next step */
        ssize_t count = receive(c, incoming + got, 1, doing.deadline);
        if (count <= 0) {
            fail("got %s", ending(count, got, incoming));
        }
        got++;
    } while (incoming[got - 1] != '\n' && got < LINE_LIMIT);
    if (incoming[got - 1] != '\n') {
        fail("got %zu bytes without a newline: %s", got, quoted(incoming, got));
    }
    fwrite(incoming, 1, got - 1, stdout);
    print("%s", "");
}

/* Nothing may come on any of the current connections. They are all watched by one poll(). */
static void step_silence(struct connection *none, const struct value *value) {
    static struct pollfd *watched; /* static: a failure ends the program without freeing it */
    int64_t start = clock_now();
    int64_t until = start + value->duration;
    int count;

    (void)none;
    watched = allocate(watched, current_count * sizeof *watched);
    for (size_t i = 0; i < current_count; i++) {
        watched[i] = (struct pollfd){.fd = current[i]->fd, .events = POLLIN | POLLPRI};
    }
    do {
        count = poll(watched, (nfds_t)current_count, poll_time(until));
    } while (count <= 0 && clock_now() < until);
    for (size_t i = 0; i < current_count && count > 0; i++) {
        if (watched[i].revents == 0) {
            continue;
        }
        doing.whose = current[i];
        ssize_t length = recv(watched[i].fd, incoming, CHUNK, 0);
        bool urgent = length < 0 && errno == EAGAIN;
        fail("got %s after %.0f ms",
             length > 0 ? quoted(incoming, (size_t)length)
             : urgent   ? "an urgent byte"
                        : ending(length, 0, NULL),
             in_ms(clock_now() - start));
    }
}

static void step_eof(struct connection *c, const struct value *value) {
    ssize_t count = receive(c, incoming, CHUNK, doing.deadline);

    (void)value;
    if (count > 0) {
        fail("got %zd bytes %s", count, quoted(incoming, (size_t)count));
    }
    if (count < 0) {
        fail("got %s", ending(count, 0, NULL));
    }
}

static void step_gone(struct connection *c, const struct value *value) {
    size_t got = 0;
    ssize_t count = receive(c, incoming, CHUNK, doing.deadline);

    (void)value;
    while (count > 0) {
        got += (size_t)count;
        if (clock_now() > doing.deadline) {
            fail("the other side still sends after %zu bytes", got);
        }
        count = receive(c, incoming, CHUNK, doing.deadline);
    }
    if (count < 0 && errno != ECONNRESET && errno != EPIPE) {
        fail("got %s", ending(count, got, NULL));
    }
}

/* ---- Steps: both directions ---- */

static void step_exchange(struct connection *c, const struct value *value) {
    echo(c, simple_plan(c, value->number));
}

static void step_drain(struct connection *c, const struct value *value) {
    (void)value;
    echo(c, simple_plan(c, 0));
}

static void step_flood(struct connection *c, const struct value *value) {
    struct plan plan = simple_plan(c, SIZE_MAX);

    allow(value->duration);
    plan.send_until = clock_now() + value->duration;
    print("%s flooded %zu", c->name, echo(c, plan));
}

static void step_drip(struct connection *c, const struct value *value) {
    struct plan plan = {
        .amount = value[0].number, .send_until = NEVER, .piece = 1, .gap = value[1].duration};

    double total = (double)value[0].number * (double)value[1].duration;
    allow(total < (double)LONGEST ? (int64_t)total : LONGEST);
    echo(c, plan);
}

/* Returns the time for which the threads of a process have run or waited for a core; 0 if the
 * kernel does not count it. */
static int64_t busy_time(const char *process) {
    char path[384];
    int64_t busy = 0;

    snprintf(path, sizeof path, "/proc/%.20s/task", process);
    DIR *threads = opendir(path);
    for (struct dirent *entry; threads != NULL && (entry = readdir(threads)) != NULL;) {
        long long ran = 0;
        long long waited = 0;
        snprintf(path, sizeof path, "/proc/%.20s/task/%s/schedstat", process, entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (file != NULL && fscanf(file, "%lld %lld", &ran, &waited) == 2) {
            busy += ran + waited;
        }
        if (file != NULL) {
            fclose(file);
        }
    }
    if (threads != NULL) {
        closedir(threads);
    }
    return busy;
}

/* Is it a process of this group? A server that a wrapper script has started is in the group of the
 * wrapper. */
static bool is_in_group(const char *process, size_t group) {
    char path[64];
    char line[512];
    int its_group = 0;

    snprintf(path, sizeof path, "/proc/%.20s/stat", process);
    FILE *file = fopen(path, "r");
    const char *end = file != NULL && fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
    if (end != NULL && sscanf(end, ") %*c %*d %d", &its_group) != 1) {
        its_group = 0;
    }
    if (file != NULL) {
        fclose(file);
    }
    return (size_t)its_group == group;
}

/* This is done once, because it takes time, which would count as time for which we were busy. */
static void watch_group(size_t group) {
    DIR *processes = opendir("/proc");

    watched_count = 0;
    for (struct dirent *entry; processes != NULL && (entry = readdir(processes)) != NULL;) {
        if (isdigit((unsigned char)entry->d_name[0]) && watched_count < WATCHED_MAX &&
            is_in_group(entry->d_name, group)) {
            snprintf(watched_ids[watched_count++], sizeof watched_ids[0], "%.20s", entry->d_name);
        }
    }
    if (processes != NULL) {
        closedir(processes);
    }
}

static int64_t busy_on_both_sides(void) {
    int64_t busy = busy_time("self");

    for (size_t i = 0; i < watched_count; i++) {
        busy += busy_time(watched_ids[i]);
    }
    return busy;
}

/* In a stall both sides sleep. On a busy machine, however, either side may have to wait for a core.
 * Therefore the time for which either was busy does not count, if `watch` has named the server. */
static void step_roundtrips(struct connection *c, const struct value *value) {
    if (doing.turn == 0) {
        quickest = INT64_MAX;
        stalls = 0;
    }
    for (size_t i = 0; i < value[0].number; i++) {
        int64_t busy = watched_count > 0 ? busy_on_both_sides() : 0;
        int64_t start = clock_now();
        echo(c, simple_plan(c, value[1].number));
        int64_t duration = clock_now() - start;
        if (duration >= STALL && watched_count > 0) {
            duration -= busy_on_both_sides() - busy;
        }
        quickest = duration < quickest ? duration : quickest;
        stalls += duration >= STALL ? 1 : 0;
    }
}

static void step_watch(struct connection *c, const struct value *value) {
    (void)c;
    watch_group(value->number);
}

static void step_stalls(struct connection *c, const struct value *value) {
    (void)c;
    (void)value;
    print("stalls %zu", stalls);
}

/* ---- Steps: time ---- */

static void check_at_most(int64_t duration, const struct value *value) {
    int64_t most = stretched(value->duration);

    if (duration > most && most != value->duration) {
        fail("it took %.1f ms (with SLOW=%g the limit is %.1f ms)", in_ms(duration), slow,
             in_ms(most));
    }
    if (duration > most) {
        fail("it took %.1f ms", in_ms(duration));
    }
}

static void step_mark(struct connection *c, const struct value *value) {
    (void)c;
    (void)value;
    marked = clock_now();
}

static void step_at_most(struct connection *c, const struct value *value) {
    int64_t passed = clock_now() - marked;

    (void)c;
    check_at_most(passed, value);
}

static void step_at_least(struct connection *c, const struct value *value) {
    int64_t passed = clock_now() - marked;

    (void)c;
    if (passed < value->duration) {
        fail("it took only %.1f ms", in_ms(passed));
    }
}

static void step_elapsed(struct connection *c, const struct value *value) {
    (void)c;
    (void)value;
    print("elapsed %.1f ms", in_ms(clock_now() - marked));
}

static void step_quickest_at_most(struct connection *c, const struct value *value) {
    (void)c;
    check_at_most(quickest, value);
}

static void step_pause(struct connection *c, const struct value *value) {
    (void)c;
    wait_for(-1, 0, clock_now() + value->duration);
}

/* ---- Steps: processes ---- */

static void send_signal(const struct value *pid, int number) {
    if (kill((pid_t)pid->number, number) < 0) {
        fail("kill: %s", strerror(errno));
    }
}

/* Returns the state letter of a process, as ps shows it; '\0' if there is no such process. */
static char process_state(const char *pid) {
    char line[512];
    char path[64];

    snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return '\0';
    }
    size_t length = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[length] = '\0';
    const char *name_end = strrchr(line, ')'); /* the name before it may hold any character */
    if (name_end == NULL || name_end[1] == '\0') {
        return '\0';
    }
    return name_end[2];
}

static void step_stop(struct connection *c, const struct value *value) {
    char state;

    (void)c;
    send_signal(value, SIGSTOP);
    while ((state = process_state(value->word)) != 'T' && state != 't') {
        if (state == '\0' || state == 'Z') {
            fail("the process has ended");
        }
        if (clock_now() > doing.deadline) {
            fail("its state is %c, not T, after %g s", state, in_seconds(limit));
        }
        wait_for(-1, 0, clock_now() + MILLISECOND); /* it stops the next time that it would run */
    }
}

static void step_cont(struct connection *c, const struct value *value) {
    (void)c;
    send_signal(value, SIGCONT);
}

/* ---- Steps: the script ---- */

static void step_say(struct connection *c, const struct value *value) {
    (void)c;
    fwrite(value->bytes, 1, value->length, stdout);
    print("%s", "");
}

static void leave(int signal_number) {
    (void)signal_number;
    _exit(0); /* the kernel closes the connections, as close() does */
}

/* A command that a script starts with & reads from /dev/null. End of file there does not mean that
 * it should end. */
static bool stdin_is_null(void) {
    struct stat input;
    struct stat null;

    return fstat(STDIN_FILENO, &input) < 0 ||
           (S_ISCHR(input.st_mode) && stat("/dev/null", &null) == 0 &&
            input.st_rdev == null.st_rdev);
}

static void step_hold(struct connection *c, const struct value *value) {
    (void)c;
    (void)value;
    while (stdin_is_null()) {
        pause(); /* until a signal ends us */
    }
    int byte;
    do { /* by stdio, because getline() reads the steps of "-" by stdio, too */
        byte = getchar();
    } while (byte != EOF && byte != '\n');
}

static void step_name(struct connection *c, const struct value *value);

/* ---- The table ---- */

static const struct command commands[] = {
    {"@NAME", {NAME}, BOTH, step_name, "the next steps are for NAME; @c1..200: for c1 to c200"},

    {"connect", {NONE}, CLIENT | EACH, step_connect, "connect, and wait for the result"},
    {"accept", {NONE}, SERVER | EACH, step_accept, "wait for the next connection"},
    {"no-accept", {MS}, SERVER, step_no_accept, "for MS no client may connect"},
    {"rcvbuf", {N}, BOTH | EACH, step_rcvbuf, "receive buffer size of later connections"},
    {"local", {NONE}, TALK, step_local, "print \"NAME 127.0.0.1:PORT\""},

    {"send", {TEXT}, TALK, step_send, "send all of TEXT, without reading"},
    {"send-bytes", {N}, TALK, step_send_bytes, "send N pattern bytes, without reading"},
    {"pieces", {N}, BOTH | EACH, step_pieces, "later sends: N bytes every ms; 0: all at once"},
    {"urgent", {BYTE}, TALK, step_urgent, "send an urgent byte (MSG_OOB)"},
    {"fill", {MAXIMUM}, TALK, step_fill, "send until all buffers stay full for 300 ms"},
    {"offer", {N}, TALK, step_offer, "send N pattern bytes, or what there is room for; print it"},
    {"shutdown", {NONE}, TALK, step_shutdown, "half-close: send end of file"},
    {"close", {NONE}, TALK, step_close, "close; NAME can connect again"},
    {"reset", {NONE}, TALK, step_reset, "close with a reset (SO_LINGER 0)"},

    {"expect", {TEXT}, TALK, step_expect, "TEXT must arrive next"},
    {"expect-bytes", {N}, TALK, step_expect_bytes, "N pattern bytes must arrive next"},
    {"expect-any", {NONE}, TALK, step_expect_any, "something must arrive; drop it"},
    {"send-back", {NONE}, TALK, step_send_back, "something must arrive; send it back"},
    {"send-wrong", {NONE}, TALK, step_send_wrong, "the same, but with its last byte changed"},
    {"expect-line", {NONE}, TALK, step_expect_line, "read a line and print it"},
    {"drain", {NONE}, TALK, step_drain, "all pattern bytes sent so far must come back"},
    {"silence", {MS}, BOTH | OPEN, step_silence, "for MS nothing may arrive on any connection"},
    {"eof", {NONE}, TALK, step_eof, "end of file must come next"},
    {"gone", {NONE}, TALK, step_gone, "end of file or a reset must come, data may come before"},

    {"exchange", {N}, TALK, step_exchange, "send N pattern bytes, read their echo"},
    {"roundtrips", {COUNT, N}, TALK, step_roundtrips, "exchange N, COUNT times"},
    {"watch", {PID}, BOTH, step_watch, "the server's process, for the count of stalls"},
    {"stalls", {NONE}, BOTH, step_stalls, "print how many of the last roundtrips slept for 30 ms"},
    {"flood", {SECONDS}, TALK, step_flood, "exchange for SECONDS, as fast as possible"},
    {"drip", {COUNT, MS}, TALK, step_drip, "exchange COUNT bytes, one every MS"},

    {"mark", {NONE}, BOTH, step_mark, "start the clock"},
    {"at-most", {MS}, BOTH, step_at_most, "at most MS (times SLOW) since mark"},
    {"at-least", {MS}, BOTH, step_at_least, "at least MS since mark"},
    {"elapsed", {NONE}, BOTH, step_elapsed, "print \"elapsed 12.3 ms\" (since mark)"},
    {"quickest-at-most",
     {MS},
     BOTH,
     step_quickest_at_most,
     "at most MS for the fastest of the last roundtrips"},
    {"pause", {MS}, BOTH, step_pause, "do nothing for MS, as a client may"},

    {"stop", {PID}, BOTH, step_stop, "send SIGSTOP, and wait until the process has stopped"},
    {"cont", {PID}, BOTH, step_cont, "send SIGCONT"},

    {"say", {TEXT}, BOTH, step_say, "print TEXT"},
    {"hold", {NONE}, BOTH, step_hold, "wait for a line or the end of stdin; SIGTERM: exit 0"},
};

static const size_t command_count = sizeof commands / sizeof commands[0];

static const char *const kind_names[] = {
    [NONE] = "",       [NAME] = "",         [TEXT] = "TEXT", [BYTE] = "BYTE",       [N] = "N",
    [COUNT] = "COUNT", [MAXIMUM] = "[MAX]", [MS] = "MS",     [SECONDS] = "SECONDS", [PID] = "PID"};

static void print_help(void) {
    printf(
        "usage: peer [-t SECONDS] [-T SECONDS] PORT [HOST] STEP...  a client of HOST (127.0.0.1)\n"
        "       peer [-t SECONDS] -l|-b|-f [HOST] STEP...     be a server\n"
        "  -l  listen on a free port; print \"listening on 127.0.0.1 port N\" first\n"
        "  -b  bind but do not listen: connects are refused\n"
        "  -f  listen and fill the backlog: connects get no answer (until accept makes room)\n"
        "  -t  how long a step may wait (5 s), multiplied by $SLOW\n"
        "  -T  no step begins after that time\n"
        "  -   as the last step: read steps from stdin, and print \"ok\" after each line\n"
        "Until the first @NAME, the connection of a client is called A, and that of a server S.\n"
        "Exit status: 0 if all steps passed, 1 if one failed (stderr says which), 2 for usage.\n"
        "HOST is numeric. TEXT may hold \\n \\r \\t \\0 \\\\ \\\" \\xHH. N is 100, 64K or 1M; "
        "MS and\n"
        "SECONDS may be fractions. Pattern bytes are computed from the connection's name and "
        "their\n"
        "place in its stream, so that a wrong byte can be found and named.\n\n");
    for (size_t i = 0; i < command_count; i++) {
        const struct command *command = &commands[i];
        int width = printf("  %s %s %s", command->name, kind_names[command->kinds[0]],
                           kind_names[command->kinds[1]]);
        const char *only = (command->flags & BOTH) == SERVER ? "server: " : "";
        printf("%*s%s%s\n", width < 27 ? 27 - width : 1, "", only, command->help);
    }
}

/* ---- Reading the script ---- */

static int hex_digit(char c) {
    const char *digits = "0123456789abcdef";
    const char *found = c == '\0' ? NULL : strchr(digits, tolower((unsigned char)c));

    return found == NULL ? -1 : (int)(found - digits);
}

/* Replaces the escapes of TEXT. */
static void parse_text(struct value *value) {
    const char *word = value->word;

    value->bytes = allocate(NULL, strlen(word) + 1); /* escapes make it shorter, never longer */
    for (; *word != '\0'; word++) {
        unsigned char byte = (unsigned char)*word;
        if (*word == '\\') {
            const char *letters = "nrt0\\\"";
            const char *found = *++word == '\0' ? NULL : strchr(letters, *word);
            int high = *word == 'x' ? hex_digit(word[1]) : -1;
            int low = high >= 0 ? hex_digit(word[2]) : -1;
            if (found != NULL) {
                byte = (unsigned char)"\n\r\t\0\\\""[found - letters];
            } else if (low >= 0) {
                byte = (unsigned char)(high * 16 + low);
                word += 2;
            } else {
                usage_error("unknown escape in \"%s\" (\\n \\r \\t \\0 \\\\ \\\" \\xHH)",
                            value->word);
            }
        }
        value->bytes[value->length++] = byte;
    }
    if (value->length > CHUNK / 2) {
        usage_error("TEXT of more than %d bytes: use send-bytes", CHUNK / 2);
    }
}

/* A number, which may end with K (1,024) or M (1,048,576). */
static bool parse_number(const char *word, size_t *result) {
    char *end;

    errno = 0;
    unsigned long long number = strtoull(word, &end, 10);
    unsigned long long scale = *end == 'K' ? 1024 : *end == 'M' ? 1024 * 1024 : 1;
    end += scale > 1 ? 1 : 0;
    *result = (size_t)(number * scale);
    return isdigit((unsigned char)*word) && *end == '\0' && errno == 0 &&
           number <= SIZE_MAX / scale;
}

/* A decimal number from 0 to a day. strtod() alone would also accept hexadecimal numbers, inf and
 * nan. */
static bool parse_duration(const char *word, int64_t unit, int64_t *result) {
    char *end;
    double number = strtod(word, &end);

    if (word[0] == '\0' || strspn(word, "0123456789.") != strlen(word) || *end != '\0') {
        return false;
    }
    double duration = number * (double)unit;
    if (!(duration <= (double)LONGEST)) {
        return false;
    }
    *result = (int64_t)duration;
    return true;
}

/* A NAME, or a range such as c1..200, which has a prefix, a first and a last number. */
struct range {
    int prefix_length; /* the length of the name, if it is no range */
    size_t first, last;
    bool many;
};

static bool parse_range(const char *word, struct range *range) {
    const char *dots = strstr(word, "..");
    const char *first = dots;

    *range = (struct range){.prefix_length = (int)strlen(word)};
    if (dots == NULL) {
        return word[0] != '\0';
    }
    while (first > word && isdigit((unsigned char)first[-1])) {
        first--;
    }
    range->many = true;
    range->prefix_length = (int)(first - word);
    range->first = strtoull(first, NULL, 10);
    return first < dots && parse_number(dots + 2, &range->last) && range->first <= range->last &&
           range->last <= RANGE_LIMIT;
}

static bool parse_value(enum kind kind, struct value *value) {
    struct range range;

    switch (kind) {
    case NAME:
        return parse_range(value->word + 1, &range);
    case TEXT:
        parse_text(value);
        return true;
    case BYTE:
        parse_text(value);
        return value->length == 1;
    case N:
    case COUNT:
    case MAXIMUM:
        return parse_number(value->word, &value->number);
    case PID:
        return parse_number(value->word, &value->number) && value->number > 1 &&
               value->number <= INT32_MAX;
    case MS:
        return parse_duration(value->word, MILLISECOND, &value->duration);
    case SECONDS:
        return parse_duration(value->word, SECOND, &value->duration);
    default:
        return false;
    }
}

static const struct command *find_command(const char *word) {
    if (word[0] == '@') {
        return &commands[0];
    }
    for (size_t i = 1; i < command_count; i++) {
        if (strcmp(word, commands[i].name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

struct script {
    struct step *steps;
    int count;
};

/* Converts the arguments of a step. Returns the word after them. */
static char **parse_values(struct step *step, char **word) {
    const struct command *command = step->command;

    word -= command->kinds[0] == NAME ? 1 : 0; /* "@NAME" is its own argument */
    for (int i = 0; i < VALUES && command->kinds[i] != NONE; i++) {
        enum kind kind = command->kinds[i];
        struct value *value = &step->values[i];
        if (kind == MAXIMUM && (*word == NULL || !isdigit((unsigned char)**word))) {
            break;
        }
        if (*word == NULL) {
            usage_error("%s needs %s%s%s", command->name, kind_names[command->kinds[0]],
                        command->kinds[1] != NONE ? " " : "", kind_names[command->kinds[1]]);
        }
        value->word = *word++;
        if (!parse_value(kind, value)) {
            usage_error("%s: \"%s\" is not a valid %s", command->name, value->word,
                        kind == NAME ? "name" : kind_names[kind]);
        }
        step->value_count++;
    }
    return word;
}

/* Checks and converts a whole script, before its first step runs. */
static struct script parse_script(char **word, int side, bool *from_stdin) {
    struct script script = {0};
    int number_before = doing.number;

    doing.step = NULL;
    doing.whose = NULL;
    while (*word != NULL) {
        doing.number++;
        if (from_stdin != NULL && strcmp(*word, "-") == 0 && word[1] == NULL) {
            *from_stdin = true;
            break;
        }
        script.steps = allocate(script.steps, ((size_t)script.count + 1) * sizeof *script.steps);
        struct step *step = &script.steps[script.count++];
        *step = (struct step){.command = find_command(*word)};
        if (step->command == NULL) {
            usage_error("unknown step \"%s\" (peer -h lists them)", *word);
        }
        if ((step->command->flags & side) == 0) {
            usage_error("%s is only for a %s", *word, side == CLIENT ? "server (-l)" : "client");
        }
        word = parse_values(step, word + 1);
    }
    doing.number = number_before;
    return script;
}

static void free_script(struct script *script) {
    for (int i = 0; i < script->count; i++) {
        for (int j = 0; j < VALUES; j++) {
            free(script->steps[i].values[j].bytes);
        }
    }
    free(script->steps);
}

/* Splits a line into words, in place, and returns them with a NULL at the end. Blanks between
 * double quotes do not split. Escapes stay as they are: parse_text() replaces them. */
static char **split(char *line) {
    char **words = allocate(NULL, (strlen(line) / 2 + 2) * sizeof *words);
    size_t count = 0;
    char *from = line;

    while (true) {
        from += strspn(from, " \t\r\n");
        if (*from == '\0') {
            break;
        }
        char *to = from;
        bool quotes = false;
        words[count++] = to;
        while (*from != '\0' && (quotes || strchr(" \t\r\n", *from) == NULL)) {
            if (*from == '"') {
                quotes = !quotes;
                from++;
                continue;
            }
            if (*from == '\\' && from[1] != '\0') {
                *to++ = *from++;
            }
            *to++ = *from++;
        }
        if (quotes) {
            usage_error("a closing double quote is missing");
        }
        from += *from != '\0' ? 1 : 0;
        *to = '\0';
    }
    words[count] = NULL;
    return words;
}

/* ---- Running it ---- */

static void step_name(struct connection *c, const struct value *value) {
    const char *word = value->word + 1; /* past the @ */
    struct range range;

    (void)c;
    parse_range(word, &range);
    current_count = range.last - range.first + 1;
    current = allocate(current, current_count * sizeof(struct connection *));
    for (size_t i = 0; i < current_count; i++) {
        char *name = allocate(NULL, (size_t)range.prefix_length + 24);
        int end = snprintf(name, (size_t)range.prefix_length + 1, "%s", word);
        if (range.many) {
            snprintf(name + (end < range.prefix_length ? end : range.prefix_length), 24, "%zu",
                     range.first + i);
        }
        current[i] = find(name);
        free(name);
    }
}

static void check_open(const struct step *step, struct connection *c) {
    doing.whose = c;
    if ((step->command->flags & OPEN) != 0 && c->fd < 0) {
        fail("the connection is not open");
    }
}

static void run_step(const struct step *step) {
    const struct command *command = step->command;

    doing.number++;
    doing.step = step;
    doing.whose = NULL;
    doing.turn = 0;
    allow(0);
    if (clock_now() > last_start) {
        fail("not begun, because the steps before it took longer than the whole test may take");
    }
    if ((command->flags & EACH) == 0) {
        for (size_t i = 0; i < current_count && (command->flags & OPEN) != 0; i++) {
            check_open(step, current[i]);
        }
        doing.whose = (command->flags & OPEN) != 0 && current_count == 1 ? current[0] : NULL;
        command->run(NULL, step->values);
        return;
    }
    for (; doing.turn < current_count; doing.turn++) {
        check_open(step, current[doing.turn]);
        command->run(current[doing.turn], step->values);
    }
}

static void run_script(const struct script *script) {
    for (int i = 0; i < script->count; i++) {
        /* SIGTERM ends `hold` with status 0. It may come as soon as the step before has printed
         * something. */
        bool hold = script->steps[i].command->run == step_hold;
        bool hold_next = i + 1 < script->count && script->steps[i + 1].command->run == step_hold;
        signal(SIGTERM, hold || hold_next ? leave : SIG_DFL);
        run_step(&script->steps[i]);
    }
    signal(SIGTERM, SIG_DFL);
}

static void run_stdin(int side) {
    char *line = NULL;
    size_t size = 0;

    doing.interactive = true;
    while (getline(&line, &size, stdin) >= 0) {
        doing.step = NULL;
        doing.whose = NULL;
        char **words = split(line);
        struct script script = parse_script(words, side, NULL);
        run_script(&script);
        print("ok");
        free_script(&script);
        free(words);
    }
    free(line);
}

/* ---- Start-up ---- */

/* Fills our own backlog: connects until a connect gets no answer, and closes that one. */
static void fill_backlog(void) {
    while (filler_count < sizeof fillers / sizeof fillers[0]) {
        int fd = new_socket(address.ss_family);
        make_nonblocking(fd);
        if (connect(fd, (struct sockaddr *)&address, address_length) < 0 && errno != EINPROGRESS) {
            fail("cannot fill the backlog: connect: %s", strerror(errno));
        }
        if (wait_for(fd, POLLOUT, clock_now() + stretched(100 * MILLISECOND)) == 0) {
            close(fd);
            return;
        }
        fillers[filler_count++] = fd;
    }
    fail("cannot fill the backlog: it took %zu connections", filler_count);
}

static void start_server(int mode) {
    listener = new_socket(address.ss_family);
    make_nonblocking(listener);
    if (bind(listener, (struct sockaddr *)&address, address_length) < 0) {
        fail("bind: %s", strerror(errno));
    }
    if (mode != 'b' && listen(listener, mode == 'f' ? 0 : BACKLOG) < 0) {
        fail("listen: %s", strerror(errno));
    }
    address_length = sizeof address;
    if (getsockname(listener, (struct sockaddr *)&address, &address_length) < 0) {
        fail("getsockname: %s", strerror(errno));
    }
    if (mode == 'f') {
        fill_backlog();
    }
    struct endpoint own = local_endpoint(listener);
    /* -b prints the same words, so that there is one line to look for. */
    print("listening on %s port %s", own.host, own.port);
}

/* For thousands of connections: the soft limit is 1024 on most systems. */
static void raise_descriptor_limit(void) {
    struct rlimit descriptors;

    if (getrlimit(RLIMIT_NOFILE, &descriptors) == 0) {
        descriptors.rlim_cur = descriptors.rlim_max;
        setrlimit(RLIMIT_NOFILE, &descriptors);
    }
}

static void read_slow(void) {
    const char *word = getenv("SLOW");
    int64_t factor = SECOND;

    if (word != NULL && word[0] != '\0' &&
        (!parse_duration(word, SECOND, &factor) || factor == 0 || factor > 1000 * SECOND)) {
        usage_error("SLOW=%s is not a number above 0 and up to 1000", word);
    }
    slow = in_seconds(factor);
}

int main(int argc, char **argv) {
    int mode = 0; /* 0 for a client, or the option that makes it a server */
    int option;

    signal(SIGPIPE, SIG_IGN);
    read_slow();
    opterr = 0; /* we print the error ourselves, in one line */
    while ((option = getopt(argc, argv, "+t:T:lbfh")) != -1) {
        switch (option) {
        case 't':
            if (!parse_duration(optarg, SECOND, &limit)) {
                usage_error("-t %s is not a number of seconds", optarg);
            }
            break;
        case 'T':
            if (!parse_duration(optarg, SECOND, &last_start)) {
                usage_error("-T %s is not a number of seconds", optarg);
            }
            last_start += clock_now();
            break;
        case 'l':
        case 'b':
        case 'f':
            mode = option;
            break;
        case 'h':
            print_help();
            return 0;
        default:
            usage_error("option -%c is unknown or lacks its argument (see peer -h)", optopt);
        }
    }
    limit = stretched(limit);

    const char *port = mode == 0 ? NULL : "0";
    const char *host = "127.0.0.1";
    size_t number;
    if (mode == 0 && optind < argc) {
        port = argv[optind++];
        if (!parse_number(port, &number) || number < 1 || number > UINT16_MAX) {
            usage_error("PORT %s is not a number from 1 to 65535", port);
        }
    }
    if (optind < argc && argv[optind][0] != '@' && strpbrk(argv[optind], ".:") != NULL) {
        host = argv[optind++];
    }
    if (optind >= argc) {
        usage_error("%s is missing (see peer -h)", port == NULL ? "PORT" : "STEP");
    }
    if (!parse_address(host, port)) {
        usage_error("HOST %s is not a numeric address", host);
    }
    int side = mode == 0 ? CLIENT : SERVER;
    bool from_stdin = false;
    struct script script = parse_script(argv + optind, side, &from_stdin);

    raise_descriptor_limit();
    marked = clock_now();
    step_name(NULL, &(struct value){.word = mode == 0 ? "@A" : "@S"}); /* the names of STEPS.md */
    if (mode != 0) {
        start_server(mode);
    }
    run_script(&script);
    if (from_stdin) {
        run_stdin(side);
    }
    free_script(&script);
    forget_connections();
    return 0;
}
