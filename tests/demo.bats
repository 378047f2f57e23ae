#!/usr/bin/env bats
# What make bytes shows, and that pictures which a walkthrough quotes stay true.

cd "$BATS_TEST_DIRNAME/.." || exit

load lib/learner

# setup_file: draws the bytes of these stages once, side by side. (The later ones sleep like 03.)
setup_file() {
    local number

    env -i PATH="$PATH" HOME="${HOME-/}" make --silent --no-print-directory build/peer \
        build/0{1-blocking,2-nonblocking,3-select}/server
    for number in 01 02 03; do
        env -u SERVER LANG=C.UTF-8 tests/demo/bytes $number >"$BATS_FILE_TMPDIR/$number" 2>&1 3>&- </dev/null &
    done
    wait
}

# frames FILE: a line for each frame: what A has sent and read; what is in A's send buffer, the server's receive
# buffer, its own queue, its send buffer and A's receive buffer (all in KiB); and what A and the server do.
frames() {
    awk '
        function number(text) {
            gsub(/,/, "", text)
            return text
        }
        /KiB, read/  { split($0, part, / \(sent | KiB, read | KiB\)/); frame = number(part[2]) " " number(part[3]) }
        /KiB, read/  { client = substr(part[1], 11) }
        / KiB$/      { frame = frame " " number($(NF - 1)) }
        /^  server / { server = substr($0, 11) }
        /^  KiB /    { print frame " " client ", " server }' "$1"
}

# adds_up LIMIT FILE: in each frame the five places hold what was sent and not read, and the server's own queue has
# at most LIMIT KiB. (Each number of the picture is rounded up.)
adds_up() {
    frames "$2" | tee -a /dev/stderr | awk -v limit="$1" '
        {
            rest = $3 + $4 + $5 + $6 + $7 - ($1 - $2)
            if (NF < 8 || rest < 0 - 1 || rest > 6 || $5 < 0 || $5 > limit)
                bad = 1
        }
        END { exit bad || NR < 5 || NR > 12 }'
}

@test "bytes.1 In each frame the places hold what A has sent and not read, the server's own queue 64 KiB at most" {
    local number
    for number in 01 02 03; do
        cat "$BATS_FILE_TMPDIR/$number"
        adds_up 64 "$BATS_FILE_TMPDIR/$number"
        grep -qE '^  sent ([0-9,]+), echoed \1 bytes$' "$BATS_FILE_TMPDIR/$number"
    done
}

@test "bytes.2 When A cannot send more, 02 runs and the others sleep, each in its own call" {
    local number call calls=([1]=send [3]=select)
    for number in 1 2 3; do
        call="asleep in ${calls[number]-}"
        [[ -r /proc/self/syscall ]] || call=asleep
        [[ $number != 2 ]] || call=running
        frames "$BATS_FILE_TMPDIR/0$number" | tee -a /dev/stderr | grep -q "cannot send more, .* $call"
    done
}

@test "bytes.3 Into a pipe it prints lines of 80 columns at most, without control characters" {
    cat "$BATS_FILE_TMPDIR/03"
    [[ $(<"$BATS_FILE_TMPDIR/03") != *$'\e'* ]]
    ! sed 's/■\|►\|◄\|░\|▄\|█\|·/x/g' "$BATS_FILE_TMPDIR"/0* | LC_ALL=C grep -E '.{81}'
}

@test "bytes.4 A queue without a bound is seen to grow, and A stops at 64 MiB" {
    command -v patch || skip "patch is not installed"
    cp 02-nonblocking/server.c "$BATS_TEST_TMPDIR"
    patch "$BATS_TEST_TMPDIR/server.c" tests/mistakes/02-nonblocking/unbounded-queue.patch
    "${CC:-cc}" -O2 -w "$BATS_TEST_TMPDIR/server.c" -o "$BATS_TEST_TMPDIR/server"
    learn bytes SERVER="$BATS_TEST_TMPDIR/server"
    ((status == 0))
    printf '%s\n' "${lines[@]}" >"$BATS_TEST_TMPDIR/drawn"
    adds_up 65536 "$BATS_TEST_TMPDIR/drawn"
    frames "$BATS_TEST_TMPDIR/drawn" |
        awk '/sends/ && $5 > last { last = $5; grew++ } END { exit grew < 3 || last < 16384 }'
    says "> stops sending (sent 65,536 KiB, read 0 KiB)"
    says "and seems to have no bound"
    nothing_left
}

@test "bytes.5 A wrapper in a language of its own is shown like its server" {
    server "'$PWD/build/06-timeouts/server' \"\$@\"" "exit"
    learn bytes SERVER="$BATS_TEST_TMPDIR/server"
    ((status == 0))
    says "  server  . asleep in epoll_wait"
    nothing_left
}

@test "bytes.6 Ctrl-C ends the server and the client, too" {
    local pid
    set -m # a group of its own, as from a terminal
    MARKER="$marker" TMPDIR="$BATS_TEST_TMPDIR" env --default-signal=INT tests/demo/bytes 03 >"$BATS_TEST_TMPDIR/drawn" 2>&1 3>&- </dev/null &
    pid=$!
    set +m
    until grep -q "sends and" "$BATS_TEST_TMPDIR/drawn"; do
        kill -0 $pid
    done
    [[ $(MARKER='' grep -lsz "^MARKER=$marker\$" /proc/[0-9]*/environ | wc -l) -ge 3 ]] # it, its server and its client
    kill -INT -- -$pid
    wait $pid || status=$?
    cat "$BATS_TEST_TMPDIR/drawn"
    ((status == 130))
    nothing_left
    [[ -z $(find "$BATS_TEST_TMPDIR" -name 'tmp.*') ]]
}

# refuses TEXT NAME=VALUE: one line says why nothing is shown.
refuses() {
    learn bytes "${@:2}"
    ((status != 0))
    says "$1"
    ((${#lines[@]} <= 2)) # the second is that of make
}

@test "bytes.7 What cannot be shown has one line that says why" {
    refuses "which server? make bytes STAGE=03"
    refuses "there is no stage 07" STAGE=07
    refuses "there is no such file" SERVER=./no-such-server
    refuses "03-select/server.c is source code. Build it" SERVER=03-select/server.c
    refuses "tests/README.md is not executable" SERVER=tests/README.md
    server "echo no port is free" "exit 3"
    refuses "the server exited with status 3 at once. It printed: no port is free" SERVER="$BATS_TEST_TMPDIR/server"
    server "exec '$PWD/build/03-select/chat' 0"
    refuses "A did not get its echo" SERVER="$BATS_TEST_TMPDIR/server"
    nothing_left
}

@test "bytes.8 A picture in a walkthrough must have the shape of a frame that make bytes draws" {
    local picture
    picture=$(sed -n '/cannot send/,/^  KiB/p' "$BATS_FILE_TMPDIR/03")
    {
        printf '```bytes STAGE=03\n%s\n```\n' "$picture"
        # Other numbers and longer bars:
        printf '```bytes STAGE=03\n%s\n```\n' "$picture" | sed 's/■ [0-9,]* KiB/■■■ 7 KiB/'
        # But not another call, an empty queue, or no stage:
        printf '```bytes STAGE=03\n%s\n```\n' "$picture" | sed 's/in select/in poll/'
        printf '```bytes STAGE=03\n%s\n```\n' "$picture" | sed 's/\(own queue *\).*/\10 KiB/'
        printf '```bytes\n%s\n```\n' "$picture"
    } >"$BATS_TEST_TMPDIR/page"
    cat "$BATS_TEST_TMPDIR/page"
    DRAWN=$BATS_FILE_TMPDIR run tests/lib/pictures "$BATS_TEST_TMPDIR/page"
    echo "$output"
    ((status == 1))
    [[ $(grep -o '^/.*line [0-9]*: [a-z ]*' <<<"$output" | sed 's/.*line//') == \
        $' 21: make bytes \n 31: make bytes \n 41: this block names no stage' ]]
}

@test "bytes.9 Every picture of the bytes in a walkthrough is one that make bytes draws" {
    local page
    for page in [0-9][0-9]-*/*.md; do
        DRAWN=$BATS_FILE_TMPDIR tests/lib/pictures "$page"
    done
}
