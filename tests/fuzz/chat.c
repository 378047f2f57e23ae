/* chat: what one guest says reaches another one whole, in lines, and harms no terminal, however the kernel
 * cuts it. The first byte of the input is where the cuts come from; the rest is what the guest says. */
#define main program_main
#pragma GCC diagnostic ignored "-Wreturn-type" /* only main() may end without a return */
#include "../../03-select/chat.c"              // NOLINT(bugprone-suspicious-include)
#undef main
#include "fuzz.h"

enum { HEARD_MAX = 1 << 20, NAME_LENGTH = 5 };

static const uint8_t *said; /* what recv() has not returned yet */
static size_t said_length;
static unsigned cuts; /* 0: recv() and send() move as much as they can; or else this decides */
static char heard[HEARD_MAX];
static size_t heard_length;

static size_t cut(size_t most) {
    if (cuts == 0)
        return most;
    cuts = cuts * 1103515245 + 12345;
    size_t length = 1 + (cuts >> 16) % 50;
    return length < most ? length : most;
}

/* Linked with --wrap: the program calls these. */
ssize_t __wrap_recv(int fd, void *buffer, size_t size, int flags);
ssize_t __wrap_send(int fd, const void *data, size_t length, int flags);
int __wrap_close(int fd);
int __real_close(int fd);

ssize_t __wrap_recv(int fd, void *buffer, size_t size, int flags) {
    size_t length = cut(said_length < size ? said_length : size);

    (void)fd, (void)flags;
    memcpy(buffer, said, length);
    said += length;
    said_length -= length;
    return (ssize_t)length;
}

ssize_t __wrap_send(int fd, const void *data, size_t length, int flags) {
    (void)fd, (void)flags;
    length = cut(length);
    must(heard_length + length < HEARD_MAX, "all that is heard fits into HEARD_MAX bytes");
    memcpy(heard + heard_length, data, length);
    heard_length += length;
    return (ssize_t)length;
}

int __wrap_close(int fd) {
    return fd >= 1000 ? 0 : __real_close(fd);
}

static struct connection *add_guest(int fd, const char *name) {
    struct connection *c = calloc(1, sizeof *c);

    if (c == NULL)
        abort();
    c->fd = fd;
    snprintf(c->name, sizeof c->name, "%s", name);
    c->next = connections;
    connections = c;
    clients++;
    return c;
}

/* Has one guest say it all and leave, and collects in heard what another one hears. */
static void converse(const uint8_t *data, size_t size, unsigned how_to_cut) {
    struct connection *speaker = add_guest(1000, "guest"), *listener = add_guest(1001, "other");

    said = data;
    said_length = size;
    cuts = how_to_cut;
    heard_length = 0;
    while (!speaker->leaving) {
        receive_lines(speaker);
        while (listener->queue_length > 0)
            send_queue(listener);
    }
    close_marked();
    while (listener->queue_length > 0)
        send_queue(listener);
    must(!listener->leaving, "a guest who reads is not put out");
    free(listener);
    connections = NULL;
    clients = 0;
}

/* Returns the length of the character in UTF-8 that begins here, or 0 if a terminal must not get it. */
static size_t safe_character(const unsigned char *s, size_t left) {
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t length = s[0] < 0x80       ? 1
                    : s[0] >> 5 == 6  ? 2
                    : s[0] >> 4 == 14 ? 3
                    : s[0] >> 3 == 30 ? 4
                                      : 0;
    unsigned code = length == 1 ? s[0] : s[0] & (0x7fu >> length);

    if (length == 0 || length > left)
        return 0;
    for (size_t i = 1; i < length; i++) {
        if (s[i] >> 6 != 2)
            return 0;
        code = code << 6 | (s[i] & 0x3f);
    }
    if (code < least[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
        return 0;
    if (code < ' ' || (code >= 0x7f && code <= 0x9f))
        return 0; /* control characters */
    if ((code >= 0x200b && code <= 0x200f) || (code >= 0x2028 && code <= 0x202e) ||
        (code >= 0x2066 && code <= 0x2069) || code == 0xfeff)
        return 0; /* invisible, a line or paragraph separator, or the other direction of writing */
    return length;
}

/* Compares the next line that was heard with what was said. Returns what follows it. */
static const char *check_line(const char *line, const uint8_t *data, size_t length) {
    static char meant[LINE_SIZE * 5 + 64], original[LINE_SIZE * 5 + 64];
    const char *end = memchr(line, '\n', heard_length - (size_t)(line - heard));
    bool is_cut = length > LINE_SIZE;

    must(end != NULL, "each line that was said is heard");
    must((size_t)(end - line) <= NAME_LENGTH + 2 + 4 * LINE_SIZE + strlen(" (cut: too long)"),
         "a line grows to four times its length at most");
    must(strncmp(line, "guest: ", NAME_LENGTH + 2) == 0, "each line names its guest");
    line += NAME_LENGTH + 2;
    for (const char *s = line; s < end;) {
        size_t step = safe_character((const unsigned char *)s, (size_t)(end - s));
        must(step > 0, "byte 0x%02x is part of a character that a terminal may get",
             (unsigned char)*s);
        s += step;
    }
    size_t shown = (size_t)(end - line);
    if (is_cut) {
        must(shown >= 16 && memcmp(end - 16, " (cut: too long)", 16) == 0,
             "a line that is cut says so");
        shown -= 16;
        length = LINE_SIZE;
    }
    if (length > 0 && data[length - 1] == '\r')
        length--;
    /* A guest may type \x1b. So both are unescaped. */
    size_t meant_length = unescape(meant, line, shown, 0);
    size_t original_length = unescape(original, (const char *)data, length, 0);
    must(meant_length == original_length && memcmp(meant, original, meant_length) == 0,
         "a line that is heard is the line that was said");
    return end + 1;
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv, (void)program_main;
    keep_standard_error();
    quiet = true;
    setlocale(LC_CTYPE, "C.UTF-8");
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char whole[HEARD_MAX];

    if (size == 0)
        return 0;
    unsigned how_to_cut = data[0] + 1u;
    data++, size--;
    converse(data, size, 0);
    size_t whole_length = heard_length;
    memcpy(whole, heard, heard_length);
    converse(data, size, how_to_cut);
    must(heard_length == whole_length && memcmp(heard, whole, whole_length) == 0,
         "the lines are the same however the bytes are cut");

    const char *line = heard;
    const uint8_t *end;
    while ((end = memchr(data, '\n', size)) != NULL) {
        line = check_line(line, data, (size_t)(end - data));
        size -= (size_t)(end - data) + 1;
        data = end + 1;
    }
    if (size > 0)
        line = check_line(line, data, size);
    must(heard_length - (size_t)(line - heard) == strlen("guest has left (clients: 1)\n"),
         "nothing is heard that was not said");
    return 0;
}
