/* ready: measures one call that watches many descriptors, of which some are ready.
 *
 *     ready epoll|poll WATCHED READY
 *
 * Prints the nanoseconds of CPU time that the call takes. The descriptors are sockets, connected in pairs. Those
 * that are ready stay ready, because their byte is never read.
 */
#define _POSIX_C_SOURCE 200809L

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const double enough = 0.03; /* seconds to measure for */

static double cpu_seconds(void) {
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void check(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

int main(int argc, char *argv[]) {
    int watched = argc == 4 ? atoi(argv[2]) : 0, ready = argc == 4 ? atoi(argv[3]) : 0;
    int with_epoll = argc == 4 && strcmp(argv[1], "epoll") == 0;

    if (watched < 2 || ready < 1 || ready > watched) {
        fprintf(stderr, "usage: ready epoll|poll WATCHED READY\n");
        return 2;
    }
    struct pollfd *fds = calloc((size_t)watched + 1, sizeof *fds);
    struct epoll_event *events = calloc((size_t)watched, sizeof *events);
    int epoll = epoll_create1(0);
    check(fds != NULL && events != NULL, "calloc");
    check(epoll != -1, "epoll_create1");

    for (int i = 0; i < watched; i += 2) {
        int pair[2];

        check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
        fds[i] = (struct pollfd){.fd = pair[0], .events = POLLIN};
        fds[i + 1] = (struct pollfd){.fd = pair[1], .events = POLLIN};
    }
    for (int i = 0; i < watched; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fds[i].fd};

        check(epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i].fd, &event) == 0, "epoll_ctl");
        if (i < ready)
            check(send(fds[i ^ 1].fd, "", 1, 0) == 1,
                  "send"); /* i ^ 1: the other end of its pair */
    }

    double start = cpu_seconds(), end = start;
    long calls = 0;
    for (; end - start < enough; calls++) {
        int count =
            with_epoll ? epoll_wait(epoll, events, watched, -1) : poll(fds, (nfds_t)watched, -1);

        check(count == ready, "wait");
        end = cpu_seconds();
    }
    printf("%.0f\n", (end - start) * 1e9 / (double)calls);
}
