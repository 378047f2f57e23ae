# Finds the figures in texts, and compares them with the record, or replaces them: see the comment in figures.

BEGIN {
    if (mode == "list") {
        list()
        exit
    }
}

mode == "check" || mode == "update" {
    rest = $0
    line = ""
    while (match(rest, /<!-- [^ ]+\.[^ ]+ -->/)) {
        key = substr(rest, RSTART + 5, RLENGTH - 9)
        before = substr(rest, 1, RSTART - 1)
        comment = substr(rest, RSTART, RLENGTH)
        rest = substr(rest, RSTART + RLENGTH)
        line = line compare(before, key) comment
    }
    if (rest ~ /<!--$/)
        complain("a key must stand on the line of its figure")
    if (mode == "update")
        print line rest
}

END { exit failed }

# Compares the last number of the text with the value of the key. Returns the text, with the number from the record.
function compare(text, key,    wanted, shown, right, at, number) {
    wanted = scaled(key)
    if (wanted == "") {
        complain("no key " key " in the record; tests/bench/figures --list shows all")
        return text
    }
    if (!match(text, /[0-9][0-9,]*(\.[0-9]+)?[^0-9]*$/)) {
        complain("no figure stands before the key " key " on its line")
        return text
    }
    at = RSTART
    number = substr(text, at)
    match(number, /^[0-9][0-9,]*(\.[0-9]+)?/)
    shown = substr(number, 1, RLENGTH)
    sub(/,$/, "", shown)
    right = like(shown, wanted)
    if (right != shown && mode == "check")
        complain(shown " is not the record's figure for " key ", which is " right)
    return substr(text, 1, at - 1) right substr(text, at + length(shown))
}

# The value of a key that may be followed by / or * and a number.
function scaled(key,    sign, number, x) {
    if (!match(key, /[*\/][0-9.]+$/))
        return figure(key)
    sign = substr(key, RSTART, 1)
    number = substr(key, RSTART + 1)
    x = figure(substr(key, 1, RSTART - 1))
    return x == "" || number + 0 == 0 ? "" : sign == "*" ? x * number : x / number
}

# x, written with as many digits as the figure that is shown.
function like(shown, x,    digits, decimals, text) {
    gsub(/,/, "", shown)
    if (index(shown, ".") || (x > 0 && x < 1 && shown > 0)) {
        decimals = index(shown, ".") ? length(shown) - index(shown, ".") : 1
        do
            text = sprintf("%." decimals "f", x)
        while (text + 0 == 0 && x > 0 && decimals++ < 9)
        return commas(text)
    }
    digits = shown
    sub(/0+$/, "", digits)
    digits = length(shown) == 1 ? 1 : length(digits) < 2 ? 2 : length(digits)
    return commas(sprintf("%.0f", round_to(x, digits)))
}

function complain(what) {
    printf "%s, line %d: %s\n", FILENAME, FNR, what | "cat >&2"
    failed = 1
}

function list(    i, word, other) {
    for (i = 1; i <= key_count; i++) {
        split(keys[i], word, ".")
        print_figure(keys[i])
        other = baseline(word[1], word[2])
        if (other != word[2])
            print_figure(keys[i] "-to-" other)
        if (word[4] == "cpu")
            print_figure(word[1] "." word[2] "." word[3] ".each")
    }
}

function print_figure(key,    x) {
    x = figure(key)
    if (x != "")
        printf("%-44s %s\n", key, x >= 1000 ? sprintf("%.0f", x) : sprintf("%.4g", x))
}
