#!/usr/bin/env bats
#
# The steps of stage 06: the wait has an end, for other work and for clients that went quiet. What
# is "too early" is judged by one clock, so that no load of the machine can make it wrong: it starts
# before the cause and ends after the effect. What is "too late" has a wide margin, which SLOW
# stretches.
#
# A server that wakes up often is not asked whether it sleeps, for on a busy machine it waits for a
# core each time: the test counts what it does instead, and stops it in the end.
#
# That other work is done shows in a line of the log alone: "timed out, do some other work here".
#
# Tags: only-06 is about the client's own options; its steps of 01 hold as well.

# shellcheck disable=SC2030,SC2031,SC2034,SC2154 # the helper sets and reads what is here
load lib/helper

# meanwhile STEP...: a client that does its steps beside what the test does, until meanwhile_no_more.
# One of them must be `say ready`: the test goes on when it has come to that.
meanwhile() {
    : >"$BATS_TEST_TMPDIR/meanwhile"
    command=("$build/peer" "$port" "$host" "$@")
    settings=()
    open_files=
    launch /dev/null "$BATS_TEST_TMPDIR/meanwhile" "$BATS_TEST_TMPDIR/meanwhile"
    meanwhile_pid=$launched
    wait_until "the other client to be served" meanwhile_is_ready
}

meanwhile_is_ready() {
    read_all "$BATS_TEST_TMPDIR/meanwhile"
    [[ $REPLY == *ready* ]]
}

meanwhile_no_more() {
    end_child "$meanwhile_pid"
}

# work_was_done N: so many times already? REPLY is the exact number.
work_was_done() {
    REPLY=$(grep -c "^timed out, do some other work here" "$server_log" || :)
    ((REPLY >= $1))
}

# work_came_in_time SINCE MS: fails when other work was done more often than once every MS, or less
# than a third as often, since then: a moment before the server was started. That it is never more
# often is exact, for the clock is read last.
work_came_in_time() {
    local interval=$(($2 * 1000)) times passed

    work_was_done 0 || :
    times=$REPLY
    now
    passed=$((REPLY - $1))
    ((times <= passed / interval)) || fail_with "$times times within $((passed / 1000)) ms: too often"
    ((times >= passed / interval / 3)) || fail_with "$times times within $((passed / 1000)) ms: too seldom"
}

# ---- Other work ------------------------------------------------------------------------------

@test "06.1 There is time for other work every -t seconds" {
    local start

    expected "other work as often as -t 0.05 allows, when nobody is there"
    because "the wait must end when the work is due, and not before: epoll_wait()'s time-out is in milliseconds"
    now
    start=$REPLY
    start_server -t 0.05 -i 0 0
    wait_until "other work to be done 5 times" work_was_done 5
    work_came_in_time "$start" 50
    expected "the same while a client is there, and silent"
    tell connect exchange 10
    wait_until "other work to be done 10 times" work_was_done 10
    work_came_in_time "$start" 50
    stop_server
}

@test "06.2 There is time for other work under steady traffic, too" {
    local start

    because "every event ends the wait early: so keep the time when the work is due, and look at the clock after each"
    now
    start=$REPLY
    start_server -t 0.05 -i 0 0
    expected "other work as often as -t 0.05 allows, while a client sends a byte every 10 ms"
    tell connect drip 30 10
    work_came_in_time "$start" 50
    expected "the same while a client floods"
    tell flood 0.3
    work_came_in_time "$start" 50
    stop_server
}

@test "06.3 Work that was missed is not made up for" {
    local before continued passed

    start_server -t 0.05 -i 0 0
    wait_until "other work to be done" work_was_done 1
    expected "other work once, not six times, when the server goes on after it was stopped for six times -t"
    because "a machine that slept all night has better things to do: count on from now, not from where you were"
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
    ((before <= passed / 50 + 2)) || fail_with "$before times within $passed ms"
    stop_server
}

# ---- A client that went quiet ----------------------------------------------------------------

@test "06.4 A quiet client is closed after -i seconds, and never before" {
    start_server -i 0.3 0
    expected "end of file no earlier than 300 ms after its last byte was sent, and no later than 1.5 s"
    because "the limit counts from the last byte, not from the connect; and when it is over the wait must be, too"
    peer connect exchange 10 pause 60 mark send x gone at-least 300 at-most 1500
    expected "the same, from its connect on, for a client that never says anything"
    peer mark connect gone at-least 300 at-most 1500
}

@test "06.5 A quiet client is closed while others are busy" {
    start_server -q -i 0.2 0
    expected "the quiet client to be closed within 1.5 s, no earlier than 200 ms, while another talks all the time"
    because "look for the overdue after every wait, not only after a silent one; and whoever makes progress goes to the end of the list"
    meanwhile connect exchange 10 say ready drip 500 10
    peer connect mark send x gone at-least 200 at-most 1500
    meanwhile_no_more
    expected "the same under a flood"
    meanwhile connect exchange 10 say ready flood 5
    peer connect mark send x gone at-least 200 at-most 1500
    meanwhile_no_more
}

@test "06.6 A client that says a little now and then stays" {
    start_server -i 0.6 0
    expected "a client that sends a byte every 0.25 s to be served for longer than 0.6 s, with -i 0.6"
    because "each byte is progress, and the limit counts anew: it is no limit on the whole visit"
    peer connect drip 4 250 exchange 10
}

@test "06.7 A client that never reads is closed" {
    start_server -q -i 0.5 0
    expected "a client that sends, but does not read, to be closed when nothing has moved for 0.5 s"
    because "what waits in a queue is no progress; only what send() took is"
    meanwhile rcvbuf 4K connect exchange 10 say ready fill 64M hold
    wait_until "its socket to be closed" sockets_are_closed
}

@test "06.8 Ten clients that went quiet together are all closed" {
    start_server -i 0.2 0
    expected "all of them to be gone within 1.5 s"
    because "who takes one out of a list must not lose the way to the next"
    peer @c1..10 connect mark @c1..10 gone at-most 1500
}

# ---- It sleeps -------------------------------------------------------------------------------

# How often the server has asked for events, if faults.so sees it.
waits() {
    local call sum=0

    for call in select poll epoll_wait; do
        fault_calls "$call"
        sum=$((sum + REPLY))
    done
    REPLY=$sum
}

@test "06.9 It sleeps until something is due, to the last millisecond" {
    local before passed start

    start_server --faults epoll_wait:EINTR:1000000,poll:EINTR:1000000,select:EINTR:1000000 -t 0.02 -i 60 0
    tell connect exchange 10
    expected "no more than three waits for each time that other work is done (-t 0.02), in 0.3 s"
    because "0.4 ms are not 0 ms: round what is left up, or the last millisecond is spent asking again and again"
    waits
    before=$REPLY
    ((before > 0)) || skip "faults.so sees no select, poll or epoll_wait of this server"
    now
    start=$REPLY
    nap 0.3
    waits
    before=$((REPLY - before))
    now
    passed=$(((REPLY - start) / 1000))
    ((before <= 3 * passed / 20 + 10)) || fail_with "$before waits within $passed ms"
    stop_server
}

@test "06.10 With nothing due it sleeps until something happens: 0 is never" {
    local before

    start_server -t 0 -i 0 0
    expected "a silent client to stay, and no other work, with -t 0 -i 0"
    because "0 is never, not at once: no deadline, so a wait without an end (-1)"
    tell connect exchange 10
    wakeups
    before=$REPLY
    server_sleeps 300
    wakeups
    ((REPLY - before <= 5)) || fail_with "$((REPLY - before)) wake-ups in 300 ms"
    tell exchange 10
    log_lacks "timed out"
}

@test "06.11 Out of descriptors it tries again after a second, whatever else is due" {
    start_server --faults accept:EMFILE:1 -t 0 -i 0 0
    expected "a client to be served about a second after accept() failed, with no other deadline"
    because "the time to try again is a deadline like the others: the wait must end there"
    tell connect
    server_sleeps
    tell exchange 10
    faults_reached accept
    tell_no_more
    stop_server
    start_server --faults accept:EMFILE:1+ -t 0.02 -i 0.3 0
    expected "no more than 3 attempts within 0.2 s when other deadlines are nearer"
    because "until then the listener is ready all the time, and nobody is to look, whatever else ends the wait"
    tell connect
    nap 0.2
    fault_calls accept
    ((REPLY <= 3)) || fail_with "$REPLY attempts"
    stop_server
}

# ---- Which clock -----------------------------------------------------------------------------

@test "06.12 A step of the system's clock changes nothing" {
    local shift

    for shift in 3600 -3600; do
        start_server --faults "clock:shift=$shift:after=0.2" -t 0.05 -i 0.5 0
        expected "a quiet client to be closed after 0.5 s, though the clock is set by $shift s meanwhile"
        because "CLOCK_REALTIME is set by people and by NTP; CLOCK_MONOTONIC only goes on: clock_gettime(2)"
        peer connect mark send x gone at-least 500 at-most 2000
        expected "other work to go on, too"
        work_was_done 0 || :
        wait_until "other work to be done again" work_was_done $((REPLY + 2))
        stop_server
    done
}

# ---- A server that was away ------------------------------------------------------------------

@test "06.13 A server that was stopped hears its clients before it judges them" {
    start_server -q -i 0.5 0
    expected "100 clients that spoke while the server was stopped for longer than -i to be served, all of them"
    because "the delay is ours, not theirs: read what has come before you close anybody, more than one epoll_wait() brings"
    tell @silent connect @c1..100 connect @c100 exchange 10
    signal_server STOP
    tell @c1..100 send-bytes 10
    nap 0.6
    signal_server CONT
    tell @c1..100 drain
    expected "one that said nothing to be closed"
    tell @silent gone
}

# ---- Starting --------------------------------------------------------------------------------

@test "06.14 Times that are none are refused" {
    local option bad

    because "atof() takes abc for 0, and 1x for 1; a time-out of 1e9 s does not fit into an int of milliseconds"
    for option in -t -i; do
        for bad in -1 abc 1x 1e9 nan ""; do
            expected "exit status 2, and the usage, for $option \"$bad\""
            run_server "$option" "$bad" 0
            ((server_status == 2)) || fail_with "the server $server_end"
            log_has sage || fail_with "no word of the usage"
        done
    done
}

# ---- The log ---------------------------------------------------------------------------------

@test "06.15 The log tells of other work, and of clients that were closed for being quiet" {
    local client

    start_server -t 0.1 -i 0.25 0
    expected "the lines of the README, in its words"
    because "who is closed wants to know why; and the limit in the line is the one that -i set"
    wait_for_log "timed out, do some other work here"$'\n'
    tell connect local
    client=${told#* }
    wait_for_log "closing $client after 0.25 s without progress"$'\n'
    stop_server
}

# ---- The client ------------------------------------------------------------------------------

# bats test_tags=only-06,client
@test "06.16 The client pauses after each message" {
    serve accept expect one mark send one expect two at-least 200 send two eof at-least 400 close
    expected "no less than 0.2 s from a reply to the next message, with -p 0.2, and exit status 0"
    because "the pause begins when the whole reply is there"
    start_client -p 0.2 "$port" 127.0.0.1 one two
    serve_ends
    client_ends 0
}

# client_gives_up_within FIRST LAST [ARGUMENT]...: fails when it ends, with status 1, before FIRST
# or after LAST ms.
client_gives_up_within() {
    local first=$1 last start

    stretch $(($2 * 1000))
    last=$REPLY
    shift 2
    now
    start=$REPLY
    run_client 1 "$@"
    now
    ((REPLY - start >= first * 1000)) || fail_with "it gave up after $(((REPLY - start) / 1000)) ms"
    ((REPLY - start <= last)) || fail_with "it gave up after $(((REPLY - start) / 1000)) ms only"
}

# bats test_tags=only-06,client
@test "06.17 The client gives up a connect that gets no answer" {
    serve -f hold
    expected "exit status 1 after 0.2 s, with -l 0.2, and a reason that names connect and the limit"
    because "left alone the kernel tries for two minutes: O_NONBLOCK, and poll() with a time-out"
    client_gives_up_within 200 1500 -l 0.2 "$port" 127.0.0.1 hello
    client_complains "onnect*0.2"
}

# bats test_tags=only-06,client
@test "06.18 The client gives up a reply that does not come" {
    serve accept expect hello hold
    expected "exit status 1 after 0.2 s, with -l 0.2, and a reason that names the reply and the limit"
    because "poll() that returns 0 says that the time is over"
    client_gives_up_within 200 1500 -l 0.2 "$port" 127.0.0.1 hello
    client_complains "repl*0.2"
    expected "the same when end of file does not come"
    serve accept expect hello send hello eof hold
    client_gives_up_within 200 1500 -l 0.2 "$port" 127.0.0.1 hello
    client_complains "0.2"
}

# bats test_tags=only-06,client
@test "06.19 A byte now and then does not extend the limit on a reply" {
    serve accept expect hello send h pause 150 send e pause 150 send l pause 150 send l pause 150 send o eof close
    expected "exit status 1 after 0.4 s, with -l 0.4, though a byte came every 0.15 s"
    because "the limit is a time on the clock; each wait is for what is left until then, not for the whole limit again"
    client_gives_up_within 400 1500 -l 0.4 "$port" 127.0.0.1 hello
    expected "three replies of 0.15 s each to be in time, with -l 0.4: each has its own limit"
    serve accept expect a pause 150 send a expect b pause 150 send b expect c pause 150 send c eof close
    run_client 0 -l 0.4 "$port" 127.0.0.1 a b c
    serve_ends
}

# bats test_tags=only-06,client
@test "06.20 The client tries again when it is refused, and not for ever" {
    start_server
    expected "exit status 0 when the first two attempts are refused, no earlier than 0.1 s after the start"
    because "a server that is just starting refuses: make a new socket, wait a little, longer each time"
    now
    start=$REPLY
    run_client 0 --faults connect:ECONNREFUSED:1-2 "$port" "$host" hello
    now
    ((REPLY - start >= 100000)) || fail_with "an end after $(((REPLY - start) / 1000)) ms"
    faults_reached connect
    expected "exit status 1, an error that says \"refused\", and no more than 10 attempts when nobody ever listens"
    serve -b hold
    run_client 1 --faults connect:EINTR:1000000 "$port" 127.0.0.1 hello
    client_complains "refused"
    fault_calls connect
    ((REPLY > 1 && REPLY <= 10)) || fail_with "$REPLY attempts"
    expected "the limit to hold for all attempts together, with -l 0.15"
    because "a pause that would last longer than the limit need not begin"
    client_gives_up_within 0 350 -l 0.15 "$port" 127.0.0.1 hello
}

# bats test_tags=only-06,client
@test "06.21 The client refuses times that are none" {
    local option bad

    because "atof() takes abc for 0, and 1x for 1"
    for option in -p -l; do
        for bad in -1 abc 1x 1e9 ""; do
            expected "exit status 2, and the usage, for $option \"$bad\""
            run_client 2 "$option" "$bad" 10000 127.0.0.1 hello
            client_complains sage
        done
    done
}

# ---- select-timeout.c ------------------------------------------------------------------------

# bats test_tags=only-06,companion
@test "06.22 After a silence select times out, and there is time for other work" {
    build_program 06-timeouts/select-timeout
    start_server --program "$REPLY" -t 0.1 0
    because "select() returns 0 when the time is over; Linux leaves none of it in the timeval, so set it anew"
    expected "other work after each silence of 0.1 s"
    wait_for_log "select left 0.000 s in the timeval" 3
    wait_for_log "timed out, do some other work here" 3
    expected "a client to be served between two time-outs"
    peer connect exchange 100 shutdown eof
    expected "sleep in between, although the time is set anew each time"
    server_sleeps
}

# bats test_tags=only-06,companion
@test "06.23 Under steady traffic the other work never comes" {
    build_program 06-timeouts/select-timeout
    start_server --program "$REPLY" -t 1 0
    because "every client that speaks ends the wait, and the next one begins with the whole second"
    expected "no time-out within 1.5 s, because there is a byte every 50 ms"
    tell connect drip 30 50
    log_lacks "timed out, do some other work here"
    expected "the time-out when silence comes at last"
    wait_for_log "timed out, do some other work here"
}
