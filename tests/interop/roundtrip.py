#!/usr/bin/env python3
"""Opens a model directory that unclip saved in diffusers, and compares what it computes with what was recorded.

    python tests/interop/roundtrip.py MODEL_DIR --set tests/fixtures/seed0 [--ours FILE]

MODEL_DIR was saved by unclip from the model of the recorded set, so the recorded outputs are the expected ones: every
weight has to be the recorded one, every single forward and every whole run (with the recorded noise) has to give the
recorded values. FILE holds the pictures of the same runs as unclip made them (``image.<run>``, NHWC, 0..1); they are
compared with diffusers' from the saved directory. README.md beside this script says how both are written.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fixtures"))

# Recent diffusers moved the package, and can then not resolve the index entry ["unclip", "UnCLIPTextProjModel"] of any
# unCLIP folder, its own included. The generator of the fixtures gives the package its old name back when imported.
import make_fixtures as fixtures
import PIL.Image
import torch
from safetensors.torch import load_file

FORWARD, RUN = 1e-5, 1e-3
NETWORKS = ("prior", "decoder", "super_res_first", "super_res_last", "text_encoder", "text_proj", "image_encoder")


class Table:
    """Prints one line a comparison and remembers whether all held."""

    def __init__(self):
        self.failed = []

    def line(self, name, error, bound):
        verdict = "ok" if error <= bound else "EXCEEDED"
        print(f"{name:<44} {error:9.1e} {bound:8.0e}  {verdict}")
        if error > bound:
            self.failed.append(name)

    def compare(self, name, got, want, bound):
        got, want = fixtures.as_storable(got), fixtures.as_storable(want)
        if got.shape != want.shape or got.dtype != want.dtype:
            print(f"{name:<44} {tuple(got.shape)} {got.dtype} where {tuple(want.shape)} {want.dtype} is expected")
            self.failed.append(name)
            return
        scale = max(1.0, float(want.double().abs().max())) if want.numel() else 1.0
        self.line(name, fixtures.max_diff(got, want) / scale, bound)


def weights(folder, name):
    """All tensors of a component, from one file or from shards, without buffers that old tools wrote."""
    tensors = {}
    for path in sorted((folder / name).glob("*.safetensors")):
        tensors.update(load_file(str(path)))
    return {key: value for key, value in tensors.items() if not key.endswith("position_ids")}


def open_pipeline(kind, folder):
    """The saved directory as a pipeline. The variation pipeline reads the same folders under another index."""
    if kind == "t2i":
        return fixtures.load_pipeline("t2i", folder)
    with tempfile.TemporaryDirectory() as view:
        view = Path(view)
        shutil.copytree(folder, view, dirs_exist_ok=True)
        index = fixtures.index_json("UnCLIPImageVariationPipeline", fixtures.VAR_PARTS, fixtures.diffusers.__version__)
        (view / "model_index.image_variation.json").write_text(index)
        return fixtures.load_pipeline("var", view)


def compare_weights(table, saved, recorded):
    for name in NETWORKS:
        if not (saved / name).is_dir():
            continue
        ours, theirs = weights(saved, name), weights(recorded, name)
        if ours.keys() != theirs.keys():
            print(f"{name}: the names of tensors differ: {sorted(ours.keys() ^ theirs.keys())}")
            table.failed.append(name)
            continue
        worst = max((float((ours[key].double() - theirs[key].double()).abs().max()) for key in ours), default=0.0)
        table.line(f"{name} ({len(ours)} tensors)", worst, 0.0)


def compare_forwards(table, pipe, recorded):
    for name in ("text_encoder", "prior", "decoder", "super_res_first", "super_res_last"):
        data = load_file(str(recorded / f"{name}.safetensors"))
        given = {key[3:]: value for key, value in data.items() if key.startswith("in.")}
        if "attention_mask" in given:
            given["attention_mask"] = given["attention_mask"].bool()
        with torch.no_grad():
            if name == "text_encoder":
                got, key = pipe.text_encoder(given["input_ids"]).text_embeds, "out.text_embeds"
            elif name == "prior":
                got, key = pipe.prior(**given).predicted_image_embedding, "out.predicted_image_embedding"
            else:
                got, key = getattr(pipe, name)(**given).sample, "out.sample"
        table.compare(f"{name} {key}", got, data[key], FORWARD)


def compare_tokenizer(table, pipe, recorded):
    cases = json.loads((recorded / "tokenizer_cases.json").read_text(encoding="utf-8"))
    wrong = 0
    for case in cases["cases"]:
        got = pipe.tokenizer(case["text"], padding="max_length", max_length=cases["max_length"], truncation=True)
        wrong += got.input_ids != case["ids"] or got.attention_mask != case["mask"]
    table.line(f"tokenizer ({len(cases['cases'])} captions)", float(wrong), 0.0)


def compare_run(table, pipe, name, run, recorded, ours):
    data = load_file(str(recorded / f"e2e_{name}.safetensors"))
    pictures = None
    if run["kind"] == "var":
        pictures = [PIL.Image.fromarray(data[f"in.image.{i}.u8"].numpy()) for i in range(len(run["images"]))]
    replayed, _ = fixtures.run_pipeline(pipe, run, pictures, replay=data)
    table.compare(f"{name} out.image", replayed["out.image"], data["out.image"], RUN)
    if f"image.{name}" in ours:
        table.compare(f"{name} ours", ours[f"image.{name}"], replayed["out.image"], RUN)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model_dir", type=Path, help="the directory that unclip saved")
    parser.add_argument("--set", type=Path, required=True, help="the recorded set whose model was saved")
    parser.add_argument("--ours", type=Path, help="pictures of the set's runs as unclip made them")
    args = parser.parse_args()

    table = Table()
    manifest = json.loads((args.set / "manifest.json").read_text())
    ours = load_file(str(args.ours)) if args.ours else {}
    print(f"{'':<44} {'relative':>9} {'bound':>8}")
    compare_weights(table, args.model_dir, args.set / "model")
    pipe = open_pipeline("t2i", args.model_dir)
    compare_tokenizer(table, pipe, args.set)
    compare_forwards(table, pipe, args.set)
    for name, run in manifest["runs"].items():
        if run["kind"] == "var" and not (args.model_dir / "image_encoder").is_dir():
            print(f"{name:<44} no image encoder was saved")
            continue
        compare_run(table, open_pipeline(run["kind"], args.model_dir), name, run, args.set, ours)
    if table.failed:
        sys.exit(f"differs: {', '.join(table.failed)}")
    print("the saved directory gives diffusers the recorded numbers")


if __name__ == "__main__":
    main()
