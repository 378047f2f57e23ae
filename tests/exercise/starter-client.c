/* client: sends messages to an echo server, and checks what comes back. This file is yours: make start
 * copied it here, and does not change it again.
 *
 *     make check      builds it, runs the steps in order, and stops at the first that fails
 *     make hint       gives a hint for that step
 */
#define _POSIX_C_SOURCE 200809L /* POSIX calls, which -std=c11 alone does not declare */

#include <stdio.h>

int main(int argc, char *argv[]) {
    static char *examples[] = {"This is the message. ", "It will be sent ", "in parts."};
    const char *port = argc > 1 ? argv[1] : "10000";
    const char *host = argc > 2 ? argv[2] : "127.0.0.1";
    char **messages = argc > 3 ? argv + 3 : examples;
    int count = argc > 3 ? argc - 3 : 3;

    /* Begin here, with the first step of the client:
     *
     *   1. socket() creates a socket, and connect() connects it to the server at host and port.
     *   2. send() sends the first message. recv() returns its echo, perhaps in several pieces: call
     *      it until the whole message has come back. Then comes the next message.
     *   3. shutdown(fd, SHUT_WR) says that no more will come. Read until recv() returns 0, and close.
     *
     * Return 0 when all of the echo came back, and 1, with the reason on stderr, when it did not. */
    (void)port;
    (void)host;
    (void)messages;
    (void)count;
    return 0;
}
