/* replay: runs a target with the files that it is given, where there is no libFuzzer. */
#define _POSIX_C_SOURCE 200809L
#include "fuzz.h"

int main(int argc, char *argv[]) {
    static uint8_t data[1 << 16];

    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (file == NULL)
            return 1;
        size_t size = fread(data, 1, sizeof data, file);
        fclose(file);
        dprintf(STDERR_FILENO, "\ninput: %s\n", argv[i]); /* the last such line names what failed */
        uint8_t *copy = malloc(size + (size == 0));       /* so that reading past its end is seen */
        if (copy == NULL)
            return 1;
        memcpy(copy, data, size);
        LLVMFuzzerTestOneInput(copy, size);
        free(copy);
    }
    return 0;
}
