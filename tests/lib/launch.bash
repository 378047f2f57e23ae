# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# launch.bash: starts programs, and waits for their end.

# Everything that the test starts is in here, until it has ended.
children=()

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

# launch_peer INPUT OUTPUT ERRORS [ARGUMENT]...: the same for build/peer
launch_peer() {
    command=("$build/peer" "${@:4}")
    settings=()
    open_files=
    launch "$1" "$2" "$3"
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
