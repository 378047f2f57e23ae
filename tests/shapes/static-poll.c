/* poll() with a static array of 4,096 clients, each with a buffer of its own in which one recv() stays
 * until it is sent. Held to 04, whose clients are at most 2,000. */
#include "common.h"
#include <fcntl.h>
#include <poll.h>
#include <time.h>

enum { CLIENTS = 4096, BUFFER = 4096 };

static struct pollfd polled[CLIENTS + 1]; /* the first is the listener */
static char buffers[CLIENTS + 1][BUFFER];
static size_t held[CLIENTS + 1], gone_out[CLIENTS + 1];
static nfds_t count = 1;

static void drop(nfds_t i) {
    close(polled[i].fd);
    polled[i].fd = -1;
}

static void serve(nfds_t i) {
    if (polled[i].revents & POLLPRI) {
        char urgent;
        recv(polled[i].fd, &urgent, 1, MSG_OOB);
    }
    if (held[i] == 0 && (polled[i].revents & (POLLIN | POLLHUP | POLLERR))) {
        ssize_t received = recv(polled[i].fd, buffers[i], BUFFER, 0);
        if (received > 0)
            held[i] = (size_t)received;
        else if (received == 0 || (errno != EAGAIN && errno != EINTR))
            drop(i);
    }
    if (held[i] > 0 && polled[i].fd != -1) {
        ssize_t sent =
            send(polled[i].fd, buffers[i] + gone_out[i], held[i] - gone_out[i], MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN && errno != EINTR)
            drop(i);
        gone_out[i] += sent > 0 ? (size_t)sent : 0;
        if (gone_out[i] == held[i])
            held[i] = gone_out[i] = 0;
    }
    polled[i].events = held[i] > 0 ? POLLOUT : POLLIN | POLLPRI;
}

int main(int argc, char **argv) {
    time_t again = 0; /* no accept() before that: there was a shortage */

    polled[0].fd = open_listener(argc, argv);
    fcntl(polled[0].fd, F_SETFL, O_NONBLOCK);
    while (true) {
        bool may_accept = time(NULL) >= again && count <= CLIENTS;
        polled[0].events = may_accept ? POLLIN : 0;
        polled[0].revents = 0;
        if (poll(polled, count, may_accept ? -1 : 500) == -1) {
            if (errno != EINTR)
                die("poll");
            continue;
        }
        for (nfds_t i = 1; i < count; i++)
            if (polled[i].revents)
                serve(i);
        for (nfds_t i = 1; i < count;) {
            if (polled[i].fd != -1) {
                i++;
                continue;
            }
            again = 0; /* there is a descriptor again */
            count--;
            polled[i] = polled[count];
            held[i] = held[count];
            gone_out[i] = gone_out[count];
            memcpy(buffers[i], buffers[count], held[i]);
        }
        for (int n = 0; n < 64 && (polled[0].revents & POLLIN) && count <= CLIENTS; n++) {
            int fd = accept(polled[0].fd, NULL, NULL);
            if (fd == -1) {
                if (is_shortage(errno))
                    again = time(NULL) + 2; /* whole seconds */
                if (errno != ECONNABORTED && errno != EPROTO)
                    break;
                continue;
            }
            fcntl(fd, F_SETFL, O_NONBLOCK);
            set_nodelay(fd);
            held[count] = gone_out[count] = 0;
            polled[count++] = (struct pollfd){.fd = fd, .events = POLLIN | POLLPRI};
        }
    }
}
