"""The runtime API as cuda-python binds it: each call answers (error, values…). Device memory is host
memory; a graph is a list of calls."""

import ctypes
import enum
import json
import os

_faults = json.loads(os.environ.get("TRT_DOUBLE", "{}"))
if "cuda_python" not in _faults:
    raise ImportError("cuda-python is not here")

ALLOCATED = {}
OPEN_GRAPHS = set()
LAUNCHES = []
capturing = None


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


_OK = cudaError_t.cudaSuccess


def cudaSetDevice(index):
    return (_OK,)


def cudaStreamCreate():
    return _OK, 7


def cudaGetDeviceProperties(index):
    return _OK, type(
        "Properties", (), {"name": b"Orin\0", "major": 8, "minor": 7, "multiProcessorCount": 8}
    )()


def cudaDriverGetVersion():
    return _OK, 12060


def cudaMalloc(nbytes):
    buffer = ctypes.create_string_buffer(nbytes)
    ALLOCATED[ctypes.addressof(buffer)] = buffer
    return _OK, ctypes.addressof(buffer)


def cudaFree(pointer):
    del ALLOCATED[pointer]
    return (_OK,)


def cudaMemcpyAsync(target, source, nbytes, kind, stream):
    assert capturing is None, "a copy would be recorded"
    ctypes.memmove(target, source, nbytes)
    return (_OK,)


def cudaStreamSynchronize(stream):
    assert capturing is None
    return (_OK,)


def cudaStreamBeginCapture(stream, mode):
    global capturing
    assert capturing is None
    capturing = []
    return (_OK,)


def cudaStreamEndCapture(stream):
    global capturing
    recorded, capturing = capturing, None
    if "uncapturable" in _faults:
        return cudaError_t.cudaErrorStreamCaptureInvalidated, None
    OPEN_GRAPHS.add(id(recorded))
    return _OK, recorded


def cudaGraphInstantiate(graph, flags):
    assert flags == 0
    executable = list(graph)
    OPEN_GRAPHS.add(id(executable))
    return _OK, executable


def cudaGraphDestroy(graph):
    OPEN_GRAPHS.remove(id(graph))
    return (_OK,)


def cudaGraphExecDestroy(executable):
    OPEN_GRAPHS.remove(id(executable))
    return (_OK,)


def cudaGraphLaunch(executable, stream):
    LAUNCHES.append(executable)
    for call in executable:
        call()
    return (_OK,)
