"""A process of the soak: one case after the other, and what each leaves behind."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import shutil
import tempfile
import traceback
import warnings
from collections import Counter
from multiprocessing import forkserver, util
from pathlib import Path

from fastaug.loading.decode import has_dali, make_decoder
from tests.soaking import leftovers
from tests.soaking.children import learner
from tests.soaking.counts import Done
from tests.soaking.pictures import pictures
from tests.soaking.runs import set_one_thread
from tests.soaking.scenarios import SCENARIOS, Case, kind_of


class Worker:
    """Does cases in a folder of its own, which is empty after each of them."""

    def __init__(self, seed: int, only: list[str], folder: Path) -> None:
        self.seed, self.only = seed, only
        self.folder = folder / f"worker-{os.getpid()}"
        unknown = set(only) - set(SCENARIOS)
        if unknown:
            raise ValueError(f"soak: expected scenarios of {sorted(SCENARIOS)}, got {sorted(unknown)}.")
        set_one_thread()
        warnings.simplefilter("error")
        logging.getLogger("fastaug").addHandler(logging.NullHandler())  # bad files are expected: who wants to read them
        logging.getLogger("fastaug").propagate = False
        util.get_temp_dir()  # of the processes that will be started, and their server: they are there until the end
        forkserver.ensure_running()
        temporary = self.folder / "temporary"
        temporary.mkdir(parents=True)
        tempfile.tempdir = str(temporary)
        learner(0).save(temporary / "model.pt")  # what is imported late
        (temporary / "model.pt").unlink()
        if has_dali():  # it takes 90 MB when it is first used
            decoder = make_decoder("dali", "cpu", 1)
            decoder.decode([picture.content for picture in pictures()])
            decoder.close()
        gc.collect()
        gc.freeze()  # what there is until the end need not be looked through after each case

    def do(self, number: int, limit_s: float) -> Done:
        """limit_s: after which it is printed where every thread is."""
        kind = kind_of(self.seed, number)
        if self.only and kind not in self.only:
            return Done(None, Counter(), None, 0.0)
        faulthandler.dump_traceback_later(limit_s)
        case, wrong = Case(self.seed, number, self.folder / "case"), None
        try:
            do(kind, case)
        except BaseException:
            wrong = f"{kind}\n{traceback.format_exc()}"
        faulthandler.cancel_dump_traceback_later()
        return Done(kind, case.counts, wrong, leftovers.resident_mb())


def do(kind: str, case: Case) -> None:
    """A scenario, and whether it leaves anything behind; in the folder above the case's, no file is allowed either."""
    case.folder.mkdir()
    before = leftovers.Before()
    try:
        SCENARIOS[kind](case)
        before.expect_nothing_more()
    finally:
        shutil.rmtree(case.folder, ignore_errors=True)
    leftovers.expect_files(case.folder.parent, set())


__all__ = ["Worker", "do"]
