"""Records three steps of `torch.optim.Muon` on a convolution's weights, and of AdamW on those of a last layer.

    python record_muon.py muon.json
"""

import json
import sys
from pathlib import Path

import torch

# PyTorch's Muon computes in bfloat16; in 32 bits its numbers can be compared closely.
torch.bfloat16 = torch.float32


def waves(*shape):
    count = torch.Size(shape).numel()
    return torch.sin(torch.arange(count, dtype=torch.float64) * 0.7).float().reshape(shape).requires_grad_()


hidden, wide, last = waves(6, 2, 1, 2), waves(2, 5), waves(2, 3)
# PyTorch takes matrices alone.
flat = hidden.detach().flatten(1).requires_grad_()
muon = torch.optim.Muon([flat, wide], lr=0.05, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
adamw = torch.optim.AdamW([last], lr=0.05, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
for step in range(3):
    for optimizer in (muon, adamw):
        optimizer.zero_grad()
    (flat**2).sum().add((wide**2).sum()).add((last**2).sum()).add(step * (flat.sum() + wide.sum() + last.sum())).backward()
    for optimizer in (muon, adamw):
        optimizer.step()
record = {"hidden": flat, "wide": wide, "conv_out": last}
lines = [f' "{name}": {json.dumps(value.flatten().tolist())}' for name, value in record.items()]
Path(sys.argv[1]).write_text("{\n" + ",\n".join(lines) + "\n}\n")
