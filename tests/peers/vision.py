"""ResNets in PyTorch, and pruning by Torch-Pruning.

infer, fused: ResNet-18 on a batch of 8 images of 224x224, as it is and with its batch norms folded in.
step:         a training step of the same, SGD with momentum.
prune:        L1 pruning of all channels of a ResNet-50 at a ratio of 0.5 by torch_pruning: dependency graph, scores, and
              the smaller network.

Prints one line of JSON: seconds, and for `prune` the parameters and MACs that are left.
"""
import json
import sys
import time

import torch
import torch.nn.functional as F
import torchvision

RUNS = 7


def median(run):
    run()
    run()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times)[RUNS // 2]


def main(mode):
    torch.manual_seed(0)
    measured = {"params": 0, "macs": 0}
    if mode == "prune":
        import torch_pruning as tp

        x = torch.randn(1, 3, 224, 224)

        def run():
            network = torchvision.models.resnet50()
            start = time.perf_counter()
            pruner = tp.pruner.MagnitudePruner(
                network, x, importance=tp.importance.MagnitudeImportance(p=1), pruning_ratio=0.5,
                ignored_layers=[network.fc])
            pruner.step()
            return time.perf_counter() - start, network

        run()
        times, network = [], None
        for _ in range(3):
            seconds, network = run()
            times.append(seconds)
        macs, params = tp.utils.count_ops_and_params(network, x)
        measured.update(seconds=sorted(times)[1], params=int(params), macs=int(macs))
    else:
        network = torchvision.models.resnet18()
        x = torch.randn(8, 3, 224, 224)
        if mode == "step":
            optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
            labels = torch.arange(8) % 10

            def run():
                optimizer.zero_grad()
                F.cross_entropy(network(x), labels).backward()
                optimizer.step()

            measured["seconds"] = median(run)
        else:
            network.eval()
            if mode == "fused":
                from torch.fx.experimental.optimization import fuse

                network = fuse(network)
            with torch.inference_mode():
                measured["seconds"] = median(lambda: network(x))
    print(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1])
