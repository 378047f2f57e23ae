# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# programs.bash: which programs a test runs, and how they are built.

# choose_programs: sets $stage (01 to 06), $server_command and $client_command, from the variables STAGE, SERVER
# and CLIENT, or from the name of the test file. Skips the test if make check has stopped at an earlier one.
choose_programs() {
    local number=${STAGE:-${BATS_TEST_FILENAME##*/}}
    local directory

    if [[ -n ${STOP_AFTER_FAILURE-} && -n ${BATS_TEST_NAME-} ]] && earlier_step_failed; then
        skip "not tried"
    fi
    if [[ -n ${RUNNING-} && -n ${BATS_TEST_NAME-} ]]; then
        printf '%s\n' "${BATS_TEST_DESCRIPTION%% *}" >"$RUNNING/${BATS_TEST_FILENAME##*/}" # make check names it if its time is up
    fi
    stage=${number%%-*}
    directory=$(cd "$course/$stage"-*/ 2>/dev/null && pwd) || directory=$course/$stage
    stage_directory=${directory##*/}
    read -r -a server_command <<<"${SERVER:-$build/$stage_directory/server}"
    read -r -a client_command <<<"${CLIENT:-$build/$stage_directory/client}"

    test_began=${EPOCHREALTIME//[!0-9]/}

    # Before every command bats notes the line, for its message when a command fails. We keep bats from doing
    # so in the helper: then a failure is reported at the line of the test, and the tests take half the time.
    set +o functrace
    declare -ft "${BATS_TEST_NAME-}" 2>/dev/null || :
}

# earlier_step_failed: true if no further step of this stage is to be tried. make check names a directory in
# STOP_AFTER_FAILURE, and a test that fails leaves a file there. Then the later steps of its own stage, and
# those of later stages, are not tried. Steps of earlier stages run at the same time and go on, because make
# check reports the failure that comes first in the order of the steps.
earlier_step_failed() {
    local file

    for file in "$STOP_AFTER_FAILURE"/*; do
        file=${file##*/}
        [[ $file == '*' || $file > ${BATS_TEST_FILENAME##*/} ]] || return 0
    done
    return 1
}

# compile OUTPUT SOURCE [FLAG]...: compiles a program if it is missing or older than its source. Returns the
# status of the compiler. Two test files may compile the same program at the same time: each writes a file of
# its own, and the last mv wins.
compile() {
    local output=$1 source=$2

    shift 2
    [[ -e $source && ! $output -nt $source ]] || return 0
    mkdir -p "${output%/*}"
    "${CC:-cc}" -O2 -o "$output.$$" "$source" "$@" && mv -f "$output.$$" "$output"
}

# build_program STAGE/NAME [FLAG]...: builds a companion if it is out of date. REPLY = its command line. If the
# environment names another program, as TWO_PORTS="./mine" does for 03-select/two-ports, REPLY is that one and
# nothing is built. Ends the test if the companion does not compile.
build_program() {
    variable_of "$1"
    REPLY=${!REPLY-}
    [[ -z $REPLY ]] || return 0
    REPLY=$build/$1
    compile "$REPLY" "$course/$1.c" "${@:2}" || fail_with "$1.c does not compile"
}
