"""How the tests call the commands."""

from __future__ import annotations

from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from fastaug.cli.app import app

TINY = ["--model", "timm:test_resnet", "--weights", "none", "--size", "32", "--presize", "40", "--epochs", "1",
        "--batch-size", "4", "--device", "cpu"]  # fmt: skip


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160"})


def error_line(*arguments: str | Path, code: int = 1) -> str:
    """What is on stderr of a command that must fail with one line and this exit code."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output
    return result.stderr
