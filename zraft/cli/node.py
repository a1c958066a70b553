"""zraft-node: run one node in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from zraft.cli.backup import confirm_new_cluster
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
@click.option(
    "--force-new-cluster",
    is_flag=True,
    help="First make this node the only member of a new cluster: the way out when a majority is lost for good. "
    "Says what can be lost, and asks.",
)
@click.option("--yes", is_flag=True, help="With --force-new-cluster: do not ask.")
@version_option(PROGRAM)
def cli(config: Path, log_level: str, force_new_cluster: bool, yes: bool) -> None:
    """Run the node that the file CONFIG describes, in the foreground.

    SIGTERM or Ctrl-C ends it: it hands leadership over first, then exits with status 0.
    """
    if yes and not force_new_cluster:
        raise click.UsageError("--yes goes with --force-new-cluster")
    settings = load_config(config)
    if force_new_cluster:
        confirm_new_cluster(settings, yes)
    # Sockets and threads are not for --help, --version or a bad file.
    from zraft.node import run

    sys.exit(run(settings, log_level))


def main() -> None:
    """Run zraft-node with this process's arguments; never returns."""
    sys.exit(cli.main(prog_name=PROGRAM))


if __name__ == "__main__":
    main()
