"""Every kind of method on other people's networks: works, refused before training, wrong, or crashed.

``python -m benchmarks.networks [--networks …] [--methods …] [--jobs N] [--results FILE] [--write docs/networks.md]``

Each network is trained on drawn shapes until it separates them, each method compresses it, and each target's file is
compared with torch. A network and a method are one command of their own, ``python -m src.run``, so that a crash is a
cell of the table. A JSON line for each cell (network, method, target) is appended to the results as it comes; cells
that are there are not run again. ``--write`` makes the table from the results, whatever of them is there. ``--all``
runs every method of ``conf/method`` on six of the networks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.contracts import LEAST_INTEGER
from src.metrics.machine import machine

TORCHVISION, TIMM = "model=torchvision", "model=timm"
# By the name in the table: the group's file, the name of the network there, and more overrides.
NETWORKS: Mapping[str, tuple[str, ...]] = {
    "mobilenet_v2": (TORCHVISION, "model.name=mobilenet_v2"),
    "mobilenetv3_small_050": (TIMM, "model.name=mobilenetv3_small_050"),
    "mobilenetv4_conv_small_050": (TIMM, "model.name=mobilenetv4_conv_small_050"),
    "efficientnet_b0": (TIMM, "model.name=efficientnet_b0"),
    "ghostnet_050": (TIMM, "model.name=ghostnet_050"),
    "regnetx_002": (TIMM, "model.name=regnetx_002"),
    "resnet18": (TORCHVISION, "model.name=resnet18"),
    "resnext26ts": (TIMM, "model.name=resnext26ts"),
    "densenet121": (TORCHVISION, "model.name=densenet121"),
    "shufflenet_v2_x0_5": (TORCHVISION, "model.name=shufflenet_v2_x0_5"),
    "mnasnet0_5": (TORCHVISION, "model.name=mnasnet0_5"),
    "squeezenet1_1": (TORCHVISION, "model.name=squeezenet1_1", "training.optimizer.lr=0.01"),
    "googlenet": (TORCHVISION, "model.name=googlenet"),
    "inception_v3": (TORCHVISION, "model.name=inception_v3", "data.side=96"),
    "convnext_atto": (TIMM, "model.name=convnext_atto"),
    "repvgg_a0": (TIMM, "model.name=repvgg_a0"),
    "vit_tiny": (TIMM, "model.name=vit_tiny_patch16_224"),
    "deit_tiny": (TIMM, "model.name=deit_tiny_patch16_224"),
    "swin_tiny": (TIMM, "model.name=swin_tiny_patch4_window7_224"),
    "edgenext_xx_small": (TIMM, "model.name=edgenext_xx_small"),
    "fastvit_t8": (TIMM, "model.name=fastvit_t8"),
    "mixer_s32": (TIMM, "model.name=mixer_s32_224"),
    "levit_128s": (TIMM, "model.name=levit_128s"),
    "mobileone_s0": (TIMM, "model.name=mobileone_s0"),
}
KINDS = (
    *("prune_magnitude", "prune_channels", "cluster", "low_rank"),
    *("quantize_uniform", "quantize_int8", "quantize_aware_int8", "distill"),
)
SIX = ("mobilenet_v2", "mobilenetv3_small_050", "resnet18", "shufflenet_v2_x0_5", "convnext_atto", "deit_tiny")
EVERY = tuple(
    sorted(path.stem for path in Path("conf/method").glob("*.yaml") if path.stem not in ("baseline", "chain"))
)
TARGETS = ("onnxruntime", "openvino", "tflite", "torch")
# Their files compute in integers, so that logits are rounded; the classes are compared.
ROUNDED = tuple(
    method for method in EVERY if "quantize" in method and method not in ("quantize_uniform", "quantize_mixed")
)
INTEGER = ("quantize_int8", "quantize_aware_int8")
SETTINGS = (
    *("data=shapes", "data.side=64", "data.train_images=2000", "data.test_images=300", "data.calibration_images=100"),
    *("training.epochs=12", "training.batch_size=50", "training.optimizer.lr=0.02", "training.threads=1"),
    *("target=[onnxruntime,openvino,tflite,torch]", "tracking=off"),
    *("timing.seconds=0.05", "timing.rounds=2", "timing.largest_batch=1"),
)
AGREES, SEPARATES = 0.99, 0.9
CLOSE = 1e-4  # a float file's largest difference of a logit from torch's, as a share of the logits' range


@dataclass(frozen=True)
class Cell:
    """What became of one file.

    Attributes:
        network, method, target: Names.
        verdict: ``works``, ``refused`` (before anything was trained), ``late`` (refused after that), ``wrong`` or
            ``crash``.
        reason: Why, in one line; empty if it works.
        accuracy: Accuracy of the file on the test set; None without a file.
        agreement: Share of test images on which the file and torch name the same class; None without a file.
        logit_difference: Largest absolute difference of a logit from torch's; None without a file.
        logit_range: Largest minus smallest of torch's logits; None without a file.
        baseline_accuracy: Accuracy of the uncompressed network's file; None if there is none.
        seconds: Time of the whole command, which makes the files of all targets.
        device: What the network was trained on, ``cpu`` or ``cuda``.
        integer_share: Share of multiply-accumulates that the file computes in integers; None without a file.
    """

    network: str
    method: str
    target: str
    verdict: str
    reason: str
    accuracy: float | None
    agreement: float | None
    logit_difference: float | None
    logit_range: float | None
    baseline_accuracy: float | None
    seconds: float
    device: str
    integer_share: float | None = None


@dataclass(frozen=True)
class Bench:
    """How the cells are made.

    Attributes:
        artifacts: Folder in which trained networks are kept.
        overrides: Further settings of each command, e.g. ``training.epochs=2``.
        seconds: After which a command is given up.
        device: ``cpu`` or ``cuda``.
    """

    artifacts: Path
    overrides: tuple[str, ...]
    seconds: float
    device: str

    def cells(self, network: str, methods: Sequence[str]) -> list[Cell]:
        """Run a survey of ``methods`` on a network; a cell for each method and target."""
        given = [*SETTINGS, f"training.device={self.device}", *NETWORKS[network], *self.overrides]
        given += [f"method={','.join(methods)}", f"artifacts={self.artifacts}"]
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "survey"
            command = [sys.executable, "-m", "src.run", "-m", *given, f"hydra.sweep.dir={folder}"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=self.seconds, check=False)
                out, last = done.stdout, (done.stderr.strip().splitlines() or ["no message"])[-1]
            except subprocess.TimeoutExpired as error:
                out, last = (error.stdout or b"").decode(), f"not done after {self.seconds:.0f} s"
            seconds = round(time.perf_counter() - started, 1)
            found = []
            for number, method in enumerate(methods):
                member = folder / f"{number}_{method}"
                trained = f"[{number + 1}/{len(methods)}] baseline" in out or len(methods) == 1
                found += self._judged(network, method, member, trained=trained, last=last, seconds=seconds)
        return found

    def _judged(
        self, network: str, method: str, member: Path, *, trained: bool, last: str, seconds: float
    ) -> list[Cell]:
        record, failure = _read(member / "results.json"), _read(member / "failure.json")
        found = []
        for target in TARGETS:
            verdict, reason, row = judged(record, failure, method, target, trained=trained, last=last)
            base = _row(record, "baseline", target)
            found.append(
                Cell(
                    network=network,
                    method=method,
                    target=target,
                    verdict=verdict,
                    reason=reason,
                    accuracy=row["accuracy"] if row else None,
                    agreement=row["agreement"] if row else None,
                    logit_difference=row["logit_difference_max"] if row else None,
                    logit_range=row["logit_range"] if row else None,
                    baseline_accuracy=base["accuracy"] if base else None,
                    seconds=seconds,
                    device=self.device,
                    integer_share=row.get("integer_share") if row else None,
                )
            )
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--methods", nargs="*", default=list(KINDS))
    parser.add_argument("--all", action="store_true", help="every method, on six of the networks")
    parser.add_argument("--results", type=Path, default=Path("docs/measured/networks.jsonl"))
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="where trained networks are kept")
    parser.add_argument("--jobs", type=int, default=1, help="commands at a time")
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which a command is given up")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--overrides", nargs="*", default=[], help="further settings of each command")
    parser.add_argument("--write", type=Path, help="write the table to this file, below its first paragraphs")
    arguments = parser.parse_args()
    bench = Bench(arguments.artifacts, tuple(arguments.overrides), arguments.seconds, arguments.device)
    networks, methods = (SIX, EVERY) if arguments.all else (arguments.networks, arguments.methods)
    made = {(cell.network, cell.method) for cell in read(arguments.results)}
    left = {network: [method for method in methods if (network, method) not in made] for network in networks}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for done in as_completed([pool.submit(bench.cells, *each) for each in left.items() if each[1]]):
            with arguments.results.open("a") as file:
                for cell in done.result():
                    file.write(json.dumps(asdict(cell)) + "\n")
                    print(cell.network, cell.method, cell.target, cell.verdict, cell.reason[:120], flush=True)
    if arguments.write:
        head = arguments.write.read_text().partition("| network |")[0] if arguments.write.exists() else ""
        cells = read(arguments.results)
        arguments.write.write_text(head + "\n".join([*table(cells), "", *counts(cells), "", machine()]) + "\n")


def read(results: Path) -> list[Cell]:
    """The cells of a file of results; the last of each (network, method, target) counts."""
    lines = results.read_text().splitlines() if results.exists() else []
    cells = [Cell(**json.loads(line)) for line in lines]
    return list({(cell.network, cell.method, cell.target): cell for cell in cells}.values())


def judged(
    record: Mapping[str, Any] | None,
    failure: Mapping[str, Any] | None,
    method: str,
    target: str,
    *,
    trained: bool,
    last: str,
) -> tuple[str, str, Mapping[str, Any] | None]:
    """Verdict, reason and result row of a target's file.

    Args:
        record: Content of ``results.json``; None if the member wrote none.
        failure: Content of ``failure.json``; None if there is none.
        method, target: Their names.
        trained: Whether the network had been trained, or found again, before the member ended.
        last: The last line of errors that the command printed.
    """
    if record is None:
        if failure is None or failure["kind"] != "input":
            return "crash", last if failure is None else failure["reason"], None
        return ("late" if trained else "refused"), failure["reason"], None
    row = _row(record, method, target)
    if row is None or row["accuracy"] is None:
        reasons = [each["reason"] for each in record["not_exportable"] if each["target"] == target]
        reasons += [row["refused"]] if row and row.get("refused") else []
        return "refused", (reasons or [last])[-1], None
    if row["agreement"] < AGREES:
        return "wrong", f"agrees with torch on {100 * row['agreement']:.1f} % of the test images", row
    distance = row["logit_difference_max"] / max(row["logit_range"], 1e-30)
    if method not in ROUNDED and distance > CLOSE:
        return "wrong", f"logits differ from torch's by {distance:.1e} of their range", row
    return "works", "", row


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _row(record: Mapping[str, Any] | None, variant: str, target: str) -> Mapping[str, Any] | None:
    rows = record["rows"] if record is not None else []
    return next((row for row in rows if (row["variant"], row["target"]) == (variant, target)), None)


def table(cells: Sequence[Cell]) -> list[str]:
    """A line for each network, a column for each method; a cell names the targets that do not work."""
    methods = [method for method in (*KINDS, *EVERY) if any(cell.method == method for cell in cells)]
    methods = list(dict.fromkeys(methods))
    lines = [f"| network | accuracy | {' | '.join(methods)} |", f"|---|---|{'---|' * len(methods)}"]
    for network in dict.fromkeys(cell.network for cell in cells):
        own = [cell for cell in cells if cell.network == network]
        bases = [cell.baseline_accuracy for cell in own if cell.baseline_accuracy is not None]
        base = f"{100 * bases[0]:.1f} %" if bases else "-"
        each = [_summary([cell for cell in own if cell.method == method]) for method in methods]
        lines.append(f"| {network} | {base} | {' | '.join(each)} |")
    return lines


def _summary(cells: Sequence[Cell]) -> str:
    """``works``, or what the targets that do not work say instead."""
    verdicts = {cell.target: cell.verdict for cell in cells}
    if not verdicts:
        return ""
    if len(set(verdicts.values())) == 1:
        return next(iter(verdicts.values()))
    return ", ".join(f"{verdict}: {target}" for target, verdict in verdicts.items() if verdict != "works")


def counts(cells: Sequence[Cell]) -> list[str]:
    """How many cells of each verdict, by method and by target."""
    verdicts = ("works", "refused", "late", "wrong", "crash")
    lines = [f"| method or target | {' | '.join(verdicts)} |", f"|---|{'---|' * len(verdicts)}"]
    methods = sorted({cell.method for cell in cells})
    groups = [(method, [c for c in cells if c.method == method]) for method in methods]
    groups += [(target, [c for c in cells if c.target == target]) for target in TARGETS]
    for name, own in groups:
        found = Counter(cell.verdict for cell in own)
        lines.append(f"| {name} | {' | '.join(str(found[verdict]) for verdict in verdicts)} |")
    separate = {c.network for c in cells if c.baseline_accuracy is not None and c.baseline_accuracy >= SEPARATES}
    networks = {cell.network for cell in cells}
    lines += ["", f"{len(separate)} of {len(networks)} networks separate the shapes (≥ {100 * SEPARATES:.0f} %)."]
    integer = [cell for cell in cells if cell.method in INTEGER and cell.target != "torch"]
    if integer:
        full = [c for c in integer if c.verdict == "works" and (c.integer_share or 0) >= LEAST_INTEGER]
        lines += [
            "",
            f"{len(full)} of {len(integer)} INT8 files work and compute ≥ 99 % in integers (torch: in floats).",
        ]
    reasons = Counter(f"{cell.verdict}: {cell.reason}" for cell in cells if cell.verdict != "works")
    return [*lines, "", *(f"- {count} × {reason}" for reason, count in reasons.most_common())]


if __name__ == "__main__":
    main()
