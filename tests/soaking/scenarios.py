"""All scenarios. They are numbered in this order."""

from tests.soaking import files, loops, processes  # noqa: F401 (they enter themselves)
from tests.soaking.cases import SCENARIOS, Case, kind_of

__all__ = ["SCENARIOS", "Case", "kind_of"]
