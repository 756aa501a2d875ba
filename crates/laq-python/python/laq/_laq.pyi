"""The part in Rust: arrays are contiguous vectors here."""

from os import PathLike
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__version__: str
MAX_BLOCK: int

# The shape with `axis` in front, `axis`, rows, columns, and the weights of a block: None for one scale, 0 for one
# a row.
_Layout: TypeAlias = tuple[tuple[int, ...], int, int, int, int | None]
_Record: TypeAlias = tuple[str, int, str, str, str, str, int | None]

class Codebook:
    @staticmethod
    def binary() -> Codebook: ...
    @staticmethod
    def ternary() -> Codebook: ...
    @staticmethod
    def linear(bits: int) -> Codebook: ...
    @staticmethod
    def logarithmic(bits: int) -> Codebook: ...
    @staticmethod
    def uniform(bits: int) -> Codebook: ...
    @staticmethod
    def custom(values: list[float]) -> Codebook: ...
    def level_indices(self) -> list[int]: ...
    def multipliers(self) -> list[float]: ...
    @property
    def divisor(self) -> float: ...
    @property
    def bits(self) -> int: ...
    @property
    def maker(self) -> str: ...

class Quantizer:
    id: str
    block: int | None
    codebook: Codebook
    two_scales: bool
    has_latent_gradient: bool
    algorithm: str
    # Bits of the mantissa, the exponent of the smallest normal scale, the smallest and the largest scale that are not
    # negative, and whether others are.
    grid: tuple[int, int, float, float, bool] | None
    @staticmethod
    def of_method(name: str, bits: int | None) -> Quantizer: ...
    @staticmethod
    def of_format(name: str) -> Quantizer: ...
    @staticmethod
    def of_codebook(codebook: Codebook) -> Quantizer: ...
    def solve(
        self,
        w: NDArray[np.float32],
        d: NDArray[np.float32] | None,
        layout: _Layout,
        levels: NDArray[np.int8],
        decoded: NDArray[np.float32],
        threads: int | None,
    ) -> tuple[NDArray[np.float32], float]: ...

class ParameterQuantizer:
    def __init__(
        self, name: str, shape: list[int], quantizer: Quantizer, granularity: str, gates: int
    ) -> None: ...
    def levels(self) -> NDArray[np.int8]: ...
    def scales(self) -> NDArray[np.float32]: ...
    def steps(self) -> NDArray[np.float32]: ...
    def error(self) -> float: ...
    def load(
        self, levels: NDArray[np.int8], scales: NDArray[np.float32], out: NDArray[np.float32]
    ) -> None: ...
    def latent_gradient(
        self, w: NDArray[np.float32], gradient: NDArray[np.float32], threads: int | None
    ) -> None: ...
    def set_scales(self, scales: NDArray[np.float32]) -> None: ...
    def scale_gradients(self) -> NDArray[np.float32]: ...

def solve_parameters(
    jobs: list[
        tuple[ParameterQuantizer, NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32]]
    ],
    second_moment: bool,
    threads: int | None,
) -> None: ...

class Packed:
    shape: list[int]
    rows: int
    elements: int
    bits: float
    packing: str
    block: int | None
    two_scales: bool
    nbytes: int
    @staticmethod
    def pack(
        levels: NDArray[np.int8],
        codebook: Codebook,
        layout: _Layout,
        steps: list[float],
        two_scales: bool,
        packing: str | None,
    ) -> Packed: ...
    def multipliers(self) -> list[float]: ...
    def steps(self) -> NDArray[np.float32]: ...
    def codes(self) -> NDArray[np.uint8]: ...
    def decode(self) -> NDArray[np.float32]: ...
    def multiply(self, x: NDArray[np.float32], y: NDArray[np.float32], threads: int | None) -> None: ...

# Packed tensors by name, and those in float32 with their shapes.
NewTensors: TypeAlias = tuple[
    list[tuple[str, Packed]], list[tuple[str, tuple[int, ...], NDArray[np.float32]]]
]

def methods() -> list[_Record]: ...
def formats() -> list[_Record]: ...
def groups(granularity: str, rows: int, columns: int, gates: int) -> tuple[int, int, int]: ...
def read_packed(
    path: str | PathLike[str],
) -> tuple[list[tuple[str, Packed]], list[str], dict[str, str]]: ...
def write_packed(path: str | PathLike[str], tensors: NewTensors, metadata: dict[str, str]) -> None: ...
def write_compressed_tensors(
    path: str | PathLike[str], tensors: NewTensors, metadata: dict[str, str]
) -> None: ...
def write_gguf(
    path: str | PathLike[str],
    tensors: NewTensors,
    formats: dict[str, str],
    metadata: dict[str, str | int | float | bool],
) -> None: ...
def write_bytes(path: str | PathLike[str], bytes: bytes) -> None: ...
def toml_to_json(text: str) -> str: ...
