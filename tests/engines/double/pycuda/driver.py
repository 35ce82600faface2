"""A double of pycuda: device memory is host memory."""

import ctypes
import json
import os

if "cuda_python" in json.loads(os.environ.get("TRT_DOUBLE", "{}")):
    raise ImportError("only cuda-python is here")

ALLOCATED = {}


def init():
    pass


def get_driver_version():
    return 12060


class Stream:
    handle = 7

    def synchronize(self):
        pass


class _Context:
    depth = 0

    def push(self):
        _Context.depth += 1

    def pop(self):
        _Context.depth -= 1
        assert _Context.depth >= 0


class device_attribute:
    MULTIPROCESSOR_COUNT = 16


class Device:
    def __init__(self, index):
        assert index == 0

    def retain_primary_context(self):
        return _Context()

    def compute_capability(self):
        return 8, 7

    def name(self):
        return "Orin"

    def get_attribute(self, attribute):
        assert attribute == device_attribute.MULTIPROCESSOR_COUNT
        return 8


class _Memory:
    def __init__(self, nbytes):
        self._buffer = ctypes.create_string_buffer(nbytes)
        self._address = ctypes.addressof(self._buffer)
        ALLOCATED[self._address] = self

    def __int__(self):
        return self._address

    def free(self):
        del ALLOCATED[self._address]


def mem_alloc(nbytes):
    return _Memory(nbytes)


def memcpy_htod_async(pointer, array, stream):
    assert pointer in ALLOCATED
    ctypes.memmove(pointer, array.ctypes.data, array.nbytes)


def memcpy_dtoh_async(array, pointer, stream):
    assert pointer in ALLOCATED
    ctypes.memmove(array.ctypes.data, pointer, array.nbytes)
