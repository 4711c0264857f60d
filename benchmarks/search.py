"""A search against random search and fixed chains: the smallest file that each finds, and the search's own cost.

``python -m benchmarks.search [--json FILE] [--folder DIR] [--seeds 3] [--trials 40] [search-override ...]``

For each seed, the search and random search run the same number of trials in the same space (``+search=digits_budget``
unless another is given), as the command runs them; random search does not begin with the points of ``search.first``.
The fixed chains of ``conf/method`` are measured for comparison. Accuracies are on validation data; files within the
budget are compared by gzipped bytes. With ``--folder``, an interrupted benchmark resumes. At the end, a study of 2,000
finished trials is opened, samples its next trial and is reported.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.metrics.machine import machine

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from src.study.judging import Judge

CHAINS = ("deep_compression", "prune_quantize", "prune_cluster_quantize", "distill_prune_quantize")
FINISHED = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--folder", type=Path, help="folder of searches and models (default: a temporary one)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (%(default)s)")
    parser.add_argument("--trials", type=int, default=40, help="trials of each search (%(default)s)")
    parser.add_argument("overrides", nargs="*", default=["+search=digits_budget"])
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"machine": machine(), "overrides": arguments.overrides, "seeds": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for seed in range(arguments.seeds):
            figures["seeds"].append(compare(folder.absolute(), seed, arguments.trials, arguments.overrides))
            print(json.dumps(figures["seeds"][-1]), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
        figures["study_seconds"] = large_study(Path(temporary))
    for name in ("random", "chain"):
        ratios = [each[name] / each["search"] for each in figures["seeds"] if each[name] and each["search"]]
        figures[f"smaller_than_{name}"] = statistics.median(ratios) if ratios else None
        print(f"gzipped bytes, {name} / search: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(f"{FINISHED:,} finished trials: opened, next trial sampled and reported in {figures['study_seconds']:.1f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def compare(folder: Path, seed: int, trials: int, overrides: list[str]) -> dict[str, Any]:
    """Gzipped bytes of the smallest file within the budget: of the search, of random search and of the fixed chains."""
    found: dict[str, Any] = {"seed": seed}
    baseline, drop = 0.0, 0.0
    at_random = ["sampler@search.sampler=random", "search.first=[]"]
    for name, sampled in (("search", []), ("random", at_random)):
        out = folder / f"{name}_{seed}"
        chosen = [*overrides, f"seed={seed}", f"search.trials={trials}", *sampled]
        places = [f"hydra.run.dir={out}", f"artifacts={folder / 'artifacts'}", "tracking=off", "search.finalists=1"]
        if not (out / "search.json").exists():
            storage = f"search.storage=sqlite:///{folder}/search.db"
            command("src.search", *chosen, *places, f"search.name={name}_{seed}", storage)
        written = json.loads((out / "search.json").read_text())
        within = [t["values"]["size_gzip_bytes"] for t in written["trials"] if t["within_budget"] and not t["stopped"]]
        found[name] = min(within, default=None)
        found[f"{name}_seconds"] = written["trial_seconds"]
        found[f"{name}_overhead"] = written["overhead_share"]
        baseline, drop = written["baseline_accuracy_validation"], written["budget"]["accuracy_drop"]
    within_budget = {}
    for chain in CHAINS:
        out = folder / f"{chain}_{seed}"
        places = [f"hydra.run.dir={out}", f"artifacts={folder / 'artifacts'}", "tracking=off"]
        if not (out / "results.json").exists():
            command("src.run", *overrides, f"seed={seed}", f"method={chain}", *places)
        row = json.loads((out / "results.json").read_text())["rows"][-1]
        if baseline - row["accuracy_validation"] <= drop + 1e-9:
            within_budget[chain] = row["size_gzip_bytes"]
    best = min(within_budget, key=lambda chain: within_budget[chain], default=None)
    return {**found, "chain": within_budget[best] if best else None, "best_chain": best}


def command(module: str, *arguments: str) -> None:
    """Run a command of this project; exit 4 (a budget is missed) is a result, too."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    if done.returncode not in (0, 4):
        raise RuntimeError(f"{module} {arguments}: {done.stderr}")


def large_study(folder: Path) -> float:
    """Seconds to open a study of many finished trials, sample its next trial, and report."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from optuna.trial import Trial, TrialState

    from src.experiment.budget import Budget
    from src.study.claims import Claims, finished_trials, open_study
    from src.study.judging import Judge
    from src.study.plot import plot_front
    from src.study.progress import progress_line
    from src.study.summary import completed_values, front_table, search_record

    storage, locks = f"sqlite:///{folder}/large.db", folder / "locks"
    judge = Judge(("size_gzip_bytes",), Budget(accuracy_drop=0.01), 0.99)
    study = open_study(storage, "large", judge.directions, {}, locks)
    study.add_trials([finished_trial(number, judge) for number in range(FINISHED)])
    started = time.perf_counter()
    study = open_study(storage, "large", judge.directions, {}, locks)

    def choose(trial: Trial) -> None:
        trial.suggest_float("prune.sparsity", 0.5, 0.95)
        trial.suggest_int("cluster.clusters", 4, 64, log=True)

    sampler = instantiate(OmegaConf.load("conf/sampler/gp.yaml"))
    claims = Claims(study, sampler, choose, seed=0, trials=FINISHED + 1, attempts=5, locks=locks)
    with claims.next_trial() as trial:
        assert trial is not None
        study.tell(trial, state=TrialState.FAIL)
    values = completed_values(study)
    front = judge.pareto_front(values)
    progress_line(study, judge, trials=FINISHED + 1, before=FINISHED, seconds=1.0)
    front_table(study, judge, front)
    plot_front(values, judge, front[0], folder / "front.png")
    assert [search_record(each, judge) for each in finished_trials(study)]
    return time.perf_counter() - started


def finished_trial(number: int, judge: Judge) -> FrozenTrial:
    """A completed trial with made-up values; the later, the smaller its file and the lower its accuracy."""
    from optuna.distributions import FloatDistribution, IntDistribution
    from optuna.trial import TrialState, create_trial

    from src.study.attributes import ACCURACIES, POINT, TOTAL_SECONDS, VALUES, WORK_SECONDS

    point = {"prune.sparsity": 0.5 + 0.4 * number / FINISHED, "cluster.clusters": 4 + number % 60}
    values = {"accuracy_validation": 0.99 - 0.02 * number / FINISHED, "size_gzip_bytes": float(9000 - number)}
    return create_trial(
        state=TrialState.COMPLETE,
        values=[values["size_gzip_bytes"]],
        params=point,
        distributions={
            "prune.sparsity": FloatDistribution(0.5, 0.95),
            "cluster.clusters": IntDistribution(4, 64, log=True),
        },
        user_attrs={POINT: point, VALUES: values, ACCURACIES: {"1.0": 0.99}, WORK_SECONDS: 1.0, TOTAL_SECONDS: 1.0},
        constraints=judge.violations(values),
    )


if __name__ == "__main__":
    main()
