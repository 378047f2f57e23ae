#!/usr/bin/env bats
#
# The steps of stage 06: the wait ends in time for other work, and for closing clients that went
# quiet. "Too early" is judged by one clock, which starts before the cause and ends after the effect,
# so the load of the machine cannot make the verdict wrong. "Too late" has a wide margin, which SLOW
# stretches.
#
# Where a server wakes up often, the test does not check that it sleeps, because on a busy machine the
# server waits for a core each time. Instead the test counts what it does, and stops it at the end.
#
# Other work shows only as a line of the log: "timed out, do some other work here".
#
# Tags: only-06 marks the steps about this client's own options. Its steps of 01 hold as well.

# shellcheck disable=SC2030,SC2031,SC2034,SC2154 # the helper sets and reads what is here
load lib/helper

# meanwhile STEP...: starts a client that does these steps in the background, until meanwhile_no_more.
# One of the steps must be `say ready`: the test goes on when the client reaches it.
meanwhile() {
    : >"$BATS_TEST_TMPDIR/meanwhile"
    launch_peer /dev/null "$BATS_TEST_TMPDIR/meanwhile" "$BATS_TEST_TMPDIR/meanwhile" "$port" "$host" "$@"
    meanwhile_pid=$launched
    wait_until "the other client to be served" meanwhile_is_ready
}

meanwhile_is_ready() {
    read_all "$BATS_TEST_TMPDIR/meanwhile"
    [[ $REPLY == *ready* ]]
}

# Fails if one of these steps did not hold.
meanwhile_no_more() {
    if is_running "$meanwhile_pid"; then
        end_child "$meanwhile_pid"
        return
    fi
    reap "$meanwhile_pid"
    ((child_status == 0)) && return
    read_all "$BATS_TEST_TMPDIR/meanwhile"
    REPLY=${REPLY#*peer: }
    expected "the other client to be served all the time"
    fail_with "the other client: ${REPLY%$'\n'}"
}

# work_was_done N: succeeds if other work was done at least N times. REPLY = the exact number.
work_was_done() {
    REPLY=$(grep -c "^timed out, do some other work here" "$server_log" || :)
    ((REPLY >= $1))
}

# from_now_on: the moment from which work_came_in_time counts. (The clock is read first, and there last.)
from_now_on() {
    now
    work_since=$REPLY
    work_was_done 0 || :
    work_before=$REPLY
}

# work_came_in_time MS: fails if other work was done more often than once every MS since from_now_on, or
# less than a third as often. The upper limit is exact.
work_came_in_time() {
    local interval=$(($1 * 1000)) times passed

    work_was_done 0 || :
    times=$((REPLY - work_before))
    now
    passed=$((REPLY - work_since))
    ((times <= passed / interval + 1)) ||
        fail_with "other work was done too often: $times times in $((passed / 1000)) ms"
    ((times >= passed / interval / 3)) ||
        fail_with "other work was not done often enough: $times times in $((passed / 1000)) ms"
}

# ---- Core ------------------------------------------------------------------------------------

@test "06.1 There is time for other work every -t seconds" {
    expected "other work every 0.05 s (-t 0.05) while no client is connected"
    because "the wait must end when the work is due, not earlier or later: epoll_wait() counts its timeout in milliseconds"
    start_server -t 0.05 -i 0 0
    from_now_on
    wait_until "other work to be done 5 times" work_was_done 5
    work_came_in_time 50
    expected "other work every 0.05 s (-t 0.05) while a client is connected and silent"
    tell connect exchange 10
    wait_until "other work to be done 10 times" work_was_done 10
    work_came_in_time 50
    stop_server
}

@test "06.2 There is time for other work under steady traffic, too" {
    local i

    because "every event ends the wait early: store the time when the work is due, and check the clock after each wait"
    start_server -t 0.05 -i 0 0
    from_now_on
    expected "other work every 0.05 s (-t 0.05) while a client sends a byte every 10 ms"
    tell connect drip 30 10
    work_came_in_time 50
    expected "other work every 0.05 s (-t 0.05) while a client sends as fast as it can"
    tell flood 0.3
    work_came_in_time 50
    stop_server
    tell_no_more
    expected "other work every 0.2 s (-t 0.2) while the server is stopped and continued every 20 ms"
    because "epoll_wait() then fails with EINTR, before its time is over. Compute what is left of the time before you call it again"
    start_server -t 0.2 -i 0 0
    from_now_on
    for i in {1..30}; do
        nap 0.02
        signal_server STOP
        signal_server CONT
    done
    work_came_in_time 200
    stop_server
}

@test "06.3 A quiet client is closed after -i seconds, and never before" {
    start_server -i 0.3 0
    expected "the server to close a quiet client between 300 ms and 1.5 s after the client's last byte (-i 0.3)"
    because "the limit counts from the last byte, not from the connect, and the wait must end when the limit is reached"
    peer connect exchange 10 pause 60 mark send x gone at-least 300 at-most 1500
    expected "the server to close a client that never sends between 300 ms and 1.5 s after its connect (-i 0.3)"
    because "a client that has never sent anything has been quiet since its connect. Note the time when you accept it"
    peer @B mark connect gone at-least 300 at-most 1500
}

@test "06.4 A quiet client is closed while others are busy" {
    start_server -q -i 0.6 0
    expected "a quiet client to be closed between 0.6 s and 2 s after its last byte while another sends every 10 ms"
    because "look for overdue clients after every wait, and move a client that makes progress to the end of the list"
    meanwhile connect exchange 10 say ready drip 500 10
    peer @B connect mark send x gone at-least 600 at-most 2000
    meanwhile_no_more
    expected "a quiet client to be closed between 0.6 s and 2 s after its last byte while another sends nonstop"
    meanwhile @C connect exchange 10 say ready flood 5
    peer @D connect mark send x gone at-least 600 at-most 2000
    meanwhile_no_more
}

@test "06.5 A client that sends a little now and then stays" {
    start_server -i 0.6 0
    expected "a client that sends a byte every 0.25 s to be served for more than 0.6 s (-i 0.6)"
    because "each byte is progress and restarts the limit: -i limits a silence, not the whole connection"
    peer connect drip 4 250 exchange 10
}

@test "06.6 A client that never reads is closed" {
    start_server -q -i 2 0
    expected "a client that sends but does not read to be closed no earlier than 2 s after it has begun to send (-i 2)"
    because "the only progress here would be bytes that send() accepts: bytes in the queue and unread input do not count"
    tell rcvbuf 4K connect exchange 10 mark fill 64M
    wait_until "the server to close that client's socket" sockets_are_closed
    tell gone at-least 2000
}

@test "06.7 Ten clients that went quiet together are all closed" {
    start_server -i 0.2 0
    expected "ten clients that connect and stay silent to be closed within 1.5 s (-i 0.2)"
    because "closing a client removes it from the list: find the next one before you free this one, and close them all"
    peer @c1..10 connect mark @c1..10 gone at-most 1500
}

@test "06.8 With 0 for never, it sleeps until something happens" {
    local before

    start_server -t 0 -i 0 0
    expected "the server to sleep beside a silent client, to keep it, and to do no other work (-t 0 -i 0)"
    because "0 means never, not at once: without a deadline the timeout of epoll_wait() is -1, which waits forever"
    tell connect exchange 10
    wakeups
    before=$REPLY
    server_sleeps 300
    wakeups
    ((REPLY - before <= 5)) || fail_with "the server woke up $((REPLY - before)) times in 300 ms"
    tell exchange 10
    log_lacks "timed out"
}

@test "06.9 A client that reads its echo slowly gets all of it" {
    local steps=() i

    for i in {1..32}; do
        steps+=(expect-bytes 2K pause 40)
    done
    # In a large send buffer all of the echo would find room at once.
    start_server --faults accept:sndbuf=1 -q -i 0.6 0
    expected "a client that sends 64 KiB and then reads 2 KiB of echo every 40 ms to get all of it (-i 0.6)"
    because "bytes that send() accepts are progress, too, because the client has read something. They restart the limit, as those from recv() do"
    peer rcvbuf 4K connect send-bytes 64K "${steps[@]}"
    faults_reached accept
}

# ---- Hardening -------------------------------------------------------------------------------

# REPLY = how often the server has called select, poll or epoll_wait, as far as faults.so sees it.
waits() {
    local call sum=0

    for call in select poll epoll_wait; do
        fault_calls "$call"
        sum=$((sum + REPLY))
    done
    REPLY=$sum
}

@test "06.20 It sleeps until something is due, to the last millisecond" {
    local before passed start

    start_server --faults epoll_wait:count,poll:count,select:count -t 0.02 -i 60 0
    tell connect exchange 10
    expected "at most three waits for each time that other work is done (-t 0.02)"
    because "0.4 ms must be rounded up: a timeout of 0 ms makes the loop spin through the last millisecond (busy-waiting)"
    waits
    before=$REPLY
    ((before > 0)) || skip "faults.so sees no call of select, poll or epoll_wait in this server"
    now
    start=$REPLY
    nap 0.3
    waits
    before=$((REPLY - before))
    now
    passed=$(((REPLY - start) / 1000))
    ((before <= 3 * passed / 20 + 10)) || fail_with "the server waited $before times in $passed ms"
    stop_server
}

@test "06.21 Work that was missed is skipped" {
    local before continued passed

    start_server -t 0.05 -i 0 0
    wait_until "other work to be done" work_was_done 1
    expected "the server to skip the work that it missed while it was stopped for 0.3 s, and to go on every 0.05 s (-t 0.05)"
    because "the next time must be computed from now: the time that was missed, plus -t, is still in the past"
    wait_until "the server to wait" has_no_running_thread "$server_pid"
    signal_server STOP
    nap 0.3
    work_was_done 0
    before=$REPLY
    now
    continued=$REPLY
    signal_server CONT
    wait_until "other work to be done again" work_was_done $((before + 2))
    before=$((REPLY - before))
    now
    passed=$(((REPLY - continued) / 1000))
    ((before <= passed / 50 + 2)) || fail_with "other work was done $before times in $passed ms"
    stop_server
}

# bats test_tags=method
@test "06.22 Out of descriptors it tries again after a second, whatever else is due" {
    local least_wait=3000000

    start_server --faults accept:EMFILE:1 -t 0 -i 0 0
    expected "a client to be served about a second after accept() failed with EMFILE, when nothing else is due"
    because "the time to call accept() again is a deadline like the others: the wait must end then"
    tell connect
    server_sleeps
    tell exchange 10
    faults_reached accept
    tell_no_more
    stop_server
    start_server --faults accept:EMFILE:1+ -t 0.02 -i 0.3 0
    expected "at most 3 calls of accept() in 0.2 s while it fails with EMFILE, although other deadlines end the wait"
    because "the listener stays readable: leave it out of the wait until the second is over, whatever else is due"
    tell connect
    nap 0.2
    fault_calls accept
    ((REPLY <= 3)) || fail_with "the server called accept() $REPLY times"
    stop_server
}

@test "06.23 A step of the system's clock changes nothing" {
    local shift

    for shift in 3600 -3600; do
        start_server --faults "clock:shift=$shift:after=0.2" -t 0.05 -i 0.5 0
        expected "a quiet client to be closed after 0.5 s although the system clock is set by $shift s meanwhile"
        because "people and NTP set CLOCK_REALTIME, but CLOCK_MONOTONIC cannot be set: clock_gettime(2)"
        peer connect mark send x gone at-least 500 at-most 2000
        expected "other work to go on although the system clock was set by $shift s"
        work_was_done 0 || :
        wait_until "other work to be done again" work_was_done $((REPLY + 2))
        stop_server
    done
}

@test "06.24 A server that was stopped reads from its clients before it closes them" {
    start_server -q -i 0.5 0
    expected "all 100 clients that sent something while the server was stopped for longer than -i to be served"
    because "the server was late, not the clients: read all that has arrived, with several epoll_wait() calls, before closing"
    tell connect @c1..100 connect @c100 exchange 10
    signal_server STOP
    tell @c1..100 send-bytes 10
    nap 0.6
    signal_server CONT
    tell @c1..100 drain
    expected "the client that sent nothing to be closed"
    because "a client that has sent nothing is overdue, also after the server was stopped. Close it when you have read from the others"
    tell @A gone
}

@test "06.25 It refuses times that are not numbers of seconds" {
    local option bad

    because "atof() accepts -1, abc (as 0) and 1x (as 1): use strtod(). Both nan < 0 and nan > 86400 are false: ask !(value >= 0 && value <= 86400)"
    for option in -t -i; do
        for bad in -1 abc 1x 1e9 nan ""; do
            expected "exit status 2, and the usage, for $option \"$bad\""
            run_server "$option" "$bad" 0
            ((server_status == 2)) || fail_with "the server $server_end"
            log_mentions usage || fail_with "the server printed no usage"
        done
    done
}

@test "06.26 The smallest -i closes clients without spinning" {
    local limit

    for limit in 1e-9 1e-8 0.000001; do
        start_server -q -i "$limit" 0
        expected "three clients that have just sent something to be closed with -i $limit, and the server to sleep"
        because "if the loop that closes idle clients reads the clock again each time, it never gets to the end. Read the clock once before it"
        while_stopped tell connect send-bytes 10 @B connect send-bytes 10 @C connect send-bytes 10
        wait_until "the server to close its clients' sockets" sockets_are_closed
        server_sleeps
        tell_no_more
        stop_server
    done
}

# bats test_tags=wording
@test "06.27 The log tells of other work, and why a quiet client was closed" {
    local client

    start_server -t 0.1 -i 0.25 0
    expected "the two log lines of this step, word for word"
    because "the log must say why the client was closed, with the limit that -i has set"
    wait_for_log "timed out, do some other work here"$'\n'
    tell connect local
    client=${told#* }
    wait_for_log "closing $client after 0.25 s without progress"$'\n'
    stop_server
}

# ---- Client ----------------------------------------------------------------------------------

# bats test_tags=only-06,client
@test "06.40 The client pauses after each message" {
    serve accept expect one mark send one expect two at-least 200 send two eof at-least 400 close
    expected "at least 0.2 s between a reply and the next message (-p 0.2), and exit status 0"
    because "the pause must begin when the whole reply has arrived, and last as long as -p says"
    start_client -p 0.2 "$port" 127.0.0.1 one two
    serve_ends
    client_ends 0
}

# client_gives_up_within FIRST LAST [ARGUMENT]...: fails unless the client ends with status 1, no
# earlier than FIRST and no later than LAST ms after its start. The time that it needs to start is not
# counted: it is measured with arguments that the client refuses.
client_gives_up_within() {
    local first=$1 last start

    now
    start=$REPLY
    start_client nonsense
    if await has_ended "$client_pid"; then
        reap "$client_pid"
    fi
    now
    start=$((2 * (REPLY - start)))
    stretch $(($2 * 1000))
    last=$((REPLY + start))
    shift 2
    now
    start=$REPLY
    run_client 1 "$@"
    now
    ((REPLY - start >= first * 1000)) ||
        fail_with "the client gave up too early, after $(((REPLY - start) / 1000)) ms"
    ((REPLY - start <= last)) ||
        fail_with "the client gave up too late, after $(((REPLY - start) / 1000)) ms"
}

# bats test_tags=only-06,client
@test "06.41 The client gives up a connect that gets no answer" {
    serve -f hold
    expected "exit status 1 after 0.2 s (-l 0.2), and an error that names connect and the limit"
    because "the kernel tries to connect for two minutes: set O_NONBLOCK before connect(), then poll() with a timeout"
    client_gives_up_within 200 1500 -l 0.2 "$port" 127.0.0.1 hello
    client_complains "connect*0.2"
}

# bats test_tags=only-06,client
@test "06.42 The client gives up a reply that does not come" {
    serve accept expect hello hold
    expected "exit status 1 after 0.2 s (-l 0.2), and an error that names the reply and the limit"
    because "the client must poll() with a timeout before it calls recv(): poll() returns 0 when the time is over"
    client_gives_up_within 200 1500 -l 0.2 "$port" 127.0.0.1 hello
    client_complains "repl*0.2"
    expected "exit status 1 after 0.2 s (-l 0.2) when the server has replied but does not close the connection"
    serve accept expect hello send hello eof hold
    client_gives_up_within 200 1500 -l 0.2 "$port" 127.0.0.1 hello
    client_complains "0.2"
}

# bats test_tags=only-06,client
@test "06.43 A byte now and then does not extend the limit on a reply" {
    serve accept expect hello send h pause 150 send e pause 150 send l pause 150 send l pause 150 send o eof close
    expected "exit status 1 after 0.4 s (-l 0.4) although a byte arrives every 0.15 s"
    because "the deadline must be computed once per reply, before the loop, so each poll() gets only the time that is left"
    client_gives_up_within 400 1500 -l 0.4 "$port" 127.0.0.1 hello
    expected "three replies that take 0.15 s each to be in time, because each has its own limit (-l 0.4)"
    serve accept expect a pause 150 send a expect b pause 150 send b expect c pause 150 send c eof close
    run_client 0 -l 0.4 "$port" 127.0.0.1 a b c
    serve_ends
}

# bats test_tags=only-06,client
@test "06.44 The client tries again when it is refused, but not forever" {
    start_server
    expected "exit status 0 at least 0.1 s after the start, when the first two attempts to connect are refused"
    because "a server that is still starting refuses connections: wait, longer each time, and try with a new socket"
    now
    start=$REPLY
    run_client 0 --faults connect:ECONNREFUSED:1-2 "$port" "$host" hello
    now
    start=$((REPLY - start))
    faults_reached connect
    ((start >= 100000)) || fail_with "the client ended after $((start / 1000)) ms"
    expected "exit status 1, \"refused\" on standard error, and 2 to 10 attempts to connect when no server listens"
    serve -b hold
    run_client 1 --faults connect:count "$port" 127.0.0.1 hello
    client_complains "refused"
    fault_calls connect
    ((REPLY > 1 && REPLY <= 10)) || fail_with "the client called connect() $REPLY times"
    expected "the limit to hold for all attempts to connect together (-l 0.15)"
    because "the client must give up as soon as the next pause would last longer than the limit"
    client_gives_up_within 0 350 -l 0.15 "$port" 127.0.0.1 hello
}

# bats test_tags=only-06,client
@test "06.45 The client refuses times that are not numbers of seconds" {
    local option bad

    because "atof() accepts -1, abc (as 0) and 1x (as 1): use strtod(), and check the range and where the number ends"
    for option in -p -l; do
        for bad in -1 abc 1x 1e9 ""; do
            expected "exit status 2, and the usage, for $option \"$bad\""
            run_client 2 "$option" "$bad" 10000 127.0.0.1 hello
            client_complains usage
        done
    done
}

# ---- select-timeout.c ------------------------------------------------------------------------

# bats test_tags=only-06,companion
@test "select-timeout.1 After a silence select times out, and there is time for other work" {
    build_program 06-timeouts/select-timeout
    start_server --program "${SELECT_TIMEOUT:-$REPLY}" -t 0.1 0
    because "select() returns 0 at its timeout, and glibc leaves 0 s in the timeval: set it again before each call"
    expected "other work after each 0.1 s of silence"
    wait_for_log "select left 0.000 s in the timeval" 3
    wait_for_log "timed out, do some other work here" 3
    expected "a client to be served between two timeouts"
    peer connect exchange 100 shutdown eof
    expected "the server to sleep between two timeouts"
    server_sleeps
    stop_server
    expected "no other work with -t 0, which means never"
    because "select() waits without a limit when its last argument is NULL"
    build_program 06-timeouts/select-timeout
    start_server --program "${SELECT_TIMEOUT:-$REPLY}" -t 0 0
    peer connect exchange 100 shutdown eof
    server_sleeps
    log_lacks "timed out, do some other work here"
}

# bats test_tags=only-06,companion
# timed_out_at_last: true if the log has a timeout after all that was received. For wait_until.
timed_out_at_last() {
    read_all "$server_log"
    [[ ${REPLY##*received } == *"timed out, do some other work here"* ]]
}

@test "select-timeout.2 Under steady traffic the other work never comes" {
    local between

    build_program 06-timeouts/select-timeout
    start_server --program "${SELECT_TIMEOUT:-$REPLY}" -t 2 0
    because "every event ends the wait, and the next call of select() begins with the whole time again"
    expected "no timeout within 2.5 s, because a byte arrives every 50 ms"
    tell connect exchange 1 drip 50 50
    read_all "$server_log"
    between=${REPLY#*received } # what came before the first byte, or after the last, does not count
    between=${between%received *}
    [[ $between != *"timed out, do some other work here"* ]] ||
        fail_with 'the log says "timed out, do some other work here"'
    expected "a timeout once the client has been silent for two seconds"
    wait_until "another timeout" timed_out_at_last
}

# bats test_tags=only-06,companion
@test "select-timeout.3 An error that will not pass ends it" {
    local program

    build_program 06-timeouts/select-timeout
    program=$REPLY
    ends_for_an_error select-timeout "$program" accept:EINVAL:1+
    ends_for_an_error select-timeout "$program" select:EINVAL:2+
    refuses_high_listener select-timeout "$program"
}
