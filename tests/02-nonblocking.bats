#!/usr/bin/env bats
#
# The steps of stage 02: many clients at once, and none of them delays another. Each is judged on
# the wire and by what the process does; the wording of the log is judged in one step alone.
#
# Tags: only-02 holds in no later stage, not-02 not in that one, not-edge is unfair to a server
# whose events are edge-triggered, client is about client.c.

# shellcheck disable=SC2154 # the helper sets $port, $host, $stage ...
load lib/helper

# One connection, and one attempt at it.
setup() {
    choose_programs
    case $stage in
    03) client_command+=(-c 1) ;;   # it opens two connections unless it is told another number
    06) client_command+=(-l 0.2) ;; # it tries again for five seconds unless it is told otherwise
    esac
}

# ---- Many clients ----------------------------------------------------------------------------

@test "02.1 A client that says nothing delays no one" {
    start_server
    expected "the second of two clients to be served while the first says nothing"
    because "one call that waits for one client keeps all others waiting: O_NONBLOCK, on the listener too"
    tell @first connect @second connect exchange 10
    expected "the first to be served as soon as it speaks"
    because "recv() that fails with EAGAIN says that nothing has come yet: no error, and no end of file"
    tell @first exchange 10
    expected "one to be served again and again while ten others say nothing, and nobody connects"
    because "accept() that fails with EAGAIN says that nobody has come: then it is the clients' turn"
    tell @silent1..10 connect @talker connect exchange 10 exchange 10 exchange 10
    expected "the same beside one that has sent half a sentence and thinks about the rest"
    because "no call waits for the rest of anything: all that has come is sent back, and the next has its turn"
    tell @thinker connect send 'This is ' expect 'This is ' @talker exchange 10 exchange 10
    tell @thinker send 'the message.' expect 'the message.'
}

@test "02.2 Each of twenty clients gets its own bytes back" {
    because "what recv() brought belongs to one connection: its queue is its own, not one for all"
    start_server
    expected "each client's own echo when all of them speak in turn"
    peer @c1..20 connect @c1..20 exchange 100 @c1..20 exchange 10K
    expected "each client's own echo when all of them have spoken at once"
    tell @c1..20 connect
    signal_server STOP
    tell @c1..20 send-bytes 5K
    signal_server CONT
    tell @c1..20 drain
    tell @c1..20 shutdown @c1..20 eof
}

@test "02.3 Clients that come and go leave the others alone" {
    because "a closed connection leaves its place and its descriptor number to another: keep nothing of it"
    start_server
    expected "twenty clients to be served"
    tell @c1..20 connect @c1..20 exchange 1000
    expected "each client's own echo after every other one has left, and twenty more have come"
    tell @c1 reset @c3 close @c5 close @c7 close @c9 reset @c11 close @c13 close @c15 reset @c20 close
    tell @d1..20 connect @c2 exchange 1000 @d1..20 exchange 1000 @c19 exchange 1000
    expected "the same when clients leave, owed their echo, in the moment in which others come and speak"
    signal_server STOP
    tell @d1..10 send-bytes 1000 reset
    tell @e1..10 connect @e1..10 send-bytes 2000 @d11..20 send-bytes 3000
    signal_server CONT
    tell @e1..10 drain @d11..20 drain @c2 exchange 1000
}

# bats test_tags=not-edge
@test "02.4 A call that cannot be done now is made again later" {
    start_server --faults accept:EAGAIN:1%2,recv:EAGAIN:2%3,send:EAGAIN:2%3
    expected "two clients to get every byte back, then end of file, with every third call failing with EAGAIN"
    because "EAGAIN is an answer, \"not now\": no error, no end of file, and nothing that was to be sent is gone"
    peer @a connect @b connect @a exchange 100K @b exchange 100K @a shutdown eof @b exchange 10 \
        shutdown eof
    faults_reached accept recv send
}

@test "02.5 Two hundred clients come at once and are all served" {
    start_server
    expected "all of them to be connected while the server is stopped, and served when it goes on"
    because "the kernel connects as many clients as listen()'s backlog allows, and turns no more away"
    signal_server STOP
    tell @c1..200 connect
    tell @c1..200 send-bytes 100
    signal_server CONT
    tell @c1..200 drain
    tell @c200 exchange 10 @c1 exchange 10
}

# ---- Slow readers ----------------------------------------------------------------------------

@test "02.6 A slow reader delays no one" {
    start_server
    expected "other clients to be served while one sends, never reads, and has filled all buffers"
    because "send() that fails with EAGAIN must not be tried until it goes: the rest waits in a queue"
    tell @slow rcvbuf 4K connect fill 64M
    tell @other connect exchange 64K exchange 10
    tell @third connect exchange 10 shutdown eof
}

@test "02.7 A client that never reads costs a bounded number of bytes" {
    local before

    start_server
    peer connect exchange 64K
    memory RssAnon
    before=$REPLY
    expected "no more to be taken from it when all buffers are full (the kernel's alone hold some 7 MiB)"
    because "who reads on from a client that it owes something must store all that it sends"
    tell rcvbuf 4K connect fill 64M
    expected "the server's memory to grow by less than 2 MiB"
    memory RssAnon
    ((REPLY < before + 2048)) || fail_with "$((REPLY - before)) KiB more"
}

@test "02.8 A slow reader gets everything when it reads at last" {
    start_server
    expected "every byte once, in order, and service as before"
    because "what send() did not take must be sent later, from there on, before anything else"
    tell rcvbuf 4K connect fill 64M
    tell drain exchange 10 exchange 64K shutdown eof
}

# ---- Hard weather ----------------------------------------------------------------------------

@test "02.9 A client that floods starves no one" {
    # All that the flood has sent waits in the kernel, and each recv() brings one byte of it: so a
    # server that goes on with it until there is no more needs that many calls. After half of them it
    # stops itself (19 is SIGSTOP), so that no load of the machine can make a difference.
    start_server --faults recv:sig=19:51200,recv:cap=1 -q 0
    signal_server STOP
    tell @flood connect send-bytes 100K @other connect send-bytes 3
    signal_server CONT
    expected "another client to be served before half of what the flood has sent is read; then the server is stopped"
    because "recv() in a loop until there is no more serves one client alone: one recv(), then the next client's turn"
    tell @other drain
    faults_reached recv
    wait_until "half to be read" is_stopped "$server_pid"
    signal_server CONT
}

@test "02.10 Out of descriptors it serves those that it has, and later those that wait" {
    start_server --open-files 64
    expected "20 connected clients to be served while others wait for a descriptor"
    because "accept() fails with EMFILE: that is no end, and no reason to close anybody"
    tell @c1..20 connect @c1..20 exchange 10
    tell @c21..100 connect
    tell @c1..20 exchange 10
    expected "those who wait to be served, without a new connect, when others have left"
    because "they stay in the backlog: accept() them when a descriptor is free again"
    tell @c1..20 close
    tell @c21..60 exchange 10
    tell @c21..60 close
    tell @c61..100 exchange 10
}

@test "02.11 Out of descriptors with no client to leave, it tries again after a second" {
    start_server --faults accept:EMFILE:1
    expected "a client to be served about a second after accept() failed, with nobody else connected"
    because "no client will leave, so nothing will tell that there is room again: only time does"
    tell connect send-bytes 10
    wait_until "the client to be accepted" has_a_client
    tell drain
    faults_reached accept
}

# ---- At rest ---------------------------------------------------------------------------------

@test "02.12 While nothing happens the log stays as it is" {
    local before after

    start_server
    tell connect exchange 10
    before=$(wc -c <"$server_log")
    expected "less than 1 KiB of log in 100 ms in which its client says nothing"
    because "a line for each turn of the loop fills a disk: log events, not attempts"
    watch_cpu 100
    after=$(wc -c <"$server_log")
    ((after < before + 1024)) || fail_with "$((after - before)) bytes"
}

# bats test_tags=only-02
@test "02.13 It burns a core while nothing happens" {
    start_server
    expected "the server to be busy all the time: that is the price of never waiting"
    because "it does wait, in a call that blocks or in a nap; who asks in turn comes late then (03 sleeps, and does not)"
    server_burns 100
    tell connect exchange 10
    server_burns 100
}

@test "02.14 The log tells when a queue is empty, and once that descriptors ran out" {
    local client line

    start_server
    expected "the line of the README, in its words, when a client has read what was owed to it"
    because "from what a queue still holds one sees which client is slow"
    tell @slow rcvbuf 4K connect local
    client=${told#* }
    tell fill 64M
    tell drain
    wait_for_log "output queue for $client is empty"$'\n'
    stop_server
    tell_no_more

    start_server --open-files 64 -q 0
    expected "the line of the README, once, and also with -q: it concerns the server itself"
    because "a line for each attempt fills a disk, and none leaves everybody wondering"
    tell @c1..20 connect @c1..20 exchange 10 @c21..100 connect
    line="out of descriptors: accept: Too many open files; trying again when a client leaves, or in a second"
    wait_for_log "$line"$'\n'
    tell @c1..20 exchange 10
    expected "no second line when ten clients leave, ten others come in, and more still wait"
    tell @c1..10 close @c62..66 exchange 10
    ! log_has "$line" 2 || fail_with "the line more than once"
}

# ---- The client ------------------------------------------------------------------------------

# On one machine connect() is done at once, or has failed at once: only an injected EINPROGRESS
# makes the client ask how it went.

# bats test_tags=client
@test "02.15 The client goes on when connect() is still under way" {
    start_server
    expected "exit status 0 when connect() says EINPROGRESS"
    because "that is no failure: connecting goes on, and the socket becomes writable when it is done"
    run_client 0 --faults connect:EINPROGRESS:1 "$port" "$host"
    client_prints ': received "in parts."'
    faults_reached connect
}

# bats test_tags=client
@test "02.16 The client says why a connect that was under way has failed" {
    expected "exit status 1, and an error that says \"refused\""
    because "a socket becomes writable also when connecting has failed: ask SO_ERROR, which tells why, once"
    serve -b hold
    run_client 1 --faults connect:EINPROGRESS:1 "$port" 127.0.0.1 hello
    client_complains "refused"
    faults_reached connect
}

# bats test_tags=only-02,client
@test "02.17 The client tells how often it asked in vain" {
    expected "exit status 0, and a line that says so often \"in vain\", after a server that thinks for 100 ms"
    because "each call that says EAGAIN was a question in vain: here is the time for something else"
    serve accept expect hello pause 100 send hello eof close
    run_client 0 "$port" 127.0.0.1 hello
    serve_ends
    client_prints " in vain "
    read_all "$client_out"
    [[ $REPLY =~ (in vain[^0-9]*)([0-9]+) ]] && ((BASH_REMATCH[2] > 10)) ||
        fail_with "a number of more than 10 is missing there"
}
