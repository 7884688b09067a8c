"""Times full-size Karlo stage by stage: OpenVINO in bf16, diffusers in f32, and this library in both.

usage: compare.py PROFILE MODEL MODEL16 [--steps PRIOR DECODER SUPER_RES]

PROFILE is the built example `profile`, MODEL and MODEL16 are model directories with 32-bit and 16-bit weights. The peers
are timed one forward pass a stage and summed over a picture's passes; this library runs a whole request. With fewer
`--steps` than a picture has, its request is scaled as the peers are.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

# As in stages.py, which needs torch.
PASSES = {"text_encoder": 1, "prior": 25, "decoder": 25, "super_res": 7}
# How the example names what the peers call otherwise.
OURS = {"text_encoder": "encode", "prior": "prior", "decoder": "decoder", "super_res": "upsample"}
HERE = Path(__file__).parent


def peer(name, precision, stage, threads):
    command = [sys.executable, str(HERE / "peer.py"), name, precision, stage, str(threads)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return float(out.strip().splitlines()[-1])


def ours(profile, model, precision, steps, threads, one_stage):
    command = [profile, "--model", model, "--device", "flex", "--precision", precision, "--steps", *map(str, steps)]
    command += ["--one-stage"] if one_stage else []
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return json.loads(out.strip().splitlines()[-1])


def seconds(report, stage):
    """One pass of a stage."""
    entry = report["stages"].get(OURS[stage])
    if entry is None:
        raise SystemExit(f"the report has no stage `{OURS[stage]}`: {sorted(report['stages'])}")
    return entry.get("seconds_per_step", entry["seconds"])


def total(passes):
    return sum(PASSES[stage] * passes[stage] for stage in PASSES)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("profile")
    parser.add_argument("model")
    parser.add_argument("model16")
    parser.add_argument("--steps", nargs=3, type=int, default=[25, 25, 7])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    whole = arguments.steps == [25, 25, 7]

    reports = {}
    passes = {"openvino bf16": {}, "diffusers f32": {}}
    for stage in PASSES:
        passes["openvino bf16"][stage] = peer("openvino", "bf16", stage, arguments.threads)
        passes["diffusers f32"][stage] = peer("torch", "f32", stage, arguments.threads)
        print(stage, *(f"{name} {found[stage]:.3f} s" for name, found in passes.items()), sep="  ", flush=True)
    for name, model, precision, one_stage in [
        ("ours bf16", arguments.model16, "bf16", True),
        ("ours bf16, all stages kept", arguments.model16, "bf16", False),
        ("ours f32", arguments.model, "f32", True),
    ]:
        steps = [2, 2, 2] if name.endswith("kept") else arguments.steps
        reports[name] = ours(arguments.profile, model, precision, steps, arguments.threads, one_stage)
        passes[name] = {stage: seconds(reports[name], stage) for stage in PASSES}
        print(name, json.dumps(reports[name]), flush=True)

    for stage in PASSES:
        bf16 = passes["ours bf16"][stage] / passes["openvino bf16"][stage]
        f32 = passes["ours f32"][stage] / passes["diffusers f32"][stage]
        print(f"{stage}: bf16_vs_openvino={bf16:.2f} f32_vs_diffusers={f32:.2f}")

    def request(name):
        return reports[name]["total_seconds"] if whole else total(passes[name])

    bf16 = request("ours bf16") / total(passes["openvino bf16"])
    f32 = request("ours f32") / total(passes["diffusers f32"])
    one = reports["ours bf16"]["peak_gib"]
    kept = reports["ours bf16, all stages kept"]["peak_gib"]
    print(
        f"bf16_vs_openvino={bf16:.2f} f32_vs_diffusers={f32:.2f} "
        f"peak_gib_one_stage={one:.2f} peak_gib_all={kept:.2f}"
    )


if __name__ == "__main__":
    main()
