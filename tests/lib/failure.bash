# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# failure.bash: what a test expects, and what is printed when it fails.

expected_text=''
because_text=''
log_then='' # what to show of the server's log; empty: what it says now

# expected TEXT: what must happen next. Without it, a failure shows the title of the step.
expected() {
    expected_text=$1
}

# because TEXT: the likely cause if it does not happen.
because() {
    because_text=$1
}

# say_key KEY LINE...: prints the lines, with the key before the first one.
say_key() {
    local key=$1 line

    shift
    for line in "$@"; do
        printf '    %-9s %s\n' "$key" "$line"
        key=
    done
}

# last_lines TEXT: sets $lines to the last three lines of TEXT, or to the first eight of a sanitizer's report in it.
# They are escaped, and cut after 80 characters, a report after 160.
last_lines() {
    local line i width=80 LC_ALL=C

    mapfile -t lines <<<"${1%$'\n'}"
    [[ -n $1 ]] || lines=()
    for i in "${!lines[@]}"; do
        if is_sanitizer_report "${lines[i]}"; then
            lines=("${lines[@]:i:8}")
            width=160
            break
        fi
    done
    if ((${#lines[@]} > 3)) && ! is_sanitizer_report "${lines[0]}"; then
        lines=("${lines[@]: -3}")
    fi
    for i in "${!lines[@]}"; do
        line=${lines[i]}
        if [[ $line == *[![:print:]]* ]]; then
            printf -v line '%q' "$line"
        fi
        if ((${#line} > width)); then
            line=${line:0:width-3}...
        fi
        lines[i]=$line
    done
}

# fail_with GOT [LINE...]: ends the test. GOT is what came instead of what was expected. (After the test, while
# teardown looks at the server, it returns 1.)
fail_with() {
    local number=${BATS_TEST_DESCRIPTION%% *} sentence=${BATS_TEST_DESCRIPTION#* }
    local page=${BATS_TEST_FILENAME##*/} lines

    note_that_it_is_late
    printf '\n'
    say_key expected "${expected_text:-$sentence}"
    say_key got "$@"
    if [[ -n $because_text ]]; then
        say_key because "$because_text"
    fi
    page=${page%.bats}
    if [[ $number == [0-9]* ]]; then
        page+=/STEPS.md
    elif [[ -e $course/$page/${number%.*}.md ]]; then # a companion has a page of its own
        page+=/${number%.*}.md
    else
        page+=/README.md
    fi
    say_key read "$page, step $number"
    # If a limit of time decided, and the server was not waiting for something that does not come:
    if [[ "$*" != *"is blocked in"* ]] &&
        [[ "$*" =~ within\ [0-9.]+\ s|gave\ up\ waiting|did\ not\ exit|it\ took\ [0-9]|too\ late|longer\ than ]]; then
        say_key note "if this machine is slow or busy, try again with SLOW=3, which makes every limit three times as long"
    fi
    if [[ -n $server_log ]]; then
        read_end "$server_log"
        last_lines "${log_then:-$REPLY}"
        say_key log "${lines[@]-(nothing)}"
    fi
    if [[ -n $client_out ]]; then
        read_end "$client_out"
        last_lines "$REPLY"
        say_key stdout "${lines[@]-(nothing)}"
        read_end "$client_err"
        last_lines "$REPLY"
        say_key stderr "${lines[@]-(nothing)}"
    fi
    if [[ -n $ending ]]; then
        return 1
    fi
    BATS_DEBUG_LAST_STACK_TRACE_IS_VALID=1 # bats then names the line of the test, not the one before
    exit 1
}
