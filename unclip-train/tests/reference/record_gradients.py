"""Records what PyTorch says of gradients: two numbers a parameter, and AdamW's steps.

Each network of a recorded set of tests/fixtures runs forward on its recorded inputs; the loss is the mean square of
the output. Of each gradient g the file keeps its norm and sum(g_i * cos(i)), so that no gradient has to be stored.

    python record_gradients.py ../../../tests/fixtures/seed0 gradients.json
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from safetensors.torch import load_file
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

root, out = Path(sys.argv[1]), Path(sys.argv[2])
torch.manual_seed(0)


def gradients(model, output):
    model.zero_grad()
    (output**2).mean().backward()
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        g = parameter.grad.double().flatten()
        along = torch.cos(torch.arange(g.numel(), dtype=torch.float64))
        found[name] = [g.norm().item(), (g * along).sum().item()]
    return found


record = {}
t = load_file(root / "decoder.safetensors")
m = UNet2DConditionModel.from_pretrained(root / "model/decoder")
mask = t["in.attention_mask"]
y = m(
    t["in.sample"], t["in.timestep"], t["in.encoder_hidden_states"], class_labels=t["in.class_labels"],
    attention_mask=mask,
).sample
print("decoder", (y - t["out.sample"]).abs().max().item())
record["decoder"] = gradients(m, y)

t = load_file(root / "super_res_first.safetensors")
m = UNet2DModel.from_pretrained(root / "model/super_res_first")
y = m(t["in.sample"], t["in.timestep"]).sample
print("super_res_first", (y - t["out.sample"]).abs().max().item())
record["super_res_first"] = gradients(m, y)

t = load_file(root / "prior.safetensors")
m = PriorTransformer.from_pretrained(root / "model/prior")
y = m(
    t["in.hidden_states"], t["in.timestep"], t["in.proj_embedding"], t["in.encoder_hidden_states"],
    t["in.attention_mask"].bool(),
).predicted_image_embedding
print("prior", (y - t["out.predicted_image_embedding"]).abs().max().item())
record["prior"] = gradients(m, y)

t = load_file(root / "text_encoder.safetensors")
m = CLIPTextModelWithProjection.from_pretrained(root / "model/text_encoder")
y = m(t["in.input_ids"]).text_embeds
print("text_encoder", (y - t["out.text_embeds"]).abs().max().item())
record["text_encoder"] = gradients(m, y)

t = load_file(root / "image_encoder.safetensors")
m = CLIPVisionModelWithProjection.from_pretrained(root / "model/image_encoder")
y = m(t["in.pixel_values"]).image_embeds
print("image_encoder", (y - t["out.image_embeds"]).abs().max().item())
record["image_encoder"] = gradients(m, y)

# Three steps of AdamW on a matrix, which decays, and a vector, which does not; gradients are 2 * weights + step.
matrix = torch.tensor([[0.5, -1.0], [2.0, 0.25]], requires_grad=True)
vector = torch.tensor([1.0, -0.5], requires_grad=True)
groups = [{"params": [matrix], "weight_decay": 0.1}, {"params": [vector], "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.99), eps=1e-8)
for step in range(3):
    optimizer.zero_grad()
    loss = (matrix**2).sum() + (vector**2).sum() + step * (matrix.sum() + vector.sum())
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_([matrix, vector], 3.0)
    optimizer.step()
record["adamw"] = {"matrix": matrix.flatten().tolist(), "vector": vector.tolist(), "norm": norm.item()}
lines = []
for part, found in record.items():
    inner = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in found.items())
    lines.append(f" {json.dumps(part)}: {{\n{inner}\n }}")
out.write_text("{\n" + ",\n".join(lines) + "\n}\n")
