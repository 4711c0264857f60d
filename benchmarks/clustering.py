"""Speed and inertia of one-dimensional k-means against scikit-learn's, and all of VGG16 at once.

``python -m benchmarks.clustering [--json FILE]``

Both cluster the same 4 million weights (normal, float32) into 16 values, in turns. VGG16 is torchvision's, 138 M
weights, 32 clusters a layer, in a process of its own whose peak memory is read from the system.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from src.metrics.machine import machine
from src.primitives.codebooks import Optimal, fit_codebook, inertia, share

WEIGHTS, CLUSTERS, ROUNDS = 4_000_000, 16, 3
START = Optimal(bins=512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--vgg16", action="store_true", help="cluster VGG16 only, in this process")
    arguments = parser.parse_args()
    if arguments.vgg16:
        print(json.dumps(vgg16()))
        return
    figures = against_scikit_learn()
    command = [sys.executable, "-m", "benchmarks.clustering", "--vgg16"]
    figures["vgg16"] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"{machine()}; {WEIGHTS:,} weights into {CLUSTERS} clusters, medians of {ROUNDS}")
    print(f"this project {figures['seconds']:.3f} s, scikit-learn {figures['seconds_scikit_learn']:.2f} s")
    print(f"speed-up {figures['speed_up']:.1f}x at {figures['inertia_ratio']:.6f} of its inertia")
    print(f"VGG16: {figures['vgg16']['seconds']:.1f} s, peak memory {figures['vgg16']['peak_bytes'] / 2**30:.2f} GiB")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")


def against_scikit_learn() -> dict:
    """Seconds and inertia of both; each makes the codebook and the shared weights."""
    from sklearn.cluster import KMeans

    weights = 0.05 * torch.randn(WEIGHTS, generator=torch.Generator().manual_seed(0))
    ours, theirs, codebook, other = [], [], None, None
    for _ in range(ROUNDS):
        started = time.perf_counter()
        codebook = fit_codebook(weights, CLUSTERS, START, iterations=300, seed=0)
        share(weights, codebook)
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        fitted = KMeans(CLUSTERS, n_init=1, random_state=0).fit(weights.view(-1, 1).numpy())
        fitted.cluster_centers_[fitted.labels_]
        theirs.append(time.perf_counter() - started)
        other = torch.from_numpy(fitted.cluster_centers_.ravel()).sort().values
    assert codebook is not None
    assert other is not None
    return {
        "seconds": statistics.median(ours),
        "seconds_scikit_learn": statistics.median(theirs),
        "speed_up": statistics.median(t / o for t, o in zip(theirs, ours, strict=True)),
        "inertia_ratio": inertia(weights, codebook) / inertia(weights, other),
    }


def vgg16() -> dict:
    """Seconds to cluster every weight of VGG16, and the process's peak memory."""
    from torchvision.models import vgg16

    model = vgg16().eval()
    started = time.perf_counter()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(share(parameter, fit_codebook(parameter, 32, START, iterations=300, seed=0)))
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


if __name__ == "__main__":
    main()
