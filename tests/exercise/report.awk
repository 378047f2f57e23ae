# report.awk: reads the TAP of a grading, writes grade.json and junit.xml into SCRATCH, and prints the score.
# What it must know comes in environment variables, because awk changes the backslashes in those of its own.
#
# bats has a JUnit formatter, too. But a message may quote what a submission has printed, and with control
# characters (up to bats 1.13) or invalid UTF-8 in it the XML of that formatter is not well-formed.

BEGIN {
    stage = ENVIRON["STAGE"]
    groups = split("Core Hardening Client Inherited", group_names, " ")
    # ASCII and UTF-8 without control characters, and without what XML excludes
    continued = "[\200-\277]"
    valid = "^([\t\n -~]|\302[\240-\277]|[\303-\337]" continued "|\340[\240-\277]" continued \
        "|[\341-\354\356]" continued continued "|\355[\200-\237]" continued \
        "|\357[\200-\276]" continued "|\357\277[\200-\275]" \
        "|\360[\220-\277]" continued continued "|[\361-\363]" continued continued continued \
        "|\364[\200-\217]" continued continued ")+"
    for (i = 1; i < 256; i++)
        code[sprintf("%c", i)] = sprintf("\\x%02x", i)
}

# clean(TEXT): every byte that JSON or XML does not allow, or that would drive a terminal, becomes \xNN.
function clean(text,    result) {
    while (text != "") {
        if (match(text, valid)) {
            result = result substr(text, 1, RLENGTH)
            text = substr(text, RLENGTH + 1)
        } else {
            result = result code[substr(text, 1, 1)]
            text = substr(text, 2)
        }
    }
    return result
}

function json(text) {
    text = clean(text)
    gsub(/\\/, "&&", text)
    gsub(/"/, "\\\"", text)
    gsub(/\t/, "\\t", text)
    gsub(/\n/, "\\n", text)
    return "\"" text "\""
}

function xml(text) {
    text = clean(text)
    gsub(/&/, "\\&amp;", text)
    gsub(/</, "\\&lt;", text)
    gsub(/>/, "\\&gt;", text)
    gsub(/"/, "\\&quot;", text)
    return text
}

# add(TEXT, LINE): TEXT and LINE. TEXT is limited, because a submission may print without end.
function add(text, line) {
    return length(text) > 20000 ? text : text substr(line, 1, 1000) "\n"
}

# A step is known by its number. If it is listed twice, the second time was to learn its name.
/^(not )?ok [0-9]+ / {
    status = /^not/ ? "failed" : "passed"
    title = $0
    sub(/^(not )?ok [0-9]+ /, "", title)
    if (match(title, / # skip/)) {
        reason = substr(title, RSTART + 8)
        title = substr(title, 1, RSTART - 1)
        status = "skipped"
        if (reason == "not tried") {
            status = "not run"
            reason = "not run, because " ENVIRON["REASON"]
        }
    }
    milliseconds = 0
    if (match(title, / (# )?in [0-9]+ ?ms$/)) {
        milliseconds = substr(title, RSTART)
        gsub(/[^0-9]/, "", milliseconds)
        title = substr(title, 1, RSTART - 1)
    }
    number = title
    sub(/ .*/, "", number)
    step = ""
    if (number in result)
        next
    step = number
    steps[++count] = step
    name[step] = title
    result[step] = status
    time[step] = milliseconds
    got[step] = output[step] = status ~ /^(skipped|not run)$/ ? reason : ""
    minor = substr(step, 4) + 0
    group[step] = substr(step, 1, 3) != stage "." ? "Inherited" : minor < 20 ? "Core" : minor < 40 ? "Hardening" : "Client"
    next
}

/^1\.\.[0-9]+$/ { next }

# What a failure says begins with the line that tells what was expected.
step != "" && result[step] == "failed" {
    sub(/^# /, "")
    if (/^ *expected /)
        output[step] = ""
    if (/^ *got / && got[step] == "") {
        got[step] = substr($0, 1, 1000)
        sub(/^ *got */, "", got[step])
    }
    output[step] = add(output[step], $0)
}

function counts(group) {
    return sprintf("\"%s\": {\"score\": %d, \"max_score\": %d, \"skipped\": %d}",
        tolower(group), passed[group], most[group], skipped[group])
}

function write_json(file,    i, step, kind) {
    printf "{\"score\": %d,\n \"execution_time\": %d,\n", score, ENVIRON["SECONDS_TAKEN"] > file
    printf " \"output\": %s,\n", json(compiler) > file
    printf " \"extra_data\": {\"stage\": \"%s\", \"server\": %s, \"client\": %s, \"max_score\": %d, \"groups\": {\n", stage,
        json(ENVIRON["GRADED_SERVER"]), json(ENVIRON["GRADED_CLIENT"]), max_score > file
    for (i = 1; i <= groups; i++)
        printf "  %s%s\n", counts(group_names[i]), (i < groups ? "," : "}},") > file
    printf " \"tests\": [\n" > file
    for (i = 1; i <= count; i++) {
        step = steps[i]
        kind = result[step]
        printf "  {\"name\": %s, \"score\": %d, \"max_score\": %d,", json(name[step]), points[step], counted[step] > file
        if (kind != "skipped") # Gradescope knows only passed and failed
            printf " \"status\": \"%s\",", (kind == "passed" ? kind : "failed") > file
        printf " \"output\": %s, \"extra_data\": {\"group\": \"%s\", \"result\": \"%s\"}}%s\n", json(output[step]),
            tolower(group[step]), kind, (i < count ? "," : "") > file
    }
    print " ]}" > file
}

function write_junit(file,    i, step, kind) {
    print "<?xml version=\"1.0\" encoding=\"UTF-8\"?>" > file
    printf "<testsuites>\n<testsuite name=\"stage %s\" tests=\"%d\" failures=\"%d\" errors=\"0\" skipped=\"%d\" time=\"%d\">\n",
        stage, count, total["failed"] + total["not run"], total["skipped"], ENVIRON["SECONDS_TAKEN"] > file
    for (i = 1; i <= count; i++) {
        step = steps[i]
        kind = result[step]
        printf "  <testcase classname=\"%s.%s\" name=\"%s\" time=\"%.3f\">", stage, group[step], xml(name[step]),
            time[step] / 1000 > file
        if (kind == "skipped")
            printf "<skipped message=\"%s\"/>", xml(output[step]) > file
        else if (kind != "passed")
            printf "<failure message=\"%s\">%s</failure>", xml(got[step]), xml(output[step]) > file
        print "</testcase>" > file
    }
    print "</testsuite>\n</testsuites>" > file
}

function print_summary(    i, group) {
    for (i = 1; i <= groups; i++) {
        group = group_names[i]
        if (most[group] + skipped[group] == 0)
            continue
        printf "%-9s %3d of %d", group, passed[group], most[group]
        if (skipped[group] > 0)
            printf ", %d skipped", skipped[group]
        print (group == "Inherited" ? " (not in the score)" : "")
    }
    for (i = 1; i <= count; i++)
        if (result[steps[i]] == "failed")
            print name[steps[i]]
    if (total["not run"] > 0)
        printf "not run   %3d, because %s\n", total["not run"], ENVIRON["REASON"]
    printf "score     %3d of %d\n", score, max_score
}

END {
    while ((getline line < (ENVIRON["SCRATCH"] "/compiler")) > 0)
        compiler = add(compiler, line)
    for (i = 1; i <= count; i++) {
        step = steps[i]
        total[result[step]]++
        if (result[step] == "skipped") {
            skipped[group[step]]++
            continue
        }
        most[group[step]]++
        passed[group[step]] += result[step] == "passed"
        counted[step] = group[step] != "Inherited"
        points[step] = counted[step] && result[step] == "passed"
        max_score += counted[step]
        score += points[step]
    }
    write_json(ENVIRON["SCRATCH"] "/grade.json")
    write_junit(ENVIRON["SCRATCH"] "/junit.xml")
    if (ENVIRON["BROKEN"] != "")
        printf "%s", clean(compiler)
    print_summary()
}
