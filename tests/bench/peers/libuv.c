/* An echo server with uv_write of libuv, which queues what send() does not take. Link with -luv. */
#define _DEFAULT_SOURCE

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

static void free_callback(uv_handle_t *client) {
    free(client);
}

static void allocate_callback(uv_handle_t *client, size_t suggested, uv_buf_t *buffer) {
    (void)client;
    *buffer = uv_buf_init(malloc(suggested), (unsigned)suggested);
}

static void written_callback(uv_write_t *request, int status) {
    (void)status;
    free(request->data);
    free(request);
}

static void read_callback(uv_stream_t *client, ssize_t received, const uv_buf_t *buffer) {
    if (received <= 0) {
        free(buffer->base);
        if (received < 0)
            uv_close((uv_handle_t *)client, free_callback);
        return;
    }
    uv_write_t *request = malloc(sizeof *request);
    request->data = buffer->base;
    uv_write(request, client, &(uv_buf_t){buffer->base, (size_t)received}, 1, written_callback);
}

static void accept_callback(uv_stream_t *listener, int status) {
    uv_tcp_t *client = malloc(sizeof *client);

    (void)status;
    uv_tcp_init(uv_default_loop(), client);
    uv_accept(listener, (uv_stream_t *)client);
    uv_tcp_nodelay(client, 1);
    uv_read_start((uv_stream_t *)client, allocate_callback, read_callback);
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int length = sizeof address;
    uv_tcp_t listener;

    signal(SIGPIPE, SIG_IGN);
    uv_tcp_init(uv_default_loop(), &listener);
    uv_tcp_bind(&listener, (const struct sockaddr *)&address, 0);
    if (uv_listen((uv_stream_t *)&listener, 4096, accept_callback) != 0)
        return 1;
    uv_tcp_getsockname(&listener, (struct sockaddr *)&address, &length);
    fprintf(stderr, "starting up on 127.0.0.1 port %d\n", ntohs(address.sin_port));
    return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
