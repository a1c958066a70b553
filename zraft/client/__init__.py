"""Clients of a zraft cluster.

One pure protocol core (`core.ClientCore`: no sockets, no clock, no threads) decides everything; two thin runners give
it sockets and time: `sync.Client` (a background thread) and `aio.AsyncClient` (the caller's event loop).
"""
