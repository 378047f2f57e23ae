#!/usr/bin/env bash
# suites.bash: finds bats, and the steps that hold for a stage. tests/run, make check, make grade, make
# mistakes and tests/shapes/run use it. Names of files are relative to the top of the project.
# tests/README.md explains the tags of the steps.

# shellcheck disable=SC2034 # the scripts use what is set here

. "${BASH_SOURCE[0]%/*}/shared.bash"
check_slow || exit 2

# look_for_bats: sets $bats to a version that knows --filter-tags: 1.8 or newer. Returns 1 if there is none.
look_for_bats() {
    for bats in bats build/node_modules/bats/bin/bats; do
        [[ $("$bats" --version 2>&1) =~ ^Bats\ ([0-9]+)\.([0-9]+) ]] || continue
        ((BASH_REMATCH[1] > 1 || BASH_REMATCH[2] >= 8)) && return
    done
    return 1
}

# find_bats: the same, and installs bats if there is none. Ends the script if that fails.
find_bats() {
    look_for_bats && return
    mkdir -p build
    echo 'bats 1.8 or newer was not found: installing it.' >&2
    if [[ $(id -u) == 0 ]] && command -v apt-get >build/bats.log; then
        apt-get update -q && apt-get install -qy bats
    fi >>build/bats.log 2>&1
    look_for_bats && return
    npm install --prefix build bats >>build/bats.log 2>&1
    look_for_bats && return
    echo 'The tests need bats 1.8 or newer, and it could not be installed. Install the package "bats" with apt,' \
        'dnf, brew or npm, or see https://github.com/bats-core/bats-core' >&2
    exit 1
}

# file_of_step PATTERN: prints the test file that has a step whose number matches this extended regular
# expression; nothing if there is none.
file_of_step() {
    grep -lE "^@test \"$1 " tests/[0-9][0-9]-*.bats | head -n 1
}

# stage_of SUITE: REPLY = the stage whose steps it has: itself, or 05 for companions that are such a server, too.
stage_of() {
    case $1 in
    edge | workers | uring) REPLY=05 ;;
    *) REPLY=$1 ;;
    esac
}

# files_of SUITE: sets $files to the test file of the suite, followed by those of earlier stages. A suite is a stage
# (03), edge, workers, uring, docs, exercise, grade or demo; or races, which has the files of the stages that have a
# program with threads. Ends the script if there is no such suite.
files_of() {
    local file stage
    if [[ $1 == races ]]; then
        shopt -s nullglob # there are none where ThreadSanitizer does not run
        files=("$build"/threads/*/)
        shopt -u nullglob
        files=("${files[@]%/}")
        files=("${files[@]/#"$build/threads"/tests}")
        files=("${files[@]/%/.bats}")
        return
    fi
    stage_of "$1"
    files=(tests/"$REPLY"*.bats)
    if [[ ! -e ${files[0]} ]]; then
        echo "There are no steps of a stage $1." >&2
        exit 2
    fi
    for file in tests/[0-9][0-9]-*.bats; do
        [[ ${files[0]} == tests/[0-9]* && $file < ${files[0]} ]] && files+=("$file")
    done
}

# filter_of SUITE FILE: sets $filter, for --filter-tags, to the steps of the file that hold for the suite. The
# clients of 04 and 05 differ from all others, so they inherit no steps. WORDING=no and METHOD=no leave out
# the steps with these tags.
filter_of() {
    local suite=$1 stage owner=${2#tests/}
    stage_of "$1"
    stage=$REPLY
    filter="!not-$suite,!not-$stage"
    owner=${owner%%-*}
    if [[ $owner != "$suite" ]]; then
        filter+=",!only-$owner"
        [[ $stage == 0[45] ]] && filter+=',!client'
    fi
    [[ ${WORDING-} == no ]] && filter+=',!wording'
    [[ ${METHOD-} == no ]] && filter+=',!method'
    return 0
}
