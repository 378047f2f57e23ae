# shellcheck shell=bash disable=SC2034,SC2154 # bench, which loads this, uses and sets some of the variables
# measure.bash: starts a server and its load, and measures what the server costs under that load. A function that
# measures is called with $server set, and hands each figure to record. If something fails, $problem says why, and it
# returns 1, or 2 if the server has not started.
#
# The load generator is the client of 05. It pauses when its connections are open, and again when its messages are
# complete (see client.patch). Between the two pauses nothing but messages is measured.

declare -A to from # descriptors of pipes to and from a client, by its name: active or idle
server_pid=
client_pids=()

# ---- The server --------------------------------------------------------------------------------

# start_server: starts $server, and waits for its first line. With $core it runs on that core only. Sets
# $server_pid, $host and $port.
start_server() {
    command_of "$server"
    : >"$scratch/log"
    ${core:+taskset -c "$core"} "${command[@]}" >"$scratch/log" 2>&1 &
    server_pid=$!
    until has_first_line "$scratch/log"; do
        if ! kill -0 "$server_pid" 2>/dev/null; then
            problem=$(tail -n 1 "$scratch/log")
            return 2
        fi
        nap 0.002
    done
}

# server_time: REPLY = the nanoseconds for which the threads of the server have run. (The clock would not do,
# because client and server share the machine, and the client is as busy as the server.)
server_time() {
    local file ran sum=0

    for file in /proc/"$server_pid"/task/*/schedstat; do
        read -r ran _ <"$file" && sum=$((sum + ran))
    done 2>/dev/null
    REPLY=$sum
}

# server_memory: REPLY = the bytes that the server has allocated and used.
server_memory() {
    REPLY=$(awk '/^RssAnon:/ { print $2 * 1024 }' "/proc/$server_pid/status")
}

# ---- The clients -------------------------------------------------------------------------------

# start_client NAME OPTION...: starts the load generator, and waits until its connections are open.
start_client() {
    local input output

    exec {input}<> <(:) # a pipe
    exec {output}< <(exec ${core:+taskset -c "$core"} build/bench/client -q "${@:2}" "$port" "$host" <&"$input" 2>&1)
    client_pids+=($!)
    to[$1]=$input
    from[$1]=$output
    wait_for "$1" open
}

# wait_for NAME PHASE: waits until the client says that its connections are open, or its messages complete.
wait_for() {
    read -r -u "${from[$1]}" problem && [[ $problem == "$2" ]]
}

# go_on NAME: lets the client begin its next phase.
go_on() {
    echo >&"${to[$1]}"
}

# send_messages: lets the active client send its messages. $spent = the nanoseconds of CPU time that they cost.
send_messages() {
    server_time
    spent=$REPLY
    go_on active
    wait_for active complete || return
    server_time
    spent=$((REPLY - spent))
}

# end_cell: ends what was started. The clients reset their connections, which leaves none of them in TIME_WAIT.
end_cell() {
    local name input output pid

    for name in "${!to[@]}"; do
        input=${to[$name]}
        output=${from[$name]}
        echo $'\n' >&"$input"
        cat <&"$output" >/dev/null
        exec {input}>&- {output}<&-
    done
    to=()
    from=()
    for pid in $server_pid "${client_pids[@]}"; do
        kill -KILL "$pid"
        wait "$pid"
    done 2>/dev/null
    server_pid=
    client_pids=()
}

# ---- What is measured --------------------------------------------------------------------------

# record_ratio WHAT NUMBER DIVISOR: records NUMBER / DIVISOR with three decimals.
record_ratio() {
    local thousandths=$(($2 * 1000 / $3))

    printf -v REPLY '%d.%03d' $((thousandths / 1000)) $((thousandths % 1000))
    record "$1" "$REPLY"
}

# messages IDLE OPTION...: the CPU time per message and the latency in microseconds, and the messages per second, beside
# IDLE other connections. A single client shares one core with the server, because otherwise the time to wake up the
# other core is measured, too.
messages() {
    local core='' report line

    [[ " $* " != *' -c 1 '* ]] || core=$one_core
    start_server || return
    (($1 == 0)) || start_client idle -c "$1" -n 1 || return
    start_client active "${@:2}" && send_messages || return
    go_on active
    mapfile -t -u "${from[active]}" report
    line="${report[1]%% *} ${report[2]%% *} ${report[3]}"
    [[ $line =~ ^([0-9]+)\ ([0-9]+)\ .*p50\ ([0-9]+)\.([0-9]{3})\ ms\ +p99\ ([0-9]+)\.([0-9]{3}) ]] || return
    record_ratio cpu "$spent" "$((BASH_REMATCH[1] * 1000))"
    record rate "${BASH_REMATCH[2]}"
    record p50 "$((10#${BASH_REMATCH[3]}${BASH_REMATCH[4]}))"
    record p99 "$((10#${BASH_REMATCH[5]}${BASH_REMATCH[6]}))"
}

# opening COUNT: the milliseconds until COUNT clients are connected and have had an echo, and the CPU time in
# microseconds per connection.
opening() {
    local core='' before start

    start_server || return
    server_time
    before=$REPLY
    now
    start=$REPLY
    start_client active -c "$1" -n 1 || return
    now
    record_ratio open "$((REPLY - start))" 1000
    server_time
    record_ratio open-cpu "$((REPLY - before))" "$(($1 * 1000))"
}

# at_rest COUNT: the bytes per idle connection, and the percentage of a core that the server uses while all of its
# connections are idle.
at_rest() {
    local core='' before start

    start_server || return
    server_memory
    before=$REPLY
    start_client active -c "$1" -n 1 || return
    server_memory
    record bytes "$(((REPLY - before) / $1))"
    server_time
    before=$REPLY
    now
    start=$REPLY
    nap 0.2
    server_time
    before=$((REPLY - before))
    now
    record_ratio busy "$before" "$(((REPLY - start) * 10))"
}

# turns IDLE: the microseconds of CPU time that a turn of a loop takes that never sleeps, and how many calls it makes in
# a second of CPU time. One call asks the listener, and one each of IDLE connections.
turns() {
    local core='' line nanoseconds=0 server=$server-turns

    start_server || return
    (($1 == 0)) || start_client idle -c "$1" -n 1 || return
    nap 0.2
    : >"$scratch/log"
    nap 0.2
    while read -r line _; do
        [[ ! $line =~ ^[0-9]+$ ]] || nanoseconds=$line
    done <"$scratch/log"
    ((nanoseconds > 0)) || return
    record_ratio turn "$nanoseconds" 1000
    record calls-per-second "$((($1 + 1) * 1000000000 / nanoseconds))"
}

# slow_readers COUNT: for a client that sends until nothing more is taken, and does not read: the bytes that it gets
# rid of, and the bytes of memory that it costs the server.
slow_readers() {
    local core='' before i full sum=0

    start_server || return
    server_memory
    before=$REPLY
    exec {full}<> <(:)
    for ((i = 0; i < $1; i++)); do
        build/peer "$port" "$host" connect fill hold <&"$nap_fd" >&"$full" 2>&1 &
        client_pids+=($!)
    done
    for ((i = 0; i < $1; i++)); do
        read -r -t 20 -u "$full" problem && [[ $problem == 'A filled '* ]] || break
        sum=$((sum + ${problem#A filled }))
    done
    exec {full}>&-
    server_memory
    ((i == $1)) || return
    record slow "$(((REPLY - before) / $1))"
    record unread "$((sum / $1))"
}

# calls CLIENTS MESSAGES: the system calls per message, as strace counts them.
calls() {
    local core='' strace count

    start_server || return
    start_client active -c "$1" -n "$2" || return
    strace -f -c -o "$scratch/calls" -p "$server_pid" 2>"$scratch/strace" &
    strace=$!
    client_pids+=("$strace")
    until grep -q attached "$scratch/strace"; do
        if ! kill -0 "$strace" 2>/dev/null; then
            problem=$(tail -n 1 "$scratch/strace")
            return 1
        fi
        nap
    done
    go_on active
    wait_for active complete || return
    kill -INT "$strace"
    wait "$strace"
    count=$(awk '$NF == "total" { print $4 }' "$scratch/calls")
    record_ratio calls "${count:-0}" "$2"
}

# ready_descriptors WATCHED READY: the CPU time in microseconds of one call that watches WATCHED descriptors, of which
# READY are ready. Here $server is the name of the call.
ready_descriptors() {
    local nanoseconds

    nanoseconds=$(build/bench/ready "$server" "$1" "$2" 2>&1)
    problem=$nanoseconds
    [[ $nanoseconds =~ ^[0-9]+$ ]] && record_ratio call "$nanoseconds" 1000
}
