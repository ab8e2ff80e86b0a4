"""LLaMA in transformers: greedy decoding, prefill and training steps, and the published masked layer.

decode:  200 tokens of stories260K (below LEANBURN_DATA), with the cache.
prefill: 256 tokens of a LLaMA of 12 layers, 768 wide, random weights.
step:    a training step of 2 x 256 tokens of it, AdamW.
layers:  the same, of the matrices of layers 4 to 7 alone.
mft:     the same, of scores whose masks are found by a sort at every forward pass, as the published layer does.

Prints one line of JSON with the median seconds.
"""
import json
import os
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def median(run, runs=7):
    run()
    run()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times)[runs // 2]


class TopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores, keep):
        mask = scores.clone()
        _, order = scores.flatten().sort()
        removed = int((1 - keep) * scores.numel())
        flat = mask.flatten()
        flat[order[:removed]] = 0
        flat[order[removed:]] = 1
        return mask

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class Masked(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight * TopK.apply(self.scores.abs(), 0.9), self.bias)


def small():
    config = LlamaConfig(vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12,
                         num_attention_heads=12, max_position_embeddings=2048)
    return LlamaForCausalLM(config)


def main(mode):
    torch.manual_seed(0)
    if mode == "decode":
        model = LlamaForCausalLM.from_pretrained(os.path.join(os.environ["LEANBURN_DATA"], "stories260K")).eval()
        prompt = torch.tensor([[1]])
        with torch.inference_mode():
            seconds = median(lambda: model.generate(
                prompt, max_new_tokens=200, min_new_tokens=200, do_sample=False, pad_token_id=0))
        print(json.dumps({"seconds": seconds}))
        return
    model = small()
    if mode == "prefill":
        tokens = torch.randint(0, 32000, (1, 256))
        with torch.inference_mode():
            model.eval()
            seconds = median(lambda: model(tokens))
        print(json.dumps({"seconds": seconds}))
        return
    tokens = torch.randint(0, 32000, (2, 256))
    trained = list(model.parameters())
    if mode != "step":
        model.requires_grad_(False)
        trained = []
        for layer in model.model.layers[4:8]:
            for part in (layer.self_attn, layer.mlp):
                for name in MATRICES:
                    linear = getattr(part, name, None)
                    if linear is None:
                        continue
                    if mode == "mft":
                        linear.__class__ = Masked
                        linear.scores = nn.Parameter(0.02 * torch.randn_like(linear.weight))
                        trained.append(linear.scores)
                    else:
                        linear.weight.requires_grad_(True)
                        trained.append(linear.weight)
    optimizer = torch.optim.AdamW(trained, 1e-4, weight_decay=0.0)

    def run():
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()

    print(json.dumps({"seconds": median(run, 3)}))


if __name__ == "__main__":
    main(sys.argv[1])
