# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# faults.bash: reads what faults.so (faults.c) has counted in the program that was started last with --faults.

# read_faults CALL: sets $fault_calls and $fault_hits, from a line "recv calls 0000000012 hits 0000000003"; both are 0
# if there is none.
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

# fault_hits CALL: REPLY = how often a rule has changed this call.
fault_hits() {
    read_faults "$1"
    REPLY=$fault_hits
}

# fault_calls CALL: REPLY = how often the program has made this call.
fault_calls() {
    read_faults "$1"
    REPLY=$fault_calls
}

# faults_reached CALL...: skips the test if no rule has changed one of these calls, because faults.so does not see
# the calls of this program, or may not make them fail. To be used after the calls were made.
faults_reached() {
    local call

    for call in "$@"; do
        fault_hits "$call"
        ((REPLY == 0)) || continue
        ((fault_calls < 3)) ||
            skip "no call of $call that this program makes can fail in this way (it blocks, or is edge-triggered)"
        skip "faults.so cannot intercept $call in this program (a static program, or another run-time)"
    done
}
