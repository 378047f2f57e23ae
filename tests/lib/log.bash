# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# log.bash: reads what programs have printed, above all the server's log.

# read_all FILE: REPLY = its content, without NULs. bash reads a file more slowly than a server that spins can
# fill it: therefore of a file of 1 MB or more only the last 4 MB are read, by tail.
read_all() {
    IFS= read -r -N 1000000 REPLY <"$1" || :
    if ((${#REPLY} == 1000000)); then
        REPLY=$(tail -c 4000000 "$1" | tr -d '\0' && echo .) # $() would remove the last newline
        REPLY=${REPLY%.}
    fi
}

# read_end FILE: REPLY = its last 20,000 bytes, for a message.
read_end() {
    REPLY=$(tail -c 20000 "$1" 2>/dev/null | tr -d '\0')
}

# occurs TEXT N: true if REPLY holds TEXT at least N times. To cut off the front of a long REPLY takes seconds:
# that is done only if TEXT must be found again.
occurs() {
    local count=$2

    while [[ $REPLY == *"$1"* ]]; do
        ((--count > 0)) || return 0
        REPLY=${REPLY#*"$1"}
    done
    return 1
}

# log_has TEXT [N]: true if the server's log holds TEXT, to the letter, at least N times (1).
log_has() {
    read_all "$server_log"
    occurs "$1" "${2:-1}"
}

# log_mentions TEXT [N]: the same, but capital and small letters are alike: "usage" occurs in "Usage: server".
log_mentions() {
    read_all "$server_log"
    REPLY=${REPLY,,}
    occurs "${1,,}" "${2:-1}"
}

# wait_for_log TEXT [N]: waits until the log holds TEXT N times (1). Ends the test at the deadline.
wait_for_log() {
    local times=

    ((${2:-1} == 1)) || times=" ($2 times)"
    wait_until "the log to say \"${1%$'\n'}\"$times" log_has "$@"
}

# log_lacks TEXT: ends the test if the log holds TEXT.
log_lacks() {
    if log_has "$1"; then
        fail_with "the log says \"$1\""
    fi
}
