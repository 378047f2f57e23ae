#!/usr/bin/env bash
# helper.bash: what the tests of all stages share. A test file loads it by `load lib/helper`, and needs no setup or
# teardown of its own. The chapter "What a step can call" of tests/README.md lists its functions.
#
# Functions return their results in variables, mostly in REPLY, because a function that is called in a subshell, by
# $(...) or in a pipe, cannot end the test.

# shellcheck disable=SC2034 # the tests use what is set here

tests_directory=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
course=${tests_directory%/*}
build=$course/${BUILD:-build} # make builds instrumented programs elsewhere

for file in shared programs time launch family server log checks measure faults peer client failure explain; do
    # shellcheck source=/dev/null # each is checked by itself
    . "$tests_directory/lib/$file.bash"
done

# ---- The beginning and the end of a test -----------------------------------------------------

ending=''     # set once the test itself has passed, and only the last look at its server is left
test_began='' # when, in microseconds
sockets_at_start=0

# setup_file: builds what the tests need. bats calls it before the first test of a file.
setup_file() {
    check_slow || return
    compile "$build/peer" "$tests_directory/lib/peer.c" || return
    compile "$build/faults.so" "$tests_directory/lib/faults.c" -fPIC -shared -ldl || return
    choose_programs
    if [[ -z ${SERVER-} ]]; then
        compile "$build/$stage_directory/server" "$course/$stage_directory/server.c" || return
    fi
    if ! type -P "${server_command[0]}" >/dev/null; then
        echo "SERVER cannot be run: \"${server_command[0]}\" is not an executable program"
        return 1
    fi
}

# setup: bats calls it before each test. A file that has a setup of its own calls choose_programs there.
setup() {
    choose_programs
}

# sockets_are_closed: true if the server has closed the sockets of all clients. For wait_until.
sockets_are_closed() {
    socket_count
    ((REPLY <= sockets_at_start))
}

# last_look: after a test that has passed, checks that its server runs, has closed its sockets, and sleeps. Returns 1
# if not.
last_look() {
    local doing_now

    because "an error of one connection must close that connection and nothing else"
    server_is_alive || return
    if ! await sockets_are_closed; then
        server_is_alive || return
        expected "the server to close the sockets of all clients that have left"
        because "recv() that returned 0 was ignored, or close() is missing on one of the ways in which a connection ends"
        server_doing
        doing_now=$REPLY
        explain_doing "$doing_now"
        socket_count
        REPLY=$((REPLY - sockets_at_start))
        fail_with "after the test, all clients have left, and $REPLY of their sockets $( ((REPLY == 1)) && echo is || echo are) still open" \
            "the server $doing_now"
        return
    fi
    expected "the server to sleep while it has nothing to do"
    because "the loop calls something that returns at once: a call that cannot block, or a wait for a descriptor that is always ready"
    server_sleeps 50
}

# sanitizer_was_silent: checks that neither the server nor the client has printed a report of a sanitizer. Returns 1
# if one has.
sanitizer_was_silent() {
    local file where=log

    for file in "$server_log" "$client_err"; do
        [[ -n $file ]] || continue
        [[ $file != "$client_err" ]] || where=stderr # the key under which a failure shows it
        read_all "$file"
        if is_sanitizer_report "$REPLY"; then
            expected "no report from a sanitizer"
            because "the program uses memory, threads or arithmetic wrongly. The report under \"$where\" says where"
            fail_with "a report from a sanitizer, see \"$where\""
            return
        fi
    done
}

# teardown: bats calls it after each test.
teardown() {
    local pid status=0

    tell_no_more
    if [[ -n $BATS_TEST_COMPLETED && -z ${BATS_TEST_SKIPPED-} ]]; then
        ending=yes
        if [[ -n $server_pid ]]; then
            last_look || status=1
        fi
    fi
    for pid in "${children[@]}"; do
        end_child "$pid"
    done
    if [[ -n $ending && $status == 0 ]]; then # now, because leaks are reported at the end
        sanitizer_was_silent || status=1
    fi
    [[ -z $server_log ]] || : >"$server_log" # bats keeps it to its end, and it may have 256 MiB
    if [[ -n ${STOP_AFTER_FAILURE-} ]] && [[ -z $BATS_TEST_COMPLETED || $status != 0 ]]; then
        : >"$STOP_AFTER_FAILURE/${BATS_TEST_FILENAME##*/}"
    fi
    return "$status"
}
