"""The deterministic simulator: whole clusters of the shipped actors in one thread, in virtual time, from one seed.

Rooms: `options` (what a run may draw), `scheduler` (virtual time), `network`, `disk`, `node` (one machine and its
process), `clients` (workloads that record a history), `operators` (who change the members), `faults` with `link_faults`
and `member_faults` (what is done to them), `invariants` with `configurations`, `durable` and `reference` (what must
hold at every step), `transcript`, `cluster` (puts one run together), `runner` (runs many), `mutants` (deliberate bugs
that a run must find) and `naive` (replication without Raft, and the write that it loses).

Nothing here imports ZeroMQ, starts a thread, or reads a clock; time in a run is an integer of microseconds.
"""
