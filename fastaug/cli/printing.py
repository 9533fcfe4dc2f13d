"""What the commands print."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import typer


def print_figures(as_json: bool, figures: dict[str, Any], lines: Iterable[str]) -> None:
    typer.echo(json.dumps(figures, indent=2) if as_json else "\n".join(lines))
