/* The most natural first server with select(): a buffer of 1 KiB, and a log of its own in a file, a line per
 * call. PAUSE=200 adds 200 microseconds to each recv(). Held to 03. */
#include "common.h"
#include <fcntl.h>
#include <sys/select.h>
#include <time.h>

enum { BUFFER = 1024 };

static struct {
    bool open;
    char buffer[BUFFER];
    size_t held, sent;
} clients[FD_SETSIZE];
static FILE *logfile;

static void drop(int fd, const char *why) {
    fprintf(logfile, "%d leaves: %s\n", fd, why);
    clients[fd].open = false;
    close(fd);
}

static void serve(int fd, long pause) {
    if (clients[fd].held == 0) {
        ssize_t received = recv(fd, clients[fd].buffer, BUFFER, 0);
        if (pause > 0)
            nanosleep(&(struct timespec){.tv_nsec = pause * 1000}, NULL);
        fprintf(logfile, "%d: recv %zd\n", fd, received);
        fflush(logfile);
        if (received == 0 || (received < 0 && errno != EAGAIN && errno != EINTR))
            drop(fd, received == 0 ? "end of file" : strerror(errno));
        clients[fd].held = received > 0 ? (size_t)received : 0;
        clients[fd].sent = 0;
    }
    if (clients[fd].open && clients[fd].held > 0) {
        ssize_t sent = send(fd, clients[fd].buffer + clients[fd].sent,
                            clients[fd].held - clients[fd].sent, MSG_NOSIGNAL);
        fprintf(logfile, "%d: send %zd\n", fd, sent);
        fflush(logfile);
        if (sent < 0 && errno != EAGAIN && errno != EINTR)
            drop(fd, strerror(errno));
        clients[fd].sent += sent > 0 ? (size_t)sent : 0;
        if (clients[fd].sent == clients[fd].held)
            clients[fd].held = 0;
    }
}

int main(int argc, char **argv) {
    const char *text = getenv("PAUSE");
    long pause = text ? strtol(text, NULL, 10) : 0;
    int listener = open_listener(argc, argv), highest = listener;
    time_t again = 0; /* no accept() before that: there was a shortage */

    if (!(logfile = tmpfile()))
        die("tmpfile");
    highest = fileno(logfile) > highest ? fileno(logfile) : highest;
    fcntl(listener, F_SETFL, O_NONBLOCK);
    while (true) {
        fd_set reads, writes, urgent;
        struct timeval half = {.tv_usec = 500000};
        bool may_accept = time(NULL) >= again;

        FD_ZERO(&reads);
        FD_ZERO(&writes);
        FD_ZERO(&urgent);
        if (may_accept)
            FD_SET(listener, &reads);
        for (int fd = 0; fd <= highest; fd++) {
            if (!clients[fd].open)
                continue;
            FD_SET(fd, clients[fd].held > 0 ? &writes : &reads);
            FD_SET(fd, &urgent);
        }
        if (select(highest + 1, &reads, &writes, &urgent, may_accept ? NULL : &half) == -1) {
            if (errno != EINTR)
                die("select");
            continue;
        }
        for (int fd = 0; fd <= highest; fd++) {
            char byte;
            if (clients[fd].open && FD_ISSET(fd, &urgent))
                recv(fd, &byte, 1, MSG_OOB);
            if (clients[fd].open && (FD_ISSET(fd, &reads) || FD_ISSET(fd, &writes))) {
                serve(fd, pause);
                again = clients[fd].open ? again : 0;
            }
        }
        for (int n = 0; n < 64 && FD_ISSET(listener, &reads); n++) {
            int fd = accept(listener, NULL, NULL);
            if (fd == -1) {
                if (is_shortage(errno))
                    again = time(NULL) + 2; /* whole seconds */
                if (errno != ECONNABORTED && errno != EPROTO)
                    break;
                continue;
            }
            if (fd >= FD_SETSIZE) {
                close(fd);
                continue;
            }
            fcntl(fd, F_SETFL, O_NONBLOCK);
            set_nodelay(fd);
            clients[fd].open = true;
            clients[fd].held = 0;
            highest = fd > highest ? fd : highest;
        }
    }
}
