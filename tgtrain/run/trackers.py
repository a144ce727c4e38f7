"""Experiment trackers: the values of metrics.jsonl go to TensorBoard, MLflow or Weights & Biases, too (docs/trackers.md).

metrics.jsonl stays the record of a run. A tracker that may be on a server gets its values from a thread, and what it has missed
is sent later from that record: training neither waits for a tracker nor ends with it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from manifests.files import atomic_write, read_json
from manifests.manifest_io import json_bytes
from manifests.records import InputError
from tgtrain.config import flat_settings
from tgtrain.log_settings import LogSettings
from tgtrain.run.folder import read_facts

LAST_SECONDS = 10.0  # for what is left at the end of a run
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds between two tries
_MOST_POINTS = 100  # that are sent together
_MOST_VALUES, _MOST_SETTINGS = 1000, 100  # of one request of MLflow
_STATE_NAME = "trackers.json"
_PRIVATE = ("data.shards", "runtime.cache", "model.init", "model.init_tg")  # paths, URLs and commands stay here
_SECRETS = re.compile(r"KEY|TOKEN|PASS|_PWD|_AUTH|SECRET|CREDENTIAL")  # in names of environment variables
_PACKAGES = {"mlflow": "mlflow", "wandb": "wandb"}
# What the libraries do besides, unless the user has set it: nothing is sent to their makers, nothing is asked or printed, and a
# try ends soon. MLflow warns of folders as its store; one that the user names is used.
_MANNERS = {
    "mlflow": {
        "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_ALLOW_FILE_STORE": "true",
    },
    "wandb": {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"},
}  # fmt: skip

Point = tuple[int, Mapping[str, float]]
"""The values that belong to one step, by name."""


class Tracker(Protocol):
    """Where values go. What it cannot do it raises; `begin` may be called again then."""

    def begin(self) -> dict[str, int]:
        """Make or find the run there, and give the last step that it has of each name."""

    def send(self, points: Sequence[Point]) -> None:
        """Add values that it does not have."""

    def end(self, complete: bool) -> None:
        """No more values come for now. complete: the run has done all its steps."""


def require_trackers(settings: LogSettings) -> None:
    """InputError if a tracker is not installed, or has no address."""
    for name in settings.to:
        if name in _PACKAGES and importlib.util.find_spec(_PACKAGES[name]) is None:
            raise InputError(
                f"log.to names {name}, which is not installed: pip install 'tgprep[{name}]', or leave it out of log.to."
            )
    if "mlflow" in settings.to and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise InputError(
            "log.to names mlflow, and MLFLOW_TRACKING_URI does not say where its server is: "
            "export MLFLOW_TRACKING_URI=http://HOST:5000, or leave it out of log.to."
        )


def open_trackers(
    run: Path, settings: LogSettings, history: Sequence[Point], resumed_step: int, log: Callable[[str], None]
) -> list[Board | Feed]:
    """All that log.to names. history: the values up to resumed_step, of which each tracker gets what it does not have."""
    made: list[Board | Feed] = []
    for name in dict.fromkeys(settings.to):
        if name == "tensorboard":
            made.append(Board(run, resumed_step))
            continue
        for variable, value in _MANNERS[name].items():
            os.environ.setdefault(variable, value)
        of_project = run, settings.project
        tracker: Tracker = MLflow(*of_project) if name == "mlflow" else WeightsAndBiases(*of_project)
        made.append(Feed(name, tracker, history, log))
    return made


class Board:
    """TensorBoard files in the run folder, written at once."""

    def __init__(self, run: Path, resumed_step: int) -> None:
        self.writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=resumed_step + 1)
        except ImportError:
            pass  # metrics.jsonl holds the same

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of a step."""
        for name, value in values.items() if self.writer is not None else ():
            self.writer.add_scalar(name, value, step)

    def close(self, complete: bool) -> None:
        """Close the files."""
        if self.writer is not None:
            self.writer.close()


class Feed:
    """Gives values to a tracker from a thread, each once; tries again as long as it does not take them, and notes that once."""

    def __init__(self, name: str, tracker: Tracker, history: Iterable[Point], log: Callable[[str], None]) -> None:
        self.name, self.tracker, self.log = name, tracker, log
        self.pending = deque((step, _plain_names(values)) for step, values in history)
        self.has: dict[str, int] | None = None
        self.changed = threading.Condition()
        self.closing = self.complete = self.has_noted = False
        self.thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self.thread.start()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step; they are sent soon."""
        with self.changed:
            self.pending.append((step, _plain_names(values)))
            self.changed.notify()

    def close(self, complete: bool) -> None:
        """Send what is left, in LAST_SECONDS at most."""
        with self.changed:
            self.closing, self.complete = True, complete
            self.changed.notify()
        self.thread.join(LAST_SECONDS)
        if self.thread.is_alive() and not self.pending:
            self.log(f"note: {self.name} has all values, but did not answer to the end of the run.")
        elif self.pending:
            self.log(
                f"note: {self.name} did not take the values of {len(self.pending)} lines of metrics.jsonl; the same command "
                "sends them."
            )

    def _work(self) -> None:
        wait_seconds = _FIRST_WAIT
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.pending or self.closing)
                points, is_last_try = list(islice(self.pending, _MOST_POINTS)), self.closing
            try:
                self._send(points)
                if not points:
                    self.tracker.end(self.complete)
                    return
            except Exception as error:  # of libraries, servers and networks: none of them ends a training
                self.has = None  # a request may have been carried out without an answer
                self._note(error)
                if is_last_try:
                    return
                with self.changed:
                    self.changed.wait_for(lambda: self.closing, wait_seconds)
                wait_seconds = min(2 * wait_seconds, _LONGEST_WAIT)
                continue
            wait_seconds = _FIRST_WAIT
            with self.changed:
                for _ in points:
                    self.pending.popleft()

    def _send(self, points: Sequence[Point]) -> None:
        has = self.has = self.tracker.begin() if self.has is None else self.has
        new = [
            (step, {name: value for name, value in values.items() if step > has.get(name, -1)})
            for step, values in points
        ]
        self.tracker.send([point for point in new if point[1]])
        for step, values in new:
            has.update(dict.fromkeys(values, step))

    def _note(self, error: Exception) -> None:
        if not self.has_noted:
            self.has_noted = True
            self.log(
                f"note: {self.name} does not take values ({type(error).__name__}: {_without_secrets(str(error))}). Training goes "
                "on; what it misses is in metrics.jsonl, and is sent when it can be, or by the same command."
            )


class MLflow:
    """A run on the server (or in the folder) that MLFLOW_TRACKING_URI names."""

    def __init__(self, run: Path, project: str) -> None:
        self.folder, self.project, self.id = run, project, _state(run)["id"]
        self.address = os.environ.get("MLFLOW_TRACKING_URI")  # for all tries, whatever the process sets later
        self.client: Any = None
        self.run_id = ""

    def begin(self) -> dict[str, int]:
        """Find the run by the identity that is in its folder, or make it, with its settings."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.client = client = MlflowClient(self.address)
        experiment = client.get_experiment_by_name(self.project)
        place = client.create_experiment(self.project) if experiment is None else experiment.experiment_id
        found = client.search_runs([place], f"tags.`tgtrain.id` = '{self.id}'", max_results=1)
        run = found[0] if found else client.create_run(
            place, run_name=self.folder.resolve().name, tags={"tgtrain.id": self.id}
        )  # fmt: skip
        self.run_id = run.info.run_id
        if run.info.status != "RUNNING":
            client.update_run(self.run_id, status="RUNNING")
        missing = [Param(key, str(value)) for key, value in facts_of(self.folder).items() if key not in run.data.params]
        for start in range(0, len(missing), _MOST_SETTINGS):
            client.log_batch(self.run_id, params=missing[start : start + _MOST_SETTINGS])
        return {metric.key: metric.step for metric in client.get_run(self.run_id).data.to_proto().metrics}

    def send(self, points: Sequence[Point]) -> None:
        """Add the values, as many in a request as it takes."""
        from mlflow.entities import Metric

        now = time.time_ns() // 10**6
        metrics = [Metric(name, float(value), now, step) for step, values in points for name, value in values.items()]
        for start in range(0, len(metrics), _MOST_VALUES):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + _MOST_VALUES])

    def end(self, complete: bool) -> None:
        """The run is shown as finished, or as stopped."""
        self.client.set_terminated(self.run_id, "FINISHED" if complete else "KILLED")


class WeightsAndBiases:
    """A run of W&B, or with WANDB_MODE=offline its files below RUN/wandb, for `wandb sync`.

    Without a network nobody can say what W&B has: trackers.json notes the steps that were handed over, and the number of rows,
    with which those of the next part go on.
    """

    def __init__(self, run: Path, project: str) -> None:
        self.folder, self.project = run, project
        self.state = _state(run)
        self.run: Any = None

    def begin(self) -> dict[str, int]:
        """Begin the run, or go on with it. Neither the command line, the machine, code nor output is sent."""
        if self.run is None:
            import wandb

            settings = wandb.Settings(
                root_dir=str(self.folder), console="off", disable_git=True, disable_code=True, x_disable_meta=True,
                x_disable_stats=True, x_disable_machine_info=True, x_save_requirements=False, silent=True,
                init_timeout=20, finish_timeout=LAST_SECONDS,
            )  # fmt: skip
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", self.project), name=self.folder.resolve().name, id=self.state["id"],
                resume="allow", config=facts_of(self.folder), settings=settings,
            )  # fmt: skip
            self.run.define_metric("*", step_metric="step")
        return dict(self.state["wandb"])

    def send(self, points: Sequence[Point]) -> None:
        """Add a row for each point; `step` is one of its values, so that rows of one step stay apart."""
        for step, values in points:
            self.run.log({**values, "step": step}, step=self.state["rows"])
            self.state["rows"] += 1
            self.state["wandb"].update(dict.fromkeys(values, step))
        if points:
            _write_state(self.folder, self.state)

    def end(self, complete: bool) -> None:
        """The run is shown as finished, or as failed."""
        self.run.finish(exit_code=0 if complete else 1)


def facts_of(run: Path) -> dict[str, Any]:
    """What a tracker shows of a run: its settings, data set, split and versions; no path, address, command or host."""
    facts = read_facts(run)
    settings = {key: value for key, value in flat_settings(facts.config).items() if key not in _PRIVATE}
    return {
        **settings,
        "dataset": facts.data.dataset, "dataset_digest": facts.data.digest, "split": facts.split.name,
        "split_digest": facts.split.digest, "labelled": facts.split.labelled, "unlabelled": facts.split.unlabelled,
        "num_steps": facts.num_steps, "steps_per_epoch": facts.steps_per_epoch, "world_size": facts.world_size,
        **{f"versions.{name}": version for name, version in facts.versions.items()},
    }  # fmt: skip


def _state(run: Path) -> dict[str, Any]:
    """The identity of a run for its trackers, and the steps that W&B got; made where the file is not there or damaged."""
    try:
        state = read_json(run / _STATE_NAME)
        steps = {str(name): int(step) for name, step in state["wandb"].items()}
        if re.fullmatch("[0-9a-f]{32}", state["id"]):
            return {"id": state["id"], "wandb": steps, "rows": int(state["rows"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        pass
    state = {"id": uuid.uuid4().hex, "wandb": {}, "rows": 0}
    _write_state(run, state)
    return state


def _write_state(run: Path, state: dict[str, Any]) -> None:
    with atomic_write(run / _STATE_NAME) as file:
        file.write(json_bytes(state))


def _plain_names(values: Mapping[str, float]) -> dict[str, float]:
    """The values under names that every tracker takes: `top1@1x1` becomes `top1_1x1`."""
    return {
        "/".join(re.sub(r"[^\w.\- ]", "_", part).strip(". ")[:80] or "_" for part in name.split("/")): value
        for name, value in values.items()
    }


def _without_secrets(text: str) -> str:
    """The start of a message, without passwords and keys of the environment or in addresses."""
    for name, value in os.environ.items():
        if _SECRETS.search(name.upper()) and len(value) >= 4:
            text = text.replace(value, "***")
    text = re.sub(r"(://)[^/\s]*@", r"\1***@", text)  # to the last @, as clients do
    text = re.sub(r"([?&][^=&\s]+=)[^&\s]+", r"\1***", text)
    return " ".join(text.split())[:200]
