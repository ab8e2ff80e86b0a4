"""TSM-ResNet-18 in PyTorch, with the temporal shift as the official code has it.

infer, fused: 4 videos of 8 frames of 112x112, as it is and with its batch norms folded in.
step:         a training step of the same: cross-entropy, SGD with momentum and weight decay.
ffn:          a training step of FFN at 4, 8 and 16 frames.

Prints one line of JSON: seconds.
"""
import json
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision

RUNS = 7
BATCH, SIDE, CLASSES = 4, 112, 174


def median(run):
    run()
    run()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times)[RUNS // 2]


def shift(x, segments, div=8):
    nt, c, h, w = x.size()
    x = x.view(nt // segments, segments, c, h, w)
    fold = c // div
    out = torch.zeros_like(x)
    out[:, :-1, :fold] = x[:, 1:, :fold]
    out[:, 1:, fold:2 * fold] = x[:, :-1, fold:2 * fold]
    out[:, :, 2 * fold:] = x[:, :, 2 * fold:]
    return out.view(nt, c, h, w)


class Block(nn.Module):
    """A basic block with `branches` sets of norms and alterations; plain with one."""

    def __init__(self, block, branches):
        super().__init__()
        self.conv1, self.conv2 = block.conv1, block.conv2
        planes = block.conv1.out_channels
        self.bn1 = nn.ModuleList(nn.BatchNorm2d(planes) for _ in range(branches))
        self.bn2 = nn.ModuleList(nn.BatchNorm2d(planes) for _ in range(branches))
        self.down = None if block.downsample is None else block.downsample[0]
        if self.down is not None:
            self.down_bn = nn.ModuleList(nn.BatchNorm2d(planes) for _ in range(branches))
        inputs = block.conv1.in_channels
        self.ada = None
        if branches > 1:
            self.ada = nn.ModuleList(
                nn.Conv2d(inputs, inputs, 1, groups=inputs, bias=False) for _ in range(branches))

    def forward(self, x, segments, branch):
        y = shift(x, segments)
        if self.ada is not None:
            y = y + self.ada[branch](y)
        y = F.relu(self.bn1[branch](self.conv1(y)))
        y = self.bn2[branch](self.conv2(y))
        if self.down is not None:
            x = self.down_bn[branch](self.down(x))
        return F.relu(x + y)


class Tsm(nn.Module):
    def __init__(self, branches):
        super().__init__()
        base = torchvision.models.resnet18()
        self.conv1 = base.conv1
        self.bn1 = nn.ModuleList(nn.BatchNorm2d(64) for _ in range(branches))
        self.blocks = nn.ModuleList(
            Block(block, branches) for i in range(1, 5) for block in getattr(base, f"layer{i}"))
        self.fc = nn.Linear(512, CLASSES)

    def forward(self, clips, branch=0):
        n, t = clips.shape[:2]
        x = F.max_pool2d(F.relu(self.bn1[branch](self.conv1(clips.flatten(0, 1)))), 3, 2, 1)
        for block in self.blocks:
            x = block(x, t, branch)
        return self.fc(F.dropout(x.mean((2, 3)), 0.5, self.training)).view(n, t, -1).mean(1)


def fuse(network):
    fold = torch.nn.utils.fusion.fuse_conv_bn_eval
    network.conv1 = fold(network.conv1, network.bn1[0])
    network.bn1[0] = nn.Identity()
    for block in network.blocks:
        block.conv1, block.conv2 = fold(block.conv1, block.bn1[0]), fold(block.conv2, block.bn2[0])
        block.bn1[0] = block.bn2[0] = nn.Identity()
        if block.down is not None:
            block.down = fold(block.down, block.down_bn[0])
            block.down_bn[0] = nn.Identity()
    return network


def main(mode):
    torch.manual_seed(0)
    counts = [4, 8, 16] if mode == "ffn" else [8]
    network = Tsm(len(counts))
    clips = [torch.randn(BATCH, count, 3, SIDE, SIDE) for count in counts]
    if mode in ("infer", "fused"):
        network.eval()
        if mode == "fused":
            network = fuse(network)
        with torch.inference_mode():
            seconds = median(lambda: network(clips[0]))
    else:
        optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
        labels = torch.arange(BATCH)

        def run():
            optimizer.zero_grad()
            logits = [network(clip, branch) for branch, clip in enumerate(clips)]
            loss = F.cross_entropy(logits[-1], labels)
            teacher = F.softmax(logits[-1].detach(), 1)
            for student in logits[:-1]:
                loss = loss + F.kl_div(F.log_softmax(student, 1), teacher, reduction="batchmean")
            loss.backward()
            optimizer.step()

        seconds = median(run)
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1])
