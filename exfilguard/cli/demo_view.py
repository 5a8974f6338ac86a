"""The demo's terminal: a live view where there is one, plain lines where there is not."""

from __future__ import annotations

import threading
import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..detect.policy import WINDOW_NAMES
from ..lab.attack import Loot
from ..lab.clinic import Tally
from ..runtime.clock import now_ms
from ..runtime.stats import read_all
from ..sidecar.verdict_table import VerdictTable
from .installation import Installation

ACCOUNTS = 8
REFRESH_S = 0.2
_STYLE = {"alert": "yellow", "throttle": "yellow", "cut": "bold red", "lock": "bold white on red"}


class View:
    """Every method may be called from the main thread only; the figures are read by a thread of its own."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.clinic: Tally | None = None
        self.loot: Loot | None = None
        self._began = time.monotonic()
        self._lines: list[Text] = []
        self._note = ""
        self._bar: tuple[str, int, int] | None = None
        self._windows: dict[str, dict[str, float]] = {}
        self._verdicts: dict[str, str] = {}
        self._figures: dict[str, float] = {}
        self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=5, transient=False)

    def __enter__(self) -> View:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._note = ""
            self._live.stop()

    # -- what the play tells ----------------------------------------------------------------------------------------

    def say(self, text: str, *, alarm: bool = False) -> None:
        """A line of the story."""
        self._note, self._bar = "", None
        stamp = f"{time.monotonic() - self._began:6.1f} s  "
        line = Text.assemble((stamp, "dim"), (text, "bold red" if alarm else ""))
        self._lines.append(line)
        if not self.console.is_terminal:
            self.console.print(stamp + text, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """What is being waited for; gone with the next line."""
        self._note = text

    def progress(self, what: str, done: int, total: int) -> None:
        self._bar = (what, done, total)
        if not self.console.is_terminal and done * 5 // total != (done - 5_000) * 5 // total:
            self.console.print(f"          {what}: {done:,} of {total:,}", markup=False)

    def watch(self, installation: Installation, stop: threading.Event) -> None:
        """Read the processes' figures until `stop`."""

        def run() -> None:
            while not stop.wait(REFRESH_S):
                self._read(installation)

        threading.Thread(target=run, name="view", daemon=True).start()

    def _read(self, installation: Installation) -> None:
        windows: dict[str, dict[str, float]] = {}
        figures: dict[str, float] = {}
        for snapshot in read_all(installation.data_dir).values():
            for name, labels, value in snapshot.values if snapshot is not None else ():
                if name == "account_window_records":
                    windows.setdefault(labels["account"], {})[labels["window"]] = value
                else:
                    figures[name] = figures.get(name, 0) + value
        now = now_ms()
        standing = VerdictTable(installation.data_dir / "verdicts.json").verdicts()
        self._verdicts = {v.principal: v.level for v in standing if v.in_force(now)}
        self._windows, self._figures = windows, figures

    # -- how it looks -----------------------------------------------------------------------------------------------

    def _render(self) -> Any:
        parts: list[Any] = [Panel(Group(*self._lines[-12:]), title="ExfilGuard demo", border_style="cyan")]
        if self._bar is not None:
            what, done, total = self._bar
            parts.append(
                Group(Text(f"{what}: {done:,} of {total:,}"), ProgressBar(total=total, completed=done, width=60))
            )
        if self._note:
            parts.append(Text(self._note, style="dim"))
        if self._windows:
            parts.append(self._accounts())
        if self.clinic is not None:
            parts.append(self._both_sides(self.clinic))
        return Group(*parts)

    def _accounts(self) -> Table:
        table = Table(
            title="records per account, rolling windows", title_style="bold", expand=False, header_style="cyan"
        )
        table.add_column("account", min_width=18)
        for window in WINDOW_NAMES:
            table.add_column(window, justify="right", min_width=8)
        table.add_column("verdict", min_width=8)
        ranked = sorted(self._windows.items(), key=lambda item: -item[1].get("1h", 0))
        for account, windows in ranked[:ACCOUNTS]:
            level = self._verdicts.get(account, "")
            cells = [f"{windows.get(window, 0):,.0f}" for window in WINDOW_NAMES]
            table.add_row(account, *cells, Text(level.upper(), style=_STYLE.get(level, "")))
        return table

    def _both_sides(self, tally: Tally) -> Text:
        figures = self._figures
        text = Text.assemble(
            ("clinic  ", "green"),
            f"{tally.queries:,} queries, {tally.refused} refused, median {tally.percentile_ms(0.5):.1f} ms, "
            f"{figures.get('sessions', 0):.0f} sessions   ",
            ("events  ", "green"),
            f"{figures.get('events_published_total', 0):,.0f} published, "
            f"{figures.get('events_processed_total', 0):,.0f} counted",
        )
        if self.loot is not None:
            text.append(f"\nthief   {len(self.loot.patients):,} patients", style="red")
        return text

    def incident(self, lines: list[tuple[str, str]]) -> None:
        """The end of the story."""
        width = max(len(name) for name, _ in lines)
        body = "\n".join(f"{name:{width}}  {text}" for name, text in lines)
        if self.console.is_terminal:
            self.console.print(Panel(Text(body), title="the incident", border_style="cyan", expand=False))
        else:
            self.console.print(body, markup=False, soft_wrap=True)
