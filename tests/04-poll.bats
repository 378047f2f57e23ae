#!/usr/bin/env bats
#
# The steps of stage 04: one array stays between the calls of poll(), and changes when a client
# comes, goes, or waits for something else. Each is judged on the wire and by what the process does;
# the wording of the log is judged in one step alone.
#
# Tags: only-04 holds in no later stage: here they are the steps of the client, which is a pipe to
# the server and has no likeness among the others.

# shellcheck disable=SC2030,SC2031,SC2034,SC2154 # the helper sets and reads what is here
load lib/helper

# ---- Any number of clients -------------------------------------------------------------------

@test "04.1 More clients than select could watch are served" {
    needs_open_files 1200
    start_server --open-files 1200 -q 0
    expected "1,100 clients to be served, those past FD_SETSIZE (1024) like the first"
    because "poll() takes an array of any length: let it grow, and whatever is indexed by descriptor, too"
    tell @c1..1100 connect
    tell @c1100 exchange 10 @c1 exchange 10 @c1025 exchange 10 @c550 exchange 10
    server_sleeps
    tell @c1..1100 reset
}

@test "04.2 Two thousand clients that speak at once get their own bytes" {
    needs_open_files 2100
    start_server --open-files 2100 -q 0
    expected "each of 2,000 clients to get its own echo, though all have spoken at once"
    because "an array that grows moves: what pointed into it points nowhere after realloc(). Or see 04.1"
    # Not all at once: with each poll() one client is accepted, and all others are looked at.
    tell @c1..500 connect @c500 exchange 10 @c501..1000 connect @c1000 exchange 10
    tell @c1001..1500 connect @c1500 exchange 10 @c1501..2000 connect @c2000 exchange 10
    signal_server STOP
    tell @c1..2000 send-bytes 100
    signal_server CONT
    tell @c1..2000 drain
    expected "the same when every one of the first thousand has left, and five hundred others have come"
    because "entries that move into gaps must be found in their new places"
    signal_server STOP
    tell @c1..1000 reset @d1..500 connect @c1001..2000 send-bytes 100 @d1..500 send-bytes 100
    signal_server CONT
    tell @c1001..2000 drain @d1..500 drain
    tell @c1001..2000 reset @d1..500 reset
}

# ---- The array, and who leaves it ------------------------------------------------------------

@test "04.3 The neighbours of a client that left get their own bytes" {
    local round one two three

    start_server -q 0
    expected "each client's own echo, over 20 rounds in which 9 come, 9 leave, and all others speak"
    because "the entry that moves into a gap takes all that is its own along: descriptor, events, the way back to its connection"
    tell @slow rcvbuf 4K connect fill 64M
    tell @r3-1..9 connect @r2-4..9 connect @r1-7..9 connect
    for round in {4..23}; do
        one=@r$((round - 1))
        two=@r$((round - 2))
        three=@r$((round - 3))
        signal_server STOP
        tell "$one-1..3" reset "$two-4..6" close "$three-7..9" reset "@r$round-1..9" connect
        tell "@r$round-1..9" send-bytes 100 "$one-4..9" send-bytes 100 "$two-7..9" send-bytes 100
        signal_server CONT
        tell "@r$round-1..9" drain "$one-4..9" drain "$two-7..9" drain
    done
    expected "no more than a fifth of a core beside a slow reader among them, and all of its echo for it in the end"
    server_sleeps
    tell @slow drain exchange 10
}

@test "04.4 A new client inherits nothing from the one whose descriptor it gets" {
    start_server -q 0
    expected "its own bytes, all of them and no others, for a client that comes after one who was owed some"
    because "the kernel gives the lowest free number: a descriptor is known again, the connection is new"
    tell @slow rcvbuf 4K connect fill 64M
    tell @slow reset
    wait_until "its socket to be closed" sockets_are_closed
    tell @new1..2 connect @new1..2 exchange 1000
    server_sleeps
}

@test "04.5 What is watched is no longer than what is open" {
    local round

    start_server --open-files 64 -q 0
    expected "a client to be served when 300 others have come and gone, 10 at a time"
    because "a place that became free must be used again: poll() fails with EINVAL when its array outgrows \"ulimit -n\""
    tell @first connect exchange 10
    for ((round = 0; round < 30; round++)); do
        tell @c1..10 connect @c1..10 exchange 10 @c1..5 close @c6..10 reset
    done
    tell @first exchange 10 @last connect exchange 10
    server_sleeps
}

# ---- Hang-ups --------------------------------------------------------------------------------

@test "04.6 A reset while only writability is waited for closes that client, and nobody spins" {
    start_server
    expected "the sockets of clients that reset while they were owed echo to be closed"
    because "POLLHUP and POLLERR come unasked, in revents alone, and again and again until you close()"
    tell @other connect exchange 10
    tell @reset rcvbuf 4K connect fill 64M @half rcvbuf 4K connect fill 64M shutdown
    server_sleeps
    tell @reset reset @half reset
    server_sleeps
    tell @other exchange 10
    tell @other close
    wait_until "the sockets to be closed" sockets_are_closed
}

@test "04.7 The log tells a hang-up from an end of file, and what came before it" {
    local client

    start_server
    expected "the line of the README, in its words, for a client that says goodbye"
    because "recv() that returns 0 is an end of file: nothing has gone wrong"
    tell @polite connect local
    client=${told#* }
    tell @polite close
    wait_for_log "closing $client after reading no data"$'\n'
    expected "bytes that came before a reset to be received first, and only then the connection to be closed"
    because "POLLIN and POLLHUP may come together: read what is there before you believe that all is over"
    tell @hasty connect local
    client=${told#* }
    wait_for_log "new connection from $client"$'\n'
    signal_server STOP
    tell @hasty send 'last words' reset
    signal_server CONT
    wait_for_log "received \"last words\" from $client"$'\n'
    wait_for_log "closing $client after "
    expected "the line of the README, in its words, for a client that resets while it is owed echo"
    because "POLLHUP or POLLERR without POLLIN: there is nothing to read that would tell more"
    tell @slow rcvbuf 4K connect local
    client=${told#* }
    tell fill 64M reset
    wait_for_log "closing $client after receiving HUP"$'\n'
}

# ---- The client ------------------------------------------------------------------------------
#
# It reads from a pipe, $input, that stays open until end_input.

start_client_on_pipe() {
    mkfifo "$BATS_TEST_TMPDIR/input"
    start_client --input "$BATS_TEST_TMPDIR/input" "$@"
    exec {input}>"$BATS_TEST_TMPDIR/input" # waits until the client has it open, too
}

end_input() {
    exec {input}>&-
}

client_has_printed() {
    read_all "$client_out"
    [[ $REPLY == "$1" ]]
}

same_bytes() {
    cmp -s "$1" "$2" || fail_with "other bytes: $(stat -c %s "$2") came back of $(stat -c %s "$1")"
}

# bats test_tags=only-04,client
@test "04.8 The client is a pipe to the server" {
    start_server
    expected "the echo of what is written into its standard input on its standard output, at once"
    because "poll() on standard input and on the socket together: whichever has something is read"
    start_client_on_pipe "$port" "$host"
    printf 'a\nb\n' >&"$input"
    wait_until "the client to print \"a\\nb\\n\"" client_has_printed $'a\nb\n'
    printf 'c' >&"$input"
    wait_until "the client to print \"c\" after them, without a line end" client_has_printed $'a\nb\nc'
    expected "exit status 0 when the input has ended, and nothing but the echo on standard output"
    end_input
    client_ends 0
    client_has_printed $'a\nb\nc' || fail_with "more than the echo"
}

# bats test_tags=only-04,client
@test "04.9 An input that ends at once is no error" {
    start_server
    expected "exit status 0 and no output for a pipe that is closed without a byte in it"
    because "a pipe whose writer has left gives POLLHUP, and no POLLIN when nothing is in it: poll(2)"
    start_client_on_pipe "$port" "$host"
    end_input
    client_ends 0
    client_has_printed '' || fail_with "some output"
    expected "the same for /dev/null"
    because "a file is always ready: read() that returns 0 is its end"
    run_client 0 --input /dev/null "$port" "$host"
    client_has_printed '' || fail_with "some output"
}

# bats test_tags=only-04,client
@test "04.10 What is still in the pipe when its writer has left is not lost" {
    start_server -q 0
    expected "the echo of 60,000 bytes that were in the pipe when it was closed"
    because "POLLIN and POLLHUP come together: the pipe has ended for the writer, not yet for you"
    head -c 60000 /dev/urandom >"$BATS_TEST_TMPDIR/bytes"
    start_client_on_pipe "$port" "$host"
    tell connect exchange 10
    kill -STOP "$client_pid"
    wait_until "the client to stop" is_stopped "$client_pid"
    cat "$BATS_TEST_TMPDIR/bytes" >&"$input"
    end_input
    kill -CONT "$client_pid"
    client_ends 0
    same_bytes "$BATS_TEST_TMPDIR/bytes" "$client_out"
}

# bats test_tags=only-04,client
@test "04.11 At the end of its input the client half-closes, and waits for the rest" {
    serve accept expect 'hello' eof send 'hel' pause 50 send 'lo' close
    expected "an end of file for the server, then all of the echo, and exit status 0"
    because "shutdown(SHUT_WR) ends our direction alone; the rest of the echo is still under way"
    start_client_on_pipe "$port" "$host"
    printf 'hello' >&"$input"
    end_input
    client_ends 0
    client_has_printed hello || fail_with "\"$REPLY\" on standard output"
    serve_ends
}

# bats test_tags=only-04,client
@test "04.12 Sixteen megabytes go through, from a file and from a pipe" {
    local bytes=$BATS_TEST_TMPDIR/bytes

    head -c 16M /dev/urandom >"$bytes"
    start_server -q 0
    expected "the same 16 MiB on standard output, from a file"
    because "who sends all before it reads waits for a server that waits for it: do what is possible"
    run_client 0 --input "$bytes" "$port" "$host"
    same_bytes "$bytes" "$client_out"
    expected "the same 16 MiB on standard output, from a pipe"
    start_client_on_pipe "$port" "$host"
    cat "$bytes" >&"$input"
    end_input
    client_ends 0
    same_bytes "$bytes" "$client_out"
}

# Sets REPLY to how far the client has read its input, a file.
input_position() {
    local name value

    while read -r name value; do
        if [[ $name == pos: ]]; then
            REPLY=$value
        fi
    done <"/proc/$client_pid/fdinfo/0"
}

# bats test_tags=only-04,client
@test "04.13 If nobody reads its output the client stops reading its input" {
    local bytes=$BATS_TEST_TMPDIR/bytes result=$BATS_TEST_TMPDIR/result output

    head -c 16M /dev/urandom >"$bytes"
    mkfifo "$BATS_TEST_TMPDIR/output"
    start_server -q 0
    command=("${client_command[@]}" "$port" "$host")
    take_options
    client_out=$result
    client_err=$BATS_TEST_TMPDIR/client.err
    : >"$client_out" 2>"$client_err"
    launch "$bytes" "$BATS_TEST_TMPDIR/output" "$client_err"
    client_pid=$launched
    exec {output}<"$BATS_TEST_TMPDIR/output"
    expected "the client to sleep, and part of its input to be unread, while its output is full"
    because "each queue has an end: full here means full at the server, and then full for our input"
    client_sleeps
    server_sleeps # so it is not the server that the client waits for
    input_position
    ((REPLY < 16 * 1024 * 1024)) || fail_with "it has read all, $REPLY bytes, and must store them"
    expected "all of the 16 MiB when somebody reads it"
    cat <&"$output" >"$result"
    client_ends 0
    same_bytes "$bytes" "$result"
}

# bats test_tags=only-04,client
@test "04.14 The client sleeps while it waits, also when its input has ended" {
    serve accept expect 'hello' eof hold
    expected "less than a fifth of a core while nothing comes in"
    because "wait for writability only with something to write"
    start_client_on_pipe "$port" "$host"
    printf 'hello' >&"$input"
    client_sleeps
    expected "the same when its pipe is closed and the server takes its time"
    because "a pipe that has ended reports POLLHUP for ever: take it out of the array (fd = -1)"
    end_input
    client_sleeps
    expected "the same when its input is a file that has ended"
    serve accept eof hold
    start_client "$port" "$host"
    client_sleeps
}

# bats test_tags=only-04,client
@test "04.15 A server that leaves ends the client, while its input stays open" {
    because "who waits in read() for somebody to type does not see what happens to the socket: poll() both"
    start_server
    expected "exit status 1, and the reason on standard error, when the server is killed"
    start_client_on_pipe "$port" "$host"
    printf 'hello' >&"$input"
    wait_until "the client to print \"hello\"" client_has_printed hello
    stop_server KILL
    client_ends 1
    client_complains "?"
    end_input
    rm "$BATS_TEST_TMPDIR/input"
    expected "the same when it hangs up at once"
    serve accept close hold
    start_client_on_pipe "$port" "$host"
    client_ends 1
    client_complains "?"
    end_input
    rm "$BATS_TEST_TMPDIR/input"
    expected "the same when it resets, and has answered only in part"
    serve accept expect 'hello' send 'hel' reset hold
    start_client_on_pipe "$port" "$host"
    printf 'hello' >&"$input"
    client_ends 1
    client_complains "?"
}

# bats test_tags=only-04,client
@test "04.16 The client says so when the server answers too little or too much" {
    local input=$BATS_TEST_TMPDIR/hello

    printf hello >"$input"
    because "count what goes out and what comes back: at the end of file they must be the same"
    expected "exit status 1, and the reason on standard error, for a server that answers too little"
    serve accept expect 'hello' send 'hel' eof close
    run_client 1 --input "$input" "$port" "$host"
    client_complains "?"
    expected "exit status 1, and the reason on standard error, for a server that answers too much"
    serve accept expect 'hello' send 'hello, hello' eof close
    run_client 1 --input "$input" "$port" "$host"
    client_complains "?"
}

# fd_flags FD: REPLY = the client's flags for this descriptor, a number
fd_flags() {
    local name value

    while read -r name value; do
        if [[ $name == flags: ]]; then
            REPLY=$((8#$value))
        fi
    done <"/proc/$client_pid/fdinfo/$1"
}

# bats test_tags=only-04,client
@test "04.17 The client leaves its input and output as they were" {
    local fd

    start_server
    expected "standard input and output without O_NONBLOCK"
    because "the flag belongs to the open file: the shell and all other programs on it get EAGAIN, too"
    start_client_on_pipe "$port" "$host"
    printf 'hello' >&"$input"
    wait_until "the client to print \"hello\"" client_has_printed hello
    for fd in 0 1; do
        fd_flags "$fd"
        (((REPLY & 8#4000) == 0)) || fail_with "O_NONBLOCK is set on descriptor $fd"
    done
    end_input
    client_ends 0
}

# bats test_tags=only-04,client
@test "04.18 The client goes on after interrupted and short calls" {
    local bytes=$BATS_TEST_TMPDIR/bytes

    head -c 10000 /dev/urandom >"$bytes"
    start_server
    expected "the same bytes on standard output, and exit status 0"
    because "EINTR is no error, and connect() goes on without us; a short send() leaves a rest"
    run_client 0 --faults connect:EINTR:1,recv:EINTR:1%2,send:EINTR:1%2,poll:EINTR:1%2 \
        --input "$bytes" "$port" "$host"
    same_bytes "$bytes" "$client_out"
    faults_reached connect recv send
    run_client 0 --faults recv:cap=100,send:cap=7 --input "$bytes" "$port" "$host"
    same_bytes "$bytes" "$client_out"
    faults_reached recv send
}

# bats test_tags=only-04,client
@test "04.19 The client refuses what it cannot do" {
    local bad

    expected "exit status 1, and an error that says \"refused\", when nobody listens"
    because "connect() fails with ECONNREFUSED"
    serve -b hold
    run_client 1 "$port" "$host"
    client_complains "refused"
    because "atoi() takes 10000x for 10000, and abc for 0"
    for bad in abc 70000 10000x ""; do
        expected "exit status 2, and the usage, for the port \"$bad\""
        run_client 2 "$bad"
        client_complains sage
    done
    expected "exit status 2 for a host that is no address, and for a third argument"
    run_client 2 10000 "no such host"
    run_client 2 10000 127.0.0.1 hello
}

# ---- revents.c -------------------------------------------------------------------------------

# table [--markdown]: $table is what revents prints
table() {
    [[ $(uname -s) == Linux ]] || skip "revents is about Linux, and this is $(uname -s)"
    build_program 04-poll/revents
    start_client --program "$REPLY $*"
    client_ends 0
    read_all "$client_err"
    [[ -z $REPLY ]] || fail_with "it complains: $REPLY"
    read_all "$client_out"
    table=$REPLY
}

# row SITUATION POLL SELECT EPOLL: the table must have this row, however wide its columns are.
row() {
    local line squeezed

    while read -r line; do
        if [[ $line == "$1  "* ]]; then
            read -r -a squeezed <<<"$line"
            [[ "${squeezed[*]}" == "$1 $2 $3 $4" ]] && return
            expected "$2 of poll, $3 of select and $4 of epoll for \"$1\""
            fail_with "${squeezed[*]}"
        fi
    done <<<"$table"
    fail_with "there is no row \"$1\""
}

# bats test_tags=only-04,companion
@test "04.20 What poll, select and epoll report is what the kernel does" {
    because "another kernel may differ: then its table is right, and the README and this test are to be changed"
    table
    row "connected, nothing to read" OUT write OUT
    row "data to read" "IN OUT" "read write" "IN OUT"
    row "end of file (the peer closed)" "IN OUT RDHUP" "read write" "IN OUT RDHUP"
    row "end of file, data still unread" "IN OUT RDHUP" "read write" "IN OUT RDHUP"
    row "our own half-close alone" OUT write OUT
    row "both halves closed" "IN OUT HUP RDHUP" "read write" "IN OUT HUP RDHUP"
    row "reset" "IN OUT ERR HUP RDHUP" "read write" "IN OUT ERR HUP RDHUP"
    row "reset, data still unread" "IN OUT ERR HUP RDHUP" "read write" "IN OUT ERR HUP RDHUP"
    row "reset, and \`events\` is 0" "ERR HUP" - "ERR HUP"
    row "urgent byte" "PRI OUT" "write except" "PRI OUT"
    row "socket without a connection" "OUT HUP" "read write" "OUT HUP"
    row "connect refused" "IN OUT ERR HUP RDHUP" "read write" "IN OUT ERR HUP RDHUP"
    row "connect under way" - - -
    row "connect done" OUT write OUT
    row "listener, nobody waits" - - -
    row "listener, a connection waits" IN read IN
    row "pipe, writer left, empty" HUP read HUP
    row "pipe, writer left, data unread" "IN HUP" read "IN HUP"
    row "pipe, reader left" "OUT ERR" "read write" "OUT ERR"
    row "closed descriptor" NVAL EBADF EBADF
    row "regular file" "IN OUT" "read write" EPERM
}

# bats test_tags=only-04,companion
@test "04.21 The table in the walkthrough is that of this kernel" {
    local readme

    because "copy what \`revents --markdown\` prints between the lines <!-- revents --> and <!-- /revents -->"
    table --markdown
    read_all "$course/04-poll/README.md"
    readme=${REPLY#*$'<!-- revents -->\n'}
    readme=${readme%%$'<!-- /revents -->'*}
    expected "04-poll/README.md to hold this table"
    [[ ${readme#$'\n'} == "$table" || ${readme#$'\n'} == "$table"$'\n' ]] ||
        fail_with "another one" "$(diff <(echo "${readme%$'\n'}") <(echo "${table%$'\n'}") | head -n 10)"
}

# bats test_tags=only-04,companion
@test "04.22 The table comes out the same, time and again" {
    local first i

    because "one end waits until the kernel reports what the other has done, and does not hope"
    table
    first=$table
    for i in {1..20}; do
        table
        expected "the same table as in the first run"
        [[ $table == "$first" ]] || fail_with "$(diff <(echo "$first") <(echo "$table") | head -n 10)"
    done
    expected "the columns to begin at the same place in every row"
    while read -r i; do
        [[ ${i:32:2} == " "[^\ ] && ${i:54:2} == " "[^\ ] && ${i:68:2} == " "[^\ ] ]] || fail_with "$i"
    done <<<"${first%$'\n'}"
}
