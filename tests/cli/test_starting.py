"""What a command costs before it does something, and how it ends when it is told to."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import TINY, run
from tests.factories import PATIENCE_S, ROOT, run_command, run_python, wait_until

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
FASTAUG = [sys.executable, "-m", "fastaug"]


def test_help_and_wrong_options_import_no_torch() -> None:
    run_python("""
        import sys
        from fastaug.cli.app import app, run

        commands = ("train", "predict", "lr-find", "show", "summary", "demo", "check", "prepare", "cache", "bench")
        for arguments, code in (
            (["--version"], 0), (["--help"], 0), *(([command, "--help"], 0) for command in commands),
            ([], 2), (["train"], 2), (["trian", "photos"], 2), (["train", "photos", "--epoch", "3"], 2),
            (["train", "photos", "--epochs", "two"], 2), (["show", "photos", "--mode", "fast"], 2),
            (["train", "--config", "no.toml"], 2), (["show", "no/such/folder"], 1), (["bench", "no/such/folder"], 1),
        ):
            sys.argv = ["fastaug", *arguments]
            try:
                run()
            except SystemExit as end:
                assert end.code == code, (arguments, end.code)
            slow = {"torch", "numba", "kornia", "timm", "matplotlib"} & sys.modules.keys()
            assert not slow, (arguments, slow)
    """)


def on_terminal(*arguments: str, answer: bytes = b"", **options: object) -> tuple[int, str]:
    """Exit code and what a terminal shows; once `answer` is shown, Ctrl-C."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*FASTAUG, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT, start_new_session=True
    )
    os.close(theirs)
    shown, asked = b"", not answer
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # as Linux says that the terminal has nobody any more
            break
        if not part:
            break
        shown += part
        if not asked and answer in shown:
            asked = True
            process.send_signal(signal.SIGINT)
    os.close(ours)
    return process.wait(PATIENCE_S), shown.decode()


def test_importing_is_said_and_ctrl_c_answered_meanwhile(photos: Path) -> None:
    code, shown = on_terminal("bench", str(photos), answer="importing torch …".encode())
    assert code == 130
    assert shown.splitlines()[-1].split("\r")[-1] == "interrupted"
    assert "Traceback" not in shown


def test_ctrl_c_ends_a_training_and_leaves_whole_files(photos: Path, tmp_path: Path) -> None:
    command = [*FASTAUG, "train", str(photos), *TINY, "--epochs", "100000", "--out", str(tmp_path / "out")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT) as process:
        wait_until(lambda: (tmp_path / "out" / "checkpoint.pth").exists() or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stderr) == (130, "interrupted\n")
    assert "epoch 0 " in stdout  # a line each, since this is no terminal
    assert not list(tmp_path.rglob("*.unfinished"))


def test_who_reads_the_first_lines_only_is_no_error(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `| head -1`, within a command and at the end of the program."""
    done = run_command("bash", "-c", f"{sys.executable} -m fastaug --help | head -0; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("0\n", "")

    def closed(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("fastaug.cli.samples.find_samples", closed)
    result = run("check", photos)
    assert (result.exit_code, result.output) == (0, "")
