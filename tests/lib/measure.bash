# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# measure.bash: measures the server's descriptors, sockets, CPU time and memory, and checks that it sleeps.

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
