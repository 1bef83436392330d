"""What all flows of one survey share: its configuration, its release, its plan and model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger

from flows.parameters import night_of
from skyfold.access.store import Store
from skyfold.errors import ReleaseError
from skyfold.fidelity.holdout import HoldOut
from skyfold.images.network import Network
from skyfold.layout import MODEL_FILES, PROVENANCE_KEY
from skyfold.release import DataRelease, open_release
from storage.builder import ReleaseBuilder
from storage.config import SurveyConfig, load_config
from storage.images.entries import entry_from_note, note_of
from storage.survey import ImageRef, PlaneRef, SetAside, find_images

if TYPE_CHECKING:
    from skyfold.images.index import ImageEntry


@dataclass(frozen=True)
class Job:
    """A survey to be built; it travels to workers as its configuration, not as a file's name.

    Attributes
    ----------
    survey : str
        Path of survey.toml.
    night : str
        Takes the place of ``{night}`` in it.
    """

    survey: str
    night: str = ""

    def __getstate__(self) -> dict[str, Any]:
        return {"survey": self.survey, "night": self.night, "config": self.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @cached_property
    def config(self) -> SurveyConfig:
        """The survey's configuration."""
        return load_config(self.survey, self.night)

    @property
    def url(self) -> str:
        """Where the release is or will be."""
        return self.config.resolve(self.config.release.url)

    @cached_property
    def base(self) -> DataRelease | None:
        """The earlier release that this one stands on, if there is one."""
        name = self.config.release.base
        if name is None:
            return None
        return open_release(
            f"{self.url.rstrip('/').rpartition('/')[0]}/{name}", options=self.options
        )

    @cached_property
    def options(self) -> dict[str, Any]:
        """Options of the file system."""
        return dict(self.config.storage.options)

    @cached_property
    def builder(self) -> ReleaseBuilder:
        """The release being written."""
        return ReleaseBuilder(Store(self.url, self.options))

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
        """Digest of all settings that the plan depends on."""
        content = {
            "folder": self.config.folder,
            "images": [one.model_dump(mode="json") for one in self.config.images],
            "levels": self.config.levels.model_dump(mode="json"),
            "seed": self.config.training.seed,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def training_key(self, plan: Plan) -> str:
        """Digest of all that the model depends on, but for the content of the images."""
        base = self.config.release.base
        settings = self.config.training.model_dump(mode="json") if base is None else base
        content = [self.plan_key, sorted(entry.id for entry in plan.entries), settings]
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
        built_by = self.builder.store.read_json(PROVENANCE_KEY).get("config", {})
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
                f"{self.builder.store.url} has no plan for this configuration; run "
                f"`{self.command('train')}` first"
            )
        return plan

    def training(self) -> dict[str, Any] | None:
        """What training left: the model's digest and its history."""
        note: dict[str, Any] | None = self.builder.read_note("training")
        plan = self.plan()
        return note if note and plan and note["key"] == self.training_key(plan) else None

    def network(self) -> Network:
        """The trained model; ReleaseError if training has not been run."""
        note = self.training()
        if note is None:
            raise ReleaseError(
                f"{self.builder.store.url} has no model for this configuration; run "
                f"`{self.command('train')}` first"
            )
        return self.open_network(note["model"])

    def open_network(self, digest: str) -> Network:
        """Model of a digest, as the release holds it."""
        files = {name: self.builder.store.read(f"models/{digest}/{name}") for name in MODEL_FILES}
        return Network(files, digest)

    def command(self, step: str) -> str:
        """Command line of a step."""
        return f"python -m flows {step} {self.survey}" + (
            f" --night {self.night}" if self.night else ""
        )


def job_to_do(survey: str, night: str | None) -> Job | None:
    """The job of a flow's parameters; None, and a line in the log, if its release is sealed."""
    job = Job(survey, night_of(survey, night))
    if not job.is_published():
        return job
    get_run_logger().info("%s is sealed already", job.builder.store.url)
    return None


@dataclass(frozen=True)
class Plan:
    """Which images are archived, which cannot be, and which sky is held out of training.

    Attributes
    ----------
    refs : dict
        Where each image lies, by id.
    entries : list of ImageEntry
        In the survey's order, without headers and footprints: there may be very many.
    """

    key: str
    refs: dict[str, ImageRef]
    entries: list[ImageEntry]
    set_aside: list[dict[str, Any]]
    hold_out: dict[str, HoldOut]

    @classmethod
    def from_note(cls, note: dict[str, Any]) -> Plan:
        """Inverse of `to_note`."""
        return cls(
            note["key"],
            {row["id"]: ref_from_note(row) for row in note["refs"]},
            [entry_from_note(row) for row in note["entries"]],
            note["set_aside"],
            {name: HoldOut(**rule) for name, rule in note["hold_out"].items()},
        )

    def to_note(self) -> dict[str, Any]:
        """Plan as JSON."""
        slim = [replace(entry, header="", healpix=()) for entry in self.entries]
        return {
            "key": self.key,
            "refs": [asdict(ref) for ref in self.refs.values()],
            "entries": [note_of(entry) for entry in slim],
            "set_aside": self.set_aside,
            "hold_out": {name: rule.to_dict() for name, rule in self.hold_out.items()},
        }


def ref_from_note(row: dict[str, Any]) -> ImageRef:
    """Inverse of `dataclasses.asdict`."""
    planes = {name: row[name] and _plane(row[name]) for name in ("mask", "weight", "variance")}
    return ImageRef(**row | planes)


def _plane(row: dict[str, Any]) -> PlaneRef:
    bits = row["bits"]
    return PlaneRef(**row | {"bits": None if bits is None else tuple(bits)})
