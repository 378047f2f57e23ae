/* server: an echo server that serves one client at a time. This file is yours: make start copied it
 * here, and does not change it again.
 *
 *     make check      builds it, runs the steps in order, and stops at the first that fails
 *     make hint       gives a hint for that step
 */
#define _POSIX_C_SOURCE 200809L /* POSIX calls, which -std=c11 alone does not declare */

#include <stdio.h>

int main(int argc, char *argv[]) {
    const char *port = argc > 1 ? argv[1] : "10000"; /* "0" lets the kernel pick a free port */
    const char *host = argc > 2 ? argv[2] : "127.0.0.1";

    /* Begin here, with step 01.1, "It starts, and says where":
     *
     *   1. socket() creates the listener.
     *   2. bind() gives it its address: host and port. getaddrinfo() turns the two texts into one.
     *   3. listen() opens it to clients.
     *   4. Print one line, exactly like this: starting up on 127.0.0.1 port 10000
     *      For port 0, getsockname() tells which port the kernel has picked: print that one.
     *   5. fflush(stdout), because the line must not stay in a buffer.
     *
     * A server does not return from main(). Until you get to 01.2, let it end with pause(), which waits
     * forever (unistd.h). */
    (void)port;
    (void)host;
    return 0;
}
