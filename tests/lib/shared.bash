# shellcheck shell=bash disable=SC2034 # the helper and the scripts use what is set here
# shared.bash: what the helper of the tests shares with the scripts: tests/run, make check, make grade, make
# mistakes, make demo and make bench.

# variable_of PROGRAM: REPLY = the environment variable that names another program in its place, such as
# TWO_PORTS for 03-select/two-ports.
variable_of() {
    REPLY=${1##*/}
    REPLY=${REPLY^^}
    REPLY=${REPLY//-/_}
}

# has_first_line LOG: whether a server has printed "starting up on 127.0.0.1 port 10000". Sets $host and $port. Other
# lines may come before, such as warnings of a run-time.
has_first_line() {
    local line text

    # Only the beginning is read, because a server that prints without end would keep us here.
    IFS= read -r -N 65536 text <"$1" || :
    while read -r line; do
        if [[ $line =~ ^starting\ up\ on\ ([^ ]+)\ port\ ([0-9]+) ]]; then
            host=${BASH_REMATCH[1]}
            port=${BASH_REMATCH[2]}
            return 0
        fi
    done <<<"$text"
    return 1
}

# uring_runs PROGRAM: true if 05-epoll/uring, which was built as PROGRAM, runs on this machine. Otherwise REPLY tells why
# it does not. (It makes its rings before it looks at HOST. So a HOST that is wrong ends it with status 2 where the
# kernel allows them, and with 1 where it does not.)
uring_runs() {
    local status=0

    REPLY="uring.c was not built, because the headers of Linux 5.19 or newer are missing"
    [[ -e $1 ]] || return
    REPLY=$("$1" 0 nowhere 2>&1) || status=$?
    ((status == 2))
}

# check_slow: returns 1, after a line on standard error, if SLOW is set to something that cannot be a factor.
# (stretch knows three decimal places.)
check_slow() {
    if [[ ${SLOW:-1} =~ ^[0-9]{0,3}(\.[0-9]+)?$ && ! ${SLOW:-1} =~ ^0*(\.0*|\.000[0-9]*)?$ ]]; then
        return 0
    fi
    echo "SLOW=$SLOW: not a number above 0 and below 1000, such as 3 or 1.5" >&2
    return 1
}

# ---- Processes and descriptors -----------------------------------------------------------------

# processes_below DIRECTORY: prints the IDs of all processes whose TMPDIR is DIRECTORY or is in it. A run
# that has a TMPDIR of its own can be ended in this way, with all that it has started. Process groups would
# not do, because the tests start each server in a new one. (grep must not find itself.)
processes_below() {
    TMPDIR='' grep -lsz "^TMPDIR=$1\(/.*\)\?$" /proc/[0-9]*/environ | cut -d / -f 3
}

# end_processes_below DIRECTORY: kills them until none is left, because one may have just started another.
# Returns 1 if there are some after 10 s. A process that has cleared its environment is not found.
end_processes_below() {
    local ids until=$((SECONDS + 10))

    while mapfile -t ids < <(processes_below "$1") && ((${#ids[@]} > 0)); do
        ((SECONDS < until)) || return 1
        kill -KILL "${ids[@]}"
    done 2>/dev/null
}

# close_descriptors: closes all descriptors above 2 of this subshell, before it becomes another program.
# Otherwise that program would keep pipes open in which another process waits for end of file, as bats does,
# and would have fewer descriptors left. (bash keeps a script open as 255.)
close_descriptors() {
    local fd

    for fd in /proc/"$BASHPID"/fd/*; do
        fd=${fd##*/}
        if ((fd > 2 && fd != 255)); then
            eval "exec $fd>&-"
        fi
    done
}
