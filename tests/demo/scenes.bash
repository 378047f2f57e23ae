# shellcheck shell=bash disable=SC2154,SC2034 # variables are shared with demo and stage.bash
# The scenes: what the clients do to each server, what we measured, and whether that is as expected.
# The limits are wide, and mostly about the order of events instead of their times, because a slow or
# busy machine is not the server's fault.

# ---- The same scene for every stage ----

# A sends half a sentence, thinks for a second, and sends the rest. B and C connect in the meantime.
# On a slow machine A's second lasts longer: A goes on only after B and C have sent their messages.
play_half_a_sentence() {
    prompted_client A connect say "A says" send "Half a sen" expect "Half a sen" say "A echo"
    watch_until "A echo"
    record A thinks
    begin_measuring_cpu

    watch_for 150
    client B connect say "B says" mark send "Hello" expect "Hello" elapsed say "B echo" \
        shutdown eof say "B leaves"
    watch_until "B says"
    watch_for 250
    client C connect say "C says" send "Hi" expect "Hi" say "C echo" shutdown eof say "C leaves"
    watch_until "C says"
    watch_for 600

    end_measuring_cpu
    record A resumes
    tell say '"A says"' send '"tence."' expect '"tence."' say '"A echo"' \
        shutdown eof say '"A leaves"'
    watch_until "A leaves"
    watch_until "B leaves"
    watch_until "C leaves"
}

begin_measuring_cpu() {
    look_at_cpu "$server"
    now
    measured_since=$time_now had_then=$cpu_had wanted_then=$cpu_wanted
}

# Sets cpu_share and cpu_wish: per cent of a core that the server had since then, and wanted.
end_measuring_cpu() {
    look_at_cpu "$server"
    now
    cpu_share=$(((cpu_had - had_then) / 10 / (time_now - measured_since)))
    cpu_wish=$(((cpu_wanted - wanted_then) / 10 / (time_now - measured_since)))
}

# report_half_a_sentence [WHERE]: what the scene showed, in one line.
report_half_a_sentence() {
    local line="${1:-}B waited ${about[B echo]:-forever}."

    line+=" While A thought, the server used $cpu_share % of a core"
    if ((cpu_wish > cpu_share + 5)); then
        line+=", and would have used $cpu_wish %"
    fi
    measured "$line."
}

judge_no_client_waits() {
    judge "seen[B echo] < seen[A resumes] && seen[C echo] < seen[A resumes]" \
        "B and C should have got their echo while A was thinking"
}

judge_sleeps() {
    judge "cpu_wish < 20" \
        "the server should sleep while nothing happens, but it wanted $cpu_wish % of a core"
}

scene_01() {
    headline "blocking: each call waits until it is done"
    explain "Look at B and C. Nothing is wrong with them, and the server has nothing to do." \
        "But it is blocked in recv(), where it waits for A."
    open_stage 01-blocking -q
    begin_scene "A B C"
    play_half_a_sentence
    end_scene
    report_half_a_sentence
    judge "seen[A resumes] < seen[B echo] && seen[A resumes] < seen[C echo]" \
        "B and C should have had to wait until A sent the rest and left"
    judge_sleeps
    conclude "B and C waited for A"
}

scene_02() {
    headline "nonblocking: ask every socket in turn, and never wait"
    explain "B and C are served at once. Now look at the server: it asks every socket, hundreds" \
        "of thousands of times a second, even when there is nothing to read."
    open_stage 02-nonblocking -q
    begin_scene "A B C"
    play_half_a_sentence
    end_scene
    report_half_a_sentence
    judge_no_client_waits
    judge "cpu_wish > 70" "the server should never have slept, but it wanted only $cpu_wish % of a core"
    conclude "no client waited, but a core was busy"
}

scene_03() {
    headline "select: sleep until a socket is ready"
    explain "Every client is served at once, and the server sleeps in between. It wakes up when" \
        "a socket is ready, and only then."
    open_stage 03-select -q
    begin_scene "A B C"
    play_half_a_sentence
    end_scene
    report_half_a_sentence
    judge_no_client_waits
    judge_sleeps
    conclude "no client waited, and the server slept"
}

# ---- 04: more clients than select can watch ----

scene_04() {
    local crowd=1100 refused=0

    headline "poll: as many descriptors as the process may open"
    if ((descriptors < crowd + 50)); then
        too_few_descriptors $((crowd + 50))
        return
    fi
    explain "The same scene, but 1,100 clients are already connected and silent. select cannot" \
        "watch a descriptor above 1,023. poll can watch any."
    if is_built 03-select; then
        refuse_the_crowd
    fi
    open_stage 04-poll -q
    idle_clients $crowd
    wait_for_accept
    begin_scene "crowd A B C"
    record crowd quiet "1,100 connected clients, all silent"
    play_half_a_sentence
    end_scene
    report_half_a_sentence
    judge_no_client_waits
    judge_sleeps
    conclude "served beside 1,100 others$( ((refused > 0)) && echo "; 03 refused $refused")"
}

# 1,100 clients and then A connect to the server of 03. Its own log says what it did with those that
# select() cannot watch. Sets refused to their number.
refuse_the_crowd() {
    open_stage 03-select
    idle_clients "$crowd"
    client A connect gone say "A closed"
    watch_until "A closed"
    refused=$(($(grep -c "^refusing" "$log") - 1)) # the last was A
    judge "refused > 0" "the server of 03 should have refused the clients that select cannot watch"
    if ((refused > 0)); then
        paragraph "The server of 03 refused the last $refused of them, and then A. Its log:"
        explain "    $(grep "^refusing" "$log" | tail -n 1)"
    fi
    clear_stage
}

# ---- 05: what a message costs beside idle clients ----

declare -A cost=() # CPU time for one message, in microseconds: cost[04-poll 1000]

scene_05() {
    local few=10 many=$((descriptors < 1050 ? descriptors - 50 : 1000))

    headline "epoll: the kernel keeps the list"
    if ((many < 300)); then
        too_few_descriptors 350
        return
    fi
    explain "The scene looks the same. What differs is the cost of a message while many other" \
        "clients are connected and silent: poll looks at all of them each time, epoll at none."
    if measure_costs; then
        draw_costs
        open_stage 05-epoll -q
        idle_clients $many
        wait_for_accept
        begin_scene ""
        play_half_a_sentence
        end_scene
    fi
    report_half_a_sentence "in the same scene, beside $(grouped $many) idle clients, "
    judge_no_client_waits
    judge_sleeps
    judge "cost[05-epoll $many] < 4 * cost[05-epoll $few]" \
        "a message should cost about the same beside $many idle clients as beside $few"
    if is_built 04-poll; then
        judge "cost[04-poll $many] > 2 * cost[05-epoll $many]" \
            "beside $many idle clients a message should cost poll far more than epoll"
    fi
    local poll_too=${cost[04-poll $many]:+", poll ${cost[04-poll $many]} us"}
    conclude "${cost[05-epoll $many]:-?} us per message$poll_too ($(grouped $many) idle)"
}

# The four servers take turns, five times, and the median counts. So any other work of this machine
# affects all of them alike. Server and client share one core, because with two cores each message may
# have to wake a sleeping core, which costs more than what we want to measure.
measure_costs() {
    local -A process=() address=() samples=()
    local stage idle key core price

    core=$(taskset -cp $$ 2>/dev/null) # "pid 123's current affinity list: 0-3", or nothing
    core=${core##*: }
    core=${core%%[-,]*}
    for stage in 04-poll 05-epoll; do
        is_built $stage || continue
        for idle in $few $many; do
            open_stage $stage -q
            idle_clients "$idle"
            wait_for_accept
            [[ -z $complaint ]] || return 1
            process[$stage $idle]=$server
            address[$stage $idle]=$port
            ${core:+taskset -cp "$core" "$server"} >"$scratch/taskset"
        done
    done
    for _ in 1 2 3 4 5; do
        for key in "${!process[@]}"; do
            find_price "${process[$key]}" "${address[$key]}" || return
            samples[$key]+="$price "
        done
    done
    clear_stage
    for key in "${!process[@]}"; do
        cost[$key]=$(tr ' ' '\n' <<<"${samples[$key]}" | grep . | sort -n | sed -n 3p)
    done
}

# find_price PROCESS PORT: sets price to the CPU time of that server per message, in microseconds.
find_price() {
    local messages=400 before

    look_at_cpu "$1"
    before=$cpu_had
    if ! ${core:+taskset -c "$core"} build/peer -t 20 "$2" connect roundtrips $messages 64 close \
        2>"$scratch/error"; then
        complaint=$(<"$scratch/error")
        return 1
    fi
    look_at_cpu "$1"
    price=$(((cpu_had - before) / messages / 1000))
}

draw_costs() {
    local stage idle price most=1

    for price in "${cost[@]}"; do
        most=$((price > most ? price : most))
    done
    echo "  CPU time that one message costs the server"
    for stage in 04-poll 05-epoll; do
        for idle in $few $many; do
            price=${cost[$stage $idle]:-}
            [[ -n $price ]] || continue
            printf '  %-5s beside %5s idle  %s %d us\n' "${stage#*-}" "$(grouped "$idle")" \
                "$(bar $((1 + price * 40 / most)))" "$price"
        done
    done
}

# ---- 06: a client that goes quiet ----

scene_06() {
    headline "timeouts: a client that goes quiet is closed in time"
    explain "This server closes a client that makes no progress for a second (-i 1). B sends one" \
        "message and goes quiet. A sends a word now and then, and stays connected."
    open_stage 06-timeouts -q -i 1
    begin_scene "A B"
    prompted_client A connect
    play_word_and_pause
    begin_measuring_cpu
    client B connect say "B says" mark send "Hello" expect "Hello" elapsed say "B echo" \
        mark eof elapsed say "B closed"
    watch_until "B echo"
    record B quiet "silent"
    while [[ -z ${seen[B closed]:-} && -z $complaint ]]; do
        play_word_and_pause
    done
    play_word_and_pause
    end_measuring_cpu
    end_scene
    measured "B was closed after ${about[B closed]:-?} of silence." \
        "The server used $cpu_share % of a core."
    judge "seen[B closed] - seen[B echo] > 900000 && seen[B closed] - seen[B echo] < 3000000" \
        "B should have been closed after a second of silence"
    judge_sleeps
    conclude "a silent client was closed after ${about[B closed]:-?}"
}

play_word_and_pause() {
    unset 'seen[A echo]'
    tell say '"A says"' send '"word "' expect '"word "' say '"A echo"'
    watch_until "A echo"
    watch_for 150
}
