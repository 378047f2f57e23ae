#!/usr/bin/env python3
"""Python's selectors, which is epoll on Linux, with 4 KiB reads. It cannot ask for urgent bytes, and knows no
FD_SETSIZE. Held to 03, without the steps that demand select()'s own mechanism."""
import errno
import selectors
import socket
import sys
import time

arguments = [a for a in sys.argv[1:] if a != "-q"]
if len(arguments) > 2 or (arguments and not (arguments[0].isdigit() and int(arguments[0]) < 65536)):
    sys.exit(print("usage: selector.py [-q] [PORT [HOST]]", file=sys.stderr) or 2)
port = int(arguments[0]) if arguments else 10000
try:
    family, _, _, _, address = socket.getaddrinfo(
        arguments[1] if len(arguments) > 1 else "127.0.0.1", port, type=socket.SOCK_STREAM,
        flags=socket.AI_NUMERICHOST)[0]
except socket.gaierror as error:
    sys.exit(print("usage: HOST must be an address:", error, file=sys.stderr) or 2)
listener = socket.socket(family)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try:
    listener.bind(address)
except OSError as error:
    sys.exit(f"cannot listen on port {port}: {error.strerror}")
listener.listen(4096)
listener.setblocking(False)
print("starting up on", listener.getsockname()[0], "port", listener.getsockname()[1], flush=True)

selector = selectors.DefaultSelector()
selector.register(listener, selectors.EVENT_READ)
waiting = {}  # what each client is still owed
accept_again = None


def drop(client):
    global accept_again
    selector.unregister(client)
    del waiting[client]
    client.close()
    accept_again = accept_again and 0


def accept():
    global accept_again
    for _ in range(64):
        try:
            client, _ = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                selector.unregister(listener)
                accept_again = time.monotonic() + 1
                return
            if error.errno in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EFAULT):
                sys.exit(f"accept: {error.strerror}")
            if error.errno == errno.EAGAIN:
                return
            continue
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waiting[client] = b""
        selector.register(client, selectors.EVENT_READ)


def serve(client):
    try:
        if not waiting[client]:
            waiting[client] = client.recv(4096)
            if not waiting[client]:
                return drop(client)
        waiting[client] = waiting[client][client.send(waiting[client]):]
    except BlockingIOError:
        pass
    except OSError:
        return drop(client)
    selector.modify(client, selectors.EVENT_WRITE if waiting[client] else selectors.EVENT_READ)


while True:
    pause = None
    if accept_again is not None:
        pause = max(0, accept_again - time.monotonic())
        if pause == 0:
            accept_again = None
            selector.register(listener, selectors.EVENT_READ)
            pause = None
    for key, _ in selector.select(pause):
        if key.fileobj is listener:
            accept()
        elif key.fileobj in waiting:
            serve(key.fileobj)
