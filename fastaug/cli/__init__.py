"""The command line, `fastaug COMMAND`: parses options, calls the library, prints what came of it."""

from fastaug.cli.app import main as main
