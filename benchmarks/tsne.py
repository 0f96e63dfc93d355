"""Time and quality of our t-SNE (``pipeline.tsne.embedding``) compared with scikit-learn's and with other settings.

    python benchmarks/tsne.py compare --images 3430 --rounds 3 --threads 2
    python benchmarks/tsne.py compare --images 50000 --rounds 1 --threads 2 --limit 300
    python benchmarks/tsne.py determinism --images 3430

*compare*: 512 features per image, similar to those of a network that separates 11 classes so that 96 % of neighbours
have the same class: Gaussian classes in 24 dimensions, mixed linearly, with noise, through ReLU. All methods use the
first 50 principal components and start from the first two; each run is a new process that computes them and the t-SNE.
The divergence is computed in the same way for all of them, trustworthiness and purity as in the stage. *determinism*:
whether 1 thread, 2 threads and 2 threads again yield the same bits.

Measured (2 CPU cores of a shared machine, load 4 to 6: compare within a table, not across tables; openTSNE 1.0.4,
scikit-learn 1.9.1):

    3,430 images, 3 rounds, median:
                             seconds                    CPU s  diverg.   trust  purity silhou.
    scikit-learn                37.3   (30.5 to 44.3)    16.6   1.6769  0.9733  0.9833  0.7078
    ours                        22.9   (19.7 to 29.5)    11.6   1.6730  0.9736  0.9834  0.7103
    approximate neighbours      17.1   (14.4 to 21.0)    11.4   1.6722  0.9729  0.9831  0.7114
    n/12 throughout             20.2   (13.9 to 28.0)    10.5   1.7039  0.9734  0.9838  0.7024

    50,000 images, one run each of at most 420 s:
    ours                       182.0                     83.3   3.7658  0.9619  0.9858  0.6214
    scikit-learn had done 450 of its 1,000 steps, 39.6 s per 50 steps; its own divergence was 4.04.

    determinism, 1,500 images: scikit-learn, ours and n/12 throughout always yielded the same bits; approximate
    neighbours yielded different bits with 2 threads than with 1.

So we use openTSNE with exact neighbours, which take no more CPU time and do not depend on the threads, and with its
recommended learning rate, n over the exaggeration: n/12 at first, n afterwards.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import openTSNE
import sklearn.manifold
import typer
from inputs import CLASSES, SEED, section, with_quick_mode
from openTSNE.affinity import PerplexityBasedNN
from openTSNE.kl_divergence import kl_divergence_approx_fft

from pipeline.params.schema import TsneParams
from pipeline.tsne.embedding import embed, first_positions, measure, principal_components

FEATURES, LATENT = 512, 24
PARAMS = TsneParams(**(section("tsne") | {"layers": ("hidden2",), "max_images": 100_000}))

app = typer.Typer(add_completion=False)
with_quick_mode(app, lambda: (compare(100, 1, 1), determinism(100, "ours")))


def network_features(images: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, ``float32``, ``(images, 512)``, and labels."""
    random = np.random.default_rng(0)
    labels = np.arange(images) % CLASSES
    centres = random.normal(0, 1.1, (CLASSES, LATENT))
    mixing = random.normal(0, LATENT**-0.5, (LATENT, FEATURES))
    latent = centres[labels] + random.normal(0, 1, (images, LATENT))
    activations = latent @ mixing + random.normal(0, 0.1, (images, FEATURES)) - 0.3
    return np.maximum(activations, 0).astype(np.float32), labels


def ours(features: np.ndarray, threads: int) -> np.ndarray:
    """``embed`` as in the stage."""
    return embed(features, PARAMS, SEED, "ours")[0]


def scikit_learn(features: np.ndarray, threads: int) -> np.ndarray:
    """The defaults: Barnes-Hut, 1,000 steps, a learning rate of n/12 in the usual convention."""
    components = principal_components(features, PARAMS.pca_components, SEED)
    return sklearn.manifold.TSNE(random_state=SEED, n_jobs=threads, verbose=2).fit_transform(components)


def open_tsne(**settings: object) -> Callable[[np.ndarray, int], np.ndarray]:
    """openTSNE with settings other than ours."""

    def run(features: np.ndarray, threads: int) -> np.ndarray:
        components = principal_components(features, PARAMS.pca_components, SEED)
        settings["learning_rate"] = settings.get("learning_rate", lambda n: "auto")(len(features))
        start = first_positions(components, SEED)
        method = openTSNE.TSNE(initialization=start, n_jobs=threads, random_state=SEED, **settings)
        return np.array(method.fit(components))

    return run


CONTENDERS = {
    "scikit-learn": scikit_learn,
    "ours": ours,
    "approximate neighbours": open_tsne(neighbors="annoy"),
    "n/12 throughout": open_tsne(neighbors="exact", learning_rate=lambda n: n / 12),
}


def divergence(features: np.ndarray, points: np.ndarray) -> float:
    """Kullback-Leibler divergence in nats, with the same affinities for all methods."""
    components = principal_components(features, PARAMS.pca_components, SEED)
    weights = PerplexityBasedNN(components, PARAMS.perplexity, method="exact").P
    return float(kl_divergence_approx_fft(weights.indices, weights.indptr, weights.data, points))


@app.command()
def run(name: str, images: int, threads: int, rate: bool = True) -> None:
    """Run one contender in this process, and print its results as JSON."""
    features, labels = network_features(images)
    wall, cpu = time.perf_counter(), time.process_time()
    points = CONTENDERS[name](features, threads)
    result = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    result["bits"] = hashlib.sha256(np.ascontiguousarray(points)).hexdigest()[:12]
    if rate:
        points = np.ascontiguousarray(points, dtype=np.float64)
        result |= {"divergence": divergence(features, points), **measure(features, points, labels)}
    print("\n" + json.dumps(result))


def in_new_process(name: str, images: int, threads: int, limit: float, *options: str) -> dict | str:
    """The output of ``run``, or, if it takes longer than ``limit`` seconds, its last line of progress."""
    command = [sys.executable, __file__, "run", name, str(images), str(threads), *options]
    # Waiting threads sleep instead of spinning, which would slow other processes.
    settings = {"OMP_NUM_THREADS": str(threads), "PIPELINE_WORKERS": str(threads), "OMP_WAIT_POLICY": "passive"}
    environment = {**os.environ, **settings}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment, check=True)
    except subprocess.TimeoutExpired as error:
        lines = (error.stdout or b"").decode().strip().splitlines()
        return lines[-1] if lines else "before the first step"
    return json.loads(done.stdout.splitlines()[-1])


@app.command()
def compare(images: int = 3430, rounds: int = 3, threads: int = 2, limit: float = 600, names: str = "") -> None:
    """Run all contenders in turns; --names selects some, separated by commas; --limit is in seconds per run."""
    chosen = names.split(",") if names else list(CONTENDERS)
    results: dict[str, list[dict]] = {name: [] for name in chosen}
    print(f"{images:,} images, {threads} threads, {rounds} rounds; load before {os.getloadavg()[0]:.1f}")
    for _ in range(rounds):
        for name in chosen:
            result = in_new_process(name, images, threads, limit)
            if isinstance(result, str):
                print(f"{name}: stopped after {limit:.0f} s: {result}")
            else:
                results[name].append(result)
    print(f"{'':24}{'seconds':>8} {'':>16}{'CPU s':>8}{'diverg.':>9}{'trust':>8}{'purity':>8}{'silhou.':>8}")
    for name, found in results.items():
        if found:
            seconds = [one["seconds"] for one in found]
            spread = f"({min(seconds):.1f} to {max(seconds):.1f})"
            cpu = statistics.median(one["cpu_seconds"] for one in found)
            rated = "".join(
                f"{statistics.median(one[key] for one in found):8.4f}"
                for key in ("divergence", "trustworthiness", "neighbour_purity", "silhouette")
            )
            print(f"{name:24}{statistics.median(seconds):8.1f} {spread:>16}{cpu:8.1f} {rated}")
    print(f"load after {os.getloadavg()[0]:.1f}")


@app.command()
def determinism(images: int = 3430, names: str = "") -> None:
    """Print which contenders yield the same bits in three processes."""
    for name in names.split(",") if names else CONTENDERS:
        bits = []
        for threads in (1, 2, 2):
            result = in_new_process(name, images, threads, 3600, "--no-rate")
            bits.append(result["bits"] if isinstance(result, dict) else "")
        equal = {1: "always equal", 2: "equal with 2 threads" if bits[1] == bits[2] else "equal by chance"}
        print(f"{name:24}{' '.join(bits)}  {equal.get(len(set(bits)), 'never equal')}")


if __name__ == "__main__":
    app()
