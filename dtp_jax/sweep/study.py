"""Where the trials of a sweep are written down: an Optuna study, which several processes share.

Optuna is imported by the functions that need it: it takes the better part of a second.
"""

import contextlib
import re
import time
import urllib.parse
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtp_jax.fields import first_line, local_path
from dtp_jax.run.files import DiskError, disk_errors
from dtp_jax.run.locks import alone
from dtp_jax.sweep.dimensions import Dimension
from dtp_jax.sweep.space import Choice

if TYPE_CHECKING:
    import optuna

DATABASE = "sweep.db"
JOURNAL = ".journal"
"""Ends the names of files that are Optuna's journals: for folders that machines share."""
REDUCTION = 3
"""Successive halving lets the best third go on after epochs 1, 3, 9, ..."""
OPENINGS, OPENING_SECONDS = 5, 0.5
"""Of a new database, whose tables another worker may be about to make."""
LOCKED_SECONDS = 60
"""So long a process waits for its turn to write into SQLite's file."""
ADDING = ".adding"
"""Is locked in the sweep's folder while a worker looks whether there are enough trials, and adds one."""
RECORD = "sweep"
"""The attribute of a study that says of which sweep it is."""


class StudyError(ValueError):
    """A study cannot be used. One line, for the user."""


def open_storage(given: str | None, folder: Path, *, writes: bool = True) -> Any:
    """Optuna's storage.

    Args:
      given: a URL, or a file FILE.journal; None: a file of SQLite in the sweep's folder.
      writes: False: nothing is made, and SQLite's file is opened to be read alone.

    Raises:
      StudyError: it cannot be opened.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if given and given.endswith(JOURNAL):
        # From the top: its lock is a link to this path.
        try:
            given = str(local_path("--storage", given).absolute())
        except ValueError as problem:
            raise StudyError(str(problem)) from problem
    file = Path(given) if given else folder / DATABASE
    if given is None or given.endswith(JOURNAL):
        if not writes and not file.is_file():
            raise StudyError(
                f"--workdir is {str(folder)!r}: it holds no {file.name}; allowed: the folder of a sweep, "
                "and its --storage where it has one"
            )
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise StudyError(
                f"--storage is {str(file)!r}; allowed: a file in a folder that can be made; "
                f"{first_line(problem)}"
            ) from problem
    for attempt in range(OPENINGS):
        try:
            if given and given.endswith(JOURNAL):
                backend = optuna.storages.journal.JournalFileBackend(given)
                return optuna.storages.JournalStorage(backend)
            return optuna.storages.get_storage(_database(given, file, writes))  # keeps what is over
        except Exception as problem:  # of any kind: every database has its own
            is_ours = given is None or given.startswith("sqlite")
            if attempt == OPENINGS - 1 or not is_ours:
                raise _no_storage(given or str(file), problem) from problem
            time.sleep(OPENING_SECONDS)
    raise AssertionError("the last attempt raises")


def require_address(given: str) -> None:
    """Raises StudyError, one line, where this is no address of a database. It is not connected to."""
    import sqlalchemy

    try:
        sqlalchemy.make_url(given).get_dialect()
    except Exception as problem:  # of any kind: every dialect has its own
        raise _no_storage(given, problem) from problem


def _no_storage(given: str, problem: Exception) -> StudyError:
    return StudyError(
        f"--storage is {masked(given)!r}; allowed: an address such as sqlite:///FILE or "
        f"postgresql://..., or FILE.journal; {first_line(problem)}"
    )


def masked(text: str) -> str:
    """A text without the passwords of addresses in it: it is shown, and written into files."""
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)


def _database(given: str | None, file: Path, writes: bool) -> Any:
    import optuna

    options: dict[str, Any] = {}
    if given is None:
        mode = "rwc" if writes else "ro"
        given = f"sqlite:///file:{urllib.parse.quote(str(file.absolute()))}?mode={mode}&uri=true"
    if given.startswith("sqlite"):
        options["engine_kwargs"] = {"connect_args": {"timeout": LOCKED_SECONDS}}
    return optuna.storages.RDBStorage(given, skip_table_creation=not writes, **options)


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """A context in which a storage that fails is a DiskError."""
    import optuna

    try:
        yield
    except (optuna.exceptions.StorageInternalError, OSError) as problem:
        raise DiskError(
            f"the storage of the sweep cannot be used: {first_line(problem.__cause__ or problem)}"
        ) from problem


class Study:
    """The study of one sweep."""

    def __init__(self, storage: Any, folder: Path, *, is_own: bool = False):
        """Makes none; `record` says whether there is one.

        In a storage of its own a sweep keeps its name when its folder gets another one.
        """
        self.storage, self.folder, self.name = storage, folder, folder.absolute().name or "sweep"
        if is_own:
            self.name = self._only() or self.name

    def make(self, record: Mapping[str, Any]) -> None:
        """Makes the study where it is not there; says of which sweep it is where nobody has yet."""
        import optuna

        with disk_errors(self.folder), alone(self.folder / ADDING), storage_errors():
            study = optuna.create_study(
                storage=self.storage,
                study_name=self.name,
                direction="maximize",
                load_if_exists=True,
            )
            if RECORD not in study.user_attrs:
                study.set_user_attr(RECORD, dict(record))

    def _only(self) -> str | None:
        import optuna

        with storage_errors():
            names = optuna.get_all_study_names(self.storage)
        return names[0] if len(names) == 1 else None

    def record(self) -> dict[str, Any] | None:
        """Of which sweep it is; None where there is no study."""
        try:
            with storage_errors():
                return self._load().user_attrs.get(RECORD)
        except KeyError:
            return None

    def trials(self) -> list["optuna.trial.FrozenTrial"]:
        """All of them, by number, as they are at the moment."""
        with storage_errors():
            return [one for one in self._load().get_trials(deepcopy=False) if _is_begun(one)]

    def first_values(self) -> dict[str, Any] | None:
        """What the first trial was given instead of drawing it: {} where it drew all; None before it began."""
        there = self.trials()
        return there[0].system_attrs.get("fixed_params", {}) if there else None

    def add(self, trials: int, first: Mapping[str, Any] | None = None) -> None:
        """Adds a trial, whose values whoever claims it draws; not where there are so many already.

        Args:
          first: values of the first of all trials, which are then not drawn.
        """
        with disk_errors(self.folder), alone(self.folder / ADDING), storage_errors():
            study = self._load()
            there = study.get_trials(deepcopy=False)
            if sum(map(_is_begun, there)) < trials:
                if first is not None and not there:
                    study.enqueue_trial(dict(first))
                study.ask()

    def open_trial(
        self, found: "optuna.trial.FrozenTrial", seed: int, pruner: str
    ) -> "optuna.trial.Trial":
        """A trial that goes on.

        What is drawn depends on the seed, the trial's number and the trials before: not on which worker
        draws, and how often it was started.
        """
        import optuna

        drawn = zlib.crc32(f"{seed}/{found.number}".encode())
        sampler = optuna.samplers.TPESampler(seed=drawn, constant_liar=True)
        with storage_errors():
            study = self._load(sampler=sampler, pruner=_pruner(pruner))
            return optuna.trial.Trial(study, found._trial_id)  # a study opens no trial twice

    def tell(self, number: int, value: float | None, *, pruned: bool = False) -> None:
        """Ends a trial."""
        import optuna

        states = optuna.trial.TrialState
        with storage_errors():
            self._load().tell(number, value, state=states.PRUNED if pruned else states.COMPLETE)

    def _load(self, **options: Any) -> "optuna.Study":
        import optuna

        options = {"sampler": optuna.samplers.RandomSampler(), **options}  # others are dear
        return optuna.load_study(storage=self.storage, study_name=self.name, **options)


def _pruner(name: str) -> Any:
    import optuna

    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=1, reduction_factor=REDUCTION, min_early_stopping_rate=0
        )
    return optuna.pruners.MedianPruner() if name == "median" else optuna.pruners.NopPruner()


def draw(trial: "optuna.trial.Trial", dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """The values of a trial, by the name of their dimension: those that it has, or new ones."""
    found = {}
    with storage_errors():
        for one in dimensions:
            drawn = one.distribution
            if isinstance(drawn, Choice):
                found[one.name] = trial.suggest_categorical(one.name, list(one.texts))
            elif hasattr(drawn, "log"):
                found[one.name] = trial.suggest_int(one.name, drawn.low, drawn.high, log=drawn.log)
            else:
                found[one.name] = trial.suggest_float(
                    one.name, drawn.low, drawn.high, log=one.is_log
                )
    return found


def _is_begun(trial: "optuna.trial.FrozenTrial") -> bool:
    """False of one whose worker was killed while it added it: the next to be added is that one."""
    return trial.state.name != "WAITING"


def is_finished(trial: "optuna.trial.FrozenTrial") -> bool:
    """Whether it has a result."""
    return trial.state.is_finished()
