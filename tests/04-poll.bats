#!/usr/bin/env bats
#
# The steps of stage 04: poll() gets one array, which stays between the calls and changes only when
# a client connects, leaves, or waits for something else. A step judges what goes over the wire and
# what the process does; only one step judges the wording of the log.
#
# Tags: only-04 marks steps that do not hold in later stages. In this file they are the steps of the
# client: it is a pipe to the server, and works unlike the client of any other stage.

# shellcheck disable=SC2030,SC2031,SC2034,SC2154 # the helper sets and reads what is here
load lib/helper

# ---- Core ------------------------------------------------------------------------------------

@test "04.1 More clients than select() can watch are served" {
    local i clients=()

    for i in {1..1100}; do
        clients+=("@c$i" connect exchange 10)
    done
    needs_open_files 1200
    start_server --open-files 1200 -q 0
    expected "1,100 clients to be served, including those whose descriptors are above FD_SETSIZE (1024)"
    because "poll() takes an array of any length, but that array and every table indexed by descriptor must grow"
    tell "${clients[@]}"
    server_sleeps
    stop_server # how clients leave is for later steps
}

@test "04.2 Two thousand clients that send at once get their own bytes" {
    local first

    needs_open_files 2100
    start_server --open-files 2100 -q 0
    expected "each of 2,000 clients to get its own echo when all of them send at the same time"
    because "realloc() may move the array, and pointers into the old one then dangle; or it did not grow: see 04.1"
    # In groups, each with a deadline of its own: a server may accept one client per poll(), and
    # look at all the others each time.
    for ((first = 1; first <= 2000; first += 50)); do
        tell "@c$first..$((first + 49))" connect "@c$((first + 49))" exchange 10
    done
    while_stopped tell @c1..2000 send-bytes 100
    tell @c1..2000 drain
    stop_server
}

@test "04.3 The neighbours of a client that left get their own bytes" {
    local round one two three

    start_server -q 0
    expected "each client to get its own echo in 20 rounds: 9 clients leave, 9 connect, and then all 18 send"
    because "the entry that fills a gap must keep its descriptor and events, and its connection must learn the new index"
    # The entry of C, which does not read, is the last, and moves when B leaves. That is over once
    # A, which sends after that, has been served.
    tell connect @B connect @C rcvbuf 4K connect fill 64M
    tell @B close @A exchange 10
    tell @r3-1..9 connect @r2-4..9 connect @r1-7..9 connect
    for round in {4..23}; do
        one=@r$((round - 1))
        two=@r$((round - 2))
        three=@r$((round - 3))
        while_stopped tell "$one-1..3" reset "$two-4..6" close "$three-7..9" reset "@r$round-1..9" connect \
            "@r$round-1..9" send-bytes 100 "$one-4..9" send-bytes 100 "$two-7..9" send-bytes 100
        tell "@r$round-1..9" drain "$one-4..9" drain "$two-7..9" drain
    done
    expected "the server to sleep although one client does not read, and that client to get all of its echo later"
    server_sleeps
    tell @C drain exchange 10
}

@test "04.4 A reset while the server waits only to write closes that client alone" {
    start_server
    expected "the server to close clients that reset while it owes them data, and to sleep before and after"
    because "POLLHUP and POLLERR appear in revents even if events is 0, on every poll() until you close() the socket"
    tell connect exchange 10
    tell @B rcvbuf 4K connect fill 64M @C rcvbuf 4K connect fill 64M shutdown
    server_sleeps
    tell @B reset @C reset
    server_sleeps
    tell @A exchange 10 close
    wait_until "the server to close the sockets of all clients" sockets_are_closed
}

@test "04.5 It watches no more descriptors than are open" {
    local round

    start_server --open-files 64 -q 0
    expected "a new client to be served after 300 others have connected and left, 10 at a time (ulimit -n 64)"
    because "remove or reuse the entries of closed connections: poll() gives EINVAL for more entries than \"ulimit -n\""
    tell connect exchange 10
    for ((round = 0; round < 30; round++)); do
        tell @c1..10 connect @c1..10 exchange 10 @c1..5 close @c6..10 reset
    done
    tell @A exchange 10 @B connect exchange 10
    server_sleeps
}

@test "04.6 A new client inherits nothing from the one whose descriptor it gets" {
    start_server -q 0
    expected "new clients to get exactly their own echo after a client that was still owed data has reset"
    because "accept() reuses the lowest free descriptor: state stored by descriptor (queue, events) must start empty"
    tell rcvbuf 4K connect fill 64M reset
    wait_until "the server to close the connection that was reset" sockets_are_closed
    tell @B connect @C connect @B exchange 1000 @C exchange 1000
    server_sleeps
}

# ---- Hardening -------------------------------------------------------------------------------

# bats test_tags=wording,not-uring
@test "04.20 The log tells a hang-up from an end of file, and what came before it" {
    local client

    start_server
    expected "the log line of this step, word for word, for a client that closes its connection normally"
    because "recv() returns 0 at end of file: this is not an error, so the line must not report one"
    tell connect local
    client=${told#* }
    tell close
    wait_for_log "closing $client after reading no data"$'\n'
    expected "the server to receive the bytes that arrived before a reset, and only then to close the connection"
    because "poll() may report POLLIN and POLLHUP together: read what has arrived before you close the socket"
    tell @B connect local
    client=${told#* }
    wait_for_log "new connection from $client"$'\n'
    while_stopped tell @B send 'last words' reset
    wait_for_log "closing $client after "
    read_all "$server_log"
    [[ ${REPLY%%"closing $client after "*} == *"received \"last words\" from $client"$'\n'* ]] ||
        fail_with "the connection was closed, and no line before that says that \"last words\" was received"
    expected "the log line of this step, word for word, for a client that resets while it is owed data"
    because "POLLHUP or POLLERR without POLLIN means that there is nothing to read: close the socket and log the hang-up"
    tell @C rcvbuf 4K connect local
    client=${told#* }
    tell fill 64M reset
    because "SO_ERROR, which getsockopt() reads, says why the connection broke: add it to the line, as for a failed recv()"
    wait_for_log "closing $client after receiving HUP: Connection reset by peer"$'\n'
}

# ---- Client ----------------------------------------------------------------------------------

start_client_on_pipe() {
    mkfifo "$BATS_TEST_TMPDIR/input"
    start_client --input "$BATS_TEST_TMPDIR/input" "$@"
    exec {input}>"$BATS_TEST_TMPDIR/input" # blocks until the client has opened it as well
}

end_input() {
    exec {input}>&-
}

# client_output_is TEXT: true if the client has printed TEXT and nothing else.
client_output_is() {
    read_all "$client_out"
    [[ $REPLY == "$1" ]]
}

same_bytes() {
    cmp -s "$1" "$2" ||
        fail_with "the client's output differs from its input ($(stat -c %s "$2") bytes of $(stat -c %s "$1"))"
}

# bats test_tags=only-04,client
@test "04.40 The client is a pipe to the server" {
    start_server
    expected "the client to send what it reads from standard input and to print the echo on standard output at once"
    because "poll() must watch standard input and the socket together, and printf() would keep the echo in a buffer"
    start_client_on_pipe "$port" "$host"
    printf 'a\nb\n' >&"$input"
    wait_until "the client to print \"a\\nb\\n\"" client_output_is $'a\nb\n'
    printf 'c' >&"$input"
    wait_until "the client to print \"c\" as well, although no newline follows it" client_output_is $'a\nb\nc'
    expected "exit status 0 at the end of the input, and nothing but the echo on standard output"
    end_input
    client_ends 0
    client_output_is $'a\nb\nc' || fail_with "the client printed more than the echo"
}

# bats test_tags=only-04,client
@test "04.41 An input that ends at once is no error" {
    start_server
    expected "exit status 0 and no output when standard input is a pipe that closes before a byte is written"
    because "poll() reports POLLHUP without POLLIN for an empty pipe whose writer has closed it: poll(2)"
    start_client_on_pipe "$port" "$host"
    end_input
    client_ends 0
    client_output_is '' || fail_with "the client printed something"
    expected "exit status 0 and no output when standard input is /dev/null"
    because "poll() always reports a file as ready: the end of the input is a read() that returns 0"
    run_client 0 --input /dev/null "$port" "$host"
    client_output_is '' || fail_with "the client printed something"
}

# bats test_tags=only-04,client
@test "04.42 What is still in the pipe when its writer has left is not lost" {
    start_server -q 0
    expected "the echo of all 60,000 bytes that were still in the pipe when its writer closed it"
    because "poll() reports POLLIN and POLLHUP together: go on reading until read() returns 0"
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
@test "04.43 At the end of its input the client half-closes, and waits for the rest" {
    serve accept expect 'hello' eof send 'hel' pause 50 send 'lo' close
    expected "the client to send end of file, then to print all of the echo, and to exit with status 0"
    because "shutdown(SHUT_WR) ends one direction only (half-close): the rest of the echo is still to be read"
    start_client_on_pipe "$port" "$host"
    printf 'hello' >&"$input"
    end_input
    client_ends 0
    client_output_is hello || fail_with "the client printed \"$REPLY\""
    serve_ends
}

# bats test_tags=only-04,client
@test "04.44 Sixteen megabytes go through, from a file and from a pipe" {
    local bytes=$BATS_TEST_TMPDIR/bytes

    head -c 16M /dev/urandom >"$bytes"
    start_server -q 0
    expected "the same 16 MiB on standard output when standard input is a file"
    because "sending everything before reading causes a deadlock: the server stops until you read its echo (backpressure)"
    run_client 0 --input "$bytes" "$port" "$host"
    same_bytes "$bytes" "$client_out"
    expected "the same 16 MiB on standard output when standard input is a pipe"
    start_client_on_pipe "$port" "$host"
    cat "$bytes" >&"$input"
    end_input
    client_ends 0
    same_bytes "$bytes" "$client_out"
}

# REPLY = how many bytes of its input, a file, the client has read.
input_position() {
    local name value

    while read -r name value; do
        if [[ $name == pos: ]]; then
            REPLY=$value
        fi
    done <"/proc/$client_pid/fdinfo/0"
}

# Do the client and the server sleep at the same time, for 100 ms? Then neither has anything left to
# do. A process that waits for a core uses none either, so the end of the window must find it asleep.
both_sleep() {
    local server=$server_pid server_pid start=${EPOCHREALTIME//[!0-9]/} busy=0

    for server_pid in "$client_pid" "$server"; do
        cpu_time
        busy=$((busy - REPLY))
    done
    nap 0.1
    for server_pid in "$client_pid" "$server"; do
        has_no_running_thread "$server_pid" || return
        cpu_time
        busy=$((busy + REPLY))
    done
    ((busy * 5 < ${EPOCHREALTIME//[!0-9]/} - start))
}

# bats test_tags=only-04,client
@test "04.45 If its output is not read, the client stops reading its input" {
    local bytes=$BATS_TEST_TMPDIR/bytes six=$BATS_TEST_TMPDIR/six seconds output i

    # The four socket buffers between input and output may grow to 72 MiB (tcp_rmem and tcp_wmem).
    head -c 16M /dev/urandom >"$bytes"
    cat "$bytes" "$bytes" "$bytes" "$bytes" "$bytes" "$bytes" >"$six"
    mkfifo "$BATS_TEST_TMPDIR/output"
    start_server -q 0
    command=("${client_command[@]}" "$port" "$host")
    take_options
    client_out=$BATS_TEST_TMPDIR/rest
    client_err=$BATS_TEST_TMPDIR/client.err
    : >"$client_out" 2>"$client_err"
    launch "$six" "$BATS_TEST_TMPDIR/output" "$client_err"
    client_pid=$launched
    exec {output}<"$BATS_TEST_TMPDIR/output"
    expected "the client to sleep, with part of its input still unread, while nothing reads its output"
    because "each queue needs a limit: while output is blocked, do not recv(); while send() is blocked, do not read()"
    if ! await both_sleep; then # one of the two is busy: these say which
        client_sleeps
        server_sleeps
    fi
    input_position
    ((REPLY < 96 * 1024 * 1024)) || fail_with "the client has read all $REPLY bytes, and keeps them in memory"
    expected "all 96 MiB on standard output once the test reads it"
    stretch 5000000
    printf -v seconds '%d.%06d' $((REPLY / 1000000)) $((REPLY % 1000000))
    for i in {0..5}; do # in parts, each with a deadline of its own
        timeout "$seconds" cmp -s -n 16M "$bytes" - <&"$output" ||
            fail_with "other bytes, or too few, or none within $seconds s, after $((16 * i)) MiB"
    done
    cat <&"$output" >"$client_out"
    [[ ! -s $client_out ]] || fail_with "more than that"
    client_ends 0
}

# bats test_tags=only-04,client
@test "04.46 The client sleeps while it waits, also when its input has ended" {
    serve accept expect 'hello' say read eof hold
    expected "the client to sleep while it waits for the echo"
    because "a socket is almost always writable: ask for POLLOUT only when there is something to send"
    start_client_on_pipe "$port" "$host"
    printf 'hello' >&"$input"
    wait_until "the client to send hello" grep -q read "$serve_out"
    client_sleeps
    expected "the client to sleep while it waits for the echo after its input, a pipe, has ended"
    because "poll() keeps reporting an input that has ended (POLLHUP, or POLLIN for a file): set its fd to -1"
    end_input
    client_sleeps
    expected "the client to sleep while it waits for the server after its input, a file, has ended"
    serve accept eof hold
    start_client "$port" "$host"
    client_sleeps
}

# bats test_tags=only-04,client
@test "04.47 A server that leaves ends the client, while its input stays open" {
    because "a client blocked in read() on its input does not see that the connection has ended: poll() both"
    start_server
    expected "exit status 1, and the reason on standard error, when the server is killed"
    start_client_on_pipe "$port" "$host"
    printf 'hello' >&"$input"
    wait_until "the client to print \"hello\"" client_output_is hello
    stop_server KILL
    client_ends 1
    client_complains
    end_input
    rm "$BATS_TEST_TMPDIR/input"
    expected "exit status 1, and the reason on standard error, when the server closes the connection at once"
    serve accept close hold
    start_client_on_pipe "$port" "$host"
    client_ends 1
    client_complains
    end_input
    rm "$BATS_TEST_TMPDIR/input"
    expected "exit status 1, and the reason on standard error, when the server resets after part of the echo"
    serve accept expect 'hello' send 'hel' reset hold
    start_client_on_pipe "$port" "$host"
    printf 'hello' >&"$input"
    client_ends 1
    client_complains
}

# bats test_tags=only-04,client
@test "04.48 The client says so when the server answers too little or too much" {
    local input=$BATS_TEST_TMPDIR/hello

    printf hello >"$input"
    because "the client must count the bytes sent and the bytes received: at end of file both must be equal"
    expected "exit status 1, and the reason on standard error, when the server sends back too few bytes"
    serve accept expect 'hello' send 'hel' eof close
    run_client 1 --input "$input" "$port" "$host"
    client_complains
    expected "exit status 1, and the reason on standard error, when the server sends back too many bytes"
    serve accept expect 'hello' send 'hello, hello' eof close
    run_client 1 --input "$input" "$port" "$host"
    client_complains
}

# fd_flags FD: REPLY = the file status flags of this descriptor of the client, a number
fd_flags() {
    local name value

    while read -r name value; do
        if [[ $name == flags: ]]; then
            REPLY=$((8#$value))
        fi
    done <"/proc/$client_pid/fdinfo/$1"
}

# bats test_tags=only-04,client
@test "04.49 The client leaves its input and output as they were" {
    local fd

    start_server
    expected "the client to leave O_NONBLOCK off on standard input and standard output"
    because "O_NONBLOCK belongs to the open file description: the shell and other programs that share it get EAGAIN"
    start_client_on_pipe "$port" "$host"
    printf 'hello' >&"$input"
    wait_until "the client to print \"hello\"" client_output_is hello
    for fd in 0 1; do
        fd_flags "$fd"
        (((REPLY & 8#4000) == 0)) || fail_with "O_NONBLOCK is set on descriptor $fd"
    done
    end_input
    client_ends 0
}

# bats test_tags=only-04,client
@test "04.50 The client goes on after interrupted and short calls" {
    local bytes=$BATS_TEST_TMPDIR/bytes

    head -c 10000 /dev/urandom >"$bytes"
    start_server
    expected "the same bytes on standard output, and exit status 0, although calls are interrupted or cut short"
    because "after EINTR, call again (except connect(), which goes on: poll() the socket); send() may accept only a part"
    run_client 0 --faults connect:EINTR:1,recv:EINTR:1%2,send:EINTR:1%2,poll:EINTR:1%2 \
        --input "$bytes" "$port" "$host"
    same_bytes "$bytes" "$client_out"
    faults_reached connect recv send
    run_client 0 --faults recv:cap=100,send:cap=7 --input "$bytes" "$port" "$host"
    same_bytes "$bytes" "$client_out"
    faults_reached recv send
}

# bats test_tags=only-04,client
@test "04.51 The client refuses what it cannot do" {
    local bad

    expected "exit status 1, and \"refused\" on standard error, when no server listens on the port"
    because "connect() fails with ECONNREFUSED: report it with strerror(), and exit with status 1"
    serve -b hold
    run_client 1 "$port" "$host"
    client_complains "refused"
    because "atoi() turns 10000x into 10000 and abc into 0. Use strtol(), check where the number ends, and refuse numbers above 65535"
    for bad in abc 70000 10000x "" 18446744073709551617; do
        expected "exit status 2, and the usage, for the port \"$bad\""
        run_client 2 "$bad"
        client_complains usage
    done
    expected "exit status 2 for a host that is not an address, and for a third argument"
    because "getaddrinfo() refuses this HOST, and this client takes no third argument. Print the usage, and exit with status 2"
    run_client 2 10000 "no such host"
    run_client 2 10000 127.0.0.1 hello
    [[ -c /dev/full ]] || return 0
    expected "exit status 1, and the reason on standard error, when standard output is a full disk"
    because "write() fails with ENOSPC: report it with strerror(), and exit with status 1"
    printf hello >"$BATS_TEST_TMPDIR/hello"
    start_server
    start_client --input "$BATS_TEST_TMPDIR/hello" --output /dev/full "$port" "$host"
    client_ends 1
    client_complains "no space left"
}

# ---- revents.c -------------------------------------------------------------------------------

# table [--markdown]: $table is what revents prints
table() {
    [[ $(uname -s) == Linux ]] || skip "revents shows what Linux reports, and this is $(uname -s)"
    build_program 04-poll/revents
    start_client --program "$REPLY $*"
    client_ends 0
    read_all "$client_err"
    [[ -z $REPLY ]] || fail_with "revents reports an error: $REPLY"
    read_all "$client_out"
    table=$REPLY
}

# row SITUATION POLL SELECT EPOLL: the table must have this row; the widths of its columns may vary.
row() {
    local line squeezed

    while read -r line; do
        if [[ $line == "$1  "* ]]; then
            read -r -a squeezed <<<"$line"
            [[ "${squeezed[*]}" == "$1 $2 $3 $4" ]] && return
            expected "poll to report $2, select $3 and epoll $4 for \"$1\""
            fail_with "${squeezed[*]}"
        fi
    done <<<"$table"
    fail_with "the table has no row \"$1\""
}

# bats test_tags=only-04,companion
@test "revents.1 The program shows what poll, select and epoll report" {
    because "another kernel may report other events: then its table is right, so change revents.md and this test"
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
    row "listener, no connection waits" - - -
    row "listener, a connection waits" IN read IN
    row "pipe, writer left, empty" HUP read HUP
    row "pipe, writer left, data unread" "IN HUP" read "IN HUP"
    row "pipe, reader left" "OUT ERR" "read write" "OUT ERR"
    row "closed descriptor" NVAL EBADF EBADF
    row "regular file" "IN OUT" "read write" EPERM
}

# bats test_tags=only-04,companion
@test "revents.2 The table on its page is that of this kernel" {
    local page

    because "the page is out of date: copy what \`revents --markdown\` prints between its <!-- revents --> marks"
    table --markdown
    read_all "$course/04-poll/revents.md"
    page=${REPLY#*$'<!-- revents -->\n'}
    page=${page%%$'<!-- /revents -->'*}
    expected "the table in 04-poll/revents.md to be the one that revents prints on this kernel"
    [[ ${page#$'\n'} == "$table" || ${page#$'\n'} == "$table"$'\n' ]] ||
        fail_with "a different table" "$(diff <(echo "${page%$'\n'}") <(echo "${table%$'\n'}") | head -n 10)"
}

# bats test_tags=only-04,companion
@test "revents.3 The table comes out the same, time and again" {
    local first i

    because "revents must wait until the kernel reports what the other end has done, before it prints the row"
    table
    first=$table
    for i in {1..20}; do
        table
        expected "the same table as in the first run"
        [[ $table == "$first" ]] || fail_with "$(diff <(echo "$first") <(echo "$table") | head -n 10)"
    done
    expected "each column to begin at the same place in every row"
    while read -r i; do
        [[ ${i:32:2} == " "[^\ ] && ${i:54:2} == " "[^\ ] && ${i:68:2} == " "[^\ ] ]] || fail_with "$i"
    done <<<"${first%$'\n'}"
}
