"""Records the losses of denoising networks as guided-diffusion's formulas give them, in float64.

    python record_losses.py losses.json
"""

import json
import math
import sys
from pathlib import Path

import torch

torch.manual_seed(3)
torch.set_default_dtype(torch.float64)
T = 1000
remaining = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
betas = torch.tensor([min(1 - remaining((i + 1) / T) / remaining(i / T), 0.999) for i in range(T)])
signal = torch.cumprod(1 - betas, 0)
before = torch.cat([torch.ones(1), signal[:-1]])
variance = betas * (1 - before) / (1 - signal)
log_variance = torch.log(torch.cat([variance[1:2], variance[1:]]))
of_clean = betas * before.sqrt() / (1 - signal)
of_noisy = (1 - before) * (1 - betas).sqrt() / (1 - signal)

timesteps = torch.tensor([0, 20, 500, 990])
shape = (4, 2, 2, 3)
clean = (torch.rand(shape) * 2 - 1).round(decimals=2)
clean[0, 0, 0, 0], clean[0, 0, 0, 1] = -1.0, 1.0
noise = torch.randn(shape).round(decimals=3)
output = (torch.randn(4, 4, 2, 3) * 0.5).round(decimals=3)
column = lambda table: table[timesteps].reshape(-1, 1, 1, 1)
noisy = column(signal.sqrt()) * clean + column((1 - signal).sqrt()) * noise


def bound(predicted, share):
    fraction = (share + 1) / 2
    log_var = fraction * column(torch.log(betas)) + (1 - fraction) * column(log_variance)
    true_mean = column(of_clean) * clean + column(of_noisy) * noisy
    mean = column(of_clean) * predicted + column(of_noisy) * noisy
    lower = column(log_variance)
    kl = 0.5 * (-1 + log_var - lower + torch.exp(lower - log_var) + (true_mean - mean) ** 2 * torch.exp(-log_var))
    kl = kl.flatten(1).mean(1) / math.log(2)
    cdf = lambda x: 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    inverse = torch.exp(-0.5 * log_var)
    above, below = cdf(inverse * (clean - mean + 1 / 255)), cdf(inverse * (clean - mean - 1 / 255))
    log = lambda x: torch.log(x.clamp(min=1e-12))
    inside = torch.where(clean > 0.999, log(1 - below), log(above - below))
    likelihood = torch.where(clean < -0.999, log(above), inside)
    first = -likelihood.flatten(1).mean(1) / math.log(2)
    return torch.where(timesteps == 0, first, kl)


prediction, share = output.chunk(2, dim=1)
ratio = (signal / (1 - signal))[timesteps]
record = {
    "timesteps": timesteps.tolist(),
    "clean": clean.flatten().tolist(),
    "noise": noise.flatten().tolist(),
    "output": output.flatten().tolist(),
    "losses": {},
}
kinds = {
    "epsilon": (noise, lambda x: (noisy - column((1 - signal).sqrt()) * x) / column(signal.sqrt()), lambda w: w / ratio),
    "sample": (clean, lambda x: x, lambda w: w),
    "v_prediction": (
        column(signal.sqrt()) * noise - column((1 - signal).sqrt()) * clean,
        lambda x: column(signal.sqrt()) * noisy - column((1 - signal).sqrt()) * x,
        lambda w: w / (ratio + 1),
    ),
}
for kind, (target, predicted, weight) in kinds.items():
    mse = ((prediction - target) ** 2).flatten(1).mean(1)
    record["losses"][kind] = {
        "simple": mse.tolist(),
        "min_snr": (mse * weight(ratio.clamp(max=5))).tolist(),
        "bound": bound(predicted(prediction), share).tolist(),
    }
Path(sys.argv[1]).write_text(json.dumps(record) + "\n")
