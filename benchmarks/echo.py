"""What pyzmq alone does on this machine: a ROUTER in a process of its own sends back what a DEALER sends.

`python echo.py` is the process; it prints its port. `echoes_per_s` is the client of it.
"""

from __future__ import annotations

import subprocess
import sys
import time

import zmq

MESSAGE = b"x" * 300  # a put of a 16-byte key and a 256-byte value, with what frames them


def serve() -> None:
    socket = zmq.Context.instance().socket(zmq.ROUTER)
    print(socket.bind_to_random_port("tcp://127.0.0.1"), flush=True)
    while True:
        identity = socket.recv()
        message = socket.recv()
        socket.send(identity, zmq.SNDMORE)
        socket.send(message)


def echoes_per_s(in_flight: int, seconds: float) -> float:
    """With so many messages under way at any time."""
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True) as server:
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        try:
            assert server.stdout is not None
            socket.connect(f"tcp://127.0.0.1:{int(server.stdout.readline())}")
            socket.send(MESSAGE)
            socket.recv()
            for _ in range(in_flight):
                socket.send(MESSAGE)
            begin = time.perf_counter()
            count = 0
            while time.perf_counter() < begin + seconds:
                socket.recv()
                socket.send(MESSAGE)
                count += 1
            return count / (time.perf_counter() - begin)
        finally:
            server.kill()
            context.destroy(linger=0)


if __name__ == "__main__":
    serve()
