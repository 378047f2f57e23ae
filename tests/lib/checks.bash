# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# checks.bash: checks that steps of several programs share, and what they need.

# needs_open_files N: skips the test if a process may not open N descriptors. (build/peer needs as many as the
# server.)
needs_open_files() {
    local limit

    limit=$(ulimit -Hn)
    if [[ $limit != unlimited ]] && ((limit < $1)); then
        skip "this step needs $1 descriptors, and \"ulimit -Hn\" allows $limit"
    fi
}

# hold_descriptors LAST COMMAND: REPLY = a script that opens all descriptors up to LAST and then becomes COMMAND, for
# start_server --program. (The script uses bash -c, because a bash that runs a script keeps it open as 255.)
hold_descriptors() {
    local last=$1 script=$BATS_TEST_TMPDIR/holder

    shift
    cat >"$script" <<END
#!/usr/bin/env bash
exec bash -c '
    exec 3</dev/null 4<&3 5<&3 6<&3 7<&3 8<&3 9<&3 # {fd} begins at 10
    while exec {fd}<&3 && ((fd < $last)); do
        :
    done
    exec "\$@"' holder $* "\$@"
END
    chmod +x "$script"
    REPLY=$script
}

# serve_one_client: connects a client in the background. The test goes on at once, and ignores what happens to it.
serve_one_client() {
    launch_peer /dev/null /dev/null /dev/null "$port" "$host" connect hold
}

# ends_for_an_error NAME COMMAND RULE: ends the test unless the companion NAME, started by COMMAND, exits with
# status 1 and prints one line when RULE, for faults.so, makes a call fail.
ends_for_an_error() {
    local call=${3%%:*}

    expected "$1 to exit with status 1 when $call() fails with EINVAL every time"
    because "EINVAL is an error of the server's own, and comes back every time. Print it once, and exit(1)"
    start_server --program "$2" --faults "$3" -q 0
    # Its first wait ends when a client connects.
    serve_one_client
    server_ends 1
    faults_reached "$call"
    expected "one line from $1, which names $call()"
    because "a line per failed call fills the disk. Print the error once, and exit(1)"
    log_has "$call " || fail_with "an error message that does not name $call()"
    ! log_has "Invalid argument" 2 || fail_with "more than one line that says \"Invalid argument\""
}

# refuses_high_listener NAME COMMAND: ends the test unless NAME, started by COMMAND, exits with status 1 when
# select() cannot watch its listener.
refuses_high_listener() {
    expected "$1 to exit with status 1, without a first line, when all descriptors below FD_SETSIZE are taken"
    because "FD_SET() with the listener writes past the end of the set. Compare its descriptor with FD_SETSIZE (1024) before you listen"
    hold_descriptors 1030 "$2"
    run_server --open-files 1100 --program "$REPLY" 0
    ((server_status == 1)) || fail_with "$1 $server_end"
    log_lacks "starting up"
    expected "$1 to print an error that names select"
    log_has select || fail_with "an error message that does not name select"
}
