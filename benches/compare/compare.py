"""Times full-size Karlo stage by stage: this library beside OpenVINO in bf16, and beside diffusers in f32.

usage: compare.py PROFILE MODEL MODEL16 [--steps PRIOR DECODER SUPER_RES]

PROFILE is the built example `profile`, MODEL and MODEL16 are model directories with 32-bit and 16-bit weights. This library
runs a whole request. After each of its steps it waits while the peer makes one forward pass of the same stage, so that a
machine whose pace changes changes it for both; a peer's picture is the sum of its passes. With fewer `--steps` than a
picture has, both are scaled; ours is overstated then, since a prior's first step computes the caption for all of them.
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


class Peer:
    """A peer's network of one stage, in a process of its own."""

    def __init__(self, name, precision, stage, threads):
        command = [sys.executable, str(HERE / "peer.py"), name, precision, stage, str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def seconds(self):
        """One forward pass."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{' '.join(self.process.args)} ended with {self.process.wait()}")
        return float(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def ours(profile, model, precision, steps, threads, one_stage, after_step):
    """The report of a request; `after_step` is called with the stage after each of its steps."""
    command = [profile, "--model", model, "--device", "flex", "--precision", precision, "--steps", *map(str, steps)]
    command += ["--in-turn"] + (["--one-stage"] if one_stage else [])
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    stages = {ours: peers for peers, ours in OURS.items()}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        for line in process.stdout:
            if line.startswith("{"):
                return json.loads(line)
            after_step(stages[line.strip()])
            process.stdin.write("\n")
            process.stdin.flush()
    raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")


def in_turn(profile, model, precision, steps, threads, peer):
    """A request of ours, and the seconds of every pass of the peer's in turn with it."""
    passes = {stage: [] for stage in PASSES}
    running = {}

    def after_step(stage):
        if stage not in running:
            for before in running.values():
                before.close()
            running.clear()
            running[stage] = Peer(peer, precision, stage, threads)
        passes[stage].append(running[stage].seconds())

    # The one pass of the text encoder is over before a step can be waited for.
    after_step("text_encoder")
    report = ours(profile, model, precision, steps, threads, True, after_step)
    for last in running.values():
        last.close()
    return report, passes


def seconds(report, stage):
    """One pass of a stage of ours."""
    entry = report["stages"].get(OURS[stage])
    if entry is None:
        raise SystemExit(f"the report has no stage `{OURS[stage]}`: {sorted(report['stages'])}")
    return entry.get("seconds_per_step", entry["seconds"])


def mean(values):
    return sum(values) / len(values)


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

    ratios = {}
    peaks = {}
    for key, model, precision, peer in [
        ("bf16_vs_openvino", arguments.model16, "bf16", "openvino"),
        ("f32_vs_diffusers", arguments.model, "f32", "torch"),
    ]:
        report, passes = in_turn(arguments.profile, model, precision, arguments.steps, arguments.threads, peer)
        print(f"ours {precision}", json.dumps(report))
        theirs = {stage: mean(passes[stage]) for stage in PASSES}
        mine = {stage: seconds(report, stage) for stage in PASSES}
        for stage in PASSES:
            spread = f"{min(passes[stage]):.2f} to {max(passes[stage]):.2f}"
            print(f"{stage}: ours {mine[stage]:.3f} s, {peer} {theirs[stage]:.3f} s ({spread}), "
                  f"{key}={mine[stage] / theirs[stage]:.2f}", flush=True)
        request = report["total_seconds"] if whole else total(mine)
        print(f"picture: ours {request:.1f} s, {peer} {total(theirs):.1f} s", flush=True)
        ratios[key] = request / total(theirs)
        peaks[precision] = report["peak_gib"]
    kept = ours(arguments.profile, arguments.model16, "bf16", [2, 2, 2], arguments.threads, False, lambda stage: None)
    print(
        " ".join(f"{key}={ratio:.2f}" for key, ratio in ratios.items()),
        f"peak_gib_one_stage={peaks['bf16']:.2f} peak_gib_all={kept['peak_gib']:.2f}",
    )


if __name__ == "__main__":
    main()
