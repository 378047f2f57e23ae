#!/usr/bin/env bats
#
# The steps of stage 03: it sleeps until a socket is ready, and then serves whoever is. Each is
# judged on the wire and by what the process does; the wording of the log is judged in one step
# alone. That a server sleeps when it has nothing to do is looked at in every state in which
# something is ready that it cannot or will not use.
#
# Tags: only-03 holds in no later stage.

# shellcheck disable=SC2154 # the helper sets $port, $host, $server_log ...
load lib/helper

# ---- For lib/helper.bash ---------------------------------------------------------------------

# To cut off the front of a long log takes seconds: only when the next one is looked for.
log_has() {
    local count=${2:-1} rest

    read_all "$server_log"
    rest=$REPLY
    while [[ $rest == *"$1"* ]]; do
        ((--count > 0)) || return 0
        rest=${rest#*"$1"}
    done
    return 1
}

# ---- Who is ready is served ------------------------------------------------------------------

@test "03.1 Whoever is ready is served, in any order" {
    because "select() leaves only the ready ones in its sets: make them anew before each call"
    start_server
    expected "five clients to be served three times, in changing order"
    tell @c1..5 connect @c1..5 exchange 10 @c5 exchange 10 @c3 exchange 10 @c1 exchange 10 \
        @c2 exchange 10 @c4 exchange 10 @c4 exchange 10 @c1 exchange 10 @c5 exchange 10 \
        @c2 exchange 10 @c3 exchange 10
    expected "the same when all of them speak in the moment in which five more connect"
    signal_server STOP
    tell @c1..5 send-bytes 20 @d1..5 connect @d1..5 send-bytes 20
    signal_server CONT
    tell @c1..5 drain @d1..5 drain
}

@test "03.2 The newest client is served as soon as it speaks" {
    because "select()'s first argument is the highest descriptor plus one: a count of bits, no descriptor"
    start_server
    expected "each client to be served before the next one connects, and again after it has"
    peer @a connect exchange 10 @b connect exchange 10 @a exchange 10 @c connect exchange 10 \
        @b exchange 10 @c exchange 10
}

@test "03.3 Clients may leave in any order" {
    because "a closed descriptor must not stay in a set (EBADF), and the highest is to be found anew"
    start_server
    expected "those who stay to be served, whoever has left, the newest or the oldest"
    tell @c1..6 connect @c1..6 exchange 10
    tell @c6 close @c5 exchange 10 @c1 close @c2 exchange 10 @c3 reset @c4 exchange 10
    tell @d1..3 connect @d1..3 exchange 10 @c2 exchange 10 @c4 close @c5 close @d3 close
    tell @c2 exchange 10 @d1 exchange 10 @c2 close @d1 close @d2 exchange 10
    tell @d2 close @e connect exchange 10
}

# ---- It sleeps -------------------------------------------------------------------------------

@test "03.4 It sleeps while its clients say nothing" {
    local before

    start_server
    expected "less than a fifth of a core, and no more than 20 wake-ups, beside 20 silent clients"
    because "a socket is nearly always writable: wait for that only when there is something to write"
    tell @c1..20 connect @c1..20 exchange 10
    wakeups
    before=$REPLY
    server_sleeps 200
    wakeups
    ((REPLY - before <= 20)) || fail_with "$((REPLY - before)) wake-ups while nobody said anything"
    tell @c1..20 exchange 10
}

@test "03.5 It sleeps while a slow reader does not read" {
    start_server
    expected "less than a fifth of a core while a client's bytes wait, and its echo does too"
    because "its socket is readable all the time: do not wait for that while its queue holds anything"
    tell @slow rcvbuf 4K connect fill 64M
    server_sleeps
    expected "all of the echo when it reads at last"
    because "while a queue holds anything, wait until its socket is writable"
    tell @slow drain exchange 10
}

has_received() {
    fault_calls recv
    ((REPLY > $1))
}

# reads_on: sends 128 KiB; does the server receive them? A rule that never strikes makes faults.so
# count its calls.
counting="recv:EINTR:1000000000"
reads_on() {
    local calls

    fault_calls recv
    calls=$REPLY
    tell @slow send-bytes 128K
    for _ in 1 2 3 4 5; do
        if has_received "$calls"; then
            return 0
        fi
        nap
    done
    return 1
}

# be_slow_reader: sends until the server, which owes it something, leaves the last bytes unread. The
# step "fill" goes on for longer, until not even an end of file gets through to the server.
be_slow_reader() {
    local times=0

    tell @slow rcvbuf 4K connect exchange 10 send-bytes 1M
    has_received 0 || skip "faults.so saw no recv of this server (a static program, another run-time)"
    while reads_on; do
        times=$((times + 1))
        ((times < 200)) || fail_with "it still reads, after 24 MiB of which its client has read nothing"
    done
}

@test "03.6 It sleeps while a slow reader has half-closed" {
    start_server --faults "$counting"
    expected "less than a fifth of a core while a client has sent its end of file and reads nothing"
    because "end of file, too, keeps a socket readable: do not wait for that while its queue holds anything"
    be_slow_reader
    tell @slow shutdown
    server_sleeps
    tell @other connect exchange 10
    expected "all of the echo when it reads at last, then end of file"
    because "end of file ends one direction: what is owed must still go out"
    tell @slow drain eof
}

@test "03.7 It sleeps after a slow reader has reset" {
    start_server
    expected "its socket to be closed, and the server to sleep"
    because "select() reports a broken connection as readable and writable: the next call on it tells why"
    tell @other connect @slow rcvbuf 4K connect fill 64M reset
    server_sleeps
    tell @other exchange 10 close
    wait_until "its socket to be closed" sockets_are_closed
}

@test "03.8 It sleeps when out of descriptors" {
    start_server --open-files 64
    expected "less than a fifth of a core while clients wait for a descriptor"
    because "a client that cannot be accepted leaves the listener readable: do not wait for that a while"
    tell @c1..20 connect @c1..20 exchange 10 @c21..100 connect
    server_sleeps
    tell @c1..20 exchange 10
    server_sleeps
    expected "those who wait to be served when others leave"
    because "when a descriptor is free again, wait for the listener again"
    tell @c1..60 close
    tell @c61..100 exchange 10
}

@test "03.9 It sleeps when there is no memory for one more client" {
    local error

    because "ENFILE, ENOBUFS and ENOMEM from accept() are like EMFILE: it is not the client's fault, and it stays"
    for error in ENFILE ENOBUFS ENOMEM; do
        start_server --faults "accept:$error:2+"
        expected "a server that sleeps and serves the client that it has, while accept() fails with $error"
        tell @first connect exchange 10 @second connect
        server_sleeps 50
        faults_reached accept
        tell @first exchange 10
        tell_no_more
        stop_server
    done
}

# ---- What select() does not promise ----------------------------------------------------------

@test "03.10 Readiness that turns out false holds up no one" {
    local call hits=0

    # From the second call on, and for a while: the first one waits for a client.
    start_server --faults select:ready-read:2-40,poll:ready-read:2-40,epoll_wait:ready-read:2-40
    expected "a client to be served though sockets were reported as readable that were not"
    because "select(2), BUGS: ready is a hint. The call may have to wait after all: O_NONBLOCK, on the listener too"
    tell @silent connect
    tell @other connect exchange 10
    tell @silent exchange 10 @third connect exchange 10
    for call in select poll epoll_wait; do
        fault_hits "$call"
        hits=$((hits + REPLY))
    done
    ((hits > 0)) || skip "faults.so saw no select, poll or epoll_wait of this server"
}

@test "03.11 An urgent byte is read beside the stream" {
    start_server --faults "$counting"
    expected "the stream without a gap, and a server that sleeps and serves all, after an urgent byte"
    because "the third set reports it until recv() with MSG_OOB has read it; it is no error and no end"
    tell @talker connect exchange 10 urgent '!' @other connect exchange 10
    server_sleeps
    tell @talker exchange 10 urgent '?' urgent '!' exchange 10 @other exchange 10
    expected "the same when it comes together with data, and with end of file"
    signal_server STOP
    tell @talker send-bytes 10 urgent '!' send-bytes 10 @last connect send-bytes 10 urgent '!' shutdown
    signal_server CONT
    tell @talker drain @last drain eof @other exchange 10
    server_sleeps
    tell @talker exchange 10
    expected "the same from a client that does not read its echo, and so is not read from"
    be_slow_reader
    tell @slow urgent '!'
    server_sleeps
    tell @other exchange 10 @slow drain exchange 10
}

fd_count_is_at_most() {
    fd_count
    ((REPLY <= $1))
}

# bats test_tags=only-03
@test "03.12 A client past FD_SETSIZE is refused, and nobody else notices" {
    local most

    start_server --open-files 2000
    expected "1100 clients to connect, and the 1st, the 500th and the 990th to be served"
    because "FD_SET() with a descriptor of FD_SETSIZE (1024) or more writes beyond the set's end"
    tell @c1..1100 connect
    tell @c1 exchange 10 @c500 exchange 10 @c990 exchange 10
    expected "the 1050th and all after it to be closed at once"
    because "beyond the set's end lies other memory, and who is not watched would wait for ever: close it"
    tell @c1050..1100 gone
    expected "new clients to be served when others have left"
    because "the descriptor is what counts, not how many clients ever came"
    fd_count
    most=$((REPLY - 100))
    tell @c1..100 close
    wait_until "100 descriptors to be closed" fd_count_is_at_most "$most"
    tell @d1..50 connect @d1..50 exchange 10
    tell @c990 exchange 10
    server_sleeps
}

# ---- The log ---------------------------------------------------------------------------------

@test "03.13 The log tells when it waits, of urgent bytes, and whom it refuses" {
    local client

    start_server --open-files 2000
    expected "the lines of the README, in its words"
    because "a line before each wait shows how often it wakes; what has no line seems not to happen"
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
            fail_with "a line that does not begin with \"refusing 127.0.0.1:...\""
    fi
}

# ---- The client ------------------------------------------------------------------------------

client_has_said() {
    read_all "$client_out"
    [[ $REPLY == *"$1"* ]]
}

# Sets $names to the client's connections, by the addresses that its lines begin with.
read_names() {
    local line

    names=()
    while IFS= read -r line; do
        if [[ $line =~ ^([^ ]+):\ sending && " ${names[*]} " != *" ${BASH_REMATCH[1]} "* ]]; then
            names+=("${BASH_REMATCH[1]}")
        fi
    done <"$client_out"
}

# Sets REPLY to what the client says of one connection.
read_lines_of() {
    local line

    REPLY=
    while IFS= read -r line; do
        if [[ $line == "$1: "* ]]; then
            REPLY+=${line#"$1: "}$'\n'
        fi
    done <"$client_out"
}

# bats test_tags=only-03
@test "03.14 The client talks on two connections, on each in the walkthrough's order" {
    local name names message wanted=''

    for message in 'This is the message. ' 'It will be sent ' 'in parts.'; do
        wanted+="sending \"$message\""$'\n'"received \"$message\""$'\n'
    done
    wanted+="closing socket"$'\n'
    start_server --faults "$counting"
    expected "two connections, and on each three messages, one when the echo of the other has come"
    because "two sockets and one loop: each connection has its own place in the talk"
    run_client 0 "$port" "$host"
    read_names
    ((${#names[@]} == 2)) || fail_with "${#names[@]} connections with lines \"ADDRESS:PORT: sending ...\""
    for name in "${names[@]}"; do
        read_lines_of "$name"
        [[ $REPLY == "$wanted" ]] || fail_with "other lines for $name, or another order"
    done
}

# bats test_tags=only-03
@test "03.15 The client reads from whichever connection is ready" {
    # It answers on the first connection when a third has come: ours.
    serve @a accept @b accept @a expect hello @b expect hello send hello \
        @go accept @a send hello eof close @b eof close
    expected "both messages before the first answer, and that read on the second connection"
    because "who waits in recv() on one connection does not see what has come on the other"
    start_client "$port" 127.0.0.1 hello
    wait_until "the client to read the answer on its second connection" client_has_said received
    peer connect
    client_ends 0
    serve_ends
}

# bats test_tags=only-03
@test "03.16 The client sleeps while it waits" {
    local before start ran waited

    serve @a accept @b accept @a expect hello @b expect hello @go accept @a send hello \
        @b send hello @a eof close @b eof close
    expected "less than a fifth of a core while the server thinks"
    because "wait for writability only with something to send, or for connecting to be done"
    start_client "$port" 127.0.0.1 hello
    wait_until "the client to send its message" client_has_said sending
    nap
    read -r ran waited _ <"/proc/$client_pid/schedstat"
    before=$((ran + waited))
    now
    start=$REPLY
    for _ in {1..10}; do
        nap
    done
    read -r ran waited _ <"/proc/$client_pid/schedstat"
    now
    REPLY=$(((ran + waited - before) / (10 * (REPLY - start)))) # nanoseconds in microseconds, in percent
    ((REPLY < 20)) || fail_with "$REPLY % of a core"
    peer connect
    client_ends 0
    serve_ends
}

# bats test_tags=only-03
@test "03.17 The client opens as many connections as it is told to" {
    local names

    start_server --faults "$counting"
    expected "exit status 0 with one connection, and with a hundred"
    because "an array of connections, and one loop over all of them"
    run_client 0 -c 1 "$port" "$host" hello
    read_names
    ((${#names[@]} == 1)) || fail_with "${#names[@]} connections"
    run_client 0 -c 100 "$port" "$host" hello
    read_names
    ((${#names[@]} == 100)) || fail_with "${#names[@]} connections"
}

# bats test_tags=only-03
@test "03.18 The client says so when it cannot have as many connections" {
    local bad

    start_server --faults "$counting"
    expected "exit status 1, and the reason on standard error, for 50 connections under \"ulimit -n 20\""
    because "socket() fails with EMFILE"
    run_client 1 --open-files 20 -c 50 "$port" "$host" hello
    client_complains "oo many open files"
    expected "exit status 1, and the reason on standard error, for a descriptor past FD_SETSIZE"
    because "FD_SET() with a descriptor of FD_SETSIZE (1024) or more writes beyond the set's end"
    serve hold
    run_client 1 --open-files 2000 -c 1024 "$port" 127.0.0.1 hello
    client_complains "?"
    because "atoi() takes 2x for 2, and abc for 0"
    for bad in 0 -1 2x abc ""; do
        expected "exit status 2, and the usage, for -c \"$bad\""
        run_client 2 -c "$bad" "$port" "$host" hello
        client_complains sage
    done
}
