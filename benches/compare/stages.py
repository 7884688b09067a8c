"""The networks of full-size Karlo with random weights, and inputs for one forward pass of each.

The decoder and the prior get two rows, a picture and its unconditional half, as guidance does; the upsampler gets one.
"""

import torch
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

# Forward passes of a picture at the default settings.
PASSES = {"text_encoder": 1, "prior": 25, "decoder": 25, "super_res": 7}

TEXT = dict(vocab_size=49408, hidden_size=768, intermediate_size=3072, projection_dim=768, num_hidden_layers=12,
            num_attention_heads=12, max_position_embeddings=77, hidden_act="quick_gelu")
DECODER = dict(sample_size=64, layers_per_block=3,
               down_block_types=("ResnetDownsampleBlock2D",) + ("SimpleCrossAttnDownBlock2D",) * 3,
               up_block_types=("SimpleCrossAttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",),
               mid_block_type="UNetMidBlock2DSimpleCrossAttn", block_out_channels=(320, 640, 960, 1280),
               in_channels=3, out_channels=6, cross_attention_dim=1536, class_embed_type="identity",
               attention_head_dim=64, resnet_time_scale_shift="scale_shift")
SUPER_RES = dict(sample_size=256, layers_per_block=3, down_block_types=("ResnetDownsampleBlock2D",) * 4,
                 up_block_types=("ResnetUpsampleBlock2D",) * 4, block_out_channels=(320, 640, 960, 1280),
                 in_channels=6, out_channels=3, add_attention=False)


class TextEncoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = CLIPTextModelWithProjection(CLIPTextConfig(**TEXT)).eval()

    def forward(self, ids):
        return self.net(ids).text_embeds


class Prior(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = PriorTransformer().eval()

    def forward(self, x, t, embedding, states, mask):
        return self.net(x, t, embedding, states, mask).predicted_image_embedding


class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = UNet2DConditionModel(**DECODER).eval()

    def forward(self, x, t, context, class_labels, mask):
        return self.net(x, t, context, class_labels=class_labels, attention_mask=mask).sample


class SuperRes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = UNet2DModel(**SUPER_RES).eval()

    def forward(self, x, t):
        return self.net(x, t).sample


def step(rows):
    return torch.zeros(rows, dtype=torch.long)


def mask(tokens):
    return torch.ones(2, tokens, dtype=torch.bool)


def network(stage):
    """The network of a stage, and its inputs."""
    torch.manual_seed(0)
    if stage == "text_encoder":
        return TextEncoder(), (torch.zeros(2, 77, dtype=torch.long),)
    if stage == "prior":
        return Prior(), (torch.randn(2, 768), step(2), torch.randn(2, 768), torch.randn(2, 77, 768), mask(77))
    if stage == "decoder":
        inputs = (torch.randn(2, 3, 64, 64), step(2), torch.randn(2, 81, 1536), torch.randn(2, 1280), mask(81))
        return Decoder(), inputs
    return SuperRes(), (torch.randn(1, 6, 256, 256), step(1))
