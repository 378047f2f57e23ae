/* fuzz.h: what the fuzz targets share. Each states properties with must(). */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* libFuzzer closes standard error while the programs run, because they print there. This is a copy of it. */
static int report = STDERR_FILENO;

static inline void keep_standard_error(void) {
    report = dup(STDERR_FILENO);
}

#define must(property, ...)                                                                        \
    do {                                                                                           \
        if (!(property)) {                                                                         \
            dprintf(report, "\nproperty: " __VA_ARGS__);                                           \
            dprintf(report, "\n");                                                                 \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Undoes the escaping of \x1b and, if all is set, of \n, \" and \\. Returns the length. */
static inline size_t unescape(char *output, const char *text, size_t length, int all) {
    size_t count = 0;

    for (size_t i = 0; i < length; i++) {
        unsigned byte;
        char digits[3] = "";

        if (text[i] == '\\' && i + 3 < length && text[i + 1] == 'x')
            memcpy(digits, text + i + 2, 2);
        if (strspn(digits, "0123456789abcdef") == 2 && sscanf(digits, "%2x", &byte) == 1) {
            output[count++] = (char)byte;
            i += 3;
        } else if (all && text[i] == '\\' && i + 1 < length) {
            i++;
            output[count++] = text[i] == 'n' ? '\n' : text[i];
        } else {
            output[count++] = text[i];
        }
    }
    return count;
}

#endif
