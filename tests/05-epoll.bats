#!/usr/bin/env bats
#
# The steps of stage 05: the kernel keeps the list, so that what an event costs does not depend on
# how many others wait. Each is judged on the wire and by what the process does; the wording of the
# log is judged in one step alone.
#
# Tags: only-05 holds in no later stage: here they are the steps of the client, which is a load
# generator and has no likeness among the others.

# shellcheck disable=SC2030,SC2031,SC2034,SC2154 # the helper sets and reads what is here
load lib/helper

# ---- Very many clients -----------------------------------------------------------------------

@test "05.1 Eight thousand clients are all served" {
    needs_open_files 8200
    start_server --open-files 8200 -q 0
    expected "all of 8,000 clients to connect, and each to get its own echo when all speak at once"
    because "the kernel keeps the list: add each descriptor once, and do not walk over all that you have"
    tell @c1..8000 connect
    signal_server STOP
    tell @c1..8000 send-bytes 10
    signal_server CONT
    tell @c1..8000 drain
    expected "the server to sleep beside them, and to close them all when they leave"
    server_sleeps
    tell @c1..8000 reset
    wait_until "their sockets to be closed" sockets_are_closed
}

# Puts the server and the test's clients on one core, where there is a taskset. On two, most of what
# the server runs for is to wake up the other core, now and then: ten times the cost of a message.
share_a_core() {
    local name value pid core=

    while read -r name value; do
        if [[ $name == Cpus_allowed_list: ]]; then
            core=${value%%[-,]*}
        fi
    done </proc/self/status
    for pid in "$server_pid" "$tell_pid"; do
        taskset -a -c -p "$core" "$pid" >/dev/null 2>&1 || :
    done
}

# least_run_time: REPLY = the microseconds that the server runs for 200 small messages. The least
# of five times: whatever comes between makes it longer.
least_run_time() {
    local i before least=

    for i in {1..5}; do
        run_time
        before=$REPLY
        tell @active roundtrips 200 10
        run_time
        if [[ -z $least ]] || ((REPLY - before < least)); then
            least=$((REPLY - before))
        fi
    done
    REPLY=$((least > 0 ? least : 1))
}

@test "05.2 An event costs the same beside five thousand silent clients" {
    local alone last

    needs_open_files 5200
    start_server --open-files 5200 -q 0
    tell @active connect
    share_a_core
    least_run_time
    alone=$REPLY
    # When connect() is done the server need not have accepted. When the last one is served it has.
    for last in 1000 2000 3000 4000 5000; do
        tell "@idle$((last - 999))..$last" connect "@idle$last" exchange 10
    done
    least_run_time
    expected "200 messages to cost at most 10 times the CPU time that they cost with nobody else there ($alone us)"
    because "select() and poll() look at every descriptor each time; epoll_wait() only at those that are ready"
    ((REPLY <= 10 * alone)) || fail_with "$REPLY us with 5,000 silent clients, $((REPLY / alone)) times as much"
    tell @idle1..5000 reset
}

# ---- Each has its turn -----------------------------------------------------------------------

@test "05.3 Three greedy clients do not hold up a quiet one" {
    # What the greedy ones have sent waits in the kernel, and each recv() brings 16 bytes of it: a
    # server that serves one of them to the end needs 12,800 calls for that. After half of all that
    # it stops itself (19 is SIGSTOP), so that no load of the machine can make a difference.
    start_server --faults recv:sig=19:19200,recv:cap=16 -q 0
    expected "a quiet client to have three messages answered before half of what the others sent is read; then the server is stopped"
    because "recv() again and again until EAGAIN is to serve one alone: one turn, and then the next; epoll reminds you"
    signal_server STOP
    tell @greedy1..3 connect send-bytes 200K @quiet connect send-bytes 10
    signal_server CONT
    tell @quiet drain exchange 10 exchange 10
    faults_reached recv
    wait_until "half to be read" is_stopped "$server_pid"
    signal_server CONT
    tell @greedy1..3 drain
}

# ---- What we wait for ------------------------------------------------------------------------

@test "05.4 While small messages go back and forth epoll_ctl() is not called" {
    local before

    start_server --faults epoll_ctl:EINTR:1000000 -q 0 # never strikes, but counts
    tell @c1..3 connect @c1..3 exchange 10
    fault_calls epoll_ctl
    before=$REPLY
    ((before > 0)) || skip "this server calls no epoll_ctl(), or not through the C library"
    expected "not one call of epoll_ctl() for 300 small messages"
    because "send at once what recv() brought, and ask for EPOLLOUT only when some of it is left; the kernel forgets nothing"
    tell @c1..3 roundtrips 100 10
    fault_calls epoll_ctl
    ((REPLY == before)) || fail_with "$((REPLY - before)) calls"
    expected "not one more for 300 small messages, when a slow reader has got all that was left"
    because "when the queue is empty stop asking for EPOLLOUT, once"
    tell @slow rcvbuf 4K connect fill 64M
    tell @slow drain exchange 10
    fault_calls epoll_ctl
    before=$REPLY
    tell @c1..2 roundtrips 100 10 @slow roundtrips 100 10
    fault_calls epoll_ctl
    ((REPLY == before)) || fail_with "$((REPLY - before)) calls"
    server_sleeps
}

# ---- The log ---------------------------------------------------------------------------------

@test "05.5 The log tells that a queue is empty only when something had been left over" {
    local client

    start_server
    expected "no word of a queue for small messages, which send() takes whole"
    because "what never had to wait was in no queue"
    tell rcvbuf 4K connect local
    client=${told#* }
    tell exchange 10 exchange 1000
    wait_for_log " to $client"$'\n' 2
    log_lacks "output queue"
    expected "the line of the README when a client has read what was left over"
    tell fill 64M
    log_lacks "output queue for $client is empty"
    tell drain
    wait_for_log "output queue for $client is empty"$'\n'
}

# ---- The client ------------------------------------------------------------------------------

# Its standard output, taken to pieces: $messages, $rate (a second), $elapsed (ms), $p50 $p99 $p999
# $longest (us).
read_figures() {
    local text

    read_all "$client_out"
    text=$REPLY
    [[ $text =~ ([0-9]+)\ messages[^/] ]] || fail_with "no line that says how many messages came back"
    messages=${BASH_REMATCH[1]}
    [[ $text =~ ([0-9]+)\ messages/s ]] || fail_with "no figure for messages/s"
    rate=${BASH_REMATCH[1]}
    [[ $text =~ ([0-9.]+)\ MB/s ]] || fail_with "no figure for MB/s"
    [[ $text =~ ([0-9]+)\.([0-9][0-9])\ s$'\n' ]] || fail_with "no figure for the time that it took"
    elapsed=$((BASH_REMATCH[1] * 1000 + 10#${BASH_REMATCH[2]} * 10))
    [[ $text =~ p50\ ([0-9]+)\.([0-9]{3})\ ms ]] || fail_with "no figure for p50"
    p50=$((10#${BASH_REMATCH[1]}${BASH_REMATCH[2]}))
    [[ $text =~ p99\ ([0-9]+)\.([0-9]{3})\ ms ]] || fail_with "no figure for p99"
    p99=$((10#${BASH_REMATCH[1]}${BASH_REMATCH[2]}))
    [[ $text =~ p99\.9\ ([0-9]+)\.([0-9]{3})\ ms ]] || fail_with "no figure for p99.9"
    p999=$((10#${BASH_REMATCH[1]}${BASH_REMATCH[2]}))
    [[ $text =~ longest\ ([0-9]+)\.([0-9]{3})\ ms ]] || fail_with "no figure for the longest"
    longest=$((10#${BASH_REMATCH[1]}${BASH_REMATCH[2]}))
}

# bats test_tags=only-05,client
@test "05.6 The client sends as many messages as it is told to, and no more" {
    local messages rate elapsed p50 p99 p999 longest

    start_server --faults recv:cap=1000000 -q 0 # never strikes, but counts
    expected "exit status 0, 500 messages of one byte, and as many sends of the server"
    because "count a message when it begins and when it is back; a few more may be needed to open connections"
    run_client 0 -c 1 -n 500 -s 1 "$port" "$host"
    read_figures
    ((messages == 500)) || fail_with "$messages messages"
    fault_calls send
    ((REPLY == 0 || (REPLY >= 500 && REPLY <= 510))) || fail_with "the server has sent $REPLY times"
    expected "the same number for 20 connections with 4 messages of 10,000 bytes each on their way at once"
    run_client 0 -c 20 -n 500 -s 10000 -P 4 "$port" "$host"
    read_figures
    ((messages == 500)) || fail_with "$messages messages"
    expected "an end after the time that -d says, in seconds"
    run_client 0 -c 10 -d 0.3 "$port" "$host"
    read_figures
    ((elapsed >= 290)) || fail_with "an end after $elapsed ms"
}

# bats test_tags=only-05,client
@test "05.7 The client's figures are true" {
    local messages rate elapsed p50 p99 p999 longest expected_rate

    start_server -q 0
    expected "a rate that is the number of messages through the time, within a tenth"
    because "the clock starts with the first message and stops with the last echo"
    run_client 0 -c 10 -d 0.5 "$port" "$host"
    read_figures
    expected_rate=$((messages * 1000 / elapsed))
    ((rate > expected_rate * 9 / 10 && rate < expected_rate * 11 / 10)) ||
        fail_with "$rate messages/s for $messages messages in $elapsed ms"
    expected "p50, p99, p99.9 and the longest in this order"
    because "a percentile is the time in which so many of a hundred messages are back: count from the short ones"
    ((0 < p50 && p50 <= p99 && p99 <= p999 && p999 <= longest)) ||
        fail_with "p50 $p50, p99 $p99, p99.9 $p999, longest $longest us"
    expected "a pause of 200 ms of the server to be seen in the longest time, and not in p50"
    because "begin to count when send() takes the message, and end when all of its echo is there"
    wait_until "the sockets to be closed" sockets_are_closed
    wakeups
    start_client -c 1 -d 0.6 "$port" "$host"
    wait_until "messages to go back and forth" server_has_woken_up $((REPLY + 20))
    signal_server STOP
    nap 0.2
    signal_server CONT
    client_ends 0
    read_figures
    ((longest >= 150000 && p50 < 100000)) || fail_with "p50 $p50 us, longest $longest us"
}

server_has_woken_up() {
    wakeups
    ((REPLY >= $1))
}

# bats test_tags=only-05,client
@test "05.8 The client finds an echo that is wrong" {
    expected "exit status 1, and the reason on standard error, for other bytes than it sent"
    because "as many bytes are not yet the same bytes: compare each with what stands there in the stream"
    serve accept expect-any send '\x01\xfe\x02\xfd' gone
    run_client 1 -c 1 -n 10 -s 4 "$port" "$host"
    client_complains "?"
    expected "the same for more bytes than it sent"
    serve accept send 'x' gone
    run_client 1 -c 1 -n 10 -s 4 "$port" "$host"
    client_complains "?"
}

# bats test_tags=only-05,client
@test "05.9 The client says so when the server leaves" {
    because "a figure that was taken from half a run is worth nothing: say what happened, and exit(1)"
    expected "exit status 1, and the reason on standard error, when the server hangs up"
    serve accept expect-any close hold
    run_client 1 -c 1 -n 10 "$port" "$host"
    client_complains "?"
    expected "the same when the server is killed while all send"
    start_server -q 0
    start_client -c 20 -d 10 "$port" "$host"
    wait_until "the client to connect" has_a_client
    stop_server KILL
    client_ends 1
    client_complains "?"
    expected "exit status 1, and an error that says \"refused\", when nobody listens"
    because "connect() fails with ECONNREFUSED, at once or a little later: then SO_ERROR or recv() tells"
    serve -b hold
    run_client 1 -c 10 -n 10 "$port" "$host"
    client_complains "refused"
}

# bats test_tags=only-05,client
@test "05.10 The client says at once when it cannot have as many connections" {
    local bad

    serve no-accept 300
    expected "exit status 1, and on standard error what to raise: ulimit -n"
    because "each connection is a descriptor: compare with getrlimit(RLIMIT_NOFILE) before you connect"
    run_client 1 --open-files 64 -c 1000 "$port" "$host"
    client_complains "ulimit -n"
    because "what is not understood must not be ignored"
    for bad in "-c 0" "-c 2x" "-n -1" "-d abc" "-s 0" "-P 0" "-x"; do
        expected "exit status 2, and the usage, for $bad"
        # shellcheck disable=SC2086 # two words
        run_client 2 $bad "$port" "$host"
        client_complains sage
    done
    expected "not one connection to the server before all this is said"
    because "compare what is wanted with getrlimit(RLIMIT_NOFILE) first"
    serve_ends
}

# bats test_tags=only-05,client
@test "05.11 A server that never answers ends the client" {
    serve accept hold
    expected "exit status 1, and the reason on standard error, about 5 s after the last echo came"
    because "connect() succeeds as soon as the kernel has met us: only an echo shows that somebody is there"
    start_client -c 1 -d 0.1 "$port" "$host"
    await has_ended "$client_pid" || : # the tests' own patience is about as long; once more
    client_ends 1
    client_complains "?"
}

# ---- edge.c: each change is reported once ----------------------------------------------------
#
# EDGE and CALLBACKS may name other programs, as SERVER and CLIENT do.

start_edge() {
    build_program 05-epoll/edge
    start_server --program "${EDGE:-$REPLY}" "$@"
}

# bats test_tags=only-05,companion
@test "05.12 edge: what came at once is read to its end" {
    start_edge
    expected "256 KiB that came while the server was stopped, and nothing after them, to come back"
    because "their arrival is reported once: go on until recv() fails with EAGAIN, or the rest waits for ever"
    signal_server STOP
    tell connect send-bytes 256K
    signal_server CONT
    tell drain exchange 10
    expected "the same for a megabyte, of which the server's socket has room for a part only"
    signal_server STOP
    tell send-bytes 1M
    signal_server CONT
    tell drain exchange 10
}

# bats test_tags=only-05,companion
@test "05.13 edge: what came in one report with its end of file is answered, and closed" {
    start_edge
    expected "its echo and then end of file, for a client that had sent and half-closed before it was looked at"
    because "recv() that brings less than asked for has not seen the end: only EAGAIN says that nothing is left"
    signal_server STOP
    tell @short connect send hello shutdown @long connect send-bytes 300K shutdown
    signal_server CONT
    tell @short expect hello eof @long drain eof
}

# bats test_tags=only-05,companion
@test "05.14 edge: all who connected at once are accepted" {
    start_edge
    expected "20 clients that connected while the server was stopped to be served, though no other comes"
    because "twenty may be reported as one: accept() until it fails with EAGAIN"
    signal_server STOP
    tell @c1..20 connect @c1..20 send-bytes 10
    signal_server CONT
    tell @c1..20 drain
}

# bats test_tags=only-05,companion
@test "05.15 edge: input that came while a reply was owed is not forgotten" {
    start_edge
    expected "every byte from a client that sent until all buffers were full, and only then began to read"
    because "what it sent meanwhile was reported when we would not read: keep that until we will"
    tell rcvbuf 4K connect fill 64M
    server_sleeps
    tell drain exchange 10
}

# bats test_tags=only-05,companion
@test "05.16 edge: those who waited for a descriptor are accepted when there is one" {
    start_edge --open-files 32
    expected "those who wait for a descriptor to be served when others have left, though nobody else connects"
    because "they were reported when they came, and never again: remember them, and try accept() again"
    signal_server STOP
    tell @c1..50 connect
    signal_server CONT
    wait_for_log "out of descriptors"
    server_sleeps
    tell @c1..10 exchange 10 close
    tell @c11..30 exchange 10 close
    tell @c31..50 exchange 10
}

# bats test_tags=only-05,companion
@test "05.17 edge: a call that a signal interrupted is made again" {
    start_edge --faults accept:EINTR:1%2,recv:EINTR:1%3,send:EINTR:2%3,epoll_wait:EINTR:2%3
    expected "two clients to be accepted and served, with every third call interrupted"
    because "EINTR does not say that nothing is there, as EAGAIN does: nothing will be reported anew"
    signal_server STOP
    tell @a connect send-bytes 200K @b connect send-bytes 200K
    signal_server CONT
    tell @a drain shutdown eof @b drain shutdown eof
    faults_reached accept recv send
}

# bats test_tags=only-05,companion
@test "05.18 edge: clients that flood hold up no one" {
    # As in 05.3.
    start_edge --faults recv:sig=19:19200,recv:cap=16 -q 0
    expected "a client of few words to be served before half of what the others sent is read; then the server is stopped"
    because "to go on until EAGAIN is to serve one client alone: one turn, then to the end of the list"
    signal_server STOP
    tell @greedy1..3 connect send-bytes 200K @quiet connect send hello
    signal_server CONT
    tell @quiet expect hello
    faults_reached recv
    wait_until "half to be read" is_stopped "$server_pid"
    signal_server CONT
    tell @greedy1..3 drain
}

# bats test_tags=only-05,companion
@test "05.19 edge: it calls epoll_ctl() once for each client" {
    start_edge --faults epoll_ctl:EINTR:1000000
    expected "no epoll_ctl() but the one that names a client to the kernel"
    because "all is asked for at once, and for good: what is wanted now, the server knows by itself"
    tell @c1..5 connect @c1..5 roundtrips 10 100
    tell @slow rcvbuf 4K connect fill 64M
    tell drain
    fault_calls epoll_ctl
    ((REPLY > 0)) || skip "faults.so sees no epoll_ctl of this server"
    ((REPLY == 7)) || fail_with "$REPLY calls of epoll_ctl() for a listener and 6 clients"
}

# ---- callbacks.c: a loop that knows nothing --------------------------------------------------

# start_callbacks ITS-OPTIONS [OPTION OF start_server]...
start_callbacks() {
    build_program 05-epoll/callbacks -pthread
    start_server --program "${CALLBACKS:-$REPLY} $1" "${@:2}"
}

# The same, built with the address sanitizer, unless it is somebody else's program.
start_checked_callbacks() {
    local program=$build/05-epoll/callbacks-address

    if [[ -z ${CALLBACKS-} ]]; then
        compile "$program" "$course/05-epoll/callbacks.c" -pthread -g -fsanitize=address 2>/dev/null ||
            skip "this compiler has no address sanitizer"
    fi
    start_server --program "${CALLBACKS:-$program} $1" "${@:2}"
}

# log_has_in_order TEXT...: fails when the log does not hold each of them after the one before
log_has_in_order() {
    local text

    read_all "$server_log"
    for text in "$@"; do
        [[ $REPLY == *"$text"* ]] || fail_with "the log has no \"$text\" after what comes before it"
        REPLY=${REPLY#*"$text"}
    done
}

# bats test_tags=only-05,companion
@test "05.20 callbacks: the loop is short, and knows neither sockets nor echo" {
    local loop word

    expected "a loop of fewer than 80 lines, neither blank nor comment, between its heading and the next"
    because "what the loop knows, all that hangs on it must live with"
    loop=$(awk '/^\/\* ---- The loop/ { inside = 1; next } /^\/\* ---- / { inside = 0 } inside' \
        "$course/05-epoll/callbacks.c" | grep -vE '^[[:space:]]*(/\*.*|\*.*|//.*)?$')
    [[ $loop == *epoll_wait* ]] || fail_with "no epoll_wait() below such a heading"
    (($(wc -l <<<"$loop") < 80)) || fail_with "$(wc -l <<<"$loop") lines"
    expected "none of accept, recv, send, socket, connection, queue in it"
    for word in accept recv send socket connection queue; do
        [[ $loop != *"$word"* ]] || fail_with "the word \"$word\""
    done
}

# bats test_tags=only-05,companion
@test "05.21 callbacks: a slow callback keeps everybody waiting" {
    start_callbacks "--slow 50"
    expected "five messages that came at once to take five times 50 ms: one after the other"
    because "who sleeps in a callback stops the loop: that is what --slow shows"
    signal_server STOP
    tell @c1..5 connect send-bytes 10
    tell mark
    signal_server CONT
    tell @c1..5 drain at-least 250
    stop_server
    tell_no_more

    start_callbacks "--slow 50"
    expected "a client who connects meanwhile to be accepted only after the slow message is answered"
    tell @slow connect exchange 10
    signal_server STOP
    tell @slow send hello @new connect
    signal_server CONT
    tell @slow expect hello @new exchange 10
    log_has_in_order 'sending "hello"' "new connection"
}

# bats test_tags=only-05,companion
@test "05.22 callbacks: with a worker nobody waits for another" {
    start_callbacks "--slow 200 --worker"
    expected "ten messages that came at once and take 200 ms each to take less than half of 2 s together"
    because "the loop must hand the work to a thread, and go back to epoll_wait()"
    signal_server STOP
    tell @c1..10 connect send-bytes 10
    tell mark
    signal_server CONT
    tell @c1..10 drain at-least 200 at-most 1000
    expected "each client's own echo, in order, while the work of others goes on"
    tell @c1..10 send-bytes 100K
    server_sleeps
    tell @c1..10 drain
    tell @c1..10 shutdown @c1..10 eof
    stop_server
    tell_no_more

    start_callbacks "--slow 200 --worker"
    expected "a client who connects meanwhile to be accepted before the slow message is answered"
    tell @slow connect exchange 10
    signal_server STOP
    tell @slow send hello @new connect
    signal_server CONT
    tell @slow expect hello @new exchange 10
    log_has_in_order 'received "hello"' "new connection" 'sending "hello"'
}

# stale_events ROUNDS [STEP...]: in one batch a client is closed by another's login, its descriptor
# goes to a newcomer, and then its own last event comes. (Before the server is stopped each client's
# echo was waited for before the next one spoke: so epoll_wait() was called since, and no old event
# is left to change their order.) The steps are what that client does after its login.
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
@test "05.23 callbacks: an event of one who is gone does not reach the next with its number" {
    because "the batch holds events of what was unregistered since: keep that until its end, and call it no more"
    start_callbacks ""
    expected "a newcomer to be untouched, 200 times, by the last event of the client whose descriptor it got"
    stale_events 200
    [[ $(grep -c "after another login" "$server_log") == 200 ]] || fail_with "not 200 logins that ended another"
    expected "the same when that client was owed something, so that a hang-up is all that is left of it"
    stale_events 1 fill 64M
    stop_server
    expected "the same, and not a word from the address sanitizer"
    start_checked_callbacks ""
    stale_events 10
}

# bats test_tags=only-05,companion
@test "05.24 callbacks: a client may leave, or be closed, while a worker has its message" {
    start_checked_callbacks "--slow 100 --worker"
    expected "those who have left to be forgotten, and those who came instead to get their own echo alone"
    because "the worker and the list of those done hold pointers: free nothing that they may still use"
    tell @leaving1..5 connect send-bytes 1000 @old connect send login
    wait_for_log "received" 6
    tell @leaving1..5 reset @next connect send login
    wait_for_log "after another login"
    tell @c1..6 connect silence 200
    tell @c1..6 exchange 100 @next expect login shutdown eof
}

# bats test_tags=only-05,companion
@test "05.25 callbacks: options that make no sense are refused" {
    local options

    because "a number is checked before it is used; exit status 2 is for a wrong command line"
    build_program 05-epoll/callbacks -pthread
    for options in "--slow" "--slow x" "--slow -1" "--slow 60001" "--fast" "-s 1x" "0 127.0.0.1 1"; do
        expected "callbacks $options to print the usage and exit with 2"
        run_server --program "${CALLBACKS:-$REPLY} $options"
        ((server_status == 2)) || fail_with "it $server_end"
        log_has "usage: callbacks" || fail_with "no usage"
        build_program 05-epoll/callbacks -pthread
    done
}
