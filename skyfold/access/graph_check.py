"""What a stored network may be: arithmetic alone, of known size, no more than decoding takes.

A release is opened from a URL that somebody mailed. Its graph is checked before any of it runs: no
control flow, no functions, no files beside it, no operators of others, finite weights, and for one
run of tiles every tensor's shape follows from the graph, so that memory and time are bounded too.
"""

from __future__ import annotations

import math
from typing import Any

from skyfold.access.trust import reading
from skyfold.errors import UntrustedModelError

_OPERATORS = """
    Add Cast Clip Concat Constant Conv ConvTranspose DepthToSpace Div Expand Gather Gemm Identity
    MatMul Max Min Mul Pad Relu Reshape Resize Shape Sigmoid Slice SpaceToDepth Split Sqrt Squeeze
    Sub Tanh Tile Transpose Unsqueeze
"""
ALLOWED_OPERATORS = frozenset(_OPERATORS.split())
MAX_MODEL_BYTES = 64 * 2**20
BATCH = 4  # tiles a run: bounds the memory of activations
MAX_NODES = 4096
MAX_VALUES = 2**27  # of all tensors of a run of `BATCH` tiles; networks in use take 2e6
MAX_MULTIPLICATIONS = 2**36  # of such a run, some 5 s of one core; networks in use take 2e9


def check_graph(graph: bytes, name: str, shape: tuple[int, int, int] | None = None) -> None:
    """Refuse a graph that holds more than arithmetic, or more of it than decoding takes.

    Parameters
    ----------
    graph : bytes
        An ONNX model.
    name : str
        For messages.
    shape : tuple of int, optional
        Height, width and channels of one tile of its input; shapes are not followed without it.

    Raises
    ------
    UntrustedModelError
        If the graph is not ONNX, too large, holds operators outside `ALLOWED_OPERATORS`, nested
        graphs, functions, external data, weights that are not finite, or tensors whose size is
        beyond `MAX_VALUES` or not to be known before it runs.
    """
    import onnx

    if len(graph) > MAX_MODEL_BYTES:
        raise UntrustedModelError(f"{name} has {len(graph)} bytes; {MAX_MODEL_BYTES} are allowed")
    try:
        model = onnx.load_model_from_string(graph)
    except Exception as error:
        raise UntrustedModelError(f"{name} is not an ONNX graph: {error}") from error
    if model.functions or model.training_info:
        raise UntrustedModelError(f"{name} defines functions of its own; none are allowed")
    if len(model.graph.node) > MAX_NODES:
        raise UntrustedModelError(f"{name} has {len(model.graph.node)} nodes; {MAX_NODES} may be")
    for node in model.graph.node:
        _check_node(node, name)
    if model.graph.sparse_initializer:
        raise UntrustedModelError(f"{name} holds sparse weights, which a stored network may not")
    for tensor in model.graph.initializer:
        _check_tensor(tensor, name)
    if shape is not None:
        _check_cost(model, name, shape)


def _check_node(node: Any, name: str) -> None:
    nested = any(
        attribute.HasField("g") or attribute.graphs or attribute.HasField("sparse_tensor")
        for attribute in node.attribute
    )
    if node.domain not in ("", "ai.onnx") or node.op_type not in ALLOWED_OPERATORS or nested:
        raise UntrustedModelError(
            f"{name} holds the operator {node.domain or 'ai.onnx'}.{node.op_type}, which a stored "
            "network may not; do not run it, and ask the release's publisher"
        )
    for attribute in node.attribute:
        for tensor in [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]:
            _check_tensor(tensor, name)


def _check_tensor(tensor: Any, name: str) -> None:
    import numpy as np
    from onnx import TensorProto, numpy_helper

    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise UntrustedModelError(f"{name} reads the tensor {tensor.name!r} from another file")
    if math.prod(tensor.dims) > MAX_MODEL_BYTES or min(tensor.dims, default=0) < 0:
        raise UntrustedModelError(
            f"{name} claims a tensor {tensor.name!r} of shape {list(tensor.dims)[:8]}; at most "
            f"{MAX_MODEL_BYTES} values are allowed"
        )
    try:
        values = numpy_helper.to_array(tensor)
    except Exception as error:
        raise UntrustedModelError(f"{name}: tensor {tensor.name!r} is broken: {error}") from error
    if values.dtype.kind not in "fiub":
        raise UntrustedModelError(f"{name} has a tensor {tensor.name!r} of {values.dtype}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UntrustedModelError(f"{name} has weights that are not finite in {tensor.name!r}")


def _check_cost(model: Any, name: str, shape: tuple[int, int, int]) -> None:
    """Follow shapes through a run of `BATCH` tiles, and add up values and multiplications."""
    if not all(node.output and node.output[0] for node in model.graph.node):
        raise UntrustedModelError(f"{name} has a node that gives nothing")
    shapes = _shapes(model, name, (BATCH, *shape))
    values = multiplications = 0
    for node in model.graph.node:
        for out in filter(None, node.output):
            if out not in shapes:
                raise UntrustedModelError(
                    f"{name}: the size of {out!r} ({node.op_type}) cannot be known before it runs"
                )
            values += math.prod(shapes[out])
        with reading(name, "a network whose nodes have their inputs"):
            multiplications += _multiplications(node, shapes)
    if values > MAX_VALUES or multiplications > MAX_MULTIPLICATIONS:
        raise UntrustedModelError(
            f"{name} takes {values:.3g} values and {multiplications:.3g} multiplications for "
            f"{BATCH} tiles; {MAX_VALUES:.3g} and {MAX_MULTIPLICATIONS:.3g} are allowed"
        )


def _shapes(model: Any, name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor whose shape follows from that of the one input."""
    from onnx import shape_inference

    if len(model.graph.input) != 1 or len(model.graph.output) != 1:
        raise UntrustedModelError(f"{name} has other than one input and one output")
    sides = model.graph.input[0].type.tensor_type.shape.dim
    stated = [side.dim_value if side.HasField("dim_value") else None for side in sides]
    if len(sides) != 4 or any(
        one not in (None, side) for one, side in zip(stated, shape, strict=True)
    ):
        raise UntrustedModelError(f"{name} takes {stated}; a stored network takes {shape}")
    for side, length in zip(sides, shape, strict=True):
        side.Clear()
        side.dim_value = length
    model.graph.output[0].type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]  # its own claims
    try:
        known = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except Exception as error:
        text = str(error).strip().partition("\n")[0][:200]
        raise UntrustedModelError(f"{name}: its shapes do not fit: {text}") from error
    found = {one.name: tuple(one.dims) for one in known.initializer}
    for one in [*known.input, *known.value_info, *known.output]:
        dims = one.type.tensor_type.shape.dim
        has_shape = one.type.tensor_type.HasField("shape")
        if has_shape and all(side.HasField("dim_value") for side in dims):
            found[one.name] = tuple(side.dim_value for side in dims)
    return found


def _multiplications(node: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    inputs = [shapes.get(one, ()) for one in node.input]
    out = math.prod(shapes[node.output[0]])
    if node.op_type == "Conv":
        return out * math.prod(inputs[1][1:])
    if node.op_type == "ConvTranspose":
        return math.prod(inputs[0]) * math.prod(inputs[1][1:])
    if node.op_type in ("MatMul", "Gemm"):
        return out * max((max(one, default=1) for one in inputs), default=1)
    return out
