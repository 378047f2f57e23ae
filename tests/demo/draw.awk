# Draws what happened in a scene as a timeline: a row per client, one for the server, and the seconds.
#
#     awk -v rows="A B C" -v utf8=1 -v colour=1 -v live=1 -f draw.awk events
#
# A line of the input is one event: microseconds, actor, event, and perhaps some words about it.
#
#     says           from here on the client waits for its echo
#     echo WORDS     it gets its echo; the words (how long it waited) stand behind the mark
#     thinks         from here on it thinks
#     quiet WORDS    from here on it is quiet; the words stand in the middle of that stretch
#     closed WORDS   the server closed it; the words (after how long) stand behind the mark
#     leaves         from here on its row is empty
#     cpu N          of the server: the CPU time that it has wanted so far, in nanoseconds
#
# The picture ends with the last event, so a file that still grows can be drawn repeatedly; with live=1
# each line erases what stood behind it.

BEGIN {
    WIDTH = 52
    STEP = 25000  # microseconds per column, or more if the scene lasts longer

    # What a cell shows: its state, or the mark of an event.
    define("waits", "░", "/", 31, "waits")
    define("thinks", "─", "-", 2, "thinks")
    define("quiet", "·", ".", 2, "quiet")
    define("asleep", "·", ".", 2, "asleep")
    define("awake", "▄", ":", 33, "")
    define("burns", "█", "#", 31, "never sleeps")
    define("says", "►", ">", "1;36", "")
    define("echo", "◄", "<", "1;32", "")
    define("closed", "×", "x", "1;31", "")
    line_end = live ? "\033[K" : ""
}

function define(what, fine, plain, code, word) {
    glyph[what] = utf8 ? fine : plain
    paint[what] = code
    label[what] = word
}

{
    count++
    time[count] = $1
    actor[count] = $2
    what[count] = $3
    words[count] = $0
    sub(/^[^ ]+ [^ ]+ [^ ]+ ?/, "", words[count])
}

END {
    if (count == 0)
        exit
    if (time[count] - time[1] > WIDTH * STEP)
        STEP = (time[count] - time[1]) / WIDTH
    end = column(time[count])
    row_count = split(rows, row, " ")
    for (r = 1; r <= row_count; r++) {
        lay_out_client(row[r])
        print_row(row[r])
    }
    lay_out_server()
    print_row("server")
    print_seconds()
}

function column(t) {
    return int((t - time[1]) / STEP)
}

# Gives a state to the columns of the row from `from` to the one before `to`.
function fill(from, to, state,    c) {
    for (c = from; c < to; c++)
        cell[c] = state
}

# How long a client waited that did not measure it: shown only if the picture shows it as well.
function time_waited(from, to) {
    return to - from < 100000 ? "" : sprintf("waited %.2f s", (to - from) / 1000000)
}

function lay_out_client(name,    i, state, since, place, asked) {
    split("", cell)
    remark = ""
    state = ""
    since = place = 0
    for (i = 1; i <= count; i++) {
        if (actor[i] != name)
            continue
        place = column(time[i])
        if (place < since)
            place = since
        if (state != "")
            fill(since, place, state)
        since = place
        state = what[i] == "says" ? "waits" : ""
        if (what[i] == "thinks" || what[i] == "quiet")
            state = what[i]
        else if (what[i] != "leaves")
            cell[since <= end ? since++ : end] = what[i]
        if (what[i] == "quiet")
            label["quiet"] = words[i]
        else if (what[i] == "closed")
            remark = "closed after " words[i]
        else if (what[i] == "echo")
            remark = words[i] == "" ? time_waited(asked, time[i]) : "waited " words[i]
        if (what[i] == "says")
            asked = time[i]
    }
    if (state != "")
        fill(since, end + 1, state)
}

# A server that ran for half of the time between two looks, or wanted to, burns. One that ran for less
# was awake briefly, most likely at the time of the second look.
function lay_out_server(    i, before, share, place) {
    split("", cell)
    remark = ""
    before = 0
    for (i = 1; i <= count; i++) {
        if (what[i] != "cpu")
            continue
        if (before > 0 && time[i] > time[before]) {
            place = column(time[i])
            share = (words[i] - words[before]) / 1000 / (time[i] - time[before])
            fill(column(time[before]) + 1, place + 1, share >= 0.5 ? "burns" : "asleep")
            if (share > 0 && share < 0.5)
                cell[place] = "awake"
        }
        before = i
    }
    if (!(0 in cell))
        cell[0] = cell[1]
    smooth()
}

# The time that a server waited for a core is known only after the wait, so on a busy machine one column
# may show too little and the next too much. A column that differs from both neighbours is changed.
function smooth(    c) {
    for (c = 1; c < end; c++)
        if (cell[c - 1] == "burns" && cell[c + 1] == "burns")
            cell[c] = "burns"
        else if (cell[c - 1] != "burns" && cell[c] == "burns" && cell[c + 1] != "burns")
            cell[c] = "awake"
}

# Writes the word for the state into its longest stretch, if there is room.
function write_label(    c, from, length_now, best, best_from, word, k) {
    best = 0
    for (c = 0; c <= end + 1; c++) {
        if (c > 0 && cell[c] == cell[c - 1]) {
            length_now++
        } else {
            from = c
            length_now = 1
        }
        if (label[cell[c]] != "" && length_now > best) {
            best = length_now
            best_from = from
        }
    }
    if (best == 0)
        return
    word = " " label[cell[best_from]] " "
    if (length(word) + 2 > best)
        return
    from = best_from + int((best - length(word)) / 2)
    for (k = 1; k <= length(word); k++)
        letter[from + k - 1] = substr(word, k, 1)
}

function print_row(name,    c, last, line, code, now) {
    split("", letter)
    write_label()
    last = -1
    for (c in cell)
        if (cell[c] != "" && c + 0 > last)
            last = c + 0
    line = sprintf("  %-8s", name)
    code = ""
    for (c = 0; c <= last; c++) {
        now = cell[c] == "" ? "" : paint[cell[c]]
        if (colour && now != code)
            line = line "\033[0m" (now == "" ? "" : "\033[" now "m")
        code = now
        line = line (c in letter ? letter[c] : cell[c] == "" ? " " : glyph[cell[c]])
    }
    print line (colour ? "\033[0m" : "") (remark == "" ? "" : " " remark) line_end
}

function print_seconds(    t, tick, line, place) {
    tick = 500000
    while (tick / STEP < 5)
        tick *= 2
    line = sprintf("  %-8s", "seconds")
    for (t = 0; column(time[1] + t) <= end; t += tick) {
        place = 10 + column(time[1] + t)
        while (length(line) < place)
            line = line " "
        line = line sprintf("%.1f", t / 1000000)
    }
    print (colour ? "\033[2m" : "") line (colour ? "\033[0m" : "") line_end
}
