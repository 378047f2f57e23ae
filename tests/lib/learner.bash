# shellcheck shell=bash disable=SC2034 # the tests use what is set here
# learner.bash: what the tests of the learner's and the teacher's commands share. mine/ is a scratch directory.

setup() {
    mine=$BATS_TEST_TMPDIR/mine
    marker=learner-$BATS_TEST_NUMBER-$$
    settings=(PATH="$BATS_ROOT/bin:$PATH") # bats puts itself in front, which does not run alone
}

# learn TARGET [NAME=VALUE]...: as if typed after make, in an environment of its own. Sets $status and $output.
learn() {
    run env -i HOME="${HOME-/}" MARKER="$marker" MINE="$mine" "${settings[@]}" \
        make --no-print-directory "$@" 3>&-
    echo "\$ make $*"
    echo "$output"
}

says() {
    [[ $output == *"$1"* ]] || {
        echo "it does not say: $1"
        return 1
    }
}

# nothing_left: no process is left of what learn has started. (The status of grep is no use: it is also 2
# when a process ends during the search.)
nothing_left() {
    [[ -z $(MARKER='' grep -lsz "^MARKER=$marker\$" /proc/[0-9]*/environ) ]]
}

# played STAGE LINE...: results that stand in for those of bats. Files of earlier stages have two steps.
played() {
    local directory=$BATS_TEST_TMPDIR/bin
    mkdir -p "$directory"
    printf '%s\n' "${@:2}" >"$directory/own"
    cat >"$directory/bats" <<END
#!/usr/bin/env bash
case \$* in
--version) echo "Bats 1.10.0" ;;
*,client*tests/$1-*) printf '%s\n' 1..1 "ok 1 $1.40 It connects" ;;
*tests/$1-*) cat "$directory/own" ;;
*) printf '%s\n' 1..2 "ok 1 one" "ok 2 two" ;;
esac
END
    chmod +x "$directory/bats"
    settings=(PATH="$directory:$PATH")
}

# server LINE...: writes a server as a script
server() {
    printf '%s\n' '#!/usr/bin/env bash' "$@" >"$BATS_TEST_TMPDIR/server"
    chmod +x "$BATS_TEST_TMPDIR/server"
}
