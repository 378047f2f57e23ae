#!/bin/sh
# A program that needs 0.8 s to start. Held to 06.
sleep 0.8
exec "$WRAPPED" "$@"
