# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# client.bash: the client under test, and a server that a test plays for it.

serve_pid=''
serve_count=0

# serve [-b|-f] STEP...: a server, played by build/peer in the background, takes these steps for the client under
# test. Sets $host and $port. With -b it binds but does not listen, so that connects are refused. With -f its
# backlog is full, so that connects get no answer. Its steps wait a little less long than the test, so that the one
# that failed is known when the client has ended.
serve() {
    local side=-l

    if [[ $1 == -[bf] ]]; then
        side=$1
        shift
    fi
    patience
    in_seconds $((wait_limit * 9 / 10))
    serve_out=$BATS_TEST_TMPDIR/serve.$((++serve_count))
    serve_err=$serve_out.err
    launch_peer /dev/null "$serve_out" "$serve_err" -t "$REPLY" "$side" "$@"
    serve_pid=$launched
    wait_until "build/peer to listen" serve_listens
}

# serve_listens: true if it listens. Sets $host and $port.
serve_listens() {
    local line

    if ! is_running "$serve_pid"; then
        read_all "$serve_err"
        fail_with "the test itself is wrong: $REPLY"
    fi
    read -r line 2>/dev/null <"$serve_out" || return 1
    port=${line##* }
    host=${line#* on }
    host=${host%% *}
}

# serve_ends: waits until its steps are done. Ends the test if one of them failed.
serve_ends() {
    if ! await has_ended "$serve_pid"; then
        fail_with "the test's server is still waiting for something from the client"
    fi
    reap "$serve_pid"
    if serve_has_failed; then
        fail_with "$REPLY"
    fi
}

# serve_has_failed: true if one of its steps has failed so far. REPLY = which one, and why.
serve_has_failed() {
    read_all "$serve_err"
    [[ -n $REPLY ]] || return 1
    REPLY=${REPLY%$'\n'}
    if [[ $REPLY =~ ^peer:\ step\ [0-9]+,\ S:\ (.*) ]]; then
        REPLY="S, the test's server: ${BASH_REMATCH[1]}"
    elif [[ $REPLY =~ ^peer:\ step\ [0-9]+,\ ([^:]+):\ (.*) ]]; then
        REPLY="the test's server, connection ${BASH_REMATCH[1]}: ${BASH_REMATCH[2]}"
    else
        REPLY="the test's server: ${REPLY#peer: }"
    fi
}

client_pid=''
client_line='' # the command line with which it was started
client_out=''
client_err=''

# start_client [OPTION VALUE]... [ARGUMENT]...: starts the client with these arguments and no others. Sets
# $client_pid, and $client_out and $client_err, the files with its standard output and standard error. The
# options are in tests/README.md.
start_client() {
    if [[ -z ${CLIENT-} ]]; then
        compile "$build/$stage_directory/client" "$course/$stage_directory/client.c" ||
            fail_with "client.c does not compile"
    fi
    command=("${client_command[@]}")
    take_options "$@"
    client_out=$BATS_TEST_TMPDIR/client.out
    client_err=$BATS_TEST_TMPDIR/client.err
    : >"$client_out" 2>"$client_err"
    command+=("${arguments[@]}")
    printf -v client_line ' %q' "${command[@]}"
    launch "$input" "${output:-$client_out}" "$client_err"
    client_pid=$launched
}

# client_ends STATUS: waits until the client ends. Ends the test if its exit status is not STATUS.
client_ends() {
    local status got i

    if ! await has_ended "$client_pid"; then
        doing "$client_pid"
        fail_with "the client did not exit; it $REPLY"
    fi
    reap "$client_pid"
    status=$child_status
    ((status != $1)) || return 0
    explain_status "$1" "$status"
    end_text "$status"
    got=("the client $REPLY")
    if ((status == 2)); then
        got+=("it was started as $client_line")
    fi
    if [[ -n $serve_pid ]]; then
        for i in {1..10}; do # what the end of the client means for the test's server may show a moment later
            ! serve_has_failed || break
            nap
        done
        ! serve_has_failed || got+=("$REPLY")
    fi
    fail_with "${got[@]}"
}

# run_client STATUS [OPTION VALUE]... [ARGUMENT]...: both.
run_client() {
    local status=$1

    shift
    start_client "$@"
    client_ends "$status"
}

# ask_for_one_connection: makes the client of 03, which opens two connections without -c, open one. It is called before
# the client steps of 01 and 02. A client that comes from 02 does not know -c yet: it refuses this option with status
# 2, and opens one connection anyway.
ask_for_one_connection() {
    [[ $stage == 03 && $BATS_TEST_DESCRIPTION =~ ^0[12]\.[4-9][0-9] ]] || return 0
    if [[ -n ${CLIENT-} ]]; then
        serve -b hold
        start_client -c 1 "$port" "$host" hello
        if await has_ended "$client_pid"; then
            reap "$client_pid"
            ((child_status != 2)) || return 0
        fi
    fi
    client_command+=(-c 1)
}

# wait_for_output TEXT: waits until the client has printed TEXT on standard output, and is still running. Ends the test
# at the deadline, or when the client ends.
wait_for_output() {
    await client_has_printed_or_ended "$1" || :
    if has_ended "$client_pid" && ! client_has_printed "$1"; then
        fail_with "the client has ended, and its standard output lacks \"$1\""
    fi
    if ! has_ended "$client_pid" && client_has_printed "$1"; then
        return
    fi
    if [[ ! -s $client_out ]] || has_ended "$client_pid"; then
        because "the line is still in a buffer, which is written when it is full, or when the client ends. Call fflush() after each line, or use setvbuf() or python3 -u"
    fi
    if has_ended "$client_pid"; then
        fail_with "the client printed \"$1\" only when it ended"
    fi
    doing "$client_pid"
    fail_with "the test gave up waiting for the client to print \"$1\"" "the client $REPLY"
}

# client_has_printed TEXT: true if the client has printed TEXT.
client_has_printed() {
    read_all "$client_out"
    [[ $REPLY == *"$1"* ]]
}

client_has_printed_or_ended() {
    has_ended "$client_pid" || client_has_printed "$1"
}

# client_prints TEXT: ends the test if the client's standard output lacks TEXT.
client_prints() {
    read_all "$client_out"
    if [[ $REPLY != *"$1"* ]]; then
        fail_with "the client's standard output lacks \"${1%$'\n'}\""
    fi
}

# client_complains [TEXT]: ends the test if the client's standard error lacks TEXT, in capital or small letters; if
# it is empty, without TEXT. A * in TEXT stands for anything.
client_complains() {
    local text=${1-?}

    read_all "$client_err"
    # shellcheck disable=SC2053 # TEXT is a pattern
    if [[ ${REPLY,,} != *${text,,}* ]]; then
        REPLY=${REPLY%$'\n'}
        fail_with "the client's standard error says \"${REPLY//$'\n'/, }\""
    fi
}
