"""Times forward passes of a stage in a peer on this processor.

usage: peer.py {openvino|torch} {f32|bf16} {text_encoder|prior|decoder|super_res} THREADS
After a first pass that is not counted it answers every line of input with a pass and its seconds.
"""

import sys
import time

import torch

from stages import network


def in_openvino(stage, precision, threads):
    import openvino

    model, inputs = network(stage)
    with torch.no_grad():
        shapes = [tuple(x.shape) for x in inputs]
        converted = openvino.convert_model(model, example_input=inputs, input=shapes)
    del model
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(converted, "CPU", settings)
    feed = [x.numpy() for x in inputs]
    return lambda: compiled(feed)


def in_torch(stage, precision, threads):
    torch.set_num_threads(threads)
    model, inputs = network(stage)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = model.to(dtype)
    if stage in ("decoder", "super_res"):
        model = model.to(memory_format=torch.channels_last)
        inputs = (inputs[0].to(memory_format=torch.channels_last),) + inputs[1:]
    inputs = tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)

    def run():
        with torch.inference_mode():
            model(*inputs)

    return run


def main():
    peer, precision, stage, threads = sys.argv[1:]
    run = {"openvino": in_openvino, "torch": in_torch}[peer](stage, precision, int(threads))
    run()
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
