# shellcheck shell=bash disable=SC2034 # the scripts use what is set here
# common.bash: what the scripts of the mistakes share. It changes to the top of the project, so that all names
# are relative to it. A mistake's ID is the name of its patch: no-sigpipe-guard.

cd "${BASH_SOURCE[0]%/*}/../.." || exit
. tests/lib/suites.bash

limit=${LIMIT:-60}
header=(Symptom Mistake "In production" "Caught by" Got) # the keys of the lines above a diff, in order

# read_patch PATCH: sets $id, $source (the program that it changes) and, from the lines above its diff,
# $symptom, $mistake, $cost, $step and $wanted. If they are not as they should be, sets $problem and returns 1.
read_patch() {
    local lines values=() i

    id=${1##*/}
    id=${id%.patch}
    mistake=
    problem="it cannot be read"
    mapfile -t -n 7 lines 2>/dev/null <"$1" || return
    for i in "${!header[@]}"; do
        if [[ ${lines[i]-} != "${header[i]}: "?* ]]; then
            problem="line $((i + 1)) must be \"${header[i]}: ...\""
            return 1
        fi
        values+=("${lines[i]#*: }")
    done
    if [[ -n ${lines[5]-} || ${lines[6]-} != "--- a/"* ]]; then
        problem="an empty line and the diff must follow \"${header[-1]}: ...\""
        return 1
    fi
    symptom=${values[0]}
    mistake=${values[1]}
    cost=${values[2]}
    step=${values[3]}
    wanted=${values[4]}
    source=${lines[6]#--- a/}
}

# build_mistake PATCH DIRECTORY: makes the mistake of the patch that was read last in a copy of its program.
# Sets $program to the broken program in that directory, and $fuzz if the patch did not fit exactly. If that
# fails, sets $problem and returns 1.
build_mistake() {
    local copy=$2/${source##*/} log

    program=$(realpath -m "${copy%.c}")
    fuzz=
    mkdir -p "$2"
    cp "$source" "$copy" 2>/dev/null
    if ! log=$(patch --batch --forward --no-backup-if-mismatch -r - "$copy" "$1" 2>&1); then
        problem="it does not apply to $source"
        return 1
    fi
    [[ $log != *" with fuzz "* ]] || fuzz=yes
    if ! log=$("${CC:-cc}" -O2 -w -pthread -o "$program" "$copy" 2>&1); then
        problem="it does not compile: $(sed -n '/error/{s/.*error: //p;q}' <<<"$log")"
        return 1
    fi
}

# try_step DIRECTORY: runs the step of this mistake on $program, for at most LIMIT seconds. What bats prints
# goes into DIRECTORY/tap. Sets $verdict: failed, passed, skipped, hung, or missing if there is no such step.
# Sets $got to what the failure shows under "got", and $reason to the reason of a skip.
try_step() {
    local status tap file

    variable_of "$program"
    export "$REPLY=$program" STAGE="${source%%-*}"
    [[ $REPLY != EDGE && $REPLY != URING ]] || export SERVER=$program # it is a server of stage 05 as well

    got=()
    verdict=missing
    file=$(file_of_step "${step/./\\.}")
    [[ -n $file ]] || return
    timeout -k 5 "$limit" "$bats" --tap -f "^${step/./\\.} " "$file" >"$1/tap" 2>&1 3>&-
    status=$?
    tap=$(<"$1/tap")
    if ((status == 124 || status == 137)); then
        verdict=hung
    elif [[ $tap == *"not ok 1 $step "* ]]; then
        verdict=failed
        # The lines from "got" to the next key.
        mapfile -t got < <(awk '/^#     [a-z]/ { key = $2; sub(/got/, "") }
                                key == "got"   { sub(/^# */, ""); print }' "$1/tap")
    elif [[ $tap == *"ok 1 $step "*" # skip"* ]]; then
        verdict=skipped
        reason=${tap##*# skip }
    elif [[ $tap == *"ok 1 $step "* ]]; then
        verdict=passed
    fi
}

# step_titles: prints the number and the title of each step.
step_titles() {
    sed -n 's/^@test "\([^ ]* .*\)" {$/\1/p' tests/[0-9][0-9]-*.bats
}
