"""A speech detector of 309 thousand weights in 2 bits a weight: silero-vad, distilled to its own outputs.

Needs torch, ``espeak-ng`` for speech and ``pip install --no-deps silero-vad`` for the weights (MIT licence).
Prints how many decisions (a frame of 32 ms is speech or not) are those of the original in full precision, for
sentences, voices and noises that nothing was trained on.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import synthetic_speech
import torch
from torch import nn
from torch.nn import functional

import laq
import laq.torch

FRAME, CONTEXT, WINDOW = 512, 64, 256
"""Samples of a frame, of the frame before that is seen again, and of a Fourier transform."""

LAST = {"last.weight": None}
BLOCKS = {"granularity": "block:64"}
AFTER_TRAINING: list[dict[str, Any]] = [
    *(
        {"method": method, "granularity": granularity}
        for method in (
            *("laq-linear-4-e", "laq-linear-4", "absmax-4", "laq-linear-3-e", "laq-linear-3", "absmax-3"),
            *("lat-e", "lat2-e", "absmean"),
        )
        for granularity in ("row", "block:64")
    ),
    *({"format": name} for name in ("q4_0", "int4-g64", "int3-g64", "q2_0")),
]
DISTILLED: dict[str, dict[str, dict[str, Any]]] = {
    "q2_0": {"*": {"format": "q2_0"}},
    "mixed": {"conv*": {"format": "int4-g64"}, "*": {"format": "q2_0"}},
    "q4_0": {"*": {"format": "q4_0"}},
    "int3-g64": {"*": {"format": "int3-g64"}},
    "lat-e": {"*": {"method": "lat-e"} | BLOCKS},
}
"""What is trained, by names of layers. The last layer, with 128 weights, keeps full precision."""


class Detector(nn.Module):
    """The network of silero-vad for 16 kHz: logits of speech for each frame, (clips, frames).

    The magnitudes of a Fourier transform of 4 overlapping windows a frame, 4 convolutions over those, and an
    LSTM over frames.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128, batch_first=True)
        self.last = nn.Conv1d(128, 1, 1)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Probabilities of speech, (clips, frames), of samples (clips, frames · 512)."""
        return self.logits(self.hidden(self.spectra(samples))[1]).sigmoid()

    def spectra(self, samples: torch.Tensor) -> torch.Tensor:
        """Magnitudes, (clips, frames, 129, 4)."""
        frames = samples.unflatten(1, (-1, FRAME))
        before = functional.pad(frames[:, :-1, -CONTEXT:], (0, 0, 1, 0))
        seen = torch.cat([before, frames], 2).flatten(0, 1)
        padded = functional.pad(seen[:, None], (0, CONTEXT), "reflect").squeeze(1)
        options = {"window": self.window, "center": False, "return_complex": True}
        y = torch.view_as_real(torch.stft(padded, WINDOW, WINDOW // 2, **options))
        return (y**2).sum(-1).sqrt().unflatten(0, (len(samples), -1))

    def hidden(self, spectra: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What enters the LSTM and what leaves it, (clips, frames, 128)."""
        y = spectra.flatten(0, 1)
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            y = convolution(y).relu()
        features = y.squeeze(-1).unflatten(0, (len(spectra), -1))
        return features, self.lstm(features)[0]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of what leaves the LSTM."""
        return self.last(hidden.relu().transpose(1, 2)).squeeze(1)


class Clips(NamedTuple):
    """Clips and what the original says of them."""

    spectra: torch.Tensor
    features: torch.Tensor
    hidden: torch.Tensor
    probabilities: torch.Tensor


def missing() -> str | None:
    """What to install, if something is missing."""
    if importlib.util.find_spec("silero_vad") is None:
        return "silero-vad is missing: pip install --no-deps silero-vad"
    return synthetic_speech.missing()


def original() -> tuple[Detector, Any]:
    """The detector with its weights, and the TorchScript module that they are from."""
    found = importlib.util.find_spec("silero_vad")
    assert found is not None and found.origin is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        script = torch.jit.load(Path(found.origin).parent / "data" / "silero_vad.jit").eval()
    detector = Detector().eval()
    theirs = {name: p for name, p in script.state_dict().items() if name.startswith("_model.")}
    # The basis of the Fourier transform, which torch.stft has too.
    theirs.pop("_model.stft.forward_basis_buffer")
    # The names differ, and the order does not.
    detector.load_state_dict(dict(zip(detector.state_dict(), theirs.values(), strict=True)))
    return detector, script


@torch.no_grad()
def verify(detector: Detector, script: Any, samples: torch.Tensor) -> float:
    """The largest difference of a probability from that of the TorchScript module, frame after frame."""
    script.reset_states()
    theirs = torch.cat([script(frame[None], synthetic_speech.RATE)[0] for frame in samples.split(FRAME)])
    return float((detector(samples[None])[0] - theirs).abs().max())


@torch.no_grad()
def observe(detector: Detector, samples: torch.Tensor) -> Clips:
    """What the original computes of samples (clips, frames · 512)."""
    spectra = torch.cat([detector.spectra(part) for part in samples.split(8)])
    features, hidden = map(torch.cat, zip(*map(detector.hidden, spectra.split(8)), strict=True))
    return Clips(spectra, features, hidden, detector.logits(hidden).sigmoid())


@torch.no_grad()
def agreement(detector: Detector, clips: Clips) -> float:
    """The share of frames whose decision is that of the original."""
    hidden = torch.cat([detector.hidden(part)[1] for part in clips.spectra.split(8)])
    return float(((detector.logits(hidden) > 0) == (clips.probabilities > 0.5)).float().mean())


def fisher(detector: Detector, clips: Clips, count: int) -> dict[str, torch.Tensor]:
    """The curvature of the detector's own likelihood, with decisions drawn from its probabilities."""

    def loss(_: nn.Module, spectra: torch.Tensor) -> torch.Tensor:
        logits = detector.logits(detector.hidden(spectra)[1])
        decisions = torch.bernoulli(logits.detach().sigmoid())
        return functional.binary_cross_entropy_with_logits(logits, decisions)

    return laq.torch.fisher(detector, clips.spectra[:count, :80].split(1), loss)


def distill(
    detector: Detector,
    clips: Clips,
    rules: dict[str, dict[str, Any]],
    start: dict[str, torch.Tensor],
    steps: int,
) -> None:
    """Trains quantized weights, from full precision, to the outputs and hidden states in ``clips``."""
    optimizer = torch.optim.Adam(detector.parameters(), lr=2e-3)
    # The second moments, which are the curvature too, start at the Fisher information, as after many steps.
    for name, weight in detector.named_parameters():
        if name in start:
            state = {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": start[name].clone()}
            optimizer.state[weight] = {"step": torch.tensor(1000.0), **state}
    aware = laq.torch.LossAware(optimizer, detector, rules=LAST | rules)
    schedule = torch.optim.lr_scheduler.OneCycleLR(aware, 2e-3, steps, pct_start=0.03, cycle_momentum=False)
    variances = clips.features.var((0, 1)) + 1e-3, clips.hidden.var((0, 1)) + 1e-4
    for step in range(steps):
        batch = torch.randint(len(clips.spectra), (8,))
        features, hidden = detector.hidden(clips.spectra[batch])
        of_outputs = functional.binary_cross_entropy_with_logits(
            detector.logits(hidden), clips.probabilities[batch]
        )
        of_features = ((features - clips.features[batch]) ** 2 / variances[0]).mean()
        of_hidden = ((hidden - clips.hidden[batch]) ** 2 / variances[1]).mean()
        aware.zero_grad()
        (3 * of_outputs + 0.1 * of_features + 0.3 * of_hidden).backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        aware.step()
        schedule.step()
        print(f"step {step + 1} of {steps}", end="\r", file=sys.stderr)


def packed_size(detector: Detector, path: str) -> int:
    """Bytes of the packed file, which is written."""
    laq.export(detector, path)
    return os.path.getsize(path)


def onnx_agreement(detector: Detector, samples: torch.Tensor, clips: Clips, path: str) -> tuple[float, int]:
    """:func:`agreement` when onnxruntime runs the ONNX file, which is written, and the bytes of that."""
    import onnxruntime

    length = torch.export.Dim.DYNAMIC
    laq.export(detector, path, example_input=samples[:1], dynamic_shapes=({1: length},))
    session = onnxruntime.InferenceSession(path)
    input_name = session.get_inputs()[0].name
    probabilities = [session.run(None, {input_name: clip[None].numpy()})[0] for clip in samples]
    decisions = torch.from_numpy(np.concatenate(probabilities)) > 0.5
    share = float((decisions == (clips.probabilities > 0.5)).float().mean())
    return share, os.path.getsize(path)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1200, help="of each distillation")
    parser.add_argument("--clips", type=int, default=300, help="of 10 seconds; a third more for tests")
    parser.add_argument("--seed", type=int, default=0, help="of clips, curvature and batches")
    parser.add_argument("--folder", default=".", help="where files are written")
    parser.add_argument("--skip-after-training", action="store_true", help="distillation alone")
    parser.add_argument("--distill", nargs="*", choices=DISTILLED, default=["q2_0"])
    options = parser.parse_args()
    if (reason := missing()) is not None:
        print(f"skipped: {reason}")
        return

    Path(options.folder).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    started = time.time()
    full, script = original()
    samples = {}
    for part, count in (("train", options.clips), ("test", -(-options.clips // 3))):
        found = [
            clip[: len(clip) // FRAME * FRAME]
            for _, clip in synthetic_speech.clips(part, count, 10, options.seed)
        ]
        samples[part] = torch.from_numpy(np.stack(found))
    difference = verify(full, script, samples["test"][0])
    assert difference < 1e-4, f"probabilities differ from those of the TorchScript module by {difference}"
    clips = {part: observe(full, found) for part, found in samples.items()}
    speech = float((clips["test"].probabilities > 0.5).float().mean())
    print(f"the detector differs from its TorchScript module by at most {difference:.1e}")
    print(f"{clips['test'].probabilities.numel()} frames to test, of which {speech:.1%} are speech")
    print(f"{'weights':30}{'curvature':>16}{'agreement':>11}{'bytes':>10}")

    def row(name: str, curvature: str, detector: Detector) -> str:
        path = f"{options.folder}/speech_detector-{name.replace(' ', '-').replace(':', '')}"
        share, size = agreement(detector, clips["test"]), packed_size(detector, f"{path}.safetensors")
        print(f"{name:30}{curvature:>16}{share:11.2%}{size:10,}", flush=True)
        return path

    information = fisher(full, clips["train"], options.clips // 2)
    if not options.skip_after_training:
        moments = laq.torch.input_second_moments(
            full, clips["train"].spectra[::4].split(8), lambda model, x: model.hidden(x)
        )
        for options_of_all in AFTER_TRAINING:
            name = " ".join(options_of_all.values())
            for curvature, d in (("1", None), ("Fisher", information), ("inputs", moments)):
                detector = copy.deepcopy(full)
                laq.torch.quantize_(detector, curvature=d, rules=LAST | {"*": options_of_all})
                row(name, curvature, detector)
                if name.startswith("abs"):
                    break
    for name in options.distill:
        detector = copy.deepcopy(full)
        distill(detector, clips["train"], DISTILLED[name], information, options.steps)
        path = row(f"{name} distilled", "Adam", detector)
        try:
            share, size = onnx_agreement(detector, samples["test"], clips["test"], f"{path}.onnx")
        except ImportError as error:
            print(f"no ONNX file ({error}): pip install onnx onnxscript onnxruntime")
            continue
        print(f"{name + ' in onnxruntime':46}{share:11.2%}{size:10,}", flush=True)
    print(f"{time.time() - started:.0f} seconds")


if __name__ == "__main__":
    main()
