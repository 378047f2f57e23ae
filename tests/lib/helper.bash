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
#       --env NAME=VALUE     with this in its environment
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
#   peer STEP...             a whole script, as a client of the server. Its output: $peer_out (a
#                            file). When it fails, so does the test: with the server's death, or
#                            the call that it hangs in, or else what the peer saw.
#   tell STEP...             the same in a conversation: the peer stays, with its connections,
#                            and comes back after each `tell`. So you can look at the server in
#                            between. Ends with the test, or by `tell_no_more`. A step's TEXT
#                            may hold blanks. Sets $told: the last line that a step printed.
#   peer_says TEXT           fails when the output of the last `peer` lacks TEXT
#   peer_figure NAME         REPLY = the number in its last line "NAME 12.3 ms", in microseconds
#
# PROGRAMS ON THE OTHER SIDE: the client under test, and a server that a test plays
#   serve STEP...            `peer -l` in the background; sets $port. `serve -b hold` refuses,
#                            `serve -f hold` gives no answer to connects.
#   serve_ends               waits until its script is done; fails when a step did not hold
#   start_client [OPTION]... [ARGUMENT]...   CLIENT, with the arguments given and no others.
#       --faults RULES, --env NAME=VALUE, --open-files N, --program COMMAND: as above
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

# ---- What is tested --------------------------------------------------------------------------

# Sets $stage and the commands, from SERVER, CLIENT, STAGE and the name of the test file.
choose_programs() {
    local number=${STAGE:-${BATS_TEST_FILENAME##*/}}
    local directory

    if [[ -n ${STOP_AFTER_FAILURE-} && -n ${BATS_TEST_NAME-} ]] && earlier_step_failed; then
        skip "not tried"
    fi
    stage=${number%%-*}
    directory=$(cd "$course/$stage"-*/ 2>/dev/null && pwd) || directory=$course/$stage
    stage_directory=${directory##*/}
    read -r -a server_command <<<"${SERVER:-$build/$stage_directory/server}"
    read -r -a client_command <<<"${CLIENT:-$build/$stage_directory/client}"

    test_began=${EPOCHREALTIME//[!0-9]/}

    # bats notes where it is before every command, for its message when one fails. Not in here: a
    # failure is then reported at the line of the test, and the tests take half the time.
    set +o functrace
    declare -ft "${BATS_TEST_NAME-}" 2>/dev/null || :
}

# tests/exercise/check names a directory in STOP_AFTER_FAILURE. A test that fails leaves a file there, and
# then no later test is tried, neither of its own stage nor of a later one. Tests of earlier stages, which
# run at the same time, go on: the first failure is the first in the order of the steps.
earlier_step_failed() {
    local file

    for file in "$STOP_AFTER_FAILURE"/*; do
        file=${file##*/}
        [[ $file == '*' || $file > ${BATS_TEST_FILENAME##*/} ]] || return 0
    done
    return 1
}

# compile OUTPUT SOURCE [FLAG]...: when it is missing or older than its source. Two test files may
# do so at the same time: each makes its own, and the last mv wins.
compile() {
    local output=$1 source=$2

    shift 2
    [[ -e $source && ! $output -nt $source ]] || return 0
    mkdir -p "${output%/*}"
    "${CC:-cc}" -O2 -o "$output.$$" "$source" "$@" && mv -f "$output.$$" "$output"
}

# For 03-select/two-ports the environment may name another program: TWO_PORTS="./mine".
build_program() {
    local variable=${1##*/}

    variable=${variable^^}
    variable=${variable//-/_}
    REPLY=${!variable-}
    [[ -z $REPLY ]] || return 0
    REPLY=$build/$1
    compile "$REPLY" "$course/$1.c" "${@:2}" || fail_with "$1.c does not compile"
}

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

# ---- Time ------------------------------------------------------------------------------------

now() {
    REPLY=${EPOCHREALTIME//[!0-9]/}
}

# `sleep` would be a process. Nobody ever writes to this pipe. (What read leaves in REPLY would
# be nothing; so it gets a name of its own.)
nap() {
    local nothing

    [[ -n ${nap_fd-} ]] || exec {nap_fd}<> <(:)
    read -r -t "${1:-0.01}" -u "$nap_fd" nothing || :
}

# stretch MICROSECONDS: REPLY = so many, times SLOW
stretch() {
    local slow=${SLOW:-1} fraction=000

    if [[ $slow == *.* ]]; then
        fraction=${slow#*.}000
    fi
    REPLY=$(($1 * (10#0${slow%%.*} * 1000 + 10#${fraction:0:3}) / 1000))
}

# A step may take 20 s, whatever the server does, and each wait in it 5 s. (Our own servers are known to be
# right: there only the machine can be slow, and a step may take a minute.) A server that has kept two steps
# of this file waiting to the end is broken: from then on waits are shorter, so that the run ends soon. A
# test in which a right server takes a second or two sets $least_wait.
step_limit=20000000
[[ -n ${SERVER-}${CLIENT-} ]] || step_limit=60000000

# patience: REPLY = the microseconds that a wait may take from now on. $wait_limit is the same without
# SLOW, and without the limit of the step, of which $left microseconds are left.
patience() {
    local late='' now=${EPOCHREALTIME//[!0-9]/}

    read -r late 2>/dev/null <"${BATS_FILE_TMPDIR-}/late" || :
    wait_limit=5000000
    ((${#late} < 2)) || wait_limit=2500000
    ((${#late} < 4)) || wait_limit=1200000
    ((wait_limit > ${least_wait:-0})) || wait_limit=$least_wait
    stretch "$step_limit"
    left=$((${test_began:-$now} + REPLY - now))
    ((left > 0)) || left=0
    stretch "$wait_limit"
    ((REPLY <= left)) || REPLY=$left
}

# note_that_it_is_late: for patience, when a step fails that has waited for a whole deadline
note_that_it_is_late() {
    stretch 1100000
    if [[ -n ${test_began-} ]] && ((${EPOCHREALTIME//[!0-9]/} - test_began > REPLY)); then
        printf x >>"${BATS_FILE_TMPDIR:-/tmp}/late"
    fi
}

# in_seconds MICROSECONDS: REPLY = 1.500000
in_seconds() {
    printf -v REPLY '%d.%06d' $(($1 / 1000000)) $(($1 % 1000000))
}

# await COMMAND...: until it succeeds. Fails at the deadline, or when the server ends before: with
# $awaited = "deadline" or "server". A look costs time of a core, which the server may need: so the
# second comes after 2 ms, and then they come ever less often.
await() {
    local deadline pause=2 seconds

    patience
    deadline=$((REPLY + ${EPOCHREALTIME//[!0-9]/}))
    until "$@"; do
        if [[ -n $server_pid ]] && ! is_running "$server_pid"; then
            "$@" && return
            awaited=server
            return 1
        fi
        if ((${EPOCHREALTIME//[!0-9]/} > deadline)); then
            awaited=deadline
            return 1
        fi
        printf -v seconds '0.%03d' "$pause"
        nap "$seconds"
        ((pause >= 50)) || ((pause *= 2))
    done
}

wait_until() {
    local what=$1

    shift
    await "$@" && return
    if [[ $awaited == server ]]; then
        reap_server
        explain_the_end
        fail_with "the server $server_end while the test waited for $what"
    fi
    if [[ -n $server_pid ]]; then
        server_doing
        fail_with "the test gave up waiting for $what" "the server $REPLY"
    fi
    fail_with "the test gave up waiting for $what"
}

# ---- Processes -------------------------------------------------------------------------------

# Everything that the test starts is in here, until it has ended.
children=()

# A server is judged together with its descendants: a wrapper's program, or a child per client. They are
# in its process group (see launch), or their parent is in its family. /proc is searched again each time,
# but each process in it is read only once. A descendant is younger, so its number is higher.
declare -gA kinship
family_of=''
family_until=0

# find_family: sets $family to the processes of the server that run or are zombies
find_family() {
    local directory pid line fields

    [[ "$server_pid" != "$family_of" || ${EPOCHREALTIME//[!0-9]/} -gt $family_until ]] || return 0
    family=()
    family_of=
    [[ -n $server_pid ]] || return 0
    if [[ -z ${SERVER-} ]]; then # our own are single processes
        family=("$server_pid")
        return
    fi
    family_of=$server_pid
    family_until=$((${EPOCHREALTIME//[!0-9]/} + 50000)) # a search costs a millisecond or more
    kinship[$server_pid:$server_pid]=kin
    for directory in /proc/[1-9]*; do
        pid=${directory#/proc/}
        ((pid >= server_pid)) || continue
        if [[ -z ${kinship[$server_pid:$pid]-} ]]; then
            read -r line 2>/dev/null <"$directory/stat" || continue
            read -r -a fields <<<"${line##*) }"
            if [[ ${fields[2]} == "$server_pid" ]]; then
                kinship[$server_pid:$pid]=kin
            elif [[ ${kinship[$server_pid:${fields[1]}]-stranger} != stranger ]]; then
                kinship[$server_pid:$pid]=leader # of a group of its own, or in such a one
            else
                kinship[$server_pid:$pid]=stranger
            fi
        fi
        if [[ ${kinship[$server_pid:$pid]} != stranger ]]; then
            family+=("$pid")
        fi
    done
}

# has_socket PID: what serves has a socket, but a wrapper has none
has_socket() {
    local fd

    for fd in /proc/"$1"/fd/*; do
        [[ ! -S $fd ]] || return 0
    done
    return 1
}

# find_workers: sets $family to those processes of the server that have a socket, if there are any
find_workers() {
    local pid workers=()

    find_family
    family_of= # what follows is not all of it
    ((${#family[@]} > 1)) || return 0
    for pid in "${family[@]}"; do
        ! has_socket "$pid" || workers+=("$pid")
    done
    ((${#workers[@]} == 0)) || family=("${workers[@]}")
}

family_has_ended() {
    local pid

    find_family
    for pid in "${family[@]}"; do
        ! is_running "$pid" || return 1
    done
}

# signal_family SIGNAL: to all of the server, and only once: it may stop itself again after a SIGCONT
signal_family() {
    local pid

    find_family
    {
        kill -"$1" -- "-$server_pid" || :
        for pid in "${family[@]}"; do
            [[ ${kinship[$server_pid:$pid]-} != leader ]] || kill -"$1" "$pid" || :
        done
    } 2>/dev/null
}

# A child of ours that has ended is a zombie until we wait for it. $state is its state letter.
is_running() {
    local line

    state=Z
    read -r line 2>/dev/null <"/proc/$1/stat" || return 1
    line=${line##*) }
    state=${line%% *}
    [[ $state != [ZX] ]]
}

has_ended() {
    ! is_running "$1"
}

is_stopped() {
    is_running "$1" && [[ $state == T ]]
}

# Has a process of the server stopped itself?
server_is_stopped() {
    local pid

    find_family
    for pid in "${family[@]}"; do
        ! is_stopped "$pid" || return 0
    done
    return 1
}

# Has all of it stopped?
family_is_stopped() {
    local pid

    find_family
    for pid in "${family[@]}"; do
        ! is_running "$pid" || [[ $state == T ]] || return 1
    done
}

# In a child, before exec: bats waits for whoever holds its descriptors.
close_descriptors() {
    local fd

    for fd in /proc/"$BASHPID"/fd/*; do
        fd=${fd##*/}
        if ((fd > 2 && fd != 255)); then
            eval "exec $fd>&-"
        fi
    done
}

# launch INPUT OUTPUT ERRORS: starts "${command[@]}" with "${settings[@]}" (NAME=VALUE...) in the
# background, and sets $launched. Its signals are those of a program that was started by hand: a
# command that a script starts with & ignores SIGINT, and some runners let their children ignore
# SIGPIPE. As the leader of a process group it can be ended with its own children (SERVER may be a
# script).
launch() {
    set -m
    (become_command) <"$1" >>"$2" 2>>"$3" &
    launched=$!
    set +m
    children+=("$launched")
}

become_command() {
    close_descriptors
    if [[ -n $open_files ]]; then
        ulimit -n "$open_files" || exit 1
    fi
    ulimit -f 262144 # KiB: a log that grows without end must not fill the disk
    exec env --default-signal=PIPE,INT,QUIT "${settings[@]}" "${command[@]}"
}

# Sets $command, $settings, $open_files, $input and $output from the options, and $arguments from the
# rest.
take_options() {
    # A sanitizer keeps freed memory for a while, which would look like a leak.
    local asan_options=quarantine_size_mb=0:thread_local_quarantine_size_kb=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}

    settings=("ASAN_OPTIONS=$asan_options")
    open_files=
    input=/dev/null
    output=
    while [[ ${1-} == --* ]]; do
        case $1 in
        --faults)
            settings+=("FAULTS=$2" "FAULTS_COUNTS=$BATS_TEST_TMPDIR/faults" "LD_PRELOAD=$build/faults.so"
                "ASAN_OPTIONS=verify_asan_link_order=0:$asan_options")
            ;;
        --open-files)
            open_files=$2
            if ! (ulimit -n "$open_files") 2>/dev/null; then
                skip "this step needs \"ulimit -n $open_files\", and \"ulimit -Hn\" allows $(ulimit -Hn)"
            fi
            ;;
        --env) settings+=("$2") ;;
        --program) read -r -a command <<<"$2" ;;
        --input) input=$2 ;;
        --output) output=$2 ;;
        *) fail_with "the test itself is wrong: unknown option $1" ;;
        esac
        shift 2
    done
    arguments=("$@")
}

# end_child PID: kills it with its descendants and waits for it. $child_status is how it ended.
end_child() {
    local server_pid=$1

    {
        signal_family KILL
        reap "$1"
    } 2>/dev/null
}

# reap PID: waits for a child that has ended or is about to. (bash tells of a violent death on
# standard error, at its next command: so that one is in here too.)
reap() {
    local i

    child_status=0
    {
        wait "$1" || child_status=$?
        kill -KILL -- "-$1" || : # what it has left behind
    } 2>/dev/null
    for i in "${!children[@]}"; do
        if [[ ${children[i]} == "$1" ]]; then
            unset "children[i]"
        fi
    done
}

# end_text STATUS: REPLY = "was killed by SIGPIPE" or "exited with status 1". (A shell cannot tell
# the first from an exit(141); nor need we.)
end_text() {
    if (($1 > 128 && $1 < 193)); then
        REPLY="was killed by SIG$(kill -l "$1")"
    else
        REPLY="exited with status $1"
    fi
}

# doing PID: REPLY = "is blocked in recv on fd 4". From /proc/PID/syscall: the number of the call
# and its arguments. Only a process's forebear may read it on many machines, so we read it here and
# not in a child. Where we may not, /proc/PID/wchan names the kernel's own function.
doing() {
    local number first

    REPLY="is running, not blocked in any call"
    is_running "$1" || {
        REPLY="has ended"
        return 0
    }
    if [[ $state == T ]]; then
        REPLY="is stopped"
        return 0
    fi
    if [[ $state != [SD] ]]; then
        return 0
    fi
    if ! read -r number first _ 2>/dev/null <"/proc/$1/syscall"; then
        number=
        read -r number 2>/dev/null <"/proc/$1/wchan" || :
        REPLY="is asleep in the kernel${number:+ (in $number)}"
        return 0
    fi
    if [[ $number != [0-9]* ]]; then
        return 0
    fi
    call_name "$number"
    case $REPLY in
    accept | connect | recv | send | read | write | epoll_wait)
        REPLY="is blocked in $REPLY on fd $((first))"
        ;;
    *) REPLY="is blocked in $REPLY" ;;
    esac
}

# server_doing: the same for each process of the server that serves, up to three
server_doing() {
    local pid text='' first='' count=0

    find_workers
    for pid in "${family[@]}"; do
        ((++count <= 3)) || break
        doing "$pid"
        if [[ -z $first ]]; then
            first=$REPLY
            text=$REPLY
        elif [[ $REPLY != "$first" && $REPLY != "has ended" ]]; then
            text+=", and its process $pid $REPLY"
        fi
    done
    REPLY=${text:-has ended}
}

# call_name NUMBER: REPLY = the name under which a program calls it
call_name() {
    case $HOSTTYPE-$1 in
    x86_64-43 | x86_64-288 | aarch64-202 | aarch64-242) REPLY=accept ;;
    x86_64-42 | aarch64-203) REPLY=connect ;;
    x86_64-45 | x86_64-47 | aarch64-207 | aarch64-212) REPLY=recv ;;
    x86_64-44 | x86_64-46 | aarch64-206 | aarch64-211) REPLY=send ;;
    x86_64-0 | x86_64-19 | aarch64-63 | aarch64-65) REPLY="read" ;;
    x86_64-1 | x86_64-20 | aarch64-64 | aarch64-66) REPLY="write" ;;
    x86_64-23 | x86_64-270 | aarch64-72) REPLY=select ;;
    x86_64-7 | x86_64-271 | aarch64-73) REPLY=poll ;;
    x86_64-232 | x86_64-281 | x86_64-441 | aarch64-22 | aarch64-441) REPLY=epoll_wait ;;
    x86_64-202 | aarch64-98) REPLY="futex (waiting for a thread)" ;;
    x86_64-35 | x86_64-230 | aarch64-101 | aarch64-115) REPLY="sleep" ;;
    x86_64-61 | aarch64-260) REPLY="wait" ;;
    x86_64-34) REPLY=pause ;;
    *) REPLY="system call $1" ;;
    esac
}

# ---- The server ------------------------------------------------------------------------------

server_pid='' # empty: none is running, or none that should be
server_log='' # its stdout and stderr

launch_server() {
    command=("${server_command[@]}")
    take_options "$@"
    server_log=$BATS_TEST_TMPDIR/server.log
    : >"$server_log"
    command+=("${arguments[@]-$default_port}")
    launch "$input" "$server_log" "$server_log"
    server_pid=$launched
}

# The first line may come on stdout or on stderr, and after others (a run-time's warnings).
has_started_up() {
    local line text

    # Only the beginning is read: a server that prints without end would keep us here.
    IFS= read -r -N 65536 text <"$server_log" || :
    while read -r line; do
        if [[ $line =~ ^starting\ up\ on\ ([^ ]+)\ port\ ([0-9]+) ]]; then
            host=${BASH_REMATCH[1]}
            port=${BASH_REMATCH[2]}
            return 0
        fi
    done <<<"$text"
    return 1
}

start_server() {
    default_port=0 launch_server "$@"
    if await has_started_up; then
        if ((port == 0)); then
            expected "the first line to name the port that the kernel has picked"
            because "for port 0, bind() picks a free port. Call getsockname() after it to learn which"
            fail_with "the first line names port 0"
        fi
        right_port
        count_sockets_at_start
        return
    fi
    if [[ $awaited == server ]] || has_ended "$server_pid"; then
        if [[ -z $expected_text ]]; then
            expected "the server, started with \"${arguments[*]-0}\", to print \"starting up on HOST port N\", and to wait for clients"
            because "the log below may give the reason. If it does not, start the server by hand"
        fi
        explain_options
        reap_server
        if ((server_status == 0)); then
            because "a server runs until it is stopped: it opens its listener, prints this line, waits for clients, and stays in the foreground"
        fi
        fail_with "the server $server_end before it printed its first line"
    fi
    expected "the server to print \"starting up on HOST port N\" as its first line"
    listening_port
    if [[ -n $REPLY && ! -s $server_log ]]; then
        because "output to a file stays in a buffer until the buffer is full. Call fflush() or setvbuf(), or use python3 -u"
        fail_with "the server does listen, on port $REPLY, but it has printed nothing"
    fi
    if [[ -n $REPLY ]]; then
        because "the tests look for exactly these words. If the server prints them, they are still in a buffer (fflush(), python3 -u)"
        fail_with "the server does listen, on port $REPLY, but it has printed something else"
    fi
    because "the tests read the port from this line, on stdout or stderr. Print it when bind() and listen() have succeeded"
    explain_options
    server_doing
    fail_with "no such line, and the server $REPLY"
}

# One socket is the listener, and need not be looked at.
count_sockets_at_start() {
    sockets_at_start=1
    socket_count
    sockets_at_start=$REPLY
}

# right_port: fails when the server was started with a port and announces another one. For port 0 the
# kernel picks one from its range of local ports.
right_port() {
    local asked=${arguments[0]-0} first=0 last=65535

    [[ $asked != -q ]] || asked=${arguments[1]-}
    read -r first last 2>/dev/null </proc/sys/net/ipv4/ip_local_port_range || :
    if [[ $asked == 0 ]] && ((port >= first && port <= last)); then
        return 0
    fi
    if [[ $asked =~ ^[0-9]+$ && $asked != "$port" ]]; then
        expected "the server to listen on the port that its first argument names: $asked"
        ((asked != 0)) || expected "the server, started with port 0, to listen on a free port that the kernel picks"
        because "the port is argv[1], a text. Pass it to getaddrinfo(), or convert it to a number and then with htons()"
        fail_with "the first line names port $port"
    fi
}

run_server() {
    launch_server "$@"
    if await has_ended_or_started; then
        if has_ended "$server_pid"; then
            reap_server
            return
        fi
        fail_with "the server started up anyway"
    fi
    server_doing
    fail_with "the server did not exit; it $REPLY"
}

# A line that came and was not true does not count: the server may be about to end.
has_ended_or_started() {
    has_ended "$server_pid" && return
    has_started_up && listening_port && [[ -n $REPLY ]]
}

# listening_port: REPLY = a port on which the server listens though it has not said so, or nothing.
# /proc/net/tcp lists every listening socket (state 0A) by inode. Slow; for a failure only.
listening_port() {
    local inodes pid

    find_family
    inodes=$(for pid in "${family[@]}"; do readlink /proc/"$pid"/fd/*; done | awk -F'[][]' '/^socket/ { print $2 }' || :)
    REPLY=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v inodes="$inodes" '
        BEGIN { count = split(inodes, list); for (i = 1; i <= count; i++) mine[list[i]] = 1 }
        $4 == "0A" && $10 in mine && port == "" { port = $2; sub(/.*:/, "", port) }
        END { print port }' || :)
    if [[ -n $REPLY ]]; then
        REPLY=$((16#$REPLY))
    fi
}

# The server has ended: sets $server_status and $server_end.
reap_server() {
    reap "$server_pid"
    server_status=$child_status
    end_text "$server_status"
    server_end=$REPLY
    server_pid=
    case $server_end in
    *SIGXFSZ*) because "it wrote more than 256 MiB, and the tests allow no more. Look for a line in the loop that is printed in every turn" ;;
    *SIGSEGV* | *SIGABRT* | *SIGBUS*) because "it used memory wrongly. Build it with -g -fsanitize=address,undefined and run the step again: the report names the line" ;;
    esac
}

server_is_alive() {
    if [[ -n $server_pid ]] && ! is_running "$server_pid"; then
        reap_server
        explain_the_end
        if ((server_status == 0)); then
            because "main() has returned, or the server has put itself into the background. It must run in the foreground until it is stopped"
        fi
        fail_with "the server $server_end"
    fi
}

stop_server() {
    server_is_alive
    {
        signal_family "${1:-KILL}"
        if [[ ${1:-KILL} == KILL ]]; then
            await family_has_ended || : # a socket is closed when the last process that has it has ended
            reap_server
            return
        fi
    } 2>/dev/null # see reap
    if ! await has_ended "$server_pid"; then
        server_doing
        fail_with "SIG$1 did not end the server; it $REPLY"
    fi
    reap_server
}

signal_server() {
    signal_family "$1"
    if [[ $1 == STOP ]]; then
        wait_until "the server to stop" family_is_stopped
    fi
}

server_ends() {
    local status=${1:-0}

    if ! await has_ended "$server_pid"; then
        server_doing
        fail_with "the server did not exit; it $REPLY"
    fi
    reap_server
    if ((server_status != status)); then
        ((server_status <= 128)) || explain_the_end
        fail_with "the server $server_end"
    fi
}

# read_all FILE: REPLY = all of it (but NULs). Of a file that grows faster than bash can read, as the
# log of a server that spins, only the last 4 MB.
read_all() {
    IFS= read -r -N 1000000 REPLY <"$1" || :
    if ((${#REPLY} == 1000000)); then
        REPLY=$(tail -c 4000000 "$1" | tr -d '\0')
    fi
}

# read_end FILE: REPLY = its end, for a message
read_end() {
    REPLY=$(tail -c 20000 "$1" 2>/dev/null | tr -d '\0')
}

# Has the server accepted somebody who is still there? For wait_until.
has_a_client() {
    socket_count
    ((REPLY > sockets_at_start))
}

# Skips the test where so many descriptors are not allowed. Whoever plays so many clients needs as many
# as the server.
needs_open_files() {
    local limit

    limit=$(ulimit -Hn)
    if [[ $limit != unlimited ]] && ((limit < $1)); then
        skip "this step needs $1 descriptors, and \"ulimit -Hn\" allows $limit"
    fi
}

# By bash -c, for a bash that runs a script keeps the script itself open, as 255, until exec.
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

serve_one_client() {
    command=("$build/peer" "$port" "$host" connect hold)
    settings=()
    open_files=
    launch /dev/null /dev/null /dev/null
}

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

# To cut off the front of a long log takes seconds: only when the next one is looked for.
log_has() {
    local count=${2:-1} rest

    read_all "$server_log"
    rest=$REPLY
    while [[ $rest == *"$1"* ]]; do
        ((--count > 0)) || return 0
        rest=${rest#*"$1"}
    done
    return 1
}

wait_for_log() {
    wait_until "the log to say \"${1%$'\n'}\"${2:+ ($2 times)}" log_has "$@"
}

log_lacks() {
    if log_has "$1"; then
        fail_with "the log says \"$1\""
    fi
}

# ---- Measures --------------------------------------------------------------------------------

fd_count() {
    local pid fds sum=0

    find_family
    for pid in "${family[@]}"; do
        fds=(/proc/"$pid"/fd/*)
        sum=$((sum + ${#fds[@]}))
    done
    REPLY=$sum
}

# The common case is that there are no more sockets than at the start: then it is enough to count all.
# Otherwise AF_UNIX sockets, which run-times use for themselves, are left out, and a socket that
# several processes share counts once.
socket_count() {
    local pid fd sum=0

    find_family
    for pid in "${family[@]}"; do
        for fd in /proc/"$pid"/fd/*; do
            if [[ -S $fd ]]; then
                sum=$((sum + 1))
            fi
        done
    done
    REPLY=$sum
    if ((sum > sockets_at_start)); then
        REPLY=$(for pid in "${family[@]}"; do find "/proc/$pid/fd" -type l -printf '%l\n' 2>/dev/null; done | awk '
            NR == FNR                       { unix["socket:[" $7 "]"] = 1; next }
            /^socket:/ && !($0 in unix)     { unix[$0] = 1; count++ }
            END                             { print count + 0 }' /proc/net/unix -)
    fi
}

# Of each thread /proc/PID/task/TID/schedstat tells the nanoseconds that it ran and those that it
# was ready to run and had no core. Beside other busy programs a busy loop shows in the sum alone.
sum_schedstat() {
    local pid file ran waited sum=0

    find_family
    for pid in "${family[@]}"; do
        for file in /proc/"$pid"/task/*/schedstat; do
            if read -r ran waited _ 2>/dev/null <"$file"; then
                sum=$((sum + (ran + $1 * waited) / 1000))
            fi
        done
    done
    REPLY=$sum
}

# Some kernels do not tell (gVisor, or Linux without CONFIG_SCHED_INFO).
knows_cpu_time() {
    local ran=0

    read -r ran _ 2>/dev/null </proc/self/schedstat || :
    ((ran > 0))
}

cpu_time() {
    sum_schedstat 1
}

run_time() {
    sum_schedstat 0
}

# status_field FILE NAME: REPLY = the number on that line of a /proc/PID/status, or 0. Read at one
# go: the kernel writes the file anew for each reader's call, so a line may be lost in between.
status_field() {
    local rest

    read_all "$1" 2>/dev/null
    rest=${REPLY#*$'\n'"$2":}
    if [[ $rest == "$REPLY" ]]; then
        REPLY=0
        return
    fi
    read -r REPLY _ <<<"${rest%%$'\n'*}"
}

memory() {
    local pid sum=0

    find_family
    for pid in "${family[@]}"; do
        status_field "/proc/$pid/status" "${1:-VmRSS}"
        sum=$((sum + REPLY))
    done
    REPLY=$sum
}

wakeups() {
    local pid file sum=0

    find_family
    for pid in "${family[@]}"; do
        for file in /proc/"$pid"/task/*/status; do
            status_field "$file" voluntary_ctxt_switches
            sum=$((sum + REPLY))
        done
    done
    REPLY=$sum
}

# thread_count: REPLY = how many threads the server has, without those of a wrapper
thread_count() {
    local pid threads sum=0

    find_workers
    for pid in "${family[@]}"; do
        threads=(/proc/"$pid"/task/*)
        sum=$((sum + ${#threads[@]}))
    done
    REPLY=$sum
}

# watch_cpu MS: lets so long pass; REPLY = the percentage of it that the server was busy
watch_cpu() {
    local start=${EPOCHREALTIME//[!0-9]/} before

    cpu_time
    before=$REPLY
    printf -v REPLY '%d.%03d' $(($1 / 1000)) $(($1 % 1000))
    nap "$REPLY"
    cpu_time
    REPLY=$(((REPLY - before) * 100 / (${EPOCHREALTIME//[!0-9]/} - start)))
}

# has_no_running_thread PID
has_no_running_thread() {
    local file line

    for file in /proc/"$1"/task/*/stat; do
        read -r line 2>/dev/null <"$file" || continue
        line=${line##*) }
        [[ $line != R* ]] || return 1
    done
}

# What waited for a core through a whole window has used none of it: but then it still waits.
sleeps_now() {
    local pid

    for pid in "${family[@]}"; do
        has_no_running_thread "$pid" || return
    done
}

# is_at_rest MS PART: looks until the deadline, for what has just been busy may have something to finish;
# or until 1/PART of it. REPLY is the highest percentage of a look.
is_at_rest() {
    local deadline most=0

    patience
    deadline=$((REPLY / $2 + ${EPOCHREALTIME//[!0-9]/}))
    while :; do
        watch_cpu "$1"
        is_running "$server_pid" || return 1
        ((REPLY >= 20)) || ! sleeps_now || return 0
        ((REPLY <= most)) || most=$REPLY
        if ((${EPOCHREALTIME//[!0-9]/} >= deadline)); then
            REPLY=$most
            return 1
        fi
    done
}

server_sleeps() {
    server_is_alive
    # Busy-waiting is the subject of 02, and 03.1 is the step that ends it: until a server passes that,
    # no step of an earlier stage shall fail for it.
    if [[ $stage == 02 || ($stage == 03 && ${BATS_TEST_FILENAME##*/} != 03-*) ]]; then
        return
    fi
    if ! knows_cpu_time; then
        [[ -z $ending ]] || return 0
        skip "this kernel does not tell how long a program has run (there is no /proc/PID/schedstat)"
    fi
    if ! is_at_rest "${1:-100}" 1; then
        server_is_alive
        explain_spinning
        fail_with "${ending:+after the test, }the server uses $((REPLY < 100 ? REPLY : 100)) % of a core while it has nothing to do"
    fi
}

# (The name of a local variable is enough: functions that a function calls see it.)
client_sleeps() {
    local server_pid=$client_pid

    # A client, and the server that the test plays, may give up after 5 s: so half of that.
    if ! is_at_rest 100 2; then
        is_running "$client_pid" || fail_with "the client has ended"
        fail_with "the client uses $((REPLY < 100 ? REPLY : 100)) % of a core while it has nothing to do"
    fi
}

# On a busy machine it may have no core for a while, and the time that it waited is counted when that is
# over: so here, too, there are five looks. A server that naps waits for a core as well, after each nap,
# but only naps count as voluntary switches.
server_burns() {
    local looks share naps

    for looks in 1 2 3 4 5; do
        main_thread_naps
        naps=$REPLY
        watch_cpu "$1"
        share=$REPLY
        main_thread_naps
        naps=$((REPLY - naps))
        if ((share >= 50 && naps <= 5)); then
            return
        fi
    done
    server_doing
    if ((naps > 5)); then
        fail_with "the server gave up its core $naps times in $1 ms, and $REPLY"
    fi
    fail_with "the server uses only $share % of a core, and $REPLY"
}

# The main thread alone: other threads may belong to a run-time.
main_thread_naps() {
    local pid sum=0

    find_workers
    for pid in "${family[@]}"; do
        status_field "/proc/$pid/status" voluntary_ctxt_switches
        sum=$((sum + REPLY))
    done
    REPLY=$sum
}

# read_faults CALL: $fault_calls and $fault_hits, from a line "recv calls 0000000012 hits 0000000003"
read_faults() {
    local call calls hits

    fault_calls=0
    fault_hits=0
    while read -r call _ calls _ hits; do
        if [[ $call == "$1" ]]; then
            fault_calls=$((10#$calls))
            fault_hits=$((10#$hits))
        fi
    done 2>/dev/null <"$BATS_TEST_TMPDIR/faults" || :
}

fault_hits() {
    read_faults "$1"
    REPLY=$fault_hits
}

fault_calls() {
    read_faults "$1"
    REPLY=$fault_calls
}

faults_reached() {
    local call

    for call in "$@"; do
        fault_hits "$call"
        ((REPLY == 0)) || continue
        ((fault_calls < 3)) ||
            skip "no call of $call that this server makes can fail in this way (it blocks, or is edge-triggered)"
        skip "faults.so cannot intercept $call in this program (a static program, or another run-time)"
    done
}

# ---- Clients that a test plays ---------------------------------------------------------------

peer_out=''

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
    peer_out=$BATS_TEST_TMPDIR/peer.out
    stretch 500000
    printf -v look '%d.%06d' $((REPLY / 1000000)) $((REPLY % 1000000))
    exec {peer_fd}< <(
        close_descriptors 2>/dev/null
        result=0
        "$build/peer" "${limits[@]}" "$port" "$host" "$@" </dev/null 2>&1 >"$peer_out" || result=$?
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

peer_says() {
    read_all "$peer_out"
    if [[ $REPLY != *"$1"* ]]; then
        fail_with "the client of the test saw \"${REPLY//$'\n'/, }\""
    fi
}

peer_figure() {
    local name number whole fraction found=

    while read -r name number _; do
        if [[ $name == "$1" ]]; then
            found=$number
        fi
    done <"$peer_out"
    whole=${found%.*}
    fraction=000000
    if [[ $found == *.* ]]; then
        fraction=${found#*.}000000
    fi
    REPLY=$((10#$whole * 1000 + 10#${fraction:0:3}))
}

# ---- Programs on the other side --------------------------------------------------------------

serve_pid=''
serve_count=0

serve() {
    local side=-l

    if [[ $1 == -[bf] ]]; then
        side=$1
        shift
    fi
    serve_out=$BATS_TEST_TMPDIR/serve.$((++serve_count))
    serve_err=$serve_out.err
    command=("$build/peer" "$side" "$@")
    settings=()
    open_files=
    launch /dev/null "$serve_out" "$serve_err"
    serve_pid=$launched
    wait_until "build/peer to listen" serve_listens
}

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

serve_ends() {
    local text

    if ! await has_ended "$serve_pid"; then
        fail_with "the test's server is still waiting for something from the client"
    fi
    reap "$serve_pid"
    if ((child_status != 0)); then
        read_all "$serve_err"
        text=${REPLY%$'\n'}
        fail_with "the test's server: ${text#peer: }"
    fi
}

client_pid=''
client_out=''
client_err=''

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
    launch "$input" "${output:-$client_out}" "$client_err"
    client_pid=$launched
}

client_ends() {
    if ! await has_ended "$client_pid"; then
        doing "$client_pid"
        fail_with "the client did not exit; it $REPLY"
    fi
    reap "$client_pid"
    if ((child_status != $1)); then
        end_text "$child_status"
        fail_with "the client $REPLY"
    fi
}

run_client() {
    local status=$1

    shift
    start_client "$@"
    client_ends "$status"
}

client_prints() {
    read_all "$client_out"
    if [[ $REPLY != *"$1"* ]]; then
        fail_with "the client's standard output lacks \"${1%$'\n'}\""
    fi
}

# Here "*" stands for anything.
client_complains() {
    read_all "$client_err"
    # shellcheck disable=SC2053 # the stars are meant
    if [[ $REPLY != *$1* ]]; then
        REPLY=${REPLY%$'\n'}
        fail_with "the client's standard error says \"${REPLY//$'\n'/, }\""
    fi
}

# ---- What a failure says ---------------------------------------------------------------------

expected_text=''
because_text=''
log_then='' # the server's log when it was last right to look at; empty: it is what it is now

expected() {
    expected_text=$1
}

# ---- The cause that fits what was seen ---------------------------------------------------------
#
# A test gives the likely cause of the failure that it is about. A server may fail in another way: then the
# symptom tells more. So these replace the cause, except where it already speaks of what was seen.

# unless_it_says PATTERN TEXT: the cause is TEXT, unless the one that the test gave matches PATTERN.
unless_it_says() {
    [[ -n $because_text && $because_text =~ $1 ]] || because "$2"
}

# explain_the_end: the server has ended, though it should not have ($server_end).
explain_the_end() {
    read_end "$server_log"
    if [[ $REPLY == *"ERROR: AddressSanitizer"* || $REPLY == *"runtime error:"* ]]; then
        because "the server uses memory or arithmetic wrongly. The report in the log below says where"
        return
    fi
    case $server_end in
    *SIGSEGV | *SIGABRT | *SIGBUS | *SIGILL | *SIGFPE)
        unless_it_says 'overwrites|dangle|past the end|full buffer' \
            "the server uses memory wrongly. Build it with -g -fsanitize=address,undefined and run the step again: the log then names the line"
        ;;
    *SIGPIPE)
        unless_it_says SIGPIPE "send() to a client that is gone raises SIGPIPE, unless you use MSG_NOSIGNAL or ignore SIGPIPE with signal()"
        ;;
    *) # an exit
        unless_it_says 'E[A-Z]{4,}|fails|error|accept\(\) again|exit' \
            "the server ended by itself, although nothing was wrong with the server. The last line of its log below may say why"
        ;;
    esac
}

# explain TEXT: a client of the test saw this, and the server is still there.
explain() {
    case $1 in
    *"Connection refused"*)
        because "the server prints its first line before listen() has succeeded, or it has closed its listener"
        ;;
    *"the server went on reading"*)
        because "a server that reads on before its answer is sent must store everything. Read again when the queue is empty (backpressure)"
        ;;
    *"Connection reset by peer"* | *"Broken pipe"*)
        unless_it_says 'close|closing|limit|end of file|E[A-Z]{4,}' \
            "the server closed this client's socket while bytes from the client were unread: the kernel then sends a reset (RST). Call recv() until it returns 0"
        ;;
    *"got end of file"*)
        unless_it_says 'end of file|close|closing|limit|E[A-Z]{4,}' \
            "the server closed this client's socket while it still owed echo. Send all of it before close()"
        ;;
    *": eof: got nothing"* | "eof: got nothing"*)
        because "the client has half-closed, so recv() returns 0. The server must send the rest of the echo, then call close()"
        ;;
    esac
}

# explain_spinning: the server uses a core while it has nothing to do.
explain_spinning() {
    unless_it_says 'returns at once|readable|writable|watch|blocks|rounded|waits|wait ' \
        "the loop calls something that returns at once, again and again: a call that cannot block, or a wait for a descriptor that is always ready. See which with strace -p"
}

# explain_options: the server did not start. If it was given an option: it may not know it.
explain_options() {
    local argument texts=''

    for argument in "${arguments[@]}"; do
        case $argument in
        -q) texts+="${texts:+; }-q turns off the log lines about clients" ;;
        -t) texts+="${texts:+; }-t SECONDS is the time between two calls of the other work" ;;
        -i) texts+="${texts:+; }-i SECONDS is how long a client may be silent" ;;
        esac
    done
    [[ -z $texts ]] ||
        because "the server was started with \"${arguments[*]}\", and it may not know this option ($texts). See getopt(3)"
}

because() {
    because_text=$1
}

# say_key KEY LINE...: the key stands before the first line only.
say_key() {
    local key=$1 line

    shift
    for line in "$@"; do
        printf '    %-9s %s\n' "$key" "$line"
        key=
    done
}

# last_lines TEXT: sets $lines to its last three, escaped, none longer than 80 characters; or to the first
# eight of a sanitizer's report.
last_lines() {
    local line i LC_ALL=C

    mapfile -t lines <<<"${1%$'\n'}"
    [[ -n $1 ]] || lines=()
    for i in "${!lines[@]}"; do
        if [[ ${lines[i]} == *"ERROR: AddressSanitizer"* || ${lines[i]} == *"runtime error:"* ]]; then
            lines=("${lines[@]:i:8}")
            break
        fi
    done
    if ((${#lines[@]} > 3)) && [[ ${lines[0]} != *"ERROR: AddressSanitizer"* && ${lines[0]} != *"runtime error:"* ]]; then
        lines=("${lines[@]: -3}")
    fi
    for i in "${!lines[@]}"; do
        line=${lines[i]}
        if [[ $line == *[![:print:]]* ]]; then
            printf -v line '%q' "$line"
        fi
        if ((${#line} > 80)); then
            line=${line:0:77}...
        fi
        lines[i]=$line
    done
}

fail_with() {
    local number=${BATS_TEST_DESCRIPTION%% *} sentence=${BATS_TEST_DESCRIPTION#* }
    local page=${BATS_TEST_FILENAME##*/} lines

    note_that_it_is_late
    printf '\n'
    say_key expected "${expected_text:-$sentence}"
    say_key got "$@"
    if [[ -n $because_text ]]; then
        say_key because "$because_text"
    fi
    page=${page%.bats}/STEPS.md
    [[ $number == [0-9]* && -e $course/$page ]] || page=${page%STEPS.md}README.md # companions are in there
    say_key read "$page, step $number"
    # Where time was the judge:
    if [[ "$*" =~ within\ [0-9.]+\ s|gave\ up\ waiting|did\ not\ exit|it\ took\ [0-9]|too\ late|longer\ than ]]; then
        say_key note "if this machine is slow or busy, try again with SLOW=3, which makes every limit three times as long"
    fi
    if [[ -n $server_log ]]; then
        read_end "$server_log"
        last_lines "${log_then:-$REPLY}"
        say_key log "${lines[@]-(nothing)}"
    fi
    if [[ -n $client_out ]]; then
        read_end "$client_out"
        last_lines "$REPLY"
        say_key client "${lines[@]-(nothing)}"
        read_end "$client_err"
        last_lines "$REPLY"
        say_key stderr "${lines[@]-(nothing)}"
    fi
    if [[ -n $ending ]]; then
        return 1
    fi
    BATS_DEBUG_LAST_STACK_TRACE_IS_VALID=1 # so bats names the line of the test, not the one before
    exit 1                                 # however deep we are: the test is over
}

# ---- The beginning and the end of a test -----------------------------------------------------

ending=''       # the test itself is over, and passed
test_began=''   # when, in microseconds
sockets_at_start=0

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
