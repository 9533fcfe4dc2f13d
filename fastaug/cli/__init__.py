"""The command line, `fastaug COMMAND`: parses options, calls the library, prints what came of it."""

from __future__ import annotations

from fastaug.cli import interrupt


def main() -> None:
    """The program. Ctrl-C is answered from here on, so everything else is imported later."""
    with interrupt.answered():
        from fastaug.cli.app import run

        run()
