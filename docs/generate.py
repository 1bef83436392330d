"""The parts of the pages that are made from the code: configuration, command lines, benchmarks.

    python docs/generate.py [--check] [--benchmarks build/benchmarks/images.json]

rewrites what stands between ``<!-- generated: NAME -->`` and ``<!-- end -->`` in the pages;
``--check`` writes nothing and exits with 1 if a page is not as it would be. ``--benchmarks`` first
takes the figures of a run of ``make bench`` over into ``docs/benchmarks.json``. Parts marked
``<!-- on the site: NAME -->`` change with every file and are filled in the site alone (`conf.py`).
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer.main
from pydantic import BaseModel

from skyfold.ladder import LEVELS

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
SNAPSHOT = DOCS / "benchmarks.json"
DRAWN = {  # measures of the front page's figure, and the image that it is of
    "flux_p90 >=5": "photometry: flux in 1 FWHM",
    "centroid_p90": "astrometry: centroid",
    "ellipticity_p90": "shapes: ellipticity",
}
DRAWN_IMAGE = "sim_typical"
_BLOCK = re.compile(r"(<!-- generated: (?P<name>[^>\n]+) -->\n).*?(<!-- end -->)", re.S)
_SITE = re.compile(r"<!-- on the site: (?P<name>[^>\n]+) -->\n")
_SECTIONS = {
    "release": "ReleaseConfig",
    "images": "ImagesConfig",
    "plane": "PlaneConfig",
    "catalogs": "CatalogConfig",
    "densities": "DensitiesConfig",
}


def main() -> None:
    """Rewrite or check every page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--benchmarks", type=Path)
    given = parser.parse_args()
    if given.benchmarks:
        SNAPSHOT.write_text(json.dumps(summary(given.benchmarks), indent=1) + "\n")
    stale = [page for page in pages() if rewritten(page) != page.read_text()]
    for page in stale:
        if not given.check:
            page.write_text(rewritten(page))
        print(f"{page.relative_to(ROOT)}: {'is not up to date' if given.check else 'rewritten'}")
    sys.exit(bool(stale) and given.check)


def pages() -> list[Path]:
    """Pages that hold a generated part."""
    every = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    return [page for page in every if "build" not in page.parts and _BLOCK.search(page.read_text())]


def rewritten(page: Path) -> str:
    """Text of a page with every generated part as it would be now."""
    return _BLOCK.sub(lambda at: at[1] + _part(at["name"]) + at[3], page.read_text())


def on_the_site(text: str) -> str:
    """Text of a page with all its generated parts, as the site shows it."""
    filled = _BLOCK.sub(lambda at: _part(at["name"]), text)
    return _SITE.sub(lambda at: _part(at["name"]), filled)


def _part(name: str) -> str:
    kind, _, argument = name.partition(" ")
    makers: dict[str, Callable[[str], str]] = {
        "survey": survey_keys,
        "command": commands,
        "modules": modules,
        "pages": existing_pages,
        "decisions": decisions,
        "cases": science_cases,
        "benchmarks": benchmarks,
    }
    return makers[kind](argument).strip() + "\n"


def _table(names: tuple[str, ...], rows: list[tuple[str, ...]], align: str = "") -> str:
    marks = [":-:" if one == "c" else "--:" if one == "r" else "---" for one in align]
    marks += ["---"] * (len(names) - len(marks))
    lines = [names, tuple(marks), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


# survey.toml


def survey_keys(section: str) -> str:
    """Keys of one section of survey.toml, from its typed configuration."""
    from storage import config

    name = _SECTIONS.get(section, f"{section.capitalize()}Config")
    model: type[BaseModel] = getattr(config, name)
    rows = [
        (f"`{key}`", _default(field), _markdown(field.description or ""))
        for key, field in model.model_fields.items()
    ]
    return _table(("key", "default", "meaning"), rows)


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None:
        return ""
    shown = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else None
    return f"`{shown or json.dumps(value)}`"


def _markdown(text: str) -> str:
    """Docstring as Markdown for a cell of a table."""
    return " ".join(text.replace("``", "`").split()).replace("|", "\\|")


# command lines


def commands(which: str) -> str:
    """Reference of one of the two command lines, from its functions."""
    from flows.__main__ import app as producer
    from skyfold.cli import app as consumer

    program, app = {
        "skyfold": ("skyfold", consumer),
        "flows": ("python -m flows", producer),
    }[which]
    group: Any = typer.main.get_command(app)
    parts = [_options(group.params), *_commands_of(group, program)]
    return "\n".join(part for part in parts if part)


def _commands_of(group: Any, program: str) -> Iterator[str]:
    """Title, meaning and options of every command, those of groups included."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands_of(command, f"{program} {name}")
            continue
        asked = [one for one in command.params if one.param_type_name == "argument"]
        words = [program, name, *(_argument(one) for one in asked)]
        needed = [f"{one.opts[-1]} {_kind(one)}" for one in command.params if _is_needed(one)]
        yield f"### `{' '.join([*words, *needed])}`\n\n{_markdown(command.help or '')}\n"
        yield _options(command.params)


def _argument(one: Any) -> str:
    name = one.metavar or one.name.upper()
    return f"{name}{'...' if one.nargs == -1 else ''}" if one.required else f"[{name}]"


def _is_needed(one: Any) -> bool:
    return one.param_type_name == "option" and one.required


def _kind(one: Any) -> str:
    if one.metavar:
        return str(one.metavar)
    name = str(one.type.name)
    return {"str": "TEXT", "integer": "INT", "path": "FILE"}.get(name, name.upper())


def _options(params: list[Any]) -> str:
    options = [one for one in params if one.param_type_name == "option"]
    rows = []
    for one in options:
        is_switch = one.is_flag or one.type.name == "boolean"
        spelled = ", ".join(f"`{name}`" for name in one.opts)
        value = "" if is_switch else f" {_kind(one)}"
        default = "required" if one.required else _shown_default(one, is_switch=is_switch)
        rows.append((spelled + value, default, _markdown(getattr(one, "help", None) or "")))
    return _table(("option", "default", "meaning"), rows) if rows else ""


def _shown_default(one: Any, *, is_switch: bool) -> str:
    return "" if one.default is None or is_switch else f"`{one.default}`"


# modules and science cases


def modules(package: str) -> str:
    """What each module of a package knows: the first sentence of its docstring."""
    rows = []
    for path in sorted((ROOT / package).rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        first = _markdown(text.split("\n\n")[0])
        rows.append((f"`{path.relative_to(ROOT)}`", first))
    return _table(("file", "what it knows"), rows)


def existing_pages(names: str) -> str:
    """Entries of a table of contents: those of the named pages that there are."""
    return "".join(f"/{name}\n" for name in names.split() if list(DOCS.glob(f"{name}.*")))


def decisions(_: str) -> str:
    """Links to every decision, by title."""
    notes = [path for path in (DOCS / "decisions").glob("*.md") if path.stem != "README"]
    titled = {path: path.read_text().split("\n")[0].removeprefix("# ") for path in notes}
    return "".join(
        f"- [{title}]({path.name})\n"
        for path, title in sorted(titled.items(), key=lambda one: one[1])
    )


def science_cases(_: str) -> str:
    """Science cases that come with skyfold."""
    from skyfold.science import cases

    rows = []
    for case in cases():
        about = (sys.modules[type(case).__module__].__doc__ or "").split("\n\n")[0]
        _, _, said = about.partition(": ")
        meaning = _markdown(said or about)
        rows.append((f"`{case.name}`", case.kind, f"`{case.default_measure}`", meaning))
    return _table(("case", "kind", "measure unless named", "what it asks"), rows)


# benchmarks


def summary(path: Path) -> dict[str, Any]:
    """The figures of a benchmark run that the page shows."""
    sys.path.insert(0, str(ROOT))
    from tests.benchmarks.bars import judge

    content = json.loads(path.read_text())
    by_image: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in content["records"]:
        by_image[one["image"]].append(one)
    images = {}
    for name, records in by_image.items():
        lossless = defaultdict(list)
        for one in records:
            if one["lossless"]:
                lossless[one["codec"]].append(one["bpp"])
        images[name] = {
            "kind": records[0]["kind"],
            "dtype": records[0]["dtype"],
            "levels": {one["setting"]: one["bpp"] for one in records if one["codec"] == "skyfold"},
            "flux": {
                one["setting"]: one["flux_p90 >=5"] for one in records if one["codec"] == "skyfold"
            },
            "lossless": {codec: min(rates) for codec, rates in lossless.items()},
            "bars": judge(records),
        }
    minutes = {kind: one["minutes"] for kind, one in content["models"].items()}
    return {"minutes": minutes, "images": images, "curves": _curves(by_image[DRAWN_IMAGE])}


def _curves(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rate and losses of every codec at each of its settings, on one image."""
    curves: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in sorted(records, key=lambda one: one["bpp"]):
        if not one["lossless"] or one["codec"] == "skyfold":
            kept = {name: one[name] for name in ("setting", "bpp", *DRAWN)}
            curves[one["codec"]].append({**kept, "setting": str(kept["setting"])})
    return curves


def benchmarks(which: str) -> str:
    """Tables of the kept benchmark run."""
    images = json.loads(SNAPSHOT.read_text())["images"]
    return {"rates": _rates, "ratios": _ratios, "lossless": _lossless}[which](images)


def _rates(images: dict[str, Any]) -> str:
    names = ("image", "dtype", *(f"`{level}`" for level in LEVELS), "flux, `sources`")
    rows = [
        (
            name,
            one["dtype"],
            *(_number(one["levels"].get(level)) for level in LEVELS),
            _number(one["flux"].get("sources")),
        )
        for name, one in images.items()
    ]
    return _table(names, rows, "llrrrrr")


def _ratios(images: dict[str, Any]) -> str:
    shown = {
        "sources: RICE": "RICE_1 / `sources`",
        "sources: best": "best lossy peer / `sources`",
        "bounded: RICE": "`bounded` / RICE_1",
        "bounded: SZ3": "`bounded` / SZ3",
        "latent: JPEG": "`latent` / better JPEG",
        "latent: wavelet": "`latent` / wavelet",
    }
    rows = [
        (name, *(_number(one["bars"].get(bar)) for bar in shown)) for name, one in images.items()
    ]
    return _table(("image", *shown.values()), rows, "lrrrrrr")


def _lossless(images: dict[str, Any]) -> str:
    codecs = ("JPEG XL", "pcodec", "RICE_1", "JPEG 2000", "GZIP_2", "zstd")
    rows = [
        (
            name,
            one["dtype"],
            _number(one["levels"].get("exact")),
            *(_number(one["lossless"].get(codec)) for codec in codecs),
        )
        for name, one in images.items()
    ]
    return _table(("image", "dtype", "skyfold", *codecs), rows, "llrrrrrrr")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main()
