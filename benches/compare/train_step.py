"""Seconds a training step takes in PyTorch, for the networks of configs/: forward, backward, AdamW.

    python benches/compare/train_step.py configs/clip.json configs/decoder.json --batch 16 --steps 3 --precision bf16

The batch is random numbers: what is timed is the network. `cargo run --release -p unclip-train --example train` prints
the same for this library, with reading and augmenting the data included.
"""

import argparse
import json
import time

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection


def clip(stage, batch):
    text = CLIPTextModelWithProjection(CLIPTextConfig(vocab_size=2514, eos_token_id=2513, **stage["text"]))
    vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**stage["vision"]))
    side = stage["vision"]["image_size"]
    pixels = torch.randn(batch, 3, side, side)
    ids = torch.randint(0, 2500, (batch, 12))
    ids[:, -1] = 2513
    signs = 2 * torch.eye(batch) - 1

    def loss():
        a = torch.nn.functional.normalize(vision(pixels).image_embeds)
        b = torch.nn.functional.normalize(text(ids).text_embeds)
        return -torch.nn.functional.logsigmoid(signs * (10 * a @ b.T - 10)).sum() / batch

    return [text, vision], loss


def decoder(stage, batch):
    network = UNet2DConditionModel(**stage["network"])
    side = stage["network"]["sample_size"]
    clean = torch.randn(batch, 3, side, side)
    context = torch.randn(batch, 36, stage["network"]["cross_attention_dim"])
    added = torch.randn(batch, stage["network"]["time_embedding_dim"])
    timesteps = torch.randint(0, 1000, (batch,))

    def loss():
        output = network(clean, timesteps, context, class_labels=added).sample
        return ((output[:, :3] - clean) ** 2).mean() + output[:, 3:].square().mean()

    return [network], loss


parser = argparse.ArgumentParser()
parser.add_argument("configs", nargs="+")
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--steps", type=int, default=3)
parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="bf16 is PyTorch's autocast")
arguments = parser.parse_args()
for path in arguments.configs:
    with open(path) as file:
        (kind, stage), = json.load(file)["stage"].items()
    networks, loss = {"clip": clip, "decoder": decoder}[kind](stage, arguments.batch)
    parameters = [p for network in networks for p in network.train().parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    times = []
    for _ in range(arguments.steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bf16"):
            value = loss()
        value.backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    # The first step also sets things up.
    count = sum(p.numel() for p in parameters)
    times = times[1:]
    seconds = f"{min(times):.3f} s a step, {sum(times) / len(times):.3f} s on average"
    print(f"{path}: {count} parameters, {seconds}, of {arguments.batch} in {arguments.precision}", flush=True)
