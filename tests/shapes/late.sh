#!/bin/sh
# A program that needs 0.8 s to start. Held to 06. (Beside the other shapes a step of an earlier stage may take
# longer than the 10 s of the default -i. A second -i replaces this one.)
sleep 0.8
exec "$WRAPPED" -i 60 "$@"
