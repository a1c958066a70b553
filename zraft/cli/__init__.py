"""The programs: zraft-cli, zraft-node, zraft-cluster, zraft-chaos. They parse, call and print; nothing else is here."""
