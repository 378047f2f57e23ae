/* arguments: the programs accept exactly the numbers that their usage allows. The first byte of the input is the
 * place in the table; the rest is texts, one per line. A program has accepted its arguments when it looks up the address,
 * or makes the rings of io_uring, which uring.c does before. */
#define _GNU_SOURCE
#include "fuzz.h"
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <netdb.h>
#include <setjmp.h>
#include <stdarg.h>

/* Each program is an object of its own, whose main() has another name: tests/fuzz/run defines MAINS. */
#ifndef MAINS
#define MAINS X(main_01_blocking_server, "01-blocking/server.c")
#endif
#define X(name, file) int name(int argc, char *argv[]);
MAINS
#undef X

struct program {
    const char *file;
    int (*main)(int argc, char *argv[]);
};

static const struct program programs[] = {
#define X(name, file) {file, name},
    MAINS
#undef X
};

/* What an option takes: seconds, or a whole number from least to most. NULL means the port, in all programs. */
static const struct row {
    const char *file, *option;
    enum { NUMBER, SECONDS, SECONDS_ABOVE_0 } kind;
    long long least, most;
} rows[] = {
    {NULL, NULL, NUMBER, 0, 65535},
    {"03-select/client.c", "-c", NUMBER, 1, 1024},
    {"05-epoll/callbacks.c", "--slow", NUMBER, 0, 60000},
    {"05-epoll/workers.c", "-j", NUMBER, 1, 256},
    {"05-epoll/client.c", "-c", NUMBER, 1, 1000000},
    {"05-epoll/client.c", "-n", NUMBER, 1, INT64_MAX - 1},
    {"05-epoll/client.c", "-s", NUMBER, 1, 1 << 30},
    {"05-epoll/client.c", "-P", NUMBER, 1, 1000},
    {"05-epoll/client.c", "-d", SECONDS_ABOVE_0, 0, 86400},
    {"06-timeouts/server.c", "-t", SECONDS, 0, 86400},
    {"06-timeouts/server.c", "-i", SECONDS, 0, 86400},
    {"06-timeouts/client.c", "-p", SECONDS, 0, 86400},
    {"06-timeouts/client.c", "-l", SECONDS, 0, 86400},
    {"06-timeouts/select-timeout.c", "-t", SECONDS, 0, 86400},
};

static jmp_buf back;
static int running; /* the program, and not libFuzzer, is about to exit */

enum { ACCEPTED = 1000 };

/* Linked with --wrap: the program calls these. */
int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                       struct addrinfo **result);
_Noreturn void __wrap_exit(int status);
_Noreturn void __real_exit(int status);
long __wrap_syscall(long number, ...);
long __real_syscall(long number, ...);

int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                       struct addrinfo **result) {
    (void)node, (void)service, (void)hints, (void)result;
    longjmp(back, ACCEPTED);
}

/* Others than the programs, such as a sanitizer, may call it as well. */
long __wrap_syscall(long number, ...) {
    va_list list;
    long a[6];

    if (running)
        longjmp(back, ACCEPTED);
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

void __wrap_exit(int status) {
    if (running)
        longjmp(back, status + 1); /* longjmp() cannot pass 0 */
    __real_exit(status);
}

/* Returns whether the program accepts these arguments. */
static int accepts(const struct program *program, const char *option, const char *text) {
    char name[] = "program", dashes[] = "--", first[20], *copy = strdup(text);
    char *with_option[] = {name, first, copy, NULL}, *without[] = {name, dashes, copy, NULL};
    int result;

    if (copy == NULL)
        abort();
    snprintf(first, sizeof first, "%s", option != NULL ? option : "");
    optind = 0; /* glibc then begins again */
    running = 1;
    result = setjmp(back);
    if (result == 0)
        program->main(3, option != NULL ? with_option : without);
    running = 0;
    free(copy);
    must(result == ACCEPTED || result == 2 + 1, "%s %s \"%s\" is accepted, or exits with status 2",
         program->file, option != NULL ? option : "", text);
    return result == ACCEPTED;
}

static int is_number(const char *text, long long least, long long most) {
    long long value = 0;

    if (*text == '\0')
        return 0;
    for (; *text != '\0'; text++) {
        if (!isdigit((unsigned char)*text))
            return 0;
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, *text - '0', &value))
            return 0;
    }
    return value >= least && value <= most;
}

static int is_seconds(const char *text, int may_be_0, double most) {
    char *end;
    double value = strtod(text, &end);

    return end != text && *end == '\0' && isfinite(value) && value <= most &&
           (may_be_0 ? value >= 0 : value > 0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    keep_standard_error();
    return 0;
}

static void check_text(const struct row *row, const char *text) {
    int found = 0;

    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        if (row->file != NULL && strcmp(row->file, programs[i].file) != 0)
            continue;
        found = 1;
        long long least = row->least;
        if (row->file == NULL && strstr(programs[i].file, "/client.c") != NULL)
            least = 1; /* no server listens on port 0 */
        int right = row->kind == NUMBER ? is_number(text, least, row->most)
                                        : is_seconds(text, row->kind == SECONDS, (double)row->most);
        must(accepts(&programs[i], row->option, text) == right, "%s %s \"%s\" is %s",
             programs[i].file, row->option != NULL ? row->option : "PORT", text,
             right ? "accepted" : "refused");
    }
    must(found, "%s is one of the programs", row->file != NULL ? row->file : "a program");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char texts[500];

    if (size == 0 || size >= sizeof texts)
        return 0;
    memcpy(texts, data + 1, size - 1);
    texts[size - 1] = '\0';
    for (char *text = texts, *end; text != NULL; text = end) {
        end = strchr(text, '\n');
        if (end != NULL)
            *end++ = '\0';
        check_text(&rows[data[0] % (sizeof rows / sizeof *rows)], text);
    }
    return 0;
}
