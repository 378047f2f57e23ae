#!/usr/bin/env bats
# The walkthroughs cannot go stale: their sessions are run and compared, their excerpts are looked up in
# the programs, and their steps are compared with the tests. The tests are compared with the mistakes.

cd "$BATS_TEST_DIRNAME/.." || exit

# each_walkthrough COMMAND...: runs it on every NN-stage/README.md at the same time; fails if one fails.
each_walkthrough() {
    local stage pid status=0 pids=()
    for stage in [0-9][0-9]-*; do
        "$@" "$stage/README.md" >"$BATS_TEST_TMPDIR/$stage" 2>&1 &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do
        wait "$pid" || status=1
    done
    cat "$BATS_TEST_TMPDIR"/[0-9][0-9]-*
    return $status
}

# same_steps README: the headings "### 03.4 ..." of STEPS.md, and the headings and rows of companions in
# README.md ("### chat.2 ...", "| edge.2 | ... |"), are the titles of the tests, in their order.
same_steps() {
    local stage=${1%/README.md} name='([0-9]{2}|[a-z-]+)\.[0-9]+'
    diff --label "the pages of $stage" --label "tests of tests/$stage.bats" --unified=0 \
        <(sed -nE "s/^### ($name .*)/\1/p; s/^\| ($name) \| (.*) \|\$/\1 \3/p" "$stage/STEPS.md" "$1") \
        <(sed -n 's/^@test "\(.*\)" {$/\1/p' "tests/$stage.bats")
}

same_chapters() {
    diff --label "chapters of every walkthrough" --label "chapters of $1" --unified=0 - <(sed -n 's/^## //p' "$1" | grep -v '\.c: ') <<'END'
The idea
New calls
Run it
Read it
Steps
Mistakes
Still wrong
END
}

@test "docs.1 Every transcript in a walkthrough happens just so" {
    local limit
    limit=$(ulimit -Hn)
    [[ $limit == unlimited ]] || ((limit >= 2000)) ||
        skip "the sessions of 03 need 2,000 descriptors, and \"ulimit -Hn\" allows $limit"
    each_walkthrough tests/lib/transcripts
}

@test "docs.2 Every excerpt in a walkthrough stands in its program, word for word" {
    each_walkthrough tests/lib/excerpts
}

@test "docs.3 Every step of a walkthrough is a test, and every test a step" {
    each_walkthrough same_steps
}

@test "docs.4 Every walkthrough has the same chapters, in the same order" {
    each_walkthrough same_chapters
}

@test "docs.5 Every step has a mistake, and the catalogue of mistakes is complete" {
    tests/mistakes/check
}
