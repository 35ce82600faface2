"""The child: ``python -m edgectl.builder.convert.inside FOLDER convert|answer STARTER``, the process id of who
starts it. The job is ``FOLDER/job.json``; what comes of it is ``FOLDER/answer.json``, and ``model.onnx`` or ``outputs.npz`` beside it."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from edgectl.builder.convert.inside.confine import BOUNDS, confine, die_with_parent
from edgectl.builder.convert.inside.pickles import refuse_pickles
from edgectl.builder.convert.inside.shape import Job, Refused, Signature


def _main() -> int:
    folder, step = Path(sys.argv[1]), sys.argv[2]
    die_with_parent(int(sys.argv[3]))
    job = json.loads((folder / "job.json").read_text())
    granted = confine(folder, memory=job["memory"], file_bytes=job["file_bytes"])
    missing = [what for bound, what in BOUNDS.items() if bound not in granted]
    # before anything of the source is opened: what it runs could say anything
    reply = _refused(missing) if missing and job["code"] == "inside" else _tried(step, job, folder)
    reply["confined"] = granted
    temporary = folder / "answer.json.part"
    temporary.write_text(json.dumps(reply))
    os.replace(temporary, folder / "answer.json")
    return 0 if reply["ok"] else 1


def _refused(missing: list[str]) -> dict[str, Any]:
    return {
        "ok": False,
        "kind": "refused",
        "error": f"reading it runs whatever code is in it, and nothing here keeps that from {' and '.join(missing)}",
        "hint": "convert it where the kernel has Landlock (Linux 5.13) and lets you have user namespaces, or export it to ONNX "
        "with the framework's own tools and give that file",
    }


def _tried(step: str, asked: dict[str, Any], folder: Path) -> dict[str, Any]:
    job = Job(
        asked["framework"],
        asked["source"],
        folder,
        asked["cwd"],
        {n: tuple(s) for n, s in asked["shapes"].items()},
        {n: (tuple(s), d) for n, (s, d) in asked["data"].items()},
    )
    try:
        module = importlib.import_module(f"edgectl.builder.convert.inside.{job.framework}")
        for needed, bring in module.NEEDS.items():
            try:
                importlib.import_module(needed)
            except ImportError as e:
                # also one that is there and lacks something itself
                return {"ok": False, "kind": "needs", "error": f"{needed}: {_one_line(e)}", "hint": bring}
        # what a library opens of its own while it is imported is not the source's
        if module.CODE == "none":
            refuse_pickles()
        if step == "convert":
            signature = module.convert(job)
            _plain(job.onnx)
            return {"ok": True, "signature": signature.as_json()}
        _answer(module.opened(job, Signature.of_json(asked["signature"])), folder)
        return {"ok": True}
    except Refused as e:
        return {"ok": False, "kind": "refused", "error": e.message, "hint": e.hint}
    except ModuleNotFoundError as e:
        bring = f"install {e.name or 'it'} for that Python"
        return {"ok": False, "kind": "needs", "error": _one_line(e), "hint": bring}
    # SystemExit too: what a converter's own command line would have ended with
    except BaseException as e:
        import traceback

        traceback.print_exc()
        return {"ok": False, "kind": "raised", "error": f"{type(e).__name__}: {_one_line(e)}"}


def _answer(answers: Any, folder: Path) -> None:
    """Run the framework's own model on every sample of ``samples.npz`` (``0/name``, ``1/name`` …)."""
    import numpy as np

    with np.load(folder / "samples.npz", allow_pickle=False) as arrays:
        samples: dict[int, dict[str, Any]] = {}
        for key in arrays.files:
            number, _, name = key.partition("/")
            samples.setdefault(int(number), {})[name] = arrays[key]
    outputs: Any = {
        f"{n}/{i}": np.asarray(array)
        for n, feeds in sorted(samples.items())
        for i, array in enumerate(answers(feeds))
    }
    np.savez(folder / "outputs.npz", **{k: v for k, v in outputs.items() if v.dtype.kind in "fiub"})


def _plain(path: Path) -> None:
    """Without what exporters note about the machine: traces of the user's files, remarks."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    _strip(model.graph)
    for function in model.functions:
        del function.metadata_props[:]
        function.doc_string = ""
        _strip_nodes(function.node)
    path.write_bytes(model.SerializeToString())


def _strip(graph: Any) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    for value in (*graph.input, *graph.output, *graph.value_info):
        del value.metadata_props[:]
        value.doc_string = ""
    _strip_nodes(graph.node)


def _strip_nodes(nodes: Any) -> None:
    for node in nodes:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)
            for graph in attribute.graphs:
                _strip(graph)


def _one_line(error: BaseException) -> str:
    """The first line of what started it: frameworks wrap the cause, and add pages of advice below it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


sys.exit(_main())
