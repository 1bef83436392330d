"""What all flows of one survey share: its configuration, its release, batches, progress."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from prefect.task_runners import ThreadPoolTaskRunner

from skyfold.errors import ReleaseError
from skyfold.holdout import HoldOut
from skyfold.layout import MODEL_FILES, PROVENANCE_KEY
from skyfold.network import Network
from skyfold.store import Store
from storage.builder import ReleaseBuilder, entry_from_note
from storage.config import SurveyConfig, load_config
from storage.survey import ImageRef, SetAside, find_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skyfold.index import ImageEntry

MAX_TASKS = 64  # a stage: thousands of mapped tasks destabilise servers
THREADS: Any = ThreadPoolTaskRunner(max_workers=os.cpu_count() or 2)


@dataclass(frozen=True)
class Job:
    """A survey to be built.

    Attributes
    ----------
    survey : str
        Path of survey.toml.
    """

    survey: str

    @cached_property
    def config(self) -> SurveyConfig:
        """The survey's configuration."""
        return load_config(self.survey)

    @cached_property
    def options(self) -> dict[str, Any]:
        """Options of the file system."""
        return dict(self.config.storage.options)

    @cached_property
    def builder(self) -> ReleaseBuilder:
        """The release being written."""
        return ReleaseBuilder(Store(self.config.resolve(self.config.release.url), self.options))

    @cached_property
    def found(self) -> tuple[dict[str, ImageRef], list[SetAside]]:
        """Images of the survey by id, and files that could not be listed."""
        refs, bad = find_images(self.config)
        return {ref.id: ref for ref in refs}, bad

    @property
    def refs(self) -> dict[str, ImageRef]:
        """Images of the survey by id."""
        return self.found[0]

    @cached_property
    def plan_key(self) -> str:
        """Digest of all that the plan depends on."""
        content = {
            "images": sorted(self.refs),
            "levels": self.config.levels.model_dump(mode="json"),
            "seed": self.config.training.seed,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def training_key(self) -> str:
        """Digest of all that the model depends on, but for the content of the images."""
        content = [self.plan_key, self.config.training.model_dump(mode="json")]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def is_published(self) -> bool:
        """Whether the release is sealed, by this very configuration.

        Raises
        ------
        SealedReleaseError
            If it is sealed and was built by another one.
        """
        if not self.builder.is_sealed():
            return False
        built_by = json.loads(self.builder.store.read(PROVENANCE_KEY)).get("config", {})
        if built_by.get("digest") != self.config.digest:
            self.builder.require_unsealed()
        return True

    def plan(self) -> Plan | None:
        """The plan of this configuration, if there is one."""
        note = self.builder.read_note("plan")
        return Plan.from_note(note) if note and note["key"] == self.plan_key else None

    def require_plan(self) -> Plan:
        """The plan; ReleaseError if training has not been run."""
        plan = self.plan()
        if plan is None:
            raise ReleaseError(
                f"{self.builder.store.url} has no plan for this configuration; run `python -m "
                f"flows train {self.survey}` first"
            )
        return plan

    def training(self) -> dict[str, Any] | None:
        """What training left: the model's digest and its history."""
        note: dict[str, Any] | None = self.builder.read_note("training")
        return note if note and note["key"] == self.training_key else None

    def network(self) -> Network:
        """The trained model; ReleaseError if training has not been run."""
        note = self.training()
        if note is None:
            raise ReleaseError(
                f"{self.builder.store.url} has no model for this configuration; run `python -m "
                f"flows train {self.survey}` first"
            )
        digest = note["model"]
        files = {name: self.builder.store.read(f"models/{digest}/{name}") for name in MODEL_FILES}
        return Network(files, digest)


@dataclass(frozen=True)
class Plan:
    """Which images are archived, which cannot be, and which sky is held out of training."""

    key: str
    entries: list[ImageEntry]
    set_aside: list[dict[str, Any]]
    hold_out: dict[str, HoldOut]

    @classmethod
    def from_note(cls, note: dict[str, Any]) -> Plan:
        """Inverse of `to_note`."""
        return cls(
            note["key"],
            [entry_from_note(row) for row in note["entries"]],
            note["set_aside"],
            {name: HoldOut(**rule) for name, rule in note["hold_out"].items()},
        )

    def to_note(self) -> dict[str, Any]:
        """Plan as JSON."""
        from storage.builder import note_of

        return {
            "key": self.key,
            "entries": [note_of(entry) for entry in self.entries],
            "set_aside": self.set_aside,
            "hold_out": {name: rule.to_dict() for name, rule in self.hold_out.items()},
        }


def batches(items: Sequence[str]) -> list[list[str]]:
    """Items in at most `MAX_TASKS` runs of like length, in order."""
    size = max(1, -(-len(items) // MAX_TASKS))
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
