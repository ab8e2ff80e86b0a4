"""SLA2P on Arrhythmia in PyTorch, in two formulations, as peers of leanburn's.

official: as the published code computes it: all projections in float64 held at once, batches of 128, gradients of the
          weights computed with those of the input, predictions kept as [K, n, K], and a Python loop over the rows.
batched:  the same scores as a careful PyTorch user would compute them: float32, one projection of all rows at a time,
          parameters without gradients, batch norm in evaluation mode, sums instead of kept predictions.

Prints one line of JSON: seconds of fit and score, AUROC, peak memory in MB, number of training steps.
"""
import argparse
import json
import resource
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from scipy.io import loadmat
from sklearn.metrics import roc_auc_score


class Fcn(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(width, 2 * width), nn.BatchNorm1d(2 * width)
        self.fc2, self.bn2 = nn.Linear(2 * width, 4 * width), nn.BatchNorm1d(4 * width)
        self.fc3 = nn.Linear(4 * width, classes)

    def forward(self, x):
        x = F.leaky_relu(self.bn1(self.fc1(x)), 0.01)
        x = F.leaky_relu(self.bn2(self.fc2(x)), 0.01)
        return self.fc3(x)


def train(model, batches, threshold):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7, weight_decay=5e-4)
    seen = correct = steps = 0
    model.train()
    for x, labels in batches:
        logits = model(x)
        loss = F.cross_entropy(logits, labels)
        correct += (logits.argmax(1) == labels).sum().item()
        seen += len(labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        if correct / seen > threshold:
            break
    model.eval()
    return steps


def official(z, count, width, epsilon, threshold, batch=128):
    rots = np.random.randn(count, z.shape[1], width)
    x = np.stack([z.dot(rot) for rot in rots], 1).reshape(-1, width)
    labels = np.tile(np.arange(count), len(z))
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(labels))
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True)
    model = Fcn(width, count)
    steps = train(model, ((x.float(), y) for x, y in loader), threshold)
    by_projection = x.reshape(len(z), count, width)
    predictions = np.zeros((count, len(z), count))
    for t in range(count):
        rows = []
        for first in range(0, len(z), batch):
            inputs = torch.from_numpy(by_projection[first:first + batch, t]).float().requires_grad_()
            logits = model(inputs)
            F.cross_entropy(logits, logits.argmax(1)).backward()
            perturbed = inputs.data + epsilon * inputs.grad
            rows.append(F.softmax(model(perturbed), dim=1).detach().numpy())
        predictions[t] = np.concatenate(rows)
    scores = np.zeros((len(z), count))
    for t in range(count):
        target = np.zeros(count)
        target[t] = 1
        for s in range(len(z)):
            scores[s, t] = -np.mean((predictions[t, s] - target) ** 2)
    return scores.mean(1), steps


def batched(z, count, width, epsilon, threshold, batch=128):
    z = torch.from_numpy(z).float()
    generator = torch.Generator().manual_seed(0)
    rots = torch.randn(count, z.shape[1], width, generator=generator)

    def batches():
        while True:
            order = torch.randperm(len(z) * count)
            for pairs in order.split(batch):
                rows, labels = z[pairs // count], pairs % count
                yield torch.bmm(rows.unsqueeze(1), rots[labels]).squeeze(1), labels

    model = Fcn(width, count)
    steps = train(model, batches(), threshold)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    total = torch.zeros(len(z))
    for t in range(count):
        x = (z @ rots[t]).requires_grad_()
        logits = model(x)
        loss = F.cross_entropy(logits, logits.argmax(1), reduction="sum")
        gradient, = torch.autograd.grad(loss, x)
        with torch.no_grad():
            p = F.softmax(model(x + epsilon / batch * gradient), dim=1)
            total += (2 * p[:, t] - (p * p).sum(1) - 1) / count
    return (total / count).numpy(), steps


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("formulation", choices=["official", "batched"])
    parser.add_argument("file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    np.random.seed(0)
    data = loadmat(arguments.file)
    y = data["y"].ravel()
    # The order of the published code: normal rows first.
    order = np.argsort(y, kind="stable")
    z, y = data["X"][order], y[order]
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    start = time.perf_counter()
    run = official if arguments.formulation == "official" else batched
    scores, steps = run(z, 256, 256, 1000.0, 0.6)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    auroc = roc_auc_score(y, -scores)
    print(json.dumps({"seconds": seconds, "auroc": auroc, "peak_mb": peak, "steps": steps}))


if __name__ == "__main__":
    main()
