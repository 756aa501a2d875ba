"""Speech of espeak-ng in noise made here, with other sentences, voices and noises for tests."""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RATE = 16000

Signal = NDArray[np.float32]
Noise = Callable[[int, np.random.Generator], NDArray[np.float64]]


def missing() -> str | None:
    """What to install, if something is missing."""
    return None if shutil.which("espeak-ng") else "espeak-ng is missing: apt install espeak-ng"


def clips(part: str, count: int, seconds: float, seed: int) -> list[tuple[float, Signal]]:
    """Clips of sentences with pauses in noise, and the ratio of speech to noise of each in dB.

    Parameters
    ----------
    part : str
        ``train`` or ``test``, which have no sentence, voice or noise in common.
    """
    random = np.random.default_rng([seed, part == "test"])
    return [_clip(PARTS[part], int(seconds * RATE), random) for _ in range(count)]


class Part(NamedTuple):
    """What clips are made of."""

    sentences: dict[str, list[str]]
    """By language."""
    variants: list[str]
    """Of the voices."""
    noises: list[Noise]
    is_varied: bool
    """Whether two noises are mixed, and heard through a microphone of any response."""


def _clip(part: Part, length: int, random: np.random.Generator) -> tuple[float, Signal]:
    speech = np.zeros(length)
    position = int(random.uniform(0, 1.5) * RATE)
    language = random.choice(list(part.sentences))
    voice = f"{language}+{random.choice(part.variants)}"
    while position < length:
        spoken = _speak(random.choice(part.sentences[language]), voice, random)[: length - position]
        speech[position : position + len(spoken)] = spoken * 10 ** random.uniform(-0.3, 0.3)
        position += len(spoken) + int(random.uniform(0.2, 2.0) * RATE)
    ratio = float(random.choice([0.0, 5.0, 10.0, 20.0, 30.0]))
    count = 2 if part.is_varied else 1
    kinds = random.integers(len(part.noises), size=count)
    noise = sum(_unit(part.noises[kind](length, random)) * random.uniform(0.1, 1) for kind in kinds)
    mixed = _unit(speech) * 10 ** (ratio / 20) + _unit(noise)
    if part.is_varied:
        mixed = _microphone(mixed, random)
    peak = 10 ** random.uniform(-1.3, -0.05)
    return ratio, (mixed * (peak / np.abs(mixed).max())).astype(np.float32)


def _unit(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """With a mean square of 1."""
    return signal / np.sqrt(np.mean(signal**2))


def _microphone(signal: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """With a frequency response of some decibels up and down."""
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(signal), 1 / RATE), 20) / 20)
    waves = [random.normal(0, 3) * np.cos(k * octaves + random.uniform(0, 6)) for k in (0.3, 0.7, 1.5)]
    return np.fft.irfft(np.fft.rfft(signal) * 10 ** (sum(waves) / 20), len(signal))


def _speak(sentence: str, voice: str, random: np.random.Generator) -> NDArray[np.float64]:
    speed, pitch = random.integers(120, 220), random.integers(20, 80)
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", sentence]
    output = bytearray(subprocess.run(command, check=True, capture_output=True).stdout)
    # The lengths in the header are those of an endless stream.
    output[4:8] = (len(output) - 8).to_bytes(4, "little")
    output[40:44] = (len(output) - 44).to_bytes(4, "little")
    with wave.open(io.BytesIO(output)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32768
    return _resample(samples, rate)


def _resample(samples: NDArray[np.float64], rate: int) -> NDArray[np.float64]:
    """Band-limited, by its spectrum, to ``RATE``."""
    length = len(samples) * RATE // rate
    spectrum = np.fft.rfft(samples)[: length // 2 + 1]
    return np.fft.irfft(spectrum, length) * (length / len(samples))


def _shaped(
    length: int, random: np.random.Generator, gain: Callable[..., NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Noise whose spectrum has the magnitude ``gain(frequency)``."""
    spectrum = np.fft.rfft(random.normal(size=length))
    frequency = np.fft.rfftfreq(length, 1 / RATE)
    return np.fft.irfft(spectrum * gain(np.maximum(frequency, 20)), length)


def _coloured(length: int, random: np.random.Generator) -> NDArray[np.float64]:
    """White (exponent 0) to brown (1)."""
    exponent = random.uniform(0, 1)
    return _shaped(length, random, lambda f: f**-exponent)


def _hum(length: int, random: np.random.Generator) -> NDArray[np.float64]:
    """A tone of the mains and its harmonics, on weak noise."""
    t = np.arange(length) / RATE
    base = random.choice([50.0, 60.0])
    tone = sum(np.sin(2 * np.pi * base * k * t + random.uniform(0, 6)) / k for k in range(1, 12))
    return tone + 0.05 * random.normal(size=length)


def _engine(length: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Low noise that pulses."""
    t = np.arange(length) / RATE
    pulses = 1 + 0.8 * np.sin(2 * np.pi * random.uniform(8, 30) * t + np.sin(t))
    cutoff = random.uniform(300, 1500)
    return _shaped(length, random, lambda f: 1 / (1 + (f / cutoff) ** 2)) * pulses


def _chords(length: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Chords of decaying harmonic tones."""
    signal = np.zeros(length)
    note = int(random.uniform(0.3, 0.8) * RATE)
    t = np.arange(note) / RATE
    for start in range(0, length - note, note):
        for step in random.integers(0, 30, 3):
            base = 110 * 2 ** (step / 12)
            tones = sum(np.sin(2 * np.pi * base * k * t) / k**2 for k in range(1, 6))
            signal[start : start + note] += tones * np.exp(-3 * t)
    return signal + 1e-3 * random.normal(size=length)


def _clicks(length: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Sparse short bursts on weak pink noise."""
    signal = 0.02 * _shaped(length, random, lambda f: 30 * f**-0.5)
    for start in random.integers(0, length - 400, max(length // 6000, 1)):
        signal[start : start + 400] += random.normal(size=400) * np.exp(-np.arange(400) / 60)
    return signal


def _wind(length: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Low noise that swells."""
    t = np.arange(length) / RATE
    gusts = 1 + 0.7 * np.sin(2 * np.pi * 0.3 * t + random.uniform(0, 6)) * np.sin(2 * np.pi * 0.11 * t)
    return _shaped(length, random, lambda f: 1 / (1 + (f / 250) ** 1.5)) * gusts


def _rain(length: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Drops of any strength on high noise."""
    drops = (random.random(length) < 0.01) * random.normal(size=length) ** 3
    decay = np.exp(-np.arange(200) / 25) * np.sin(np.arange(200) * random.uniform(0.8, 2))
    return np.convolve(drops, decay)[:length] + 0.3 * _shaped(length, random, lambda f: (f / 4000) ** 0.5)


def _siren(length: int, random: np.random.Generator) -> NDArray[np.float64]:
    """A tone that rises and falls, in pink noise."""
    t = np.arange(length) / RATE
    frequency = 900 + 400 * np.sin(2 * np.pi * random.uniform(0.2, 2) * t)
    tone = np.sin(2 * np.pi * np.cumsum(frequency) / RATE)
    return tone + 0.3 * _shaped(length, random, lambda f: 30 * f**-0.5)


def _bells(length: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Strokes with partials that are not harmonic."""
    signal = 1e-3 * random.normal(size=length)
    t = np.arange(2 * RATE) / RATE
    for start in random.integers(0, length, max(length // RATE, 1)):
        base = random.uniform(300, 900)
        stroke = sum(np.sin(2 * np.pi * base * k * t) * np.exp(-2 * k * t) for k in (1, 2.0, 2.4, 3.0, 4.5))
        signal[start : start + len(t)] += stroke[: length - start]
    return signal


def _fan(length: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Noise in two bands."""
    low, high = random.uniform(150, 600), random.uniform(1500, 4000)
    return _shaped(
        length, random, lambda f: np.exp(-((f / low - 1) ** 2) * 8) + np.exp(-((f / high - 1) ** 2) * 30)
    )


PARTS = {
    "train": Part(
        {
            "en-us": [
                "The ferry leaves the harbour at seven in the morning.",
                "She keeps a jar of buttons on the kitchen shelf.",
                "A thin layer of ice had formed over the pond.",
                "Please bring both keys when you come back tonight.",
                "Our neighbour grows pumpkins behind the garage.",
                "He measured the plank twice and cut it once.",
                "The children found a blue shell near the rocks.",
                "Why would anybody paint a bridge in that colour?",
                "Three of the lamps in the hallway are broken.",
                "I have never seen the valley so green in August.",
                "Turn the handle slowly until you hear a click.",
                "Their van was stuck in the mud for an hour.",
                "Half of the visitors came from other countries.",
                "You should drink a glass of water before lunch.",
                "The judge asked for silence and nobody moved.",
                "Zebras and giraffes share the same watering hole.",
            ],
            "en-gb": [
                "Could you tell me which platform the train leaves from?",
                "Grandfather used to repair clocks in his spare time.",
                "The recipe needs two eggs, some flour and a pinch of salt.",
                "Every Thursday the market fills the whole square.",
                "We walked along the canal until it got dark.",
                "An owl was sitting on the roof of the church.",
                "It is much cheaper to buy the paper in large rolls.",
                "The choir rehearses in the old school building.",
                "Nobody expected the goalkeeper to score a goal.",
                "My umbrella is still hanging in your office.",
                "The cat jumped off the wall and vanished.",
                "Fresh bread is on the table, help yourself.",
                "They moved the piano with ropes and a lot of patience.",
                "Which of these maps shows the northern coast?",
            ],
            "de": [
                "Der Bäcker an der Ecke öffnet schon um sechs Uhr.",
                "Im Garten hinter dem Haus stehen vier Apfelbäume.",
                "Kannst du mir bitte die Schere aus der Küche holen?",
                "Gestern haben wir den ganzen Tag Karten gespielt.",
                "Die Straße zum See ist wegen Bauarbeiten gesperrt.",
                "Meine Schwester lernt seit einem Jahr Geige.",
                "Zwölf Schüler fuhren mit dem Zug ans Meer.",
                "Das Fenster klemmt, wenn es draußen feucht ist.",
            ],
            "fr-fr": [
                "Le marché commence tous les samedis à huit heures.",
                "Nous avons laissé les clefs sous le pot de fleurs.",
                "Il faut tourner à gauche après la petite fontaine.",
                "Ma voisine joue du violon chaque soir.",
                "Le bateau arrivera au port avant la nuit.",
                "Quelqu'un a oublié un parapluie dans le couloir.",
            ],
            "es": [
                "El perro duerme debajo de la mesa de la cocina.",
                "Mañana vamos a plantar tomates en el jardín.",
                "La biblioteca cierra más temprano los viernes.",
                "Mi abuelo cuenta historias de cuando era marinero.",
                "Necesito dos kilos de naranjas y un poco de pan.",
                "El tren llegó tarde por culpa de la nieve.",
            ],
            "it": [
                "Il gatto del vicino entra sempre dalla finestra.",
                "Domani mattina prendiamo il primo autobus.",
                "La nonna prepara il pane ogni domenica.",
                "Hai visto dove ho messo gli occhiali?",
                "Sulla collina c'è una vecchia torre di pietra.",
            ],
        },
        ["m1", "m2", "m4", "m6", "m7", "f1", "f3", "f5", "Adam", "Linda", "Andy", "Steph", "klatt2"],
        [_coloured, _hum, _engine, _chords, _clicks],
        is_varied=True,
    ),
    "test": Part(
        {
            "en-us": [
                "A yellow kite got caught in the power line.",
                "We ran out of coffee just before the guests arrived.",
                "The museum is closed while they replace the floor.",
                "His handwriting looks like a row of tiny fences.",
                "Put the heavier boxes at the bottom of the pile.",
                "How long does the battery last in cold weather?",
                "The orchard belongs to a family of beekeepers.",
                "Someone left the radio on all through the night.",
            ],
            "en-gb": [
                "The lighthouse was painted white again last spring.",
                "Would you mind closing the gate behind you?",
                "Six geese crossed the road in a perfect line.",
                "The plumber promised to return on Wednesday.",
                "My favourite mug has a crack near the handle.",
                "It rained so hard that the cellar was flooded.",
            ],
            "de": [
                "Auf dem Dachboden liegt noch ein alter Teppich.",
                "Hast du den Brief schon zur Post gebracht?",
                "Nach dem Regen roch der Wald nach Pilzen.",
                "Unser Nachbar repariert Fahrräder in der Garage.",
            ],
            "fr-fr": [
                "La lumière de la cave ne marche plus depuis hier.",
                "Mon frère collectionne les timbres étrangers.",
                "On entend les cloches jusqu'au bout de la vallée.",
            ],
            "es": [
                "La ventana del dormitorio da a un patio tranquilo.",
                "Compramos una lámpara nueva para el pasillo.",
                "¿Quién dejó abierta la puerta del garaje?",
            ],
            "it": [
                "Il treno per la montagna parte dal binario sette.",
                "Ho comprato una bicicletta rossa al mercato.",
                "Chi ha lasciato accesa la luce in giardino?",
            ],
        },
        ["m3", "m5", "m8", "f2", "f4", "Mike", "Annie", "klatt4"],
        [_wind, _rain, _siren, _bells, _fan],
        is_varied=False,
    ),
}
"""What the clips for training and those for tests are made of."""
