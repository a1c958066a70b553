"""The Raft algorithm, pure: no sockets, files, clocks or global randomness. `Raft` is the entrance.

Rooms: `state` (the variables, grouped by lifetime), `log`, `progress`, `quorum`, `membership`, `change`, `admission`,
and on top of each other `replication`, `snapshots`, `reads`, `election`, `reconfiguration`, `raft` (the inputs). Names
are the paper's.
"""

from zraft.raft.membership import Address, Membership
from zraft.raft.raft import Raft
from zraft.raft.state import NOTHING, Durable, Output, Role, SavedSnapshot, Settings, Write

__all__ = [
    "NOTHING",
    "Address",
    "Durable",
    "Membership",
    "Output",
    "Raft",
    "Role",
    "SavedSnapshot",
    "Settings",
    "Write",
]
