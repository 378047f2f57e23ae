# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# explain.bash: finds the cause that fits what was seen.
#
# A test gives the likely cause of the failure that it is about. When a server fails in another way, the symptom
# tells more than the test. Then these functions replace the cause, unless it already names what was seen.

# is_sanitizer_report TEXT: true if TEXT holds a report of a sanitizer.
is_sanitizer_report() {
    [[ $1 == *"ERROR: AddressSanitizer"* || $1 == *"ERROR: LeakSanitizer"* ||
        $1 == *"WARNING: ThreadSanitizer"* || $1 == *"runtime error:"* ]]
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
        unless_it_says SIGPIPE "the server sent to a client that was gone. Stop at the first recv() or send() that fails, or recv() that returns 0. MSG_NOSIGNAL turns SIGPIPE into an error of send() (01.23)"
        ;;
    *SIGXFSZ)
        because "the server wrote more than 256 MiB, and the tests allow no more. Look for a line in the loop that is printed in every turn"
        ;;
    *) # an exit
        ! log_shows_eagain || return 0
        [[ $REPLY != *"Bad file descriptor"* ]] ||
            unless_it_says 'EBADF|descriptor' "the server still uses a descriptor that it has closed. When you close one, take it out of every set, array and list"
        unless_it_says 'E[A-Z]{4,}|fails|error|accept\(\) again|exit|descriptor' \
            "the server ended by itself, although the test did nothing that may end it. The last line of its log below may say why"
        ;;
    esac
}

# explain TEXT: a client of the test saw TEXT.
explain() {
    case $1 in
    *"but should be 0x"*)
        if [[ $stage == 01 ]]; then
            unless_it_says 'bytes|byte stream|send\(\)|recv\(\)' \
                "these are not the bytes that this client sent. Send as many bytes as recv() has returned, from the place where it has put them: bytes are not text, and behind them the buffer still holds what came before"
        else
            unless_it_says 'bytes|byte stream|queue|send\(\)|recv\(\)|descriptor' \
                "these are not the bytes that this client sent. Do they come from another client's queue, or from the wrong place in a buffer?"
        fi
        ;;
    *"backlog full"*)
        unless_it_says backlog "listen() was given too small a backlog for the clients that connect at the same time. Use SOMAXCONN"
        ;;
    *"Connection refused"*)
        because "the server prints its first line before listen() has succeeded, or it has closed its listener"
        listening_port
        [[ -z $REPLY ]] ||
            because "the server listens on another address than its first line says: pass HOST, the second argument, to bind()"
        ;;
    *"the server still accepts bytes"*)
        because "a server that reads on before its echo is sent must store everything. Read again when all of it is sent (backpressure)"
        ;;
    *"Connection reset by peer"* | *"Broken pipe"*)
        unless_it_says 'close|closing|limit|end of file|E[A-Z]{4,}' \
            "the server closed this client's socket while bytes from the client were unread: the kernel then sends a reset (RST). Call recv() until it returns 0"
        explain_eagain
        ;;
    *"got end of file"*)
        unless_it_says 'end of file|close|closing|limit|E[A-Z]{4,}' \
            "the server closed this client's socket while it still owed echo. Send all of it before close()"
        explain_eagain
        ;;
    *": eof: got nothing"* | "eof: got nothing"*)
        because "the client has half-closed, so recv() returns 0. The server must send the rest of the echo, then call close()"
        ;;
    esac
}

# log_shows_eagain: true if a call has failed with EAGAIN, and the end of the server's log says so. Then this is the cause.
log_shows_eagain() {
    read_end "$server_log"
    [[ $stage != 01 && $REPLY == *"Resource temporarily unavailable"* ]] || return 1
    because "EAGAIN (\"Resource temporarily unavailable\") is no reason to close or to exit: the call cannot be done now. Keep what is left, go on with the next client, and try again in the next turn (02.1, 02.6)"
}

# explain_eagain: adds to the cause that a step of 01 gives what is new from 02 on.
explain_eagain() {
    if log_shows_eagain; then
        return
    fi
    if [[ $stage != 01 && $BATS_TEST_DESCRIPTION == 01.* ]]; then
        because_text+=". From 02 on, EAGAIN from recv() or send() is no reason to close: keep what is left, and go on (02.1, 02.6)"
    fi
}

# explain_doing DOING: a client waits in vain, and the server DOING ("is blocked in recv on fd 4").
explain_doing() {
    local call

    if [[ $stage != 01 && $1 =~ ^is\ blocked\ in\ (accept|recv|send) ]]; then
        thread_count
        if ((REPLY == 1)); then
            unless_it_says O_NONBLOCK \
                "while this call blocks, no other client is served. Set O_NONBLOCK on the listener and on every client (02.1)"
        fi
    elif [[ $1 =~ ^is\ blocked\ in\ (select|poll|epoll_wait) && $1 == *"not been"* ]]; then
        call=${BASH_REMATCH[1]}
        case $call in
        select) unless_it_says 'select|set|watch' "select() does not watch this socket. Put it into a set again before each call, for reading or for writing, and pass the highest descriptor plus one (03.1 to 03.3)" ;;
        poll) unless_it_says 'poll|entry|watch' "poll() does not watch this socket. It needs an entry in the array, with POLLIN or POLLOUT in events (04.1 to 04.3)" ;;
        epoll_wait) unless_it_says 'epoll|edge|watch' "epoll_wait() does not report this socket. It must be on the interest list, with EPOLLIN or EPOLLOUT; with EPOLLET, go on until EAGAIN (05.1, 05.4)" ;;
        esac
    fi
}

# explain_spinning: the server uses a core while it has nothing to do.
explain_spinning() {
    unless_it_says 'returns at once|readable|writable|watch|blocks|rounded|waits|wait ' \
        "the loop calls something that returns at once, again and again: a call that cannot block, or a wait for a descriptor that is always ready. See which with strace -p"
}

# explain_status WANTED STATUS: a program has ended with another exit status than WANTED.
explain_status() {
    if (($1 == 2 && $2 == 1)); then
        because "exit status 1 is for a call that has failed. Arguments that make no sense are a mistake of the user: print the usage, and exit with status 2, also if it is getaddrinfo() that refuses them"
    fi
}

# explain_options: the server did not start. If it was given an option, it may not know this option.
explain_options() {
    local argument texts=''

    for argument in "${arguments[@]}"; do
        case $argument in
        -q) texts+="${texts:+; }-q turns off the log lines about clients" ;;
        -t) texts+="${texts:+; }-t SECONDS is the time between two calls of the other work" ;;
        -i) texts+="${texts:+; }-i SECONDS is how long a client may make no progress" ;;
        esac
    done
    [[ -z $texts ]] ||
        because "the server was started with \"${arguments[*]}\", and it may not know this option ($texts). See getopt(3)"
}
