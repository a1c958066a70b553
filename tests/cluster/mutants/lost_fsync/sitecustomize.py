"""Where this folder is on PYTHONPATH, nodes acknowledge before they have synced, and forget the unsynced at SIGKILL.

What a node writes over its preallocated files stays in its memory until it is 300 ms old, whatever it syncs: like a
disk that lies about its cache, in a machine that loses power whenever the process is killed.
"""

from __future__ import annotations

import os
import sys
import time

if "zraft.cli.node" in sys.orig_argv:
    from zraft import storage

    AGE_SECONDS = 0.3

    class ForgetfulDisk(storage.RealDisk):
        def __init__(self):
            super().__init__()
            self.sync = self.write_back
            self.cached = []  # (when, handle, offset, bytes), oldest first

        def write(self, handle, offset, parts):
            data = b"".join(parts)
            if offset + len(data) > os.fstat(handle).st_size:
                self.write_back(handle, time.monotonic())
                super().write(handle, offset, parts)
            else:
                self.cached.append((time.monotonic(), handle, offset, data))

        def read(self, handle, offset, length):
            data = bytearray(super().read(handle, offset, length))
            for _, written, at, new in self.cached:
                first, last = max(at, offset), min(at + len(new), offset + len(data))
                if written == handle and first < last:
                    data[first - offset : last - offset] = new[first - at : last - at]
            return bytes(data)

        def write_back(self, handle, until=None):
            limit = time.monotonic() - AGE_SECONDS if until is None else until
            while self.cached and self.cached[0][0] <= limit:
                _, written, offset, data = self.cached.pop(0)
                os.pwrite(written, data, offset)

        def close(self, handle):
            self.write_back(handle, time.monotonic())
            super().close(handle)

    storage.RealDisk = ForgetfulDisk
