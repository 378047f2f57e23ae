#!/usr/bin/env bats
#
# The steps of stage 03: the server sleeps until a socket is ready, and then serves the ready clients.
# A test looks at the bytes on the wire and at what the process does; only one step judges the wording
# of the log. Several steps check that the server sleeps while it has nothing to do, each in another
# state in which something is ready that the server cannot or will not use.
#
# Tags: only-03 marks a step that holds in no later stage, wording one that judges the words of the log,
# method one that demands the stage's own way to serve its clients.

# shellcheck disable=SC2034,SC2154 # the helper sets $port, $host, $server_log ...
load lib/helper

# ---- Core ------------------------------------------------------------------------------------

@test "03.1 It sleeps while its clients send nothing" {
    local before

    start_server
    expected "20 clients to connect, and each to get its own bytes back"
    because "select() reports only what is in its sets, and below its first argument: the highest descriptor plus one"
    tell @c1..20 connect @c1..20 exchange 10
    expected "the server to use less than a fifth of a core and to wake up at most 20 times while its 20 clients are silent"
    because "the loop goes on without sleeping. One select() per turn must wait, with the timeout NULL, for all sockets; and an idle socket is almost always writable: watch it for writing only while its queue holds something"
    server_sleeps 50 # it may have just sent something
    wakeups
    before=$REPLY
    server_sleeps 200
    wakeups
    ((REPLY - before <= 20)) || fail_with "$((REPLY - before)) wake-ups while all clients were silent"
    tell @c1..20 exchange 10
}

@test "03.2 Every client that is ready is served, in any order" {
    because "select() overwrites its sets, so fill them again before each call. Its first argument is the highest descriptor plus one"
    start_server
    expected "five clients to be served three times each, in changing order"
    tell @c1..5 connect @c1..5 exchange 10 @c5 exchange 10 @c3 exchange 10 @c1 exchange 10 \
        @c2 exchange 10 @c4 exchange 10 @c4 exchange 10 @c1 exchange 10 @c5 exchange 10 \
        @c2 exchange 10 @c3 exchange 10
    expected "ten clients to be served when five of them send and five more connect at the same moment"
    while_stopped tell @c1..5 send-bytes 20 @d1..5 connect @d1..5 send-bytes 20
    tell @c1..5 drain @d1..5 drain
}

@test "03.3 The newest client is served as soon as it sends" {
    because "select() watches only descriptors below its first argument, which must therefore be the highest descriptor plus one"
    start_server
    expected "each client to be served before the next one connects, and again afterwards"
    peer connect exchange 10 @B connect exchange 10 @A exchange 10 @C connect exchange 10 \
        @B exchange 10 @C exchange 10
}

@test "03.4 Clients may leave in any order" {
    because "a closed descriptor that stays in a set makes select() fail with EBADF; and the highest descriptor may have changed"
    start_server
    expected "the remaining clients to be served after others have left, the newest or the oldest"
    tell @c1..6 connect @c1..6 exchange 10
    tell @c6 close @c5 exchange 10 @c1 close @c2 exchange 10 @c3 reset @c4 exchange 10
    server_sleeps
    tell @d1..3 connect @d1..3 exchange 10 @c2 exchange 10 @c4 close @c5 close @d3 close
    tell @c2 exchange 10 @d1 exchange 10 @c2 close @d1 close @d2 exchange 10
    tell @d2 close @e connect exchange 10
}

@test "03.5 It sleeps while a slow reader does not read" {
    start_server
    expected "the server to use less than a fifth of a core while a client sends but does not read its echo"
    because "this client's unread bytes keep its socket readable. Do not watch it for reading while its queue holds anything"
    tell rcvbuf 4K connect fill 64M
    server_sleeps
    expected "the slow reader to get all of its echo when it reads at last"
    because "while a connection's queue holds anything, its socket must be watched for writing"
    tell drain exchange 10
}

has_received() {
    fault_calls recv
    ((REPLY > $1))
}

# Has the server called recv() no more for 50 ms? It may be slow, and still be busy with earlier bytes.
recv_rests() {
    local calls

    fault_calls recv
    calls=$REPLY
    nap 0.05
    ! has_received "$calls"
}

# reads_on NAME: this client sends 256 KiB. It succeeds when the server calls recv() for them (--faults recv:count).
reads_on() {
    local calls

    wait_until "the server to read what a client has sent" recv_rests
    fault_calls recv
    calls=$REPLY
    tell "@$1" send-bytes 256K
    for _ in {1..10}; do
        if has_received "$calls"; then
            return 0
        fi
        nap
    done
    return 1
}

# be_slow_reader NAME: a client that does not read its echo, and sends until the server leaves the last
# bytes unread. (The step "fill" sends more: after it not even an end of file reaches the server.)
be_slow_reader() {
    local times=0 least default most=4194304

    # What a server reads before its send() accepts nothing fits into its send buffer.
    read -r least default most 2>/dev/null </proc/sys/net/ipv4/tcp_wmem || :
    tell "@$1" rcvbuf 4K connect exchange 10 send-bytes 1M
    has_received 0 || skip "faults.so cannot intercept recv in this server (a static program, or another run-time)"
    while reads_on "$1"; do
        times=$((times + 1))
        ((times * 262144 < most + 8 * 1048576)) || {
            because "a server that reads on before its echo is sent must store everything. Read again when the queue is empty (backpressure)"
            fail_with "the server still reads from a client that has sent $((1 + times / 4)) MiB and does not read its echo"
        }
    done
}

# bats test_tags=not-uring
@test "03.6 It sleeps while a slow reader has half-closed" {
    start_server --faults recv:count
    expected "the server to use less than a fifth of a core while a client has half-closed and does not read its echo"
    because "end of file keeps a socket readable as well. Do not watch it for reading while its queue holds anything"
    be_slow_reader A
    tell @A shutdown
    server_sleeps
    tell @B connect exchange 10
    expected "the slow reader to get all of its echo when it reads at last, then end of file"
    because "end of file ends only one direction. Send the rest of the echo before close()"
    tell @A drain eof
}

@test "03.7 It sleeps after a slow reader has reset" {
    start_server
    expected "the server to close the connection that was reset, and to sleep"
    because "select() reports a broken connection as readable and writable. The next recv() or send() on it fails: then close it"
    tell @B connect @A rcvbuf 4K connect fill 64M reset
    server_sleeps
    tell @B exchange 10 close
    wait_until "the server to close the connection that was reset" sockets_are_closed
}

# ---- Hardening -------------------------------------------------------------------------------

@test "03.20 It sleeps when out of descriptors" {
    start_server --open-files 64
    expected "the server to use less than a fifth of a core while clients wait for a free descriptor"
    because "clients that cannot be accepted keep the listener readable. Stop watching it until a client leaves or a second has passed"
    tell @c1..20 connect @c1..20 exchange 10 @c21..100 connect
    server_sleeps
    tell @c1..20 exchange 10
    server_sleeps
    expected "the waiting clients to be served when others leave"
    because "the listener must be watched again as soon as a descriptor is free"
    tell @c1..60 close
    tell @c61..100 exchange 10
}

# bats test_tags=not-uring
@test "03.21 It sleeps when there is no memory for one more client" {
    local error

    because "ENFILE, ENOBUFS and ENOMEM from accept() are shortages like EMFILE. Stop watching the listener until they may have passed"
    for error in ENFILE ENOBUFS ENOMEM; do
        start_server --faults "accept:$error:2+"
        expected "the server to sleep, and to serve its connected client, while accept() fails with $error"
        tell connect exchange 10 @B connect
        server_sleeps 50
        faults_reached accept
        tell @A exchange 10
        tell_no_more
        stop_server
    done
}

# bats test_tags=not-edge,not-uring
@test "03.22 Readiness that turns out false delays no client" {
    local call hits=0

    # The first call must wait for a client, so the rule begins with the second. It ends with the 40th.
    start_server --faults select:ready-read:2-40,poll:ready-read:2-40,epoll_wait:ready-read:2-40
    expected "all clients to be served although sockets are reported as readable that are not"
    because "readiness is only a hint, so recv() or accept() may block after all (select(2), BUGS). Set O_NONBLOCK on every socket"
    tell connect
    tell @B connect exchange 10
    tell @A exchange 10 @C connect exchange 10
    for call in select poll epoll_wait; do
        fault_hits "$call"
        hits=$((hits + REPLY))
    done
    ((hits > 0)) || skip "faults.so cannot intercept select, poll or epoll_wait in this server (or its events are edge-triggered)"
}

# bats test_tags=not-uring
@test "03.23 An urgent byte is read beside the stream" {
    start_server --faults recv:count
    expected "all bytes of the stream to come back, and the server to sleep, after an urgent byte"
    because "the third set reports an urgent byte until recv() with MSG_OOB reads it. It is neither an error nor end of file"
    tell connect exchange 10 urgent '!' @B connect exchange 10
    server_sleeps
    tell @A silence 1
    if [[ ${METHOD-} != no ]] && has_received 0; then
        expected "the server to read the urgent byte: recv() with MSG_OOB"
        because "only the third set of select() (POLLPRI, EPOLLPRI) tells of an urgent byte. Watch every client for it"
        wait_until "the server to read the urgent byte" has_read_urgent_byte
        expected "all bytes of the stream to come back, and the server to sleep, after an urgent byte"
        because "the third set reports an urgent byte until recv() with MSG_OOB reads it. It is neither an error nor end of file"
    fi
    tell @A exchange 10 urgent '?' urgent '!' exchange 10 @B exchange 10
    expected "all bytes of the stream to come back when an urgent byte arrives together with data and end of file"
    while_stopped tell @A send-bytes 10 urgent '!' send-bytes 10 @C connect send-bytes 10 urgent '!' shutdown
    tell @A drain @C drain eof @B exchange 10
    server_sleeps
    tell @A exchange 10
    expected "the server to sleep when an urgent byte comes from a client that does not read its echo"
    be_slow_reader D
    tell @D urgent '!'
    server_sleeps
    tell @B exchange 10 @D drain exchange 10
}

has_read_urgent_byte() {
    fault_calls urgent
    ((REPLY > 0))
}

fd_count_is_at_most() {
    fd_count
    ((REPLY <= $1))
}

# bats test_tags=only-03,method
@test "03.24 A client past FD_SETSIZE is refused, and no other notices" {
    local most

    start_server --open-files 2000
    expected "1100 clients to connect, and the 1st, the 500th and the 990th to be served"
    because "FD_SET() with a descriptor of FD_SETSIZE (1024) or more overwrites the memory after the set"
    tell @c1..1100 connect
    tell @c1 exchange 10 @c500 exchange 10 @c990 exchange 10
    expected "the server to close the 1050th client and all after it at once"
    because "select() cannot watch a descriptor of FD_SETSIZE (1024) or more. Such a client would wait forever, so close it"
    tell @c1050..1100 gone
    expected "new clients to be served when others have left"
    because "what matters is the new descriptor, not how many clients have connected so far"
    fd_count
    most=$((REPLY - 100))
    tell @c1..100 close
    wait_until "the server to close 100 descriptors" fd_count_is_at_most "$most"
    tell @d1..50 connect @d1..50 exchange 10
    tell @c990 exchange 10
    server_sleeps
}

accepted_or_ended() {
    has_ended "$server_pid" || has_a_client
}

# Has the server called one of those that wait for events, as far as faults.so sees it?
wait_was_made() {
    local call

    for call in select poll epoll_wait; do
        fault_calls "$call"
        ((REPLY == 0)) || return 0
    done
    return 1
}

# bats test_tags=only-03,method
@test "03.25 A listener past FD_SETSIZE ends the server at its start" {
    refuses_high_listener "the server" "${server_command[*]}"
}

# bats test_tags=not-uring
@test "03.26 A wait that can never succeed ends the server" {
    local lines

    start_server --faults select:EINVAL:2+,poll:EINVAL:2+,epoll_wait:EINVAL:2+ -q 0
    expected "exit status 1 when every wait for events fails with EINVAL"
    because "only EINTR is a reason to wait again. Any other error of select(), poll() or epoll_wait() comes back every time, and the loop spins"
    # Its first wait ends when a client connects. A server with blocking calls does not wait in this way.
    serve_one_client
    await accepted_or_ended || :
    wait_was_made || skip "faults.so sees no select, poll or epoll_wait of this server"
    server_ends 1
    expected "one message, not one per turn of the loop"
    because "a line per failed call fills the disk. Print the error once, and exit(1)"
    lines=$(wc -l <"$server_log")
    ((lines >= 2)) || fail_with "no message"
    ((lines <= 20)) || fail_with "$lines lines in the log"
}

# bats test_tags=wording,not-uring
@test "03.27 The log tells of waits, urgent bytes and refused clients" {
    local client

    start_server --open-files 2000
    expected "the log lines of this step, word for word"
    because "each wait, each urgent byte and each refused client has its own line, and the words must match exactly"
    wait_for_log "waiting for the next event"$'\n'
    tell connect local
    client=${told#* }
    wait_for_log "new connection from $client"$'\n'"waiting for the next event"$'\n'
    tell exchange 10 urgent '!'
    wait_for_log "handling exceptional condition for $client"$'\n'
    wait_for_log "\"!\" from $client"$'\n'
    tell exchange 10
    if [[ $stage == 03 ]]; then
        tell @c1..1030 connect
        wait_for_log ": select cannot watch descriptor 1024"$'\n'
        [[ $(<"$server_log") =~ refusing\ [0-9.]+:[0-9]+:\ select ]] ||
            fail_with "no line that begins with \"refusing 127.0.0.1:PORT: select\""
    fi
}

# ---- Client ----------------------------------------------------------------------------------

# Sets $names to the addresses of the client's connections, with which its lines begin.
read_names() {
    local line

    names=()
    while IFS= read -r line; do
        if [[ $line =~ ^([^ ]+):\ sending && " ${names[*]} " != *" ${BASH_REMATCH[1]} "* ]]; then
            names+=("${BASH_REMATCH[1]}")
        fi
    done <"$client_out"
}

# Sets REPLY to the client's lines about one connection, without its address.
read_lines_of() {
    local line

    REPLY=
    while IFS= read -r line; do
        if [[ $line == "$1: "* ]]; then
            REPLY+=${line#"$1: "}$'\n'
        fi
    done <"$client_out"
}

# bats test_tags=only-03,client
@test "03.40 The client talks on two connections, in order on each" {
    local name names message wanted=''

    for message in 'This is the message. ' 'It will be sent ' 'in parts.'; do
        wanted+="sending \"$message\""$'\n'"received \"$message\""$'\n'
    done
    wanted+="closing socket"$'\n'
    start_server --faults recv:count
    expected "two connections, and on each three messages, each one after the echo of the one before"
    because "one loop serves both sockets, so each connection must remember which message it has sent and how much of it came back"
    run_client 0 "$port" "$host"
    read_names
    ((${#names[@]} == 2)) || fail_with "lines \"ADDRESS:PORT: sending ...\" for ${#names[@]} connection(s)"
    for name in "${names[@]}"; do
        read_lines_of "$name"
        [[ $REPLY == "$wanted" ]] || fail_with "different lines for $name, or another order"
    done
}

# bats test_tags=only-03,client
@test "03.41 The client reads from whichever connection is ready" {
    # The played server answers on the first connection after a third has come, which the test opens.
    serve @A accept @B accept @A expect hello @B expect hello send hello \
        @go accept @A send hello eof close @B eof close
    expected "the client to send on both connections, and to read the answer on the second one first"
    because "a client that blocks in recv() on one connection cannot see what has arrived on the other"
    start_client "$port" 127.0.0.1 hello
    wait_for_output received
    peer connect
    client_ends 0
    serve_ends
}

# bats test_tags=only-03,client
@test "03.42 The client sleeps while it waits" {
    serve @A accept @B accept @A expect hello @B expect hello @go accept @A send hello \
        @B send hello @A eof close @B eof close
    expected "the client to use less than a fifth of a core while it waits for an answer"
    because "an idle socket is almost always writable. Watch it for writing only while it connects or has something to send"
    start_client "$port" 127.0.0.1 hello
    wait_for_output sending
    client_sleeps
    peer connect
    client_ends 0
    serve_ends
}

# bats test_tags=only-03,client
@test "03.43 The client opens as many connections as it is told to" {
    local names

    start_server --faults recv:count
    expected "exit status 0 with one connection, and with a hundred"
    because "the number after -c says how many connections to open; one array and one loop can serve them all"
    run_client 0 -c 1 "$port" "$host" hello
    read_names
    ((${#names[@]} == 1)) || fail_with "${#names[@]} connection(s), according to the client's lines"
    run_client 0 -c 100 "$port" "$host" hello
    read_names
    ((${#names[@]} == 100)) || fail_with "${#names[@]} connection(s), according to the client's lines"
}

# bats test_tags=only-03,client
@test "03.44 The client says so when it cannot have as many connections" {
    local bad

    start_server --faults recv:count
    expected "exit status 1, and the reason on standard error, for 50 connections under \"ulimit -n 20\""
    because "socket() fails with EMFILE. Print strerror(errno) and exit with status 1"
    run_client 1 --open-files 20 -c 50 "$port" "$host" hello
    client_complains "too many open files"
    expected "exit status 1, and an error that names select, when a descriptor is too large for select()"
    because "FD_SET() with a descriptor of FD_SETSIZE (1024) or more overwrites the memory after the set. Check before you call it"
    serve hold
    run_client 1 --open-files 2000 -c 1024 "$port" 127.0.0.1 hello
    client_complains select
    because "atoi() reads 2x as 2 and abc as 0. Use strtol(), check where it stops, and refuse numbers below 1"
    for bad in 0 -1 2x abc ""; do
        expected "exit status 2 and the usage text for -c \"$bad\""
        run_client 2 -c "$bad" "$port" "$host" hello
        client_complains usage
    done
}

# ---- chat.c ----------------------------------------------------------------------------------

# start_chat [OPTION]...: starts chat.c, with an empty room
start_chat() {
    build_program 03-select/chat
    start_server --program "$REPLY" "$@"
    address=(unused)
}

# join [STEP...]: the next client, c1 first, connects and does these steps. Everyone in the room must
# be told, the new client too. ${address[1]} is the address of c1.
join() {
    local number=${#address[@]}

    tell "@c$number" connect local "$@"
    address+=("${told#* }")
    tell "@c1..$number" expect "New connection from ${address[number]} (clients: $number)\n"
}

# bats test_tags=only-03,companion
@test "chat.1 What one guest says, all the others hear" {
    because "what recv() returns goes into the queue of every connection except the speaker's own"
    start_chat
    expected "each new guest to be announced to everyone in the room, with an address and the number of clients"
    join send 'anybody here?\n'
    wait_for_log 'anybody here?'
    join
    join
    expected "a line to reach the two other guests, with the speaker's address, and not the speaker"
    tell @c1 send 'hello\n' @c2..3 expect "${address[1]}: hello\n"
    tell @c2 send 'good morning\n' @c1 expect "${address[2]}: good morning\n"
    tell @c3 expect "${address[2]}: good morning\n" send 'and to you\n'
    tell @c1..2 expect "${address[3]}: and to you\n"
    expected "a guest that leaves to be announced to the others"
    tell @c2 close @c1 expect "${address[2]} has left (clients: 2)\n"
    tell @c3 expect "${address[2]} has left (clients: 2)\n" shutdown eof close
    tell @c1 expect "${address[3]} has left (clients: 1)\n"
    expected "a guest that is alone in the room not to get back what it says"
    tell @c1 send 'nobody is left\n'
    wait_for_log 'nobody is left'
    tell @c2 connect local
    address[2]=${told#* }
    tell @c1..2 expect "New connection from ${address[2]} (clients: 2)\n"
    expected "a guest that half-closes to get all that was said until then, and then end of file"
    while_stopped tell @c2 send 'wait for me!\n' @c1 shutdown
    tell @c1 expect "${address[2]}: wait for me!\n" eof
}

# bats test_tags=only-03,companion
@test "chat.2 Whole lines are passed on" {
    local long much before i

    printf -v long '%01023d' 7
    printf -v much '%030000d' 7
    because "one recv() may return half a line, or five lines. Keep an unfinished line with its connection until the rest arrives"
    start_chat
    join
    join
    expected "a line that arrives byte by byte to be passed on in one piece"
    tell @c1 pieces 1 send 'in small' @c2 send 'between\n' @c1 expect "${address[2]}: between\n"
    tell send ' pieces\n' pieces 0 @c2 expect "${address[1]}: in small pieces\n"
    expected "each of several lines that arrive together to be passed on with the speaker's address"
    tell @c1 send 'one\ntwo\n\nthr' send 'ee\n' @c2 expect "${address[1]}: one\n${address[1]}: two\n"
    tell expect "${address[1]}: \n${address[1]}: three\n"
    expected "a line from telnet, which ends with a carriage return and a newline, to be passed on without the carriage return"
    tell @c1 send 'from telnet\r\n' @c2 expect "${address[1]}: from telnet\n"
    expected "a line of 1023 bytes to be passed on whole, and a longer one to be cut, with a notice"
    tell @c1 send "$long\r\n" @c2 expect "${address[1]}: $long\n"
    tell @c1 send "$long, and so on\n" @c2 expect "${address[1]}: $long, (cut: too long)\n"
    expected "a line of 3 MB to be cut, the line after it to be whole, and the memory to grow by less than 1 MiB"
    memory
    before=$REPLY
    for i in {1..100}; do
        tell @c1 send "$much"
    done
    tell @c1 send '\nshort again\n' @c2 expect "${address[1]}: ${much:0:1024} (cut: too long)\n"
    tell expect "${address[1]}: short again\n"
    memory
    ((REPLY - before < 1024)) || fail_with "the server uses $((REPLY - before)) KiB more than before"
    expected "a last line without a newline to be passed on when its speaker has left"
    tell @c1 send 'last words' shutdown eof close
    tell @c2 expect "${address[1]}: last words\n${address[1]} has left (clients: 1)\n"
}

# bats test_tags=only-03,companion
@test "chat.3 What a guest said before a reset is still passed on" {
    local i said='' heard=''

    start_chat
    join
    join
    for i in {1..20}; do
        printf -v said '%s%0900d\\n' "$said" "$i"
        printf -v heard '%s%s: %0900d\\n' "$heard" "${address[1]}" "$i"
    done
    expected "20 lines and an unfinished one to be passed on from a guest that then reset the connection"
    because "recv() returns what came before the reset, and only then the error. So do not close a connection when send() fails"
    while_stopped tell @c1 send "$said" send 'last words' reset @c2 send 'anybody here?\n'
    tell expect "$heard" expect "${address[1]}: last words\n${address[1]} has left (clients: 1)\n"
}

# bats test_tags=only-03,companion
@test "chat.4 No control byte reaches a terminal" {
    local code sent='' shown=''

    because "terminals obey control characters. Pass on what is printable, and escape the rest"
    start_chat
    join
    join
    expected "a carriage return inside a line to be escaped, because it moves the cursor back to the start of the line"
    tell @c1 send 'hello\r127.0.0.1:1: that was not me\n'
    tell @c2 expect "${address[1]}: hello\\\\x0d127.0.0.1:1: that was not me\n"
    expected "ESC to be escaped, and also CSI (ESC [ in one character: c2 9b in UTF-8, 9b in Latin-1)"
    tell @c1 send '\x1b[2J \xc2\x9b2J \x9b2J\n'
    tell @c2 expect "${address[1]}: \\\\x1b[2J \\\\xc2\\\\x9b2J \\\\x9b2J\n"
    expected "characters that are invisible or reverse the direction of writing to be escaped, too"
    tell @c1 send '\xe2\x80\xae127.0.0.1 \xe2\x80\x8b \xe2\x81\xa6 \xef\xbb\xbf\n'
    tell @c2 expect "${address[1]}: \\\\xe2\\\\x80\\\\xae127.0.0.1 \\\\xe2\\\\x80\\\\x8b \\\\xe2\\\\x81\\\\xa6 \\\\xef\\\\xbb\\\\xbf\n"
    expected "letters of all languages to be passed on unchanged, in UTF-8"
    tell @c1 send '\xe5\x8c\x97\xe4\xba\xac \xc3\xa9\n'
    tell @c2 expect "${address[1]}: \xe5\x8c\x97\xe4\xba\xac \xc3\xa9\n"
    expected "of all 256 byte values, space to ~ to be passed on unchanged, and the others escaped"
    for code in {11..255}; do
        printf -v code '\\x%02x' "$code"
        sent+=$code
        [[ $code > '\x1f' && $code < '\x7f' ]] || code="\\$code"
        shown+=$code
    done
    tell @c1 send "\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\n$sent\n"
    tell @c2 expect "${address[1]}: "'\\x00\\x01\\x02\\x03\\x04\\x05\\x06\\x07\\x08\\x09\n'
    tell expect "${address[1]}: $shown\n"
    expected "the log to contain no control byte either"
    read_all "$server_log"
    [[ ${REPLY//$'\n'/} != *[[:cntrl:]]* ]] || fail_with "a control byte in the log"
}

# bats test_tags=only-03,companion
@test "chat.5 A guest that does not read is disconnected, and delays no other" {
    local round ends lines before open

    because "send() must not block, and each guest needs a queue of its own. Disconnect a guest whose queue is full"
    start_chat -q 0
    join
    join
    tell @c3 rcvbuf 4K
    join
    # 1,500 empty lines arrive in one recv(). With an address before each, they are 27 KB.
    printf -v ends '%01500d' 0
    lines=${ends//0/"${address[1]}: \n"}
    ends=${ends//0/'\n'}
    expected "every line to reach a guest that reads, in order, while another guest does not read at all"
    memory
    before=$REPLY
    socket_count
    open=$REPLY
    for round in {1..300}; do
        tell @c1 send "$round\n$ends" @c2 expect "${address[1]}: $round\n$lines"
        socket_count
        if ((REPLY < open)); then
            break
        fi
    done
    expected "the guest that does not read to be disconnected before 8 MB wait for it, and the others to be told"
    tell @c1..2 expect "${address[3]} has left (clients: 2)\n" @c1 send 'on we go\n'
    tell @c2 expect "${address[1]}: on we go\n"
    expected "the server's memory to grow by less than 1 MiB meanwhile"
    memory
    ((REPLY - before < 1024)) || fail_with "it grew by $((REPLY - before)) KiB"

    stop_server
    tell_no_more
    expected "ten guests whose queues fill up at the same line to be disconnected, and the log to name each one and the reason"
    because "code that loops over all connections must not close others on the way. Mark them, and close them after the loop"
    start_chat --faults send:EAGAIN
    tell @c1..11 connect
    wait_for_log "(clients: 11)"
    printf -v lines '%01000d\\n' {11..30}
    tell @c1 send "$lines" send "$lines" send "$lines" send "$lines"
    wait_for_log " after its queue was full: it does not read" 10
    wait_for_log "has left (clients: 1)"
    faults_reached send
}

# bats test_tags=only-03,companion
@test "chat.6 Two hundred guests talk" {
    local i count=200 heard='' steps=()

    because "a new guest is announced to itself and to everyone in the room, and all queues get the same lines in the same order"
    start_chat
    tell @c1..200 connect
    wait_for_log "(clients: $count)"
    mapfile -t -s 1 address <"$server_log"
    expected "each guest to be told of its own arrival, and of every later one"
    for ((i = count; i >= 1; i--)); do
        heard="${address[i - 1]}\n$heard"
        steps+=("@c$i" expect "$heard")
    done
    tell "${steps[@]}"
    for ((i = count; i >= 1; i--)); do
        address[i]=${address[i - 1]#New connection from }
        address[i]=${address[i]% (*}
    done
    expected "a line to reach the 199 other guests, with no other line in between"
    tell @c200 send 'hello\n' @c1..199 expect "${address[200]}: hello\n"
    tell @c1 send 'hello to you\n' @c2..200 expect "${address[1]}: hello to you\n"
    expected "a hundred guests to leave at the same time, and the room to go on with the others"
    because "code that loops over all connections must not close others on the way. Mark them, and close them after the loop"
    while_stopped tell @c101..150 close @c151..200 reset
    wait_for_log "has left (clients: 100)"
    tell @c1 send 'who is left?\n'
    wait_for_log "${address[1]}: who is left?"
}

# bats test_tags=only-03,companion
@test "chat.7 The room closes in good order" {
    local signal much began

    printf -v much '%030000d' 7
    for signal in INT TERM; do
        because "the signal handler only sets a flag. The loop checks the flag, ends, and then everyone in the room is told"
        start_chat
        join
        join
        expected "everyone to get \"Shutdown Server\" and end of file after SIG$signal, even a guest in the middle of a line"
        signal_server STOP
        tell @c1 send "$much" send "$much" send "$much"
        signal_server "$signal"
        signal_server CONT
        because "close() with unread bytes resets the connection. Call shutdown(SHUT_WR), read until end of file, then close()"
        tell mark @c1..2 expect 'Shutdown Server\n' eof at-most 800
        tell @c1..2 close
        expected "the server to log \"Shutdown Server ......\", and to exit with status 0"
        server_ends 0
        log_has "Shutdown Server ......" || fail_with "no such line in the log"
        tell_no_more
    done
    expected "a guest that neither reads nor leaves to delay the server's exit by no more than a second"
    because "when the server ends, its wait for slow guests needs a deadline"
    start_chat
    join
    now
    began=$REPLY
    signal_server INT
    server_ends 0
    now
    took_at_most 3000 $((REPLY - began))
}

# took_at_most MS MICROSECONDS
took_at_most() {
    stretch "$1"000
    (($2 <= REPLY)) || fail_with "it took $(($2 / 1000)) ms"
}

# bats test_tags=only-03,companion
@test "chat.8 A signal closes the room whenever it comes" {
    local signal turn i steps

    because "a signal between the check of the flag and select() is missed. Block the signals, and let pselect() unblock them while it waits"
    expected "a signal that comes just before the wait to end that wait, in any turn of the loop"
    for signal in INT TERM; do
        for turn in 1 2 3 4 5; do
            start_chat --faults "select:sig=$signal:$turn"
            # A client that joins takes two turns of the loop: one to accept it, one to tell it so. In
            # a right server nothing happens after the signal, therefore, that would wake it up.
            steps=()
            for ((i = 1; i <= turn / 2; i++)); do
                steps+=("@c$i" connect expect-line)
            done
            ((turn == 1)) || peer "${steps[@]}" "@c1..$((turn / 2))" gone
            server_ends 0
            log_has "Shutdown Server ......" || fail_with "no line \"Shutdown Server ......\" in the log"
        done
    done
    expected "a signal during start-up, or right after it, to end the server with status 0"
    build_program 03-select/chat
    launch_server --program "$REPLY" --faults fcntl:sig=TERM:1 0
    server_ends 0
    for i in {1..10}; do
        start_chat
        signal_server TERM
        server_ends 0
    done
    expected "a signal to end the server even when a client is ready in every turn of the loop"
    because "pselect() delivers no signal when it does not have to wait. Unblock the signals once per turn as well"
    start_chat --faults select:ready
    signal_server INT
    server_ends 0
}

# bats test_tags=only-03,companion
@test "chat.9 The room goes on when descriptors run out" {
    local room

    because "while accept() has no free descriptor, the listener stays ready. Stop watching it until a guest leaves or a second has passed"
    start_chat --open-files 16
    fd_count
    room=$((16 - REPLY))
    expected "$room guests to get in, and the server to sleep while others wait"
    tell "@c1..$((room + 2))" connect
    wait_for_log "(clients: $room)"
    wait_for_log "out of descriptors: accept"
    server_sleeps
    tell @c2 send 'hello\n'
    wait_for_log ": hello"
    expected "the next guest to get in as soon as one has left"
    tell @c1 close
    wait_for_log "(clients: $room)" 2
    tell_no_more
    wait_for_log "has left (clients: 0)"

    stop_server
    because "FD_SET() with a descriptor of FD_SETSIZE (1024) or more overwrites the memory after the set"
    expected "guests whose descriptors select() cannot watch to be refused, and the others to be served"
    # A program that holds all descriptors up to 1019 starts it, in place of a thousand clients.
    build_program 03-select/chat
    hold_descriptors 1019 "$REPLY"
    start_server --open-files 1100 --program "$REPLY"
    tell @c1..20 connect
    wait_for_log "refusing "
    wait_for_log "select cannot watch descriptor 1024"
    tell @c1 send 'hello\n'
    wait_for_log ": hello"
}

# bats test_tags=only-03,companion
@test "chat.10 The room goes on through short, interrupted and failed calls" {
    local faults

    start_chat
    for faults in \
        recv:cap=3,send:cap=5 \
        select:EINTR:2%3 \
        recv:EAGAIN:2%3,send:EAGAIN:2%3 \
        recv:EINTR:2%3,send:EINTR:2%3 \
        select:ready:2%2 \
        accept:ECONNABORTED:1 \
        accept:ENOBUFS:1; do
        expected "three guests to talk as usual with FAULTS=$faults"
        because "a call may be cut short, be interrupted, or have nothing to return. Try again in the next turn"
        stop_server
        start_chat --faults "$faults"
        join
        join
        join
        tell @c1 send 'good morning to you all\nhow are you?\n'
        tell @c2..3 expect "${address[1]}: good morning to you all\n${address[1]}: how are you?\n"
        tell @c2 send 'well, ' shutdown eof close
        tell @c1 expect "${address[2]}: well, \n${address[2]} has left (clients: 2)\n" close
        tell_no_more
        faults_reached "${faults%%:*}"
        wait_for_log "has left (clients: 0)"
    done
    expected "a guest to whom send() fails to be dropped, and the others to go on"
    because "without MSG_NOSIGNAL, send() also raises SIGPIPE when it fails with EPIPE, and the signal kills the server"
    stop_server
    start_chat --faults send:EPIPE:2
    join
    tell @c2 connect
    wait_for_log "has left (clients: 1)"
    faults_reached send
}

# bats test_tags=only-03,companion
@test "chat.11 chat.c and two-ports.c, too, end on an error that will not pass" {
    local program command_line

    for program in chat two-ports; do
        build_program 03-select/$program
        command_line=$REPLY
        ends_for_an_error $program "$command_line" accept:EINVAL:1+
        ends_for_an_error $program "$command_line" select:EINVAL:2+
        refuses_high_listener $program "$command_line"
    done
}

# ---- two-ports.c -----------------------------------------------------------------------------

# start_two_ports [OPTION]... [PORT]...: starts two-ports.c; ports[1] and so on are its ports
start_two_ports() {
    build_program 03-select/two-ports
    start_server --program "$REPLY" "$@"
    wait_for_log "listening sockets: "
    socket_count
    # shellcheck disable=SC2034 # the helper reads it
    sockets_at_start=$REPLY # it opens more listeners after its first line
    mapfile -t ports <"$server_log"
    ports=(nothing "${ports[@]#starting up on 127.0.0.1 port }")
}

# bats test_tags=only-03,companion
@test "two-ports.1 A server may listen on several ports" {
    because "a listening socket is a descriptor like any other. Put all of them into one set, and call select() once for all"
    start_two_ports -q 0 0 0
    expected "three ports, each in a line of its own, and then the number of listening sockets"
    log_has "port ${ports[3]}"$'\n'"listening sockets: 3"$'\n' || fail_with "different lines"
    expected "a client that connects to the second port to be answered"
    port=${ports[2]}
    peer connect send 'anybody here?' expect 'hello\n' send 'so it is' expect 'hello\n' shutdown eof
    expected "clients on all three ports to be answered, whichever connected first"
    tell @c2 connect
    port=${ports[3]}
    peer @c3 connect send 'x' expect 'hello\n' shutdown eof
    port=${ports[1]}
    peer @c1 connect send 'x' expect 'hello\n' shutdown eof
    tell send 'at last' shutdown expect 'hello\n' eof
}

# bats test_tags=only-03,companion
@test "two-ports.2 A client gets its hello only when select() reports it as writable" {
    because "a client that has sent something moves from the read set to the write set, and is answered only when that set reports it"
    start_two_ports --faults select:ready-read -q 0 0
    expected "no hello, and no more to be read, while select() reports no client as writable"
    peer connect send 'anybody here?' fill 64M silence 100
    stop_server
    expected "one whole hello, even when it is sent in small pieces or calls fail with EAGAIN or EINTR at first"
    local faults
    for faults in send:cap=1 send:EAGAIN:1-3 select:EINTR:2%3 recv:EAGAIN:1-2,accept:EAGAIN:1 send:EINTR:1 select:ready:3%2; do
        start_two_ports --faults "$faults" 0 0
        peer connect send 'x' expect 'hello\n' send '"\x1b' expect 'hello\n' silence 20 shutdown eof
        faults_reached "${faults%%:*}"
        stop_server
    done
    expected "a client to which send() fails to be closed, and the next client to be answered"
    start_two_ports --faults send:EPIPE:1 -q 0 0
    peer @c1 connect send 'x' gone @c2 connect send 'x' expect 'hello\n' shutdown eof
}

# bats test_tags=only-03,companion
@test "two-ports.3 It wakes each second, with nothing to do, and sleeps in between" {
    local began
    local none_ready=$'ready to be read: none\nready to be answered: none\n'

    because "select() may store the time that was left in the timeval. Set it again before each call"
    start_two_ports 0 0
    wait_for_log "$none_ready"
    now
    began=$REPLY
    expected "the next turn of the loop, again with no client ready, to come a second later"
    wait_for_log "$none_ready" 2
    now
    REPLY=$((REPLY - began))
    ((REPLY > 500000)) || fail_with "it came after only $((REPLY / 1000)) ms"
    took_at_most 3000 "$REPLY"
    server_sleeps
    expected "the log to name the ready clients in every turn of the loop"
    because "log the sets that select() has returned before you act on them"
    port=${ports[2]}
    peer connect send 'anybody here?' expect 'hello\n' shutdown eof
    wait_for_log "ready to be read: port $port"$'\n'"ready to be answered: none"$'\n'"new connection from 127.0.0.1:"
    wait_for_log " on port $port"$'\n'
    wait_for_log "ready to be read: none"$'\n'"ready to be answered: 127.0.0.1:"
    wait_for_log $'\n''sending "hello\n" to 127.0.0.1:'
}

# bats test_tags=only-03,companion
@test "two-ports.4 It goes on when descriptors run out" {
    because "while accept() has no free descriptor, every listener stays ready. Stop watching all of them for a while"
    expected "the server to serve its clients and to sleep while others wait for a free descriptor, and to log the shortage once"
    start_two_ports --open-files 12 -q 0 0
    tell @c1..12 connect
    wait_for_log "out of descriptors: accept"
    server_sleeps 300
    tell @c2 send 'x' expect 'hello\n'
    log_has "out of descriptors: accept" 3 && fail_with "the log repeats the line \"out of descriptors: accept\""
    expected "the last client to be accepted when the first ones have left"
    tell @c1..6 close @c12 send 'x' expect 'hello\n'
}
