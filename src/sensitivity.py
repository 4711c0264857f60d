"""Which layer bears how much: ``python -m src.sensitivity +experiment=cifar_prune``."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import command
from src.command import DONE

if TYPE_CHECKING:
    from omegaconf import DictConfig

USAGE = """\
python -m src.sensitivity +experiment=NAME [key=value ...]    the experiment's network, each layer changed alone

Accuracy on validation data against sparsity, bits and clusters of one layer at a time, and where INT8 makes noise: a
table, sensitivity.png, and sensitivity.json, which method.distribution (BySensitivity) and method.bits
(MeasuredSensitivity) take.

sensitivity.sparsity=[0.5,0.9]  sensitivity.bits=[2,4,8]  sensitivity.clusters=[4,16]  sensitivity.images=2000
"""


def main() -> int:
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(command.help_text(USAGE, ("experiment", "data", "model", "training")))
        return DONE
    return command.run_command(_hydra)


def _hydra() -> int:
    import hydra

    from src.composition import register_resolvers

    register_resolvers()
    sys.argv.append("hydra.mode=RUN")  # of a survey only data, model and training are looked at
    errors: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=str(command.CONF), config_name="sensitivity")
    def task(config: DictConfig) -> None:
        try:
            _analyse(config)
        except Exception as error:
            errors.append(error)

    task()
    if errors:
        raise errors[0]
    return DONE


def _analyse(config: DictConfig) -> None:
    """Make or find the baseline, analyse it, write and print what was found."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from src.console import only_ours

    resolved: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    folder = Path(HydraConfig.get().runtime.output_dir)
    with only_ours(folder / "run.log", verbose=resolved["verbose"]) as terminal:
        import torch

        from src import analysis
        from src.composition import build, build_plan
        from src.console import Report
        from src.contracts import Context
        from src.data.batches import calibration_batches, evaluation_batches, example_image
        from src.experiment import Experiment
        from src.metrics.accuracy import torch_accuracy
        from src.stages.store import StageStore
        from src.tracking.off import Off

        report = Report(terminal, "")
        grid = build(resolved, "sensitivity", analysis.Grid)
        plan = replace(build_plan(resolved, dict(HydraConfig.get().runtime.choices)), steps={}, variant="baseline")
        made = Experiment(
            plan, store=StageStore(Path(resolved["artifacts"])), tracker=Off(), report=report, folder=folder
        )
        splits, baseline = made.baseline()
        seen = splits.validation.select(torch.arange(min(grid.images, len(splits.validation))))

        def evaluate(model: Any) -> float:
            return torch_accuracy(model, evaluation_batches(splits, seen, batch_size=500), len(splits.classes)).overall

        def no_training(*given: Any, **named: Any) -> None:
            raise AssertionError("a sensitivity analysis trains nothing")

        example = example_image(splits)
        record = analysis.sensitivity(baseline.model, grid, evaluate, example, lambda name: report.line(f"{name} done"))
        context = Context(calibration_batches(splits), plan.training.value.loss, example, plan.seed, no_training)
        int8 = analysis.int8_noise(
            baseline.model, grid, evaluate, context, evaluation_batches(splits, seen, batch_size=500)
        )
        about = {"identity": baseline.identity, "model": plan.model_name, "data": splits.name, "images": len(seen)}
        (folder / "sensitivity.json").write_text(json.dumps({**about, **record, "int8": int8}, indent=1) + "\n")
        _draw(record, folder / "sensitivity.png", f"{plan.model_name} on {splits.name}")
        for line in ["", *analysis.table(record), "", *_said(int8), f"Written: {folder}"]:
            report.line(line)


def _said(int8: dict[str, Any]) -> list[str]:
    """What INT8 does, in words."""
    lines = [f"INT8: {100 * int8['accuracy_int8']:.2f} % of validation images, float {100 * int8['accuracy']:.2f} %"]
    worst = sorted(int8["snr_db"].items(), key=lambda item: item[1]["validation"])[:3]
    for name, noise in worst:
        weight = "float" if noise["weight"] is None else f"{noise['weight']:.1f} dB"
        lines.append(
            f"  {name}: weights {weight}, outputs {noise['calibration']:.1f} dB on calibration and "
            f"{noise['validation']:.1f} dB on validation images"
        )
    for entry in int8["left_in_float"]:
        lines.append(f"  {', '.join(entry['layers'])} left in float: {100 * entry['accuracy']:.2f} %")
    advice = ",".join(int8["advice"])
    lines.append(f"Advice: method.ignored=[{advice}]" if advice else "Advice: no layer need stay in float.")
    return lines


def _draw(record: dict[str, Any], path: Path, title: str) -> None:
    """Three panels, a line a layer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = [kind for kind in ("sparsity", "bits", "clusters") if next(iter(record["layers"].values()))[kind]]
    figure, axes = pyplot.subplots(1, len(kinds), figsize=(5 * len(kinds), 4), sharey=True, squeeze=False)
    for axis, kind in zip(axes[0], kinds, strict=True):
        for name, layer in record["layers"].items():
            points = sorted((float(value), 100 * accuracy) for value, accuracy in layer[kind].items())
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        axis.axhline(100 * record["accuracy"], color="black", linewidth=0.8, linestyle=":")
        axis.set_xlabel(f"{kind} of this layer alone")
        if kind == "clusters":
            axis.set_xscale("log", base=2)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("validation accuracy, %")
    if len(record["layers"]) <= 20:
        axes[0][-1].legend(fontsize=7)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
