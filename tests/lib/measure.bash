# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# measure.bash: measures the server's descriptors, sockets, CPU time and memory, and checks that it sleeps. Each
# measure is the sum over all processes of the server, and is returned in REPLY. None starts a process (but see
# socket_count), so they are quick enough for wait_until.

# fd_count: REPLY = how many descriptors the server has open.
fd_count() {
    local pid fds sum=0

    find_family
    for pid in "${family[@]}"; do
        fds=(/proc/"$pid"/fd/*)
        sum=$((sum + ${#fds[@]}))
    done
    REPLY=$sum
}

# socket_count: REPLY = how many TCP sockets the server has open. Usually there are no more sockets of any kind than
# at the start, and then their number is enough. Otherwise find and awk leave out AF_UNIX sockets, which
# run-times use for themselves, and count a socket once that several processes share.
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

# cpu_time: REPLY = the microseconds for which the server's threads have run or waited for a core. On a busy
# machine only this sum shows a busy loop.
cpu_time() {
    sum_schedstat 1
}

# run_time: REPLY = the microseconds for which they have run.
run_time() {
    sum_schedstat 0
}

# sum_schedstat 0|1: with 1, counts the time of waiting, too. /proc/PID/task/TID/schedstat holds, for each
# thread, the nanoseconds for which it ran, and those for which it was ready to run but had no core.
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

# knows_cpu_time: true if the kernel counts these times. gVisor, and Linux without CONFIG_SCHED_INFO, do not.
knows_cpu_time() {
    local ran=0

    read -r ran _ 2>/dev/null </proc/self/schedstat || :
    ((ran > 0))
}

# status_field FILE NAME: REPLY = the number on this line of a /proc/PID/status, or 0. The file is read with as few
# calls as possible, because the kernel writes its content again for each one, and a line may be lost in between.
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

# memory: REPLY = the KiB of memory that the server has allocated and used (RssAnon).
memory() {
    find_family
    sum_status RssAnon
}

# sum_status NAME: REPLY = the sum of this field of /proc/PID/status over the processes in $family.
sum_status() {
    local pid sum=0

    for pid in "${family[@]}"; do
        status_field "/proc/$pid/status" "$1"
        sum=$((sum + REPLY))
    done
    REPLY=$sum
}

# wakeups: REPLY = how often the server's threads have gone to sleep.
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

# thread_count: REPLY = how many threads the server has, without those of a wrapper.
thread_count() {
    local pid threads sum=0

    find_workers
    for pid in "${family[@]}"; do
        threads=(/proc/"$pid"/task/*)
        sum=$((sum + ${#threads[@]}))
    done
    REPLY=$sum
}

# watch_cpu MS: waits for MS. REPLY = for how much of that time the server was busy, in percent of one core.
watch_cpu() {
    local start=${EPOCHREALTIME//[!0-9]/} before

    cpu_time
    before=$REPLY
    printf -v REPLY '%d.%03d' $(($1 / 1000)) $(($1 % 1000))
    nap "$REPLY"
    cpu_time
    REPLY=$(((REPLY - before) * 100 / (${EPOCHREALTIME//[!0-9]/} - start)))
}

# has_no_running_thread PID: true if no thread of the process runs or waits for a core.
has_no_running_thread() {
    local file line

    for file in /proc/"$1"/task/*/stat; do
        read -r line 2>/dev/null <"$file" || continue
        line=${line##*) }
        [[ $line != R* ]] || return 1
    done
}

# sleeps_now: true if no thread of the server runs or waits for a core. (A thread that waited for one during a whole
# window has used no CPU time in it.)
sleeps_now() {
    local pid

    for pid in "${family[@]}"; do
        has_no_running_thread "$pid" || return
    done
}

# is_at_rest MS PART: true as soon as the server uses less than a fifth of a core during MS. It tries again until
# the deadline, or for 1/PART of that time, because a server that has just been busy may have something to
# finish. When it gives up, REPLY = the highest percentage that it has seen.
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

# server_sleeps [MS]: ends the test if the server uses more than a fifth of a core during MS (100), each time that
# it is tried until the deadline. Does nothing in stage 02, which is about busy-waiting, nor in 03 for steps of
# earlier stages: the step that demands sleep is 03.1.
server_sleeps() {
    server_is_alive || return
    if [[ $stage == 02 || ($stage == 03 && ${BATS_TEST_FILENAME##*/} != 03-*) ]]; then
        return
    fi
    if ! knows_cpu_time; then
        [[ -z $ending ]] || return 0
        skip "this kernel does not tell how long a program has run (there is no /proc/PID/schedstat)"
    fi
    if ! is_at_rest "${1:-100}" 1; then
        server_is_alive || return
        explain_spinning
        fail_with "${ending:+after the test, }the server uses $((REPLY < 100 ? REPLY : 100)) % of a core while it has nothing to do"
    fi
}

# client_sleeps: ends the test if the client uses more than a fifth of a core during 100 ms, each time that it is
# tried for half a deadline. (The client, or the server that the test plays, may give up after 5 s.)
client_sleeps() {
    local server_pid=$client_pid # a local variable of bash is visible in the functions that are called from here

    if ! is_at_rest 100 2; then
        is_running "$client_pid" || fail_with "the client has ended"
        fail_with "the client uses $((REPLY < 100 ? REPLY : 100)) % of a core while it has nothing to do"
    fi
}

# server_burns MS: ends the test unless the server uses at least half of a core during MS, and its main thread sleeps
# at most 5 times, in one of five tries. On a busy machine the server may wait long for a core, and the kernel
# counts this time only when it is over: therefore five tries. (A thread that naps also waits for a core after
# each nap, but only a nap counts as a voluntary context switch.)
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

# main_thread_naps: REPLY = how often the server's main thread has gone to sleep. Other threads may belong to a
# run-time.
main_thread_naps() {
    find_workers
    sum_status voluntary_ctxt_switches
}
