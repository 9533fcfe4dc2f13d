"""Names and reasons as text that can be printed."""

from __future__ import annotations

import os
import unicodedata

import pytest

from fastaug.text import cut, printable, short


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x1b[0m \x07\x00\x7f", r"\x1b[31mred\x1b[0m \x07\x00\x7f"),
        ("\x9b2J\x85", r"\x9b2J\x85"),  # the same as escape codes of one character
        ("\u202egpj.exe\u2066\u200f", r"\u202egpj.exe\u2066\u200f"),
        ("a\u2028b", r"a\u2028b"),
        (os.fsdecode(b"caf\xe9.jpg"), r"caf\udce9.jpg"),
        ("\ud83d", r"\ud83d"),
    ],
)
def test_what_would_steer_a_terminal_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["", "café Ωμέγα 猫 हिन्दी 👩‍🔬", r"C:\new\table.jpg", "$10_to_$20 [bold] %s"])
def test_everything_else_stays(text: str) -> None:
    assert printable(text) == text


def test_no_control_and_no_half_of_a_pair_is_left() -> None:
    every = "".join(map(chr, range(0x110000)))
    shown = printable(every)
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert not {unicodedata.bidirectional(c) for c in shown} & {
        "LRE",
        "RLE",
        "LRO",
        "RLO",
        "PDF",
        "LRI",
        "RLI",
        "FSI",
        "PDI",
    }
    shown.encode()


def test_long_names_and_values_are_cut() -> None:
    assert short("a\nb") == r"a\nb"
    assert short("n" * 60) == "n" * 60
    assert short("n" * 61) == "n" * 59 + "…"
    assert cut("x" * 98) == repr("x" * 98)
    assert cut(["x" * 500], 50) == repr(["x" * 500])[:50] + "…"
    assert cut(7) == "7"
