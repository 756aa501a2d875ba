"""Writes one or more files to begin with for every target: `python3 seeds.py`, after which the fuzzer adds its own.

`python3 seeds.py RUN_FOLDER` adds the checkpoints of a run, which `laq train` makes.
"""
import gzip
import io
import json
import pathlib
import struct
import sys
import tarfile

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE.parent / "crates/laq-datasets/tests/golden"


def put(target, name, content):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


put("idx", "labels", struct.pack(">4BI", 0, 0, 8, 1, 3) + bytes([1, 2, 3]))
put("idx", "images", struct.pack(">4B4I", 0, 0, 8, 4, 2, 2, 2, 3) + bytes(24))

record = bytes([7]) + bytes(range(256)) * 12
put("cifar", "class", b"\0" + record * 2)
put("cifar", "coarse", b"\1" + b"\3" + record)
plain = io.BytesIO()
with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as archive:
    for name in ["x/" + "long/" * 30 + "readme", "x/b.bin", "x/a.bin"]:
        member = tarfile.TarInfo(name)
        member.size = len(record)
        archive.addfile(member, io.BytesIO(record))
put("cifar", "archive", b"\2" + gzip.compress(plain.getvalue()))
put("cifar", "tar", b"\3" + plain.getvalue())

for path in GOLDEN.glob("*.mat"):
    put("mat", path.stem, b"\0" + path.read_bytes())
for kind, order in [(1, ">"), (2, "<")]:
    def element(code, data):
        return struct.pack(order + "II", code, len(data)) + data + bytes(-len(data) % 8)
    for name, dims, data in [("y", [2, 1], bytes([3, 10])), ("X", [32, 32, 3, 1], bytes(range(256)) * 12)]:
        parts = [struct.pack(order + "II", 9, 0), struct.pack(order + f"{len(dims)}i", *dims), name.encode(), data]
        array = element(14, b"".join(element(c, d) for c, d in zip([6, 5, 1, 2], parts)))
        put("mat", f"inner-{kind}-{name}", bytes([kind]) + array)


def safetensors(tensors, metadata=None):
    header, at = {}, 0
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values())


weights = struct.pack("<6f", 0.5, -0.25, 0.0, 1.0, -1.0, 0.125)
for kind in range(8):
    content = safetensors({"w": ("F32", [2, 3], weights), "b": ("F16", [4], bytes(8)), "n": ("I64", [], bytes(8))})
    put("safetensors", f"plain-{kind}", bytes([kind, 9 * kind]) + content)
    index = {"metadata": {"total_size": 16}, "weight_map": {"w": "a.safetensors"}}
    put("safetensors", f"index-{kind}", bytes([128 + kind, kind]) + json.dumps(index).encode())
    half = safetensors({"w": ("BF16", [4, 2], bytes(range(16)))}, {"a": "b"})
    put("safetensors", f"half-{kind}", bytes([kind, 64 + kind]) + half)
for folder in sys.argv[1:]:
    for path in pathlib.Path(folder).glob("*.safetensors"):
        for kind in range(2):
            put("safetensors", f"{path.stem}-{kind}", bytes([kind, kind]) + path.read_bytes())


def packed(packing, columns, row, values, scale, groups=1, two=False):
    entry = {"shape": [2, columns], "packing": packing, "values": values, "groups": groups, "two_scales": two}
    metadata = {"laq.format_version": "1", "laq.tensors": json.dumps({"w": entry})}
    scale = struct.pack(f"<{len(scale)}f", *scale)
    return safetensors(
        {"w.scale": ("F32", [len(scale) // 4], scale), "w.packed": ("U8", [2, len(row)], row * 2)}, metadata
    )


put("packed", "ternary", packed("bits2", 5, bytes([0b10010010, 1]), [-1, 0, 1], [0.5]))
put("packed", "trits", packed("trits5", 7, bytes([200, 4]), [-1, 0, 1], [0.5, 0.25], two=True))
put("packed", "linear", packed("bits3", 3, bytes([0b01010110, 0]), [-3, -2, -1, 0, 1, 2, 3], [0.1, 0.2], groups=2))


def field(number, value):
    """A field of a protobuf: an integer, or bytes, or a text."""
    def varint(n):
        return bytes([n]) if n < 128 else bytes([n % 128 + 128]) + varint(n // 128)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name, kind, dims, data, number=9):
    return b"".join(field(1, size) for size in dims) + field(2, kind) + field(8, name) + field(number, data)


def onnx(op, tensors, attributes=b""):
    inputs = b"".join(field(1, name) for name, *_ in tensors)
    node = field(1, inputs + field(2, "y") + field(4, op) + attributes)
    graph = node + b"".join(field(5, tensor(*t)) for t in tensors)
    model = field(1, 10) + field(2, "other") + field(7, graph) + field(8, field(1, "") + field(2, 21))
    return model + field(14, field(1, "laq.method") + field(2, "lat-a"))


def attribute(name, value):
    return field(5, field(1, name) + field(3, value) + field(20, 2))


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


FLOAT, UINT8, INT8, UINT4, INT4, INT2 = 1, 2, 3, 21, 22, 26
put("onnx", "tensor", onnx("DequantizeLinear", [("w", INT4, [3, 5], bytes(range(8))), ("s", FLOAT, [], floats(0.5))]))
rows = [("w", UINT8, [2, 3], bytes(range(6))), ("s", FLOAT, [2], floats(0.5, 2)), ("z", UINT8, [2], bytes([128, 3]))]
put("onnx", "rows", onnx("DequantizeLinear", rows, attribute("axis", 0)))
blocks = [("w", INT2, [2, 6], bytes(range(3))), ("s", FLOAT, [2, 3], floats(1, 2, 3, 4, 5, 6))]
put("onnx", "blocks", onnx("DequantizeLinear", blocks, attribute("axis", 1) + attribute("block_size", 2)))
typed = [("w", INT8, [4], bytes(range(4)), 5), ("s", FLOAT, [1], floats(0.5), 4)]
put("onnx", "typed", onnx("DequantizeLinear", typed))
put("onnx", "gather", onnx("Gather", [("t", FLOAT, [3], floats(-1, 0, 2)), ("w", UINT4, [2, 2], bytes([0x10, 0x22]))]))
weights = ("w", FLOAT, [2, 2], floats(-0.5, 0, 0.5, 1))
put("onnx", "bipolar", onnx("BipolarQuant", [weights, ("s", FLOAT, [2, 1], floats(0.5, 1))]))
scalars = [(name, FLOAT, [], floats(value)) for name, value in [("s", 0.5), ("z", 0), ("b", 3)]]
put("onnx", "int", onnx("IntQuant", [weights, *scalars], attribute("signed", 1) + attribute("narrow", 1)))
constant = field(5, field(1, "value") + field(5, tensor("", FLOAT, [2], floats(1, 2))) + field(20, 4))
put("onnx", "constant", onnx("Constant", [], constant))
external = field(1, 9) + field(2, INT4) + field(8, "w") + field(13, field(1, "location") + field(2, "w.bin")) + field(14, 1)
put("onnx", "external", field(1, 10) + field(7, field(5, external)))


def gguf_text(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(kind, name, sizes, numbers, number=0, data=None):
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + gguf_text("general.type") + struct.pack("<I", 8) + gguf_text(kind)
    header += gguf_text(name) + struct.pack("<I", len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes)
    header += struct.pack("<IQ", number, 0)
    return header + bytes(-len(header) % 32) + (data or struct.pack(f"<{numbers}f", *range(numbers)))


put("gguf", "model", gguf("model", "a.weight", [32, 2], 64))
# Types of blocks: their numbers, and the bytes of 256 weights.
for number, size in {
    2: 144, 3: 160, 6: 176, 7: 192, 8: 272, 10: 84, 11: 110, 12: 144, 13: 176, 14: 210, 16: 66, 17: 74, 18: 98, 19: 50, 20: 144, 21: 110,
    22: 82, 23: 136, 29: 56, 34: 54, 35: 66, 39: 136, 40: 144, 41: 36, 42: 72,
}.items():
    data = bytes(index % 30 for index in range(size))
    put("gguf", f"type{number}", gguf("model", "a.weight", [256, 1], 0, number, data))
put("gguf", "importance", gguf("imatrix", "a.weight.in_sum2", [32], 32))
put("gguf", "older", struct.pack("<iicii2f", 1, 1, b"a", 1, 2, 1.0, 2.0))


def network(name, spec, tensors):
    metadata = {"laq.format_version": "1", "laq.tensors": "{}", "laq.network": json.dumps(spec)}
    shapes = {tensor: (shape, numel) for tensor, shape, numel in tensors}
    content = safetensors(
        {tensor: ("F32", shape, struct.pack(f"<{n}f", *range(n))) for tensor, (shape, n) in shapes.items()}, metadata
    )
    length = struct.unpack("<Q", content[:8])[0]
    put("network", name, content[8:8 + length] + b"\0" + content[8 + length:])


network("text", {"kind": "char-lstm", "alphabet": [97, 98, 99], "hidden": 2}, [
    ("lstm.weight_ih", [8, 3], 24), ("lstm.weight_hh", [8, 2], 16), ("lstm.bias", [8], 8),
    ("output.weight", [3, 2], 6), ("output.bias", [3], 3),
])
layers = [
    {"kind": "convolution", "name": "c", "filters": 2, "bias": True},
    {"kind": "max-pool"},
    {"kind": "batch-norm", "name": "c", "epsilon": 1e-4, "relu": True},
    {"kind": "dense", "name": "d", "units": 3, "bias": True},
    {"kind": "relu"},
]
images = {"kind": "feedforward", "input": [4, 4, 1], "classes": 3, "loss": "cross-entropy", "preprocessing": "mean-image", "layers": layers}
norm = [(f"c.norm.{part}", [2], 2) for part in ["scale", "shift", "mean", "variance"]]
network("images", images, norm + [
    ("c.weight", [2, 3, 3, 1], 18), ("c.bias", [2], 2), ("d.weight", [3, 8], 24), ("d.bias", [3], 3),
    ("preprocessing.mean", [4, 4, 1], 16),
])

put("text", "abc", bytes([200, 25, 3, 2]) + b"abcabcabcabcabcabcabcabcabc" * 8)
put("text", "bytes", bytes([128, 64, 1, 1]) + bytes(range(256)))

put("cache", "sealed", b"\1" + struct.pack("<12f", *range(12)))
put("cache", "whole", b"\0laq-whitened-v1\n" + bytes(32 + 48 + 32))

for path in (HERE.parent / "configs").glob("*/presets/*.toml"):
    put("config", f"{path.parts[-3]}-{path.stem}", path.read_bytes())
for kind, data in [("char-lstm", "demo"), ("feedforward", "demo-digits")]:
    defaults = HERE.parent / f"crates/laq-runner/src/config/defaults/{kind}.toml"
    text = "\n".join(line for line in defaults.read_text().splitlines() if not line.startswith("#"))
    text = text.replace("[data]", f"[data]\nname = '{data}'") + "\n[quantize]\nmethod = 'lat-a'\n"
    put("config", kind, text.encode())
base = b"[data]\nname = 'mnist'\n[model]\nkind = 'feedforward'\nfilters = [4, 8]\nunits = [16]\n"
sets = [b"quantize.format=q2_0", b"train.schedule={ kind = 'every', epochs = 3, factor = 0.5 }", b"title=2024", b"train.seed=7"]
put("config", "layers", b"\0".join([b"extends = 'base.toml'\n", base, b"[train]\nepochs = 3\n", *sets]))
put("config", "file", b"data = { name = 'file', path = 'base.toml', train_fraction = 0.5 }\nquantize.method = 'ttq'\n\0text")

layer = {"name": "lstm.weight_hh", "scale": [0.5, 0.25], "sparsity": 0.5, "weighted_error": 1.5, "iterations": 3}
epoch = {
    "epoch": 1, "train_loss": 1.5, "validation_loss": 1.25, "test_loss": 1.0, "validation_error": 3.5, "test_error": 4,
    "learning_rate": 0.01, "seconds": 2.5, "seconds_per_step": 0.1, "quantize_share": 0.2, "layers": [layer],
}
summary = {
    "status": "finished", "key": "k", "training_version": 4, "title": "t", "method": "lat-a", "data": "mnist", "epochs": 2,
    "epochs_done": 2, "best_epoch": 2, "train_loss": 1, "validation_loss": 1, "test_loss": 1, "seconds": 10, "steps": 10,
    "earlier_plans": [{"epochs": 1, "epochs_done": 1}], "paper": {"value": 1.5, "epochs": 3}, "threads": 2, "reason": "r",
}
position = {"epoch": 1, "epochs": 2, "step": 3, "steps": 10, "loss": 1.5, "seconds_per_step": 0.1, "seconds_left": 100}
running = {"host": "h", "pid": 1, "job": "1_2", "since": 1, "position": position}
comparison = {"step": 1, "weighted_error": 2, "exact_weighted_error": 1, "ratio": 2, "layers": []}
cells = [{"row": "lat-a", "column": "mnist", "seed": 1, "epochs": 2, "folder": "."}]
submission = {"job": 12, "report_job": 13, "tasks": [{"name": "n", "folder": "."}]}
texts = ["\n".join(json.dumps({**epoch, "epoch": number}) for number in [1, 2])]
texts += [json.dumps(part) for part in [summary, running, comparison, cells, submission]]
for count in range(1, 7):
    put("run_folder", f"files-{count}", "\0".join(texts[:count]).encode())
put("run_folder", "interrupted", "\0".join([texts[0], json.dumps({**summary, "status": "interrupted"}), "", "", texts[4]]).encode())
