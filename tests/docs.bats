#!/usr/bin/env bats
# The walkthroughs cannot go stale: their excerpts are looked up in the programs, their steps are compared with the
# tests, and the tests with the mistakes. docs-sessions.bats runs their sessions.

cd "$BATS_TEST_DIRNAME/.." || exit
. tests/lib/shared.bash

# same_steps STAGE: the headings "### 03.4 ..." of STEPS.md, and the rows "| chat.2 | ..." of the companions' pages,
# are the titles of the tests, in their order.
same_steps() {
    local name='([0-9]{2}|[a-z-]+)\.[0-9]+'
    diff --label "the pages of $1" --label "tests of tests/$1.bats" --unified=0 \
        <(sed -nE "s/^### ($name .*)/\1/p; s/^\| ($name) \| (.*) \|\$/\1 \3/p" "$1"/*.md | sort -V) \
        <(sed -n 's/^@test "\(.*\)" {$/\1/p' "tests/$1.bats" | sort -V) &&
        diff --label "the order of $1/STEPS.md" --label "tests of tests/$1.bats" --unified=0 \
            <(sed -nE 's/^### ([0-9]{2}\.[0-9]+ .*)/\1/p' "$1/STEPS.md") \
            <(sed -nE 's/^@test "([0-9]{2}\..*)" \{$/\1/p' "tests/$1.bats")
}

# same_chapters STAGE: its walkthrough has these. 01 has a glossary as well.
same_chapters() {
    diff --label "chapters of every walkthrough" --label "chapters of $1/README.md" --unified=0 \
        - <(sed -n 's/^## //p' "$1/README.md" | grep -vx Glossary) <<'END'
The problem
The idea
Run it
Read it
Mistakes
Still wrong
Reference
Next to it
Challenges
END
}

# same_mistakes STAGE: the rows "| what you see | why | 01.23 | `no-sigpipe-guard` |" name mistakes of
# tests/mistakes, and the steps that catch them. There are at least five.
same_mistakes() {
    local step id rows=0 status=0
    while IFS='|' read -r _ _ _ step id _; do
        step=${step// /} id=${id//[ \`]/}
        rows=$((rows + 1))
        grep -qx "Caught by: $step" tests/mistakes/*/"$id.patch" || {
            echo "$1/README.md: no patch \"$id\" in tests/mistakes is caught by step \"$step\""
            status=1
        }
    done < <(sed -n '/^## Mistakes/,/^## /{/^|/p}' "$1/README.md" | tail -n +3)
    ((rows >= 5)) || { echo "$1/README.md: the table of mistakes has $rows rows" && status=1; }
    return $status
}

# each_stage COMMAND...: runs it on every stage; fails if one fails.
each_stage() {
    local stage status=0
    for stage in [0-9][0-9]-*; do
        "$@" "$stage" || status=1
    done
    return $status
}

@test "docs.2 Every excerpt in a walkthrough stands in its program, word for word" {
    local page status=0
    for page in [0-9][0-9]-*/*.md; do
        [[ $page == */STEPS.md ]] || tests/lib/excerpts "$page" || status=1
    done
    return $status
}

@test "docs.3 Every step of a walkthrough is a test, and every test a step" {
    each_stage same_steps
}

@test "docs.4 Every walkthrough has the same chapters, in the same order" {
    each_stage same_chapters
}

@test "docs.5 Every step has a mistake, and the catalogue of mistakes is complete" {
    tests/mistakes/check
}

@test "docs.6 Each mistake in a walkthrough is one of tests/mistakes, with the step that catches it" {
    each_stage same_mistakes
}

@test "docs.7 No page is too long, too wide, or says what the list of words advises against" {
    tests/lib/prose README.md tests/README.md [0-9][0-9]-*/*.md
}

# The pages that a link can lead to, and their headings, as GitHub names them.
@test "docs.8 Every link leads to a page, a heading or a program that exists" {
    tests/lib/links README.md tests/README.md [0-9][0-9]-*/*.md
}

@test "docs.9 The pages name no command that make does not have, and the first page all that a learner needs" {
    local help command
    help=$(env -u STAGE MAKEFLAGS='' make --no-print-directory help) # make test sets both
    # A target of make is the first word after "make" that stands in code.
    for command in $(sed -nE 's/^( {4}|.*`)make ([a-z]+).*/\2/p' README.md tests/README.md [0-9][0-9]-*/*.md | sort -u); do
        [[ $command == help ]] || grep -q "^  make $command\b" <<<"$help" || { echo "make help does not know make $command" && return 1; }
    done
    for command in $(sed -n '/^To learn/,/^$/s/^  make \([a-z]*\).*/\1/p' <<<"$help"); do
        grep -q "make $command\b" README.md || { echo "README.md does not name make $command" && return 1; }
    done
}

@test "docs.10 Every measured figure in a text, and every chart, is that of the record" {
    local chart

    tests/bench/figures
    awk -v record=tests/bench/record.tsv -v directory="$BATS_TEST_TMPDIR" \
        -f tests/bench/statistics.awk -f tests/bench/charts.awk
    for chart in tests/bench/*.svg; do
        cmp "$chart" "$BATS_TEST_TMPDIR/${chart##*/}"
    done
}

@test "docs.11 The patches of make bench fit their programs" {
    local patch status=0
    for patch in tests/bench/client.patch tests/bench/{choices,peers}/*.patch; do
        patch --dry-run --batch --forward -o /dev/null "$(sed -n 's:^--- a/::p' "$patch")" "$patch" || status=1
    done
    return $status
}
