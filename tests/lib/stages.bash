# shellcheck shell=bash disable=SC2034 # the scripts use what is set here
# stages.bash: the stages and their companion programs. make help, make demo, make ladder and make break use
# it. Names of files are relative to the top of the project.

# A stage is a directory such as 03-select.
stages=([0-9][0-9]-*/)
stages=("${stages[@]%/}")

# A companion is a small program beside the server and the client of a stage:
# PROGRAM|the port that it listens on, unless you give one|the server whose code it continues|what it is
companions=(
    "01-blocking/first|10000||the echo server that most people write first, to be broken"
    "01-blocking/greeter|8001|01-blocking/server|greets the client that is being served"
    "01-blocking/threads|10000|01-blocking/server|a thread per client"
    "03-select/chat|8008||a chat room for nc and telnet"
    "03-select/two-ports|8001 and 8002||several listeners in one select"
    "04-poll/revents|||what poll, select and epoll report here"
    "05-epoll/edge|10000|05-epoll/server|the server of 05, edge-triggered"
    "05-epoll/callbacks|10000||an event loop; --slow MS, --worker"
    "05-epoll/workers|10000|05-epoll/server|the server of 05 with a thread per core; -j THREADS"
    "05-epoll/uring|10000||the server of 05 with io_uring: completion instead of readiness"
    "06-timeouts/select-timeout|10000|03-select/server|the plain timeout of select"
)

# list_companions: prints a line for each.
list_companions() {
    local companion program port what

    for companion in "${companions[@]}"; do
        IFS='|' read -r program port _ what <<<"$companion"
        printf '  %-34s %s%s\n' "build/$program" "$what" "${port:+ ($port)}"
    done
}
