"""Files as Keras 3 writes them, made by Keras itself: run as a program, in a process of its own, with a folder.

The seed's network with random weights and random BatchNorm statistics in all three formats, networks that differ from
it in one layer, pictures, and what Keras makes of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from keras2 import configuration, name_arrays, summary, write_keras2

SIZE = (32, 48)


def seed_network(
    width: int,
    size: tuple[int | None, int | None],
    *,
    names: Callable[[], str | None] = lambda: None,
    norm: dict[str, Any] | None = None,
    activation: Callable[[], Any] | None = None,
    upsample: Callable[[int], Any] | None = None,
    join: Callable[[Any, Any], list[Any]] = lambda skip, below: [skip, below],
    before_head: Callable[[Any], Any] = lambda features: features,
    kernel: int = 3,
    classes: int = 1,
) -> Any:
    """The network of the notebook's summary; each argument changes it in one point."""
    from keras import Model, layers

    def convolve(features: Any, outputs: int) -> Any:
        features = layers.Conv2D(outputs, kernel, padding="same", name=names())(features)
        if norm is not None:
            features = layers.BatchNormalization(name=names(), **norm)(features)
        return (activation() if activation else layers.Activation("relu", name=names()))(features)

    picture = features = layers.Input((*size, 3), name=names())
    skips = []
    for stage in range(5):
        if stage:
            features = layers.MaxPooling2D(name=names())(features)
        for _ in range(2):
            features = convolve(features, width * 2**stage)
        skips.append(features)
    for stage in reversed(range(4)):
        larger = upsample(width * 2 ** (stage + 1)) if upsample else layers.UpSampling2D(name=names())
        features = layers.Concatenate(name=names())(join(skips[stage], larger(features)))
        for _ in range(3):
            features = convolve(features, width * 2**stage)
    head = layers.Conv2D(classes, 1, activation="sigmoid", name=names())
    return Model(picture, head(before_head(features)))


def randomise(model: Any, rng: np.random.Generator, gain: float) -> None:
    """Give every array random values, such that the logits neither vanish nor explode."""
    for layer in model.layers:
        for variable in layer.weights:
            shape, kind = variable.shape, variable.path.rpartition("/")[2]
            if kind == "kernel":
                values = rng.normal(0, np.sqrt(gain / np.prod(shape[:3])), shape)
            elif kind in ("gamma", "moving_variance"):
                values = rng.uniform(0.5, 1.5, shape)
            else:
                values = rng.normal(0, 0.2, shape)
            variable.assign(values.astype(np.float32))


def write(folder: Path) -> None:
    """Write all files into ``folder``."""
    import keras
    from keras import layers

    rng = np.random.default_rng(0)

    def outputs(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
        probabilities = keras.ops.convert_to_numpy(model(images, training=False))
        model.layers[-1].activation = keras.activations.linear
        logits = keras.ops.convert_to_numpy(model(images, training=False))
        model.layers[-1].activation = keras.activations.sigmoid
        return {"images": images, "probabilities": probabilities, "logits": logits}

    def made(gain: float = 2.0, **changes: Any) -> Any:
        model = seed_network(**{"width": 3, "size": SIZE, "norm": {}} | changes)
        randomise(model, rng, gain)
        return model

    letters = rng.permutation(200).tolist()
    networks = {
        "small": made(),
        "named": made(names=lambda: f"layer-{letters.pop():03d}", size=(None, None)),
        # In one session Keras goes on counting: the names of these begin at conv2d_23 and later.
        "epsilon": made(norm={"epsilon": 0.1}),
        "relu": made(activation=lambda: layers.ReLU()),
    }
    images = rng.random((2, *SIZE, 3), dtype=np.float32)
    for name, model in networks.items():
        model.save(folder / f"{name}.keras")
        model.save(folder / f"{name}.h5")
        model.save_weights(folder / f"{name}.weights.h5")
        np.savez(folder / f"{name}.npz", **outputs(model, images))
    write_old(folder, networks["small"], seed_network(3, SIZE, norm={}), images)

    compiled = networks["small"]
    compiled.compile("adam", "binary_crossentropy")
    compiled.fit(images, np.zeros((2, *SIZE, 1)), verbose=0)
    compiled.save(folder / "compiled.keras")
    compiled.save(folder / "compiled.h5")
    compiled.save_weights(folder / "compiled.weights.h5")
    np.savez(folder / "compiled.npz", **outputs(compiled, images))

    full = made(gain=1.6, width=64, size=(128, 128))
    full.save(folder / "full.keras")
    np.savez(folder / "full.npz", **outputs(full, rng.random((1, 128, 128, 3), dtype=np.float32)))

    foreign = {
        "kernels": made(kernel=5),
        "classes": made(classes=2),
        "no-norm": made(norm=None),
        "norm-without-scale": made(norm={"scale": False}),
        "joined": made(join=lambda skip, below: [below, skip]),
        "dropout": made(before_head=layers.Dropout(0.5)),
        "transposed": made(upsample=lambda width: layers.Conv2DTranspose(width, 2, 2)),
        "leaky": made(activation=lambda: layers.LeakyReLU()),
        "bilinear": made(upsample=lambda width: layers.UpSampling2D(interpolation="bilinear")),
        "classifier": keras.Sequential([layers.Input((8,)), layers.Dense(4), layers.Dense(2)]),
    }
    for name, model in foreign.items():
        model.save(folder / f"{name}.keras")
        model.save_weights(folder / f"{name}.weights.h5")


def write_old(folder: Path, model: Any, empty: Any, images: np.ndarray) -> None:
    """Write the network as Keras 2 did; what Keras 3 reads of it computes the same."""
    import keras

    weighted = [
        {variable.path.rpartition("/")[2]: np.asarray(variable) for variable in layer.weights}
        for layer in model.layers
        if layer.weights
    ]
    layers = summary()
    arrays = name_arrays(layers, weighted)
    write_keras2(folder / "old.h5", layers, arrays, config=configuration(layers, arrays, SIZE))
    write_keras2(folder / "old-weights.h5", layers, arrays, chunks=3)
    expected = keras.ops.convert_to_numpy(model(images, training=False))
    empty.load_weights(folder / "old-weights.h5")
    for other in (empty, keras.models.load_model(folder / "old.h5")):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(other(images, training=False)), expected)


if __name__ == "__main__":
    os.environ |= {"KERAS_BACKEND": "torch", "KERAS_HOME": sys.argv[1]}
    write(Path(sys.argv[1]))
