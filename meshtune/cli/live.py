"""The live panel of a run on a terminal: the running block, losses as sparklines, the standing, time and money left.

Pure: what is drawn depends on a `Panel`'s values alone. Printing lines and reading events is `meshtune.cli.display`'s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from meshtune.system.text import counted, duration, number
from meshtune.trial import Progress

BARS = "▁▂▃▄▅▆▇█"
TRAIL = 16  # training losses that a running trial's sparkline shows
HISTORY = 60  # trials that the history's sparkline shows


@dataclass
class RunningTrial:
    """One running trial: its title, its last progress, its training losses so far, and the first step that was seen.

    `pack`: that it is trained with; None where it is trained alone.
    """

    title: str
    pack: int | None = None
    progress: Progress | None = None
    losses: list[float] = field(default_factory=list)
    first: tuple[int, float] | None = None  # and when: a trial that goes on does not begin at 0
    last: float = 0.0  # when the newest one was seen

    def take(self, progress: Progress, now: float = 0.0) -> None:
        """Take note of a progress."""
        if progress.training_loss is not None:
            self.losses.append(progress.training_loss)
        if self.first is None or progress.step < self.first[0]:
            self.first = progress.step, now
        if self.progress is None or progress.step > self.progress.step:
            self.last = now
        self.progress = progress

    def expected(self, now: float) -> tuple[float, float] | None:
        """Seconds that a whole trial of this kind takes, and those that are left of this one; None: not known yet."""
        if self.progress is None or self.first is None or self.progress.step <= self.first[0]:
            return None
        a_step = (self.last - self.first[1]) / (self.progress.step - self.first[0])
        steps, step = self.progress.steps, self.progress.step
        return a_step * steps, max(0.0, a_step * (steps - step) - (now - self.last))

    @property
    def pack_name(self) -> str:
        """`pack 6`, or nothing."""
        return "" if self.pack is None else f"pack {self.pack}"

    @property
    def place(self) -> str:
        """Where it runs: the device, and the pack that it shares with others."""
        device = self.progress.place if self.progress is not None else ""
        return " ".join(filter(None, (device, self.pack_name)))

    @property
    def where(self) -> str:
        """`step 7 of 24`, or nothing."""
        now = self.progress
        return f"step {now.step} of {now.steps}" if now is not None and now.steps else ""


@dataclass
class Panel:
    """What is drawn.

    Attributes:
        running: running trials by number. block: the number of the newest block; members: its trials; ended: how many
            of them have ended.
        history: losses of the trials that have ended, in order; infinite where one has none.
        best, baseline: losses, None where there are none yet. best_trial: the best's number.
        done, total: trials ended and to be done (None: no limit of trials).
        elapsed: seconds of search. left: expected seconds, None where not known.
        price: of an hour, or None.
    """

    running: dict[int, RunningTrial] = field(default_factory=dict)
    block: int = 0
    members: int = 0
    ended: int = 0
    history: list[float] = field(default_factory=list)
    best: float | None = None
    best_trial: int | None = None
    baseline: float | None = None
    done: int = 0
    total: int | None = None
    elapsed: float = 0.0
    left: float | None = None
    price: float | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it, as rich asks."""
        yield Group(*(part for part in (self._trials(), self._standing()) if part is not None))

    def _trials(self) -> Table | None:
        if not self.running:
            return None
        table = Table.grid(padding=(0, 2, 0, 0))
        several = len({trial.place for trial in self.running.values()}) > 1
        for trial in sorted(self.running.values(), key=lambda trial: trial.place):
            now = trial.progress
            share = now.step / now.steps if now is not None and now.steps else 0.0
            loss = f"{trial.losses[-1]:.4f}" if trial.losses else ""
            trail = Text(sparkline(trial.losses[-TRAIL:]), style="cyan")
            bar = ProgressBar(total=1.0, completed=share, width=24)
            where = trial.place if several else trial.pack_name
            table.add_row(Text(where), Text(trial.title), bar, trial.where, trail, loss)  # a title is no markup
        return table

    def _standing(self) -> Text:
        text = Text()
        if self.history:
            text.append(sparkline(self.history[-HISTORY:], best=self.best) + "\n", style="green")
        parts = [f"{self.done}/{counted(self.total, 'trial')}" if self.total else counted(self.done, "trial")]
        if self.members > 1:
            parts.append(f"block {self.block}: {self.ended} of {self.members}")
        if self.best is not None:
            parts.append(f"best {self.best:.4f} (trial {self.best_trial})" + self._against())
        text.append(" · ".join(parts) + "\n")
        spent = [duration(self.elapsed) + (f", about {duration(self.left)} left" if self.left else "")]
        if self.price is not None:
            spent.append(self._money(self.price))
        return text.append(" · ".join(spent), style="dim")

    def _against(self) -> str:
        if self.baseline is None or self.best is None or self.best >= self.baseline:
            return ""
        if self.best < 0:  # of what may be negative, a share says nothing
            return f", {number(self.baseline - self.best)} below the baseline"
        return f", {100 * (1 - self.best / self.baseline):.1f} % below the baseline"

    def _money(self, price: float) -> str:
        spent = number(price * self.elapsed / 3600, 3)
        return f"{spent} spent" + (
            f" of about {number(price * (self.elapsed + self.left) / 3600, 3)}" if self.left else ""
        )


def sparkline(values: Sequence[float], best: float | None = None) -> str:
    """Values as bars, the lowest lowest; values far above the rest are cut, so that the rest can be told apart."""
    finite = sorted(value for value in values if math.isfinite(value))
    if not finite:
        return ""
    low = finite[0] if best is None else min(best, finite[0])
    middle = finite[len(finite) // 2]
    high = min(finite[-1], middle + 4 * (middle - low)) if middle > low else finite[-1]
    height = high - low

    def bar(value: float) -> str:
        if not math.isfinite(value):
            return " "
        share = min(1.0, (value - low) / height) if height > 0 else 0.0
        return BARS[round(share * (len(BARS) - 1))]

    return "".join(bar(value) for value in values)
