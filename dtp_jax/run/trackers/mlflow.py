"""MLflow: a server, or a file of its own, as MLFLOW_TRACKING_URI says; by default ./mlflow.db."""

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dtp_jax.run.trackers.sent import Sent
from dtp_jax.run.trackers.tracker import TrackedRun, Tracker, TrackerError, numbers_of

WAITING = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""A server that does not answer holds a run up for so many seconds, twice, and is then left alone."""
MOST_METRICS, MOST_PARAMS = 1000, 100
"""At once; the library's limits."""


class MLflow(Tracker):
    """A run of MLflow, the same one for all starts of a run. What is written is sent with every checkpoint.

    MLflow keeps whatever it is sent, so that a step is sent once, when it is over.
    """

    def start(self, run: TrackedRun) -> None:
        """Goes on with the run that MLflow knows, or makes one."""
        for name, value in WAITING.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # the import has set it
        self._client, self._rows, self._sent = MlflowClient(), [], Sent(run, "mlflow")
        self._sent.begin(self._known() or self._made(run))
        run.note(f"MLflow: run {self._sent.id} in {self._client.tracking_uri}")
        for row in self._sent.missed():
            self.write(row)

    def write(self, row: Mapping[str, Any]) -> None:
        """Keeps it until the next checkpoint, or until there is much."""
        if not self._sent.has(row["step"]):
            self._rows.append((row["step"], int(1000 * time.time()), numbers_of(row)))
        if sum(len(numbers) for _, _, numbers in self._rows[-MOST_METRICS:]) >= MOST_METRICS:
            self.flush()

    def picture(self, file: Path, step: int) -> None:
        """The picture among the artifacts, under its own name."""
        self._client.log_artifact(self._sent.id, str(file), file.parent.name)

    def flush(self) -> None:
        """Sends the steps that are over."""
        if self._rows:
            self._send(self._rows[-1][0] - 1)

    def end(self, summary: Mapping[str, Any] | None) -> None:
        """Sends the rest, and how the run has ended."""
        if self._rows:
            self._send(self._rows[-1][0])
        if summary:
            self._client.log_dict(self._sent.id, dict(summary), "summary.json")
        self._client.set_terminated(self._sent.id, "FINISHED" if summary else "KILLED")
        self._sent.close()

    def _send(self, last: int) -> None:
        """What there is up to this step."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, milliseconds, step)
            for step, milliseconds, numbers in self._rows
            for name, value in numbers.items()
            if step <= last
        ]
        for first in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._sent.id, metrics[first : first + MOST_METRICS])
        self._rows = [row for row in self._rows if row[0] > last]
        self._sent.complete(last)

    def _known(self) -> str:
        """The id of the run that goes on; "" where there is none."""
        from mlflow.exceptions import MlflowException

        if not self._sent.id:
            return ""
        try:
            self._client.update_run(self._sent.id, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return ""
        return self._sent.id

    def _new(self, project: str) -> str:
        """The id of an experiment that is made now, by this run or by one that began with it."""
        from mlflow.exceptions import MlflowException

        try:
            return self._client.create_experiment(project)
        except MlflowException:
            found = self._client.get_experiment_by_name(project)
            if found is None:
                raise
            return found.experiment_id

    def _made(self, run: TrackedRun) -> str:
        """The id of a new run."""
        from mlflow.entities import Param

        project = run.config["project"]
        found = self._client.get_experiment_by_name(project)
        if found is not None and found.lifecycle_stage != "active":
            raise TrackerError(
                f"its experiment {project} has been deleted; allowed: another project"
            )
        where = found.experiment_id if found else self._new(project)
        named = dict(zip(("rule", "network", "dataset"), run.tags, strict=True))
        tags = {**named, "group": run.group, "workdir": str(run.workdir)}
        made = self._client.create_run(where, tags=tags, run_name=run.name).info.run_id
        params = [Param(name, json.dumps(value)) for name, value in run.config.items()]
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(made, params=params[first : first + MOST_PARAMS])
        return made
