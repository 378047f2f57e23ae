# shellcheck shell=bash disable=SC2034 # the scripts use what is set here
# look.bash: how the pictures of the demo and of `make bytes` look: characters, colours, and the legend. What is
# said about pictures in tests/README.md holds for those that are drawn by hand, too.

# Finer characters if the locale says UTF-8. Colour, pictures that move, and pauses for reading only
# on a terminal that can show them.
utf8=0 colour=0 live=0
[[ ${LC_ALL:-${LC_CTYPE:-${LANG:-}}} == *[Uu][Tt][Ff]* ]] && utf8=1
if [[ -t 1 && ${TERM:-dumb} != dumb ]]; then
    read -r _ columns < <(stty size 2>/dev/null </dev/tty)
    ((${columns:-0} >= 80)) && live=1
    [[ -z ${NO_COLOR:-} ]] && colour=1
fi
export LC_ALL=C # from here on numbers are written as 0.3, whatever the locale

sends='>' gets='<' waits=/ asleep=. wakes=: busy='#' byte='='
if ((utf8)); then
    sends=► gets=◄ waits=░ asleep=· wakes=▄ busy=█ byte=■
fi

# legend [bytes]: with an argument it names the mark of the bytes, too.
legend() {
    echo
    echo "  client   $sends sends a message   $gets gets its echo   $waits waits for it"
    echo "  server   $asleep asleep            $wakes wakes briefly   $busy keeps a core busy"
    [[ -z ${1-} ]] || echo "  $1    $byte in a buffer or a queue"
}

paint() {
    if ((colour)); then
        printf '\033[%sm%s\033[0m\n' "$1" "$2"
    else
        printf '%s\n' "$2"
    fi
}

# bar N [CHARACTER]: a bar of N columns.
bar() {
    local line
    printf -v line '%*s' "$1" ""
    echo "${line// /${2:-$busy}}"
}

# grouped N: 1100 is written 1,100.
grouped() {
    local front=$1 text=""
    while ((front >= 1000)); do
        text=,${front: -3}$text
        front=${front%???}
    done
    echo "$front$text"
}
