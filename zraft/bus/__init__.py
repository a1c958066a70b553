"""The bus inside a node: actors as message handlers, threads that host them, a supervisor that restarts them.

Rooms: `actor` (what an actor is and is given), `host` (a thread with its mailboxes), `supervisor` (the policy),
`ports` (the sockets towards the world).
"""
