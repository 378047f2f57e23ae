# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# explain.bash: finds the cause that fits what was seen.
#
# A test gives the likely cause of the failure that it is about. When a server fails in another way, the symptom
# tells more than the test. Then these functions replace the cause, unless it already names what was seen.

# is_sanitizer_report TEXT: true if TEXT holds a report of AddressSanitizer or UndefinedBehaviorSanitizer.
is_sanitizer_report() {
    [[ $1 == *"ERROR: AddressSanitizer"* || $1 == *"runtime error:"* ]]
}

# unless_it_says PATTERN TEXT: the cause is TEXT, unless the cause that the test gave matches PATTERN.
unless_it_says() {
    [[ -n $because_text && $because_text =~ $1 ]] || because "$2"
}

# explain_the_end: the server has ended although it should not, in the way of $server_end.
explain_the_end() {
    read_end "$server_log"
    if is_sanitizer_report "$REPLY"; then
        because "the server uses memory or arithmetic wrongly. The report in the log below says where"
        return
    fi
    case $server_end in
    *SIGSEGV | *SIGABRT | *SIGBUS | *SIGILL | *SIGFPE)
        unless_it_says 'overwrites|dangle|past the end|full buffer' \
            "the server uses memory wrongly. Build it with -g -fsanitize=address,undefined and run the step again: the log then names the line"
        ;;
    *SIGPIPE)
        unless_it_says SIGPIPE "send() to a client that is gone raises SIGPIPE, unless you use MSG_NOSIGNAL or ignore SIGPIPE with signal()"
        ;;
    *) # an exit
        unless_it_says 'E[A-Z]{4,}|fails|error|accept\(\) again|exit' \
            "the server ended by itself, although nothing was wrong with the server. The last line of its log below may say why"
        ;;
    esac
}

# explain TEXT: a client of the test saw TEXT, and the server still runs.
explain() {
    case $1 in
    *"Connection refused"*)
        because "the server prints its first line before listen() has succeeded, or it has closed its listener"
        ;;
    *"the server went on reading"*)
        because "a server that reads on before its answer is sent must store everything. Read again when the queue is empty (backpressure)"
        ;;
    *"Connection reset by peer"* | *"Broken pipe"*)
        unless_it_says 'close|closing|limit|end of file|E[A-Z]{4,}' \
            "the server closed this client's socket while bytes from the client were unread: the kernel then sends a reset (RST). Call recv() until it returns 0"
        ;;
    *"got end of file"*)
        unless_it_says 'end of file|close|closing|limit|E[A-Z]{4,}' \
            "the server closed this client's socket while it still owed echo. Send all of it before close()"
        ;;
    *": eof: got nothing"* | "eof: got nothing"*)
        because "the client has half-closed, so recv() returns 0. The server must send the rest of the echo, then call close()"
        ;;
    esac
}

# explain_spinning: the server uses a core while it has nothing to do.
explain_spinning() {
    unless_it_says 'returns at once|readable|writable|watch|blocks|rounded|waits|wait ' \
        "the loop calls something that returns at once, again and again: a call that cannot block, or a wait for a descriptor that is always ready. See which with strace -p"
}

# explain_options: the server did not start. If it was given an option, it may not know this option.
explain_options() {
    local argument texts=''

    for argument in "${arguments[@]}"; do
        case $argument in
        -q) texts+="${texts:+; }-q turns off the log lines about clients" ;;
        -t) texts+="${texts:+; }-t SECONDS is the time between two calls of the other work" ;;
        -i) texts+="${texts:+; }-i SECONDS is how long a client may be silent" ;;
        esac
    done
    [[ -z $texts ]] ||
        because "the server was started with \"${arguments[*]}\", and it may not know this option ($texts). See getopt(3)"
}
