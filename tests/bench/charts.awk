# Draws the charts of tests/bench/bench: awk -v record=FILE -v directory=DIRECTORY -f statistics.awk -f charts.awk
#
# A line per server, a dot per median, and through it a bar over the middle half of the runs. Both axes are
# logarithmic. There is no background, and all colours can be read on white and on black.

BEGIN {
    WIDTH = 720
    HEIGHT = 400
    LEFT = 64
    RIGHT = 130 # for the names of the lines
    TOP = 48
    BOTTOM = 52
    GREY = "#767d86"
    split("epoll #2f81f7 poll #d9730d select #b58900 nonblocking #e5534b edge #8957e5 threads #2da44e " \
        "callbacks #c2518f workers #0f9d9d uring #a0694b timeouts #6b8e23 libev #2da44e libevent #d9730d " \
        "libuv #8957e5 libuv-one-buffer #c2518f asyncio #e5534b", words, " ")
    for (i = 1; i in words; i += 2)
        colour[words[i]] = words[i + 1]

    if (read_points("idle", "cpu"))
        chart("idle", "CPU time per message of one client beside idle connections",
            "idle connections", "microseconds per message")
    if (read_points("ready", "call"))
        chart("ready", "One call that watches 4,000 descriptors", "descriptors that are ready",
            "microseconds of CPU time per call")
    # Without those whose lines would lie on that of epoll. blocking has no line, but a single point.
    drawn = "^(plain|nonblocking|select|poll|epoll|threads|workers|uring)$"
    if (read_points("load", "cpu", drawn))
        chart("load-cpu", "CPU time when all clients send", "clients", "microseconds per message")
    if (read_points("load", "rate", drawn))
        chart("load-rate", "Throughput when all clients send", "clients", "messages per second")
    if (read_points("peers", "rate"))
        chart("peers", "Throughput of a server on each library", "clients", "messages per second")
    if (read_buffers())
        chart("buffers", "Throughput of 64-KiB messages on four connections", "KiB of receive buffer",
            "messages per second")
}

# ---- The points of a chart ---------------------------------------------------------------------

function add_point(name, at, key,    count) {
    if (!(name in lines)) {
        lines[name] = ++line_count
        line_name[line_count] = name
    }
    points++
    owner[points] = name
    x[points] = at
    y[points] = median(key)
    count = sort_values(key)
    low[points] = quantile(count, 0.25)
    high[points] = quantile(count, 0.75)
    if (!(at in seen))
        tick[++ticks] = at + 0
    seen[at] = 1
}

function clear_points() {
    split("", lines)
    split("", seen)
    points = line_count = ticks = 0
}

# Reads what was measured on the servers that match the pattern. Returns how many points there are.
function read_points(part, what, pattern,    i, word) {
    clear_points()
    for (i = 1; i <= key_count; i++) {
        split(keys[i], word, ".")
        if (word[1] == part && word[4] == what && word[2] ~ pattern && median(keys[i]) > 0)
            add_point(word[2], word[3], keys[i])
    }
    return points
}

function read_buffers(    i, word, kib) {
    clear_points()
    for (i = 1; i <= key_count; i++) {
        split(keys[i], word, ".")
        kib = word[2]
        if (word[4] == "rate" && sub(/^buffer-/, "", kib))
            add_point("epoll", kib, keys[i])
    }
    return points
}

# ---- Drawing -----------------------------------------------------------------------------------

# 0 has a place of its own, where 1 would be.
function log10(number) {
    return number + 0 < 1e-9 ? 0 : log(number) / log(10)
}

function place_x(at) {
    return LEFT + (log10(at) - first_x) / (last_x - first_x) * (WIDTH - LEFT - RIGHT)
}

function place_y(at) {
    return HEIGHT - BOTTOM - (log10(at) - first_y) / (last_y - first_y) * (HEIGHT - TOP - BOTTOM)
}

function find_scales(    i) {
    sort(tick, ticks)
    first_x = log10(tick[1])
    last_x = log10(tick[ticks])
    first_y = 1e9
    last_y = -1e9
    for (i = 1; i <= points; i++) {
        if (log10(low[i]) < first_y)
            first_y = log10(low[i])
        if (log10(high[i]) > last_y)
            last_y = log10(high[i])
    }
    if (last_x - first_x < 0.1)
        last_x = first_x + 0.1
    first_y -= 0.08
    last_y += 0.08
}

function write_text(at_x, at_y, anchor, fill, words) {
    printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" fill=\"%s\">%s</text>\n", \
        at_x, at_y, anchor, fill, words >file
}

function rule(x1, y1, x2, y2, style) {
    printf "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" %s/>\n", x1, y1, x2, y2, style >file
}

# Grid lines at 1, 10, 100 and so on, and also at 2 and 5 if there is room.
function draw_axes(label_x, label_y,    i, at, power, step, grid) {
    grid = "stroke=\"" GREY "\" stroke-opacity=\"0.3\""
    for (i = 1; i <= ticks; i++) {
        rule(place_x(tick[i]), TOP, place_x(tick[i]), HEIGHT - BOTTOM, grid)
        write_text(place_x(tick[i]), HEIGHT - BOTTOM + 18, "middle", GREY, commas(tick[i]))
    }
    for (power = int(first_y) - 1; power <= last_y; power++)
        for (step = 1; step <= 5; step += step == 1 ? 1 : 3) {
            at = step * 10 ^ power
            if (log10(at) < first_y || log10(at) > last_y || (step > 1 && last_y - first_y > 2.5))
                continue
            rule(LEFT, place_y(at), WIDTH - RIGHT, place_y(at), grid)
            write_text(LEFT - 8, place_y(at) + 4, "end", GREY, at < 1 ? at : commas(sprintf("%.0f", at)))
        }
    write_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "middle", GREY, label_x)
    write_text(LEFT, TOP - 12, "start", GREY, label_y)
}

function draw_line(name,    i, path, ink) {
    ink = name in colour ? colour[name] : GREY
    for (i = 1; i <= points; i++) {
        if (owner[i] != name)
            continue
        path = path sprintf("%s%.1f,%.1f", path == "" ? "" : " ", place_x(x[i]), place_y(y[i]))
        rule(place_x(x[i]), place_y(low[i]), place_x(x[i]), place_y(high[i]),
            "stroke=\"" ink "\" stroke-width=\"5\" stroke-opacity=\"0.4\"")
        printf "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", place_x(x[i]), place_y(y[i]), ink >file
        end_x[name] = place_x(x[i])
        end_y[name] = place_y(y[i])
    }
    printf "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n", path, ink >file
}

# Writes the names at the right, each beside the end of its line, but not over another name.
function draw_names(    i, k, order, moved, previous) {
    for (i = 1; i <= line_count; i++) {
        moved = line_name[i]
        for (k = i - 1; k >= 1 && end_y[order[k]] > end_y[moved]; k--)
            order[k + 1] = order[k]
        order[k + 1] = moved
    }
    # From below: the lowest name has its place, and those above move up if they must.
    previous = HEIGHT - BOTTOM + 15
    for (i = line_count; i >= 1; i--) {
        at_y[i] = end_y[order[i]] + 4
        if (at_y[i] > previous - 15)
            at_y[i] = previous - 15
        previous = at_y[i]
    }
    for (i = 1; i <= line_count; i++) {
        moved = order[i] in colour ? colour[order[i]] : GREY
        rule(end_x[order[i]] + 4, end_y[order[i]], WIDTH - RIGHT + 10, at_y[i] - 4,
            "stroke=\"" moved "\" stroke-opacity=\"0.5\" stroke-dasharray=\"2 2\"")
        write_text(WIDTH - RIGHT + 14, at_y[i], "start", moved, order[i])
    }
}

function chart(name, title, label_x, label_y,    i) {
    file = directory "/" name ".svg"
    find_scales()
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" " \
        "font-size=\"13\">\n<title>%s</title>\n", WIDTH, HEIGHT, title >file
    printf "<text x=\"%d\" y=\"18\" fill=\"%s\" font-size=\"15\" font-weight=\"bold\">%s</text>\n", \
        LEFT, GREY, title >file
    draw_axes(label_x, label_y)
    for (i = 1; i <= line_count; i++)
        draw_line(line_name[i])
    draw_names()
    print "</svg>" >file
    close(file)
}
