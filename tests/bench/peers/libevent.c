/* An echo server with the bufferevents of libevent, which queue what send() does not take. Link with -levent. */
#define _DEFAULT_SOURCE

#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>

static void read_callback(struct bufferevent *client, void *data) {
    (void)data;
    bufferevent_write_buffer(client, bufferevent_get_input(client));
}

static void event_callback(struct bufferevent *client, short events, void *data) {
    (void)data;
    if (events & (BEV_EVENT_EOF | BEV_EVENT_ERROR))
        bufferevent_free(client);
}

static void accept_callback(struct evconnlistener *listener, evutil_socket_t fd,
                            struct sockaddr *address, int length, void *base) {
    struct bufferevent *client = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
    int on = 1;

    (void)listener, (void)address, (void)length;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    bufferevent_setcb(client, read_callback, NULL, event_callback, NULL);
    bufferevent_enable(client, EV_READ);
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    struct event_base *base = event_base_new();
    struct evconnlistener *listener =
        evconnlistener_new_bind(base, accept_callback, base, LEV_OPT_CLOSE_ON_FREE, 4096,
                                (struct sockaddr *)&address, sizeof address);

    signal(SIGPIPE, SIG_IGN);
    if (listener == NULL)
        return 1;
    getsockname(evconnlistener_get_fd(listener), (struct sockaddr *)&address, &length);
    fprintf(stderr, "starting up on 127.0.0.1 port %d\n", ntohs(address.sin_port));
    event_base_dispatch(base);
}
