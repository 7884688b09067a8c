#!/usr/bin/env python3
"""Opens a model directory in diffusers, paints a picture, and compares it with ours.

    python tests/interop/same_picture.py MODEL_DIR PICTURE --caption "a red circle" --seed 7

MODEL_DIR was written by ``save_diffusers``, PICTURE by the example ``generate`` with ``--torch-noise --unmarked`` and the same
caption, seed, steps and guidance, at the size of the first upsampler. Every pixel has to agree within one of 255 levels,
which is what rounding a float32 error can cost.
"""

import argparse
import sys

import diffusers
import diffusers.pipelines.deprecated.unclip as unclip
import numpy as np
import torch
from PIL import Image

# Recent diffusers moved the package, and can then not resolve the index entry ["unclip", "UnCLIPTextProjModel"] of any
# unCLIP folder, its own included.
diffusers.pipelines.unclip = unclip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model_dir")
    parser.add_argument("picture")
    parser.add_argument("--caption", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, nargs=3, default=[25, 25, 7])
    parser.add_argument("--guidance", type=float, nargs=2, default=[4.0, 8.0])
    args = parser.parse_args()

    torch.set_grad_enabled(False)
    pipe = diffusers.UnCLIPPipeline.from_pretrained(args.model_dir)
    pipe.set_progress_bar_config(disable=True)
    [theirs] = pipe(
        prompt=args.caption,
        generator=torch.Generator().manual_seed(args.seed),
        prior_num_inference_steps=args.steps[0],
        decoder_num_inference_steps=args.steps[1],
        super_res_num_inference_steps=args.steps[2],
        prior_guidance_scale=args.guidance[0],
        decoder_guidance_scale=args.guidance[1],
    ).images
    ours = Image.open(args.picture).convert("RGB")
    if ours.size != theirs.size:
        sys.exit(f"the picture is {ours.size}, diffusers' is {theirs.size}")
    difference = np.abs(np.asarray(ours, int) - np.asarray(theirs.convert("RGB"), int))
    print(f"{ours.size[0]} pixels wide: {(difference > 0).mean():.2%} of the values differ, by {difference.max()} at most")
    if difference.max() > 1:
        sys.exit("the pictures differ")


if __name__ == "__main__":
    main()
