"""Networks that do not come from torch: scikit-learn pipelines and Keras models, with what exports them."""

from pathlib import Path
from typing import Any

import numpy as np

ROWS, FEATURES = 200, 16


def _data(classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, FEATURES)).astype(np.float32)
    weights = random.normal(size=(FEATURES, max(classes, 1)))
    y = x @ weights + 0.5 * random.normal(size=(ROWS, max(classes, 1)))
    return x, y.argmax(1) if classes else y[:, 0]


def _pipelines() -> dict[str, tuple[Any, int]]:
    from sklearn.decomposition import PCA, TruncatedSVD
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    quick = {"max_iter": 5, "random_state": 0}
    return {
        "mlp_classifier": (MLPClassifier((32, 24), **quick), 4),
        "mlp_binary": (MLPClassifier((32,), activation="tanh", **quick), 2),
        "mlp_regressor": (MLPRegressor(hidden_layer_sizes=(32, 24), activation="logistic", **quick), 0),
        "scaled_mlp": (make_pipeline(StandardScaler(), MLPClassifier((32, 24), **quick)), 4),
        "pca_mlp": (
            make_pipeline(StandardScaler(), PCA(8), MLPRegressor(hidden_layer_sizes=(24,), **quick)),
            0,
        ),
        "pca_logistic": (make_pipeline(MinMaxScaler(), PCA(8), LogisticRegression()), 4),
        "svd_ridge": (make_pipeline(TruncatedSVD(8), Ridge()), 0),
    }


SKLEARN = (
    "mlp_classifier",
    "mlp_binary",
    "mlp_regressor",
    "scaled_mlp",
    "pca_mlp",
    "pca_logistic",
    "svd_ridge",
)


def export_sklearn(name: str, opset: int, path: Path) -> None:
    """Fits the pipeline on made data and writes it with skl2onnx, probabilities as a plain tensor."""
    import warnings

    from skl2onnx import to_onnx

    warnings.simplefilter("ignore")  # five iterations do not converge
    pipeline, classes = _pipelines()[name]
    x, y = _data(classes)
    pipeline.fit(x, y)
    options = {"zipmap": False} if classes else None
    model = to_onnx(
        pipeline, x[:1], target_opset={"": opset, "ai.onnx.ml": 3},
        options={id(pipeline): options} if options else None,
    )  # fmt: skip
    path.write_bytes(model.SerializeToString())


KERAS = (
    "mlp", "cnn", "residual", "separable", "mobilenet_v2", "mobilenet_v3", "efficientnet_b0", "densenet121", "lstm",
    "gru_bidirectional", "conv1d", "attention", "unet", "nasnet_mobile", "convnext",
)  # fmt: skip


def keras_model(name: str) -> Any:
    """A Keras model with random weights, its activations O(1)."""
    import keras
    from keras import applications, layers

    keras.utils.set_random_seed(0)
    made: dict[str, Any] = {
        "mobilenet_v2": lambda: applications.MobileNetV2((64, 64, 3), 0.35, weights=None, classes=50),
        "mobilenet_v3": lambda: applications.MobileNetV3Small((64, 64, 3), weights=None, classes=50),
        "efficientnet_b0": lambda: applications.EfficientNetB0(
            weights=None, input_shape=(64, 64, 3), classes=50
        ),
        "densenet121": lambda: applications.DenseNet121(weights=None, input_shape=(64, 64, 3), classes=50),
        "nasnet_mobile": lambda: applications.NASNetMobile(weights=None, input_shape=(64, 64, 3), classes=50),
        "convnext": lambda: applications.ConvNeXtTiny(weights=None, input_shape=(64, 64, 3), classes=50),
    }
    model = made[name]() if name in made else _own_keras(name, layers, keras)
    _randomize_keras(model)
    return model


def _own_keras(name: str, layers: Any, keras: Any) -> Any:
    shapes = {
        "mlp": (20,),
        "lstm": (12, 24),
        "gru_bidirectional": (12, 24),
        "conv1d": (48, 8),
        "attention": (12, 32),
    }
    x = start = keras.Input(shapes.get(name, (32, 32, 3)))
    if name == "mlp":
        for units in (64, 48):
            x = layers.BatchNormalization()(layers.Dense(units, activation="relu")(x))
    elif name == "cnn":
        for filters in (16, 32, 48):
            x = layers.MaxPooling2D()(layers.Conv2D(filters, 3, padding="same", activation="relu")(x))
        x = layers.Dense(40, activation="elu")(layers.Flatten()(x))
    elif name == "residual":
        x = layers.Conv2D(32, 3, strides=2, padding="same")(x)
        for _ in range(2):
            y = layers.ReLU()(
                layers.BatchNormalization()(layers.Conv2D(32, 3, padding="same", use_bias=False)(x))
            )
            x = layers.Add()([x, layers.BatchNormalization()(layers.Conv2D(32, 3, padding="same")(y))])
        x = layers.GlobalAveragePooling2D()(x)
    elif name == "separable":
        for filters in (24, 48):
            x = layers.SeparableConv2D(filters, 3, padding="same", activation="relu")(x)
            x = layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2)(x)
        x = layers.GlobalMaxPooling2D()(x)
    elif name == "lstm":
        x = layers.LSTM(40)(layers.LSTM(48, return_sequences=True)(x))
    elif name == "gru_bidirectional":
        x = layers.Bidirectional(layers.GRU(32))(x)
    elif name == "conv1d":
        x = layers.Conv1D(48, 5, padding="causal", activation="relu")(
            layers.Conv1D(32, 5, activation="relu")(x)
        )
        x = layers.GlobalAveragePooling1D()(x)
    elif name == "attention":
        y = layers.MultiHeadAttention(4, 8)(x, x)
        x = layers.LayerNormalization()(layers.Add()([x, y]))
        y = layers.Dense(32)(layers.Dense(64, activation="gelu")(x))
        x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(layers.Add()([x, y])))
    elif name == "unet":
        a = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
        b = layers.Conv2D(32, 3, padding="same", activation="relu")(layers.MaxPooling2D()(a))
        x = layers.Concatenate()([a, layers.Conv2DTranspose(16, 2, strides=2)(b)])
        x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
        return keras.Model(start, layers.Conv2D(4, 1)(layers.UpSampling2D()(x)))
    return keras.Model(start, layers.Dense(10)(x))


def _randomize_keras(model: Any) -> None:
    """Nothing zero: kernels He-scaled, biases, gammas, betas and statistics drawn."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        shape, kind = tuple(weight.shape), weight.path.rsplit("/", 1)[-1]
        if "int" in str(weight.dtype) or "seed" in kind:
            continue
        if len(shape) > 1:
            fan_in = np.prod(shape[:-1]) if kind != "depthwise_kernel" else np.prod(shape[:2])
            value = random.normal(0, np.sqrt(2 / fan_in), shape)
        elif "variance" in kind or kind == "gamma":
            value = random.uniform(0.5, 1.5, shape)
        else:
            value = random.normal(0, 0.2, shape)
        weight.assign(value.astype(np.float32))


def export_keras(name: str, exporter: str, opset: int, path: Path) -> None:
    """Writes a Keras model by its own `export`, which goes through torch's exporter or tf2onnx, by its backend."""
    model = keras_model(name)
    if exporter == "tf2onnx":
        import tensorflow
        import tf2onnx

        signature = [
            tensorflow.TensorSpec((None, *model.inputs[0].shape[1:]), tensorflow.float32, name="input")
        ]
        tf2onnx.convert.from_function(
            tensorflow.function(model), input_signature=signature, opset=opset, output_path=str(path)
        )
    else:
        model(np.zeros((1, *model.inputs[0].shape[1:]), np.float32))  # it refuses one that was never called
        model.export(path, format="onnx", opset_version=opset, verbose=False)
