#!/usr/bin/env bats
#
# The steps of stage 01. Each is judged on the wire and by what the process does; the wording of the
# log is judged in one step alone. A server that takes one client at a time passes all of them, so
# one connection is closed before service is expected on the next.
#
# Tags: only-01 holds in no later stage, not-02 not in that one, client is about client.c.

# shellcheck disable=SC2154 # the helper sets $port, $host, $server_status ...
load lib/helper

setup() {
    choose_programs
    if [[ $stage == 03 ]]; then
        client_command+=(-c 1) # it opens two connections unless it is told another number
    fi
}

# ---- The echo --------------------------------------------------------------------------------

@test "01.1 What a client sends comes back" {
    because "recv() what the client sends, send() it back, until recv() returns 0; then close()"
    start_server
    expected "the echo, and end of file when the client has sent its own"
    peer connect send 'hello\n' expect 'hello\n' shutdown eof
    expected "the echo of each message, on one connection"
    peer connect send 'one' expect 'one' send 'two' expect 'two' send 'three' expect 'three' shutdown eof
}

@test "01.2 When a client has left, the next one is served" {
    because "after a client comes the next accept(), on the same listener"
    start_server
    expected "five clients to be served, one after the other"
    peer connect exchange 10 close connect exchange 20 shutdown eof close connect exchange 30 close \
        connect close connect exchange 40 shutdown eof
}

@test "01.3 Every byte comes back, whatever it is" {
    local code every=''

    for code in {0..255}; do
        printf -v code '\\x%02x' "$code"
        every+=$code
    done
    because "bytes are not text: strlen() ends at a NUL, printf() obeys a %, 0xff is not an error"
    start_server
    expected "all 256 values of a byte to come back"
    peer connect send "$every" expect "$every" shutdown eof
    expected "0xff, NULs and per cent signs to come back"
    peer connect send '\xff' expect '\xff' send '\0\0\0' expect '\0\0\0' send '%s%n%s%n' expect '%s%n%s%n' \
        send '\n' expect '\n' shutdown eof
}

@test "01.4 A message may come in pieces of any size" {
    because "TCP is a stream: one recv() is not one message, and a full buffer has no room for a NUL"
    start_server
    expected "bytes that are sent one at a time to come back, in order"
    peer connect pieces 1 send 'in small pieces' expect 'in small pieces' shutdown eof
    expected "messages around the sizes of usual buffers to come back"
    peer connect exchange 15 exchange 16 exchange 17 exchange 1023 exchange 1024 exchange 1025 \
        exchange 4095 exchange 4096 exchange 4097 exchange 65535 exchange 65536 exchange 65537 \
        shutdown eof
}

@test "01.5 A megabyte comes back, and then end of file" {
    because "send() may take less than it is given: send the rest, from where it stopped"
    start_server
    expected "1 MiB of echo while the client goes on sending, then end of file"
    peer connect exchange 1M shutdown eof
}

@test "01.6 A client that half-closes gets all of its echo" {
    because "recv() that returns 0 says that no more will come in; what is owed must still go out"
    start_server
    expected "all that was sent to come back, then end of file"
    signal_server STOP
    tell connect send-bytes 20K shutdown
    signal_server CONT
    tell drain eof close
    expected "the same from a client that read nothing until all buffers were full"
    tell rcvbuf 4K connect fill 64M shutdown drain eof
}

@test "01.7 Messages of 64 KiB and 1 MiB come back without a stall" {
    # On one machine recv() often brings a whole message at once, and nothing can stall. Not so here.
    start_server --faults recv:cap=16384
    expected "of 25 round trips of 64 KiB at least one to take less than 30 ms, and of 5 of 1 MiB one less than 300 ms"
    because "Nagle's algorithm holds a small piece back until the one before is acknowledged, 40 ms later: TCP_NODELAY"
    peer connect exchange 64K roundtrips 25 64K quickest-at-most 30 roundtrips 5 1M quickest-at-most 300 \
        shutdown eof
}

# ---- Clients that leave ----------------------------------------------------------------------

@test "01.8 A client that resets its connection does not end the server" {
    because "recv() fails with ECONNRESET: an error of that client, so close it and serve the next"
    start_server
    expected "the server to go on and serve the next client"
    peer connect exchange 10 reset connect exchange 10 reset connect exchange 10 shutdown eof
}

@test "01.9 A client that is gone before it is accepted does not end the server" {
    because "accept() hands out the dead connection; the next call on it fails: ENOTCONN, ECONNRESET"
    start_server
    expected "the server to go on and serve the next client"
    signal_server STOP
    peer connect reset connect close connect send x reset
    signal_server CONT
    peer connect exchange 10 shutdown eof
}

@test "01.10 A reset while a reply is owed does not end the server" {
    because "send() fails with ECONNRESET: an error of that client, so close it and serve the next"
    start_server
    expected "the server to go on and serve the next client"
    signal_server STOP
    peer connect send-bytes 200K reset
    signal_server CONT
    peer connect exchange 10 shutdown eof
}

@test "01.11 A half-close and then a reset while a reply is owed does not end the server" {
    because "send() to a client that is gone raises SIGPIPE, unless MSG_NOSIGNAL or signal() says not to"
    start_server
    expected "the server to go on and serve the next client"
    signal_server STOP
    peer connect send-bytes 20K shutdown reset
    signal_server CONT
    peer connect exchange 10 shutdown eof
    expected "the same when the reply is under way as the client leaves"
    peer connect fill 64M reset connect exchange 10 shutdown eof
}

@test "01.12 A hundred clients leave nothing behind" {
    local _ clients=() fds kilobytes

    for _ in {1..34}; do
        clients+=(connect exchange 64K close connect exchange 64K shutdown eof close
            connect exchange 64K send x reset)
    done
    start_server
    expected "the sockets of a hundred clients, a third of whom reset, to be closed"
    because "every way in which a connection ends must close() its descriptor, errors too"
    peer "${clients[@]}" connect exchange 64K shutdown eof close
    wait_until "the sockets of those who left to be closed" sockets_are_closed
    fd_count
    fds=$REPLY
    memory RssAnon
    kilobytes=$REPLY

    expected "no more descriptors of any kind after a hundred more"
    peer "${clients[@]}" connect exchange 64K shutdown eof close
    wait_until "the sockets of those who left to be closed" sockets_are_closed
    fd_count
    ((REPLY < fds + 10)) || fail_with "$((REPLY - fds)) more"
    expected "no more memory either (4 MiB of tolerance)"
    because "what was allocated for a connection must be freed with it"
    memory RssAnon
    ((REPLY < kilobytes + 4096)) || fail_with "$((REPLY - kilobytes)) KiB more"
}

# ---- Starting --------------------------------------------------------------------------------

@test "01.13 It can start again at once on the same port" {
    # The address is this test's own, so that no other program's client can have the port.
    local address=127.$((BASHPID / 65536 % 256)).$((BASHPID / 256 % 256)).$((BASHPID % 253 + 1))

    because "the dead server's connections hold the port for a minute: SO_REUSEADDR, before bind()"
    start_server 0 "$address"
    tell connect exchange 10
    stop_server KILL
    expected "a new server on the port of one that was killed with a client connected"
    start_server "$port" "$address"
    peer connect exchange 10 shutdown eof
}

@test "01.14 A port that is taken is refused clearly" {
    start_server
    expected "exit status 1, and an error that names the port and says that it is in use"
    because "bind() fails with EADDRINUSE: say so, and exit(1). SO_REUSEPORT would let both have it"
    run_server "$port"
    ((server_status == 1)) || fail_with "the server $server_end"
    because "of \"Address already in use\" alone nobody learns which address: print it, and the port, too"
    log_has "$port" || fail_with "an error that does not name port $port"
    log_has "lready in use" || fail_with "an error that does not say \"already in use\""
    expected "the first line to wait until bind() and listen() have succeeded"
    because "whoever waits for that line believes it"
    log_lacks "starting up"
}

@test "01.15 A port that is no number from 0 to 65535 is refused" {
    local bad

    because "atoi() takes 10000x for 10000, and abc for 0; and 70000 is 4464 in 16 bits"
    for bad in abc 70000 65536 -1 10000x 0x50 "1 2" ""; do
        expected "exit status 2, and the usage, for the port \"$bad\""
        run_server "$bad"
        ((server_status == 2)) || fail_with "the server $server_end"
        log_has sage || fail_with "no word of the usage"
    done
    because "what it does not understand it must not ignore"
    expected "exit status 2 for a third argument"
    run_server 0 127.0.0.1 what
    ((server_status == 2)) || fail_with "the server $server_end"
    expected "exit status 2 for a host that is no address"
    run_server 0 "no such host"
    ((server_status == 2)) || fail_with "the server $server_end"
}

@test "01.16 It serves IPv6 as well" {
    local line found=''

    while read -r line; do
        if [[ $line == 00000000000000000000000000000001\ * ]]; then
            found=yes
        fi
    done 2>/dev/null </proc/net/if_inet6 || :
    [[ -n $found ]] || skip "this machine has no IPv6 (no ::1 in /proc/net/if_inet6)"

    because "getaddrinfo() gives an address of the right family; sockaddr_in has no room for this one"
    expected "a server that is told ::1 to say so in its first line, and an echo over ::1"
    start_server 0 ::1
    [[ $host == ::1 ]] || fail_with "its first line says that it listens on $host"
    peer connect exchange 64K shutdown eof
}

@test "01.17 Nobody outside this machine can connect unless you say so" {
    start_server
    expected "a server that is told no HOST to listen on 127.0.0.1, port $port"
    because "INADDR_ANY opens an exercise to the whole network; and a port needs htons()"
    if listens_on 00000000; then
        fail_with "it listens on 0.0.0.0: on every address of this machine"
    fi
    listens_on 0100007F || fail_with "nothing in /proc/net/tcp listens there"
    expected "a server that is told 127.0.0.2 to listen there"
    because "the second argument is the address for bind()"
    start_server 0 127.0.0.2
    listens_on 0200007F || fail_with "nothing in /proc/net/tcp listens on port $port of 127.0.0.2"
}

# listens_on ADDRESS: is there a listening socket (0A) with this address, and the server's port?
listens_on() {
    local where

    printf -v where '%s:%04X' "$1" "$port"
    awk -v where="$where" '$2 == where && $4 == "0A" { found = 1 } END { exit !found }' /proc/net/tcp
}

# ---- The log ---------------------------------------------------------------------------------

@test "01.18 The log tells what happens, as it happens" {
    local client long

    printf -v long 'x%.0s' {1..60}
    start_server
    expected "the lines of the README, in its words, each as soon as it is true"
    because "programs read logs, so the words must be these to the letter; or the line still waits in a buffer"
    tell connect local
    client=${told#* }
    wait_for_log "new connection from $client"$'\n'
    tell send 'one\ntwo "three"' expect 'one\ntwo "three"'
    wait_for_log "received \"one\\ntwo \\\"three\\\"\" from $client"$'\n'
    wait_for_log "sending \"one\\ntwo \\\"three\\\"\" to $client"$'\n'
    tell send "$long" expect "$long"
    wait_for_log "received \"${long:0:48}...\" from $client"$'\n'
    tell shutdown eof
    wait_for_log "closing $client after reading no data"$'\n'
    tell close connect local
    client=${told#* }
    wait_for_log "new connection from $client"$'\n'
    tell reset
    wait_for_log "closing $client after recv: Connection reset by peer"$'\n'
    stop_server
    serve accept
    run_server "$port"
    log_has "bind 127.0.0.1 port $port: Address already in use (" ||
        fail_with "another line for a port that is taken"
}

@test "01.19 Nothing that a client sends can forge the log or drive a terminal" {
    local line

    start_server
    expected "a log without control characters, and no line that a client wrote"
    because "escape what is not printable before you print it, line ends first of all"
    peer connect send 'a\nforged line\r\x1b[2J\x1b]0;title\x07\x00\x7f\x9b' expect-any shutdown gone
    read_all "$server_log"
    while IFS= read -r line; do
        [[ $line != "forged line"* ]] || fail_with "a line that the client wrote"
        [[ $line != *[[:cntrl:]]* && $line != *$'\x9b'* ]] || fail_with "a control character"
    done <"$server_log"
}

@test "01.20 With -q the log holds the first line alone" {
    start_server -q 0
    expected "one line, and not a word about single clients"
    because "a log line for each message costs more than the message"
    peer connect exchange 10 shutdown eof close connect exchange 10 reset connect exchange 10
    mapfile -t lines <"$server_log"
    ((${#lines[@]} == 1)) || fail_with "${#lines[@]} lines"
}

# ---- Hard weather ----------------------------------------------------------------------------

@test "01.21 It can be stopped and continued" {
    start_server
    expected "the server to go on where it was, waiting for a client or within a connection"
    because "a call that is interrupted (EINTR) is made again, it is no error"
    signal_server STOP
    signal_server CONT
    tell connect exchange 10
    signal_server STOP
    signal_server CONT
    tell exchange 10
    signal_server STOP
    tell send-bytes 10
    signal_server CONT
    tell drain shutdown eof
}

@test "01.22 A call that is interrupted is made again" {
    start_server --faults accept:EINTR:1%2,recv:EINTR:1%2,send:EINTR:1%2,select:EINTR:1%2,poll:EINTR:1%2,epoll_wait:EINTR:1%2
    expected "the server to go on, with every other call ending in EINTR"
    because "EINTR says that a signal came first, and no more: ask again, and lose nothing"
    peer connect exchange 100K exchange 100K shutdown eof close connect exchange 10 shutdown eof
    faults_reached accept recv send
}

@test "01.23 Short receives and short sends lose nothing" {
    start_server --faults recv:cap=100,send:cap=7
    expected "every byte once, in order, and then end of file"
    because "send() returned how much it took; the rest is still yours to send, from there on"
    peer connect exchange 10K shutdown eof close connect send-bytes 10K shutdown drain eof
    faults_reached recv send
}

@test "01.24 A client that fails while it is accepted does not end the server" {
    start_server --faults accept:ECONNABORTED:1,accept:EPROTO:2,accept:EHOSTUNREACH:3
    expected "the server to take the next client"
    because "accept() hands on the error of a client that is gone; yours it is not: accept(2), ERRORS"
    peer connect exchange 10 shutdown eof close connect exchange 10 shutdown eof
    faults_reached accept
}

@test "01.25 An urgent byte leaves the stream intact" {
    start_server
    expected "the bytes before and after it to come back, and the server to sleep meanwhile"
    because "it travels beside the stream (tcp(7), \"urgent\"): no error and no end of anything"
    tell connect exchange 10 urgent '!'
    server_sleeps
    tell exchange 10 shutdown eof
}

# bats test_tags=not-02
@test "01.26 It sleeps while it waits" {
    local before

    start_server
    expected "less than a fifth of a core, and no more than 20 wake-ups, in 300 ms"
    because "a call that waits costs nothing; asking again and again does, also with short naps"
    wakeups
    before=$REPLY
    server_sleeps 300
    wakeups
    ((REPLY - before <= 20)) || fail_with "$((REPLY - before)) wake-ups while no client was there"
    tell connect exchange 10
    wakeups
    before=$REPLY
    server_sleeps 300
    wakeups
    ((REPLY - before <= 20)) || fail_with "$((REPLY - before)) wake-ups while its client said nothing"
}

# bats test_tags=only-01
@test "01.27 A second client is connected, and waits until the first leaves" {
    start_server
    expected "connect() to succeed at once, no echo while the first is there, and then the echo"
    because "the kernel connects clients ahead of accept(), as many as listen()'s backlog allows"
    peer @first connect exchange 10 @second connect send 'hello' silence 100 \
        @first exchange 10 close @second expect hello shutdown eof
}

# ---- The client ------------------------------------------------------------------------------

# bats test_tags=client
@test "01.28 The client sends its three messages and gets their echo" {
    expected "three messages, each when the one before has come back, and then a half-close"
    because "connect, send, read the echo; after the last one shutdown(SHUT_WR), and read to the end"
    serve accept expect 'This is the message. ' silence 50 send 'This is the message. ' \
        expect 'It will be sent ' silence 50 send 'It will be sent ' expect 'in parts.' \
        silence 50 send 'in parts.' eof close
    run_client 0 "$port"
    serve_ends
}

# bats test_tags=client
@test "01.29 The client sends the messages that it is given" {
    local quarter long

    printf -v quarter '%025000d' 0
    long=$quarter$quarter$quarter$quarter
    expected "its arguments, without a byte more, and exit status 0"
    because "a message has the length that it has; of a long one send() may take a part"
    serve accept expect 'a b' send 'a b' expect 'c%s%n' send 'c%s%n' eof close
    run_client 0 "$port" 127.0.0.1 'a b' 'c%s%n'
    serve_ends
    expected "a message of 100,000 bytes to be sent whole, read whole, and exit status 0"
    serve accept expect "$quarter" expect "$quarter" expect "$quarter" expect "$quarter" \
        send "$quarter" send "$quarter" send "$quarter" send "$quarter" eof close
    run_client 0 "$port" 127.0.0.1 "$long"
    serve_ends
}

# bats test_tags=client
@test "01.30 The client reads a reply that comes in pieces, or late" {
    expected "exit status 0 when all has come"
    because "a reply may be cut anywhere: read until it is whole"
    serve accept expect 'hello world' pieces 1 send 'hello wor' pause 100 send 'ld' eof close
    run_client 0 "$port" 127.0.0.1 'hello world'
    serve_ends
}

# bats test_tags=client
@test "01.31 The client says so when the server answers too little" {
    expected "exit status 1, and the reason on standard error"
    because "recv() that returns 0 before the echo is whole: the server left early"
    serve accept expect 'hello' send 'hel' shutdown hold
    run_client 1 "$port" 127.0.0.1 hello
    client_complains "?"
    expected "the same from a server that leaves at once"
    serve accept close hold
    run_client 1 "$port" 127.0.0.1 hello
    client_complains "?"
}

# bats test_tags=client
@test "01.32 The client says so when the server answers something else" {
    expected "exit status 1, and the reason on standard error"
    because "as many bytes are not yet the same bytes"
    serve accept expect 'hello' send 'hallo' gone
    run_client 1 "$port" 127.0.0.1 hello
    client_complains "?"
}

# bats test_tags=client
@test "01.33 The client says so when the server answers too much" {
    expected "exit status 1, and the reason on standard error"
    because "what comes after the echo is no echo: look at it, to the end of file"
    serve accept expect 'hello' send 'hello, hello' gone
    run_client 1 "$port" 127.0.0.1 hello
    client_complains "?"
    expected "the same when it comes after the client's half-close"
    serve accept expect 'hello' send 'hello' eof send 'more' shutdown hold
    run_client 1 "$port" 127.0.0.1 hello
    client_complains "?"
}

# bats test_tags=client
@test "01.34 The client says so when the server resets the connection" {
    local long

    expected "exit status 1, and the reason on standard error"
    because "recv() fails with ECONNRESET: the server is gone, and with it the rest of the echo"
    serve accept expect 'hello' reset hold
    run_client 1 "$port" 127.0.0.1 hello
    client_complains "?"
    expected "the same when it comes while the client sends"
    because "send() to a server that is gone raises SIGPIPE, unless MSG_NOSIGNAL or signal() says not to"
    printf -v long '%050000d' 0
    serve accept expect '000' shutdown reset hold
    run_client 1 --faults send:cap=1 "$port" 127.0.0.1 "$long"
    client_complains "?"
}

# bats test_tags=client
@test "01.35 The client says so when nobody listens" {
    expected "exit status 1, and an error that says \"refused\""
    because "connect() fails with ECONNREFUSED"
    serve -b hold
    run_client 1 "$port" 127.0.0.1 hello
    client_complains "refused"
}

# bats test_tags=client
@test "01.36 The client goes on after interrupted and short calls" {
    local faults text='It is sent in pieces of 7 bytes, and read in pieces of 3.'

    expected "a message to be sent whole, read whole, and exit status 0"
    because "EINTR is no error, and connect() goes on without us; a short send() leaves a rest"
    for faults in recv:EINTR:1%2,send:EINTR:1%2,select:EINTR:1%2,poll:EINTR:1%2 recv:cap=3,send:cap=7; do
        serve accept expect "$text" send "$text" eof close
        run_client 0 --faults "connect:EINTR:1,$faults" "$port" 127.0.0.1 "$text"
        faults_reached connect recv send
        serve_ends
    done
}

# bats test_tags=client
@test "01.37 The client refuses arguments that it does not understand" {
    local bad

    expected "exit status 2, and the usage on standard error"
    because "atoi() takes 10000x for 10000, and abc for 0"
    for bad in abc 70000 10000x ""; do
        run_client 2 "$bad"
        client_complains sage
    done
    run_client 2 10000 "no such host"
}

# bats test_tags=client
@test "01.38 The client tells what happens" {
    start_server
    expected "the lines of the README, in its words"
    because "one line an event, with the client's own address; what came is shown escaped"
    run_client 0 "$port" "$host" 'This is the message. ' $'two\nlines'
    client_prints ': sending "This is the message. "'$'\n'
    client_prints ': received "This is the message. "'$'\n'
    client_prints ': sending "two\nlines"'$'\n'
    client_prints ': received "two\nlines"'$'\n'
    client_prints ': closing socket'$'\n'
}

# ---- greeter.c and threads.c -----------------------------------------------------------------

# bats test_tags=only-01,companion
@test "01.39 The greeter greets, answers each message, and ends the talk at q" {
    local greeting='Beijing welcomes you\n' goodbye

    build_program 01-blocking/greeter
    start_server --program "$REPLY"
    because "the server speaks first; then it waits for a message, and puts its word before the line end"
    expected "a greeting, then each message with the word good"
    peer connect expect "$greeting" send 'hello\n' expect 'hello good\n' \
        send 'from telnet\r\n' expect 'from telnet good\r\n' send 'no line end' expect 'no line end good' \
        send 'one\ntwo\n' expect 'one good\ntwo good\n' send 'quite\n' expect 'quite good\n' shutdown eof
    for goodbye in q 'q\n' 'q\r\n'; do
        expected "the answer to what came before $goodbye, then end of file"
        peer connect expect "$greeting" send "last\n$goodbye" expect 'last good\n' eof
        peer connect expect "$greeting" send "$goodbye" eof
    done
}

# bats test_tags=only-01,companion
@test "01.40 The greeter's second client is connected at once, and greeted when the first has left" {
    local greeting='Beijing welcomes you\n'

    build_program 01-blocking/greeter
    start_server --program "$REPLY"
    because "the kernel connects a client; accept() only takes it over, when the server gets to it"
    expected "silence for the second client while the first is there, and the greeting after that"
    peer @first connect expect "$greeting" @second connect send 'me too\n' silence 200 \
        @first send 'hello\n' expect 'hello good\n' send 'q\n' eof \
        @second expect "$greeting" expect 'me too good\n' shutdown eof
}

# How many threads the server has.
threads_are() {
    local threads=(/proc/"$server_pid"/task/*)

    ((${#threads[@]} == $1))
}

# bats test_tags=only-01,companion
@test "01.41 With a thread for each, a thousand clients are served at once" {
    build_program 01-blocking/threads -pthread
    start_server --program "$REPLY" -q 0
    because "each thread waits for its own client, and the one that accepts only for new ones"
    expected "a thousand clients to get their own echo while a slow reader reads nothing"
    tell @slow rcvbuf 4K connect fill 64M
    tell @c1..1000 connect send-bytes 100
    tell @c1..1000 expect-bytes 100
    expected "a thread for each, and one that accepts"
    wait_until "1002 threads" threads_are 1002
    expected "a third to leave by a reset, the others in good order, and no thread to stay behind"
    tell @c1..333 reset @c334..1000 shutdown eof close @slow reset
    wait_until "one thread" threads_are 1
    peer connect exchange 1M shutdown eof
}

# bats test_tags=only-01,companion
@test "01.42 When there is no thread for a client, that client alone is refused" {
    build_program 01-blocking/threads -pthread
    # Address space for the stacks of some threads only.
    printf '#!/bin/sh\nulimit -v 150000 && exec %q "$@"\n' "$REPLY" >"$BATS_TEST_TMPDIR/narrow"
    chmod +x "$BATS_TEST_TMPDIR/narrow"
    start_server --program "$BATS_TEST_TMPDIR/narrow"
    because "pthread_create() returns the error EAGAIN: close that client, and go on accepting"
    expected "the last of sixty clients to be refused, with a line in the log that says what to raise"
    tell @c1..60 connect @c60 gone
    wait_for_log "no thread for "
    expected "the first to be served, and a newcomer when the others have left"
    tell @c1 exchange 100 @c1..60 close
    wait_until "one thread" threads_are 1
    peer connect exchange 100 shutdown eof
}
