#!/usr/bin/env bats
# What make grade does for a teacher. Where only its arithmetic and its files matter, a file with results
# stands in for bats.

cd "$BATS_TEST_DIRNAME/.." || exit

load lib/learner

# grade [NAME=VALUE]...: make grade, with results of its own
grade() {
    results=$BATS_TEST_TMPDIR/results
    learn grade RESULTS="$results" "$@"
}

# tried PATTERN: only the steps whose titles match are run.
tried() {
    local directory=$BATS_TEST_TMPDIR/bin
    mkdir -p "$directory"
    printf '%s\n' '#!/usr/bin/env bash' "exec '$BATS_ROOT/bin/bats' --filter '$1' \"\$@\"" >"$directory/bats"
    chmod +x "$directory/bats"
    settings=(PATH="$directory:$PATH")
}

# holds_steps NUMBER [DIRECTORY]: both files are well-formed, and have that many steps
holds_steps() {
    local directory=${2:-$results} count

    if command -v xmllint >/dev/null; then
        count=$(xmllint --xpath 'count(//testcase)' "$directory/junit.xml")
    elif command -v python3 >/dev/null; then
        count=$(python3 -c 'import sys, xml.etree.ElementTree as tree
print(len(tree.parse(sys.argv[1]).findall(".//testcase")))' "$directory/junit.xml")
    else
        skip "neither xmllint nor python3 is installed"
    fi
    echo "junit.xml has $count steps"
    [[ $count == "$1" ]] || return 1
    if command -v jq >/dev/null; then
        count=$(jq '.tests | length' "$directory/grade.json")
    elif command -v python3 >/dev/null; then
        count=$(python3 -c 'import sys, json
print(len(json.load(open(sys.argv[1], encoding="utf-8"))["tests"]))' "$directory/grade.json")
    else
        skip "neither jq nor python3 is installed"
    fi
    echo "grade.json has $count steps"
    [[ $count == "$1" ]]
}

# results_are RESULT NUMBER: that many steps have this result
results_are() {
    [[ $(grep -c "\"result\": \"$1\"" "$results/grade.json") == "$2" ]]
}

@test "grade.1 Our server gets all points, from its source or as a program" {
    tried '^01\.([1-9]|10) '
    settings+=(SLOW=3)
    grade STAGE=01 SERVER=01-blocking/server.c
    ((status == 0))
    says "score      10 of 10"
    holds_steps 10
    results_are passed 10

    tried '^01\.[12] '
    learn build/01-blocking/server
    grade STAGE=01 SERVER=build/01-blocking/server
    says "score       2 of 2"
    nothing_left
}

@test "grade.2 Without SERVER what is in mine/ is graded, and the learner's progress stays" {
    tried '^01\.(1|20|40) '
    learn start STAGE=01
    learn start STAGE=01 WHAT=client
    cp 01-blocking/*.c "$mine/01-blocking/"
    cp "$mine/.progress" "$BATS_TEST_TMPDIR/progress"
    grade
    ((status == 0))
    says "Core        1 of 1"
    says "Hardening   1 of 1"
    says "Client      1 of 1"
    says "score       3 of 3"
    cmp "$mine/.progress" "$BATS_TEST_TMPDIR/progress"
    [[ ! -e $mine/01-blocking/server ]]
}

@test "grade.3 The score counts the steps of the stage by group, and no skipped or inherited ones" {
    played 03 1..5 "ok 1 03.1 One in 5ms" "not ok 2 03.2 Two in 7ms" "# (in test file x, line 1)" \
        "#     expected  a line" "#     got       nothing" "ok 3 03.20 Three # skip no IPv6" \
        "ok 4 03.21 Four" "not ok 5 03.22 Five"
    grade STAGE=03 SERVER=/bin/cat
    ((status == 0))
    says "Core        1 of 2"
    says "Hardening   1 of 2, 1 skipped"
    says "Inherited   2 of 2 (not in the score)"
    says "03.2 Two"$'\n'"03.22 Five"$'\n'"score       2 of 4"
    holds_steps 7
    results_are skipped 1
    grep -F '{"name": "03.2 Two", "score": 0, "max_score": 1, "status": "failed", "output": "    expected  a line\n    got       nothing\n"' \
        "$results/grade.json"
    grep -F '"output": "no IPv6"' "$results/grade.json"
    grep -F '<failure message="nothing">    expected  a line' "$results/junit.xml"
    [[ $(grep -c '"max_score": 0, "status": "passed"' "$results/grade.json") == 2 ]]
}

@test "grade.4 Whatever a submission prints, both files are well-formed" {
    local bytes=$'\x01\x1b[31m\x7f\x80\xff ]]></failure> <x y="&amp;"> \\x \\" \xed\xa0\x80 \xef\xbf\xbf \xc0\x80 \xc2\x9b \xe2\x82'
    played 01 1..2 "not ok 1 01.1 One" "#     expected  a line" "#     got       $bytes" "# ä€😀 $bytes"$'\t' \
        "# $(printf '%100000s' '')" "ok 2 01.2 Two # skip $bytes"
    grade STAGE=01 SERVER=/bin/cat
    ((status == 0))
    holds_steps 2
    grep -F '\\x01\\x1b[31m\\x7f\\x80\\xff ]]></failure>' "$results/grade.json"
    grep -F 'ä€😀' "$results/grade.json"
    [[ $(LC_ALL=C tr -d '\t\n -~\200-\377' <"$results/junit.xml" | wc -c) == 0 ]]
    (($(wc -c <"$results/junit.xml") < 10000))
}

@test "grade.5 A source that does not compile gets no points, and shows what the compiler says" {
    local most
    tried '^01\.(9|10) '
    printf '%s\n' 'int main(void) { return first; }' $'/* \xff */ ]]> \x1b' >"$BATS_TEST_TMPDIR/server.c"
    grade STAGE=01 SERVER="$BATS_TEST_TMPDIR/server.c" METHOD=no
    ((status == 0))
    says "error: "
    says "because the submission does not compile"
    [[ $output =~ score\ +0\ of\ ([0-9]+) ]]
    most=${BASH_REMATCH[1]}
    holds_steps "$most"
    results_are "not run" "$most"
    grep -F '"output": "' "$results/grade.json" | head -n 1 | grep "error: "
    grade STAGE=01 SERVER="$BATS_TEST_TMPDIR/server.c"
    [[ $output =~ score\ +0\ of\ ([0-9]+) ]]
    ((BASH_REMATCH[1] > most))
}

# refuses NAME=VALUE... TEXT: there is no grade, and not that of an earlier submission
refuses() {
    mkdir -p "$BATS_TEST_TMPDIR/results"
    touch "$BATS_TEST_TMPDIR/results/grade.json"
    grade "${@:1:$#-1}"
    ((status != 0)) && says "${*: -1}" && ((${#lines[@]} <= 3)) && [[ $output != *score* ]]
}

@test "grade.6 What cannot be graded is no grade of 0" {
    refuses STAGE=01 SERVER="$BATS_TEST_TMPDIR/none" "there is no such file"
    [[ ! -e $results/grade.json ]]
    refuses STAGE=01 SERVER="$BATS_TEST_TMPDIR/none.c" "there is no such file"
    refuses STAGE=01 SERVER="$BATS_TEST_TMPDIR" "is a directory"
    refuses SERVER=/bin/cat "Which stage is it? make grade STAGE=01"
    refuses STAGE=07 SERVER=/bin/cat "there is no stage 07"
    refuses STAGE=02 "There is no $mine/02-nonblocking/server.c yet"
    refuses STAGE=01 SERVER=/bin/cat LIMIT=soon "LIMIT=soon: give a number of seconds"
    : >"$BATS_TEST_TMPDIR/file"
    learn grade STAGE=01 SERVER=/bin/cat RESULTS="$BATS_TEST_TMPDIR/file"
    ((status != 0))
    says "the results cannot be written there"

    # bats is there, and cannot run a step.
    played 01 1..2 "not ok 1 setup_file failed" "# no compiler"
    grade STAGE=01 SERVER=/bin/cat
    ((status != 0))
    says "could not be run"
    says "no compiler"
}

@test "grade.7 When its time is over, the steps that are left are not run, and have no points" {
    local most skipped
    # It prints nothing, and ignores what it can. The first step fails after 5 s, and 29 steps take 45 s or more.
    server 'trap "" TERM INT HUP' 'while :; do sleep 300; done'
    grade STAGE=01 SERVER="$BATS_TEST_TMPDIR/server" LIMIT=15
    ((status == 0))
    says "01.1 "
    says "because the grading was ended after 15 s"
    [[ $output =~ score\ +0\ of\ ([0-9]+) ]]
    most=${BASH_REMATCH[1]}
    ((most > 20))
    # A step that does not apply may be skipped before the time is over.
    skipped=$(grep -c '"result": "skipped"' "$results/grade.json") || :
    holds_steps $((most + skipped))
    (($(grep -c '"result": "failed"' "$results/grade.json") > 0))
    (($(grep -c '"result": "not run"' "$results/grade.json") > 0))
    nothing_left
}

@test "grade.8 No process of a submission is left, and no log fills the disk" {
    tried '^01\.[12] '
    settings+=(SLOW=0.3)
    server 'echo "starting up on 127.0.0.1 port 45555"' \
        '(setsid bash -c "trap \"\" TERM; cd /; exec >/dev/null 2>&1; sleep 300; :" &)'
    grade STAGE=01 SERVER="$BATS_TEST_TMPDIR/server"
    says "score       0 of 2"
    nothing_left

    # It ends the process that plays the test, and bats.
    server 'read -r _ _ _ above _ </proc/$PPID/stat' 'kill -KILL $PPID $above'
    grade STAGE=01 SERVER="$BATS_TEST_TMPDIR/server"
    ((status == 0))
    says "score       0 of 2"
    holds_steps 2
    nothing_left

    # It notes how much is there of the steps before, and adds 50 MiB.
    server "du -sm \$TMPDIR >>'$BATS_TEST_TMPDIR/sizes'" 'yes x | head -c 50M' \
        "echo; echo \$']]>\\x1b\\xff'"
    grade STAGE=01 SERVER="$BATS_TEST_TMPDIR/server"
    says "score       0 of 2"
    holds_steps 2
    cat "$BATS_TEST_TMPDIR/sizes"
    [[ $(grep -c '' "$BATS_TEST_TMPDIR/sizes") == 2 ]]
    (($(sort -n "$BATS_TEST_TMPDIR/sizes" | tail -n 1 | cut -f 1) < 20))
}

@test "grade.9 Two submissions can be graded at the same time" {
    local results=$BATS_TEST_TMPDIR
    tried '^01\.[12] '
    run env -i HOME="${HOME-/}" MARKER="$marker" "${settings[@]}" bash -c '
        for name in server client; do
            make grade STAGE=01 SERVER="01-blocking/$name.c" RESULTS="$1/$name" &
        done
        wait' grade "$results" 3>&-
    echo "$output"
    says "score       2 of 2"
    says "score       0 of 2"
    holds_steps 2 "$results/server"
    grep '"score": 2,' "$results/server/grade.json"
    holds_steps 2 "$results/client"
    grep '"score": 0,' "$results/client/grade.json"
}
