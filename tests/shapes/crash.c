/* Broken: writes to a null pointer when the first bytes come. */
#include "common.h"

int main(int argc, char **argv) {
    char byte;
    int fd = accept(open_listener(argc, argv), NULL, NULL);

    if (recv(fd, &byte, 1, 0) == 1)
        *(volatile char *)NULL = byte;
    return 0;
}
