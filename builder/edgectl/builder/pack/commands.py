"""The command lines with which the vendors' own tools run a variant as edgectl does: TensorRT's ``trtexec``, TensorRT-RTX's
``tensorrt_rtx``, ONNX Runtime's ``onnxruntime_perf_test``, OpenVINO's ``benchmark_app``. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from edgectl.core.bundle import VariantConfig
from edgectl.device_profiles.schema import TensorRtSpec

__all__ = ["Files", "command_lines"]

Files = Mapping[str, str]
"""What an extracted variant consists of → its name: ``model``, ``engine``; ``in/<tensor>``: a golden input, raw bytes."""

_PERF_TEST_PROVIDERS = {"cpu": "cpu", "cuda": "cuda"}


def command_lines(
    config: VariantConfig, files: Files, tensorrt: TensorRtSpec | None
) -> list[tuple[str, str]]:
    """(What it is for, the command), in the folder of the files. ``tensorrt``: what the profile allows."""
    if config.runtime == "tensorrt":
        return _trtexec(config, files, tensorrt)
    if config.runtime == "tensorrt-rtx":
        return _rtx(files)
    if config.runtime == "openvino":
        return _openvino(config, files)
    return _onnxruntime(config, files)


def _trtexec(config: VariantConfig, files: Files, spec: TensorRtSpec | None) -> list[tuple[str, str]]:
    shared = [
        f"--onnx={files['model']}",
        "--saveEngine=model.plan",
        "--timingCacheFile=timing.cache",
        f"--memPoolSize=workspace:{(spec or TensorRtSpec(min='8.6', max='11.99')).workspace_mb}M",
        "--builderOptimizationLevel=3",
        "--profilingVerbosity=detailed",
    ]
    if "2:4" in config.recipe.passes:
        shared.append("--sparsity=enable")
    if config.recipe.family == "trt-dla":
        core = spec.dla_core if spec is not None and spec.dla_core is not None else 0
        shared += [f"--useDLACore={core}", "--allowGPUFallback"]
    generations = {g for r in config.requires for g in r.split("|") if g.startswith("trt:")}
    found = []
    if not generations or generations & {"trt:10", "trt:11"}:
        found.append(
            (
                "compile with TensorRT 10 or 11",
                _line("trtexec", *shared, "--stronglyTyped", "--skipInference"),
            )
        )
    if not generations or "trt:8" in generations:
        found.append(
            ("compile with TensorRT 8", _line("trtexec", *shared, "--fp16", "--int8", "--skipInference"))
        )
    inputs = ",".join(
        f"{name.removeprefix('in/')}:{file}" for name, file in files.items() if name.startswith("in/")
    )
    found.append(
        (
            "time it on a golden input",
            _line("trtexec", "--loadEngine=model.plan", f"--loadInputs={inputs}", "--useCudaGraph"),
        )
    )
    return found


def _rtx(files: Files) -> list[tuple[str, str]]:
    found = [
        (
            "compile for this GPU",
            _line("tensorrt_rtx", f"--onnx={files['model']}", "--saveEngine=compiled.rtx"),
        )
    ]
    if "engine" in files:
        found.append(
            ("time the engine that came along", _line("tensorrt_rtx", f"--loadEngine={files['engine']}"))
        )
    return found


def _openvino(config: VariantConfig, files: Files) -> list[tuple[str, str]]:
    s = config.session
    line = [
        "-m",
        files["model"],
        "-d",
        "CPU",
        "-api",
        "sync",
        "-hint",
        "none",
        "-nthreads",
        str(s.threads),
        "-t",
        "10",
    ]
    if s.precision_hint is not None:
        line += ["-infer_precision", s.precision_hint]
    return [("time it in OpenVINO", _line("benchmark_app", *line))]


def _onnxruntime(config: VariantConfig, files: Files) -> list[tuple[str, str]]:
    s = config.session
    level = {"all": "99", "disabled": "0"}[s.optimization]
    line = [
        "-e",
        _PERF_TEST_PROVIDERS[s.provider],
        "-x",
        str(s.threads),
        "-y",
        "1",
        "-o",
        level,
        "-m",
        "duration",
        "-t",
        "10",
    ]
    line += ["-C", f"session.intra_op.allow_spinning|{int(s.spinning)}", "-I", *([] if s.arena else ["-A"])]
    return [
        ("time it in ONNX Runtime", _line("onnxruntime_perf_test", *line, files["model"])),
        ("the same in Python", _line("python", "run_onnxruntime.py")),
    ]


def _line(*words: str) -> str:
    return shlex.join(words)


def onnxruntime_program(config: VariantConfig, files: Files, outputs: Sequence[str]) -> str:
    """A program that runs an ONNX Runtime variant with its settings on a golden input."""
    s = config.session
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[s.provider]
    level = {"all": "ORT_ENABLE_ALL", "disabled": "ORT_DISABLE_ALL"}[s.optimization]
    feeds = ", ".join(
        f"{t.name!r}: np.fromfile({files[f'in/{t.name}']!r}, {t.dtype!r}).reshape({t.shape!r})"
        for t in config.inputs
    )
    return f'''import os
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

os.chdir(Path(__file__).resolve().parent)
options = ort.SessionOptions()
options.intra_op_num_threads = {s.threads}
options.inter_op_num_threads = 1
options.enable_cpu_mem_arena = {s.arena}
options.graph_optimization_level = ort.GraphOptimizationLevel.{level}
options.add_session_config_entry("session.intra_op.allow_spinning", "{int(s.spinning)}")
session = ort.InferenceSession({files["model"]!r}, options, providers=[{provider!r}])
feeds = {{{feeds}}}
outputs = {list(outputs)!r}
times = []
for _ in range(200):
    start = time.perf_counter()
    found = session.run(outputs, feeds)
    times.append(1e3 * (time.perf_counter() - start))
print(f"p50 {{np.median(times):.3f}} ms, p99 {{np.percentile(times, 99):.3f}} ms")
for name, value in zip(outputs, found):
    want = np.fromfile(f"golden/out-{{outputs.index(name)}}.bin", value.dtype).reshape(value.shape)
    print(f"{{name}}: largest difference from the golden output {{np.abs(value.astype('f8') - want).max():.3g}}")
'''
