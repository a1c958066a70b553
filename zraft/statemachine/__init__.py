"""The replicated key-value machine: keys with revisions, and client sessions that make every command happen once.

Deterministic: what it becomes depends on the log alone. It does no I/O, knows no clock and draws no random numbers.
"""

from __future__ import annotations
