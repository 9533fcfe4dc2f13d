"""Bad files, as they are said."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from fastaug.loading.quarantine import BadFileError, Quarantine, Tally
from fastaug.samples.samples import Samples


def test_names_reach_no_log_and_no_error_raw(caplog: pytest.LogCaptureFixture) -> None:
    samples = Samples(["a\n\x1b[31m.jpg", "th\udce9.jpg"], [0, 0], ["x"])
    kept = Quarantine(samples)
    with caplog.at_level(logging.WARNING, "fastaug"):
        kept.add(0, "damaged\r\x07")
    assert caplog.messages == [r"skipping a\n\x1b[31m.jpg: damaged\r\x07"]
    assert kept.listed()[0][0] == samples.paths[0], "who goes on with it gets the path as it is"
    with pytest.raises(BadFileError, match=r"could not load th\\udce9\.jpg: damaged"):
        Tally(kept, np.arange(2), 0, "raise", 0.5).add(np.array([1]), {1: "damaged"})
