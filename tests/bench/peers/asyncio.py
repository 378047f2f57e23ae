"""An echo server with asyncio, which queues what send() does not take: python3 -I asyncio.py"""

import asyncio
import sys


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def main():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    print("starting up on 127.0.0.1 port", port, file=sys.stderr, flush=True)
    await server.serve_forever()


asyncio.run(main())
