# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# peer.bash: clients that a test plays, with build/peer (peer.c).

# look_at_server: notes what it does, and has logged, while its client waits. When the client has
# given up, and left, both may look as if nothing had been wrong. So a look counts ($seen, $log_seen)
# when another has come after it.
look_at_server() {
    seen=$last_seen
    log_seen=$last_log
    server_doing
    last_seen=$REPLY
    read_end "$server_log"
    last_log=$REPLY
}

look_no_more() {
    seen=
    log_seen=
    last_seen=
    last_log=
}

# peer_limits: sets $limits to the options with the limits of each step, and of all together
peer_limits() {
    patience
    in_seconds "$wait_limit"
    limits=(-t "$REPLY")
    in_seconds "$left"
    limits+=(-T "$REPLY")
}

# Runs build/peer and looks at the server while it waits: by the time that it has given up, its
# connections are closed, and a server that hung in one of them goes on.
peer() {
    local part result line='' text='' status='' look

    look_no_more
    peer_limits
    stretch 500000
    printf -v look '%d.%06d' $((REPLY / 1000000)) $((REPLY % 1000000))
    exec {peer_fd}< <(
        close_descriptors 2>/dev/null
        result=0
        "$build/peer" "${limits[@]}" "$port" "$host" "$@" </dev/null 2>&1 >/dev/null || result=$?
        echo "status $result"
    )
    while [[ -z $status ]]; do
        read -r -t "$look" -u "$peer_fd" part && result=0 || result=$?
        line+=$part # when its time is up, read hands over what it has: perhaps half a line
        if ((result > 128)); then
                    look_at_server
            continue
        fi
        case $line in
        "status "*) status=${line#* } ;;
        ?*) text+=${text:+$'\n'}$line ;;
        esac
        line=
        ((result == 0)) || status=${status:-none}
    done
    exec {peer_fd}<&-
    [[ $status == 0 ]] || peer_failed "$text"
}

# peer_failed TEXT: what peer said ("peer: step 3, a: expect ...").
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
            explain_the_end
            fail_with "the server $server_end" "$text"
        fi
        [[ $text == *" within "* ]] || nap
    done
    if [[ $text =~ took\ more\ than\ that\ \(([0-9]+) ]]; then
        text="the server went on reading: it took $((BASH_REMATCH[1] / 1048576)) MiB from a client that read nothing"
    fi
    explain "$text"
    if [[ $text == *" within "* && -n $seen ]]; then
        thread_count
        if [[ $stage != 01 && $REPLY == 1 && $seen =~ ^is\ blocked\ in\ (accept|recv|send) &&
            $because_text != *O_NONBLOCK* ]]; then
            because "while this call blocks, no other client is served. Set O_NONBLOCK on the listener and on every client. See 02.1"
        fi
        log_then=$log_seen
        fail_with "$text" "the server $seen"
    fi
    fail_with "$text"
}

tell_in='' # descriptors of the conversation
tell_out=''
told=''

tell() {
    local word line='' look part result answer='' ended

    look_no_more
    if [[ -z $tell_in ]]; then
        mkfifo "$BATS_TEST_TMPDIR/tell" "$BATS_TEST_TMPDIR/told"
        exec {tell_in}<>"$BATS_TEST_TMPDIR/tell" {tell_out}<>"$BATS_TEST_TMPDIR/told"
        peer_limits
        command=("$build/peer" "${limits[@]}" "$port" "$host" -)
        settings=()
        open_files=
        launch "$BATS_TEST_TMPDIR/tell" "$BATS_TEST_TMPDIR/told" "$BATS_TEST_TMPDIR/tell.err"
        tell_pid=$launched
    fi
    for word in "$@"; do
        if [[ $word == *[[:blank:]]* ]]; then
            word=\"${word//\"/\\\"}\"
        fi
        line+="$word "
    done
    printf '%s\n' "$line" >&"$tell_in"
    stretch 500000
    printf -v look '%d.%06d' $((REPLY / 1000000)) $((REPLY % 1000000))
    while :; do
        # Looked at before the read: what the peer said last is then in the pipe, and is read below.
        is_running "$tell_pid" && ended='' || ended=yes
        read -r -t "$look" -u "$tell_out" part && result=0 || result=$?
        answer+=$part # as above
        case $answer in
        ok) return ;;
        "peer: "*)
            ((result > 0)) || break
            ;;
        ?*)
            if ((result == 0)); then
                told=$answer
                answer=
            fi
            ;;
        esac
        if ((result > 0)); then
            [[ -z $ended ]] || break
                    if [[ -n $server_pid ]]; then
                look_at_server
            fi
        fi
    done
    peer_failed "$answer"
}

tell_no_more() {
    if [[ -n $tell_in ]]; then
        exec {tell_in}>&- {tell_out}>&-
        tell_in=
        rm -f "$BATS_TEST_TMPDIR/tell" "$BATS_TEST_TMPDIR/told"
        end_child "$tell_pid"
    fi
}
