"""ONNX models whose weights are integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ._quantize import Quantized, layout
from .torch._selection import evaluation

_SIGNED = {2: TensorProto.INT2, 4: TensorProto.INT4, 8: TensorProto.INT8}
_UNSIGNED = {2: TensorProto.UINT2, 4: TensorProto.UINT4, 8: TensorProto.UINT8}

# Operators that move elements and compute nothing. Without Transpose: onnxruntime fuses `DequantizeLinear`
# with a `MatMul` that reads it, and then rounds activations to 8 bits, or computes wrong products of some
# shapes with 2 bits (version 1.32).
_MOVES = {"Concat", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"}


def quantized_model(
    model: torch.nn.Module,
    arguments: tuple[Any, ...],
    weights: Mapping[str, Quantized],
    aliases: Mapping[str, str],
    opset: int,
    dynamic_shapes: Any,
) -> onnx.ModelProto:
    """The model in evaluation mode, with ``weights`` as integers.

    ``aliases`` has the first name of each name of a parameter.
    """
    with evaluation(model):
        program = torch.onnx.export(
            model,
            arguments,
            dynamo=True,
            verbose=False,
            optimize=False,
            opset_version=opset,
            dynamic_shapes=dynamic_shapes,
        )
    assert program is not None
    # The weights are inputs while the graph is optimized: no constants, which would be folded into others.
    graph = program.model.graph
    inputs = {name: aliases[name] for name in graph.initializers if aliases.get(name) in weights}
    for name in inputs:
        value = graph.initializers.pop(name)
        if str(value.dtype) != "FLOAT":
            raise ValueError(f"{name} has elements of {value.dtype}, expected float32: pass model.float()")
        graph.inputs.append(value)
    missing = next((name for name in weights if name not in inputs.values()), None)
    if missing is not None:
        raise ValueError(
            f"{missing} is quantized, but torch.onnx.export does not find it in forward: "
            "pass quantized= without it"
        )
    program.optimize()
    exported = program.model_proto
    found = {domain.domain: domain.version for domain in exported.opset_import}.get("")
    if found != opset:
        raise ValueError(f"torch.onnx.export wrote opset {found}, expected {opset}: pass another opset=")
    exported.ir_version = 13 if opset >= 25 else 10
    # They have paths of this machine.
    for part in (
        exported.graph,
        *exported.graph.node,
        *exported.graph.value_info,
        *exported.graph.initializer,
    ):
        part.ClearField("metadata_props")
    _replace_inputs(exported.graph, {name: weights[first] for name, first in inputs.items()}, opset)
    return exported


def _replace_inputs(graph: onnx.GraphProto, weights: Mapping[str, Quantized], opset: int) -> None:
    """Replaces inputs by integers and the nodes that decode them.

    Nodes that only move elements, such as those that reorder the gates of an LSTM, are applied to the
    integers if nothing else reads the weight.
    """
    _replace(graph.input, [value for value in graph.input if value.name not in weights])
    for name, weight in weights.items():
        decoder = _Decoder(name, weight, opset)
        output, places, moves = _moved(graph, name, weight.levels.shape)
        if not decoder.dequantize(places):
            output, moves = name, set()
            if not decoder.dequantize(decoder.matrix):
                decoder.look_up()
            decoder.reshape()
        decoder.nodes[-1].output[0] = output
        others = [node for node in graph.node if node.output[0] not in moves]
        _replace(graph.node, [*decoder.nodes, *others])
        graph.initializer.extend(decoder.initializers)
    values = {value for node in graph.node for value in node.output}
    _replace(graph.value_info, [info for info in graph.value_info if info.name in values])


def _replace(field: Any, values: list[Any]) -> None:
    """Sets a repeated field."""
    del field[:]
    field.extend(values)


def _moved(
    graph: onnx.GraphProto, name: str, shape: tuple[int, ...]
) -> tuple[str, NDArray[np.int64], set[str]]:
    """The value with the elements of ``name`` that nodes compute with, the place in ``name`` of each of its
    elements, and the values on the way there; ``name`` itself if there are several such values.
    """
    integers = (tensor for tensor in graph.initializer if tensor.data_type == TensorProto.INT64)
    constants = {tensor.name: tensor for tensor in integers}
    own = np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)
    places = {name: own}
    others = []
    for node in graph.node:
        sources = {*node.input}.difference(constants)
        if node.op_type not in _MOVES or not sources or not sources.issubset(places):
            others.append(node)
            continue
        feeds = {value: numpy_helper.to_array(constants[value]) for value in node.input if value in constants}
        feeds.update({value: places[value] for value in sources})
        results: Any = ReferenceEvaluator(node).run(None, feeds)
        places[node.output[0]] = np.asarray(results[0])
    read = {*_read(others), *(output.name for output in graph.output)}.intersection(places)
    if len(read) == 1 and name not in read:
        (moved,) = read
        if np.array_equal(np.sort(places[moved], axis=None), own.reshape(-1)):
            return moved, places[moved], set(places)
    return name, own, set()


def _read(nodes: Any) -> Iterator[str]:
    """The values that nodes read, also in graphs of their attributes."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _read(graph.node)
                yield from (value.name for value in graph.output)


class _Decoder:
    """The nodes that decode a weight, the last of which has it, and their initializers."""

    def __init__(self, name: str, weight: Quantized, opset: int) -> None:
        self.name, self.weight = name, weight
        self.widths = (2, 4, 8) if opset >= 25 else (4, 8)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        levels, axis = weight.levels, weight.axis or 0
        own = np.arange(levels.size).reshape(levels.shape)
        # With the axis of the scales in front, and as rows of groups.
        self.front: NDArray[np.int64] = np.moveaxis(own, axis, 0) if own.ndim else own
        groups = layout(self.front.shape, weight.axis, weight.block)
        self.matrix = self.front.reshape(groups.rows, groups.columns)
        self.block = weight.block or groups.columns
        self.codes = np.searchsorted(weight.codebook.levels, levels.reshape(-1)).astype(np.uint8)
        # One row for all, or one for each; blocks; signs.
        blocks, signs = groups.blocks if weight.block else 1, 2 if weight.two_scales else 1
        scale = weight.scale.reshape(-1, blocks, signs)
        self.scale = scale if len(scale) == 1 else scale.repeat(groups.rows // len(scale), axis=0)

    def dequantize(self, places: NDArray[np.int64]) -> bool:
        """Integers with a scale for all, for each index of an axis, or for blocks along one.

        Returns false if there are no such integers, or if codes of a table have fewer bits.
        """
        found = _integers(self.weight.values)
        if found is None or self.weight.two_scales:
            return False
        integers, unit = found
        bits = self._fewest_bits(max(2 * int(integers.max()) + 2, -2 * int(integers.min())))
        scales = np.empty(self.codes.shape, np.float32)
        each = self.scale[..., 0] * np.float32(unit)
        scales[self.matrix] = each.repeat(self.block, axis=1)[:, : self.matrix.shape[1]]
        compact = _compact(scales[places], self.block, each.size)
        is_exact = np.array_equal(integers[self.codes] * scales, self.weight.decoded.reshape(-1))
        if compact is None or not is_exact or bits > self._fewest_bits(len(integers)):
            return False
        scale, attributes = compact
        codes = self._packed("integers", integers[self.codes[places]], bits, _SIGNED)
        self._node("DequantizeLinear", codes, self._array("scale", scale), **attributes)
        return True

    def look_up(self) -> None:
        """Values of a table at indices, times their scales, as the matrix of groups."""
        values, scale = self.weight.values, self.scale
        if scale.shape[:2] == (1, 1):
            values = values * np.where(values < 0, scale[0, 0, -1], scale[0, 0, 0])
            scale = scale[:, :, :0]
        codes = self._packed("codes", self.codes[self.matrix], self._fewest_bits(len(values)), _UNSIGNED)
        indices = self._node("Cast", codes, to=TensorProto.INT32)
        value = self._node("Gather", self._array("values", values), indices)
        factors = [self._array(f"scale.{sign}", scale[..., sign]) for sign in range(scale.shape[2])]
        if scale.shape[1] > 1:
            blocks = self._array("blocks", np.arange(self.matrix.shape[1]) // self.block)
            factors = [self._node("Gather", factor, blocks, axis=1) for factor in factors]
        products = [self._node("Mul", value, factor) for factor in factors]
        if len(products) == 2:
            below = self._node("Less", value, self._array("zero", np.float32(0)))
            self._node("Where", below, products[1], products[0])

    def reshape(self) -> None:
        """The matrix of groups in the shape of the weight."""
        value, axis = self.nodes[-1].output[0], self.weight.axis or 0
        if self.matrix.shape != self.front.shape:
            value = self._node("Reshape", value, self._array("shape", np.array(self.front.shape)))
        if axis:
            order = list(range(1, self.front.ndim))
            order.insert(axis, 0)
            self._node("Transpose", value, perm=order)

    def _fewest_bits(self, count: int) -> int:
        """The bits of as many codes."""
        return next(bits for bits in self.widths if count <= 2**bits)

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{self.name}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _array(self, part: str, array: Any) -> str:
        tensor = numpy_helper.from_array(np.asarray(array), f"{self.name}.{part}")
        self.initializers.append(tensor)
        return tensor.name

    def _packed(self, part: str, codes: NDArray[Any], bits: int, types: Mapping[int, int]) -> str:
        """Codes of so many bits, the first lowest in a byte."""
        per_byte = 8 // bits
        fields = np.zeros((-(-codes.size // per_byte), per_byte), np.uint8)
        fields.reshape(-1)[: codes.size] = codes.reshape(-1).astype(np.uint8) & (2**bits - 1)
        data = np.bitwise_or.reduce(fields << (bits * np.arange(per_byte, dtype=np.uint8)), axis=1)
        name = f"{self.name}.{part}"
        tensor = TensorProto(name=name, data_type=types[bits], dims=codes.shape, raw_data=data.tobytes())
        self.initializers.append(tensor)
        return name


def _integers(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], float] | None:
    """The values as integers of 8 bits times a power of two."""
    unit = 1.0 if not np.any(values % 1) else float(np.abs(values[values != 0]).min())
    integers = values.astype(np.float64) / unit
    is_exact = np.frexp(unit)[0] == 0.5 and np.abs(integers + 0.5).max() < 128 and not np.any(integers % 1)
    return (integers.astype(np.int8), unit) if is_exact else None


def _compact(
    scales: NDArray[np.float32], block: int, count: int
) -> tuple[NDArray[np.float32], dict[str, int]] | None:
    """The scales of all weights as at most ``count``, and the attributes of ``DequantizeLinear`` for them."""
    if np.all(scales == scales.reshape(-1)[0]):
        return scales.reshape(-1)[0], {}
    for axis, length in enumerate(scales.shape):
        each = np.moveaxis(scales, axis, 0).reshape(length, -1)
        if length <= count and np.all(each == each[:, :1]):
            return each[:, 0], {"axis": axis}
    for axis, length in enumerate(scales.shape):
        first = scales.take(np.arange(0, length, block), axis)
        again = first.repeat(block, axis).take(np.arange(length), axis)
        if first.size <= count and np.array_equal(again, scales):
            return first, {"axis": axis, "block_size": block}
    return None
