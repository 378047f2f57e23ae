# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# launch.bash: starts programs, and waits for their end.

# The processes that the test has started and not waited for. teardown ends them.
children=()

# is_running PID: true if the process exists, is no zombie, and is not just ending. (A child that has ended
# stays a zombie until reap waits for it. One that is ending has closed its sockets, and its clients see that
# before it is a zombie. Its flags say so: PF_EXITING, 4.) If only its first thread has ended it looks the same, but has
# other threads. Sets $state to its state letter, as ps shows it.
is_running() {
    local line flags threads

    state=Z
    read -r line 2>/dev/null <"/proc/$1/stat" || return 1
    read -r state _ _ _ _ _ flags _ <<<"${line##*) }"
    [[ $state == [ZX] ]] || ((flags & 4)) || return 0
    threads=(/proc/"$1"/task/*)
    ((${#threads[@]} > 1))
}

# has_ended PID, is_stopped PID: true if it has ended, or is stopped by a signal.
has_ended() {
    ! is_running "$1"
}

is_stopped() {
    is_running "$1" && [[ $state == T ]]
}

# launch INPUT OUTPUT ERRORS: starts "${command[@]}" in the background, with the environment "${settings[@]}"
# (NAME=VALUE...) and at most $open_files descriptors, if that is set. $launched = its process ID.
#
# Its signals have their default actions, as if it had been started by hand: a command that a script starts
# with & ignores SIGINT, and some test runners let their children ignore SIGPIPE. It leads a process group of
# its own, so that its children can be ended with it.
launch() {
    set -m
    (become_command) <"$1" >>"$2" 2>>"$3" &
    launched=$!
    set +m
    children+=("$launched")
}

# launch_peer INPUT OUTPUT ERRORS [ARGUMENT]...: starts build/peer in the same way.
launch_peer() {
    command=("$build/peer" "${@:4}")
    settings=()
    open_files=
    launch "$1" "$2" "$3"
}

# become_command: runs in the background process of launch.
become_command() {
    close_descriptors
    if [[ -n $open_files ]]; then
        ulimit -n "$open_files" || exit 1
    fi
    ulimit -f 262144 # KiB: a log that grows without end must not fill the disk
    exec env --default-signal=PIPE,INT,QUIT "${settings[@]}" "${command[@]}"
}

# take_options [OPTION VALUE]... [ARGUMENT]...: reads the options of start_server and start_client. Sets
# $settings, $open_files, $input and $output; $command, if --program is among them; and $arguments to the rest.
# Skips the test if --open-files asks for more than is allowed.
take_options() {
    # A sanitizer keeps freed memory for a while, which would look like a leak.
    local asan_options=quarantine_size_mb=0:thread_local_quarantine_size_kb=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}

    # malloc() of glibc overwrites what is freed, so that a use after free does not work by luck.
    settings=("ASAN_OPTIONS=$asan_options" "GLIBC_TUNABLES=glibc.malloc.perturb=165:glibc.malloc.tcache_count=0")
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
        --program) read -r -a command <<<"$2" ;;
        --input) input=$2 ;;
        --output) output=$2 ;;
        *) fail_with "the test itself is wrong: unknown option $1" ;;
        esac
        shift 2
    done
    arguments=("$@")
}

# finish_family: instrumented programs report at their end, which SIGKILL would prevent. So this sends the signal
# that they handle, $FINISH_SIGNAL (see tests/lib/finish.c), and gives them 5 s. For other programs it is not set.
finish_family() {
    local tries

    [[ -n ${FINISH_SIGNAL-} ]] || return 0
    signal_family CONT # it may be stopped
    signal_family "$FINISH_SIGNAL"
    for tries in {1..500}; do
        is_running "$server_pid" || return 0
        nap
    done
}

# end_child PID: kills the process and its descendants, and waits for it. $child_status = its exit status.
end_child() {
    local server_pid=$1

    {
        finish_family
        signal_family KILL
        reap "$1"
    } 2>/dev/null
}

# reap PID: waits for a child that has ended or is about to end, and kills what it has left behind.
# $child_status = its exit status. (At its next command, bash reports on standard error that a child was
# killed. This report is suppressed, because the next command is in here, too.)
reap() {
    local i

    child_status=0
    {
        wait "$1" || child_status=$?
        kill -KILL -- "-$1" || : # the rest of its process group
    } 2>/dev/null
    for i in "${!children[@]}"; do
        if [[ ${children[i]} == "$1" ]]; then
            unset "children[i]"
        fi
    done
}

# end_text STATUS: REPLY = "was killed by SIGPIPE" or "exited with status 1", for an exit status of the shell.
# (The status cannot tell a SIGPIPE from an exit(141).)
end_text() {
    if (($1 > 128 && $1 < 193)); then
        REPLY="was killed by SIG$(kill -l "$1")"
    else
        REPLY="exited with status $1"
    fi
}
