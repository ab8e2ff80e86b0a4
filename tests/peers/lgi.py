"""GCN on a graph of nearest neighbours in PyTorch, in two formulations, and the graph by scikit-learn.

dense:  as the published code computes it: features and adjacency as dense matrices.
sparse: the same algorithm with features and adjacency in compressed rows (torch.sparse).
knn:    the graph alone, by scikit-learn's brute force.

The data set is a safetensors file of the portable Planetoid form. Prints one line of JSON: seconds an epoch (a training
step and an evaluation) or of the graph, best test accuracy, peak memory in MB, number of epochs.
"""
import argparse
import json
import resource
import time
import warnings

import numpy as np
import scipy.sparse
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.numpy import load_file
from sklearn.neighbors import NearestNeighbors

warnings.filterwarnings("ignore", message="Sparse")


class Layer(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x, adjacency):
        if x.layout == torch.sparse_csr:
            hidden = x @ self.linear.weight.t() + self.linear.bias
        else:
            hidden = self.linear(x)
        return adjacency @ hidden


class Gcn(nn.Module):
    def __init__(self, features, hidden, classes):
        super().__init__()
        self.layers = nn.ModuleList([Layer(features, hidden), Layer(hidden, classes)])

    def forward(self, x, adjacency):
        x = F.relu(self.layers[0](x, adjacency))
        x = F.dropout(x, 0.5, training=self.training)
        return self.layers[1](x, adjacency)


def without_itself(found, k):
    rows = []
    for node, row in enumerate(found):
        row = row[row != node]
        rows.append(row[:k])
    return np.array(rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["dense", "sparse", "knn"])
    parser.add_argument("file")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--k", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(42)

    data = load_file(options.file)
    shape = tuple(data["features.shape"])
    features = scipy.sparse.csr_matrix(
        (data["features.values"], data["features.indices"], data["features.indptr"]), shape=shape)
    start = time.perf_counter()
    search = NearestNeighbors(n_neighbors=options.k + 1, metric="cosine", algorithm="brute", n_jobs=2).fit(features)
    found = search.kneighbors(features, return_distance=False)
    seconds = time.perf_counter() - start
    found = without_itself(found, options.k)
    best = 0.0
    epochs = 0
    if options.mode != "knn":
        nodes = shape[0]
        columns = np.concatenate([found, np.arange(nodes)[:, None]], 1).reshape(-1)
        rows = np.repeat(np.arange(nodes), options.k + 1)
        # Every row sums to k + 1, so that both sides of the normalisation are the same.
        weights = np.full(len(rows), 1.0 / (options.k + 1), dtype=np.float32)
        adjacency = scipy.sparse.csr_matrix((weights, (rows, columns)), shape=(nodes, nodes))
        if options.mode == "dense":
            x = torch.from_numpy(features.toarray())
            a = torch.from_numpy(adjacency.toarray())
        else:
            def csr(m):
                return torch.sparse_csr_tensor(
                    torch.from_numpy(m.indptr).long(), torch.from_numpy(m.indices).long(),
                    torch.from_numpy(m.data), m.shape)
            x, a = csr(features), csr(adjacency)
        labels = torch.from_numpy(data["labels"]).long()
        train, test = (torch.from_numpy(data[name]).long() for name in ("train", "test"))
        model = Gcn(shape[1], 32, int(labels.max()) + 1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
        for epoch in range(options.epochs + 10):
            if epoch == 10:
                start = time.perf_counter()
            model.train()
            optimizer.zero_grad()
            loss = F.nll_loss(F.log_softmax(model(x, a), 1)[train], labels[train])
            loss.backward()
            optimizer.step()
            model.eval()
            with torch.no_grad():
                predicted = model(x, a).argmax(1)
            best = max(best, (predicted[test] == labels[test]).float().mean().item())
        epochs = options.epochs
        seconds = (time.perf_counter() - start) / epochs
    print(json.dumps({
        "seconds": seconds,
        "best_test": best,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "epochs": epochs,
    }))


main()
