"""How fast a cluster is, and where the time goes: load, latencies, CPU by thread, stages of a write."""
