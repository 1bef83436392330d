"""Hostile releases: what a mailed URL may hold, each as a change to a sound release.

A case changes the files of a copy, which is then sealed anew, as an attacker would who can write
everything. `part` is what a victim then asks for.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import io
import json
import math
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from skyfold.access.seal import is_read_whole, seal_root, write_manifest
from skyfold.images.index import read_index, write_index
from skyfold.images.network import model_digest

Change = Callable[[Path], None]
PETA = 2**50
SPARSE = 2**42  # bytes of a file without blocks: no common file system allows a petabyte
INDEX = "images/night1/index.parquet"
CATALOG = "catalogs/galaxies/catalog.json"


@dataclass(frozen=True)
class Hostile:
    """One case: a name, what a victim asks for, and what was done to the files.

    Attributes
    ----------
    harmless : bool
        May also be read as if nothing were wrong, such as text that is only shown.
    sealed_anew : bool
        Digests and manifest are put right after the change.
    """

    name: str
    part: str
    change: Change
    harmless: bool = False
    sealed_anew: bool = True


def reseal(folder: Path) -> None:
    """Digests and manifest of a changed release, so that nothing looks changed."""
    from hashlib import sha256

    def files() -> dict[str, bytes]:
        found = sorted(one for one in folder.rglob("*") if one.is_file() and not one.is_symlink())
        small = [one for one in found if one.stat().st_size < 2**26]
        return {str(one.relative_to(folder)): one.read_bytes() for one in small}

    held = files()
    whole = {key: sha256(data).hexdigest() for key, data in held.items() if is_read_whole(key)}
    root = folder / "zarr.json"
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):  # it may be none
        if "zarr.json" in held:
            root.write_bytes(seal_root(held["zarr.json"], whole))
    held = {key: data for key, data in files().items() if key != "manifest.json"}
    objects = {k: {"size": len(v), "sha256": sha256(v).hexdigest()} for k, v in held.items()}
    target = folder / "manifest.json"
    if target.is_file() and not target.is_symlink():
        target.write_bytes(write_manifest(objects))


# --- changes -----------------------------------------------------------------------------------


def raw(key: str, data: bytes | str | Callable[[], bytes]) -> Change:
    """Other bytes in place of an object's."""

    def change(folder: Path) -> None:
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        made = data() if callable(data) else data
        path.write_bytes(made if isinstance(made, bytes) else made.encode())

    return change


def edit_json(key: str, edit: Callable[[Any], Any]) -> Change:
    """Another content of a JSON object; `edit` changes it, or gives another."""

    def change(folder: Path) -> None:
        content = json.loads((folder / key).read_text())
        made = edit(content)
        (folder / key).write_text(json.dumps(content if made is None else made))

    return change


def set_at(*path: Any, value: Any) -> Callable[[Any], None]:
    """An edit that puts a value at a place."""

    def edit(content: Any) -> None:
        for one in path[:-1]:
            content = content[one]
        content[path[-1]] = value

    return edit


def array(path: str, *place: Any, value: Any) -> Change:
    """Another value in an array's metadata, in the root and beside the array."""

    def change(folder: Path) -> None:
        edit = set_at(*place, value=value)
        edit_json(f"{path}/zarr.json", edit)(folder)
        inside = functools.partial(_edit_consolidated, path, edit)
        edit_json("zarr.json", inside)(folder)

    return change


def _edit_consolidated(path: str, edit: Callable[[Any], None], root: Any) -> None:
    edit(root["consolidated_metadata"]["metadata"][path])


def entry(**changes: Any) -> Change:
    """Another description of every image."""

    def change(folder: Path) -> None:
        entries = read_index((folder / INDEX).read_bytes(), INDEX)
        details = (folder / "images/night1/details.bin").read_bytes()
        changed = [dataclasses.replace(one, **changes) for one in entries]
        index, _ = write_index(changed)
        table = pq.read_table(io.BytesIO(index))
        places = pa.array([list(one.details) for one in entries], pa.list_(pa.int64()))
        if "details" not in changes:
            at = table.schema.get_field_index("details")
            table = table.set_column(at, "details", places)
        _write_table(folder / INDEX, table)
        (folder / "images/night1/details.bin").write_bytes(details)

    return change


def _write_table(path: Path, table: pa.Table, **options: Any) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    path.write_bytes(sink.getvalue())


def table(key: str, make: Callable[[pa.Table], pa.Table], **options: Any) -> Change:
    """Another table in place of a Parquet object."""

    def change(folder: Path) -> None:
        found = pq.read_table(folder / key)
        _write_table(folder / key, make(found), **options)

    return change


def shard(layer: str, data: bytes | Callable[[bytes], bytes], row: str = "0") -> Change:
    """Other bytes in place of the objects of a layer."""

    def change(folder: Path) -> None:
        found = [one for one in folder.glob(f"{layer}/c/**/*") if one.is_file()]
        if not found:
            raise LookupError(f"no {layer} here")
        for path in found:
            path.write_bytes(data if isinstance(data, bytes) else data(path.read_bytes()))

    return change


def chunks(layer: str, data: bytes) -> Change:
    """Every chunk of a layer replaced, with a shard index that fits."""

    def make(old: bytes) -> bytes:
        import google_crc32c

        count = 4
        index = b"".join(struct.pack("<QQ", 0, len(data)) for _ in range(count))
        return data + index + google_crc32c.value(index).to_bytes(4, "little")

    return shard(layer, make)


def model(edit: Callable[[dict[str, bytes]], None]) -> Change:
    """Another model under its own digest, which the images then name."""

    def change(folder: Path) -> None:
        old = next(one for one in (folder / "models").iterdir() if (one / "decoder.onnx").exists())
        files = {one.name: one.read_bytes() for one in old.iterdir()}
        edit(files)
        digest = model_digest(files)
        target = folder / "models" / digest
        target.mkdir(exist_ok=True)
        for name, data in files.items():
            (target / name).write_bytes(data)
        entry(model=digest)(folder)

    return change


def graph(edit: Callable[[onnx.ModelProto], None]) -> Change:
    """Another decoder network."""

    def change(files: dict[str, bytes]) -> None:
        found = onnx.load_model_from_string(files["decoder.onnx"])
        edit(found)
        files["decoder.onnx"] = found.SerializeToString()

    return model(change)


def link(key: str, target: str) -> Change:
    """A symbolic link in place of an object."""

    def change(folder: Path) -> None:
        path = folder / key
        if path.is_dir():
            path.rename(path.with_name(path.name + "-moved"))
        else:
            path.unlink(missing_ok=True)
        os.symlink(target.replace("{folder}", str(folder)), path)

    return change


def fifo(key: str) -> Change:
    """A pipe in place of an object: who opens it waits for ever."""

    def change(folder: Path) -> None:
        (folder / key).unlink()
        os.mkfifo(folder / key)

    return change


def sparse_file(key: str, size: int) -> Change:
    """A file that claims a size and takes no disk."""

    def change(folder: Path) -> None:
        with (folder / key).open("r+b") as file:
            file.truncate(size)

    return change


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


# --- payloads ----------------------------------------------------------------------------------


class _Canary:
    """Code that runs if it is ever unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/skyfold-canary",)


PICKLE = pickle.dumps(_Canary())


def zstd_frame(size: int, *, stated: int | None = None) -> bytes:
    """zstd of zeros; with a frame that states another size."""
    data = bytes(pa.Codec("zstd").compress(bytes(size), asbytes=True))
    if stated is None:
        return data
    return b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", stated) + data[9:]


def deep(depth: int = 100_000) -> str:
    return "[" * depth + "]" * depth


def _node(operator: str, **attributes: Any) -> Callable[[onnx.ModelProto], None]:
    def edit(found: onnx.ModelProto) -> None:
        out = found.graph.output[0].name
        last = next(node for node in found.graph.node if out in node.output)
        last.output[0] = "before"
        node = helper.make_node(operator, ["before"], [out], **attributes)
        found.graph.node.append(node)

    return edit


def _sized(operator: str, values: list[int]) -> Callable[[onnx.ModelProto], None]:
    """An operator whose output is as large as a constant says, and then cut to size again."""

    def edit(found: onnx.ModelProto) -> None:
        out = found.graph.output[0].name
        last = next(node for node in found.graph.node if out in node.output)
        last.output[0] = "before"
        found.graph.initializer.append(numpy_helper.from_array(np.array(values), "size"))
        zero = numpy_helper.from_array(np.array(0), "zero")
        found.graph.initializer.append(zero)
        found.graph.node.append(helper.make_node(operator, ["before", "size"], ["large"]))
        found.graph.node.append(helper.make_node("Gather", ["large", "zero"], [out]))

    return edit


def _external(found: onnx.ModelProto) -> None:
    tensor = found.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    for key, value in (("location", "/etc/passwd"), ("offset", "0"), ("length", "100")):
        tensor.external_data.add(key=key, value=value)


def _dims(*dims: int) -> Callable[[onnx.ModelProto], None]:
    def edit(found: onnx.ModelProto) -> None:
        found.graph.initializer[0].dims[:] = dims

    return edit


def _weights(value: float) -> Callable[[onnx.ModelProto], None]:
    def edit(found: onnx.ModelProto) -> None:
        tensor = found.graph.initializer[0]
        values = numpy_helper.to_array(tensor).copy()
        values.flat[0] = value
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return edit


def _function(found: onnx.ModelProto) -> None:
    body = [helper.make_node("Relu", ["x"], ["y"])]
    opset = [helper.make_opsetid("", 18)]
    found.functions.append(helper.make_function("own", "f", ["x"], ["y"], body, opset))


def _many_nodes(found: onnx.ModelProto) -> None:
    out = found.graph.output[0].name
    last = next(node for node in found.graph.node if out in node.output)
    last.output[0] = "t0"
    for n in range(20_000):
        found.graph.node.append(helper.make_node("Relu", [f"t{n}"], [f"t{n + 1}"]))
    found.graph.node.append(helper.make_node("Identity", ["t20000"], [out]))


def _heavy(found: onnx.ModelProto) -> None:
    """A convolution of a 15-megabyte kernel at every pixel, four times over."""
    out = found.graph.output[0].name
    last = next(node for node in found.graph.node if out in node.output)
    last.output[0] = "h0"
    kernel = numpy_helper.from_array(np.ones((64, 64, 31, 31), np.float32), "kernel")
    found.graph.initializer.append(kernel)
    names = [f"h{n}" for n in range(1, 5)] + [out]
    for before, after in zip(["h0", *names], names, strict=False):
        found.graph.node.append(helper.make_node("Conv", [before, "kernel"], [after]))


def _loop(found: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    node = helper.make_node("Loop", ["", ""], ["z"], body=body)
    found.graph.node.append(node)


def _npz(**arrays: Any) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)
    return sink.getvalue()


def _npy_header(shape: str, dtype: str = "<f8") -> bytes:
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    head += " " * (117 - len(head)) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode()


def table_model(edit: Callable[[dict[str, bytes]], None]) -> Change:
    """Another model of the catalog under its own digest."""
    from skyfold.access.model_files import files_digest

    def change(folder: Path) -> None:
        info = json.loads((folder / CATALOG).read_text())
        old = folder / "models" / info["model"]
        files = {one.name: one.read_bytes() for one in old.iterdir()}
        edit(files)
        digest = files_digest(files)
        target = folder / "models" / digest
        target.mkdir(exist_ok=True)
        for name, data in files.items():
            (target / name).write_bytes(data)
        info["model"] = digest
        (folder / CATALOG).write_text(json.dumps(info))

    return change


def _zip_bomb(files: dict[str, bytes]) -> None:
    files["table.npz"] = _npz(targets=_npy_header(f"({2**25 + 9},)") + bytes(2**28 + 99))


def _swap(name: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    def edit(files: dict[str, bytes]) -> None:
        files[name] = data

    return edit


def ecsv(header: str, body: str = "") -> str:
    return f"# %ECSV 1.0\n# ---\n{header}\n{body}"


@functools.cache
def _bomb_parquet(kind: str) -> bytes:
    """A small file that claims, or holds, a great deal."""
    sink = io.BytesIO()
    if kind == "repeated string":
        long = pa.DictionaryArray.from_arrays(np.zeros(2_000, np.int32), ["x" * 400_000])
        pq.write_table(pa.table({"id": long}), sink)
    elif kind == "repeated list":
        values = pa.ListArray.from_arrays([0, 70_000_000], pa.nulls(70_000_000, pa.int8()))
        pq.write_table(pa.table({"id": values}), sink, compression="zstd")
    elif kind == "zeros":
        data = pa.array([bytes(2**28 + 99)], pa.binary())
        pq.write_table(pa.table({"id": data}), sink, compression="zstd", use_dictionary=False)
    elif kind == "rows":
        pq.write_table(pa.table({"id": pa.nulls(80_000_000, pa.int8())}), sink, compression="zstd")
    elif kind == "columns":
        pq.write_table(pa.table({f"c{n}": [1] for n in range(20_000)}), sink)
    return sink.getvalue()


def _claims_rows(data: bytes) -> bytes:
    """The footer's number of rows replaced, where it can be found."""
    return data.replace(b"\x16\x04", b"\x16\x7e")


SCRIPT = "<script>fetch('http://203.0.113.9/')</script><img src=x onerror=alert(1)>"
ESCAPE = "\x1b]0;owned\x07\x1b[2J\x1b[31mred"
GROUP = "images/night1/int16_2x2"
FLOATS = "images/night1/float32_2x2"  # it has NaN, so that its flags are not all zero


# --- the corpus --------------------------------------------------------------------------------


def cases() -> list[Hostile]:
    """Every case, names unique."""
    found = [
        *_roots(),
        *_metadata(),
        *_bytes(),
        *_files(),
        *_graphs(),
        *_models(),
        *_indexes(),
        *_records(),
        *_catalogs(),
        *_manifests(),
        *_names(),
    ]
    assert len({one.name for one in found}) == len(found)
    return found


def _roots() -> Iterator[Hostile]:
    def root(name: str, change: Change, **more: Any) -> Hostile:
        return Hostile(f"root: {name}", "all", change, **more)

    about = ("attributes", "skyfold")
    yield root("no JSON", raw("zarr.json", b"\x00\xff"))
    yield root("empty", raw("zarr.json", b""))
    yield root("nested 100,000 deep", raw("zarr.json", deep()))
    yield root("a number of 10,000 digits", raw("zarr.json", '{"a": ' + "9" * 10_000 + "}"))
    yield root("a list", raw("zarr.json", "[]"))
    yield root("larger than metadata may be", raw("zarr.json", b" " * (2**26 + 1)))
    yield root("sparse terabytes", sparse_file("zarr.json", SPARSE))
    yield root("attributes of a list", edit_json("zarr.json", set_at("attributes", value=[])))
    yield root("format of text", edit_json("zarr.json", set_at(*about, "format", value="1")))
    yield root("format of the future", edit_json("zarr.json", set_at(*about, "format", value=2)))
    for kind in ("images", "catalogs", "densities"):
        for name in ("../../../../etc", "/etc", "..", "a/../../b", "a\x00b", "a::b", ""):
            edit = set_at(*about, kind, value=[name])
            yield root(f"{kind} named {name!r}", edit_json("zarr.json", edit))
        yield root(f"{kind} is a number", edit_json("zarr.json", set_at(*about, kind, value=7)))
    yield root(
        "arrays of a list", edit_json("zarr.json", set_at("consolidated_metadata", value=[1]))
    )
    yield root(
        "digests that climb",
        edit_json("zarr.json", set_at(*about, "digests", value={"../x": "a"})),
        harmless=True,
    )


def _metadata() -> Iterator[Hostile]:
    layers = {
        f"{GROUP}/bounded": "images",
        f"{GROUP}/flags": "images",
        f"{GROUP}/latent": "images",
        "catalogs/galaxies/whole": "catalogs",
        "catalogs/galaxies/checksum": "catalogs",
        "densities/pz/exact": "densities",
        "densities/pz/checksum": "densities",
    }
    for path, part in layers.items():
        short = f"{part} {path.rpartition(chr(47))[2]}"
        for name, place, value in (
            ("a shape of petabytes", ("shape",), [PETA, PETA, PETA]),
            ("a negative shape", ("shape",), [-1, -5, 7]),
            ("a shape of text", ("shape",), ["many"]),
            ("a chunk of petabytes", ("chunk_grid", "configuration", "chunk_shape"), [PETA, PETA]),
            ("chunks of nothing", ("chunk_grid", "configuration", "chunk_shape"), [0, 0, 0]),
            ("objects as type", ("data_type",), "object"),
            ("another type", ("data_type",), "float64"),
            ("no codecs", ("codecs",), []),
            (
                "gzip",
                ("codecs",),
                [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 1}}],
            ),
            ("an unknown codec", ("codecs",), [{"name": "os.system"}]),
            ("codecs nested deep", ("codecs",), json.loads(deep(400))),
        ):
            unread = part == "images" and "chunk" in place[0]  # tiles are found by their places
            change = array(path, *place, value=value)
            yield Hostile(f"{short} with {name}", part, change, harmless=unread)


def _bytes() -> Iterator[Hostile]:
    endless = np.random.default_rng(1).bytes(400_000)
    bombs = {
        "zeros in zstd": zstd_frame(2**28),
        "zstd that states an exabyte": zstd_frame(100, stated=2**60),
        "an endless range coder": endless,
        "zlib that swells": b"\x02" + b"\xff\xff" + zlib.compress(bytes(2**26), 9),
        "a pcodec head and no end": b"\x01pco!" + bytes(40),
        "a number that never ends": b"\xff" * 10_000,
        "nothing": b"",
        "a pickle": PICKLE,
        "a method that is not known": b"\xee" * 99,
    }
    for layer in ("sources", "bounded", "flags", "latent", "direct"):
        for name, data in bombs.items():
            yield Hostile(f"{layer}: {name}", "images", _framed(f"{FLOATS}/{layer}", data))
    for layer in (
        "catalogs/galaxies/whole",
        "catalogs/galaxies/text/0",
        "densities/pz/exact",
        "densities/pz/latent",
    ):
        for name, data in bombs.items():
            part = layer.partition("/")[0]
            crc = zlib.crc32(data).to_bytes(4, "little")
            yield Hostile(f"{layer}: {name}", part, _framed(layer, crc + data), harmless=True)
    yield Hostile(
        "background: zeros in zstd", "images", shard(f"{GROUP}/background", zstd_frame(2**28))
    )
    for name in ("noise", "stripes"):
        change = shard(f"{FLOATS}/{name}", zstd_frame(2**28))
        yield Hostile(f"{name}: zeros in zstd", "images", change)
    for layer in (
        f"{GROUP}/background",
        f"{FLOATS}/noise",
        f"{FLOATS}/stripes",
        f"{GROUP}/checksum",
        "densities/pz/checksum",
    ):
        yield Hostile(
            f"{layer}: sparse terabytes",
            layer.partition("/")[0],
            _sparse_shard(layer),
            harmless=True,
        )


def _framed(layer: str, data: bytes) -> Change:
    """Objects of a layer that hold one chunk; images find it by its place, tables by an index."""

    def change(folder: Path) -> None:
        found = [one for one in folder.glob(f"{layer}/c/**/*") if one.is_file()]
        if not found:
            raise LookupError(f"no {layer} here")
        for path in found:
            old = path.read_bytes()
            if layer.startswith("images"):
                path.write_bytes(data + bytes(max(0, len(old) - len(data))))
                continue
            import google_crc32c

            index = struct.pack("<QQ", 0, len(data))
            path.write_bytes(data + index + google_crc32c.value(index).to_bytes(4, "little"))

    return change


def _sparse_shard(layer: str) -> Change:
    def change(folder: Path) -> None:
        for path in [one for one in folder.glob(f"{layer}/c/**/*") if one.is_file()]:
            with path.open("r+b") as file:
                file.truncate(SPARSE)

    return change


def _files() -> Iterator[Hostile]:
    for key, part in (
        (INDEX, "images"),
        (CATALOG, "catalogs"),
        ("fidelity.ecsv", "record"),
        ("manifest.json", "verify"),
        ("zarr.json", "all"),
        ("densities/pz/index.parquet", "densities"),
    ):
        for name, target in (
            ("a link to a secret", "/etc/passwd"),
            ("a link to itself", "{folder}/" + key),
            ("a link to zeros without end", "/dev/zero"),
            ("a link to nothing", "{folder}/nowhere"),
        ):
            yield Hostile(f"{key} is {name}", part, link(key, target), sealed_anew=False)
        yield Hostile(f"{key} is a pipe", part, fifo(key), sealed_anew=False)
    yield Hostile("images is a link to the root", "images", link("images", "/"), sealed_anew=False)
    yield Hostile("models is a link elsewhere", "images", link("models", "/tmp"), sealed_anew=False)


def _graphs() -> Iterator[Hostile]:
    operators = (
        "Loop",
        "If",
        "Scan",
        "LSTM",
        "RandomNormal",
        "ConstantOfShape",
        "Range",
        "Einsum",
        "StringConcat",
        "NonMaxSuppression",
    )
    for name in operators:
        yield Hostile(f"network with {name}", "images", graph(_node(name)))
    edits: dict[str, Callable[[onnx.ModelProto], None]] = {
        "an operator of another domain": _node("Evil", domain="com.evil"),
        "a body of its own": _loop,
        "a function of its own": _function,
        "weights in another file": _external,
        "a tensor of petabytes without data": _dims(PETA, 8),
        "a tensor of negative sides": _dims(-1, 8, 8, 1),
        "weights of NaN": _weights(math.nan),
        "weights of infinity": _weights(math.inf),
        "20,000 nodes": _many_nodes,
        "hours of multiplication": _heavy,
        "Tile to terabytes": _sized("Tile", [1, 4096, 4096, 4096]),
        "Expand to terabytes": _sized("Expand", [4096, 4096, 4096, 256]),
        "Reshape to another size": _sized("Reshape", [7, 7, 7, 7]),
        "Pad to terabytes": _sized("Pad", [0, 2**20, 2**20, 0, 0, 0, 0, 0]),
    }
    for name, edit in edits.items():
        yield Hostile(f"network with {name}", "images", graph(edit))
    for name, data in (
        ("no ONNX", b"hello"),
        ("empty", b""),
        ("a pickle", PICKLE),
        ("random", np.random.default_rng(2).bytes(5000)),
    ):
        yield Hostile(f"network that is {name}", "images", model(_swap("decoder.onnx", data)))


def _models() -> Iterator[Hostile]:
    for name, data in (
        ("deep JSON", deep()),
        ("a list", "[]"),
        ("no tolerance", "{}"),
        ("a tolerance of NaN", '{"tolerance": {"relative": NaN}}'),
        ("a tolerance of text", '{"tolerance": {"relative": "x"}}'),
    ):
        yield Hostile(f"model card of {name}", "images", model(_swap("card.json", data.encode())))
    big = struct.pack("<8sHH", b"SKYLAT01", 65535, 65535)
    for name, data in (("65,535 channels", big), ("nothing", b""), ("a pickle", PICKLE)):
        yield Hostile(f"tables of {name}", "images", model(_swap("tables.bin", data)))
    yield Hostile("model changed under its digest", "images", raw_model("decoder.onnx", b"x"))
    good = _npy_header("(2, 2)") + bytes(32)
    for name, data in (
        ("a shape of petabytes", _npz(targets=_npy_header(f"({PETA},)"), weights=good)),
        ("pickled objects", _npz(targets=_npy_header("(1,)", "|O") + PICKLE)),
        ("no zip", b"PK" + bytes(99)),
        ("names that climb", _npz(**{"../../evil": good})),
    ):
        yield Hostile(f"table model of {name}", "catalogs", table_model(_swap("table.npz", data)))
    yield Hostile("table model of a zip bomb", "catalogs", table_model(_zip_bomb))
    yield Hostile(
        "table model with a deep card", "catalogs", table_model(_swap("card.json", deep().encode()))
    )


def raw_model(name: str, data: bytes) -> Change:
    def change(folder: Path) -> None:
        for one in (folder / "models").glob(f"*/{name}"):
            one.write_bytes(data)

    return change


def _indexes() -> Iterator[Hostile]:
    for name, changes in {
        "an image of petabytes": {"shape": (2**24, 2**24)},
        "an image of exabytes": {"shape": (2**39, 2**39)},
        "an image without pixels": {"shape": (0, 5)},
        "a negative shape": {"shape": (-5, -5)},
        "objects as dtype": {"dtype": "object"},
        "a dtype that is an expression": {"dtype": "(99999,99999)f8,O"},
        "a mode that is not known": {"mode": "exec"},
        "a group that climbs": {"group": "../../../../etc"},
        "an absolute group": {"group": "/etc"},
        "a set that climbs": {"set": "../.."},
        "a model that climbs": {"model": "../../../etc"},
        "an earlier release that climbs": {"release": "../../../etc"},
        "an earlier release elsewhere": {"release": "http://203.0.113.9/x"},
        "itself as the earlier release": {"release": "dr1"},
        "a row of 2^62": {"row": 2**62},
        "a negative row": {"row": -3},
        "coarse cells of 2^40": {"coarse": 2**40},
        "coarse cells of no width": {"coarse": 0},
        "a step of NaN": {"step": math.nan},
        "details beyond the file": {"details": (2**39, 2**39, 2**39)},
        "negative details": {"details": (-5, -5, -5)},
        "bytes of exabytes": {"bytes": {"background": 2**62, "checksum": 2**62}},
        "fills of odd length": {"fills": b"\x01\x02\x03"},
        "fills of a pickle": {"fills": PICKLE},
        "a WCS of a billion axes": {"wcs": "WCSAXES =           1000000000\nCTYPE1  = 'RA---TAN'"},
        "a WCS of a million cards": {
            "wcs": "\n".join(f"PV1_{n % 99:<4d} = 1.0" for n in range(10**6))
        },
        "a WCS in another file": {"wcs": "CTYPE1  = 'RA---TAB'\nPS1_0   = '/etc/passwd'"},
        "a WCS of NaN": {
            "wcs": "CRVAL1  =                  NaN\nCTYPE1  = 'RA---TAN'\nCTYPE2  = 'DEC--TAN'"
        },
    }.items():
        harmless = "WCS" in name or "fills" in name or "itself" in name
        yield Hostile(f"index with {name}", "images", entry(**changes), harmless=harmless)
    for key, part in (
        (INDEX, "images"),
        ("catalogs/galaxies/index.parquet", "catalogs"),
        ("densities/pz/index.parquet", "densities"),
    ):
        for kind in ("repeated string", "repeated list", "zeros", "rows", "columns"):
            yield Hostile(
                f"{key}: Parquet bomb of {kind}",
                part,
                raw(key, functools.partial(_bomb_parquet, kind)),
            )
        for name, data in (
            ("a pickle", PICKLE),
            ("a head alone", b"PAR1PAR1"),
            ("a footer of 4 GB", b"PAR1" + b"\xff" * 4 + b"PAR1"),
        ):
            yield Hostile(f"{key} is {name}", part, raw(key, data))


def _records() -> Iterator[Hostile]:
    aliases = "# meta: &a [x, x]\n" + "\n".join(
        f"# - &b{n} [*b{n - 1}, *b{n - 1}]" if n else "# - &b0 [lol]" for n in range(60)
    )
    for name, text in {
        "aliases that swell": ecsv(aliases),
        "a tag that runs code": ecsv(
            "# meta: !!python/object/apply:os.system ['touch /tmp/skyfold-canary']"
        ),
        "a tag of numpy": ecsv(
            "# meta: !numpy.ndarray {buffer: !!binary aGk=, dtype: O, shape: [1]}"
        ),
        "serialized columns": ecsv(
            "# meta: !!omap\n# - __serialized_columns__: {a: {__class__: os.system}}"
        ),
        "objects as type": ecsv("# datatype:\n# - {name: kind, datatype: object}", "kind\n{}"),
        "a subtype of terabytes": ecsv(
            "# datatype:\n# - {name: kind, datatype: string, subtype: 'float64[99999999999]'}",
            "kind\n[]",
        ),
        "YAML nested deep": ecsv("# " + deep(50_000)),
        "no columns": ecsv("# datatype:"),
        "a megabyte in one line": ecsv("# - {name: " + "x" * 2**20 + ", datatype: string}"),
        "a pickle": base64.b64encode(PICKLE).decode(),
        "more than metadata may be": "x" * (2**26 + 1),
    }.items():
        yield Hostile(f"record of {name}", "record", raw("fidelity.ecsv", text))


def _catalogs() -> Iterator[Hostile]:
    def catalog(name: str, *path: Any, value: Any, harmless: bool = False) -> Hostile:
        change = edit_json(CATALOG, set_at(*path, value=value))
        return Hostile(f"catalog with {name}", "catalogs", change, harmless=harmless)

    first = ("columns", 0)
    yield catalog("petarows", "rows", value=PETA)
    yield catalog("rows of text", "rows", value="many")
    yield catalog("no rows", "rows", value=0)
    yield catalog("chunks of petarows", "chunk_rows", value=PETA)
    yield catalog("chunks of none", "chunk_rows", value=0)
    yield catalog("shards of petarows", "shard_rows", value=PETA)
    yield catalog("a column of petabytes", *first, "shape", value=[PETA])
    yield catalog("a column of negative shape", *first, "shape", value=[-4])
    yield catalog("a type that is an expression", *first, "dtype", value="(9999,9999)f8,O")
    yield catalog("objects as type", *first, "dtype", value="O")
    yield catalog("a kind that is not known", *first, "kind", value="exec")
    yield catalog("text a petabyte wide", "columns", 5, "width", value=PETA)
    yield catalog("a place that is taken", *first, "first", value=2**40)
    yield catalog("a unit nested deep", *first, "unit", value="(" * 9000, harmless=True)
    yield catalog("a unit of a huge power", *first, "unit", value="m**(9**9**9)", harmless=True)
    yield catalog("a million latents", "channels", value=10**6)
    yield catalog("a model that climbs", "model", value="../../etc")
    yield catalog("a map of petacells", "som", "shape", value=[PETA, PETA])
    yield catalog("arrays that climb", "som", "arrays", value=["../../../../etc/passwd"])
    yield catalog("columns of a number", "columns", value=5)
    yield catalog(
        "50,000 columns",
        "columns",
        value=[{"name": f"c{n}", "dtype": "<f4", "first": n, "direct": n} for n in range(50_000)],
    )
    yield Hostile("catalog nested deep", "catalogs", raw(CATALOG, deep()))


def _manifests() -> Iterator[Hostile]:
    def lie(name: str, objects: Any) -> Hostile:
        def change(folder: Path) -> None:
            path = folder / "manifest.json"
            stated = json.loads(path.read_text())["objects"]
            made = objects(stated) if callable(objects) else objects
            path.write_bytes(write_manifest(made))

        return Hostile(f"manifest with {name}", "verify", change, sealed_anew=False)

    one = {"size": 5, "sha256": "a" * 64}
    for key in (
        "../../../../etc/passwd",
        "/etc/passwd",
        "a//b",
        "a/./b",
        "a\x00b",
        "a" * 5000,
        "http::b",
    ):
        yield lie(f"the key {key[:30]!r}", {key: one})
    yield lie(
        "a size of exabytes", lambda o: o | {"zarr.json": {"size": 2**62, "sha256": "a" * 64}}
    )
    yield lie("a negative size", lambda o: o | {"zarr.json": {"size": -1, "sha256": "a" * 64}})
    yield lie("a size of text", lambda o: o | {"zarr.json": {"size": "5", "sha256": "a" * 64}})
    yield lie("a digest of text", lambda o: o | {"zarr.json": {"size": 5, "sha256": "../x"}})
    yield lie("other digests", lambda o: {k: v | {"sha256": "b" * 64} for k, v in o.items()})
    yield lie("objects that are not there", lambda o: o | {f"x{n}": one for n in range(20_000)})
    yield lie("a list", [])
    yield lie("nothing", {})
    yield Hostile("manifest nested deep", "verify", raw("manifest.json", deep()), sealed_anew=False)
    yield Hostile(
        "manifest of sparse terabytes",
        "verify",
        sparse_file("manifest.json", SPARSE),
        sealed_anew=False,
    )


def _names() -> Iterator[Hostile]:
    for name, text in (("script", SCRIPT), ("terminal escapes", ESCAPE)):
        for field in ("id", "band", "file", "time", "unit"):
            yield Hostile(
                f"{name} as {field} of images", "names", entry(**{field: text}), harmless=True
            )
        root = set_at("attributes", "skyfold", "name", value=text)
        yield Hostile(
            f"{name} as name of the release", "names", edit_json("zarr.json", root), harmless=True
        )
        aside = set_at("attributes", "skyfold", "set_aside", value=[{"file": text, "reason": text}])
        yield Hostile(f"{name} as reason", "names", edit_json("zarr.json", aside), harmless=True)
        column = set_at("columns", 0, "description", value=text)
        yield Hostile(
            f"{name} as description of a column", "names", edit_json(CATALOG, column), harmless=True
        )
