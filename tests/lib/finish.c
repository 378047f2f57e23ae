/*
 * finish: lets a signal end a program without losing what the program would report at its end.
 *
 * A server runs until a signal kills it. Then LeakSanitizer does not look for leaks, and gcov does not write
 * its counts. So `make test SANITIZE=1` and `make coverage` link this object into each program, and the
 * tests send SIGUSR2 before SIGKILL: see finish_family in the helper.
 *
 * We took a shortcut: the handler calls functions that are not async-signal-safe. It works because a server
 * is nearly always in a system call when the signal comes. If the handler hangs, SIGKILL follows, and the
 * report is lost.
 */
#define _POSIX_C_SOURCE 200809L

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum {
    REPORT_STATUS = 99, /* the exit status after a report of a sanitizer: see the Makefile */
    FREED_MAX = 20,     /* descriptors below this one are closed at the end */
    EPOLL_MAX = 2048    /* where an epoll descriptor is looked for */
};

#ifdef COVERAGE
void __gcov_dump(void);
#else
/* Weak, because only AddressSanitizer has them: with ThreadSanitizer they are NULL. */
__attribute__((weak)) int __lsan_do_recoverable_leak_check(void);
__attribute__((weak)) void __lsan_ignore_object(const void *object);

/* The servers from 05 on give the kernel the only pointer to a connection: data.ptr of epoll_event. What the
 * kernel points to is not leaked. Its list says "tfd: 7 events: 2019 data: 5581e2a3c2a0 ..." for each. */
static void ignore_what_epoll_has(int epoll) {
    char name[40], line[200];

    snprintf(name, sizeof name, "/proc/self/fdinfo/%d", epoll);
    FILE *list = fopen(name, "r");
    while (list != NULL && fgets(line, sizeof line, list) != NULL) {
        const char *data = strstr(line, "data:");
        void *object = NULL;
        if (data != NULL && sscanf(data, "data: %p", &object) == 1 && object != NULL)
            __lsan_ignore_object(object);
    }
    if (list != NULL)
        fclose(list);
}

/* uring.c gives the only pointers to the kernel as well, but what is in a ring of io_uring is not listed. While clients
 * are connected to it, LeakSanitizer calls this, and does not look for leaks. */
static int ring_has_clients;
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) {
    return ring_has_clients;
}

static void ignore_what_the_kernel_has(void) {
    char link[40], target[40] = "";
    int rings = 0, sockets = 0;

    for (int fd = STDERR_FILENO + 1; __lsan_ignore_object != NULL && fd < EPOLL_MAX; fd++) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        if (readlink(link, target, sizeof target - 1) <= 0)
            continue;
        if (strstr(target, "[eventpoll]") != NULL)
            ignore_what_epoll_has(fd);
        rings += strstr(target, "[io_uring]") != NULL;
        sockets += strstr(target, "socket:") != NULL;
    }
    ring_has_clients = rings > 0 && sockets > 1; /* one is the listener */
}
#endif

/* What reports at the end needs descriptors, and the program may have none left. To close a socket takes it
 * out of the list of epoll, so standard input goes first. */
static void get_ready(void) {
    flockfile(
        stderr); /* other threads may fail because of what is closed here, and must not say so */
    close(STDIN_FILENO);
#ifndef COVERAGE
    /* ThreadSanitizer has reported what it found, and would take it for a race that other threads still
     * use what is closed here. */
    if (__lsan_do_recoverable_leak_check == NULL)
        return;
    ignore_what_the_kernel_has();
#endif
    for (int fd = STDERR_FILENO + 1; fd < FREED_MAX; fd++)
        close(fd);
}

static void finish(int signal) {
    int status = 0;

    (void)signal;
    get_ready();
#ifdef COVERAGE
    __gcov_dump();
#else
    if (__lsan_do_recoverable_leak_check != NULL && __lsan_do_recoverable_leak_check() != 0)
        status = REPORT_STATUS;
#endif
    _exit(status);
}

__attribute__((constructor)) static void prepare(void) {
    struct sigaction action = {.sa_handler = finish};

    sigaction(SIGUSR2, &action, NULL);
    atexit(get_ready); /* runs before the leak check and gcov, which were there before it */
}
