# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# programs.bash: which programs a test runs, and how they are built.

# Sets $stage and the commands, from SERVER, CLIENT, STAGE and the name of the test file.
choose_programs() {
    local number=${STAGE:-${BATS_TEST_FILENAME##*/}}
    local directory

    if [[ -n ${STOP_AFTER_FAILURE-} && -n ${BATS_TEST_NAME-} ]] && earlier_step_failed; then
        skip "not tried"
    fi
    stage=${number%%-*}
    directory=$(cd "$course/$stage"-*/ 2>/dev/null && pwd) || directory=$course/$stage
    stage_directory=${directory##*/}
    read -r -a server_command <<<"${SERVER:-$build/$stage_directory/server}"
    read -r -a client_command <<<"${CLIENT:-$build/$stage_directory/client}"

    test_began=${EPOCHREALTIME//[!0-9]/}

    # bats notes where it is before every command, for its message when one fails. Not in here: a
    # failure is then reported at the line of the test, and the tests take half the time.
    set +o functrace
    declare -ft "${BATS_TEST_NAME-}" 2>/dev/null || :
}

# tests/exercise/check names a directory in STOP_AFTER_FAILURE. A test that fails leaves a file there, and
# then no later test is tried, neither of its own stage nor of a later one. Tests of earlier stages, which
# run at the same time, go on: the first failure is the first in the order of the steps.
earlier_step_failed() {
    local file

    for file in "$STOP_AFTER_FAILURE"/*; do
        file=${file##*/}
        [[ $file == '*' || $file > ${BATS_TEST_FILENAME##*/} ]] || return 0
    done
    return 1
}

# compile OUTPUT SOURCE [FLAG]...: when it is missing or older than its source. Two test files may
# do so at the same time: each makes its own, and the last mv wins.
compile() {
    local output=$1 source=$2

    shift 2
    [[ -e $source && ! $output -nt $source ]] || return 0
    mkdir -p "${output%/*}"
    "${CC:-cc}" -O2 -o "$output.$$" "$source" "$@" && mv -f "$output.$$" "$output"
}

# For 03-select/two-ports the environment may name another program: TWO_PORTS="./mine".
build_program() {
    variable_of "$1"
    REPLY=${!REPLY-}
    [[ -z $REPLY ]] || return 0
    REPLY=$build/$1
    compile "$REPLY" "$course/$1.c" "${@:2}" || fail_with "$1.c does not compile"
}
