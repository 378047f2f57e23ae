#!/usr/bin/env bash
# common.bash: what the scripts of the exercises share: the stages, the learner's own directory, what is
# kept in it, and how a program is chosen, built and tested. They change to the top of the project, so that
# all names are relative to it.
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

# ---- A learner's programs --------------------------------------------------------------------

# choose_stage_and_programs GOAL: sets $number, $server and $client for make GOAL, from $explicit (the stage,
# if it was given), SERVER and CLIENT. Without these two they are the sources in mine/.
choose_stage_and_programs() {
    number=$explicit
    server=${SERVER-}
    client=${CLIENT-}
    if [[ -z $number ]]; then
        stage_to_check
        number=$REPLY
    fi
    if [[ -n $server$client ]]; then
        if [[ -z $number ]]; then
            echo "Which stage is it? make $1 STAGE=01${server:+ SERVER=\"$server\"}${client:+ CLIENT=\"$client\"}"
            return 2
        fi
        return
    fi
    if [[ -z $number ]]; then
        echo "There is no server in $mine/ yet. Begin with the first stage:"
        command_line "make start STAGE=01"
        echo "To $1 a program that is elsewhere, in any language:"
        command_line "make $1 STAGE=01 SERVER=\"python3 server.py\""
        return 2
    fi
    case ${WHAT-} in
    '' | server | client) ;;
    *)
        echo "WHAT=$WHAT: choose server or client."
        return 2
        ;;
    esac
    server=$mine/${directory[$number]}/server.c
    client=$mine/${directory[$number]}/client.c
    [[ -e $server && ${WHAT-} != client ]] || server=
    [[ -e $client && ${WHAT-} != server ]] || client=
    if [[ -z $server$client ]]; then
        echo "There is no $mine/${directory[$number]}/${WHAT:-server}.c yet. To begin it:"
        command_line "make start STAGE=$number${WHAT:+ WHAT=$WHAT}"
        return 2
    fi
}

# advise VARIABLE COMMAND: fails, and says why, if the command cannot be what the learner meant.
advise() {
    local variable=$1 words word file extension

    read -r -a words <<<"$2"
    file=${words[0]}
    if [[ -d $file ]]; then
        echo "$variable=$file is a directory. Name the program in it, such as $variable=${file%/}/${variable,,}"
        return 1
    fi
    if [[ $file != */* ]]; then
        if ! type -P "$file" >/dev/null; then
            echo "$variable=$file: there is no such program."
            [[ $file != *.c ]] || file=${file%.c} # the source is not the program
            [[ ! -e $file ]] || echo "For the file $file in this directory write $variable=./$file"
            return 1
        fi
    elif [[ ! -e $file ]]; then
        echo "$variable=$file: there is no such file."
        [[ ! -e $file.c ]] || echo "Build it first: cc -g $file.c -o $file"
        return 1
    elif [[ ! -x $file ]]; then
        case $file in
        *.c) echo "$file is source code. Build it, and name the program: cc -g $file -o ${file%.c}" ;;
        *.py) echo "$file is not executable. Write $variable=\"python3 $file\", or chmod +x $file" ;;
        *.js) echo "$file is not executable. Write $variable=\"node $file\", or chmod +x $file" ;;
        *) echo "$file is not executable. Type chmod +x $file, or name the program that runs it: $variable=\"python3 $file\"" ;;
        esac
        return 1
    fi
    if [[ $file =~ \.(py|js|rb|pl|sh)$ && $(head -c 2 "$file") != '#!' ]]; then
        echo "The first line of $file does not name its interpreter, as #!/usr/bin/env python3 does. Add it, or write $variable=\"python3 $file\""
        return 1
    fi
    for extension in c cc cpp rs go; do
        if [[ $file.$extension -nt $file ]]; then
            echo "$file is older than $file.$extension: build it again."
            return 1
        fi
    done
    for word in "${words[@]:1}"; do
        if [[ $word =~ ^[^-].*\.(py|js|rb|pl|sh|jar)$ && ! -e $word ]]; then
            echo "$variable=\"$2\": there is no file $word."
            return 1
        fi
    done
}

# compile_submission SOURCE PROGRAM: all that is shown is what the compiler says.
compile_submission() {
    # shellcheck disable=SC2086 # CC and CFLAGS may be several words
    ${CC:-cc} -std=c11 -Wall -Wextra -g ${CFLAGS-} -pthread "$1" -o "$2"
}

# full_number STEP: REPLY = 01.6 for 1.6
full_number() {
    REPLY=$1
    [[ $REPLY != [0-9].* ]] || REPLY=0$REPLY
}

# stretched SECONDS: REPLY = SECONDS times SLOW, but not less than SECONDS
stretched() {
    REPLY=$(awk -v limit="$1" -v slow="${SLOW:-1}" 'BEGIN { print int(limit * (slow > 1 ? slow : 1)) }')
}

# is_complete TAP: it has as many results as it has announced.
is_complete() {
    local planned

    planned=$(sed -n 's/^1\.\.//p' "$1" 2>/dev/null)
    [[ -n $planned && $(grep -cE '^(not )?ok ' "$1") == "$planned" ]]
}

# ---- Running steps ---------------------------------------------------------------------------

# Makes a directory for this run. Whatever happens, it and all that was started in it end with the script.
make_scratch() {
    scratch=$(mktemp -d) || exit
    mkdir "$scratch/tmp" "$scratch/stop" "$scratch/running"
    trap clean_up EXIT
    trap 'echo; exit 130' INT
    trap 'exit 143' TERM HUP
}

clean_up() {
    end_processes_below "$scratch/tmp"
    rm -rf "$scratch"
}

# The tests' own tools. When make runs this script, its variables and flags are not meant for this one.
build_tools() {
    env -u MAKEFLAGS -u MAKELEVEL -u MAKEOVERRIDES -u STAGE -u SERVER -u CLIENT -u CFLAGS \
        make --silent --no-print-directory build/peer build/faults.so
}

# steps FILE TAGS [OPTION]...: becomes bats.
steps() {
    exec env TMPDIR="$scratch/tmp" RUNNING="$scratch/running" STAGE="$number" "$bats" --tap --filter-tags "$2" "${@:3}" "$1" 2>&1 3>&-
}
