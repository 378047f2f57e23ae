/* What the C servers in this directory share: arguments, the listener and the first line. They hold the
 * tests to their promise that any right server passes, and are no models for a reader. */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static _Noreturn void die(const char *what) {
    fprintf(stderr, "error: %s: %s\n", what, strerror(errno));
    exit(1);
}

static _Noreturn void refuse(const char *why) {
    fprintf(stderr, "error: %s; usage: server [-q] [PORT [HOST]]\n", why);
    exit(2);
}

/* Reads [-q] [PORT [HOST]] and returns a socket that listens there. */
static int open_listener(int argc, char **argv) {
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    struct sockaddr_storage own;
    socklen_t size = sizeof own;
    char host[64], port[16], *end;
    int first = argc > 1 && strcmp(argv[1], "-q") == 0 ? 2 : 1;
    const char *wanted = argc > first ? argv[first] : "10000";

    if (argc > first + 2)
        refuse("too many arguments");
    if (wanted[0] < '0' || wanted[0] > '9' || strlen(wanted) > 5 ||
        strtol(wanted, &end, 10) > 65535 || *end != '\0')
        refuse("PORT must be a number from 0 to 65535");
    if (getaddrinfo(argc > first + 1 ? argv[first + 1] : "127.0.0.1", wanted, &hints, &found) != 0)
        refuse("HOST must be an address");
    int fd = socket(found->ai_family, SOCK_STREAM, 0);
    if (fd == -1)
        die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, found->ai_addr, found->ai_addrlen) == -1) {
        fprintf(stderr, "error: port %s: %s\n", wanted, strerror(errno));
        exit(1);
    }
    freeaddrinfo(found);
    if (listen(fd, SOMAXCONN) == -1)
        die("listen");
    getsockname(fd, (struct sockaddr *)&own, &size);
    getnameinfo((struct sockaddr *)&own, size, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    printf("starting up on %s port %s\n", host, port);
    fflush(stdout);
    return fd;
}

static void set_nodelay(int fd) {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

/* After accept() has failed: is this a shortage, after which to wait? Ends the program for an error of
 * its own. */
static bool is_shortage(int error) {
    if (error == EBADF || error == EINVAL || error == ENOTSOCK || error == EFAULT)
        die("accept");
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}
