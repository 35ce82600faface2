"""A double of the TensorRT binding: a plan is the ONNX file behind a header, "the GPU" is ONNX Runtime.

``$TRT_DOUBLE`` (JSON) sets version and faults: ``version``, ``parse``, ``build``, ``hang``, ``crash``,
``deserialize``, ``context``, ``execute``, ``sparse`` (no sparse kernels), ``wrong`` (outputs shifted),
``corrupt`` (plan bytes damaged when saved), ``memory`` (MiB that a build takes), ``dla_cores``,
``dla_falls_back``, ``unfused`` (no layer in int8), ``inspector`` (what it says instead).
"""

import ctypes
import functools
import json
import os
import sys
import time

import numpy as np
import onnxruntime

_faults = json.loads(os.environ.get("TRT_DOUBLE", "{}"))
__version__ = _faults.get("version", "10.3.0.30")
_major = int(__version__.split(".")[0])
CALLS = []


class _Flag:
    def __init__(self, name, value):
        self.name, self._value = name, value

    def __int__(self):
        return self._value

    def __index__(self):
        return self._value


def _enum(*names):
    members = {n: _Flag(n, i) for i, n in enumerate(names)}
    return type("Enum", (), {"__members__": members, **members})


NetworkDefinitionCreationFlag = _enum(
    *{8: ["EXPLICIT_BATCH"], 10: ["EXPLICIT_BATCH", "STRONGLY_TYPED"]}.get(_major, ["STRONGLY_TYPED"])
)
BuilderFlag = _enum(
    *(
        ["FP16", "INT8", "TF32", "SPARSE_WEIGHTS", "GPU_FALLBACK"]
        if _major < 11
        else ["TF32", "SPARSE_WEIGHTS", "GPU_FALLBACK"]
    )
)
MemoryPoolType = _enum("WORKSPACE", "TACTIC_DRAM")
ProfilingVerbosity = _enum("LAYER_NAMES_ONLY", "DETAILED")
DeviceType = _enum("GPU", "DLA")
LayerInformationFormat = _enum("ONELINE", "JSON")
TensorIOMode = _enum("NONE", "INPUT", "OUTPUT")
DataType = _enum("FLOAT", "INT64")


class Logger:
    WARNING = 2

    def __init__(self, level):
        pass


class _Cache:
    def __init__(self, data):
        self._data = data

    def serialize(self):
        return self._data + b"."


class _Config:
    builder_optimization_level = 3
    profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
    default_device_type = DeviceType.GPU
    DLA_core = -1

    def __init__(self):
        self.flags = []

    def set_flag(self, flag):
        self.flags.append(flag.name)

    def set_memory_pool_limit(self, pool, size):
        assert size > 0

    def create_timing_cache(self, data):
        return _Cache(data)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache


class _Tensor:
    def __init__(self, name):
        self.name, self.range = name, None

    def set_dynamic_range(self, low, high):
        assert _major < 11, "TensorRT 11 has no implicit quantization"
        assert low == -high < 0
        self.range = high


class _Layer:
    def __init__(self, outputs):
        self._outputs = outputs
        self.num_outputs = len(outputs)

    def get_output(self, index):
        return self._outputs[index]


class _Network:
    def __init__(self, flags):
        self.flags = flags
        self.model = None

    @functools.cached_property
    def _tensors(self):
        """Inputs, and the outputs of each node. Only implicit quantization looks: importing onnx takes a
        second."""
        import onnx

        graph = onnx.load_from_string(self.model).graph
        return [_Tensor(i.name) for i in graph.input], [
            _Layer([_Tensor(o) for o in n.output]) for n in graph.node
        ]

    num_layers = property(lambda self: len(self._tensors[1]))
    num_inputs = property(lambda self: len(self._tensors[0]))

    def get_layer(self, index):
        return self._tensors[1][index]

    def get_input(self, index):
        return self._tensors[0][index]

    def ranges(self):
        if "_tensors" not in vars(self):
            return {}
        inputs, layers = self._tensors
        tensors = [*inputs, *(layer.get_output(i) for layer in layers for i in range(layer.num_outputs))]
        return {t.name: t.range for t in tensors if t.range is not None}


class OnnxParser:
    def __init__(self, network, logger):
        self._network = network

    def parse_from_file(self, path):
        if "parse" in _faults:
            return False
        with open(path, "rb") as f:
            self._network.model = f.read()
        return True

    num_errors = 1

    def get_error(self, index):
        return type("E", (), {"desc": lambda self: "no importer for Frobnicate"})()


class Builder:
    num_DLA_cores = _faults.get("dla_cores", 2)

    def __init__(self, logger):
        pass

    def create_builder_config(self):
        return _Config()

    def create_network(self, flags=0):
        return _Network(flags)

    def build_serialized_network(self, network, config):
        print("a native library that prints on standard output")
        if "hang" in _faults:
            time.sleep(600)
        if "crash" in _faults:
            ctypes.string_at(0)
        if "build" in _faults:
            return None
        if "memory" in _faults:
            _ballast = bytearray(_faults["memory"] << 20)
            _ballast[:: 1 << 12] = b"1" * len(_ballast[:: 1 << 12])
            time.sleep(600)
        typed = network.flags & (
            1 << int(NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED", _Flag("", 40)))
        )
        dla = config.default_device_type is DeviceType.DLA
        if dla:
            assert "GPU_FALLBACK" in config.flags
            assert 0 <= config.DLA_core < self.num_DLA_cores
        if _major == 8 or network.ranges():
            assert not typed
            assert config.flags[:2] == ["FP16", "INT8"]
        else:
            assert typed
            assert not {"FP16", "INT8"} & set(config.flags)
        if "SPARSE_WEIGHTS" in config.flags and "sparse" in _faults:
            return None
        assert config.profiling_verbosity is ProfilingVerbosity.DETAILED
        notes = {"dla": dla and "dla_falls_back" not in _faults, "ranges": network.ranges()}
        plan = f"PLAN {__version__}\n{json.dumps(notes)}\n".encode() + network.model
        return plan[:-64] if "corrupt" in _faults else plan


class _Inspector:
    """Layers as TensorRT writes them: a name, a type, and what the outputs are."""

    def __init__(self, engine):
        self._engine = engine

    def get_engine_information(self, format):
        assert format is LayerInformationFormat.JSON
        if "inspector" in _faults:
            return _faults["inspector"]
        if self._engine.notes["dla"]:
            return json.dumps(
                {
                    "Layers": [
                        {"Name": "[DlaLayer] {ForeignNode[Conv...Relu]}", "LayerType": "DLA", "Outputs": []}
                    ]
                }
            )
        kind = (
            "Row major linear FP32"
            if "unfused" in _faults
            else "Thirty-two wide channel vectorized row major Int8 format"
        )
        conv = {
            "Name": "Conv + Relu",
            "LayerType": "CaskConvolution",
            "Outputs": [{"Name": "y", "Format/Datatype": kind}],
        }
        return json.dumps(
            {
                "Layers": [{"Name": "Reformatting", "LayerType": "Reformat"}, conv, conv, conv],
                "Bindings": ["x", "y"],
            }
        )


class _Engine:
    def __init__(self, model, notes):
        self.notes = notes
        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self._inputs = {i.name: i for i in self._session.get_inputs()}
        self._all = {**self._inputs, **{o.name: o for o in self._session.get_outputs()}}
        self.num_io_tensors = len(self._all)

    def get_tensor_name(self, index):
        return list(self._all)[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return self._all[name].shape

    def get_tensor_dtype(self, name):
        return DataType.FLOAT

    def create_engine_inspector(self):
        return _Inspector(self)

    def create_execution_context(self):
        return None if "context" in _faults else _Context(self)


class _Context:
    def __init__(self, engine):
        self._engine = engine
        self._addresses = {}

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return True

    def _memory(self, name):
        shape = self._engine._all[name].shape
        count = int(np.prod(shape))
        return np.ctypeslib.as_array((ctypes.c_float * count).from_address(self._addresses[name])).reshape(
            shape
        )

    def execute_async_v3(self, stream):
        if "execute" in _faults:
            return False
        cuda = sys.modules.get("cuda.bindings.runtime")
        if cuda is not None and cuda.capturing is not None:
            cuda.capturing.append(self._compute)
            return True
        return self._compute()

    def _compute(self):
        feeds = {n: self._memory(n).copy() for n in self._engine._inputs}
        names = [n for n in self._engine._all if n not in self._engine._inputs]
        for name, value in zip(names, self._engine._session.run(names, feeds), strict=True):
            self._memory(name)[:] = value + (0.5 if "wrong" in _faults else 0)
        return True


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, plan):
        header, _, rest = bytes(plan).partition(b"\n")
        notes, _, model = rest.partition(b"\n")
        if "deserialize" in _faults or header != f"PLAN {__version__}".encode():
            return None
        try:
            return _Engine(model, json.loads(notes))
        except Exception:
            return None
