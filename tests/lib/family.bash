# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# family.bash: the processes of a server, and what they do. A server is judged together with its descendants,
# because SERVER may be a wrapper script, or start a process per client.

# relation[SERVER:PID] says whether a process belongs to the server: "group" if it is in the server's process
# group (see launch), "descendant" if it has left that group but its parent belongs to the server, or "none".
# find_family reads each process of /proc only once, or again if it comes before its parent. It leaves out those
# with a lower number than the server, which are older, unless the numbers have begun again at the lowest since then:
# the last field of /proc/loadavg is the number that was given last.
declare -gA relation
family_of=''   # the server of which $family is the list
family_until=0 # the list is good until then, in microseconds

# find_family: sets $family to the processes of the server, among them zombies.
find_family() {
    local directory pid line fields parent newest=0

    [[ "$server_pid" != "$family_of" || ${EPOCHREALTIME//[!0-9]/} -gt $family_until ]] || return 0
    family=()
    family_of=
    [[ -n $server_pid ]] || return 0
    if [[ -z ${SERVER-} ]]; then # our own are single processes
        family=("$server_pid")
        return
    fi
    family_of=$server_pid
    family_until=$((${EPOCHREALTIME//[!0-9]/} + 50000)) # a search costs a millisecond or more
    relation[$server_pid:$server_pid]=group
    relation[$server_pid:0]=none
    read -r _ _ _ _ newest 2>/dev/null </proc/loadavg || :
    for directory in /proc/[1-9]*; do
        pid=${directory#/proc/}
        ((pid >= server_pid || newest < server_pid)) || continue
        if [[ -z ${relation[$server_pid:$pid]-} ]]; then
            read -r line 2>/dev/null <"$directory/stat" || continue
            read -r -a fields <<<"${line##*) }"
            parent=${relation[$server_pid:${fields[1]}]-}
            if [[ ${fields[2]} == "$server_pid" ]]; then
                relation[$server_pid:$pid]=group
            elif [[ $parent == none ]] || ((fields[1] < server_pid && newest >= server_pid)); then
                relation[$server_pid:$pid]=none
            elif [[ -n $parent ]]; then
                relation[$server_pid:$pid]=descendant
            fi
        fi
        if [[ ${relation[$server_pid:$pid]-none} != none ]]; then
            family+=("$pid")
        fi
    done
}

# has_socket PID: true if the process has a socket. A process that serves clients has one, a wrapper has none.
has_socket() {
    local fd

    for fd in /proc/"$1"/fd/*; do
        [[ ! -S $fd ]] || return 0
    done
    return 1
}

# find_workers: sets $family to those processes of the server that have a socket; to all, if none has one.
find_workers() {
    local pid workers=()

    find_family
    family_of= # the next find_family must search again
    ((${#family[@]} > 1)) || return 0
    for pid in "${family[@]}"; do
        ! has_socket "$pid" || workers+=("$pid")
    done
    ((${#workers[@]} == 0)) || family=("${workers[@]}")
}

# family_has_ended: true if all processes of the server have ended.
family_has_ended() {
    local pid

    find_family
    for pid in "${family[@]}"; do
        ! is_running "$pid" || return 1
    done
}

# signal_family SIGNAL: sends the signal to each process of the server, once. (A second SIGCONT could come after
# the server has stopped itself again.)
signal_family() {
    local pid

    find_family
    {
        kill -"$1" -- "-$server_pid" || :
        for pid in "${family[@]}"; do
            [[ ${relation[$server_pid:$pid]-} != descendant ]] || kill -"$1" "$pid" || :
        done
    } 2>/dev/null
}

# server_is_stopped: true if a process of the server is stopped: it may have stopped itself (--faults).
server_is_stopped() {
    local pid

    find_family
    for pid in "${family[@]}"; do
        ! is_stopped "$pid" || return 0
    done
    return 1
}

# family_is_stopped: true if all processes of the server are stopped.
family_is_stopped() {
    local pid

    find_family
    for pid in "${family[@]}"; do
        ! is_running "$pid" || [[ $state == T ]] || return 1
    done
}

# doing PID: REPLY = what the process does: "is blocked in recv on fd 4". /proc/PID/syscall has the number of
# the call and its arguments. On many machines only an ancestor of the process may read it: therefore bash reads
# it, and not a program. Where it may not be read, /proc/PID/wchan names a function of the kernel.
doing() {
    local number first

    REPLY="is running, not blocked in any call"
    is_running "$1" || {
        REPLY="has ended"
        return 0
    }
    if [[ $state == T ]]; then
        REPLY="is stopped"
        return 0
    fi
    if [[ $state != [SD] ]]; then
        return 0
    fi
    if ! read -r number first _ 2>/dev/null <"/proc/$1/syscall"; then
        number=
        read -r number 2>/dev/null <"/proc/$1/wchan" || :
        REPLY="is asleep in the kernel${number:+ (in $number)}"
        return 0
    fi
    if [[ $number != [0-9]* ]]; then
        return 0
    fi
    call_name "$number"
    case $REPLY in
    accept | connect | recv | send | read | write | epoll_wait)
        REPLY="is blocked in $REPLY on fd $((first))"
        ;;
    *) REPLY="is blocked in $REPLY" ;;
    esac
}

# server_doing: REPLY = what those processes of the server do that serve clients, at most three of them.
server_doing() {
    local pid text='' first='' count=0

    find_workers
    for pid in "${family[@]}"; do
        ((++count <= 3)) || break
        doing "$pid"
        if [[ -z $first ]]; then
            first=$REPLY
            text=$REPLY
        elif [[ $REPLY != "$first" && $REPLY != "has ended" ]]; then
            text+=", and its process $pid $REPLY"
        fi
    done
    REPLY=${text:-has ended}
}

# call_name NUMBER: REPLY = the name of the system call, as a program calls it.
call_name() {
    case $HOSTTYPE-$1 in
    x86_64-43 | x86_64-288 | aarch64-202 | aarch64-242) REPLY=accept ;;
    x86_64-42 | aarch64-203) REPLY=connect ;;
    x86_64-45 | x86_64-47 | aarch64-207 | aarch64-212) REPLY=recv ;;
    x86_64-44 | x86_64-46 | aarch64-206 | aarch64-211) REPLY=send ;;
    x86_64-0 | x86_64-19 | aarch64-63 | aarch64-65) REPLY="read" ;;
    x86_64-1 | x86_64-20 | aarch64-64 | aarch64-66) REPLY="write" ;;
    x86_64-23 | x86_64-270 | aarch64-72) REPLY=select ;;
    x86_64-7 | x86_64-271 | aarch64-73) REPLY=poll ;;
    x86_64-232 | x86_64-281 | x86_64-441 | aarch64-22 | aarch64-441) REPLY=epoll_wait ;;
    x86_64-202 | aarch64-98) REPLY="futex (waiting for a thread)" ;;
    x86_64-35 | x86_64-230 | aarch64-101 | aarch64-115) REPLY="sleep" ;;
    x86_64-61 | aarch64-260) REPLY="wait" ;;
    x86_64-34) REPLY=pause ;;
    x86_64-426 | aarch64-426) REPLY=io_uring_enter ;;
    *) REPLY="system call $1" ;;
    esac
}
