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

# ---- Who is ready is served ------------------------------------------------------------------

@test "03.1 Whoever is ready is served, in any order" {
    because "select() leaves only the ready ones in its sets: make them anew; its first argument is the highest descriptor plus one"
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

# bats test_tags=not-edge
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
    ((hits > 0)) || skip "faults.so sees no select, poll or epoll_wait of this server (and to an edge-triggered one it does not lie)"
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

# bats test_tags=only-03,client
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

# bats test_tags=only-03,client
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

# bats test_tags=only-03,client
@test "03.16 The client sleeps while it waits" {
    serve @a accept @b accept @a expect hello @b expect hello @go accept @a send hello \
        @b send hello @a eof close @b eof close
    expected "less than a fifth of a core while the server thinks"
    because "wait for writability only with something to send, or for connecting to be done"
    start_client "$port" 127.0.0.1 hello
    wait_until "the client to send its message" client_has_said sending
    client_sleeps
    peer connect
    client_ends 0
    serve_ends
}

# bats test_tags=only-03,client
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

# bats test_tags=only-03,client
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

# ---- chat.c ----------------------------------------------------------------------------------

# start_chat [OPTION]...: with nobody in the room yet
start_chat() {
    build_program 03-select/chat
    start_server --program "$REPLY" "$@"
    address=(nobody)
}

# join [STEP...]: the next client, c1 first, connects and does these steps. All who are there hear of
# it, and so does the newcomer. ${address[1]} is where c1 comes from.
join() {
    local number=${#address[@]}

    tell "@c$number" connect local "$@"
    address+=("${told#* }")
    tell "@c1..$number" expect "New connection from ${address[number]} (clients: $number)\n"
}

# bats test_tags=only-03,companion
@test "03.19 What one says in the chat room, all the others hear" {
    because "what recv() brings goes into the queue of every other connection, never of the speaker's own"
    start_chat
    expected "each who joins to be announced to all, with its address and how many they are"
    join send 'anybody here?\n'
    wait_for_log 'anybody here?'
    join
    join
    expected "a line to reach the two others, under the speaker's address, and not the speaker"
    tell @c1 send 'hello\n' @c2..3 expect "${address[1]}: hello\n"
    tell @c2 send 'good morning\n' @c1 expect "${address[2]}: good morning\n"
    tell @c3 expect "${address[2]}: good morning\n" send 'and to you\n'
    tell @c1..2 expect "${address[3]}: and to you\n"
    expected "one who leaves to be announced to the others"
    tell @c2 close @c1 expect "${address[2]} has left (clients: 2)\n"
    tell @c3 expect "${address[2]} has left (clients: 2)\n" shutdown eof close
    tell @c1 expect "${address[3]} has left (clients: 1)\n"
    expected "one who is alone to hear nothing of what it says"
    tell @c1 send 'nobody is left\n'
    wait_for_log 'nobody is left'
    tell @c2 connect local
    address[2]=${told#* }
    tell @c1..2 expect "New connection from ${address[2]} (clients: 2)\n"
    expected "one who has no more to say to hear what was said until then, and then end of file"
    signal_server STOP
    tell @c2 send 'wait for me!\n' @c1 shutdown
    signal_server CONT
    tell @c1 expect "${address[2]}: wait for me!\n" eof
}

# bats test_tags=only-03,companion
@test "03.20 The chat room passes on whole lines" {
    local long much before i

    printf -v long '%01023d' 7
    printf -v much '%030000d' 7
    because "a recv() may bring half a line, or five: what has no end yet stays with its connection"
    start_chat
    join
    join
    expected "a line that comes byte by byte to be passed on in one piece"
    tell @c1 pieces 1 send 'in small' @c2 send 'between\n' @c1 expect "${address[2]}: between\n"
    tell send ' pieces\n' pieces 0 @c2 expect "${address[1]}: in small pieces\n"
    expected "each of several lines that come at once to bear the speaker's address"
    tell @c1 send 'one\ntwo\n\nthr' send 'ee\n' @c2 expect "${address[1]}: one\n${address[1]}: two\n"
    tell expect "${address[1]}: \n${address[1]}: three\n"
    expected "lines that end as those of telnet do, with a carriage return, to be the same"
    tell @c1 send 'from telnet\r\n' @c2 expect "${address[1]}: from telnet\n"
    expected "a line of 1023 bytes to be whole, and a longer one to be cut, with a notice"
    tell @c1 send "$long\r\n" @c2 expect "${address[1]}: $long\n"
    tell @c1 send "$long, and so on\n" @c2 expect "${address[1]}: $long, (cut: too long)\n"
    expected "a line of 3 MB to be cut, and the one after it to be whole, and none of it to be kept"
    memory RssAnon
    before=$REPLY
    for i in {1..100}; do
        tell @c1 send "$much"
    done
    tell @c1 send '\nshort again\n' @c2 expect "${address[1]}: ${much:0:1024} (cut: too long)\n"
    tell expect "${address[1]}: short again\n"
    memory RssAnon
    ((REPLY - before < 1024)) || fail_with "the server has $((REPLY - before)) KiB more than before"
    expected "a last line without an end to be passed on when its speaker has left"
    tell @c1 send 'last words' shutdown eof close
    tell @c2 expect "${address[1]}: last words\n${address[1]} has left (clients: 1)\n"
}

# bats test_tags=only-03,companion
@test "03.21 What a client said before its reset is still passed on" {
    local i said='' heard=''

    start_chat
    join
    join
    for i in {1..20}; do
        printf -v said '%s%0900d\\n' "$said" "$i"
        printf -v heard '%s%s: %0900d\\n' "$heard" "${address[1]}" "$i"
    done
    expected "20 lines, and one without an end, of a client that was then reset"
    because "recv() brings what came before a reset, and then the error; so a failed send() is no reason to close"
    signal_server STOP
    tell @c1 send "$said" send 'last words' reset @c2 send 'anybody here?\n'
    signal_server CONT
    tell expect "$heard" expect "${address[1]}: last words\n${address[1]} has left (clients: 1)\n"
}

# bats test_tags=only-03,companion
@test "03.22 No control byte from the chat room reaches a terminal" {
    local code sent='' shown=''

    because "terminals obey control characters: pass on what is printable, and escape the rest"
    start_chat
    join
    join
    expected "a carriage return inside a line, which goes back to its start, to be escaped"
    tell @c1 send 'hello\r127.0.0.1:1: that was not me\n'
    tell @c2 expect "${address[1]}: hello\\\\x0d127.0.0.1:1: that was not me\n"
    expected "what begins with ESC, or with its like in UTF-8 and Latin-1 (c2 9b and 9b), to be escaped"
    tell @c1 send '\x1b[2J \xc2\x9b2J \x9b2J\n'
    tell @c2 expect "${address[1]}: \\\\x1b[2J \\\\xc2\\\\x9b2J \\\\x9b2J\n"
    expected "letters of all languages to come unharmed, in UTF-8"
    tell @c1 send '\xe5\x8c\x97\xe4\xba\xac \xc3\xa9\n'
    tell @c2 expect "${address[1]}: \xe5\x8c\x97\xe4\xba\xac \xc3\xa9\n"
    expected "of all 256 bytes those from blank to ~ to come as they are, and the others escaped"
    for code in {11..255}; do
        printf -v code '\\x%02x' "$code"
        sent+=$code
        [[ $code > '\x1f' && $code < '\x7f' ]] || code="\\$code"
        shown+=$code
    done
    tell @c1 send "\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\n$sent\n"
    tell @c2 expect "${address[1]}: "'\\x00\\x01\\x02\\x03\\x04\\x05\\x06\\x07\\x08\\x09\n'
    tell expect "${address[1]}: $shown\n"
    expected "the log to hold no control byte either"
    read_all "$server_log"
    [[ ${REPLY//$'\n'/} != *[[:cntrl:]]* ]] || fail_with "one is there"
}

# bats test_tags=only-03,companion
@test "03.23 Who does not listen is put out of the chat room, and delays nobody" {
    local round ends lines before open

    because "sends that do not wait, a queue for each client, and an end to a client whose queue is full"
    start_chat -q 0
    join
    join
    tell @c3 rcvbuf 4K
    join
    # 1,500 empty lines, which come by one recv(), are 27 KB when each bears an address.
    printf -v ends '%01500d' 0
    lines=${ends//0/"${address[1]}: \n"}
    ends=${ends//0/'\n'}
    expected "every line to reach one who listens, in order, while another does not read at all"
    memory RssAnon
    before=$REPLY
    socket_count
    open=$REPLY
    for round in {1..500}; do
        tell @c1 send "$round\n$ends" @c2 expect "${address[1]}: $round\n$lines"
        socket_count
        if ((REPLY < open)); then
            break
        fi
    done
    expected "the one who does not read to be put out before it has 13 MB to read, and the others to hear of it"
    tell @c1..2 expect "${address[3]} has left (clients: 2)\n" @c1 send 'on we go\n'
    tell @c2 expect "${address[1]}: on we go\n"
    expected "that to have taken less than 1 MiB of memory"
    memory RssAnon
    ((REPLY - before < 1024)) || fail_with "it has taken $((REPLY - before)) KiB"

    stop_server
    tell_no_more
    expected "the log to say who is put out and why, each of ten whose queues are full after the same line"
    because "whoever walks over all connections must not close others on the way: mark them, and close them later"
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
@test "03.24 Two hundred talk in the chat room" {
    local i count=200 heard='' steps=()

    start_chat
    tell @c1..200 connect
    wait_for_log "(clients: $count)"
    mapfile -t -s 1 address <"$server_log"
    expected "each to hear of itself, and of all who have joined after it"
    for ((i = count; i >= 1; i--)); do
        heard="${address[i - 1]}\n$heard"
        steps+=("@c$i" expect "$heard")
    done
    tell "${steps[@]}"
    for ((i = count; i >= 1; i--)); do
        address[i]=${address[i - 1]#New connection from }
        address[i]=${address[i]% (*}
    done
    expected "a line to reach the 199 others, and no other line to come in between"
    tell @c200 send 'hello\n' @c1..199 expect "${address[200]}: hello\n"
    tell @c1 send 'hello to you\n' @c2..200 expect "${address[1]}: hello to you\n"
    expected "those who stay to be told of all who leave at the same time, the last count being 100"
    signal_server STOP
    tell @c101..150 close @c151..200 reset
    signal_server CONT
    wait_for_log "has left (clients: 100)"
    tell @c1 send 'who is left?\n'
    wait_for_log "${address[1]}: who is left?"
}

# bats test_tags=only-03,companion
@test "03.25 The chat room ends in good order" {
    local signal much began

    printf -v much '%030000d' 7
    for signal in INT TERM; do
        because "the handler sets a flag, and no more; the loop looks at it, ends, and tells everybody"
        start_chat
        join
        join
        expected "SIG$signal to bring everybody \"Shutdown Server\" and end of file, also one who is in mid-line"
        signal_server STOP
        tell @c1 send "$much" send "$much" send "$much"
        signal_server "$signal"
        signal_server CONT
        because "close() with bytes left unread resets a connection: shutdown(SHUT_WR), read on, then close()"
        tell mark @c1..2 expect 'Shutdown Server\n' eof at-most 800
        tell @c1..2 close
        expected "the server to say so, and to exit with status 0"
        server_ends 0
        log_has "Shutdown Server ......" || fail_with "it said nothing"
        tell_no_more
    done
    expected "one who neither reads nor leaves to hold up the end for a second, and no more"
    because "the wait for those who are slow needs a deadline"
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
@test "03.26 A signal ends the chat room whenever it comes" {
    local signal turn i steps

    because "signals are blocked but for the wait in pselect(); a flag that is looked at before select() is looked at too early"
    expected "a signal that comes just before the wait, in whatever turn of the loop, to end the wait"
    for signal in 2 15; do
        for turn in 1 2 3 4 5; do
            start_chat --faults "select:sig=$signal:$turn"
            # A client who joins takes two turns, one to accept it and one to tell it so. If all goes
            # well, then, nobody does anything after the signal.
            steps=()
            for ((i = 1; i <= turn / 2; i++)); do
                steps+=("@c$i" connect expect-line)
            done
            ((turn == 1)) || peer "${steps[@]}" "@c1..$((turn / 2))" gone
            server_ends 0
            log_has "Shutdown Server ......" || fail_with "it said nothing"
        done
    done
    expected "a signal during the start, and right after it, to end it in good order"
    build_program 03-select/chat
    launch_server --program "$REPLY" --faults fcntl:sig=15:1 0
    server_ends 0
    for i in {1..10}; do
        start_chat
        signal_server TERM
        server_ends 0
    done
    expected "a signal to end it when somebody is ready whenever it looks"
    because "pselect() lets no signal in when it need not wait: let them in once a turn besides"
    start_chat --faults select:ready
    signal_server INT
    server_ends 0
}

# bats test_tags=only-03,companion
@test "03.27 The chat room goes on when descriptors run out" {
    local room

    because "while accept() has no descriptor the listener stays ready: do not watch it for a while"
    start_chat --open-files 16
    fd_count
    room=$((16 - REPLY))
    expected "$room to have a place, and the server to sleep while others wait"
    tell "@c1..$((room + 2))" connect
    wait_for_log "(clients: $room)"
    wait_for_log "out of descriptors: accept"
    server_sleeps
    tell @c2 send 'hello\n'
    wait_for_log ": hello"
    expected "the next to get a place as soon as one has left"
    tell @c1 close
    wait_for_log "(clients: $room)" 2
    tell_no_more
    wait_for_log "has left (clients: 0)"

    stop_server
    because "FD_SET() of a descriptor from FD_SETSIZE on writes beyond the set"
    expected "those whom select() cannot watch to be refused, and the others to be served"
    start_chat_high
    tell @c1..20 connect
    wait_for_log "refusing "
    wait_for_log "select cannot watch descriptor 1024"
    tell @c1 send 'hello\n'
    wait_for_log ": hello"
}

# start_chat_high: started by a program that holds the descriptors up to 1019, as a test would
# otherwise have to with a thousand clients.
start_chat_high() {
    local wrapper=$BATS_TEST_TMPDIR/wrapper

    build_program 03-select/chat
    cat >"$wrapper" <<END
#!/usr/bin/env bash
while exec {fd}</dev/null && ((fd < 1019)); do
    :
done
exec "$REPLY" "\$@"
END
    chmod +x "$wrapper"
    start_server --open-files 1100 --program "$wrapper"
}

# bats test_tags=only-03,companion
@test "03.28 The chat room bears what a bad day brings" {
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
        expected "a talk in good order in spite of FAULTS=$faults"
        because "a call may be cut short, interrupted or have nothing to give: try again in the next turn"
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
    expected "one to whom send() fails to be left out, and the others to go on"
    because "MSG_NOSIGNAL: without it this error comes with SIGPIPE, which ends the server"
    stop_server
    start_chat --faults send:EPIPE:2
    join
    tell @c2 connect
    wait_for_log "has left (clients: 1)"
    faults_reached send
}

# ---- two-ports.c -----------------------------------------------------------------------------

# start_two_ports [OPTION]... [PORT]...: ports[1] and so on are where it listens
start_two_ports() {
    build_program 03-select/two-ports
    start_server --program "$REPLY" "$@"
    wait_for_log "listening sockets: "
    socket_count
    # shellcheck disable=SC2034 # the helper reads it
    sockets_at_start=$REPLY # after its first line it has opened another
    mapfile -t ports <"$server_log"
    ports=(nothing "${ports[@]#starting up on 127.0.0.1 port }")
}

# bats test_tags=only-03,companion
@test "03.29 A server may listen on several ports" {
    because "listening sockets are descriptors like others: all of them are in one set, of one select()"
    start_two_ports -q 0 0 0
    expected "three ports, each in a line of its own, and then how many they are"
    log_has "port ${ports[3]}"$'\n'"listening sockets: 3"$'\n' || fail_with "another log"
    expected "one who connects to the second port, and to no other, to be answered"
    port=${ports[2]}
    peer connect send 'anybody here?' expect 'hello\n' send 'so it is' expect 'hello\n' shutdown eof
    expected "clients of all three to be answered, whoever came first"
    tell @c2 connect
    port=${ports[3]}
    peer @c3 connect send 'x' expect 'hello\n' shutdown eof
    port=${ports[1]}
    peer @c1 connect send 'x' expect 'hello\n' shutdown eof
    tell send 'at last' shutdown expect 'hello\n' eof
}

# bats test_tags=only-03,companion
@test "03.30 Hello is said only to those that select() finds ready for it" {
    because "who has spoken moves from one set to the other; nobody is answered before the second set says so"
    start_two_ports --faults select:ready-read -q 0 0
    expected "no hello as long as select() says of nobody that it may be written to, and no more to be read"
    peer connect send 'anybody here?' fill 64M silence 100
    stop_server
    expected "one hello, whole, when it goes out in small pieces, or when a call has nothing to give at first"
    local faults
    for faults in send:cap=1 send:EAGAIN:1-3 select:EINTR:2%3 recv:EAGAIN:1-2,accept:EAGAIN:1 send:EINTR:1 select:ready:3%2; do
        start_two_ports --faults "$faults" -q 0 0
        peer connect send 'x' expect 'hello\n' send 'y' expect 'hello\n' silence 20 shutdown eof
        faults_reached "${faults%%:*}"
        stop_server
    done
    expected "one who has been reset to be left alone, and the next to be answered"
    start_two_ports --faults send:EPIPE:1 -q 0 0
    peer @c1 connect send 'x' gone @c2 connect send 'x' expect 'hello\n' shutdown eof
}

# bats test_tags=only-03,companion
@test "03.31 It wakes each second, with nothing to do, and sleeps between" {
    local began
    local nobody=$'ready to be read: none\nready to be answered: none\n'

    because "select() may write into the timeval what was left of the second: set it anew each time"
    start_two_ports 0 0
    wait_for_log "$nobody"
    now
    began=$REPLY
    expected "the next turn, in which nobody is ready either, to come a second later"
    wait_for_log "$nobody" 2
    now
    REPLY=$((REPLY - began))
    ((REPLY > 900000)) || fail_with "it came after $((REPLY / 1000)) ms"
    took_at_most 3000 "$REPLY"
    server_sleeps
    expected "the log to say who is ready, in every turn"
    because "say it after select(), of the sets that it gives back, before anything is done about them"
    port=${ports[2]}
    peer connect send 'anybody here?' expect 'hello\n' shutdown eof
    wait_for_log "ready to be read: port $port"$'\n'"ready to be answered: none"$'\n'"new connection from 127.0.0.1:"
    wait_for_log " on port $port"$'\n'
    wait_for_log "ready to be read: none"$'\n'"ready to be answered: 127.0.0.1:"
    wait_for_log $'\n''sending "hello\n" to 127.0.0.1:'
}

# bats test_tags=only-03,companion
@test "03.32 A server with several ports bears a lack of descriptors" {
    because "all listeners stay ready while accept() has no descriptor: watch none of them for a while"
    start_two_ports --open-files 12 -q 0 0
    tell @c1..12 connect
    wait_for_log "out of descriptors: accept"
    server_sleeps 300
    tell @c2 send 'x' expect 'hello\n'
    log_has "out of descriptors: accept" 3 && fail_with "the log says so again and again"
    expected "the last to be accepted when the first have left"
    tell @c1..6 close @c12 send 'x' expect 'hello\n'
}
