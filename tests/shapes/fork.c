/* A child per client, with blocking calls. The parent only accepts, so it never runs out of descriptors.
 * Held to 03, whose clients are served at the same time while the server sleeps. */
#include "common.h"
#include <signal.h>

static void serve(int fd) {
    static char buffer[8192];
    ssize_t received;

    while ((received = recv(fd, buffer, sizeof buffer, 0)) != 0) {
        if (received < 0 && errno != EINTR)
            return;
        for (ssize_t sent = 0; sent < received;) {
            ssize_t more = send(fd, buffer + sent, (size_t)(received - sent), MSG_NOSIGNAL);
            if (more < 0 && errno != EINTR)
                return;
            sent += more > 0 ? more : 0;
        }
    }
}

int main(int argc, char **argv) {
    int listener = open_listener(argc, argv);

    signal(SIGCHLD, SIG_IGN);
    while (true) {
        int fd = accept(listener, NULL, NULL);
        pid_t child = fd == -1 ? -1 : fork();
        if (child == 0) {
            close(listener);
            set_nodelay(fd);
            serve(fd);
            return 0;
        }
        if (fd == -1 ? is_shortage(errno) : child == -1)
            sleep(1);
        if (fd != -1)
            close(fd);
    }
}
