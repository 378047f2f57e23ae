/* escaped: what the log shows of a client's data can be printed on any terminal, and means that data. */
#define main program_main
#pragma GCC diagnostic ignored "-Wreturn-type" /* only main() may end without a return */
#include "../../06-timeouts/server.c"          // NOLINT(bugprone-suspicious-include)
#undef main
#include "fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv, (void)program_main;
    keep_standard_error();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = escaped((const char *)data, size);
    size_t length = strlen(text), shown = size < SHOWN_MAX ? size : SHOWN_MAX;
    char original[5 * SHOWN_MAX];

    must(length <= SHOWN_MAX * 4 + 3,
         "the text has at most four characters for each byte, and \"...\"");
    for (size_t i = 0; i < length; i++)
        must(text[i] >= ' ' && text[i] <= '~', "byte 0x%02x of the text is printable",
             (unsigned char)text[i]);
    if (size > SHOWN_MAX) {
        must(length >= 3 && strcmp(text + length - 3, "...") == 0,
             "a text that is cut ends in \"...\"");
        length -= 3;
    }
    for (size_t i = 0; i < length; i++) {
        must(text[i] != '"', "a quote is escaped, so it cannot end the data in the log");
        if (text[i] == '\\')
            i++;
    }
    must(unescape(original, text, length, 1) == shown && memcmp(original, data, shown) == 0,
         "the text, unescaped, is the data");
    return 0;
}
