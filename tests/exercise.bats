#!/usr/bin/env bats
# What make start, make check, make hint and make lesson do for a learner. Where only the words of check
# matter, a file with results stands in for bats.

cd "$BATS_TEST_DIRNAME/.." || exit

load lib/learner

# refuses NAME=VALUE TEXT: the program cannot be run, and one message says so before any step.
refuses() {
    learn check STAGE=01 "$1"
    ((status != 0)) || return 1
    says "$2"
    ((${#lines[@]} <= 4)) || return 1 # the ladder, two lines, and that of make
    [[ $output != *✗* && $output != *✓* ]]
}

@test "exercise.1 An empty mine/ says what to type" {
    learn check
    ((status != 0))
    says "make start STAGE=01"
    learn hint
    says "make check"
    [[ $output != *"line "[0-9]* ]] # no complaint of bash
    learn start STAGE=02
    says "make start STAGE=01"
    says "make start STAGE=02 FROM=reference"
    learn lesson
    says "make lesson STAGE=03"
}

@test "exercise.2 start carries a learner's file from stage to stage, and never overwrites one" {
    learn start STAGE=01
    ((status == 0))
    [[ ${lines[-1]} == "    make check" ]]
    echo "/* mine */" >>"$mine/01-blocking/server.c"
    learn start STAGE=01
    says "stays as it is"
    learn start STAGE=02
    cmp "$mine/01-blocking/server.c" "$mine/02-nonblocking/server.c"
    learn start STAGE=02 FROM=reference
    says "stays as it is"
    cmp "$mine/01-blocking/server.c" "$mine/02-nonblocking/server.c"
    learn start STAGE=04 FROM=reference
    cmp 03-select/server.c "$mine/04-poll/server.c"
    learn start STAGE=01 WHAT=client
    cmp tests/exercise/starter-client.c "$mine/01-blocking/client.c"
}

@test "exercise.3 The starters compile without a warning, and the server's fails the first step" {
    local file
    for file in tests/exercise/*.c; do
        "${CC:-cc}" -std=c11 -Wall -Wextra -Wpedantic -Werror "$file" -o "$BATS_TEST_TMPDIR/program"
    done
    learn start STAGE=01
    learn check
    ((status != 0))
    says "✗ 01.1 "
    says "exited with status 0 before it printed its first line"
    says "0 of "
    says "Next: 01.1"
    [[ $output != *warning* ]]
    nothing_left
}

@test "exercise.4 What does not compile says so after the compiler" {
    learn start STAGE=01
    echo "int main(void) { return x; }" >"$mine/01-blocking/server.c"
    learn check
    ((status != 0))
    says "error: "
    says "server.c does not compile. Begin with the first error above."
    [[ $output != *✗* ]]
}

@test "exercise.5 check stops at the first failure, and counts" {
    local passed
    learn start STAGE=02 FROM=reference
    # This server returns 0x00 for each 0xff.
    sed -i 's/^    memcpy(c->queue, buffer, .*/&\n    for (char *b = c->queue; b < c->queue + received; b++)\n        *b = *b == -1 ? 0 : *b;/' \
        "$mine/02-nonblocking/server.c"
    mkdir -p "$mine/01-blocking"
    cp "$mine/02-nonblocking/server.c" "$mine/01-blocking/server.c"
    learn check STAGE=01
    ((status != 0))
    [[ $(grep -c '^✗' <<<"$output") == 1 ]]
    passed=$(grep -c '^✓' <<<"$output")
    ((passed > 0))
    says "$passed of "
    says "Next: $(sed -n 's/^✗ \([^ ]*\) .*/\1/p' <<<"$output")"
    learn check STAGE=01 STEP=01.1
    ((status == 0))
    says "✓ 01.1 "
    learn check STAGE=01 STEP=01.99
    ((status != 0))
    says "There is no step 01.99."
    nothing_left
}

@test "exercise.6 Steps of an earlier stage come first, and are shown only if one fails" {
    learn start STAGE=01
    learn start STAGE=02
    learn check
    ((status != 0))
    says "steps of 01 … 01.1 fails"
    [[ $(grep -c '^✗' <<<"$output") == 1 ]]
    says "A server of 02 must pass the earlier steps, too; its own were not tried. Next: 01.1"
}

@test "exercise.7 A stage that passes says what it proved, and what comes next" {
    played 03 1..2 "ok 1 03.1 One" "ok 2 03.2 Two # skip no IPv6"
    learn start STAGE=03 FROM=reference
    learn start STAGE=03 WHAT=client FROM=reference
    echo "03 0/7" >>"$mine/.progress"
    learn check
    ((status == 0))
    says "03 ▶ 0/7"
    says "4 steps of 01 and 02 … ok"
    says "4 client steps of 01 and 02 … ok"
    says "✓ 03.1 One"
    says "- 03.2 Two (skipped: no IPv6)"
    says "✓ 03.40 It connects"
    says "2 of 3 steps pass, and 1 cannot be run here."
    says "Stage 03 is proved: "
    says "01 ·  02 ·  03 ✓  04 ·"
    says "make lesson"
    says "make start STAGE=04"
    learn lesson
    says "diff -u $mine/03-select/server.c 03-select/server.c"
    says "+++ 03-select/server.c"
}

@test "exercise.8 KEEP_GOING=1 shows all failures, and hints come one at a time" {
    local course=$BATS_TEST_TMPDIR/course
    played 01 1..3 "not ok 1 01.1 One" "# (in test file x, line 1)" "#     expected  a line" \
        "not ok 2 01.2 Two" "# bash says something" "ok 3 01.3 Three"
    learn start STAGE=01
    learn check KEEP_GOING=1
    ((status != 0))
    [[ $(grep -c '^✗' <<<"$output") == 2 ]]
    says "✗ 01.1 One"$'\n'"    expected  a line"
    says "bash says something"
    says "1 of 3 steps pass. Next: 01.1"
    grep -x "failed 01.1" "$mine/.progress"

    mkdir -p "$course/tests" "$course/01-blocking"
    cp -r Makefile "$course/"
    cp -r tests/exercise "$course/tests/"
    cat >"$course/01-blocking/STEPS.md" <<'END'
### 01.1 One
**Do** something.
<details><summary>Hint 1</summary>What is `first`?</details>
<details>
<summary>Hint 2</summary>

    int second;

</details>
### 01.10 Ten
<details><summary>Hint 1</summary>What is tenth?</details>
END
    learn -C "$course" hint
    says "Hint 1 of 2: What is \`first\`?"
    [[ $output != *second* ]]
    learn -C "$course" hint
    says "int second;"
    [[ $output != *tenth* ]]
    learn -C "$course" hint
    says "You have seen all of its 2 hints."
    says "01-blocking/STEPS.md, step 01.1"
}

@test "exercise.9 A .progress that makes no sense breaks nothing" {
    played 01 1..1 "ok 1 01.1 One"
    learn start STAGE=01
    printf '%s\n' 'started 99' '01 many/27' '07 passed' 'hints' 'failed ;' '' '#' $'\xff' >"$mine/.progress"
    learn check
    ((status == 0))
    says "It passes."
    rm "$mine/.progress"
    learn check
    ((status == 0))
}

@test "exercise.10 A SERVER that cannot be run is refused in one message" {
    local program=$BATS_TEST_TMPDIR/server
    refuses SERVER="$program" "there is no such file"
    refuses SERVER=no-such-server "there is no such program"
    refuses SERVER="$BATS_TEST_TMPDIR" "is a directory"
    refuses SERVER="python3 no-such-file.py" "there is no file no-such-file.py"
    touch "$program" "$program.py"
    refuses SERVER="$program" "chmod +x $program"
    refuses SERVER="$program.py" "SERVER=\"python3 $program.py\""
    chmod +x "$program"
    touch -d '1 minute' "$program.c"
    refuses SERVER="$program" "is older than $program.c: build it again"
    refuses PROGRAM=none "there are no steps named none.1"
}

@test "exercise.11 A server that starts wrongly is told how, and none is left behind" {
    settings+=(SLOW=0.3)
    learn test STAGE=01 SERVER=/bin/cat
    ((status != 0))
    says "exited with status 1 before it printed its first line"
    says "Next: 01.1"

    # It ignores its port, and its child ignores SIGTERM, in a session of its own.
    server 'echo "starting up on 127.0.0.1 port 10000"' "trap '' TERM" \
        'setsid sleep 300 & sleep 300'
    learn test STAGE=01 SERVER="$BATS_TEST_TMPDIR/server"
    says "the first line names port 10000"
    nothing_left

    server 'read -r first last </proc/sys/net/ipv4/ip_local_port_range' \
        'echo "starting up on 127.0.0.9 port $last"' 'sleep 300'
    learn test STAGE=01 SERVER="$BATS_TEST_TMPDIR/server"
    says "prints its first line before listen() has succeeded"

    learn test STAGE=01 SERVER=yes # prints without end, and never starts up
    says "✗ 01.1 "
    nothing_left
}

@test "exercise.12 break lists the mistakes by symptom, and shows one live" {
    learn break STAGE=01
    ((status == 0))
    says $'The program is gone without a word\n'
    says "  01  no-sigpipe-guard  "
    [[ $output != *"  02  "* ]]
    says "make break ID="
    learn break
    says "  06  realtime-clock  "

    learn break ID=no-sigpipe-gaurd
    ((status != 0))
    says "There is no mistake \"no-sigpipe-gaurd\". Similar ones: "
    says " no-sigpipe-guard"
    ((${#lines[@]} == 2)) || return 1 # and one line of make

    learn break ID=no-sigpipe-guard
    ((status == 0))
    says "In production   one client"
    says "✗ 01.23 "
    says "got       the server was killed by SIGPIPE"
    says $'\n-    ssize_t sent = send(c->fd, rest, c->queue_length - c->queue_sent, 0);'
    says "    build/mistakes/no-sigpipe-guard/server "
    [[ -x build/mistakes/no-sigpipe-guard/server ]]
    nothing_left
}
