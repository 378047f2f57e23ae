/* first: the echo server that everyone writes first. It works, and it is wrong in many ways.
 *
 *     cc first.c -o first
 *     ./first                     in another window: ./client, or nc 127.0.0.1 10000
 *
 * server.c does the same job and survives what this one does not.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static ssize_t check(ssize_t result, const char *call) {
    if (result == -1) {
        perror(call);
        exit(1);
    }
    return result;
}

int main(int argc, char *argv[]) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    char buffer[1024];

    address.sin_port = htons((unsigned short)atoi(argc > 1 ? argv[1] : "10000"));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = (int)check(socket(AF_INET, SOCK_STREAM, 0), "socket");
    check(bind(listener, (struct sockaddr *)&address, length), "bind");
    check(listen(listener, 5), "listen");
    check(getsockname(listener, (struct sockaddr *)&address, &length), "getsockname");
    fprintf(stderr, "starting up on 127.0.0.1 port %d\n", ntohs(address.sin_port));

    for (;;) {
        int client = (int)check(accept(listener, NULL, NULL), "accept");
        ssize_t received;

        while ((received = check(recv(client, buffer, sizeof buffer, 0), "recv")) > 0)
            check(send(client, buffer, (size_t)received, 0), "send");
        check(close(client), "close");
    }
}
