"""Public names say what they take, give and raise: numpydoc's rules, and three of our own."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import numpydoc.docscrape
import pytest
from numpydoc.validate import validate

from skyfold import errors

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("skyfold", "models", "storage", "flows")
# What the reference shows to users: every parameter and what comes back is described there.
REFERENCE = (
    "skyfold.release",
    "skyfold.releases",
    "skyfold.images.library",
    "skyfold.images.image_set",
    "skyfold.images.index",
    "skyfold.images.window",
    "skyfold.catalogs.library",
    "skyfold.densities.library",
    "skyfold.objects.library",
    "skyfold.fidelity.record",
    "skyfold.fidelity.choice",
    "skyfold.fidelity.needs",
    "skyfold.science",
)
EVERYWHERE = {
    "GL08",  # no docstring
    "GL06",  # unknown section
    "GL07",  # sections in another order
    "PR02",  # a parameter that is not there
}
COMPLETE = EVERYWHERE | {"PR01"}  # a parameter that is not described


def modules() -> list[str]:
    paths = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in paths
        if path.stem != "__main__"
    ]


def public_names(module: str) -> Iterator[str]:
    """Functions and classes of a module, and their methods, by dotted name below it."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
            yield node.name
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and inner.name[0] != "_":
                    yield f"{node.name}.{inner.name}"


def object_of(module: str, name: str) -> object:
    found = importlib.import_module(module)
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    found = getattr(found, "__wrapped__", found)
    for wrapper in ("fget", "func", "__func__", "fn"):  # properties, cached ones, flows and tasks
        found = getattr(found, wrapper, None) or found
    return found


@pytest.mark.parametrize("module", modules())
def test_numpydoc_accepts_public_names(module):
    rules = COMPLETE if module in REFERENCE else EVERYWHERE
    problems = [
        f"{name}: {code} {text}"
        for name in public_names(module)
        for code, text in faults(module, name)
        if code in rules and not (code == "PR01" and is_plain(module, name))
    ]
    assert problems == []


def faults(module: str, name: str) -> list[tuple[str, str]]:
    found = object_of(module, name)
    if isinstance(found, type) and name.endswith("Config"):
        return []  # fields say it; see test_docs
    doc = numpydoc.docscrape.get_doc_object(found)
    return [(code, text) for code, text in validate(doc)["errors"]]


def is_plain(module: str, name: str) -> bool:
    """Whether a line may do: of a class, of one parameter, or where it names who describes it."""
    found = object_of(module, name)
    text = inspect.getdoc(found) or ""
    if "Parameters\n---" in text:
        return False
    if re.search(r"; see `|^As `|as in `", text):
        return True
    return isinstance(found, type) or len(inspect.signature(found).parameters) <= 2


@pytest.mark.parametrize("module", modules())
def test_arrays_have_shapes(module):
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    vague = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
            for line in (ast.get_docstring(node) or "").splitlines():
                kind = re.fullmatch(r"(?:\w[\w, *]* : )(.*)", line)
                given = kind[1] if kind else ""
                if re.match(r"(?:list of )?(?:nda|a)rray", given) and "shape" not in given:
                    vague.append(f"{node.name}: {line.strip()}")
    assert vague == []


@pytest.mark.parametrize("module", modules())
def test_errors_that_are_raised_are_named(module):
    """Of public functions and methods, what their own body raises stands in the docstring."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    silent = [
        f"{owner.name + '.' if owner else ''}{node.name}: {raised}"
        for owner, node in functions(tree)
        for raised in own_raises(node)
        if raised not in described(module, owner, node)
    ]
    assert silent == []


def described(module: str, owner: ast.ClassDef | None, node: ast.FunctionDef) -> str:
    """Docstrings of a function, of its class, and of what it overrides."""
    if owner is None:
        return ast.get_docstring(node) or ""
    kind = object_of(module, owner.name)
    inherited = [vars(base).get(node.name) for base in inspect.getmro(kind)]
    return " ".join(one.__doc__ or "" for one in [kind, *inherited] if one is not None)


def functions(tree: ast.Module) -> Iterator[tuple[ast.ClassDef | None, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name[0] != "_":
            yield None, node
        if isinstance(node, ast.ClassDef) and node.name[0] != "_":
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and (
                    inner.name[0] != "_" or inner.name in ("__init__", "__getitem__")
                ):
                    yield node, inner


def own_raises(function: ast.FunctionDef) -> Iterator[str]:
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            continue  # raises when it is called, by whoever calls it
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = getattr(node.exc.func, "id", "")
            if name in vars(errors):
                yield name
