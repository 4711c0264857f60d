"""What a search finds against chance and against the fixed chains, and what it costs itself.

``python -m benchmarks.search [--json FILE] [--folder DIR] [--seeds 3] [--trials 40] [search-override ...]``

For each seed the search and random search have as many trials of the same space (``+search=digits_budget`` unless
another is given), as the command runs them, but that chance begins with no point of ``search.first``; the fixed chains
of ``conf/method`` are measured beside. All are judged on validation data, by gzipped bytes among those within the
budget. With ``--folder`` a benchmark that was cut off goes on where it was. Last, a study of 2,000 finished trials is
opened, asked for its next trial and reported.
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
from typing import Any

from src.metrics.machine import machine

CHAINS = ("deep_compression", "prune_quantize", "prune_cluster_quantize", "distill_prune_quantize")
FINISHED = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="where searches and models are kept (a temporary one)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=40)
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
    print(f"{FINISHED:,} finished trials: opened, asked and reported in {figures['study_seconds']:.1f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def compare(folder: Path, seed: int, trials: int, overrides: list[str]) -> dict[str, Any]:
    """The smallest file within the budget, in gzipped bytes: by the search, by chance, and of the fixed chains."""
    found: dict[str, Any] = {"seed": seed}
    baseline, drop = 0.0, 0.0
    chance = ["sampler@search.sampler=random", "search.first=[]"]
    for name, sampled in (("search", []), ("random", chance)):
        out = folder / f"{name}_{seed}"
        given = [*overrides, f"seed={seed}", f"search.trials={trials}", *sampled]
        where = [f"hydra.run.dir={out}", f"artifacts={folder / 'artifacts'}", "tracking=off", "search.finalists=1"]
        if not (out / "search.json").exists():
            storage = f"search.storage=sqlite:///{folder}/search.db"
            command("src.search", *given, *where, f"search.name={name}_{seed}", storage)
        written = json.loads((out / "search.json").read_text())
        within = [t["values"]["size_gzip_bytes"] for t in written["trials"] if t["within_budget"] and not t["stopped"]]
        found[name] = min(within, default=None)
        found[f"{name}_seconds"] = written["trial_seconds"]
        found[f"{name}_overhead"] = written["overhead_share"]
        baseline, drop = written["baseline_accuracy_validation"], written["budget"]["accuracy_drop"]
    kept = {}
    for chain in CHAINS:
        out = folder / f"{chain}_{seed}"
        where = [f"hydra.run.dir={out}", f"artifacts={folder / 'artifacts'}", "tracking=off"]
        if not (out / "results.json").exists():
            command("src.run", *overrides, f"seed={seed}", f"method={chain}", *where)
        row = json.loads((out / "results.json").read_text())["rows"][-1]
        if baseline - row["accuracy_validation"] <= drop + 1e-9:
            kept[chain] = row["size_gzip_bytes"]
    best = min(kept, key=lambda chain: kept[chain], default=None)
    return {**found, "chain": kept[best] if best else None, "best_chain": best}


def command(module: str, *arguments: str) -> None:
    """Run a command of this project; exit 4 (a budget missed) is an answer, too."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    if done.returncode not in (0, 4):
        raise RuntimeError(f"{module} {arguments}: {done.stderr}")


def large_study(folder: Path) -> float:
    """Seconds to open a study of many finished trials, be dealt a trial, and report."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from optuna.distributions import FloatDistribution, IntDistribution
    from optuna.trial import Trial, TrialState, create_trial

    from src.results import Budget
    from src.study import telling
    from src.study.claims import Claims, finished, open_study
    from src.study.judging import Judge
    from src.study.trials import ACCURACIES, BUSY, POINT, SPENT, VALUES

    storage, locks = f"sqlite:///{folder}/large.db", folder / "locks"
    judge = Judge(("size_gzip_bytes",), Budget(0.01, None, None, None, None), 0.99)
    study = open_study(storage, "large", judge.directions, {}, locks)
    trials = []
    for number in range(FINISHED):
        point = {"prune.sparsity": 0.5 + 0.4 * number / FINISHED, "cluster.clusters": 4 + number % 60}
        values = {"accuracy_validation": 0.99 - 0.02 * number / FINISHED, "size_gzip_bytes": float(9000 - number)}
        trials.append(
            create_trial(
                state=TrialState.COMPLETE,
                values=[values["size_gzip_bytes"]],
                params=point,
                distributions={
                    "prune.sparsity": FloatDistribution(0.5, 0.95),
                    "cluster.clusters": IntDistribution(4, 64, log=True),
                },
                user_attrs={POINT: point, VALUES: values, ACCURACIES: {"1.0": 0.99}, BUSY: 1.0, SPENT: 1.0},
                constraints=judge.violations(values),
            )
        )
    study.add_trials(trials)
    started = time.perf_counter()
    study = open_study(storage, "large", judge.directions, {}, locks)

    def choose(trial: Trial) -> None:
        trial.suggest_float("prune.sparsity", 0.5, 0.95)
        trial.suggest_int("cluster.clusters", 4, 64, log=True)

    sampler = instantiate(OmegaConf.load("conf/sampler/gp.yaml"))
    with Claims(study, sampler, choose, seed=0, trials=FINISHED + 1, attempts=5, locks=locks).next() as trial:
        assert trial is not None
        study.tell(trial, state=TrialState.FAIL)
    front = judge.front(telling.whole(study))
    telling.progress(study, judge, FINISHED + 1, FINISHED, 1.0)
    telling.front_table(study, judge, front)
    telling.draw(study, judge, front[0], folder / "front.png")
    assert [telling.described(each, judge) for each in finished(study)]
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
