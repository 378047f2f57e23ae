# shellcheck shell=bash disable=SC2154,SC2034 # variables are shared with demo and scenes.bash
# The stage on which the scenes are played: a server, its clients, a clock, and a record of events.
#
# Every client is a build/peer with a short script. It reports what it does as lines ("B says") on one
# pipe, the bus. Only this script reads the bus: it stamps each line with the time and writes it down,
# and while no line comes it looks at the server's CPU time. So one loop, turn(), sees everything.

# shellcheck source=/dev/null # it is checked by itself
. tests/lib/shared.bash
. tests/lib/time.bash

declare -A seen=()  # when an event was, in microseconds since the scene began: seen[B echo]
declare -A about=() # and its words, if it has any: about[B echo]="0.3 ms"
children=()         # processes that are ours to end
scratch=$(mktemp -d)
events=$scratch/events
log=/dev/null # the log of the server that was started last

# Opened for reading and writing, a fifo neither blocks us now nor ends when a client leaves.
mkfifo "$scratch/bus" "$scratch/prompt"
exec {bus}<>"$scratch/bus" {prompt}<>"$scratch/prompt"

leave_stage() {
    clear_stage
    rm -rf "$scratch"
}
trap leave_stage EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

clear_stage() {
    local pid
    for pid in "${children[@]}"; do
        kill -KILL "$pid" 2>/dev/null
    done
    # The shell would report each one that was killed.
    wait "${children[@]}" 2>/dev/null
    children=()
}

# ---- Time ----

now() {
    local clock=${EPOCHREALTIME/./}
    time_now=$((clock - time_began))
}

# in_words MILLISECONDS: "0.3 ms" or "0.86 s".
in_words() {
    awk -v ms="$1" 'BEGIN {
        if (ms < 0.1)
            print "< 0.1 ms"
        else if (ms < 99.95)
            printf "%.1f ms\n", ms
        else
            printf "%.2f s\n", ms / 1000
    }'
}

# ---- The server ----

# start_server STAGE [OPTION...]: sets server to its process and port to its port.
start_server() {
    local program=build/$1/server line tries
    shift
    log=$(mktemp "$scratch/log.XXXXXX")
    (
        close_descriptors
        exec "$program" "$@" 0 >"$log" 2>&1 </dev/null
    ) &
    server=$!
    children+=("$server")
    for ((tries = 0; tries < 500; tries++)); do
        has_first_line "$log" && return
        kill -0 "$server" 2>/dev/null || break
        nap
    done
    read -r line <"$log"
    complaint="$program did not start: ${line:-it printed nothing}"
}

# CPU time of a process in nanoseconds, over all threads: cpu_had is what it got, cpu_wanted what it
# wanted. The difference is the time for which it was ready to run and had to wait for a core: the
# second number in /proc/PID/schedstat, see proc(5).
look_at_cpu() {
    local file ran stood
    cpu_had=0 cpu_wanted=0
    for file in /proc/"$1"/task/*/schedstat; do
        read -r ran stood _ <"$file" || continue
        ((cpu_had += ran, cpu_wanted += ran + stood))
    done 2>/dev/null
}

# ---- The clients ----

# client NAME STEP...: plays the steps (build/peer -h lists them).
client() {
    local name=$1
    shift
    build/peer -t 10 "$port" "@$name" "$@" >&"$bus" 2>&1 {bus}>&- {prompt}>&- </dev/null &
    children+=("$!")
}

# The same for a client that does what tell() sends it, when the time has come. There can be one.
prompted_client() {
    local name=$1
    shift
    build/peer -t 10 "$port" "@$name" "$@" - >&"$bus" 2>&1 <&"$prompt" {bus}>&- {prompt}>&- &
    children+=("$!")
}

tell() {
    echo "$*" >&"$prompt"
}

# idle_clients N: they connect, and then send nothing.
idle_clients() {
    unset 'seen[idle connected]'
    client "idle1..$1" connect say "idle connected" hold
    watch_until "idle connected"
}

# The kernel completes connections before the server has accepted them, and the server accepts them in
# order. So when a newcomer gets its echo, all clients before it have been accepted.
wait_for_accept() {
    unset 'seen[newcomer leaves]'
    client newcomer connect exchange 1 close say "newcomer leaves"
    watch_until "newcomer leaves"
}

# ---- The scene ----

# open_stage STAGE [OPTION...]: starts that stage's server, without clients.
open_stage() {
    seen=()
    about=()
    elapsed=""
    complaint="" # what went wrong; once it is set, nothing waits any more
    broken=0     # the complaint has been reported
    cpu_share=0 cpu_wish=0
    half_line=""
    while read -r -t 0.001 -u "$bus" _; do
        : # what clients of the last scene printed when they were killed
    done
    start_server "$@"
    begin_scene ""
}

# begin_scene NAMES: starts the clock and the picture. The picture has a row for each name; without
# names there is no picture.
begin_scene() {
    rows=$1
    : >"$events"
    time_began=${EPOCHREALTIME/./}
    last_drawn=0
    drawn_lines=0
    note_cpu
}

# record ACTOR EVENT [WORDS]
record() {
    now
    echo "$time_now $1 $2 ${3:-}" >>"$events"
    seen["$1 $2"]=$time_now
    about["$1 $2"]=${3:-}
}

# Handles a line from a client. Only B measures times, and its next line says what was measured.
hear() {
    local actor=${1%% *} what=${1#* }

    case $1 in
    ok) ;; # a client has done what tell() sent
    "elapsed "*) elapsed=$(in_words "${1//[^0-9.]/}") ;;
    peer:*)
        complaint=${complaint:-$1}
        kill -0 "$server" 2>/dev/null || complaint+=" (the server had ended)"
        ;;
    "B "*)
        record "$actor" "$what" "$elapsed"
        elapsed=""
        ;;
    *) record "$actor" "$what" ;;
    esac
}

note_cpu() {
    look_at_cpu "$server"
    record server cpu "$cpu_wanted"
    last_look=$time_now
}

# One turn of the loop: handles an event, or passes 20 ms without one.
turn() {
    local line
    # The timeout may come in the middle of a line: then keep the first half.
    if IFS= read -r -t 0.02 -u "$bus" line; then
        hear "$half_line$line"
        half_line=""
    else
        half_line+=$line
    fi
    now
    if ((time_now - last_look >= 20000)); then
        note_cpu
    fi
    if [[ -n $rows ]] && ((live && time_now - last_drawn >= 100000)); then
        draw
        last_drawn=$time_now
    fi
}

# watch_for MILLISECONDS
watch_for() {
    now
    local until=$((time_now + $1 * 1000))
    while ((time_now < until)) && [[ -z $complaint ]]; do
        turn
    done
}

# watch_until "ACTOR EVENT": until that has happened, or something has gone wrong.
watch_until() {
    now
    local until=$((time_now + 10000000))
    while [[ -z ${seen[$1]:-} && -z $complaint ]]; do
        turn
        if ((time_now > until)); then
            complaint="\"$1\" did not happen within 10 seconds"
        fi
    done
}

end_scene() {
    watch_for 100
    if [[ -n $rows && -n ${seen[A says]:-} ]]; then
        draw
    fi
    clear_stage
}

# The picture so far, over the one before.
draw() {
    if ((drawn_lines > 0)); then
        printf '\033[%dA' "$drawn_lines"
    fi
    awk -v rows="$rows" -v utf8="$utf8" -v colour="$colour" -v live="$live" \
        -f tests/demo/draw.awk "$events"
    drawn_lines=$(($(wc -w <<<"$rows") + 2))
}
