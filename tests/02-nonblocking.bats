#!/usr/bin/env bats
#
# The steps of stage 02: many clients at once, and no client delays another. A test looks at the bytes
# on the wire and at what the process does; only one step judges the wording of the log.
#
# Tags: only-02 marks a step that holds in no later stage, not-edge one that is unfair to a server
# with edge-triggered events, not-workers one unfair to several listeners, client one about client.c, wording one that judges the words of the log,
# method one that demands the stage's own way to serve its clients.

# shellcheck disable=SC2034,SC2154 # the helper sets $port, $host, $stage ...
load lib/helper

setup() {
    choose_programs
    ask_for_one_connection
}

# ---- Core ------------------------------------------------------------------------------------

# log_rests WHEN: fails if the log goes on growing by 1 KiB in 100 ms. (What happened before may still be
# written down.) Never in 03, where a server logs each wait, and 03.1 is the step that makes it wait.
log_rests() {
    local before after=0 i

    [[ $stage != 03 ]] || return 0
    expected "less than 1 KiB of new log in 100 ms $1"
    because "a log line per turn of the loop fills the disk. Log events, not attempts. And take a closed client out of your list"
    for i in {1..5}; do
        before=$(wc -c <"$server_log")
        nap 0.1
        after=$(wc -c <"$server_log")
        ((after >= before + 1024)) || return 0
    done
    fail_with "$((after - before)) bytes of new log"
}

@test "02.1 A client that sends nothing delays no other" {
    start_server
    expected "the second of two clients to be served while the first one is silent"
    because "a call that blocks for one client delays all others. Set O_NONBLOCK on every client's socket and on the listener"
    tell connect @B connect exchange 10
    expected "the first client to be served as soon as it sends something"
    because "recv() fails with EAGAIN while nothing has arrived. That is neither an error of the connection nor end of file"
    tell @A exchange 10
    expected "one client to be served three times while ten others are silent and no new client connects"
    because "accept() fails with EAGAIN while no client is waiting. Go on and serve the connected clients"
    tell @c1..10 connect @C connect exchange 10 exchange 10 exchange 10
    expected "one client to be served while another has sent only half of its message"
    because "the server must not wait for the rest of a message. Send back what has arrived, then turn to the next client"
    tell @D connect send 'This is ' expect 'This is ' @C exchange 10 exchange 10
    tell @D send 'the message.' expect 'the message.'
}

@test "02.2 Each of twenty clients gets its own bytes back" {
    because "what recv() returns belongs to one connection, so each connection needs a queue of its own"
    start_server
    expected "each client to get its own bytes back when all of them send in turn"
    peer @c1..20 connect @c1..20 exchange 100 @c1..20 exchange 10K
    expected "each client to get its own bytes back when all of them send at the same time"
    tell @c1..20 connect
    while_stopped tell @c1..20 send-bytes 5K
    tell @c1..20 drain
    tell @c1..20 shutdown @c1..20 eof
}

@test "02.3 Two hundred clients connect at once and are all served" {
    start_server
    expected "two hundred clients to connect while the server is stopped"
    because "the kernel completes connections before accept() is called, up to listen()'s backlog. Pass SOMAXCONN"
    signal_server STOP
    tell @c1..200 connect
    expected "the server to serve all two hundred clients when it runs again"
    because "two hundred connections arrive at once. If yours are in an array, it must have room for all of them"
    tell @c1..200 send-bytes 100
    signal_server CONT
    tell @c1..200 drain
    tell @c200 exchange 10 @c1 exchange 10
}

@test "02.4 Clients that come and go leave the others alone" {
    because "a new connection may get the descriptor number of one that was closed. Nothing of the old one may be left, least of all its queue"
    start_server
    expected "the server to serve twenty clients"
    tell @c1..20 connect @c1..20 exchange 1000
    expected "each client to get its own bytes back after nine clients have left and twenty more have connected"
    tell @c1 reset @c3 close @c5 close @c7 close @c9 reset @c11 close @c13 close @c15 reset @c20 close
    tell @d1..20 connect @c2 exchange 1000 @d1..20 exchange 1000 @c19 exchange 1000
    signal_server STOP
    tell @d1..10 send-bytes 1000 reset
    expected "ten clients to connect while the server is stopped"
    because "the kernel completes connections before accept() is called, up to listen()'s backlog. Pass SOMAXCONN"
    tell @e1..10 connect
    expected "each client to get its own bytes back when ten reset before their echo while ten others connect and send"
    because "a new connection may get the descriptor number of one that was closed. Nothing of the old one may be left, least of all its queue"
    tell @e1..10 send-bytes 2000 @d11..20 send-bytes 3000
    signal_server CONT
    tell @e1..10 drain @d11..20 drain @c2 exchange 1000
    expected "ten clients that connect after those resets to get their own bytes back"
    tell @f1..10 connect @f1..10 exchange 1000
}

@test "02.5 A client that never reads costs a bounded number of bytes" {
    local before slow

    start_server
    peer connect exchange 64K
    # A run-time with garbage collection may use more for a while, but not with each such client.
    for slow in B slow2 slow3 slow4 slow5; do
        memory
        before=$REPLY
        expected "the server to stop reading from it when all buffers are full (those of the kernel hold about 7 MiB)"
        because "a server that reads on before its echo is sent must store everything. Read again when the queue is empty (backpressure)"
        tell "@$slow" rcvbuf 4K connect fill 64M
        memory
        ((REPLY >= before + 2048)) || return 0
    done
    expected "the server's memory to grow by less than 2 MiB"
    fail_with "it grew with each of five such clients, and by $((REPLY - before)) KiB with the last"
}

@test "02.6 A slow reader delays no other client" {
    start_server
    expected "other clients to be served while a client that does not read has filled all buffers"
    because "after send() has failed with EAGAIN, keep the rest in the connection's queue and serve the others. Do not retry in a loop"
    tell rcvbuf 4K connect fill 64M
    tell @B connect exchange 64K exchange 10
    tell @C connect exchange 10 shutdown eof
}

@test "02.7 A slow reader gets everything when it reads at last" {
    start_server
    expected "the slow reader to get every byte once and in order, and then to be served as usual"
    because "bytes that send() did not accept must be sent later and in order, before anything newer"
    tell rcvbuf 4K connect fill 64M
    tell drain exchange 10 exchange 64K shutdown eof
}

# bats test_tags=not-uring
@test "02.8 A client that floods starves no other" {
    # All that the floods have sent waits in the kernel, and each recv() returns 64 bytes of it, so a
    # server that reads until EAGAIN makes 8,192 calls for the first of them. After half of that many
    # the server stops itself (sig=STOP), so that the load of the machine makes no difference. The
    # other client connects between the two, because a server may begin with the oldest or the newest.
    start_server --faults recv:sig=STOP:4096,recv:cap=64 -q 0
    while_stopped tell connect send-bytes 512K @B connect send-bytes 3 @C connect send-bytes 512K
    expected "the other client to be served before a quarter of the floods has been read (the server is stopped at that point)"
    because "a loop that calls recv() until EAGAIN serves one client only. Call recv() once, then turn to the next client"
    tell @B drain
    faults_reached recv
    wait_until "the server to read a quarter of the floods" server_is_stopped
    signal_server CONT
}

# bats test_tags=only-02,method
@test "02.9 It uses a whole core while nothing happens" {
    start_server
    expected "the server to use at least half of a core in 100 ms, and its main thread to go to sleep at most 5 times"
    because "no call of this server may block or nap, in any thread. (One that blocks in a thread per client is no server of this stage; METHOD=no leaves this step out)"
    server_burns 100
    tell connect exchange 10
    server_burns 100
}

# bats test_tags=not-03
@test "02.10 While nothing happens the log stays as it is" {
    start_server
    tell connect exchange 10 @B connect exchange 10 close @C connect exchange 10 shutdown eof close \
        @D connect exchange 10 reset
    log_rests "after three clients have left, while the one that stays is silent"
}

# ---- Hardening -------------------------------------------------------------------------------

# bats test_tags=not-edge,not-uring
@test "02.20 A call that cannot be done now is made again later" {
    start_server --faults accept:EAGAIN:1%2,recv:EAGAIN:2%3,send:EAGAIN:2%3
    expected "two clients to get every byte back, then end of file, while every third recv() and send() fails with EAGAIN"
    because "EAGAIN means \"not now\". It is neither an error nor end of file, and bytes that send() did not accept stay in the queue"
    peer connect @B connect @A exchange 100K @B exchange 100K @A shutdown eof @B exchange 10 \
        shutdown eof
    faults_reached accept recv send
}

# bats test_tags=not-workers
@test "02.21 Out of descriptors it serves its clients, and later those that wait" {
    start_server --open-files 64
    expected "20 connected clients to be served while others wait for a free descriptor"
    because "accept() fails with EMFILE. That is no reason to exit or to close a client: keep serving the connected ones"
    tell @c1..20 connect @c1..20 exchange 10
    tell @c21..100 connect
    tell @c1..20 exchange 10
    log_rests "while clients wait for a free descriptor"
    expected "the waiting clients to be served, without connecting again, when others have left"
    because "the waiting clients stay in the backlog. Call accept() again as soon as a descriptor is free"
    tell @c1..20 close
    tell @c21..60 exchange 10
    tell @c21..60 close
    tell @c61..100 exchange 10
}

# bats test_tags=not-uring
@test "02.22 Out of descriptors without clients, it tries again after a second" {
    local calls least_wait=3000000

    start_server --faults accept:EMFILE:1
    expected "a client to be served about a second after accept() failed, although no other client is connected"
    because "no client can leave and free a descriptor, so the server must not wait for that. Try accept() again after a second"
    tell connect send-bytes 10
    wait_until "the server to accept the client" has_a_client
    tell drain
    faults_reached accept
    tell_no_more
    stop_server

    start_server --faults accept:EMFILE:1+
    expected "at most 3 calls of accept() in 0.3 s while it fails with EMFILE"
    because "accept() fails at once, so a call in every turn of the loop costs time and brings nothing. Wait for a second"
    tell @B connect
    fault_calls accept
    calls=$REPLY
    nap 0.3
    fault_calls accept
    ((REPLY <= calls + 3)) || fail_with "the server called accept() $((REPLY - calls)) times"
    log_rests "while accept() fails"
}

newcomers_are_accepted() {
    socket_count
    ((REPLY - sockets_at_start >= 110)) # with the busy clients
}

# Has the server stopped itself, or accepted all newcomers and nothing more to send? (It may need fewer calls
# of send(), because it calls recv() several times before it sends.)
has_sent_enough() {
    local calls

    ! server_is_stopped || return 0
    newcomers_are_accepted || return 1
    fault_calls send
    calls=$REPLY
    nap 0.1
    fault_calls send
    ((REPLY == calls)) || server_is_stopped
}

# bats test_tags=not-uring
@test "02.24 Newcomers do not wait for one another behind busy clients" {
    # Every recv() brings one byte, and fifty busy clients have sent 15 each, which takes 15 turns, or 30 if
    # a turn receives and the next one sends. With one accept() per turn, fewer than 50 newcomers have
    # been accepted when 40 of them have been served. Then the server stops itself: 50 calls of send() for
    # the first bytes, 750 for the busy clients, and 40 for newcomers.
    start_server --faults send:sig=STOP:840,recv:cap=1 -q 0
    expected "all of sixty newcomers to be accepted when fifty busy clients and forty newcomers have been served"
    because "with one accept() per turn of the loop, each newcomer waits until all busy clients have been served. Accept up to 64 per turn"
    tell @busy1..50 connect @busy1..50 exchange 1
    fault_calls send
    ((REPLY > 0)) || skip "faults.so cannot intercept send in this program (a static program, or another run-time)"
    while_stopped tell @new1..60 connect @new1..60 send-bytes 1 @busy1..50 send-bytes 15
    wait_until "the server to make 840 calls of send()" has_sent_enough
    thread_count
    ((REPLY == 1)) || skip "this server has $REPLY threads, and so no turns"
    newcomers_are_accepted ||
        fail_with "only $((REPLY - sockets_at_start - 50)) of the 60 newcomers have been accepted"
    signal_server CONT
    tell @new1..60 drain
}

# bats test_tags=wording,not-workers
@test "02.25 The log tells when a queue is empty, and of a shortage once" {
    local client line

    start_server
    expected "the log line of this step, word for word, when all of a client's echo has been sent"
    because "log this line when send() has emptied a queue that held back some bytes. It shows when a slow client has caught up"
    tell rcvbuf 4K connect local
    client=${told#* }
    tell fill 64M
    tell drain
    wait_for_log "output queue for $client is empty"$'\n'
    expected "the log line about a client that has left to name that client, and not the one that came last"
    because "each connection needs a copy of its client's address. A buffer that they share holds the address of the newest"
    tell @B connect exchange 10 @A close
    wait_for_log "closing $client after reading no data"$'\n'
    stop_server
    tell_no_more

    start_server --open-files 64 -q 0
    expected "the log line of this step, once, and even with -q because it concerns the server itself"
    because "a line per failed accept() fills the disk; without any line you would not know why clients wait"
    tell @c1..20 connect @c1..20 exchange 10 @c21..100 connect
    line="out of descriptors: accept: Too many open files; trying again when a client leaves, or in a second"
    wait_for_log "$line"$'\n'
    tell @c1..20 exchange 10
    expected "no second line when ten clients leave, ten others are accepted, and more still wait"
    because "clients have been waiting all the time, so this is still the same shortage and not a new event"
    tell @c1..10 close @c62..66 exchange 10
    ! log_has "$line" 2 || fail_with "the line appears more than once"
    expected "a second line when the shortage is over, and another one begins"
    because "what you remember of a shortage must be forgotten when accept() succeeds and no other client waits"
    tell @c11..100 close @d1 connect exchange 10
    tell @e1..100 connect
    wait_for_log "$line"$'\n' 2
}

# ---- Client ----------------------------------------------------------------------------------

# A connect() within one machine succeeds or fails at once. Only an injected EINPROGRESS makes the
# client ask for the result.

# bats test_tags=client
@test "02.40 The client goes on when connect() is still under way" {
    start_server
    expected "exit status 0 although connect() fails with EINPROGRESS"
    because "EINPROGRESS means that the kernel goes on connecting. Ask in later turns whether it is done: then getpeername() succeeds"
    run_client 0 --faults connect:EINPROGRESS:1 "$port" "$host"
    client_prints ': received "in parts."'
    faults_reached connect
}

# bats test_tags=client
@test "02.41 The client says why a connect that was under way has failed" {
    expected "exit status 1, and an error message that says \"refused\""
    because "getpeername() says only that there is no connection. getsockopt() with SO_ERROR returns the reason, and only once"
    serve -b hold
    run_client 1 --faults connect:EINPROGRESS:1 "$port" 127.0.0.1 hello
    client_complains "refused"
    faults_reached connect
}

# bats test_tags=only-02,client,wording
@test "02.42 The client tells how often it asked in vain" {
    expected "exit status 0, and a line that says how often the client asked \"in vain\" while the server took 100 ms to answer"
    because "every call that fails with EAGAIN was made in vain. Count these calls, and print the sum at the end"
    serve accept expect hello pause 100 send hello eof close
    run_client 0 "$port" 127.0.0.1 hello
    serve_ends
    client_prints " in vain "
    read_all "$client_out"
    [[ $REPLY =~ (in vain[^0-9]*)([0-9]+) ]] && ((BASH_REMATCH[2] > 10)) ||
        fail_with "no number greater than 10 after \"in vain\""
}
