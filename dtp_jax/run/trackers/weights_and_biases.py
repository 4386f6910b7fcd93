"""Weights & Biases: online, or offline in the run's folder, from where `wandb sync` sends it later."""

import contextlib
import io
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dtp_jax.fields import first_line
from dtp_jax.run.trackers.sent import Sent
from dtp_jax.run.trackers.tracker import TrackedRun, Tracker, name_of, numbers_of
from dtp_jax.run.trackers.wandb_files import last_step

START_SECONDS, END_SECONDS, WRITE_SECONDS = 20.0, 60.0, 5.0
"""So long a run waits, at most: for the service before its first step and after its last one, for the disk."""


class WeightsAndBiases(Tracker):
    """A run of W&B, the same one for all starts of a run. A process of the library's sends what there is.

    Steps are W&B's own. There they only rise, and one that has been left takes nothing more.
    """

    def start(self, run: TrackedRun) -> None:
        """Goes on with the run's id; offline where nobody is logged in, or the service does not answer."""
        self._sent, self._folder = Sent(run, "wandb"), run.workdir / "wandb"
        there = last_step(self._folder, self._sent.id) if self._sent.id else None
        self._here, self._last = self._init(run), -1
        self._sent.begin(self._here.id)
        if self._here.resumed:
            there = max(self._here.starting_step - 1, -1 if there is None else there)
        if there is not None:  # what was on its way when the run was killed is not there
            self._sent.step = there
        for row in self._sent.missed():
            self.write(row)

    def write(self, row: Mapping[str, Any]) -> None:
        """Every finite number, under SPLIT/KEY, and the epoch."""
        numbers = numbers_of(row)
        if numbers:
            self._log(row["step"], numbers | {"epoch": row["epoch"]})

    def picture(self, file: Path, step: int) -> None:
        """The picture as a panel."""
        import wandb

        self._log(step, {name_of(file): wandb.Image(str(file))})

    def end(self, summary: Mapping[str, Any] | None) -> None:
        """Waits until all is sent, but not for long; a run without a summary counts as failed."""
        self._here.summary.update(dict(summary or {}))
        self._here.finish(exit_code=0 if summary else 1)
        if self._here.offline:
            self._await_files()
        self._sent.complete(self._last)
        self._sent.close()

    def _log(self, step: int, content: Mapping[str, Any]) -> None:
        if self._sent.has(step):
            return
        step = max(step, self._sent.step + 1)  # a look before the first step after a resume
        self._here.log(dict(content), step=step)
        if step > self._last >= 0:
            self._sent.complete(self._last)
        self._last = step

    def _await_files(self) -> None:
        """Returns when an offline run is on the disk: the library's process writes its end in its own time."""
        give_up = time.monotonic() + WRITE_SECONDS
        while time.monotonic() < give_up:
            there = last_step(self._folder, self._here.id)
            if there is None or there >= self._last:
                break
            time.sleep(0.02)

    def _init(self, run: TrackedRun) -> Any:
        import wandb

        options = {
            "project": run.config["project"],
            "id": self._sent.id or secrets.token_hex(4),
            "resume": "allow",
            "dir": str(run.workdir),
            "name": run.name,
            "group": run.group or None,
            "tags": run.tags,
            "config": run.config,
            "allow_val_change": True,  # of bookkeeping, when a run goes on
            "reinit": "create_new",  # whatever else this process has open there
            "settings": wandb.Settings(
                console="off",  # the screen is none of its business
                silent=True,
                init_timeout=START_SECONDS,
                finish_timeout=END_SECONDS,
            ),
        }
        if wandb.setup().settings.mode != "online":
            return wandb.init(**options)  # as $WANDB_MODE says
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # where it has found a key
                knows = wandb.login(prompt=False, verify=False)
            if not knows:
                raise wandb.errors.UsageError("nobody is logged in: `wandb login`")
            here = wandb.init(**options)
        except Exception as error:  # of any kind: there are many ways not to reach a service
            run.warn(
                f"W&B cannot be reached ({first_line(error)}): its run is kept in {run.workdir / 'wandb'}; "
                "`wandb sync` sends it from there"
            )
            wandb.teardown()  # its process still holds the id
            return wandb.init(**options, mode="offline")
        run.note(f"W&B: {here.url}")
        return here
