"""The actors of a node, one file each. None imports another: what they know of each other is in `zraft.messages`."""
