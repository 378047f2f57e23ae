/* plain: the plainest epoll echo loop there is, to measure the servers of the course against.
 *
 * It makes no call that is not needed, keeps nothing for any client, and is wrong: what send() does
 * not take is lost, a reader that does not read loses its echo, and at the limit of descriptors it
 * spins. What the real servers cost more than this is the price of being right.
 */
#define _POSIX_C_SOURCE 200809L

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static void watch(int epoll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

    fcntl(fd, F_SETFL, O_NONBLOCK);
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

int main(void) {
    static char buffer[64 * 1024];
    struct epoll_event events[64];
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0), on = 1;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) == -1 ||
        listen(listener, 4096) == -1)
        return 1;
    getsockname(listener, (struct sockaddr *)&address, &length);
    fprintf(stderr, "starting up on 127.0.0.1 port %d\n", ntohs(address.sin_port));
    watch(epoll, listener);
    for (;;) {
        int count = epoll_wait(epoll, events, 64, -1);

        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;

            if (fd == listener) {
                fd = accept(listener, NULL, NULL);
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                watch(epoll, fd);
                continue;
            }
            ssize_t received = recv(fd, buffer, sizeof buffer, 0);
            if (received <= 0)
                close(fd);
            else
                send(fd, buffer, (size_t)received, MSG_NOSIGNAL);
        }
    }
}
