#!/bin/sh
# A wrapper without exec: the server is a child of this shell, and signals reach only the shell. What it does
# after the server has ended keeps the shell from becoming the server. Held to 03.
"$WRAPPED" "$@"
exit $?
