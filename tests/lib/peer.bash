# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# peer.bash: clients that a test plays, with build/peer (peer.c). `build/peer -h` lists their steps.

# look_at_server: notes what the server does, and what it has logged, while a client waits for it. When the client
# has given up and left, both may look as if nothing had been wrong. Therefore $seen and $log_seen are those of
# the last look but one.
look_at_server() {
    [[ -n $server_pid ]] || return 0
    seen=$last_seen
    log_seen=$last_log
    server_doing
    last_seen=$REPLY
    looks=$((looks + 1))
    # To read /proc/net/tcp is slow beside thousands of connections: therefore only after a second and a half.
    if ((looks > 2)) && [[ $REPLY =~ ^is\ blocked\ in\ (select|poll|epoll_wait) ]]; then
        what_is_unread
        last_seen+=$REPLY
    fi
    read_end "$server_log"
    last_log=$REPLY
}

# what_is_unread: REPLY = what the kernel holds for the server ("although 5 bytes have not been received"), or
# nothing. /proc/net/tcp has the state of each connection, and how many bytes its receiver has not read. An end of
# file counts as one; for a listener (state 0A) it is the number of pending connections.
what_is_unread() {
    local text

    printf -v text ':%04X' "$port"
    REPLY=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v local="$text" '
        function hex(digits,   n, i) {
            for (i = 1; i <= length(digits); i++)
                n = 16 * n + index("0123456789ABCDEF", substr(digits, i, 1)) - 1
            return n
        }
        substr($2, length($2) - 4) == local && /:/ {
            split($5, queues, ":")
            n = hex(queues[2])
            if ($4 == "0A" && n > 0)      pending = 1
            else if ($4 == "08" && n > 0) { ends = 1; bytes += n - 1 }
            else if ($4 == "01")          bytes += n
        }
        END {
            if (pending)        print ", although a new connection has not been accepted"
            else if (bytes > 0) print ", although " bytes (bytes == 1 ? " byte has" : " bytes have") " not been received"
            else if (ends)      print ", although an end of file has not been received"
        }' || :)
}

# look_no_more: forgets what was noted.
look_no_more() {
    looks=0
    seen=
    log_seen=
    last_seen=
    last_log=
}

# peer_limits: sets $limits to the options for build/peer that limit the time of each step, and of all together.
peer_limits() {
    patience
    in_seconds "$wait_limit"
    limits=(-t "$REPLY")
    in_seconds "$left"
    limits+=(-T "$REPLY")
}

# next_line FD: $line = the next line of a peer's output. Looks at the server whenever none has come for half a
# second. Returns 1 when the peer has ended.
next_line() {
    local part result half_a_second

    line=
    stretch 500000
    in_seconds "$REPLY"
    half_a_second=$REPLY
    while :; do
        read -r -t "$half_a_second" -u "$1" part && result=0 || result=$?
        line+=$part # when its time is up, read returns what has come: perhaps half a line
        ((result > 128)) || return "$result"
        look_at_server
    done
}

# peer STEP...: a client of the server takes these steps and ends: then its connections are closed. Ends the test if
# a step fails, with the end of the server, the call in which the server hangs, or what the client saw.
peer() {
    local line text='' status='' fd

    look_no_more
    peer_limits
    # Its last line says how the peer has ended: `wait` for a process substitution hangs now and then.
    exec {fd}< <(
        close_descriptors 2>/dev/null
        status=0
        "$build/peer" "${limits[@]}" "$port" "$host" "$@" </dev/null 2>&1 >/dev/null || status=$?
        echo "status $status"
    )
    while next_line "$fd"; do
        case $line in
        "status "*) status=${line#* } ;;
        *) text+=${text:+$'\n'}$line ;;
        esac
    done
    exec {fd}<&-
    [[ $status == 0 ]] || peer_failed "$text"
}

# peer_failed TEXT: ends the test. TEXT is the message of build/peer: "peer: step 3, A: expect ...".
peer_failed() {
    local text=${1#peer: } moment

    if [[ $text =~ ^step\ [0-9]+,\ ([^:]+):\ (.*) ]]; then
        text="client ${BASH_REMATCH[1]}: ${BASH_REMATCH[2]}"
    elif [[ $text =~ ^step\ [0-9]+:\ (.*) ]]; then
        text=${BASH_REMATCH[1]}
    fi
    # A dying process closes its connections a moment before it is dead.
    for moment in {1..10}; do
        if [[ -n $server_pid ]] && ! is_running "$server_pid"; then
            reap_server
            if [[ $server_end == *SIGPIPE && $text =~ (got\ \"|but\ should\ be) ]]; then # the test has left because of this
                explain "$text"
                fail_with "$text" "then the server $server_end, sending to this client, which had left"
            fi
            explain_the_end
            fail_with "the server $server_end" "$text"
        fi
        [[ $text == *" within "* ]] || nap
    done
    if [[ $text =~ (client\ [^:]+):.*still\ takes\ bytes,\ after\ ([0-9]+) ]]; then
        text="the server still accepts bytes from ${BASH_REMATCH[1]}, after $((BASH_REMATCH[2] / 1048576)) MiB that this client has not read back"
    fi
    explain "$text"
    if [[ $text == *" within "* && -n $seen ]]; then
        explain_doing "$seen"
        log_then=$log_seen
        fail_with "$text" "the server $seen"
    fi
    fail_with "$text"
}

tell_in='' # descriptors of the conversation
tell_out=''
told=''

# tell STEP...: the same in a conversation: the client keeps its connections, and goes on with the next `tell`. So a
# test can look at the server in between. $told = the last line that a step has printed. The conversation ends
# with the test, or by tell_no_more.
tell() {
    local word words='' line

    look_no_more
    [[ -n $tell_in ]] || start_conversation
    for word in "$@"; do
        if [[ $word == *[[:blank:]]* ]]; then
            word=\"${word//\"/\\\"}\"
        fi
        words+="$word "
    done
    printf '%s\n' "$words" >&"$tell_in"
    while next_line "$tell_out"; do
        case $line in
        ok) return ;;
        "peer: "*) break ;;
        *) told=$line ;;
        esac
    done
    peer_failed "$line"
}

# start_conversation: the peer reads steps from one fifo and prints to another. Only the peer has the other one open
# for writing. Therefore we read end of file there when the peer has ended.
start_conversation() {
    mkfifo "$BATS_TEST_TMPDIR/tell" "$BATS_TEST_TMPDIR/told"
    exec {tell_in}<>"$BATS_TEST_TMPDIR/tell"
    peer_limits
    launch_peer "$BATS_TEST_TMPDIR/tell" "$BATS_TEST_TMPDIR/told" "$BATS_TEST_TMPDIR/tell.err" \
        "${limits[@]}" "$port" "$host" -
    tell_pid=$launched
    exec {tell_out}<"$BATS_TEST_TMPDIR/told"
}

# tell_no_more: ends the conversation: its connections are closed, and the next `tell` begins another one.
tell_no_more() {
    if [[ -n $tell_in ]]; then
        exec {tell_in}>&- {tell_out}>&-
        tell_in=
        rm -f "$BATS_TEST_TMPDIR/tell" "$BATS_TEST_TMPDIR/told"
        end_child "$tell_pid"
    fi
}
