#!/usr/bin/env bash
#
# helper.bash: what the tests of all stages stand on. A test file begins with
#
#     load lib/helper
#
# and needs no setup or teardown of its own. A test reads like this:
#
#     @test "01.9 A client that half-closes gets all of its echo" {
#         expected "64 KiB of echo, then end of file"
#         because "recv() that returns 0 ends one direction only"
#         start_server
#         peer connect send-bytes 64K shutdown expect-bytes 64K eof
#     }
#
# THE RULES
#   - Nothing sleeps and hopes. Every wait is for one thing, until one deadline: 5 s, which the
#     environment's SLOW stretches (SLOW=3, SLOW=1.5).
#   - Whatever fails here ends the test, with the block that says what was expected, what came
#     instead, why that may be, and what to read. So no call needs `|| return`. Calls that a test
#     makes in a subshell (`$(...)`, a pipe) cannot do that: results come in variables.
#   - At its end every test looks at its server once more: alive, its sockets closed, its CPU at
#     rest, nothing from a sanitizer. Then it is killed, as all that the test has started.
#
# WHAT IS TESTED
#   SERVER, CLIENT  command lines ("./mine", "python3 server.py"); by default the programs of the
#                   stage of the test file, or of STAGE (STAGE=03). Built when out of date.
#   CHAT, TWO_PORTS...   the same for companions: the name of the file in capitals
#   $stage          its number, 01 to 06, whatever file the test stands in
#
# WHAT TO SAY BEFORE YOU ACT
#   expected TEXT            what must happen (default: the name of the step)
#   because TEXT             the likely cause when it does not
#   fail_with GOT [LINE...]  ends the test: GOT is what came instead
#
# THE SERVER
#   start_server [OPTION]... [ARGUMENT]...   with the arguments given (default: 0, any free port);
#       ready when its first line has come. Sets $server_pid $host $port $server_log.
#       --faults RULES       preloads build/faults.so: see tests/lib/faults.c
#       --open-files N       under `ulimit -n N` (skips the test where that is not allowed)
#       --program COMMAND    another program than SERVER, for companions
#   run_server [OPTION]... [ARGUMENT]...     a start that must end by itself: waits, sets
#       $server_status and $server_log. Fails when it starts up instead.
#   stop_server [SIGNAL]     sends it (KILL), waits for the end, sets $server_status (137: killed
#                            by SIGKILL) and $server_end ("was killed by SIGKILL")
#   signal_server SIGNAL     sends it and goes on. STOP waits until it has stopped.
#   server_ends [STATUS]     waits until it ends by itself, with this exit status (0)
#   server_is_alive          fails when it has ended
#   server_sleeps [MS]       fails when its threads use more than a fifth of a core, all
#                            together, in a window of so many ms (100); looks up to five times.
#                            Never fails in stage 02, nor in 03 for steps of earlier stages.
#   server_burns MS          fails when they use less than half of one, in each of five windows
#   wait_for_log TEXT [N]    waits until TEXT has stood in its log N times (1)
#   log_lacks TEXT           fails when it does stand there now
#   wait_until WHAT COMMAND...   waits until COMMAND succeeds; WHAT is how the block calls it
#                            ("its sockets to be closed"). COMMAND must not fork: see below.
#   has_a_client             whether it has accepted somebody who is still there: for wait_until
#   needs_open_files N       skips the test where so many descriptors are not allowed
#   hold_descriptors LAST COMMAND   REPLY = a script that opens all descriptors up to LAST, and then
#                            becomes COMMAND: for --program, with --open-files
#   serve_one_client         connects a client, and does not mind what becomes of it
#   ends_for_an_error NAME COMMAND RULE   fails unless the companion NAME, started by COMMAND, exits
#                            with status 1 and one line when faults.so makes a call fail by RULE
#   refuses_high_listener NAME COMMAND   the same when select() cannot watch its listener
#   faults_reached CALL...   skips the test when faults.so does not see these calls of the server
#                            (static, another run-time). After the calls were made.
#
# MEASURES: each sets REPLY, never forks, and can be used while waiting
#   fd_count                 descriptors that the server has open
#   socket_count             those that are sockets
#   cpu_time                 microseconds that its threads have run or waited for a core
#   run_time                 the same without the waiting
#   memory [FIELD]           KiB, of /proc/PID/status: VmRSS (default), RssAnon, VmHWM
#   wakeups                  how often its threads have gone to sleep
#   doing PID                "is blocked in recv on fd 4"
#   fault_hits CALL          how often faults.so has struck; fault_calls CALL: how often it could
#   now                      microseconds, for a stopwatch
#   nap [SECONDS]            0.01; REPLY stays as it is
#
# CLIENTS THAT A TEST PLAYS (build/peer -h lists the steps)
#   peer STEP...             a whole script, as a client of the server. When it fails, so does the test: with the server's death, or
#                            the call that it hangs in, or else what the peer saw.
#   tell STEP...             the same in a conversation: the peer stays, with its connections,
#                            and comes back after each `tell`. So you can look at the server in
#                            between. Ends with the test, or by `tell_no_more`. A step's TEXT
#                            may hold blanks. Sets $told: the last line that a step printed.
#
# PROGRAMS ON THE OTHER SIDE: the client under test, and a server that a test plays
#   serve STEP...            `peer -l` in the background; sets $port. `serve -b hold` refuses,
#                            `serve -f hold` gives no answer to connects.
#   serve_ends               waits until its script is done; fails when a step did not hold
#   start_client [OPTION]... [ARGUMENT]...   CLIENT, with the arguments given and no others.
#       --faults RULES, --open-files N, --program COMMAND: as above
#       --input FILE         its standard input (default /dev/null)
#       --output FILE        its standard output, which client_prints then cannot see
#       Sets $client_pid $client_out $client_err.
#   client_ends STATUS       waits until it ends; fails when not with this exit status
#   run_client STATUS [OPTION]... [ARGUMENT]...   both
#   client_sleeps            fails when it uses more than a fifth of a core, in five windows of 100 ms
#   client_prints TEXT       fails when its standard output lacks TEXT
#   client_complains TEXT    fails when its standard error lacks TEXT; "*" stands for anything
#   build_program STAGE/NAME [FLAG]...   builds a companion when out of date, unless the environment
#                            names another program; REPLY = its command line
#
# POSIX sh would not do: no naps without a fork, no arrays. bash 5.0 or newer.

# shellcheck disable=SC2034 # the tests use what is set here

tests_directory=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
course=${tests_directory%/*}
build=$course/build

for file in shared programs time launch family server log checks measure faults peer client failure explain; do
    # shellcheck source=/dev/null # each is checked by itself
    . "$tests_directory/lib/$file.bash"
done

# ---- The beginning and the end of a test -----------------------------------------------------

ending=''       # the test itself is over, and passed
test_began=''   # when, in microseconds
sockets_at_start=0

setup_file() {
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

# A file with a setup of its own calls choose_programs too.
setup() {
    choose_programs
}

sockets_are_closed() {
    socket_count
    ((REPLY <= sockets_at_start))
}

last_look() {
    local doing_now

    # The test itself has passed: what follows is about what it left behind.
    because_text=
    expected "the server to keep running after the test"
    because "an error of one connection must close that connection and nothing else"
    server_is_alive || return
    if ! await sockets_are_closed; then
        server_is_alive || return
        expected "the server to close the sockets of all clients that have left"
        because "recv() that returned 0 was ignored, or close() is missing on one of the ways in which a connection ends"
        server_doing
        doing_now=$REPLY
        socket_count
        fail_with "after the test, all clients have left and $((REPLY - sockets_at_start)) of their sockets are still open" \
            "the server $doing_now"
        return
    fi
    expected "the server to sleep while it has nothing to do"
    because "the loop calls something that returns at once: a call that cannot block, or a wait for a descriptor that is always ready"
    server_sleeps 50
}

sanitizer_was_silent() {
    if log_has "ERROR: AddressSanitizer" || log_has "runtime error:"; then
        expected "no report from a sanitizer"
        because "the server uses memory or arithmetic wrongly. The report in the log says where"
        fail_with "a report from a sanitizer, see the log"
    fi
}

teardown() {
    local pid status=0

    tell_no_more
    if [[ -n $BATS_TEST_COMPLETED && -z ${BATS_TEST_SKIPPED-} && -n $server_log ]]; then
        ending=yes
        if [[ -n $server_pid ]]; then
            last_look || status=1
        fi
        if ((status == 0)); then
            sanitizer_was_silent || status=1
        fi
    fi
    for pid in "${children[@]}"; do
        end_child "$pid"
    done
    if [[ -n ${STOP_AFTER_FAILURE-} ]] && [[ -z $BATS_TEST_COMPLETED || $status != 0 ]]; then
        : >"$STOP_AFTER_FAILURE/${BATS_TEST_FILENAME##*/}"
    fi
    return "$status"
}
