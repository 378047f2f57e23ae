# Reads the figures of a run of tests/bench/bench, and computes from them what tables, charts and texts show.
# The other awk programs are loaded after this one: awk -v record=FILE -f statistics.awk -f tables.awk
#
# A line of the record is a key and a value per run, with tabs between them; "-" stands for a run without a value:
#
#     idle.poll.1000.cpu  61.204  62.017  60.881
#
# A key says which part measured it, on which server, under how much load, and what. Two more kinds of keys
# are computed. A ratio is the median of the ratios in each run, because the two servers that it compares were
# measured one after the other, and a machine that is slow for a minute slows both:
#
#     idle.poll.1000.cpu-to-epoll   the CPU time per message of poll divided by that of epoll, under that load
#     idle.poll.1000.ratio          the same: relative to the server that the tables compare with
#     idle.poll.1000.each           what each idle connection adds to the CPU time per message
#     memory.timeouts.1000.bytes-minus-epoll    how much more it takes than epoll: the difference of two medians

BEGIN { read_record() }

function read_record(    status, line, column, columns, i) {
    while ((status = getline line < record) > 0) {
        if (line ~ /^#/)
            continue
        columns = split(line, column, "\t")
        keys[++key_count] = column[1]
        runs[column[1]] = columns - 1
        for (i = 2; i <= columns; i++)
            value[column[1], i - 1] = column[i]
    }
    if (status < 0) {
        printf "%s cannot be read\n", record | "cat >&2"
        exit 1
    }
}

# Sorts list[1] to list[count].
function sort(list, count,    i, k, moved) {
    for (i = 2; i <= count; i++) {
        moved = list[i]
        for (k = i - 1; k >= 1 && list[k] > moved; k--)
            list[k + 1] = list[k]
        list[k + 1] = moved
    }
}

# Puts the values of a key into `sorted`, and returns how many there are. With another key, these are the ratios of
# the two, run by run.
function sort_values(key, other,    i, count) {
    split("", sorted)
    for (i = 1; i <= runs[key]; i++) {
        if (value[key, i] == "-" || (other != "" && value[other, i] + 0 == 0))
            continue
        sorted[++count] = other == "" ? value[key, i] + 0 : value[key, i] / value[other, i]
    }
    sort(sorted, count)
    return count
}

# The value below which a share of the sorted ones lies. Between two of them it is interpolated.
function quantile(count, share,    place, low) {
    place = 1 + (count - 1) * share
    low = int(place)
    return low == count ? sorted[count] : sorted[low] + (place - low) * (sorted[low + 1] - sorted[low])
}

function median(key,    count) {
    count = sort_values(key)
    return count ? quantile(count, 0.5) : ""
}

# How far the middle half of the runs spreads, in percent of their median.
function spread(key,    count) {
    count = sort_values(key)
    return count < 2 || quantile(count, 0.5) == 0 ? 0 : \
        100 * (quantile(count, 0.75) - quantile(count, 0.25)) / quantile(count, 0.5)
}

# The key of another server, measured in the same way: other_server("idle.poll.10.cpu", "epoll").
function other_server(key, server,    word) {
    split(key, word, ".")
    return word[1] "." server "." word[3] "." word[4]
}

# The median of the ratios between a key and the same of another server, or "".
function ratio(key, server,    other, count) {
    other = other_server(key, server)
    if (!(key in runs) || !(other in runs))
        return ""
    count = sort_values(key, other)
    return count ? quantile(count, 0.5) : ""
}

# The value of any key, measured or computed, or "" if there is none.
function figure(key,    word, cell, at, other) {
    if (key in runs)
        return median(key)
    split(key, word, ".")
    cell = word[1] "." word[2] "." word[3] "."
    if (word[4] == "ratio")
        return ratio(cell "cpu", baseline(word[1], word[2]))
    if ((at = index(word[4], "-to-")) > 0)
        return ratio(cell substr(word[4], 1, at - 1), substr(word[4], at + 4))
    if ((at = index(word[4], "-minus-")) > 0) {
        key = cell substr(word[4], 1, at - 1)
        other = other_server(key, substr(word[4], at + 7))
    } else if (word[4] == "each" && word[3] > 0) {
        key = cell "cpu"
        other = word[1] "." word[2] ".0.cpu"
    }
    if (!(key in runs && other in runs))
        return ""
    return (median(key) - median(other)) / (word[4] == "each" ? word[3] : 1)
}

# What a server is compared with in tables.
function baseline(part, server) {
    if (server ~ /^poll-/)
        return "poll-" (server ~ /accept/ ? "accept-64" : "ask-first")
    if (server ~ /^epoll-/ || (part == "choices" && server == "edge"))
        return "epoll-" (server ~ /accept/ ? "accept-64" : "send-first")
    if (server ~ /^log-/)
        return "log-off"
    if (server ~ /^buffer-/)
        return "buffer-64"
    if (server ~ /^nodelay-/)
        return "nodelay-on"
    return "epoll"
}

# A number with the digits that are worth reading: three, and commas between thousands.
function pretty(x) {
    return x == "" || x == 0 ? x : \
        commas(sprintf(x >= 99.95 ? "%.0f" : x >= 9.995 ? "%.1f" : x >= 0.0995 ? "%.2f" : "%.3f", round_to(x, 3)))
}

# x with its first `digits` digits, and zeros after them.
function round_to(x, digits) {
    return sprintf("%." (digits - 1) "e", x) + 0
}

# Writes commas between the thousands of a number.
function commas(number,    point, decimals) {
    point = index(number, ".")
    decimals = point ? substr(number, point) : ""
    number = point ? substr(number, 1, point - 1) : number
    while (length(number) > 3) {
        decimals = "," substr(number, length(number) - 2) decimals
        number = substr(number, 1, length(number) - 3)
    }
    return number decimals
}
