"""A program that saves models with Keras itself, each with inputs and Keras' own answers, in a folder.

For each model NAME: NAME.keras, NAME.h5, and NAME.npz with `x` and `y`, what `predict` answers. Run by tests in a
process of its own, because importing Keras takes seconds and fixes its backend. It runs with Keras 2, too.
"""

import inspect
import os
import sys
import warnings
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
from keras import layers

SHAPE = (9, 8, 3)
KERAS_2 = keras.__version__.startswith("2.")
NOT_BY_NAME = ("deserialize", "get", "serialize", "sparsemax", "threshold")
ACTIVATIONS = [name for name, _ in inspect.getmembers(keras.activations, inspect.isfunction) if name not in NOT_BY_NAME]

CONVOLUTIONS = {
    "conv2d": lambda: layers.Conv2D(4, 3, activation="relu", name="premier"),
    "conv2d_same": lambda: layers.Conv2D(4, (3, 2), strides=2, padding="same", use_bias=False, kernel_regularizer="l2"),
    "conv2d_dilated_groups": lambda: layers.Conv2D(6, 2, dilation_rate=2, groups=3, activation="gelu"),
    "depthwise": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", activation="silu"),
    "depthwise_strided": lambda: layers.DepthwiseConv2D(2, strides=2, depth_multiplier=3),
    "separable": lambda: layers.SeparableConv2D(5, 3, depth_multiplier=2, activation="relu"),
    "separable_strided": lambda: layers.SeparableConv2D(5, 3, strides=2, padding="same", use_bias=False),
}
OTHERS = {
    "max_pooling": lambda: layers.MaxPooling2D(),
    "max_pooling_same": lambda: layers.MaxPooling2D(3, strides=2, padding="same"),
    "average_pooling": lambda: layers.AveragePooling2D((2, 3)),
    "global_average": lambda: layers.GlobalAveragePooling2D(keepdims=True),
    "global_max": lambda: layers.GlobalMaxPooling2D(),
    "batch_normalization": lambda: layers.BatchNormalization(),
    "batch_normalization_plain": lambda: layers.BatchNormalization(center=False, scale=False, epsilon=0.1),
    "batch_normalization_frozen": lambda: layers.BatchNormalization(trainable=False),
    "activation": lambda: layers.Activation("hard_sigmoid"),
    "relu": lambda: layers.ReLU(max_value=0.8, negative_slope=0.1, threshold=0.2),
    "leaky_relu": lambda: layers.LeakyReLU(),
    "elu": lambda: layers.ELU(),
    "softmax": lambda: layers.Softmax(),
    "dropout": lambda: layers.Dropout(0.5, seed=3),
    "identity": lambda: layers.Identity(),
    "rescaling": lambda: layers.Rescaling(1 / 127.5, offset=-1),
    "zero_padding": lambda: layers.ZeroPadding2D(((1, 0), (2, 3))),
    "reshape": lambda: layers.Reshape((-1, 4, 3)),
    "activity_regularization": lambda: layers.ActivityRegularization(0.1),
    "alpha_dropout": lambda: layers.AlphaDropout(0.3),
    "gaussian_dropout": lambda: layers.GaussianDropout(0.3),
    "gaussian_noise": lambda: layers.GaussianNoise(0.3),
    "spatial_dropout": lambda: layers.SpatialDropout2D(0.3),
    "random_brightness": lambda: layers.RandomBrightness(0.2),
    "random_contrast": lambda: layers.RandomContrast(0.2),
    "random_erasing": lambda: layers.RandomErasing(),
    "random_flip": lambda: layers.RandomFlip(),
    "random_rotation": lambda: layers.RandomRotation(0.1),
    "random_shear": lambda: layers.RandomShear(0.1, 0.1),
    "random_translation": lambda: layers.RandomTranslation(0.1, 0.1),
    "random_zoom": lambda: layers.RandomZoom(0.1),
}


def one_layer(make):
    """A model around one layer: a head behind it."""
    return keras.Sequential([keras.Input(SHAPE), make(), layers.Flatten(), layers.Dense(3, activation="softmax")])


def stack():
    block = [layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D()]
    more = [
        layers.SeparableConv2D(6, 3),
        layers.BatchNormalization(),
        layers.LeakyReLU(),
        layers.SpatialDropout2D(0.1, name="drop"),
    ]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(5, activation="relu"), layers.Dropout(0.5), layers.Dense(4)]
    start = [keras.Input(SHAPE), layers.Rescaling(1 / 255), layers.RandomFlip("horizontal", name="flip")]
    return keras.Sequential([*start, *block, *more, *head, layers.Activation("softmax")], name="stack")


def functional():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(3, 2, activation="relu")(inputs)
    x = layers.Conv2D(3, 2, activation="tanh")(x)
    x = layers.Flatten()(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x), name="chaine")


def nested():
    augmentation = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1)])
    body = keras.Sequential([layers.Conv2D(3, 3), layers.BatchNormalization(), layers.Conv2D(2, 2), layers.Flatten()])
    body.layers[0].trainable = False
    return keras.Sequential([keras.Input(SHAPE), augmentation, layers.Conv2D(3, 2), body, layers.Dense(2)])


def nested_functional():
    inputs, inner_inputs = keras.Input(SHAPE), keras.Input(SHAPE)
    inner = keras.Model(inner_inputs, layers.Conv2D(2, 3, activation="relu")(inner_inputs))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.Flatten()(inner(inputs))))


def built_by_a_call():
    model = keras.Sequential([layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(1, activation="sigmoid")])
    model(np.zeros((1, *SHAPE), np.float32))
    return model


def many():
    """More layers of one class than one digit counts, so that an alphabetical order is a wrong one."""
    return keras.Sequential([keras.Input((6,)), *(layers.Dense(6, activation="tanh") for _ in range(12))])


def with_policy(policy):
    set_policy = keras.mixed_precision.set_global_policy if KERAS_2 else keras.config.set_dtype_policy
    set_policy(policy)
    try:
        return keras.Sequential([keras.Input(SHAPE), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(2)])
    finally:
        set_policy("float32")


def activated(name):
    """Dense with an activation by name; as the last layer, because of what Keras thinks that `glu` gives."""
    return keras.Sequential([keras.Input((6,)), layers.Dense(8, activation=name)])


def compiled(activation, units, loss):
    model = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(units, activation=activation)])
    model.compile("adam", loss)
    return model


MODELS = {
    **{name: lambda make=make: one_layer(make) for name, make in (CONVOLUTIONS | OTHERS).items()},
    "stack": stack,
    "functional": functional,
    "nested": nested,
    "nested_functional": nested_functional,
    "built_by_a_call": built_by_a_call,
    "many": many,
    "mixed_float16": lambda: with_policy("mixed_float16"),
    "bfloat16": lambda: with_policy("bfloat16"),
    "binary_logits": lambda: compiled(None, 1, keras.losses.BinaryCrossentropy(from_logits=True)),
    "logits": lambda: compiled(None, 3, keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
    "softmax_loss": lambda: compiled("softmax", 3, "sparse_categorical_crossentropy"),
    **{f"activation_{name}": lambda name=name: activated(name) for name in ACTIVATIONS},
}
if KERAS_2:
    MODELS["average_pooling_same"] = lambda: one_layer(lambda: layers.AveragePooling2D(3, 2, padding="same"))
    del MODELS["random_erasing"], MODELS["random_shear"]
NOT_AS_H5 = () if KERAS_2 else ("random_brightness",)  # Keras 3.15 itself fails at it
LOW_PRECISION = ("mixed_float16", "bfloat16")


def randomize(model, generator):
    """Give all weights values of their own: zeros and ones would hide a mistake."""
    for variable in model.weights:
        path = variable.name if KERAS_2 else variable.path
        low, high = (0.3, 1.5) if "variance" in path or "gamma" in path else (-0.4, 0.4)
        if "seed" not in path:
            variable.assign(generator.uniform(low, high, variable.shape).astype(np.float32))


def as_float32(weight):
    if KERAS_2:
        return weight.numpy().astype(np.float32)
    return keras.ops.convert_to_numpy(keras.ops.cast(weight, "float32"))


def main(folder):
    generator = np.random.default_rng(7)
    for name, make in MODELS.items():
        keras.utils.set_random_seed(1)
        model = make()
        randomize(model, generator)
        x = generator.uniform(-1, 1, (5, *model.input_shape[1:])).astype(np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save(folder / f"{name}.keras")
            if name not in NOT_AS_H5:
                model.save(folder / f"{name}.h5")
        if name in LOW_PRECISION:  # the same weights, computed in float32
            exact = with_policy("float32")
            exact.set_weights([as_float32(w) for w in model.weights])
            model = exact
        np.savez(folder / f"{name}.npz", x=x, y=model.predict(x, verbose=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
