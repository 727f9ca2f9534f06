"""What going on is expected to gain, in the record: asked between blocks where that ends the search, and at its end.

What was found is noted before anything is done about it, so a run that goes on finds the same, and a search that it
ended ends again at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshtune.plan.budget import Limit
from meshtune.record.log import Record
from meshtune.selection.expected_gain import Allowed, expected_gain
from meshtune.system.text import percent

NOTE = "expected_gain"  # the note: the expected gain, and after how many trials that ended (`told`)


@dataclass(frozen=True)
class Gains:
    """Of one study.

    Attributes:
        allowed: says of hyperparameters whether they may be tried. least: a gain below which the search ends; None: it
            does not end so.
    """

    record: Record
    allowed: Allowed
    least: float | None = None

    def reached(self, *, waits: bool) -> Limit | None:
        """The end of the search, where too little is to be gained. `waits`: nothing can be proposed before trials end.

        Between blocks it is asked once; what it found stands until the next, and one that ended the search for good.
        """
        if self.least is None:
            return None
        noted = self.record.notes.get(NOTE)
        if not waits and not self._too_little(noted):
            noted = self.noted()
        if noted is None or not self._too_little(noted):
            return None
        what = f"another {noted['trials']} trials are expected to gain {percent(noted['mean'])} % of the loss"
        return Limit(f"{what}, less than {100 * self.least:.3g} %", hold=True)

    def noted(self) -> Mapping[str, Any] | None:
        """What another few trials are expected to gain, as it is noted now; None: too little is known."""
        noted: Mapping[str, Any] | None = self.record.notes.get(NOTE)
        told = len(self.record.finished)
        if noted is not None and noted["told"] == told:
            return noted
        found = expected_gain(self.record, self.allowed)
        if found is not None:
            noted = {**found.to_json(), "told": told}
            self.record.note(NOTE, noted)
            return noted
        return None

    def _too_little(self, noted: Mapping[str, Any] | None) -> bool:
        return noted is not None and self.least is not None and noted["mean"] < self.least
