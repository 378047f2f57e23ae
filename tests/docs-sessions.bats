#!/usr/bin/env bats
# The sessions in the walkthroughs are run and compared. The other checks of the pages are in docs.bats, and run beside
# this one.

cd "$BATS_TEST_DIRNAME/.." || exit
. tests/lib/shared.bash

# each_page COMMAND...: runs it on every page of the stages at the same time, except STEPS.md; fails if one fails.
# The sessions of the last stages take longest, so they begin first.
each_page() {
    local page pid status=0 pids=()
    for page in $(printf '%s\n' [0-9][0-9]-*/*.md | sort -r); do
        [[ $page != */STEPS.md ]] || continue
        "$@" "$page" >"$BATS_TEST_TMPDIR/${page//\//-}" 2>&1 &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do
        wait "$pid" || status=1
    done
    cat "$BATS_TEST_TMPDIR"/[0-9][0-9]-*.md
    return $status
}

# transcripts_of PAGE: those of uring.md are not run where io_uring is forbidden.
transcripts_of() {
    if [[ $1 == */uring.md ]] && ! uring_runs build/05-epoll/uring; then
        echo "# the sessions of $1 are not run: $REPLY" >&3
        return
    fi
    tests/lib/transcripts "$1"
}

@test "docs.1 Every transcript in a walkthrough happens just so" {
    local limit
    export RUN=$$
    limit=$(ulimit -Hn)
    [[ $limit == unlimited ]] || ((limit >= 2000)) ||
        skip "the sessions of 03 need 2,000 descriptors, and \"ulimit -Hn\" allows $limit"
    each_page transcripts_of
}
