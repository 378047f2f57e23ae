# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# family.bash: the processes of a server. A server is judged together with its descendants, because SERVER may
# be a wrapper script, or start a process per client.

# A server is judged together with its descendants: a wrapper's program, or a child per client. They are
# in its process group (see launch), or their parent is in its family. /proc is searched again each time,
# but each process in it is read only once. A descendant is younger, so its number is higher.
declare -gA kinship
family_of=''
family_until=0

# find_family: sets $family to the processes of the server that run or are zombies
find_family() {
    local directory pid line fields

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
    kinship[$server_pid:$server_pid]=kin
    for directory in /proc/[1-9]*; do
        pid=${directory#/proc/}
        ((pid >= server_pid)) || continue
        if [[ -z ${kinship[$server_pid:$pid]-} ]]; then
            read -r line 2>/dev/null <"$directory/stat" || continue
            read -r -a fields <<<"${line##*) }"
            if [[ ${fields[2]} == "$server_pid" ]]; then
                kinship[$server_pid:$pid]=kin
            elif [[ ${kinship[$server_pid:${fields[1]}]-stranger} != stranger ]]; then
                kinship[$server_pid:$pid]=leader # of a group of its own, or in such a one
            else
                kinship[$server_pid:$pid]=stranger
            fi
        fi
        if [[ ${kinship[$server_pid:$pid]} != stranger ]]; then
            family+=("$pid")
        fi
    done
}

# has_socket PID: what serves has a socket, but a wrapper has none
has_socket() {
    local fd

    for fd in /proc/"$1"/fd/*; do
        [[ ! -S $fd ]] || return 0
    done
    return 1
}

# find_workers: sets $family to those processes of the server that have a socket, if there are any
find_workers() {
    local pid workers=()

    find_family
    family_of= # what follows is not all of it
    ((${#family[@]} > 1)) || return 0
    for pid in "${family[@]}"; do
        ! has_socket "$pid" || workers+=("$pid")
    done
    ((${#workers[@]} == 0)) || family=("${workers[@]}")
}

family_has_ended() {
    local pid

    find_family
    for pid in "${family[@]}"; do
        ! is_running "$pid" || return 1
    done
}

# signal_family SIGNAL: to all of the server, and only once: it may stop itself again after a SIGCONT
signal_family() {
    local pid

    find_family
    {
        kill -"$1" -- "-$server_pid" || :
        for pid in "${family[@]}"; do
            [[ ${kinship[$server_pid:$pid]-} != leader ]] || kill -"$1" "$pid" || :
        done
    } 2>/dev/null
}

# Has a process of the server stopped itself?
server_is_stopped() {
    local pid

    find_family
    for pid in "${family[@]}"; do
        ! is_stopped "$pid" || return 0
    done
    return 1
}

# Has all of it stopped?
family_is_stopped() {
    local pid

    find_family
    for pid in "${family[@]}"; do
        ! is_running "$pid" || [[ $state == T ]] || return 1
    done
}

# doing PID: REPLY = "is blocked in recv on fd 4". From /proc/PID/syscall: the number of the call
# and its arguments. Only a process's forebear may read it on many machines, so we read it here and
# not in a child. Where we may not, /proc/PID/wchan names the kernel's own function.
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

# server_doing: the same for each process of the server that serves, up to three
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

# call_name NUMBER: REPLY = the name under which a program calls it
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
    *) REPLY="system call $1" ;;
    esac
}
