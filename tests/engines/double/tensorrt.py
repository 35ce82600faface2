"""A double of the TensorRT binding: a plan is the ONNX file behind a header, "the GPU" is ONNX Runtime.

``$TRT_DOUBLE`` (JSON) sets version and faults: ``version``, ``parse``, ``build``, ``hang``, ``crash``, ``deserialize``, ``context``,
``execute``, ``sparse`` (no sparse kernels), ``wrong`` (outputs shifted), ``corrupt`` (plan bytes damaged when saved).
"""

import ctypes
import json
import os
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
BuilderFlag = _enum(*(["FP16", "INT8", "TF32", "SPARSE_WEIGHTS"] if _major < 11 else ["TF32", "SPARSE_WEIGHTS"]))
MemoryPoolType = _enum("WORKSPACE")
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


class _Network:
    def __init__(self, flags):
        self.flags = flags
        self.model = None


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
        typed = network.flags & (1 << int(NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED", _Flag("", 40))))
        if _major == 8:
            assert config.flags[:2] == ["FP16", "INT8"]
        else:
            assert typed
            assert not {"FP16", "INT8"} & set(config.flags)
        if "SPARSE_WEIGHTS" in config.flags and "sparse" in _faults:
            return None
        plan = f"PLAN {__version__}\n".encode() + network.model
        return plan[:-64] if "corrupt" in _faults else plan


class _Engine:
    def __init__(self, model):
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
        return np.ctypeslib.as_array((ctypes.c_float * count).from_address(self._addresses[name])).reshape(shape)

    def execute_async_v3(self, stream):
        if "execute" in _faults:
            return False
        feeds = {n: self._memory(n).copy() for n in self._engine._inputs}
        names = [n for n in self._engine._all if n not in self._engine._inputs]
        for name, value in zip(names, self._engine._session.run(names, feeds), strict=True):
            self._memory(name)[:] = value + (0.5 if "wrong" in _faults else 0)
        return True


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, plan):
        header, _, model = bytes(plan).partition(b"\n")
        if "deserialize" in _faults or header != f"PLAN {__version__}".encode():
            return None
        try:
            return _Engine(model)
        except Exception:
            return None
