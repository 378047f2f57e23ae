# shellcheck shell=bash disable=SC2154 # bench, which loads this, sets some of the variables
# parts.bash: what each part measures. A function cells_PART calls cell for each of its cells:
#
#     cell PART SERVER COUNT MEASURE...     the keys of its figures begin with PART.SERVER.COUNT

# command_of SERVER: sets $command.
command_of() {
    case $1 in
    blocking) command=(build/01-blocking/server -q 0) ;;
    nonblocking) command=(build/02-nonblocking/server -q 0) ;;
    select) command=(build/03-select/server -q 0) ;;
    poll | poll-ask-first | poll-accept-64) command=(build/04-poll/server -q 0) ;;
    epoll | epoll-send-first | epoll-accept-64 | log-off) command=(build/05-epoll/server -q 0) ;;
    nodelay-on) command=(build/bench/choices/buffer-1 -q 0) ;;
    log-on) command=(build/05-epoll/server 0) ;;
    timeouts) command=(build/06-timeouts/server -q -i 60 0) ;;
    threads) command=(build/01-blocking/threads -q 0) ;;
    workers-?) command=(build/05-epoll/workers -q -j "${1#workers-}" 0) ;;
    edge | callbacks | workers | uring) command=(build/05-epoll/"$1" -q 0) ;;
    asyncio) command=(python3 -I tests/bench/peers/asyncio.py) ;;
    plain | libev | libevent | libuv | libuv-one-buffer) command=(build/bench/"$1") ;;
    *) command=(build/bench/choices/"$1" -q 0) ;;
    esac
}

# exists SERVER: whether it has been built. If not, a line at the end says so.
exists() {
    command_of "$1"
    [[ -x ${command[0]} ]] || command -v "${command[0]}" >/dev/null && return
    leave_out "$1: ${command[0]} has not been built"
    return 1
}

# has_descriptors COUNT: whether a process may have COUNT connections.
has_descriptors() {
    (($1 + 50 <= descriptors)) && return
    leave_out "$1 connections: a process may open only $descriptors descriptors (ulimit -Hn)"
    return 1
}

# The cost of watching: one client sends, and all others are idle.
cells_idle() {
    local count server

    for count in $idle_counts; do
        has_descriptors "$count" || continue
        for server in nonblocking select poll epoll edge; do
            [[ $server == select && $count -gt 1000 ]] ||
                cell idle "$server" "$count" messages "$count" -c 1 -d "$seconds"
        done
        ((count > 1000)) || cell idle nonblocking "$count" turns "$count"
    done
}

# The other axis: of the descriptors that are watched, more and more are ready.
cells_ready() {
    local count

    has_descriptors 4000 || return
    for count in 1 10 100 1000 4000; do
        cell ready epoll "$count" ready_descriptors 4000 "$count"
        cell ready poll "$count" ready_descriptors 4000 "$count"
    done
}

# All clients send.
cells_load() {
    local count server

    if (($# == 0)); then
        set -- plain blocking nonblocking select poll epoll timeouts threads edge callbacks workers uring
        for server in workers-1 workers-2 workers-4; do # by number of threads
            exists "$server" && cell load "$server" 100 messages 0 -c 100 -d "$seconds"
        done
    fi
    for count in $load_counts; do
        has_descriptors "$count" || continue
        for server; do
            case $server in
            blocking) ((count == 1)) || continue ;;
            select) ((count <= 1000)) || continue ;;
            esac
            exists "$server" && cell load "$server" "$count" messages 0 -c "$count" -d "$seconds"
        done
    done
}

# Small changes to a server. Most names such as epoll-ask-first are those of the patches in choices/.
cells_choices() {
    local server count kib

    for count in 1 100; do
        for server in epoll-send-first epoll-ask-first edge poll-ask-first poll-send-first log-off log-on; do
            cell choices "$server" "$count" messages 0 -c "$count" -d "$seconds"
            [[ $server != log-* && -n $has_strace ]] && cell choices "$server" "$count" calls "$count" 2000
        done
    done
    for server in epoll-accept-64 epoll-accept-1 poll-accept-64 poll-accept-1; do
        has_descriptors 2000 && cell choices "$server" 2000 opening 2000
    done
    for kib in 1 4 16 64 256; do
        cell choices "buffer-$kib" 4 messages 0 -c 4 -s 65536 -d "$seconds"
    done
    for count in 64 1500; do
        for server in nodelay-on nodelay-off; do
            cell choices "$server" "$count" messages 0 -c 1 -s "$count" -d "$seconds"
        done
    done
}

# The memory of connections that are idle, or that belong to clients that do not read.
cells_memory() {
    local server

    (($# > 0)) || set -- nonblocking select poll epoll timeouts threads edge callbacks workers uring "${peers[@]}"
    for server; do
        if has_descriptors 1000 && exists "$server"; then
            cell memory "$server" 1000 at_rest 1000
            in_list "$server" "${peers[@]}" || cell memory "$server" 10 slow_readers 10
        fi
    done
}

# Other people's libraries.
cells_peers() {
    local count server

    for count in $load_counts; do
        has_descriptors "$count" || continue
        for server in epoll "${peers[@]}"; do
            cell peers "$server" "$count" messages 0 -c "$count" -d "$seconds"
        done
    done
    for server in epoll "${peers[@]}"; do
        cell large "$server" 4 messages 0 -c 4 -s 65536 -d "$seconds"
    done
}

# What the goals for the server of 05 need, besides what other parts measure.
cells_goals() {
    local bytes

    cells_load plain epoll
    cells_peers
    cells_memory epoll
    for bytes in 1 1000 65536 65537 100000 131072 1048576; do
        cell sizes epoll "$bytes" messages 0 -c 1 -s "$bytes" -d "$seconds"
    done
    has_descriptors 10000 && cell open epoll 10000 opening 10000
}

# ---- Programs that bench builds ----------------------------------------------------------------

# build_load: the load generator.
build_load() {
    is_newer build/bench/client tests/bench/client.patch 05-epoll/client.c && return
    patch -s -o build/bench/client.c 05-epoll/client.c tests/bench/client.patch &&
        compile build/bench/client.c -o build/bench/client
}

# build_choices: for each patch a server with that name. buffer.patch makes one for each size.
build_choices() {
    local patch name source kib failed=0

    mkdir -p build/bench/choices
    for patch in tests/bench/choices/*.patch; do
        name=$(basename "$patch" .patch)
        source=$(sed -n 's:^--- a/::p' "$patch")
        is_newer "build/bench/choices/$name.c" "$patch" "$source" && continue
        patch -s -o "build/bench/choices/$name.c" "$source" "$patch" || failed=1
        case $name in
        buffer)
            for kib in 1 4 16 64 256; do
                compile "build/bench/choices/$name.c" "-DKIB=$kib" -o "build/bench/choices/$name-$kib" || failed=1
            done
            ;;
        *) compile "build/bench/choices/$name.c" -o "build/bench/choices/$name" || failed=1 ;;
        esac
    done
    return $failed
}

# build_peers: sets $peers to those whose library is there.
build_peers() {
    local name

    peers=()
    for name in libev libevent libuv; do
        if is_newer "build/bench/$name" "tests/bench/peers/$name.c" ||
            compile "tests/bench/peers/$name.c" -o "build/bench/$name" "-l${name#lib}" 2>/dev/null; then
            peers+=("$name")
        else
            leave_out "$name: there is no library to build it with (on Debian: apt-get install ${packages[$name]})"
        fi
    done
    if in_list libuv "${peers[@]}"; then
        patch -s -o build/bench/libuv-one-buffer.c tests/bench/peers/libuv.c tests/bench/peers/libuv-one-buffer.patch &&
            compile build/bench/libuv-one-buffer.c -o build/bench/libuv-one-buffer -luv || return
        peers+=(libuv-one-buffer)
    fi
    if command -v python3 >/dev/null && python3 -I -c 'import asyncio' 2>/dev/null; then
        peers+=(asyncio)
    else
        leave_out "asyncio: there is no python3"
    fi
}

declare -A packages=([libev]=libev-dev [libevent]=libevent-dev [libuv]=libuv1-dev)
declare -A version_macros=( # the header, and what it calls its version
    [libev]='ev.h EV_VERSION_MAJOR EV_VERSION_MINOR'
    [libevent]='event2/event.h LIBEVENT_VERSION'
    [libuv]='uv.h UV_VERSION_MAJOR UV_VERSION_MINOR UV_VERSION_PATCH'
)

# version_of PEER: REPLY = its version.
version_of() {
    local header macros

    if [[ $1 == asyncio ]]; then
        REPLY=$(python3 --version)
        return
    fi
    read -r header macros <<<"${version_macros[$1]}"
    REPLY=$(printf '#include <%s>\n%s\n' "$header" "$macros" | ${CC:-cc} -E -P - | tail -n 1 | tr -d '"' | tr ' ' .)
}

compile() {
    ${CC:-cc} -O2 -w -pthread "$@"
}

# is_newer FILE SOURCE...: whether it is there, and newer than all of these.
is_newer() {
    local source

    for source in "${@:2}"; do
        [[ $1 -nt $source ]] || return
    done
}

# in_list WORD LIST...
in_list() {
    [[ " ${*:2} " == *" $1 "* ]]
}
