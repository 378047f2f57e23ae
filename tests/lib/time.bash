# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# time.bash: clocks and deadlines. Every wait of a test ends at a deadline, and no test sleeps instead of
# waiting.

# now: REPLY = the time, in microseconds. Two of them make a stopwatch.
now() {
    REPLY=${EPOCHREALTIME//[!0-9]/}
}

# nap [SECONDS]: waits for SECONDS (0.01). It reads from a pipe to which nothing is ever
# written, because `sleep` would have to be started as a process. REPLY stays as it is.
nap() {
    local nothing

    [[ -n ${nap_fd-} ]] || exec {nap_fd}<> <(:)
    read -r -t "${1:-0.01}" -u "$nap_fd" nothing || :
}

# stretch MICROSECONDS: REPLY = MICROSECONDS times SLOW
stretch() {
    local slow=${SLOW:-1} fraction=000

    if [[ $slow == *.* ]]; then
        fraction=${slow#*.}000
    fi
    REPLY=$(($1 * (10#0${slow%%.*} * 1000 + 10#${fraction:0:3}) / 1000))
}

# A step may take 20 s, whatever the server does, and each wait in it 5 s. On our own servers a step may take
# 60 s: they are known to be right, so only the machine can be slow. If two steps of a file have waited to a
# deadline, the server is broken, and from then on waits are shorter, so that the run ends soon. A test in
# which a right server takes a second or two sets $least_wait (in microseconds).
step_limit=20000000
[[ -n ${SERVER-}${CLIENT-} ]] || step_limit=60000000

# patience: REPLY = how long a wait that begins now may take, in microseconds. Sets $left, the time that is left
# for the step, and $wait_limit, the limit of one wait before SLOW and $left are taken into account.
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

# note_that_it_is_late: lets patience know that a step has failed after a long wait.
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

# await COMMAND...: waits until COMMAND succeeds. Returns 1 at the deadline, with $awaited = "deadline", and when
# the server ends before, with $awaited = "server". Each try of COMMAND takes CPU time that the server may need:
# therefore the pauses between the tries grow, from 2 ms to 64 ms.
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

# wait_until WHAT COMMAND...: waits until COMMAND succeeds. COMMAND should not start a process, because it is
# tried often. Ends the test at the deadline, or when the server ends before. The message calls the awaited
# state WHAT, such as "its sockets to be closed".
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
