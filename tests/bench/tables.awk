# Prints the tables of one part of tests/bench/bench: awk -v record=FILE -v part=idle -f statistics.awk -f tables.awk
#
# Each figure is a median. In brackets stands the ratio to the row that the title names; the last column says how
# far the middle half of the runs spreads around their median, in the worst case of the row.

BEGIN {
    if (part == "idle") {
        table("idle", "cpu", 1, "CPU time per message of one client beside idle connections, in us (relative to epoll)")
        table("idle", "p50", 1, "Latency of that message, the median, in us (relative to epoll)")
        table("idle", "turn", 1, "CPU time of a turn of a loop that never sleeps, in us")
    } else if (part == "ready") {
        table("ready", "call", 1, "CPU time of a call that watches 4,000 descriptors, by how many of them are ready, " \
            "in us (relative to epoll)")
    } else if (part == "load") {
        load_tables("load")
    } else if (part == "choices") {
        table("choices", "calls", 1, "Calls per message by number of active clients (relative to the stage's server)")
        table("choices", "cpu", 1, "CPU time per message in us (relative to the stage's server)", "send|ask|log")
        table("choices", "open", 1, "Milliseconds until 2,000 clients are connected and served", "accept")
        table("choices", "open-cpu", 1, "CPU time per new connection in us", "accept")
        table("choices", "rate", 1000, "Thousands of 64-KiB messages per second on 4 connections, by KiB of buffer",
            "buffer")
        table("choices", "p50", 1000, "Latency by bytes per message, with and without TCP_NODELAY, in ms", "nodelay")
    } else if (part == "memory") {
        table("memory", "bytes", 1, "Memory per connection, by number of idle connections, in bytes")
        table("memory", "slow", 1, "Memory per client that sends but does not read, in bytes")
        table("memory", "unread", 1, "How many bytes such a client gets rid of: most are in buffers of the kernel")
        table("memory", "busy", 1, "CPU time of the server while all of its connections are idle, in percent of a core")
    } else if (part == "peers") {
        load_tables("peers")
        table("large", "rate", 1000, "Thousands of 64-KiB messages per second on 4 connections (relative to epoll)")
    } else if (part == "goals") {
        goals()
    }
}

function load_tables(part) {
    table(part, "cpu", 1, "CPU time per message by number of active clients, in us (relative to epoll)")
    table(part, "rate", 1000, "Thousands of messages per second (relative to epoll)")
    table(part, "p99", 1000, "Latency, the 99th percentile, in ms (relative to epoll)")
}

# A row per server, a column per load: all that was measured of `what` on the servers that match the pattern,
# divided by `unit`.
function table(part, what, unit, title, pattern,    i, k, key, word, server, count, servers, counts, row, worst, seen) {
    for (i = 1; i <= key_count; i++) {
        split(keys[i], word, ".")
        if (word[1] != part || word[4] != what || word[2] !~ pattern)
            continue
        if (!(word[2] in seen))
            server[++servers] = word[2]
        if (!(word[3] in seen))
            count[++counts] = word[3] + 0
        seen[word[2]] = seen[word[3]] = 1
    }
    if (!servers)
        return
    sort(count, counts)
    printf "\n%s\n%-18s", title, ""
    for (k = 1; k <= counts; k++)
        printf "%14s", commas(count[k])
    print "  spread"
    for (i = 1; i <= servers; i++) {
        row = sprintf("  %-16s", server[i])
        worst = ""
        for (k = 1; k <= counts; k++) {
            key = part "." server[i] "." count[k] "." what
            row = row sprintf("%14s", cell(key, unit, baseline(part, server[i])))
            if (key in runs && runs[key] > 1 && spread(key) >= worst + 0)
                worst = sprintf("%.0f %%", spread(key))
        }
        row = row sprintf("%8s", worst)
        sub(/ +$/, "", row)
        print row
    }
}

function cell(key, unit, other,    shown, x) {
    if (!(key in runs))
        return ""
    shown = pretty(median(key) / unit)
    x = other_server(key, other) == key ? "" : ratio(key, other)
    return x == "" ? shown : shown sprintf(x >= 9.95 ? " (%.0f)" : " (%.2f)", x)
}

# ---- The goals for the server of 05 ------------------------------------------------------------

function goals(    count, i) {
    print "\nGoals for the server of 05"
    split("1 10 100 1000 8000", count, " ")
    for (i = 1; i <= 5; i++)
        goal("CPU time per message, relative to plain" clients(count[i]),
            "load.epoll." count[i] ".cpu-to-plain", "<=", i < 5 ? 1.05 : 1.10)
    for (i = 1; i <= 5; i++)
        goal("messages per second, relative to libev" clients(count[i]),
            "peers.epoll." count[i] ".rate-to-libev", ">=", 0.90)
    goal("messages per second, relative to libevent" clients(100), "peers.epoll.100.rate-to-libevent", ">=", 1.4)
    goal("messages per second, relative to libuv" clients(100), "peers.epoll.100.rate-to-libuv", ">=", 1.5)
    goal("messages of 64 KiB per second, relative to libuv", "large.epoll.4.rate-to-libuv", ">=", 1.7)
    for (i = 1; i <= key_count; i++)
        if (keys[i] ~ /^sizes\.epoll\..*\.p99$/) {
            split(keys[i], count, ".")
            goal("latency, p99 in us, bytes per message: " commas(count[3]), keys[i], "<", 30000)
        }
    goal("memory per idle connection, in bytes", "memory.epoll.1000.bytes", "<=", 200)
    goal("milliseconds until 10,000 clients are connected and served", "open.epoll.10000.open", "<", 1000)
}

function goal(what, key, relation, limit,    x, verdict) {
    x = figure(key)
    if (x == "")
        verdict = "not measured"
    else if (relation == ">=" ? x >= limit : relation == "<" ? x < limit : x <= limit)
        verdict = "met"
    else
        verdict = "MISSED"
    printf "  %-60s %2s %-7s %8s  %s\n", what, relation, commas(limit), pretty(x), verdict
}

function clients(count) {
    return ", clients: " commas(count)
}
