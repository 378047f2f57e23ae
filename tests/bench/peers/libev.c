/* An echo server with libev, as its manual shows one: what send() does not take is lost. Link with -lev. */
#define _DEFAULT_SOURCE

#include <arpa/inet.h>
#include <ev.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void read_callback(struct ev_loop *loop, ev_io *watcher, int events) {
    static char buffer[64 * 1024];
    ssize_t received = recv(watcher->fd, buffer, sizeof buffer, 0);

    (void)events;
    if (received > 0) {
        send(watcher->fd, buffer, (size_t)received, MSG_NOSIGNAL);
        return;
    }
    ev_io_stop(loop, watcher);
    close(watcher->fd);
    free(watcher);
}

static void accept_callback(struct ev_loop *loop, ev_io *watcher, int events) {
    int fd, on = 1;

    (void)events;
    while ((fd = accept(watcher->fd, NULL, NULL)) != -1) {
        ev_io *client = malloc(sizeof *client);

        fcntl(fd, F_SETFL, O_NONBLOCK);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        ev_io_init(client, read_callback, fd, EV_READ);
        ev_io_start(loop, client);
    }
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    ev_io accepting;

    if (bind(listener, (struct sockaddr *)&address, length) == -1 || listen(listener, 4096) == -1)
        return 1;
    fcntl(listener, F_SETFL, O_NONBLOCK);
    getsockname(listener, (struct sockaddr *)&address, &length);
    fprintf(stderr, "starting up on 127.0.0.1 port %d\n", ntohs(address.sin_port));
    ev_io_init(&accepting, accept_callback, listener, EV_READ);
    ev_io_start(EV_DEFAULT, &accepting);
    ev_run(EV_DEFAULT, 0);
}
