"""Writes `preprocessed.bin` into this folder with numpy and scipy: `python3 make_preprocessed.py`.

It has 24 training, 2 validation and 4 test images of 8 x 9 pixels in 3 colours, as bytes; then the same 30 images after
global contrast normalization, after ZCA whitening, and after local contrast normalization, as little-endian f32.
"""
import pathlib

import numpy as np
import scipy.ndimage

HEIGHT, WIDTH, CHANNELS, TRAIN, ALL = 8, 9, 3, 24, 30
random = np.random.default_rng(1)
# Neighbours are alike, as in photographs, and some images are dark, or almost of one colour.
noise = random.normal(size=(ALL, HEIGHT, WIDTH, CHANNELS))
smooth = scipy.ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 0.5))
contrast = random.uniform(20, 900, size=(ALL, 1, 1, 1))
images = np.clip(random.uniform(20, 200, size=(ALL, 1, 1, 1)) + contrast * smooth, 0, 255).astype(np.uint8)
images[5] = 77
images[5, 3, 4, 1] = 78
images[6, :, :, 2] = 0

flat = images.reshape(ALL, -1).astype(np.float64)
flat -= flat.mean(axis=1, keepdims=True)
gcn = 55 * flat / np.linalg.norm(flat, axis=1, keepdims=True)

mean = gcn[:TRAIN].mean(axis=0)
variances, axes = np.linalg.eigh(np.cov(gcn[:TRAIN].T, bias=True))
zca = (gcn - mean) @ (axes / np.sqrt(variances + 0.1)) @ axes.T

place = np.arange(-3, 4)
window = np.exp(-(place[:, None] ** 2 + place[None, :] ** 2) / (2 * 2.0**2))
window = (window / window.sum())[None, :, :, None]
x = gcn.reshape(images.shape)
centred = x - scipy.ndimage.convolve(x, window, mode="constant")
deviation = np.sqrt(scipy.ndimage.convolve(centred**2, window, mode="constant"))
lcn = centred / np.maximum(np.maximum(deviation, deviation.mean(axis=(1, 2), keepdims=True)), 1e-4)

with open(pathlib.Path(__file__).parent / "preprocessed.bin", "wb") as file:
    file.write(images.tobytes())
    for values in (gcn, zca, lcn):
        file.write(values.astype("<f4").tobytes())
