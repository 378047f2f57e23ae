#!/usr/bin/env bash
# common.bash: what the scripts of the exercises share: the stages, the learner's own directory, and
# what is kept in it. They change to the top of the project, so that all names are relative to it.
#
# MINE names the learner's directory (mine). MINE/.progress is a text file like this one. A line that
# makes no sense there is ignored, and without the file a learner begins at the beginning.
#
#     started 03          the stage that make start was given last
#     01 passed           all of its steps pass
#     03 12/27            12 of its 27 steps pass
#     failed 03.4         the step that failed last
#     hints 03.4 1        how many hints for it were shown

# shellcheck disable=SC2034 # the scripts use what is set here

cd "${BASH_SOURCE[0]%/*}/../.." || exit
mine=${MINE:-mine}
mine=${mine%/}
numbers=() # 01, 02 ...
declare -A directory=() # directory[03]=03-select
for stage_directory in [0-9][0-9]-*/; do
    number=${stage_directory%%-*}
    numbers+=("$number")
    directory[$number]=${stage_directory%/}
done

# command_line COMMAND [MEANING]: a command to type, on a line of its own.
command_line() {
    printf "    ${2:+%-34s }%s\n" "$1" ${2:+"$2"}
}

# before NUMBER: REPLY = the stage before, or nothing. after NUMBER: the one after.
before() {
    local number
    REPLY=
    for number in "${numbers[@]}"; do
        [[ $number != "$1" ]] || return 0
        REPLY=$number
    done
}

after() {
    local number
    REPLY=
    for number in "${numbers[@]}"; do
        [[ ! $number > $1 ]] || { REPLY=$number && return; }
    done
}

# ---- Progress --------------------------------------------------------------------------------

read_progress() {
    local key first second

    started=
    failed=
    declare -gA result=() hints=() # result[01]=passed, result[03]=12/27, hints[03.4]=1
    while read -r key first second; do
        case $key in
        started) [[ -z ${directory[${first:-none}]-} ]] || started=$first ;;
        failed) [[ ! $first =~ ^[a-z0-9-]+\.[0-9]+$ ]] || failed=$first ;;
        hints) [[ ! $first =~ ^[a-z0-9-]+\.[0-9]+$ || ! $second =~ ^[1-9]$ ]] || hints[$first]=$second ;;
        [0-9][0-9]) [[ ! $first =~ ^(passed|[0-9]{1,3}/[0-9]{1,3})$ ]] || result[$key]=$first ;;
        esac
    done 2>/dev/null <"$mine/.progress"
    return 0
}

# A learner whose progress cannot be kept can still go on.
write_progress() {
    local key

    {
        mkdir -p "$mine" && {
            echo "# Where you stand. make start, make check and make hint keep it, and you may delete it."
            [[ -z $started ]] || echo "started $started"
            for key in "${numbers[@]}"; do
                [[ -z ${result[$key]-} ]] || echo "$key ${result[$key]}"
            done
            [[ -z $failed ]] || echo "failed $failed"
            for key in "${!hints[@]}"; do
                echo "hints $key ${hints[$key]}"
            done
        } >"$mine/.progress.$$" && mv -f "$mine/.progress.$$" "$mine/.progress"
    } 2>/dev/null || :
}

# stage_to_check: REPLY = the stage that was started last. If that is not known, the last one that
# there is; nothing if mine/ is empty.
stage_to_check() {
    local number

    REPLY=$started
    [[ -n $REPLY && -d $mine/${directory[$REPLY]} ]] && return
    REPLY=
    for number in "${numbers[@]}"; do
        [[ ! -e $mine/${directory[$number]}/server.c && ! -e $mine/${directory[$number]}/client.c ]] || REPLY=$number
    done
}

# ladder CURRENT: one line that shows where the learner stands.
ladder() {
    local number mark text=''

    for number in "${numbers[@]}"; do
        mark='·'
        case ${result[$number]-} in
        passed) mark='✓' ;;
        */*) mark=${result[$number]} ;;
        esac
        if [[ $number == "$1" && $mark != '✓' ]]; then
            [[ $mark == */* ]] && mark="▶ $mark" || mark='▶'
        fi
        text+="$number $mark  "
    done
    echo "${text%  }"
}

# ---- The pages -------------------------------------------------------------------------------

# page_of STEP: REPLY = the STEPS.md that has this step, or nothing.
page_of() {
    local number page

    REPLY=
    for number in "${numbers[@]}"; do
        page=${directory[$number]}/STEPS.md
        if [[ -e $page ]] && grep -q "^### ${1/./\\.} " "$page"; then
            REPLY=$page
            return
        fi
    done
}

# read_hints STEP: sets $hint_texts to the hints for this step: in its page, each <details> is one.
read_hints() {
    local page

    hint_texts=()
    page_of "$1"
    page=$REPLY
    [[ -n $page ]] || return 0
    mapfile -d $'\x1e' -t hint_texts < <(awk -v heading="### $1 " '
        index($0, heading) == 1 { here = 1; next }
        /^##/ && !inside        { here = 0 }
        !here                   { next }
        /<details/              { inside = 1; text = "" }
        inside {
            line = $0
            gsub(/<\/?details[^>]*>/, "", line)
            gsub(/<summary[^>]*>.*<\/summary>/, "", line)
            text = text line "\n"
        }
        /<\/details>/ && inside {
            inside = 0
            gsub(/^[ \t\n]+|[ \t\n]+$/, "", text)
            printf "%s\036", text
        }' "$page")
}
