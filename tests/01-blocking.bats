#!/usr/bin/env bats
#
# The steps of stage 01. A test looks at the bytes on the wire and at what the process does; only one
# step judges the wording of the log. A server that takes one client at a time passes all of them,
# because a test closes one connection before it expects an answer on the next.
#
# Tags: only-01 marks a step that holds in no later stage, not-02 one that does not hold in 02, client
# one about client.c, wording one that judges the words of the log, method one that demands the stage's
# own way to serve its clients.

# shellcheck disable=SC2034,SC2154 # the helper sets $port, $host, $server_status ...
load lib/helper

setup() {
    choose_programs
    ask_for_one_connection
}

# ---- Core ------------------------------------------------------------------------------------

@test "01.1 It starts, and says where" {
    start_server
    expected "a client to be connected to the address in the first line"
    because "bind() and listen() must have succeeded before the line is printed. From then on the kernel connects clients"
    tell connect
    stop_server # it need not have noticed the client, which is still there
}

@test "01.2 It echoes what a client sends" {
    because "the server must send back what recv() returns, until recv() returns 0 (end of file), and then call close()"
    start_server
    expected "the client to get each of four messages back, and end of file after it has half-closed"
    peer connect send 'hello\n' expect 'hello\n' send 'one' expect 'one' send 'two' expect 'two' \
        send 'three' expect 'three' shutdown eof
}

@test "01.3 It serves the next client when one has left" {
    because "when a client has left, the server must call accept() again on the same listener, which stays open"
    start_server
    expected "the server to serve five clients, one after another"
    peer connect send 'This is A' expect 'This is A' close \
        @B connect send 'and this is B' expect 'and this is B' shutdown eof close \
        @C connect send 'C comes next' expect 'C comes next' close \
        @D connect close @E connect send 'E is the last' expect 'E is the last' shutdown eof
}

@test "01.4 It echoes every byte, whatever its value" {
    local code every=''

    for code in {0..255}; do
        printf -v code '\\x%02x' "$code"
        every+=$code
    done
    because "bytes are not text: strlen() stops at a NUL, printf() interprets a %, and 0xff in a char looks like -1"
    start_server
    expected "all 256 byte values to come back unchanged"
    peer connect send "$every" expect "$every" shutdown eof
    expected "0xff, NULs, percent signs and a newline to come back unchanged"
    peer @B connect send '\xff' expect '\xff' send '\0\0\0' expect '\0\0\0' send '%s%n%s%n' expect '%s%n%s%n' \
        send '\n' expect '\n' shutdown eof
}

@test "01.5 It echoes a message that comes in pieces of any size" {
    because "TCP is a byte stream, so one recv() is not one message; and a full buffer has no room for a terminating NUL"
    start_server
    expected "bytes that the client sends one at a time to come back in order"
    peer connect pieces 1 send 'in small pieces' expect 'in small pieces' shutdown eof
    expected "messages just below, at and just above common buffer sizes to come back whole"
    peer @B connect exchange 15 exchange 16 exchange 17 exchange 1023 exchange 1024 exchange 1025 \
        exchange 4095 exchange 4096 exchange 4097 exchange 4104 exchange 65535 exchange 65536 exchange 65537 \
        shutdown eof
}

@test "01.6 It echoes a megabyte, and then closes" {
    because "send() may accept fewer bytes than it is given. Send the rest from where it stopped, until all bytes are sent"
    start_server
    expected "1 MiB of echo while the client is still sending, then end of file"
    peer connect exchange 1M shutdown eof
}

# bats test_tags=not-uring
@test "01.7 It can be restarted at once on the same port" {
    # This test uses an address of its own, so that no other program can be using the port there.
    local address=127.$((BASHPID / 65536 % 256)).$((BASHPID / 256 % 256)).$((BASHPID % 253 + 1)) first

    because "the dead server's connections keep its port in use for a minute. Set SO_REUSEADDR before bind()"
    start_server 0 "$address"
    first=$port
    tell connect exchange 10
    stop_server KILL
    expected "a new server to start on the port of one that was killed while a client was connected"
    start_server "$first" "$address"
    because "the second argument, HOST, is the address to pass to bind(), and the first line must name it"
    [[ $host == "$address" ]] || fail_with "the server was told to use $address, and says that it is on $host"
    because "the dead server's connections keep its port in use for a minute. Set SO_REUSEADDR before bind()"
    peer @B connect exchange 10 shutdown eof
}

@test "01.8 It refuses a port that is taken, and says why" {
    start_server
    expected "exit status 1, and an error message that names the port and says that it is in use"
    because "bind() fails with EADDRINUSE: print the error and exit with status 1. (SO_REUSEPORT would let two servers share the port)"
    run_server "$port"
    ((server_status == 1)) || fail_with "the server $server_end"
    because "\"Address already in use\" alone does not say which address. Print the host and the port as well"
    log_has "$port" || fail_with "an error message that does not name port $port"
    log_mentions "already in use" || fail_with "an error message that does not say \"already in use\""
    expected "the server to print its first line only after bind() and listen() have succeeded"
    because "a program that sees this line connects at once, so the line must not come too early"
    log_lacks "starting up"

    launch_server --faults listen:EADDRINUSE 0
    await listen_was_made || :
    fault_hits listen
    ((REPLY > 0)) || return 0 # faults.so does not see the calls of this program
    expected "exit status 1, and no first line, when listen() fails"
    because "the line promises that clients can connect. Print it after listen(), and only if listen() has succeeded"
    await has_ended_or_printed_its_line || :
    log_lacks "starting up"
    server_ends 1
}

# Has the server called listen(), or ended? (If faults.so does not see its call, the server does listen.)
listen_was_made() {
    fault_hits listen
    ((REPLY > 0)) || has_ended_or_started
}

has_ended_or_printed_its_line() {
    has_ended "$server_pid" || has_started_up
}

@test "01.9 A client that half-closes gets all of its echo" {
    local short=()

    because "recv() that returns 0 means that the client will send no more. It still reads, so send all of its echo before close()"
    # From 02 on a server keeps a queue. With these it holds something when the end of file comes, and the
    # socket is not writable then.
    [[ $stage == 01 ]] || short=(--faults "send:cap=100,accept:sndbuf=1")
    start_server "${short[@]}" 0
    expected "all 20 KiB to come back, then end of file"
    while_stopped tell rcvbuf 4K connect send-bytes 20K shutdown
    server_sleeps
    tell drain eof close
    tell_no_more
    stop_server
    start_server
    expected "a client that reads only after all buffers are full to get all of its echo, then end of file"
    tell @B rcvbuf 4K connect fill 64M shutdown drain eof
}

# bats test_tags=only-01,method
@test "01.10 A second client is connected, and waits until the first has left" {
    start_server
    expected "the second client to connect at once, and to get its echo only after the first one has left"
    because "the kernel completes connections before accept() is called, up to listen()'s backlog. This server then serves them in turn"
    peer connect exchange 10 @B connect send 'hello' silence 100 \
        @A exchange 10 close @B expect hello shutdown eof
}

# ---- Hardening -------------------------------------------------------------------------------

@test "01.20 A client that resets its connection does not end the server" {
    because "after a reset recv() fails with ECONNRESET. This error ends that one connection: close it and serve the next client"
    start_server
    expected "the server to go on and serve the next client"
    peer connect exchange 10 reset @B connect exchange 10 reset @C connect exchange 10 shutdown eof
}

@test "01.21 A client that is gone before it is accepted does not end the server" {
    because "accept() returns a connection that is already dead, and the next call on it fails with ENOTCONN or ECONNRESET. Close it"
    start_server
    expected "the server to go on and serve the next client"
    while_stopped peer connect reset @B connect close
    peer @C connect exchange 10 shutdown eof
}

@test "01.22 A reset while echo is owed does not end the server" {
    because "send() fails with ECONNRESET. This error ends that one connection: close it and serve the next client"
    start_server
    expected "the server to go on and serve the next client"
    while_stopped peer connect send-bytes 200K reset
    peer @B connect exchange 10 shutdown eof
}

@test "01.23 A half-close and then a reset while echo is owed does not end the server" {
    because "send() to a client that is gone raises SIGPIPE, which kills the server. Use MSG_NOSIGNAL, or ignore SIGPIPE with signal()"
    start_server
    expected "the server to go on and serve the next client"
    while_stopped peer connect send-bytes 20K shutdown reset
    peer @B connect exchange 10 shutdown eof
    expected "the server to go on and serve the next client after one has reset in the middle of its echo"
    peer @C connect fill 64M reset @D connect exchange 10 shutdown eof
}

@test "01.24 A hundred clients leave nothing behind" {
    local i clients=() fds kilobytes round

    for ((i = 1; i <= 102; i += 3)); do
        clients+=("@c$i" connect exchange 64K close "@c$((i + 1))" connect exchange 64K shutdown eof close
            "@c$((i + 2))" connect exchange 64K send x reset)
    done
    clients+=(@c103 connect exchange 64K shutdown eof close)
    start_server
    expected "the server to close the sockets of a hundred clients, a third of which reset"
    because "close() is missing on one of the ways in which a connection can end: end of file, or an error of recv() or send()"
    peer "${clients[@]}"
    wait_until "the server to close the sockets of clients that have left" sockets_are_closed
    fd_count
    fds=$REPLY
    memory
    kilobytes=$REPLY

    expected "the server to have no more descriptors open after another hundred clients"
    peer "${clients[@]}"
    wait_until "the server to close the sockets of clients that have left" sockets_are_closed
    fd_count
    ((REPLY < fds + 10)) || fail_with "the server has $((REPLY - fds)) more descriptors open"
    # A run-time with garbage collection may use more for a while, but not with each hundred.
    expected "the server's memory to stop growing (by 4 MiB or more) with each hundred clients"
    because "memory that was allocated for a connection must be freed when the connection is closed"
    for round in {2..12}; do
        memory
        ((REPLY >= kilobytes + 4096)) || return 0
        ((round < 12)) || break
        kilobytes=$REPLY
        peer "${clients[@]}"
        wait_until "the server to close the sockets of clients that have left" sockets_are_closed
    done
    fail_with "it grew with each of $round hundreds of clients, and by $((REPLY - kilobytes)) KiB with the last"
}

# bats test_tags=not-02,not-03
@test "01.25 It sleeps while it waits" {
    local before

    start_server
    expected "the server to use less than a fifth of a core and to wake up at most 20 times in 300 ms"
    because "a call that blocks costs nothing while it waits. Asking again and again costs CPU time, even with short naps in between"
    wakeups
    before=$REPLY
    server_sleeps 300
    wakeups
    ((REPLY - before <= 20)) || fail_with "$((REPLY - before)) wake-ups while no client was connected"
    tell connect exchange 10
    wakeups
    before=$REPLY
    server_sleeps 300
    wakeups
    ((REPLY - before <= 20)) || fail_with "$((REPLY - before)) wake-ups while the only client was silent"
}

@test "01.26 Messages of 64 KiB and 1 MiB come back without a stall" {
    # recv() often returns a whole message, one send() answers it, and nothing can stall. The cap
    # forces several sends.
    start_server --faults recv:cap=16384
    expected "the client to get 64 KiB back"
    because "send() may accept fewer bytes than it is given, and one recv() returns only a part: go on until all is sent"
    tell connect exchange 64K
    expected "at most 8 of 25 round trips of 64 KiB to stall, with both sides asleep, for 30 ms or longer"
    because "a stall points to Nagle's algorithm: it holds a small piece back for a delayed ACK (40 ms). Set TCP_NODELAY"
    tell watch "$server_pid" roundtrips 25 64K stalls
    ((${told##* } <= 8)) || fail_with "${told##* } of 25 round trips stalled"
    expected "the faster of 2 round trips of 1 MiB to take at most 300 ms, without the time in which either side was busy"
    tell roundtrips 2 1M quickest-at-most 300 shutdown eof
}

@test "01.27 It can be stopped and continued" {
    start_server
    expected "the server to go on after SIGSTOP and SIGCONT, with and without a connected client"
    because "a call that was interrupted by a signal fails with EINTR. That is not a failure: make the call again"
    while_stopped :
    tell connect exchange 10
    while_stopped :
    tell exchange 10
    while_stopped tell send-bytes 10
    tell drain shutdown eof
}

# bats test_tags=not-uring
@test "01.28 An interrupted call is made again" {
    start_server --faults accept:EINTR:1%2,recv:EINTR:1%2,send:EINTR:1%2,select:EINTR:1%2,poll:EINTR:1%2,epoll_wait:EINTR:1%2
    expected "the server to go on and lose no data while every second call fails with EINTR"
    because "EINTR means that a signal arrived before the call did anything. Make the same call again"
    peer connect exchange 100K exchange 100K shutdown eof close @B connect exchange 10 shutdown eof
    expected "no call with the descriptor -1"
    because "an accept() that fails returns -1, which is not a descriptor. Call it again before you go on"
    log_lacks "Bad file descriptor"
    faults_reached accept recv send
}

# bats test_tags=not-uring
@test "01.29 Short receives and short sends lose nothing" {
    start_server --faults recv:cap=100,send:cap=7
    expected "every byte once, in order, and then end of file"
    because "send() returns how many bytes it accepted, in this step at most 7. Send the rest, from where it stopped"
    peer connect exchange 10K shutdown eof close @B connect send-bytes 10K shutdown drain eof
    faults_reached recv send
}

# bats test_tags=not-uring
@test "01.30 A client that fails while it is being accepted does not end the server" {
    start_server --faults accept:ECONNABORTED:1,accept:EPROTO:2,accept:EHOSTUNREACH:3
    expected "the server to accept and serve the next client"
    because "accept() can report an error of a connection that has already failed. Call it again: see accept(2), \"Error handling\""
    peer connect exchange 10 shutdown eof close @B connect exchange 10 shutdown eof
    faults_reached accept
}

@test "01.31 An urgent byte leaves the stream intact" {
    start_server
    expected "the bytes before and after the urgent byte to come back, and the server to sleep in between"
    because "an urgent byte is not part of the stream, and it is neither an error nor end of file. See tcp(7), \"urgent data\""
    tell connect exchange 10 urgent '!'
    server_sleeps
    tell exchange 10 shutdown eof
}

# Has the server ended, or called accept() for the client that has come? (Its calls may be invisible to
# faults.so: then it accepts the client.)
accept_was_made() {
    fault_hits accept
    ((REPLY > 0)) || has_ended "$server_pid" || has_a_client
}

# bats test_tags=not-uring
@test "01.32 An error that will not pass ends the server, with one message" {
    local error lines

    for error in EINVAL EBADF ENOTSOCK EFAULT; do
        because "EBADF, EINVAL, ENOTSOCK and EFAULT from accept() are the server's own. Every later call fails as well: print the error and exit(1)"
        expected "exit status 1 when every accept() fails with $error"
        start_server --faults "accept:$error" -q 0
        # A server that sleeps until the listener is ready calls accept() when a client is there.
        serve_one_client
        await accept_was_made || :
        has_ended "$server_pid" || faults_reached accept
        server_ends 1
        expected "one message when every accept() fails with $error"
        because "a line per failed accept() fills the disk. Print the error once, and exit(1)"
        lines=$(wc -l <"$server_log")
        ((lines >= 2)) || fail_with "no message"
        ((lines <= 20)) || fail_with "$lines lines in the log"
    done
}

# bats test_tags=only-01
@test "01.33 Out of descriptors, it says so and tries again in a second" {
    local began least_wait=3000000

    now
    began=$REPLY
    start_server --faults accept:EMFILE:1-2 -q 0
    expected "a client to be served, although accept() fails twice"
    because "accept() fails with EMFILE, at once, as long as there is no free descriptor. Sleep for a second before you call it again"
    tell connect send-bytes 10
    tell drain
    faults_reached accept
    expected "one line per shortage, however often accept() is tried"
    because "print the line for the first call that fails. Keep a flag that says so, and reset it when accept() succeeds"
    ! log_mentions "too many open files" 2 || fail_with "the line appears more than once"
    if [[ ${WORDING-} != no ]]; then
        expected "one line that says that accept() is tried again in a second"
        wait_for_log "out of descriptors: accept: Too many open files; trying again in a second"$'\n'
    fi
    expected "a pause of a second after each of two calls of accept() that fail"
    because "without the pause the server keeps a core busy with calls that fail. Sleep for a second before you call accept() again"
    now
    ((REPLY - began >= 1800000)) || fail_with "the third call came within $(((REPLY - began) / 1000)) ms"
}

@test "01.34 It refuses a port that is not a number from 0 to 65535" {
    local bad

    because "atoi() reads 10000x as 10000 and abc as 0, and 70000 becomes 4464 in 16 bits. Use strtol() and check where it stops"
    for bad in abc 70000 65536 -1 10000x 0x50 "1 2" "" 18446744073709551617; do
        expected "exit status 2 and a message for the port \"$bad\""
        run_server "$bad"
        server_exited 2
        [[ -s $server_log ]] || fail_with "no message"
    done
    because "an argument that the server does not understand must be refused, not ignored"
    expected "exit status 2 for a third argument"
    run_server 0 127.0.0.1 what
    server_exited 2
    expected "exit status 2 for the HOST \"no such host\""
    because "getaddrinfo() refuses this HOST: print the usage, and exit with status 2"
    run_server 0 "no such host"
    server_exited 2
}

@test "01.35 It serves IPv6 as well" {
    has_ipv6 || skip "this machine has no IPv6 (no ::1 in /proc/net/if_inet6)"
    because "an IPv6 address does not fit into a struct sockaddr_in. Pass socket() and bind() what getaddrinfo() returns"
    expected "the server, started with HOST ::1, to name ::1 in its first line and to serve a client there"
    start_server 0 ::1
    [[ $host == ::1 ]] || fail_with "the first line names $host"
    peer connect exchange 64K shutdown eof
}

# Has this machine the address ::1?
has_ipv6() {
    local line

    while read -r line; do
        if [[ $line == 00000000000000000000000000000001\ * ]]; then
            return 0
        fi
    done 2>/dev/null </proc/net/if_inet6
    return 1
}

@test "01.36 It cannot be reached from other machines unless you say so" {
    start_server
    expected "the server, started without HOST, to listen on 127.0.0.1 port $port"
    because "INADDR_ANY opens the server to the whole network. (If the address is right but the port is not, htons() is missing)"
    if listens_on 00000000 || listens_on 00000000000000000000000000000000; then
        fail_with "the server listens on all addresses of this machine"
    fi
    listens_on 0100007F || fail_with "no socket listens there, according to /proc/net/tcp"
    expected "the server, started with HOST 127.0.0.2, to listen there"
    because "the second argument is the address to pass to bind()"
    start_server 0 127.0.0.2
    listens_on 0200007F || fail_with "no socket listens on 127.0.0.2 port $port, according to /proc/net/tcp"
}

# listens_on ADDRESS: succeeds when a socket listens (state 0A) on this address and the server's port. An
# IPv6 socket may listen on an IPv4 address, ::ffff:127.0.0.1.
listens_on() {
    local where

    printf -v where '%s:%04X' "$1" "$port"
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v where="$where" '
        { sub(/^0000000000000000FFFF0000/, "", $2) }
        $2 == where && $4 == "0A" { found = 1 }
        END { exit !found }'
}

# bats test_tags=wording
@test "01.37 The log tells what happens, as it happens" {
    local client long

    printf -v long 'x%.0s' {1..60}
    start_server
    expected "the log lines of this step, word for word, each as soon as the event happens"
    because "the words must match exactly, and \\\", \\\\ and newlines in the data are escaped. Or the line is still in a buffer: fflush(), setvbuf(), python3 -u"
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
    tell close @B connect local
    client=${told#* }
    wait_for_log "new connection from $client"$'\n'
    tell reset
    wait_for_log "closing $client after recv: Connection reset by peer"$'\n'
    stop_server
    if has_ipv6; then
        expected "the log line about a new connection to name a client by its IPv6 address, such as [::1]:55821"
        because "accept() stores as much of the address as there is room for. Give it a struct sockaddr_storage, and its size"
        tell_no_more
        start_server 0 ::1
        tell @C connect local
        wait_for_log "new connection from ${told#* }"$'\n'
        stop_server
    fi
    serve accept
    run_server "$port"
    expected "the error \"bind 127.0.0.1 port $port: Address already in use (\" and then a remedy, for a port that is taken"
    because "an error message names the call, the address and the error, in these words"
    log_has "bind 127.0.0.1 port $port: Address already in use (" ||
        fail_with "a different error message"
    expected "the usage for the port abc, which is not a number"
    because "a program that does not understand its arguments says which it takes"
    run_server abc
    log_mentions usage || fail_with "no usage text"
}

@test "01.38 A client can neither forge the log nor drive a terminal" {
    start_server
    expected "a log without control characters, and without a line that the client made up"
    because "every byte that is not printable must be escaped before it is logged, above all the newline"
    peer connect send 'a\nforged line\r\x1b[2J\x1b]0;title\x07\x00\x7f\x9b' expect-any shutdown gone
    stop_server # only then is the log as long as it will be
    ! LC_ALL=C grep -qa '^forged line' "$server_log" || fail_with "a line in the log that the client made up"
    ! LC_ALL=C grep -qa $'[\x01-\x08\x0b-\x1f\x7f\x9b]' "$server_log" ||
        fail_with "a control character in the log"
    if [[ ${WORDING-} != no ]]; then
        expected "the log to show what the client sent"
        because "log what you receive, and what you send back"
        LC_ALL=C grep -qa 'forged line' "$server_log" || fail_with "a log that does not show it"
    fi
}

@test "01.39 With -q the log holds only the first line" {
    local lines

    start_server -q 0
    expected "the log to hold only the first line, and nothing about individual clients"
    because "logging a message costs more than echoing it, so -q must turn off every line about a client"
    peer connect exchange 10 shutdown eof close @B connect exchange 10 reset @C connect exchange 10
    stop_server # only then is the log as long as it will be
    lines=$(tail -n +2 "$server_log" | wc -l)
    ((lines == 0)) || fail_with "$lines more lines in the log"
}

# ---- Client ----------------------------------------------------------------------------------

# bats test_tags=client
@test "01.40 The client sends its three messages and gets their echo" {
    expected "three messages from the client, each after the echo of the one before, and then a half-close"
    because "the client must read the whole echo before it sends the next message, then call shutdown(SHUT_WR) and read to end of file"
    serve accept expect 'This is the message. ' silence 50 send 'This is the message. ' \
        expect 'It will be sent ' silence 50 send 'It will be sent ' expect 'in parts.' \
        silence 50 send 'in parts.' eof close
    run_client 0 "$port"
    serve_ends
}

# bats test_tags=client
@test "01.41 The client sends the messages that it is given" {
    local quarter long

    printf -v quarter '%025000d' 0
    long=$quarter$quarter$quarter$quarter
    expected "the client to send exactly its arguments, and to exit with status 0"
    because "a message is as long as its argument, without a NUL or newline added. The next one begins when all of the echo has come back"
    serve accept expect 'a b' send 'a ' silence 50 send 'b' expect 'c%s%n' send 'c%s%n' eof close
    run_client 0 "$port" 127.0.0.1 'a b' 'c%s%n'
    serve_ends
    expected "the client to send and read back all of a message of 100,000 bytes, and to exit with status 0"
    because "send() may accept only part of a message, and recv() return only part of its echo. Call both until all is done"
    serve accept expect "$quarter" expect "$quarter" expect "$quarter" expect "$quarter" \
        send "$quarter" send "$quarter" send "$quarter" silence 50 send "$quarter" eof close
    run_client 0 --faults send:cap=40000 "$port" 127.0.0.1 "$long"
    serve_ends
}

# bats test_tags=client
@test "01.42 The client reads a reply that comes in pieces, or late" {
    expected "exit status 0 once the whole echo has arrived"
    because "a reply can arrive in pieces of any size. Call recv() until the echo is complete"
    serve accept expect 'hello world' pieces 1 send 'hello wor' silence 100 send 'ld' eof close
    run_client 0 "$port" 127.0.0.1 'hello world'
    serve_ends
}

# bats test_tags=client
@test "01.43 The client says so when the server answers too little" {
    expected "exit status 1, and the reason on standard error"
    because "recv() that returns 0 before the echo is complete means that the server closed too early. Report it"
    serve accept expect 'hello' send 'hel' shutdown hold
    run_client 1 "$port" 127.0.0.1 hello
    client_complains
    expected "exit status 1, and the reason on standard error, when the server closes without an answer"
    serve accept expect 'hello' shutdown hold
    run_client 1 "$port" 127.0.0.1 hello
    client_complains
}

# bats test_tags=client
@test "01.44 The client says so when the server answers something else" {
    local answer

    because "the right number of bytes may still be the wrong bytes. Compare the echo with the message"
    for answer in hallo jello hellx; do
        expected "exit status 1, and the reason on standard error, when the answer to \"hello\" is \"$answer\""
        serve accept expect 'hello' send "$answer" gone
        run_client 1 "$port" 127.0.0.1 hello
        client_complains
    done
    expected "exit status 1, and the reason on standard error, when the second of two answers is wrong"
    serve accept expect 'one' send 'one' expect 'two' send 'one' gone
    run_client 1 "$port" 127.0.0.1 one two
    client_complains
}

# bats test_tags=client
@test "01.45 The client says so when the server answers too much" {
    expected "exit status 1, and the reason on standard error"
    because "bytes after the complete echo are an error too. Keep reading until end of file, and check that no more come"
    serve accept expect 'hello' send 'hello, hello' gone
    run_client 1 "$port" 127.0.0.1 hello
    client_complains
    expected "exit status 1, and the reason on standard error, when more bytes come after the client's half-close"
    serve accept expect 'hello' send 'hello' eof send 'more' shutdown hold
    run_client 1 "$port" 127.0.0.1 hello
    client_complains
}

# bats test_tags=client
@test "01.46 The client says so when the server resets the connection" {
    local long

    expected "exit status 1, and the reason on standard error"
    because "recv() fails with ECONNRESET. The server is gone, and the rest of the echo with it: report that and exit"
    serve accept expect 'hello' reset
    run_client 1 "$port" 127.0.0.1 hello
    client_complains
    serve_ends
    expected "exit status 1, and the reason on standard error, when the reset comes while the client is sending"
    because "send() to a server that is gone raises SIGPIPE, which kills the client. Use MSG_NOSIGNAL, or ignore SIGPIPE with signal()"
    printf -v long '%050000d' 0
    serve accept expect '000' shutdown reset
    run_client 1 --faults send:cap=1 "$port" 127.0.0.1 "$long"
    client_complains
    expected "the client to send on, a byte at a time, until the server resets the connection"
    because "send() may accept only part of a message, here one byte. Send the rest (01.41)"
    serve_ends
    expected "exit status 1, and the reason on standard error, when a reset comes instead of end of file, after the whole echo"
    because "after your half-close recv() must return 0. If it fails, the server has not closed the connection in order: report that"
    serve accept expect 'hello' send 'hello' eof reset
    run_client 1 "$port" 127.0.0.1 hello
    client_complains
    serve_ends
}

# bats test_tags=client
@test "01.47 The client says so when no server listens" {
    expected "exit status 1, and an error message that says \"refused\""
    because "connect() fails with ECONNREFUSED when no program listens on the port. Print strerror(errno)"
    serve -b hold
    run_client 1 "$port" 127.0.0.1 hello
    client_complains "refused"
}

# bats test_tags=client
@test "01.48 The client goes on after interrupted and short calls" {
    local faults text='It is sent in pieces of 7 bytes, and read in pieces of 3.'

    expected "the client to send and read back the whole message, and to exit with status 0"
    because "EINTR is not a failure: call recv() or send() again. But the kernel goes on with connect(): do not call it again (EALREADY), wait until the socket is writable"
    for faults in recv:EINTR:1%2,send:EINTR:1%2,select:EINTR:1%2,poll:EINTR:1%2 recv:cap=3,send:cap=7; do
        [[ $faults != *cap* ]] ||
            because "send() takes at most 7 bytes of the message here, and recv() returns at most 3 of its echo. Call both until all is done"
        serve accept expect "$text" send "$text" eof close
        run_client 0 --faults "connect:EINTR:1,connect:EALREADY:2+,$faults" "$port" 127.0.0.1 "$text"
        faults_reached connect recv send
        serve_ends
    done
}

# bats test_tags=client
@test "01.49 The client refuses arguments that it does not understand" {
    local bad

    because "atoi() reads 10000x as 10000 and abc as 0. Use strtol(), check where it stops, and refuse numbers above 65535"
    for bad in abc 70000 10000x "" 18446744073709551617; do
        expected "exit status 2, and the usage text on standard error, for the port \"$bad\""
        run_client 2 "$bad"
        client_complains usage
    done
    expected "exit status 2 for the HOST \"no such host\""
    because "getaddrinfo() refuses this HOST: print the usage, and exit with status 2"
    run_client 2 10000 "no such host"
}

# bats test_tags=client,wording
@test "01.50 The client tells what happens" {
    expected "the client to print what it has sent before the answer comes"
    because "print each line when the event happens, and use these words"
    serve accept expect 'hello' @go accept @S send 'hello' eof close
    start_client "$port" 127.0.0.1 hello
    wait_for_output ': sending "hello"'
    peer connect
    client_ends 0
    serve_ends
    start_server
    expected "the client's lines of this step, word for word"
    because "each event is one line that begins with the client's own address, and the data in it is escaped"
    run_client 0 "$port" "$host" 'This is the message. ' $'two\nlines'
    client_prints ': sending "This is the message. "'$'\n'
    client_prints ': received "This is the message. "'$'\n'
    client_prints ': sending "two\nlines"'$'\n'
    client_prints ': received "two\nlines"'$'\n'
    client_prints ': closing socket'$'\n'
}

# bats test_tags=client
@test "01.51 The client says so when its output cannot be written" {
    local full=/dev/full

    [[ -c $full ]] || skip "this machine has no $full"
    expected "exit status 1, and the reason on standard error, when standard output is a full disk"
    because "printf() only fills a buffer. Ask fflush() and ferror() before you exit with status 0"
    start_server
    start_client --output "$full" "$port" "$host" hello
    client_ends 1
    client_complains "no space left"
}

# ---- greeter.c -------------------------------------------------------------------------------

# bats test_tags=only-01,companion
@test "greeter.1 The greeter greets, answers each message, and closes at q" {
    local greeting='Beijing welcomes you\n' goodbye

    build_program 01-blocking/greeter
    start_server --program "$REPLY"
    because "the server greets first. Then it answers each message, with \" good\" inserted before the line end"
    expected "a greeting, then each message with \" good\" added"
    peer connect expect "$greeting" send 'hello\n' expect 'hello good\n' \
        send 'from telnet\r\n' expect 'from telnet good\r\n' send 'no line end' expect 'no line end good' \
        send 'one\ntwo\n' expect 'one good\ntwo good\n' send 'quite\n' expect 'quite good\n' shutdown eof
    for goodbye in q 'q\n' 'q\r\n'; do
        expected "an answer to the message before \"$goodbye\", then end of file"
        peer connect expect "$greeting" send "last\n$goodbye" expect 'last good\n' eof
        peer connect expect "$greeting" send "$goodbye" eof
    done
}

# bats test_tags=only-01,companion
@test "greeter.2 The greeter's second client is connected at once, and greeted when the first has left" {
    local greeting='Beijing welcomes you\n'

    build_program 01-blocking/greeter
    start_server --program "$REPLY"
    because "the kernel connects the second client, but the server greets it only after accept(), when the first client has left"
    expected "no greeting for the second client while the first one is connected, and the greeting after that"
    peer @first connect expect "$greeting" @second connect send 'me too\n' silence 200 \
        @first send 'hello\n' expect 'hello good\n' send 'q\n' eof \
        @second expect "$greeting" expect 'me too good\n' shutdown eof
}

# bats test_tags=only-01,companion
@test "greeter.3 greeter.c and threads.c end on an error that will not pass, and outlive a shortage" {
    local program

    for program in greeter threads; do
        build_program 01-blocking/$program -pthread
        ends_for_an_error $program "$REPLY" accept:EINVAL:1+
        build_program 01-blocking/$program -pthread
        expected "$program to serve a client after a second, and one line that says so, when accept() fails with EMFILE twice"
        because "a shortage passes. The line must say what the program does: it sleeps for a second"
        start_server --program "$REPLY" --faults accept:EMFILE:1-2 -q 0
        tell connect send-bytes 10
        wait_for_log "out of descriptors: accept: Too many open files; trying again in a second"$'\n'
        wait_until "the client to be accepted" has_a_client
        ! log_has "out of descriptors" 2 || fail_with "the line appears more than once"
        tell_no_more
        stop_server
    done
}

# ---- threads.c -------------------------------------------------------------------------------

# Succeeds when the server has this many threads, besides those of its run-time.
threads_are() {
    local threads=(/proc/"$server_pid"/task/*)

    ((${#threads[@]} == $1 + ${run_time_threads:-0}))
}

# bats test_tags=only-01,companion
@test "threads.1 With a thread per client, a thousand clients are served at once" {
    local threads

    build_program 01-blocking/threads -pthread
    start_server --program "$REPLY" -q 0
    because "each thread blocks only for its own client, and the thread that calls accept() only for new ones"
    expected "each of a thousand clients to get its own echo while a slow reader reads nothing"
    tell @slow rcvbuf 4K connect fill 64M
    threads=(/proc/"$server_pid"/task/*)
    run_time_threads=$((${#threads[@]} - 2))
    tell @c1..1000 connect send-bytes 100
    tell @c1..1000 expect-bytes 100
    expected "one thread per client, and one that accepts"
    wait_until "the server to have 1002 threads" threads_are 1002
    expected "every thread to end when its client leaves, whether by a reset or by end of file"
    tell @c1..333 reset @c334..1000 shutdown eof close @slow reset
    wait_until "the server to have one thread" threads_are 1
    peer connect exchange 1M shutdown eof
}

# bats test_tags=only-01,companion
@test "threads.2 When there is no thread for a client, that client alone is refused" {
    local option

    [[ -z ${SANITIZE-} ]] || skip "a sanitizer needs more address space than this step allows"
    build_program 01-blocking/threads -pthread
    # This limits the address space, so that there is room for the stacks of a few threads only.
    printf '#!/bin/sh\nulimit -v 150000 && exec %s "$@"\n' "$REPLY" >"$BATS_TEST_TMPDIR/narrow"
    chmod +x "$BATS_TEST_TMPDIR/narrow"
    for option in '' -q; do
        start_server --program "$BATS_TEST_TMPDIR/narrow" $option 0
        because "pthread_create() returns EAGAIN when it cannot make a thread. Close that client's socket and go on accepting"
        expected "the last of sixty clients to be refused, and a log line about the shortage, also with -q"
        tell @c1..60 connect @c60 gone
        wait_for_log "out of threads: pthread_create: "
        expected "the first client to be served, and a new one after all of them have left"
        tell @c1 exchange 100 @c1..60 close
        wait_until "the server to have one thread" threads_are 1
        peer connect exchange 100 shutdown eof
        expected "one log line per shortage, not one per client"
        because "a shortage of threads concerns the server, so -q does not hide it. Log it once, until a thread can be started"
        ! log_has "out of threads: " 2 || fail_with "the line appears more than once"
        tell_no_more
        stop_server
    done
    expected "the log of a server with -q to have two lines: where it starts up, and the shortage"
    because "-q hides each line about a client"
    mapfile -t lines <"$server_log"
    ((${#lines[@]} == 2)) || fail_with "${#lines[@]} lines in the log"
}

# ---- first.c ---------------------------------------------------------------------------------

# bats test_tags=only-01,companion
@test "first.1 first.c fails the steps that server.c is there for, and dies as 01 shows" {
    local wanted='01.7 It can be restarted at once on the same port: the server exited with status 1 before it printed its first line
01.20 A client that resets its connection does not end the server: the server exited with status 1
01.21 A client that is gone before it is accepted does not end the server: the server exited with status 1
01.22 A reset while echo is owed does not end the server: the server exited with status 1
01.23 A half-close and then a reset while echo is owed does not end the server: the server was killed by SIGPIPE
01.24 A hundred clients leave nothing behind: the server exited with status 1
01.26 Messages of 64 KiB and 1 MiB come back without a stall
01.28 An interrupted call is made again: the server exited with status 1
01.30 A client that fails while it is being accepted does not end the server: the server exited with status 1'
    local found='' line title

    build_program 01-blocking/first
    # The steps about options and the wording of the log are left out: first.c has neither. So is
    # 01.29: on Linux a blocking send() is cut short only by a signal.
    while IFS= read -r line; do
        if [[ $line =~ ^not\ ok\ [0-9]+\ (.*) ]]; then
            title=${BASH_REMATCH[1]}
            found+=${found:+$'\n'}$title
        elif [[ -n $title && $line =~ ^#\ +got\ +(the server (exited|was killed).*) ]]; then
            found+=": ${BASH_REMATCH[1]}"
        elif [[ $line == ok* ]]; then
            title=
        fi
    done < <(env -i PATH="$PATH" HOME="${HOME-/}" SLOW="${SLOW-1}" STAGE=01 SERVER="$REPLY" \
        "$BATS_ROOT/bin/bats" --tap -f '^01\.([1-7]|9|10|2[0-8]|3[01]) ' "$tests_directory/01-blocking.bats" 3>&- 2>&1)
    expected "first.c to fail these steps, and no others"
    because "first.c is there to be broken: when it changes, the walkthrough that breaks it must change, too"
    [[ $found == "$wanted" ]] ||
        fail_with "other failures" "$(diff <(echo "$wanted") <(echo "$found") || :)"
}
