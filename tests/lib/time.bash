# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# time.bash: clocks and deadlines. Every wait of a test ends at a deadline, and no test sleeps instead of
# waiting.

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
