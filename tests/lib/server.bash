# shellcheck shell=bash disable=SC2034 # other files of the helper and the tests use what is set here
# server.bash: starts, stops and signals the server.

server_pid='' # empty while no server should be running
server_log='' # the file with its standard output and standard error

# launch_server [OPTION VALUE]... [ARGUMENT]...: starts the server and does not wait for its first line. Sets
# $server_pid and $server_log. $default_port is its argument if there is no other.
launch_server() {
    command=("${server_command[@]}")
    take_options "$@"
    server_log=$BATS_TEST_TMPDIR/server.log
    : >"$server_log"
    command+=("${arguments[@]-$default_port}")
    launch "$input" "$server_log" "$server_log"
    server_pid=$launched
}

# has_started_up: true if the server has printed its first line. Sets $host and $port.
has_started_up() {
    has_first_line "$server_log"
}

# start_server [OPTION VALUE]... [ARGUMENT]...: starts the server, with ARGUMENT... or else with 0 (any free port),
# and waits for its first line. Sets $server_pid, $server_log, $host and $port. The options are in
# tests/README.md. Ends the test if no first line comes, or a wrong one.
start_server() {
    default_port=0 launch_server "$@"
    await has_started_up || server_did_not_start
    check_port
    count_sockets_at_start
}

# server_did_not_start: ends the test, with the likely reason.
server_did_not_start() {
    if [[ $awaited == server ]] || has_ended "$server_pid"; then
        if [[ -z $expected_text ]]; then
            expected "the server, started with \"${arguments[*]-0}\", to print \"starting up on HOST port N\", and to wait for clients"
            because "the log below may give the reason. If it does not, start the server by hand"
        fi
        explain_options
        reap_server
        if ((server_status == 0)); then
            because "a server runs until it is stopped: it opens its listener, prints this line, waits for clients, and stays in the foreground"
        fi
        fail_with "the server $server_end before it printed its first line"
    fi
    expected "the server to print \"starting up on HOST port N\" as its first line"
    listening_port
    if [[ -n $REPLY && ! -s $server_log ]]; then
        because "output to a file stays in a buffer until the buffer is full. Call fflush() or setvbuf(), or use python3 -u"
        fail_with "the server does listen, on port $REPLY, but it has printed nothing"
    fi
    if [[ -n $REPLY ]]; then
        because "the tests look for exactly these words. If the server prints them, they are still in a buffer (fflush(), python3 -u)"
        fail_with "the server does listen, on port $REPLY, but it has printed something else"
    fi
    because "the tests read the port from this line, on stdout or stderr. Print it when bind() and listen() have succeeded"
    explain_options
    server_doing
    fail_with "no such line, and the server $REPLY"
}

# count_sockets_at_start: sets $sockets_at_start to the sockets of a server that has no client yet. (Of a server
# that has one socket only, socket_count need not ask the kernel what kind of socket it is.)
count_sockets_at_start() {
    sockets_at_start=1
    socket_count
    sockets_at_start=$REPLY
}

# check_port: ends the test if the server was started with a port and its first line names another one. For
# port 0 the kernel picks one from its range of local ports.
check_port() {
    local asked=${arguments[0]-0} first=0 last=65535

    if ((port == 0)); then
        expected "the first line to name the port on which the server listens"
        because "for port 0, bind() picks a free port. Call getsockname() after it to learn which. If bind() fails, the socket has no port: check what bind() returns"
        fail_with "the first line names port 0"
    fi
    [[ $asked != -q ]] || asked=${arguments[1]-}
    read -r first last 2>/dev/null </proc/sys/net/ipv4/ip_local_port_range || :
    if [[ $asked == 0 ]] && ((port >= first && port <= last)); then
        return 0
    fi
    if [[ $asked =~ ^[0-9]+$ && $asked != "$port" ]]; then
        expected "the server to listen on the port that its first argument names: $asked"
        because "the port is argv[1], a text: pass it to getaddrinfo(), or convert it to a number and then with htons(). If bind() fails, listen() picks another port: check what bind() returns"
        if ((asked == 0)); then
            expected "the server, started with port 0, to name a port that the kernel has picked, from $first to $last"
            because "the port is argv[1]. When bind() gets port 0 the kernel picks a free port. Call getsockname() to learn which"
        fi
        fail_with "the first line names port $port"
    fi
}

# run_server [OPTION VALUE]... [ARGUMENT]...: starts a server that must end by itself, and waits for its end. Sets
# $server_status, $server_end and $server_log. Ends the test if it starts up instead, or hangs.
run_server() {
    launch_server "$@"
    if await has_ended_or_started; then
        if has_ended "$server_pid"; then
            reap_server
            return
        fi
        fail_with "the server started up anyway"
    fi
    server_doing
    fail_with "the server did not exit; it $REPLY"
}

# has_ended_or_started: a first line counts only if the server does listen, because it may be about to end.
has_ended_or_started() {
    has_ended "$server_pid" && return
    has_started_up && listening_port && [[ -n $REPLY ]]
}

# listening_port: REPLY = a port on which the server listens, or nothing. /proc/net/tcp lists every listening
# socket (state 0A) by its inode. This is slow, and meant for failures.
listening_port() {
    local inodes pid

    find_family
    inodes=$(for pid in "${family[@]}"; do readlink /proc/"$pid"/fd/*; done | awk -F'[][]' '/^socket/ { print $2 }' || :)
    REPLY=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v inodes="$inodes" '
        BEGIN { count = split(inodes, list); for (i = 1; i <= count; i++) mine[list[i]] = 1 }
        $4 == "0A" && $10 in mine && port == "" { port = $2; sub(/.*:/, "", port) }
        END { print port }' || :)
    if [[ -n $REPLY ]]; then
        REPLY=$((16#$REPLY))
    fi
}

# reap_server: waits for a server that has ended or is about to end. Sets $server_status and $server_end ("exited
# with status 1", "was killed by SIGPIPE"), and the cause for some signals.
reap_server() {
    reap "$server_pid"
    server_status=$child_status
    end_text "$server_status"
    server_end=$REPLY
    server_pid=
    case $server_end in
    *SIGXFSZ | *SIGSEGV | *SIGABRT | *SIGBUS | *SIGILL | *SIGFPE) explain_the_end ;;
    esac
}

# server_is_alive: ends the test if the server has ended.
server_is_alive() {
    if [[ -n $server_pid ]] && ! is_running "$server_pid"; then
        reap_server
        explain_the_end
        [[ -z $ending ]] || expected "the server to keep running after the test"
        if ((server_status == 0)); then
            because "main() has returned, or the server has put itself into the background. It must run in the foreground until it is stopped"
        fi
        fail_with "the server $server_end"
    fi
}

# stop_server [SIGNAL]: sends the signal (KILL) and waits for the end of the server. Sets $server_status and
# $server_end. Ends the test if the server has ended before, or does not end.
stop_server() {
    server_is_alive
    {
        [[ ${1:-KILL} != KILL ]] || finish_family
        signal_family "${1:-KILL}"
        if [[ ${1:-KILL} == KILL ]]; then
            await family_has_ended || : # a socket is closed when the last process that has it has ended
            reap_server
        fi
    } 2>/dev/null # see reap
    if [[ -z $server_pid ]]; then
        sanitizer_was_silent
        return
    fi
    if ! await has_ended "$server_pid"; then
        server_doing
        fail_with "SIG$1 did not end the server; it $REPLY"
    fi
    reap_server
}

# signal_server SIGNAL: sends the signal to all processes of the server. After STOP it waits until they have stopped.
signal_server() {
    signal_family "$1"
    if [[ $1 == STOP ]]; then
        wait_until "the server to stop" family_is_stopped
    fi
}

# while_stopped COMMAND...: stops the server, runs COMMAND, and lets the server go on.
while_stopped() {
    signal_server STOP
    "$@"
    signal_server CONT
}

# server_ends [STATUS]: waits until the server ends by itself. Ends the test if its exit status is not STATUS (0).
server_ends() {
    local status=${1:-0}

    if ! await has_ended "$server_pid"; then
        server_doing
        fail_with "the server did not exit; it $REPLY"
    fi
    reap_server
    if ((server_status != status)); then
        ((server_status <= 128)) || explain_the_end
        fail_with "the server $server_end"
    fi
}

# server_exited STATUS: ends the test if the server, which run_server has started, did not end with this exit status.
server_exited() {
    if ((server_status != $1)); then
        explain_status "$1" "$server_status"
        fail_with "the server $server_end"
    fi
}

# has_a_client: true if the server has accepted a client whose connection it has not closed. For wait_until.
has_a_client() {
    socket_count
    ((REPLY > sockets_at_start))
}
