#!/usr/bin/env python3
"""Broken: listens, but on a fixed port, and says so in words of its own."""
import socket

listener = socket.create_server(("127.0.0.1", 0))
print("Listening on port 10000", flush=True)
while True:
    client, _ = listener.accept()
    while data := client.recv(1024):
        client.sendall(data)
