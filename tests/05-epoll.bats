#!/usr/bin/env bats
#
# The steps of stage 05: the kernel keeps the list, so the cost of an event does not depend on the
# number of other clients that wait. A step judges what goes over the wire and what the process does;
# only one step judges the wording of the log.
#
# Tags: only-05 marks steps that do not hold in later stages. In this file they are the steps of the
# client: it is a load generator, and works unlike the client of any other stage.

# shellcheck disable=SC2030,SC2031,SC2034,SC2154 # the helper sets and reads what is here
load lib/helper

# ---- Core ------------------------------------------------------------------------------------

# Puts the server and the test's clients on one core, if taskset is installed. On two cores the server
# has to wake the other core now and then, which costs ten times as much as a message.
share_a_core() {
    local name value pid core=

    while read -r name value; do
        if [[ $name == Cpus_allowed_list: ]]; then
            core=${value%%[-,]*}
        fi
    done </proc/self/status
    find_family
    for pid in "${family[@]}" "$tell_pid"; do
        taskset -a -c -p "$core" "$pid" >/dev/null 2>&1 || :
    done
}

# least_run_time: REPLY = the microseconds of CPU time that 200 small messages cost the server. The
# smallest of five measurements, because any disturbance adds to it.
least_run_time() {
    local i before least=

    for i in {1..5}; do
        run_time
        before=$REPLY
        tell @A roundtrips 200 10
        run_time
        if [[ -z $least ]] || ((REPLY - before < least)); then
            least=$((REPLY - before))
        fi
    done
    REPLY=$((least > 0 ? least : 1))
}

@test "05.1 An event costs the same beside five thousand idle clients" {
    local alone last

    needs_open_files 5200
    start_server --open-files 5200 -q 0
    tell connect
    share_a_core
    least_run_time
    alone=$REPLY
    # A connect can be done before the server has accepted. Once the last client is served, all are.
    for last in 1000 2000 3000 4000 5000; do
        tell "@idle$((last - 999))..$last" connect "@idle$last" exchange 10
    done
    least_run_time
    expected "200 messages to cost at most 10 times the CPU time that they cost without other clients ($alone us)"
    because "select() and poll() look at every descriptor on each call; epoll_wait() only at those that are ready"
    ((REPLY <= 10 * alone)) ||
        fail_with "200 messages cost $REPLY us beside 5,000 silent clients, $((REPLY / alone)) times as much"
    tell @idle1..5000 reset
}

@test "05.2 Eight thousand clients are all served" {
    needs_open_files 8200
    start_server --open-files 8200 -q 0
    expected "8,000 clients to connect, and each to get its own echo when all of them send at the same time"
    because "epoll has no limit of its own: look for a table of fixed size, or a loop over all connections"
    tell @c1..8000 connect
    while_stopped tell @c1..8000 send-bytes 10
    tell @c1..8000 drain
    expected "the server to sleep while the 8,000 clients are silent, and to close all of them when they leave"
    server_sleeps
    tell @c1..8000 reset
    wait_until "the server to close their sockets" sockets_are_closed
}

# bats test_tags=not-uring
@test "05.3 Three greedy clients do not delay a quiet one" {
    # What the greedy clients have sent waits in the kernel, and each recv() returns 64 bytes of it, so
    # serving one of them to the end takes 8,192 calls. After half of all those calls the server stops
    # itself, so the load of the machine makes no difference. One of the quiet clients is behind the greedy ones, whatever
    # the order. (A turn of several calls, up to 64 KiB, is fair enough: then three turns take 3,072 of the 12,288 calls.)
    start_server --faults recv:sig=STOP:12288,recv:cap=64 -q 0
    expected "two quiet clients to be answered before half of what the others sent is read (the server is stopped there)"
    because "reading one client until EAGAIN starves the others: recv() once per event; level-triggered epoll reports the rest"
    while_stopped tell @first connect send-bytes 10 @A connect send-bytes 512K @B connect send-bytes 512K \
        @C connect send-bytes 512K @last connect send-bytes 10
    tell @first drain @last drain
    faults_reached recv
    wait_until "the server to read half of what the others sent" server_is_stopped
    signal_server CONT
    tell @A drain @B drain @C drain
}

# bats test_tags=method,not-uring
@test "05.4 Small messages go back and forth without a call of epoll_ctl()" {
    local before

    start_server --faults epoll_ctl:count -q 0
    tell connect exchange 10 @B connect exchange 10 @C connect exchange 10
    fault_calls epoll_ctl
    before=$REPLY
    ((before > 0)) || skip "faults.so sees no call of epoll_ctl() (this server makes none, or is static)"
    # A server may arm an event again now and then.
    expected "fewer than 30 calls of epoll_ctl() during 300 small messages"
    because "send() at once what recv() returned, ask for EPOLLOUT only if a rest is left, and tell epoll_ctl() only changes"
    tell @A roundtrips 100 10 @B roundtrips 100 10 @C roundtrips 100 10
    fault_calls epoll_ctl
    ((REPLY < before + 30)) || fail_with "$((REPLY - before)) calls of epoll_ctl()"
    expected "fewer than 30 calls of epoll_ctl() during 300 small messages, after a slow client has read all of its echo"
    because "when a queue becomes empty, one epoll_ctl() call stops asking for EPOLLOUT; after that nothing changes"
    tell @D rcvbuf 4K connect fill 64M
    tell @D drain exchange 10
    fault_calls epoll_ctl
    before=$REPLY
    tell @A roundtrips 100 10 @B roundtrips 100 10 @D roundtrips 100 10
    fault_calls epoll_ctl
    ((REPLY < before + 30)) || fail_with "$((REPLY - before)) calls of epoll_ctl()"
    server_sleeps
}

# ---- Hardening -------------------------------------------------------------------------------

# bats test_tags=wording
@test "05.20 The log reports an empty queue only after something was left over" {
    local client before

    start_server
    expected "no log line about a queue for small messages, because send() accepts them whole"
    because "bytes that send() accepts at once were never left over: log this line only when a queue becomes empty"
    tell rcvbuf 4K connect local
    client=${told#* }
    tell exchange 10 exchange 1000
    wait_for_log " to $client"$'\n' 2
    log_lacks "output queue"
    expected "the log line of this step after a client has read what was left over"
    because "send() took a part of the queue, and the rest when the client read: log that the queue is empty then"
    tell fill 64M
    # It may be there already: the kernel's buffers grow while they are filled, and take what was left over.
    before=$(grep -c "output queue for $client is empty" "$server_log" || :)
    tell drain
    wait_for_log "output queue for $client is empty"$'\n' $((before + 1))
}

# ---- Client ----------------------------------------------------------------------------------

# Takes apart what the client prints on standard output: $messages, $rate (per second), $megabytes (tenths
# of a MB/s), $elapsed (ms), $p50 $p99 $p999 $longest (us).
read_figures() {
    local text

    read_all "$client_out"
    text=$REPLY
    [[ $text =~ ([0-9]+)\ messages[^/] ]] || fail_with "the client does not print how many messages came back"
    messages=${BASH_REMATCH[1]}
    [[ $text =~ ([0-9]+)\ messages/s ]] || fail_with "the client prints no figure for messages/s"
    rate=${BASH_REMATCH[1]}
    [[ $text =~ ([0-9]+)\.([0-9])\ MB/s ]] || fail_with "the client prints no figure for MB/s, such as \"41.7 MB/s\""
    megabytes=$((10#${BASH_REMATCH[1]}${BASH_REMATCH[2]}))
    [[ $text =~ ([0-9]+)\.([0-9][0-9])\ s$'\n' ]] || fail_with "the client prints no line that ends with a time such as \"0.50 s\""
    elapsed=$((BASH_REMATCH[1] * 1000 + 10#${BASH_REMATCH[2]} * 10))
    [[ $text =~ p50\ ([0-9]+)\.([0-9]{3})\ ms ]] || fail_with "the client prints nothing like \"p50 0.123 ms\""
    p50=$((10#${BASH_REMATCH[1]}${BASH_REMATCH[2]}))
    [[ $text =~ p99\ ([0-9]+)\.([0-9]{3})\ ms ]] || fail_with "the client prints nothing like \"p99 0.123 ms\""
    p99=$((10#${BASH_REMATCH[1]}${BASH_REMATCH[2]}))
    [[ $text =~ p99\.9\ ([0-9]+)\.([0-9]{3})\ ms ]] || fail_with "the client prints nothing like \"p99.9 0.123 ms\""
    p999=$((10#${BASH_REMATCH[1]}${BASH_REMATCH[2]}))
    [[ $text =~ longest\ ([0-9]+)\.([0-9]{3})\ ms ]] || fail_with "the client prints nothing like \"longest 0.123 ms\""
    longest=$((10#${BASH_REMATCH[1]}${BASH_REMATCH[2]}))
}

# bats test_tags=only-05,client
@test "05.40 The client sends as many messages as it is told to, and no more" {
    local messages rate megabytes elapsed p50 p99 p999 longest

    start_server --faults recv:count -q 0
    expected "exit status 0, and 500 messages of one byte (up to 510 with those that test the connection)"
    because "count a message when you begin to send it, and begin no other one after -n messages"
    run_client 0 -c 1 -n 500 -s 1 "$port" "$host"
    read_figures
    ((messages == 500)) || fail_with "the client reports $messages messages"
    fault_calls send
    ((REPLY == 0 || (REPLY >= 500 && REPLY <= 510))) || fail_with "the server called send() $REPLY times"
    expected "500 messages in all with 20 connections, each with 4 messages of 10,000 bytes in flight"
    run_client 0 -c 20 -n 500 -s 10000 -P 4 "$port" "$host"
    read_figures
    ((messages == 500)) || fail_with "the client reports $messages messages"
    expected "the client to run for 0.3 s (-d 0.3)"
    because "with -d, begin messages until that many seconds have passed since the first one. The clock stops with the last echo"
    run_client 0 -c 10 -d 0.3 "$port" "$host"
    read_figures
    ((elapsed >= 290)) || fail_with "the client reports a run of $elapsed ms"
}

# bats test_tags=only-05,client
@test "05.41 The client's figures are true" {
    local messages rate megabytes elapsed p50 p99 p999 longest script=(accept) i

    # Up to ten messages test the connection. Of the other 200, five come back 50 ms late, and one 400 ms.
    for i in {1..210}; do
        case $i in
        30 | 60 | 90 | 120 | 150) script+=(pause 50) ;;
        180) script+=(pause 400) ;;
        esac
        script+=(send-back)
    done
    expected "p50 below 48 ms, p99 from 48 to 390 ms, and p99.9 and the longest at least 380 ms, when 5 of 200 messages take 50 ms, and one 400 ms"
    because "p99 is the time within which 99 of 100 messages come back: count from the shortest time upwards"
    serve "${script[@]}" gone
    now
    i=$REPLY
    run_client 0 -c 1 -n 200 -s 1 "$port" "$host"
    now
    i=$(((REPLY - i) / 1000))
    read_figures
    ((p50 < 48000 && p99 >= 48000 && p99 < 390000 && p999 >= 380000 && longest >= 380000)) ||
        fail_with "p50 $p50, p99 $p99, p99.9 $p999, longest $longest us"
    expected "the time of the run to be the one by the test's clock, at most $i ms and at least 640 ms"
    because "the clock must start with the first message and stop with the last echo"
    ((elapsed >= 640 && elapsed <= i)) || fail_with "the client reports a run of $elapsed ms"
    rate_fits

    expected "exit status 0, and all figures, for 10 connections and messages of 10,000 bytes (-d 0.5)"
    because "send() may accept only a part of such a message, and recv() may return only a part of its echo. Go on until all is done"
    start_server -q 0
    run_client 0 -c 10 -d 0.5 -s 10000 "$port" "$host"
    read_figures
    rate_fits
    expected "the MB/s to be the messages/s times the size of a message, 10,000 bytes"
    because "one MB is a million bytes. Count each byte once, on its way to the server or on its way back"
    i=$((rate * 10000 / 100000)) # in tenths of a MB/s
    ((megabytes >= i * 9 / 10 - 1 && megabytes <= i * 11 / 10 + 1)) ||
        fail_with "$((megabytes / 10)).$((megabytes % 10)) MB/s for $rate messages/s of 10,000 bytes"
    expected "p50, p99, p99.9 and the longest time to be in ascending order, and more than 0"
    because "p99 is the time within which 99 of 100 messages come back: count from the shortest time upwards"
    ((0 < p50 && p50 <= p99 && p99 <= p999 && p999 <= longest)) ||
        fail_with "p50 $p50, p99 $p99, p99.9 $p999, longest $longest us"
    expected "a pause of 200 ms in the server to show in the longest time, but not in p50"
    because "the time of a message begins when send() accepts it and ends when all of its echo has arrived"
    wait_until "the server to close its sockets" sockets_are_closed
    wakeups
    start_client -c 1 -d 0.6 "$port" "$host"
    wait_until "messages to go back and forth" server_has_woken_up $((REPLY + 20))
    while_stopped nap 0.2
    client_ends 0
    read_figures
    ((longest >= 150000 && p50 < 100000)) || fail_with "p50 $p50 us, longest $longest us"
}

# Fails unless the rate is the number of messages divided by the time, within 10 %.
rate_fits() {
    local fitting

    ((elapsed > 0)) || fail_with "the client reports a run of 0 s"
    fitting=$((messages * 1000 / elapsed))
    expected "a rate of about $fitting messages/s, because $messages messages came back in $elapsed ms"
    because "the rate is the number of messages that came back, divided by the time from the first message to the last echo"
    ((rate > fitting * 9 / 10 - 2 && rate < fitting * 11 / 10 + 2)) || fail_with "$rate messages/s"
}

server_has_woken_up() {
    wakeups
    ((REPLY >= $1))
}

# bats test_tags=only-05,client
@test "05.42 The client finds an echo that is wrong" {
    local script=(accept) i

    because "counting bytes is not enough: compare each one with the byte that was sent at its place in the stream"
    expected "exit status 1, and the reason on standard error, when each echo has the right length and a wrong last byte"
    for i in {1..12}; do # a client that believes this sends up to ten messages that test the connection, and one
        script+=(send-wrong)
    done
    serve "${script[@]}"
    run_client 1 -c 1 -n 1 -s 4 "$port" "$host"
    client_complains
    expected "exit status 1, and the reason on standard error, when the echo is right 20 times, and then wrong"
    script=(accept)
    for i in {1..20}; do
        script+=(send-back)
    done
    for i in {21..61}; do
        script+=(send-wrong)
    done
    serve "${script[@]}"
    run_client 1 -c 1 -n 50 -s 4 "$port" "$host"
    client_complains
    expected "exit status 1, and the reason on standard error, when more bytes come back than were sent"
    serve accept send 'x' gone
    run_client 1 -c 1 -n 10 -s 4 "$port" "$host"
    client_complains
}

# bats test_tags=only-05,client
@test "05.43 The client says so when the server leaves" {
    because "figures from a run that was cut off mean nothing: report what happened, and exit with status 1"
    expected "exit status 1, and the reason on standard error, when the server closes the connection"
    serve accept expect-any close hold
    run_client 1 -c 1 -n 10 "$port" "$host"
    client_complains
    expected "exit status 1, and the reason on standard error, when the server is killed during the run"
    start_server -q 0
    start_client -c 20 -d 10 "$port" "$host"
    wait_until "the client to connect" has_a_client
    stop_server KILL
    client_ends 1
    client_complains
    expected "exit status 1, and \"refused\" on standard error, when no server listens on the port"
    because "connect() fails with ECONNREFUSED at once, or the error comes later, from SO_ERROR or recv()"
    serve -b hold
    run_client 1 -c 10 -n 10 "$port" "$host"
    client_complains "refused"
    [[ -c /dev/full ]] || return 0
    expected "exit status 1, and the reason on standard error, when the figures cannot be written, to a full disk"
    because "printf() only fills a buffer. Ask fflush() and ferror() before you exit with status 0"
    start_server -q 0
    start_client --output /dev/full -c 1 -n 10 "$port" "$host"
    client_ends 1
    client_complains "no space left"
}

# bats test_tags=only-05,client
@test "05.44 The client says at once when it cannot open that many connections" {
    local bad

    serve no-accept 300
    expected "exit status 1, and \"ulimit -n\" on standard error, for 1,000 connections with 64 descriptors"
    because "each connection needs a descriptor: compare -c with getrlimit(RLIMIT_NOFILE) before you connect"
    run_client 1 --open-files 64 -c 1000 "$port" "$host"
    client_complains "ulimit -n"
    because "the client must refuse an option or a value that it does not understand, not ignore it"
    for bad in "-c 0" "-c 2x" "-n -1" "-d abc" "-s 0" "-P 0" "-x"; do
        expected "exit status 2, and the usage, for $bad"
        # shellcheck disable=SC2086 # an option and its value are two words
        run_client 2 $bad "$port" "$host"
        client_complains usage
    done
    expected "no connection to the server before the client reports these errors"
    because "the client must check its options and getrlimit(RLIMIT_NOFILE) before the first connect()"
    serve_ends
}

# bats test_tags=only-05,client
@test "05.45 A server that never answers ends the client" {
    local began least_wait=5000000

    serve accept hold
    expected "exit status 1, and the reason on standard error, after 5 s without an echo"
    because "connect() succeeds once the kernel has completed the handshake: only an echo shows that the server works"
    now
    began=$REPLY
    start_client -c 1 -d 0.1 "$port" "$host"
    await has_ended "$client_pid" || : # the deadline of a test is about as long, so wait twice
    client_ends 1
    now
    because "a busy server may need some time for an echo. Give up when none has come for 5 seconds, and not before"
    ((REPLY - began >= 4900000)) || fail_with "the client gave up after $(((REPLY - began) / 1000)) ms"
    client_complains
}

# ---- edge.c ----------------------------------------------------------------------------------

start_edge() {
    build_program 05-epoll/edge
    start_server --program "$REPLY" "$@"
}

# bats test_tags=only-05,companion
@test "edge.1 Bytes that came at once are read to their end" {
    start_edge
    expected "the echo of 256 KiB that arrived while the server was stopped, although nothing follows them"
    because "an edge-triggered event comes once per change: call recv() until EAGAIN, or the rest is never read"
    while_stopped tell connect send-bytes 256K
    tell drain exchange 10
    expected "the echo of 1 MiB, of which only a part fits into the socket while the server is stopped"
    while_stopped tell send-bytes 1M
    tell drain exchange 10
}

# bats test_tags=only-05,companion
@test "edge.2 Bytes that came with their end of file are echoed, and the connection is closed" {
    start_edge
    expected "the echo, then end of file, for a client that sent and half-closed while the server was stopped"
    because "a short recv() does not mean that nothing is left: end of file may follow, so read until 0 or EAGAIN"
    while_stopped tell @short connect send hello shutdown @long connect send-bytes 300K shutdown
    tell @short expect hello eof @long drain eof
}

# bats test_tags=only-05,companion
@test "edge.3 All clients that connected at once are accepted" {
    start_edge
    expected "100 clients that connected while the server was stopped to be served, although no other one connects"
    because "one edge-triggered event may stand for a hundred connections: call accept() until it fails with EAGAIN, in this turn of the loop or in later ones"
    while_stopped tell @c1..100 connect @c1..100 send-bytes 10
    tell @c1..100 drain
}

# bats test_tags=only-05,companion
@test "edge.4 Input that came while echo was owed is not forgotten" {
    start_edge
    expected "every byte to come back to a client that sent until all buffers were full, and only then began to read"
    because "input that arrived while the queue was full is not reported again: remember it, and recv() when it is empty"
    tell rcvbuf 4K connect fill 64M
    server_sleeps
    tell drain exchange 10
}

# bats test_tags=only-05,companion
@test "edge.5 Clients that waited for a descriptor are accepted when there is one" {
    start_edge --open-files 32
    expected "clients that wait for a descriptor to be served when others have left, without a new connection"
    because "each connection was reported once, when it arrived: remember that some still wait, and call accept() again"
    while_stopped tell @c1..50 connect
    wait_for_log "out of descriptors"
    server_sleeps
    tell @c1..10 exchange 10 close
    tell @c11..30 exchange 10 close
    tell @c31..50 exchange 10
}

# bats test_tags=only-05,companion
@test "edge.6 An interrupted call is made again" {
    start_edge --faults accept:EINTR:1%2,recv:EINTR:1%3,send:EINTR:2%3,epoll_wait:EINTR:2%3
    expected "two clients to be accepted and served although every third call is interrupted"
    because "EINTR, unlike EAGAIN, does not mean that nothing is left: call again, because no new event will come"
    while_stopped tell connect send-bytes 200K @B connect send-bytes 200K
    tell @A drain shutdown eof @B drain shutdown eof
    faults_reached accept recv send
}

# bats test_tags=only-05,companion
@test "edge.7 Clients that flood delay no other" {
    # The calls are counted as in 05.3.
    start_edge --faults recv:sig=STOP:19200,recv:cap=16 -q 0
    expected "an echo for a quiet client before half of what the others sent is read (the server is stopped there)"
    because "reading one client until EAGAIN starves the others: recv() once, then move it to the end of the ready list"
    while_stopped tell @greedy1..3 connect send-bytes 200K @quiet connect send hello
    tell @quiet expect hello
    faults_reached recv
    wait_until "the server to read half of what the others sent" is_stopped "$server_pid"
    signal_server CONT
    tell @greedy1..3 drain
}

# bats test_tags=only-05,companion
@test "edge.8 It calls epoll_ctl() once per client" {
    start_edge --faults epoll_ctl:count
    expected "one call of epoll_ctl() for each descriptor, which adds it to the kernel's list, and no other"
    because "with EPOLLET all events are asked for once and for good: the server itself remembers what it wants now"
    tell @c1..5 connect @c1..5 roundtrips 10 100
    tell @slow rcvbuf 4K connect fill 64M
    tell drain
    fault_calls epoll_ctl
    ((REPLY > 0)) || skip "faults.so sees no call of epoll_ctl() in this server"
    ((REPLY == 7)) || fail_with "$REPLY calls of epoll_ctl() for a listener and 6 clients"
}

# ---- callbacks.c -----------------------------------------------------------------------------

# start_callbacks "OPTIONS OF callbacks" [OPTION OF start_server]...
start_callbacks() {
    build_program 05-epoll/callbacks -pthread
    start_server --program "$REPLY $1" "${@:2}"
}

# The same, built with AddressSanitizer, unless CALLBACKS names another program.
start_checked_callbacks() {
    local program=$build/05-epoll/callbacks-address

    if [[ -z ${CALLBACKS-} ]]; then
        compile "$program" "$course/05-epoll/callbacks.c" -pthread -g -fsanitize=address 2>/dev/null ||
            skip "this compiler has no AddressSanitizer"
    fi
    start_server --program "${CALLBACKS:-$program} $1" "${@:2}"
}

# log_has_in_order TEXT...: fails unless the log holds these texts in this order
log_has_in_order() {
    local text

    read_all "$server_log"
    for text in "$@"; do
        [[ $REPLY == *"$text"* ]] || fail_with "the log lacks \"$text\", or has it too early"
        REPLY=${REPLY#*"$text"}
    done
}

# bats test_tags=only-05,companion
@test "callbacks.1 The loop is short, and knows neither sockets nor echo" {
    local source=$course/05-epoll/callbacks.c loop word

    [[ ! -e ${CALLBACKS-}.c ]] || source=$CALLBACKS.c
    expected "a loop of fewer than 80 lines of code under the heading \"The loop\" in callbacks.c"
    because "any program should be able to use this loop: what only an echo server needs belongs in the callbacks"
    loop=$(awk '/^\/\* ---- The loop/ { inside = 1; next } /^\/\* ---- / { inside = 0 } inside' \
        "$source" | grep -vE '^[[:space:]]*(/\*.*|\*.*|//.*)?$')
    [[ $loop == *epoll_wait* ]] || fail_with "there is no epoll_wait() under this heading"
    (($(wc -l <<<"$loop") < 80)) || fail_with "$(wc -l <<<"$loop") lines of code"
    expected "the loop to contain none of the words accept, recv, send, socket, connection and queue"
    for word in accept recv send socket connection queue; do
        [[ $loop != *"$word"* ]] || fail_with "the word \"$word\""
    done
}

# bats test_tags=only-05,companion
@test "callbacks.2 A slow callback delays every client" {
    start_callbacks "--slow 50"
    expected "five messages that arrive together to take five times 50 ms, one after the other"
    because "a callback that sleeps stops the whole loop, and --slow must show that"
    while_stopped tell @c1..5 connect send-bytes 10 mark
    tell @c1..5 drain at-least 250
    stop_server
    tell_no_more

    start_callbacks "--slow 50"
    expected "a client that connects meanwhile to be accepted only after the slow message is answered"
    tell @slow connect exchange 10
    while_stopped tell @slow send hello @new connect
    tell @slow expect hello @new exchange 10
    log_has_in_order 'sending "hello"' "new connection"
}

# bats test_tags=only-05,companion
@test "callbacks.3 With a worker no client waits for another" {
    start_callbacks "--slow 200 --worker"
    expected "ten messages that take 200 ms each and arrive together to be answered within 1 s, not 2 s"
    because "the loop must hand the slow work to a thread and return to epoll_wait() at once"
    while_stopped tell @c1..10 connect send-bytes 10 mark
    tell @c1..10 drain at-least 200 at-most 1000
    expected "each client to get its own echo, in order, while the work for other clients goes on"
    tell @c1..10 send-bytes 100K
    server_sleeps
    tell @c1..10 drain
    tell @c1..10 shutdown @c1..10 eof
    stop_server
    tell_no_more

    start_callbacks "--slow 200 --worker"
    expected "a client that connects meanwhile to be accepted before the slow message is answered"
    tell @slow connect exchange 10
    while_stopped tell @slow send hello @new connect
    tell @slow expect hello @new exchange 10
    log_has_in_order 'received "hello"' "new connection" 'sending "hello"'
}

# stale_events ROUNDS [STEP...]: arranges three things within one batch of events: another client's
# login closes a client, a new client gets its descriptor, and then the closed client's own last event
# follows. The steps are what the closed client does after its login. (Before the server is stopped,
# each client waits for its echo before the next one sends. So epoll_wait() has been called since, and
# no old event is left that could change the order.)
stale_events() {
    local round steps=()

    for ((round = 0; round < $1; round++)); do
        steps+=(@old rcvbuf 4K connect send login expect login "${@:2}")
        steps+=(@next connect exchange 10 @other connect exchange 10)
        steps+=(stop "$server_pid")
        steps+=(@next send login close @newcomer connect @old reset)
        steps+=(cont "$server_pid")
        steps+=(@newcomer exchange 10 close @other exchange 10 close)
    done
    peer "${steps[@]}"
}

# bats test_tags=only-05,companion
@test "callbacks.4 An event of a client that is gone does not reach the next with its descriptor" {
    because "the batch may hold an event of a closed connection: free it only after the batch, and skip its callback"
    start_callbacks ""
    expected "the last event of a closed client to leave the new client with its descriptor alone, in 200 rounds"
    stale_events 200
    [[ $(grep -c "after another login" "$server_log") == 200 ]] || fail_with "the log does not show 200 clients closed by another login"
    expected "the last event of a closed client that was owed data, a hang-up, to leave the new client alone"
    stale_events 1 fill 64M
    stop_server
    expected "the last event of a closed client to leave the new client alone, with no report by AddressSanitizer"
    start_checked_callbacks ""
    stale_events 10
}

# bats test_tags=only-05,companion
@test "callbacks.5 A client may leave, or be closed, while a worker has its message" {
    start_checked_callbacks "--slow 100 --worker"
    expected "clients that leave to be forgotten, and new clients with their descriptors to get only their own echo"
    because "the worker thread and the list of finished work hold pointers: free nothing that they may still use"
    tell @leaving1..5 connect send-bytes 1000 @old connect send login
    wait_for_log "received" 6
    tell @leaving1..5 reset @next connect send login
    wait_for_log "after another login"
    tell @c1..6 connect silence 200
    tell @c1..6 exchange 100 @next expect login shutdown eof
}

# bats test_tags=only-05,companion
@test "callbacks.6 Options that make no sense are refused" {
    local options program

    because "every number must be checked before it is used, and a wrong command line must end with exit status 2"
    build_program 05-epoll/callbacks -pthread
    program=$REPLY
    for options in "--slow" "--slow x" "--slow -1" "--slow 60001" "--fast" "-s 1x" "0 127.0.0.1 1"; do
        expected "\"callbacks $options\" to print the usage and exit with status 2"
        run_server --program "$program $options"
        ((server_status == 2)) || fail_with "callbacks $server_end"
        log_has "usage: callbacks" || fail_with "callbacks printed no usage"
    done
}

# bats test_tags=only-05,companion
@test "callbacks.7 An error that will not pass ends it" {
    local program

    build_program 05-epoll/callbacks -pthread
    program=$REPLY
    ends_for_an_error callbacks "$program" accept:EINVAL:1+
    ends_for_an_error callbacks "$program" epoll_wait:EINVAL:2+
}

# bats test_tags=only-05,companion
@test "callbacks.8 edge.c and callbacks.c begin an error message with their own names" {
    local program

    for program in edge callbacks; do
        build_program 05-epoll/$program -pthread
        expected "a usage error of $program to begin with its own name"
        because "with several programs in one log, only the name tells which of them the message is from"
        run_server --program "$REPLY" -x
        read_all "$server_log"
        [[ $REPLY == "$program: "*"usage: $program "* ]] || fail_with "${REPLY%%$'\n'*}"
    done
}

# ---- workers.c -------------------------------------------------------------------------------

# start_workers THREADS [OPTION of start_server]...: $program = the command line of workers
start_workers() {
    build_program 05-epoll/workers -pthread
    program=$REPLY
    start_server --program "$program -j $1" "${@:2}"
}

# note_run_times: notes for how long each thread of the server has run, in ran[PID/task/TID].
note_run_times() {
    local file time

    ran=()
    for file in /proc/"$server_pid"/task/*/schedstat; do
        read -r time _ 2>/dev/null <"$file" && ran[$file]=$time
    done
}

# threads_have_run N: true if N threads have run since then.
threads_have_run() {
    local file time count=0

    for file in "${!ran[@]}"; do
        read -r time _ 2>/dev/null <"$file" && ((time > ran[$file])) && count=$((count + 1))
    done
    ((count >= $1))
}

# bats test_tags=only-05,companion
@test "workers.1 Each thread serves a part of the clients" {
    local program
    declare -A ran

    knows_cpu_time || skip "this kernel does not tell how long a thread has run (there is no /proc/PID/task/TID/schedstat)"
    start_workers 4 -q 0
    server_sleeps # all threads have started, and wait
    note_run_times
    expected "each of 100 clients to get its echo"
    because "the kernel gives each client to one listener of the port. On each listener a thread must wait, and call accept()"
    tell @c1..100 connect @c1..100 exchange 10
    expected "each of the four threads to have served some of these clients"
    because "all listeners must have the same port, and SO_REUSEPORT before bind(): then each gets about a quarter of the clients"
    wait_until "four threads to run" threads_have_run 4
}

# has_called CALL N: true if the server has made this call N times.
has_called() {
    fault_calls "$1"
    ((REPLY >= $2))
}

# bats test_tags=only-05,companion
@test "workers.2 A busy thread delays only its own clients" {
    local program

    # The first recv() returns 3 s late, and is a hit when it returns.
    start_workers 4 --faults recv:late=3000:1 -q 0
    expected "40 of 100 clients to be answered while the thread of another client is busy"
    because "a lock around the work lets only one thread work at a time. Threads that share nothing need no lock"
    tell @busy connect @c1..100 connect @busy send-bytes 10
    await has_called recv 1 || faults_reached recv
    tell @c1..100 send-bytes 10
    wait_until "40 answers" has_called send 40
    fault_hits recv
    ((REPLY == 0)) || fail_with "the 40th answer came only when the busy thread was done"
    tell @busy drain @c1..100 drain
}

# bats test_tags=only-05,companion
@test "workers.3 Each client gets its own bytes back while all threads receive" {
    local program

    # Between the return of recv() and the use of what it has received, another thread receives, too.
    start_workers 4 --faults recv:late=20 -q 0
    expected "each of 40 clients to get its own bytes back, although all of them send at the same time"
    because "a buffer that all threads use holds what another one has received meanwhile: each thread needs a buffer of its own"
    tell @c1..40 connect
    while_stopped tell @c1..40 send-bytes 100
    tell @c1..40 drain
    faults_reached recv
}

# bats test_tags=only-05,companion
@test "workers.4 A second server on the same port is refused" {
    local program

    start_workers 2
    expected "exit status 1, and an error that says \"already in use\", when the port belongs to another such server"
    because "with SO_REUSEPORT bind() succeeds, and the second server takes a part of the clients. Try a bind() without it first"
    run_server --program "$program -j 2" "$port"
    server_exited 1
    log_mentions "already in use" || fail_with "an error message that does not say \"already in use\""
    log_lacks "starting up"
    expected "the first server to have served all of twenty clients"
    peer @c1..20 connect @c1..20 exchange 10
}

# bats test_tags=only-05,companion
@test "workers.5 The first line comes when every thread has its listener" {
    build_program 05-epoll/workers -pthread
    expected "exit status 1, and no first line, when the last of four listeners cannot be opened"
    because "the line promises that clients can connect. Open all listeners, and then print it"
    launch_server --program "$REPLY -j 4" --faults listen:EADDRINUSE:4+ 0
    await has_ended_or_started || :
    faults_reached listen
    log_lacks "starting up"
    server_ends 1
}

# bats test_tags=only-05,companion
@test "workers.6 Out of descriptors, it says so once, and accepts the clients of each thread later" {
    local program

    start_workers 2 --open-files 40 -q 0
    expected "clients to be served, and the server to sleep, while others wait for a free descriptor"
    because "a descriptor is short in all threads. Each of them must stop watching its listener for a while"
    tell @c1..10 connect @c1..10 exchange 10
    tell @c11..100 connect
    wait_for_log "out of descriptors"
    server_sleeps
    tell @c1..10 exchange 10
    expected "one log line about it"
    because "the threads share the descriptors, so this is one shortage. Share the flag that says that it is logged"
    ! log_has "out of descriptors" 2 || fail_with "the line appears more than once"
    expected "the waiting clients of each thread to be served when others leave"
    because "a descriptor may be closed by another thread, so each thread must try accept() again after a second"
    tell @c1..10 close @c11..100 send-bytes 10 @c11..100 shutdown
    tell @c11..100 drain @c11..100 eof
}

# bats test_tags=only-05,companion
@test "workers.7 An error that will not pass ends all threads, with one message" {
    local program rule lines

    # Four threads make the first four calls, and wait in them.
    for rule in epoll_wait:EINVAL:5 epoll_wait:EINVAL:5+; do
        start_workers 4 --faults "$rule" -q 0
        expected "exit status 1 when epoll_wait() fails with EINVAL in one thread"
        because "the clients of a thread that ends are left alone, and new ones still come to its listener: exit(1), not pthread_exit()"
        while_stopped peer @c1..40 connect
        await has_called epoll_wait 5 || faults_reached epoll_wait
        server_ends 1
        expected "one message, also when all threads fail at the same time"
        because "between the message of one thread and its exit(1) others may come to theirs: let only one thread in"
        mapfile -t lines <"$server_log"
        ((${#lines[@]} == 2)) || fail_with "$((${#lines[@]} - 1)) lines after the first line"
    done
}

# bats test_tags=only-05,companion
@test "workers.8 A number of threads that makes no sense is refused" {
    local options program

    because "every number must be checked before it is used, and a wrong command line must end with exit status 2"
    build_program 05-epoll/workers -pthread
    program=$REPLY
    for options in "-j 0" "-j -1" "-j 2x" "-j x" "-j 257" "-x" "0 127.0.0.1"; do
        expected "\"workers $options 0\" to print the usage, beginning with its own name, and to exit with status 2"
        run_server --program "$program $options" 0
        ((server_status == 2)) || fail_with "workers $server_end"
        read_all "$server_log"
        [[ $REPLY == "workers: "*"usage: workers "* ]] || fail_with "${REPLY%%$'\n'*}"
    done
}

# ---- uring.c ---------------------------------------------------------------------------------

# find_uring: REPLY = the command line of uring. Skips the test if io_uring cannot be used on this machine.
find_uring() {
    if [[ ! -e $build/05-epoll/uring ]] && ! "$tests_directory/lib/has-uring-headers" "${CC:-cc}"; then
        skip "uring.c needs the kernel's headers of Linux 5.19 or newer"
    fi
    URING='' build_program 05-epoll/uring
    uring_runs "$REPLY" || skip "$REPLY"
    build_program 05-epoll/uring
}

start_uring() {
    find_uring
    start_server --program "$REPLY" "$@"
}

# io_uring_was_entered: skips the test if faults.so does not see this server's calls of io_uring_enter().
io_uring_was_entered() {
    fault_calls io_uring_enter
    ((REPLY > 0)) || skip "faults.so sees no call of io_uring_enter() in this server"
}

# bats test_tags=only-05,companion
@test "uring.1 A hundred messages that arrive together cost few calls" {
    local before

    start_uring --faults io_uring_enter:count -q 0
    expected "at most 50 calls of io_uring_enter() for 100 messages, and none of recv() or send()"
    because "one call hands over all requests that are in the ring, and returns when there are completions: do not call it for each request"
    tell @c1..100 connect @c1..100 exchange 10
    io_uring_was_entered
    before=$REPLY
    while_stopped tell @c1..100 send-bytes 10
    tell @c1..100 drain
    fault_calls io_uring_enter
    ((REPLY <= before + 50)) || fail_with "$((REPLY - before)) calls of io_uring_enter()"
    fault_calls recv
    ((REPLY == 0)) || fail_with "$REPLY calls of recv()"
}

# bats test_tags=only-05,companion
@test "uring.2 More clients than the pool has buffers are served at the same time" {
    needs_open_files 700
    start_uring --open-files 700 -q 0
    expected "each of 600 clients to get its own echo when all of them send at the same time, and the server to sleep after that"
    because "while the pool is empty, requests to receive fail with ENOBUFS. That is no error of the connection: ask again when a buffer is back"
    tell @c1..600 connect
    while_stopped tell @c1..600 send-bytes 10
    tell @c1..600 drain
    server_sleeps
    expected "the same for a second round, with messages that need more than one buffer"
    because "each buffer must go back into the pool, exactly once, when its bytes are sent or copied"
    while_stopped tell @c1..600 send-bytes 20K
    tell @c1..600 drain
    server_sleeps
}

# bats test_tags=only-05,companion
@test "uring.3 Clients that flood delay no other" {
    local line all

    start_uring --open-files 200
    expected "two quiet clients to be served before half of what 150 others sent is received"
    because "with more clients than buffers, those that found none must come first, in the order in which they asked. Otherwise the same ones win each time"
    while_stopped tell @first connect send hello @c1..150 connect @c1..150 send-bytes 512K @last connect send hello
    tell @first expect hello @last expect hello @c1..150 drain
    line=$(grep -n '^received "hello"' "$server_log" | tail -n 1)
    line=${line%%:*}
    all=$(wc -l <"$server_log")
    ((line * 2 <= all)) || fail_with "line $line of the $all lines in the log is the last one about them"
}

# bats test_tags=only-05,companion
@test "uring.4 A slow reader keeps no buffer of the pool" {
    start_uring -q 0
    expected "a client to be served at once while ten others do not read their echo"
    because "bytes that cannot be sent at once may stay for hours. Copy them, and give their buffer back to the pool"
    tell @slow1..10 rcvbuf 4K connect @slow1..10 fill 64M
    tell @quick connect roundtrips 50 10 exchange 64K
    server_sleeps
    expected "the slow readers to get all of their echo when they read at last"
    tell @slow1..10 drain
}

# bats test_tags=only-05,companion
@test "uring.5 What a request points to stays as it is until the completion" {
    start_uring -q 0
    expected "each of two slow readers to get exactly its own bytes after another client has sent 8 MiB in between"
    because "until a request completes, the kernel reads from the memory that it points to: do not free it, fill it again, or put it on the stack"
    tell @A rcvbuf 4K connect fill 64M @B rcvbuf 4K connect fill 64M
    tell @C connect exchange 8M
    tell @A drain exchange 10 @B drain exchange 10
    expected "the server to go on when a client resets while the kernel still has bytes to send to it"
    because "closing the descriptor does not end a request. Free the connection and its bytes when the last completion has come"
    tell @D rcvbuf 4K connect fill 64M
    tell @D reset
    wait_until "the server to close the connection that was reset" has_clients 3
    tell @A exchange 10K @E connect exchange 10K
}

has_clients() {
    socket_count
    ((REPLY - sockets_at_start == $1))
}

# bats test_tags=only-05,companion
@test "uring.6 An idle client costs no buffer" {
    local before

    needs_open_files 700
    start_uring --open-files 700 -q 0
    expected "600 clients that were served and are idle now to cost less than 4 KiB each"
    because "a client that sends nothing needs no buffer: the kernel takes one from the pool when bytes have come (IOSQE_BUFFER_SELECT)"
    tell connect exchange 16M # every buffer of the pool is in use once
    memory
    before=$REPLY
    tell @c1..600 connect @c1..600 exchange 64K
    memory
    ((REPLY - before < 2400)) || fail_with "$((REPLY - before)) KiB more memory"
}

# bats test_tags=only-05,companion
@test "uring.7 Out of descriptors, it accepts again as soon as a client leaves" {
    local began i served

    start_uring --open-files 32
    expected "ten clients that wait to be served within 2 s in all, each as soon as another one has left"
    because "EMFILE ends the request to accept. Make a new one when a client leaves: cancel the pause, and do not wait until it is over"
    tell @c1..10 connect @c1..10 exchange 10 @w1..40 connect
    wait_for_log "out of descriptors"
    server_sleeps
    socket_count
    served=$((REPLY - sockets_at_start - 10))
    now
    began=$REPLY
    for i in {1..10}; do
        tell "@c$i" close "@w$((served + i))" exchange 10
    done
    stretch 2000000
    served=$REPLY
    now
    ((REPLY - began <= served)) || fail_with "it took $(((REPLY - began) / 1000)) ms"
    expected "one log line per shortage"
    because "the same shortage goes on while clients wait"
    ! log_has "out of descriptors" 2 || fail_with "the line appears more than once"
}

# bats test_tags=only-05,companion
@test "uring.8 Out of descriptors, it tries again after a second" {
    local before

    start_uring --open-files 16 --faults io_uring_enter:count -q 0
    expected "the server to sleep while clients wait and none leaves, and to try again about once per second"
    because "after EMFILE a new request to accept would fail at once. Wait for a second before you make it: a timeout is a request, too"
    tell @c1..30 connect
    io_uring_was_entered
    wait_for_log "out of descriptors"
    server_sleeps
    fault_calls io_uring_enter
    before=$REPLY
    nap 2.2
    fault_calls io_uring_enter
    ((REPLY > before)) || fail_with "no call of io_uring_enter() in 2.2 s"
    ((REPLY <= before + 20)) || fail_with "$((REPLY - before)) calls of io_uring_enter() in 2.2 s"
    expected "one log line per shortage"
    because "the same shortage goes on while clients wait"
    ! log_has "out of descriptors" 2 || fail_with "the line appears more than once"
}

# bats test_tags=only-05,companion
@test "uring.9 An interrupted wait is made again" {
    start_uring --faults io_uring_enter:EINTR:2%4,io_uring_enter:EBUSY:3%4,io_uring_enter:EAGAIN:5%8 -q 0
    expected "two clients to be served although more than half of the calls of io_uring_enter() fail with EINTR, EBUSY or EAGAIN"
    because "these three errors pass: handle the completions that are there, and call again. The requests are still in the ring"
    peer connect exchange 100K @B connect exchange 100K shutdown eof @A exchange 10 shutdown eof
    faults_reached io_uring_enter
}

# bats test_tags=only-05,companion
@test "uring.10 It says in one line why it cannot go on" {
    local program rule call lines

    find_uring
    program=$REPLY
    because "many systems forbid io_uring. Make the rings before the listener, and end with one line that names the call and its error"
    for rule in io_uring_setup:EPERM io_uring_setup:ENOSYS io_uring_register:EINVAL; do
        call=${rule%:*}
        expected "exit status 1, and one line that names $call(), when it fails with ${rule#*:}"
        start_uring_in_vain "$program" "$rule"
        ((server_status == 1)) || fail_with "the server $server_end"
        lines=$(wc -l <"$server_log")
        ((lines == 1)) || fail_with "$lines lines in the log"
        log_has "uring: $call " || fail_with "a line that does not begin with \"uring: $call\""
    done
    ends_for_an_error uring "$program" io_uring_enter:EINVAL:2+
}

# start_uring_in_vain PROGRAM RULE: starts it where RULE forbids io_uring, and waits for its end. Skips the test if
# faults.so does not see its calls.
start_uring_in_vain() {
    launch_server --program "$1" --faults "$2" 0
    await has_ended_or_started || fail_with "the server did not exit"
    faults_reached "${2%:*}"
    has_ended "$server_pid" || fail_with "the server started up anyway"
    reap_server
}

# bats test_tags=only-05,companion
@test "uring.11 Urgent bytes take no buffer from the pool" {
    local round

    start_uring -q 0
    expected "a client to be served after twelve others have sent some hundred urgent bytes each, and nothing else"
    because "after that many, a thread of the kernel waits for such a client, and holds a buffer. Limit these threads (IORING_REGISTER_IOWQ_MAX_WORKERS)"
    tell @A connect @u1..12 connect
    # When A gets its echo, the server has looked at the urgent bytes that came before. If the next ones came earlier, these
    # would become ordinary bytes, and end the request. So the test stops when the kernel has started a thread.
    for round in {1..300}; do
        tell @u1..12 urgent '!' @A exchange 10
        ((round < 100)) || nap
        thread_count
        ((REPLY == 1)) || break
    done
    nap 0.2 # for the threads of the other clients, if there are any
    tell @A roundtrips 20 10
    server_sleeps
}
