"""A double of the TensorRT-RTX binding on a device: an engine is the ONNX file behind a header, "the GPU" is ONNX Runtime.
Only what runs engines; the compiler is the real one, or none.

``$RTX_DOUBLE`` (JSON) sets version and faults: ``version``, ``deserialize``, ``context``, ``execute``, ``wrong`` (outputs
shifted), ``refuses`` (the compiler does), ``crash`` (when an engine is opened).
"""

import ctypes
import json
import os

import tensorrt as _trt

_faults = json.loads(os.environ.get("RTX_DOUBLE", "{}"))
__version__ = _faults.get("version", "1.7.1.116")

NetworkDefinitionCreationFlag = _trt._enum("STRONGLY_TYPED")
TensorIOMode = _trt.TensorIOMode
CudaGraphStrategy = _trt._enum("DISABLED", "WHOLE_GRAPH_CAPTURE")
ComputeCapability = _trt._enum("NONE", "CURRENT", "SM75", "SM80", "SM86", "SM89", "SM120", "SM121")


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)


class Logger(ILogger):
    def __init__(self, level):
        pass


class Network:
    num_layers = 1
    model = b""


class OnnxParser:
    num_errors = 1

    def __init__(self, network, logger):
        self._network = network

    def parse_from_file(self, path):
        if "refuses" in _faults:
            return False
        with open(path, "rb") as f:
            self._network.model = f.read()
        return True

    def get_error(self, index):
        return type(
            "E",
            (),
            {
                "desc": lambda self: "no importer",
                "node_name": lambda self: "relu",
                "node_operator": lambda self: "Frobnicate",
            },
        )()


class _Config:
    num_compute_capabilities = 0

    def set_compute_capability(self, capability, index):
        assert index < self.num_compute_capabilities
        self.capability = capability


class Builder:
    def __init__(self, logger):
        pass

    def create_builder_config(self):
        return _Config()

    def create_network(self, flags):
        assert flags == 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return Network()

    def build_serialized_network(self, network, config):
        return engine_of(network.model)


def engine_of(model, version=None):
    return f"RTX {version or __version__}\n".encode() + model


class _Cache:
    def __init__(self):
        self.data = b""

    def deserialize(self, data):
        self.data = bytes(data)
        return data.startswith(b"cache")

    def serialize(self):
        return b"cache" + b"."


class _RuntimeConfig:
    cuda_graph_strategy = CudaGraphStrategy.DISABLED

    def create_runtime_cache(self):
        return _Cache()

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


class _Engine(_trt._Engine):
    def create_runtime_config(self):
        return _RuntimeConfig()

    def create_execution_context(self, config):
        assert config.cuda_graph_strategy is CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        assert config.cache is not None
        return None if "context" in _faults else _Context(self)


class _Context(_trt._Context):
    def execute_async_v3(self, stream):
        if "execute" in _faults:
            return False
        self._compute()
        if "wrong" in _faults:
            for name in self._engine._all.keys() - self._engine._inputs.keys():
                self._memory(name)[:] += 0.5
        return True


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, data):
        if "crash" in _faults:
            ctypes.string_at(0)
        header, _, model = bytes(data).partition(b"\n")
        if "deserialize" in _faults or header != f"RTX {__version__}".encode():
            return None
        return _Engine(model, {})
