"""The frameworks themselves: each makes a small model, writes it as its users do, and what comes out computes the same."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgectl.builder.budget import Budget
from edgectl.builder.convert.convert import Conversion, converted
from edgectl.builder.convert.options import ConvertOptions
from edgectl.builder.ingest.read import read_model
from edgectl.builder.ingest.samples import Sample
from edgectl.builder.monitor import BuildMonitor
from edgectl.core.errors import EdgectlError, ModelError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore")
"""What frameworks warn of while they make a model is theirs."""

TORCH = pytest.mark.convert("torch", "onnxscript")
TENSORFLOW = pytest.mark.convert("tensorflow", "tf2onnx", "ai_edge_litert")
SKLEARN = pytest.mark.convert("sklearn", "skl2onnx")

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(x.mean((2, 3))), x.amax((2, 3))

def make():
    return Net()

def make_half():
    return Net().half()
"""


def pictures(name: str, *shape: int, count: int = 3, dtype: Any = np.float32) -> list[Sample]:
    rng = np.random.default_rng(0)
    return [Sample({name: rng.random(shape).astype(dtype)}) for _ in range(count)]


def checked(
    source: Path, samples: list[Sample], *, trust: bool = False, **given: Any
) -> tuple[onnx.ModelProto, Conversion]:
    """The graph that came out, after it was compared, and what is said of it."""
    monitor = BuildMonitor(Budget(7200))
    with converted(source, ConvertOptions(trust_source=trust), monitor, **given) as found:
        graph = read_model(found.onnx)
        found.confirm(samples, monitor)
        assert found.conversion is not None
        assert found.conversion.agreement is not None
        assert found.conversion.agreement.samples == len(samples)
        assert str(source.absolute().parent) not in str(graph), "nothing says where it was made"
        return graph, found.conversion


def inputs(graph: onnx.ModelProto) -> dict[str, list[int | str]]:
    return {
        i.name: [d.dim_value or d.dim_param for d in i.type.tensor_type.shape.dim] for i in graph.graph.input
    }


@pytest.fixture
def torch_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, and the user's folder with its file."""
    import torch

    (tmp_path / "nets.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    there: dict[str, Any] = {"__name__": "nets"}
    torch.manual_seed(0)
    exec(compile(NET, "nets.py", "exec"), there)
    return there["Net"]().eval()


@TORCH
@pytest.mark.slow
def test_an_exported_program(torch_net: Any, tmp_path: Path) -> None:
    import torch

    torch.export.save(torch.export.export(torch_net, (torch.rand(1, 3, 16, 16),)), tmp_path / "net.pt2")
    graph, conversion = checked(tmp_path / "net.pt2", pictures("x", 1, 3, 16, 16))
    assert inputs(graph) == {"x": [1, 3, 16, 16]}
    assert conversion.format == "an exported program of PyTorch"
    assert conversion.framework == f"PyTorch {torch.__version__}"
    assert conversion.converter.startswith("torch.onnx ")


class Evil:
    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (self._path, os.O_CREAT)


@TORCH
@pytest.mark.slow
def test_an_exported_program_with_a_pickle_in_it_opens_none(torch_net: Any, tmp_path: Path) -> None:
    """In the place of its inputs and of its weights, which PyTorch would open as a pickle."""
    import torch

    torch.export.save(torch.export.export(torch_net, (torch.rand(1, 3, 16, 16),)), tmp_path / "net.pt2")
    mark = tmp_path / "opened"
    evil = tmp_path / "evil.pt"
    torch.save((Evil(mark),), evil)
    changed = 0
    with zipfile.ZipFile(tmp_path / "net.pt2") as z, zipfile.ZipFile(tmp_path / "evil.pt2", "w") as out:
        for m in z.infolist():
            bad = "sample_inputs" in m.filename and m.file_size > 0
            changed += bad
            out.writestr(m.filename, evil.read_bytes() if bad else z.read(m))
    assert changed
    with pytest.raises(EdgectlError) as e:
        checked(tmp_path / "evil.pt2", pictures("x", 1, 3, 16, 16))
    assert not mark.exists()
    assert "\n" not in e.value.message


@TORCH
@pytest.mark.slow
def test_torchscript_traced_and_scripted(torch_net: Any, tmp_path: Path) -> None:
    import torch

    torch.jit.trace(torch_net, torch.rand(1, 3, 16, 16)).save(tmp_path / "net.pt")
    graph, conversion = checked(
        tmp_path / "net.pt", pictures("x", 1, 3, 16, 16), shapes={"x": (1, 3, 16, 16)}
    )
    assert inputs(graph) == {"x": [1, 3, 16, 16]}
    assert conversion.format == "TorchScript"
    with pytest.raises(UsageError, match="nothing says the shape of input x") as e:
        checked(tmp_path / "net.pt", [])
    assert "--shape x=" in (e.value.hint or "")
    with pytest.raises(UsageError, match="it has no input image"):
        checked(tmp_path / "net.pt", [], shapes={"image": (1, 3, 16, 16)})


@TORCH
@pytest.mark.slow
def test_a_function_that_makes_a_module(torch_net: Any, tmp_path: Path) -> None:
    """The sizes from the calibration data, whose samples have no batch axis."""
    np.savez(tmp_path / "data.npz", x=np.zeros((9, 3, 16, 16)))
    graph, conversion = checked(
        Path("nets:make"), pictures("x", 1, 3, 16, 16), calibration=str(tmp_path / "data.npz")
    )
    assert inputs(graph) == {"x": [1, 3, 16, 16]}
    assert conversion.name == "nets:make"
    half, conversion = checked(
        Path("nets:make_half"),
        pictures("x", 1, 3, 16, 16, dtype=np.float16),
        shapes={"x": (1, 3, 16, 16)},
    )
    assert half.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert conversion.agreement is not None
    assert conversion.agreement.worst < 1e-2


@pytest.fixture
def pipeline() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 6)).astype(np.float32)
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(x, (x[:, 0] + x[:, 1] > 0).astype(int))


@SKLEARN
@pytest.mark.slow
def test_a_pickled_pipeline_with_the_users_word(pipeline: Any, tmp_path: Path) -> None:
    import joblib

    joblib.dump(pipeline, tmp_path / "a.joblib")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(pipeline))
    for name in ("a.joblib", "b.pkl"):
        graph, conversion = checked(tmp_path / name, pictures("input", 1, 6), trust=True)
        assert [o.name for o in graph.graph.output] == ["label", "probabilities"]
        assert conversion.converter.startswith("skl2onnx ")
    with pytest.raises(UsageError, match="runs whatever code"):
        checked(tmp_path / "b.pkl", pictures("input", 1, 6))
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(UsageError, match="it holds a dict, not an estimator"):
        checked(tmp_path / "c.pkl", pictures("input", 1, 6), trust=True)


ESTIMATORS = """
import numpy as np
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestRegressor
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.svm import SVC

X = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)

def forest():
    return RandomForestRegressor(8, max_depth=4, random_state=0).fit(X, X[:, 0])

def ridge():
    return Ridge().fit(X, X[:, :2])

def pca():
    return PCA(2).fit(X)

def clusters():
    return KMeans(3, n_init=1, random_state=0).fit(X)

def words():
    return SVC(probability=False).fit(X, np.where(X[:, 0] > 0, "yes", "no"))

def unfitted():
    return Ridge()
"""


@SKLEARN
@pytest.mark.slow
@pytest.mark.parametrize("name", ["forest", "ridge", "pca", "clusters"])
def test_a_function_that_fits_an_estimator(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "estimators.py").write_text(ESTIMATORS)
    monkeypatch.chdir(tmp_path)
    checked(Path(f"estimators:{name}"), pictures("input", 1, 5))


@SKLEARN
@pytest.mark.slow
def test_an_estimator_that_is_not_fitted_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "estimators.py").write_text(ESTIMATORS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="it is not fitted"):
        checked(Path("estimators:unfitted"), [])


@pytest.fixture
def keras_net() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((16, 16, 3), name="image"),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
            keras.layers.DepthwiseConv2D(3, strides=2, padding="same"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
        ]
    )


@TENSORFLOW
@pytest.mark.slow
def test_a_keras_file_and_a_saved_model(keras_net: Any, tmp_path: Path) -> None:
    keras_net.save(tmp_path / "net.keras")
    keras_net.export(tmp_path / "saved", verbose=False)
    for source in (tmp_path / "net.keras", tmp_path / "saved"):
        graph = None
        monitor = BuildMonitor(Budget(7200))
        with converted(source, ConvertOptions(), monitor) as found:
            graph = read_model(found.onnx)
            [name] = inputs(graph)
            assert inputs(graph)[name][1:] == [16, 16, 3]
            found.confirm(pictures(name, 1, 16, 16, 3), monitor)
            assert found.conversion is not None
            assert found.conversion.framework.startswith("TensorFlow ")


@TENSORFLOW
@pytest.mark.slow
def test_a_keras_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    import keras

    keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1)]).save(tmp_path / "code.keras")
    with pytest.raises(ModelError, match=r"(?i)lambda|unsafe"):
        checked(tmp_path / "code.keras", [])


def tflite(keras_net: Any, kind: str) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(keras_net)
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind.startswith("int8"):
        rng = np.random.default_rng(1)
        converter.representative_dataset = lambda: (
            [rng.random((1, 16, 16, 3)).astype(np.float32)] for _ in range(32)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        if kind == "int8 in and out":
            converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


@TENSORFLOW
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", "float16", "int8", "int8 in and out"])
def test_tflite_of_every_precision(keras_net: Any, kind: str, tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(tflite(keras_net, kind))
    monitor = BuildMonitor(Budget(7200))
    with converted(tmp_path / "net.tflite", ConvertOptions(), monitor) as found:
        graph = read_model(found.onnx)
        [name] = inputs(graph)
        assert inputs(graph)[name][1:] == [16, 16, 3]
        samples = pictures(name, 1, 16, 16, 3)
        if kind == "int8 in and out":
            samples = [Sample({name: (s.feeds[name] * 255 - 128).astype(np.int8)}) for s in samples]
        found.confirm(samples, monitor)
        assert found.conversion is not None
        assert found.conversion.agreement is not None
        assert found.conversion.agreement.worst < (0.1 if kind.startswith("int8") else 1e-3)
        integer = sum(
            t.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) for t in graph.graph.initializer
        )
        assert bool(integer) == kind.startswith("int8"), "what came as int8 stays so"
