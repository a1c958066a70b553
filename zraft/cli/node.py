"""zraft-node: run one node in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from zraft.cli.common import Command, version_option
from zraft.config import load_config

PROGRAM = "zraft-node"


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Log to stderr what is at least this important.",
)
@version_option(PROGRAM)
def cli(config: Path, log_level: str) -> None:
    """Run the node that the file CONFIG describes, in the foreground.

    SIGTERM or Ctrl-C ends it: it hands leadership over first, then exits with status 0.
    """
    settings = load_config(config)
    # Sockets and threads are not for --help, --version or a bad file.
    from zraft.node import run

    sys.exit(run(settings, log_level))


def main() -> None:
    """Run zraft-node with this process's arguments; never returns."""
    sys.exit(cli.main(prog_name=PROGRAM))


if __name__ == "__main__":
    main()
