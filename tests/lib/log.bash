# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# log.bash: reads what programs have printed, above all the server's log.

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
