"""A result row: its columns, each declared once.

The table, the judge of a search, budgets, DVC's metrics, the registry's rules and docs/results.md read this list. A new
column is one entry here and its measurement in ``src/metrics``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from src.contracts.deploy import Precision, Runtime
from src.contracts.formats import Bytes, Number, Verdict, Words

LEAST_AGREEMENT = 0.99  # of predicted classes with torch's; below it a file does not do what its model does
WRONG = "WRONG"  # what the table says of a file below it
LEAST_INTEGER = 0.99  # of the multiply-accumulates of an INT8 file; below it the file is not what its name says
PERCENT = Number("{:.2f}", scale=100, suffix=" %")
POINTS = Number("{:+.2f}", scale=100)
MILLISECONDS = Number("{:.3f}", suffix=" ms")
COUNT = Number("{:,.4g}", spread=False)
BYTES, WORDS = Bytes(), Words()


@dataclass(frozen=True)
class Limit:
    """A limit that a budget may set on a column.

    Attributes:
        key: Its name in ``budget``.
        missed: What a miss says; given the value and the limit.
        unknown: What is said if the column is None.
    """

    key: str
    missed: str
    unknown: str


@dataclass(frozen=True)
class Column:
    """A column of the result rows.

    Attributes:
        name: Name of the field of ``Row``.
        meaning: What it says, for docs/results.md.
        heading: Its heading in the table; empty if the table leaves it out.
        unit: Unit of its values; empty for words and plain counts.
        format: Turns one value, or one for each seed, into text.
        direction: Which values are better; None if neither.
        limit: The limit that a budget may set; None if there is none.
        searched: Whether a search measures it for each trial, and may have it as its objective.
        compared: Whether DVC's metrics and plots have it.
        interval: Columns with the ends of its 95 % confidence interval.
        relative: Whether it compares with the baseline, so that the table leaves the baseline's own out.
    """

    name: str
    meaning: str
    heading: str = ""
    unit: str = ""
    format: Callable[[Sequence[Any]], str] = COUNT
    direction: Literal["higher", "lower"] | None = None
    limit: Limit | None = None
    searched: bool = False
    compared: bool = False
    interval: tuple[str, str] | None = None
    relative: bool = False

    @property
    def sign(self) -> int:
        """Factor that makes less the better: -1 if higher values are better, else 1."""
        return -1 if self.direction == "higher" else 1

    def text(self, values: Sequence[Any]) -> str:
        """The values that are known as text, one for each seed; ``-`` if none is."""
        known = [value for value in values if value is not None]
        return self.format(known) if known else "-"


def column(meaning: str, **more: Any) -> Any:
    """A field of ``Row`` that is a column; ``more`` are the attributes of ``Column``."""
    return field(metadata={"meaning": meaning, **more})


@dataclass(frozen=True, kw_only=True)
class Row:
    """One exported file, measured.

    A column that cannot be measured is None, with the reason in ``unavailable``.
    """

    variant: str = column("`baseline`, the method's name, or the chain's", heading="variant", format=WORDS)
    target: str = column("name of the `target` config", heading="target", format=WORDS)
    precision: Precision = column(
        "number formats that the file computes in (`computes`), and of its weights if they are others (`stores`)",
        heading="precision",
        format=WORDS,
    )
    bits_per_weight: float = column(
        "mean over the weights as the stage stores them: 32, 8 for INT8, n for n-bit weights (files hold up to 8 bits "
        "as integers of 8)",
        heading="bits",
        unit="bits",
        format=Number("{:.3g}", spread=False),
        direction="lower",
        searched=True,
    )
    accuracy: float = column(
        "share of the whole test set, run through the file in its runtime",
        heading="accuracy",
        unit="share",
        format=PERCENT,
        direction="higher",
        compared=True,
    )
    balanced_accuracy: float | None = column(
        "mean of `accuracy_per_class` over the classes with test images, for sets in which some classes are rare",
        unit="share",
        format=PERCENT,
        direction="higher",
        compared=True,
    )
    accuracy_change: float | None = column(
        "`accuracy` less that of the baseline's file of the same target; null for the baseline",
        heading="change",
        unit="share",
        format=POINTS,
        direction="higher",
        relative=True,
    )
    accuracy_validation: float = column(
        "the same on the validation split: what budgets look at",
        unit="share",
        format=PERCENT,
        direction="higher",
        limit=Limit(
            "accuracy_drop",
            "validation accuracy fell by {0:.4f}, allowed are {1}",
            "the baseline has no file to compare its accuracy with",
        ),
        searched=True,
        compared=True,
    )
    accuracy_torch: float = column(
        "the torch model's on the test set, so that an export that changed the network is seen",
        unit="share",
        format=PERCENT,
        direction="higher",
    )
    accuracy_per_class: Mapping[str, float | None] = column(
        "`accuracy` of each class; null for a class without test images", unit="share", format=WORDS
    )
    size_bytes: int = column(
        "bytes on disk, all parts together",
        heading="file",
        unit="bytes",
        format=BYTES,
        direction="lower",
        limit=Limit("size_bytes", "the file has {0:,} bytes, allowed are {1:,}", "its bytes are unknown"),
        searched=True,
        compared=True,
    )
    compression_ratio: float | None = column(
        "`size_bytes` of the baseline's file of the same target divided by this one's",
        heading="ratio",
        format=Number("{:.1f}", suffix="x"),
        direction="higher",
        compared=True,
    )
    size_gzip_bytes: int = column(
        "bytes of all parts, each gzipped at level 9",
        heading="gzipped",
        unit="bytes",
        format=BYTES,
        direction="lower",
        limit=Limit("size_gzip_bytes", "gzipped, the file has {0:,} bytes, allowed are {1:,}", "its bytes are unknown"),
        searched=True,
        compared=True,
    )
    size_packed_bytes: int | None = column(
        "bytes of the same weights in a packed file of the profile `fast` (docs/format.md), without the graph; null if "
        "numba is not installed",
        heading="packed",
        unit="bytes",
        format=BYTES,
        direction="lower",
        limit=Limit(
            "size_packed_bytes",
            "packed, the weights take {0:,} bytes, allowed are {1:,}",
            "the weights were not packed",
        ),
        searched=True,
        compared=True,
    )
    latency_ms_p50: float | None = column(
        "median time of one image, `timing.threads` threads, warmed up until stable, while no other command of this "
        "machine measures; all files of a run are timed in turns, each in a process of its own",
        heading="latency",
        unit="ms",
        format=MILLISECONDS,
        direction="lower",
        limit=Limit(
            "latency_ms",
            "one image takes {0:.3f} ms, allowed are {1}",
            "latency was not measured, so that {1} ms cannot be kept",
        ),
        searched=True,
        compared=True,
    )
    latency_ms_p95: float | None = column(
        "its 95th percentile", unit="ms", format=MILLISECONDS, direction="lower", searched=True
    )
    latency_ms_p99: float | None = column("its 99th percentile", unit="ms", format=MILLISECONDS, direction="lower")
    speedup: float | None = column(
        "how many times faster than the baseline's file of the same target: the median over paired turns",
        heading="faster",
        format=Number("{:.2f}", suffix="x"),
        direction="higher",
        interval=("speedup_low", "speedup_high"),
        relative=True,
    )
    speedup_low: float | None = column("lower end of the speedup's 95 % confidence interval", format=Number("{:.2f}"))
    speedup_high: float | None = column("upper end of the speedup's 95 % confidence interval", format=Number("{:.2f}"))
    agreement: float = column(
        "share of 1,000 validation images for which the file predicts the class that the torch model does, or of 32 of "
        "them that are run alone if that is less; under 99 % the table says WRONG and the command warns",
        heading="file does",
        unit="share",
        format=Verdict(LEAST_AGREEMENT, "agree", WRONG),
        direction="higher",
    )
    logit_difference_max: float = column("largest absolute difference of a logit on them", direction="lower")
    logit_difference_mean: float = column("mean absolute difference of the logits on them", direction="lower")
    logit_range: float | None = column("largest less smallest of the torch model's logits on them")
    departs_at: str | None = column(
        "if agreement is under 99 %: the first layer whose outputs in the runtime are more than 5 % away from torch's",
        format=WORDS,
    )
    throughput_per_s: float | None = column(
        "images a second at the batch that gives most", unit="1/s", direction="higher"
    )
    throughput_batch: int | None = column("images in that batch")
    load_ms: float | None = column(
        "time to load the file, its runtime being in memory", unit="ms", format=MILLISECONDS, direction="lower"
    )
    peak_memory_bytes: int | None = column(
        "memory of its process while it loads and runs single images, Python and the runtime included, less what "
        "Python had before",
        unit="bytes",
        format=BYTES,
        direction="lower",
    )
    energy_uj: float | None = column(
        "energy of one image by the machine's own counters (RAPL, a Jetson's INA3221), all that ran on it included; "
        "null if it has none",
        unit="uJ",
        direction="lower",
    )
    energy_uj_estimate: float | None = column(
        "the same by counting: arithmetic, weights once from DRAM, activations through SRAM, in 45 nm (Horowitz 2014); "
        "to compare files with, not what a processor draws",
        unit="uJ",
        direction="lower",
        limit=Limit(
            "energy_uj",
            "one image takes about {0:.4g} uJ, allowed are {1}",
            "energy cannot be estimated, so that {1} uJ cannot be kept",
        ),
        searched=True,
    )
    parameters: int | None = column(
        "stored weights and biases of the file (batch norm is folded into them)", direction="lower", searched=True
    )
    nonzero_parameters: int | None = column("those that are not zero", direction="lower", searched=True)
    macs: int | None = column(
        "multiply-accumulates of convolutions, matrix products and recurrent layers at batch 1; null if an operator "
        "with weights is not known",
        direction="lower",
        searched=True,
        compared=True,
    )
    integer_share: float | None = column(
        "share of `macs` that the file computes in 8-bit integers, for ONNX Runtime as its own optimizer leaves the "
        "graph; under 99 % of an INT8 file the command names the operations; 0 for `torch`, which computes in floats",
        heading="in integers",
        unit="share",
        format=Number("{:.1f}", scale=100, suffix=" %"),
        direction="higher",
    )
    float_operations: str | None = column(
        "the operations of an INT8 file that are computed in floats, those with most `macs` first", format=WORDS
    )
    may_saturate: str | None = column(
        "weights of an INT8 file that could overflow on x86 processors without VNNI, which add two products u8 x s8 in "
        "16 bits: a bound from the weights alone (`method.reduce_range=true` leaves none)",
        format=WORDS,
    )
    peak_activation_bytes: int | None = column(
        "largest sum of live activations at batch 1, in the file's order, as a fusing runtime keeps them",
        unit="bytes",
        format=BYTES,
        direction="lower",
        searched=True,
    )
    runtime: Runtime = column(
        "what ran the file (`name`), its execution `provider` if not the default, and the target's runtime if another "
        "one stands in for it here (`stands_in_for`)",
        format=WORDS,
    )
    data: str = column("name of the data set", format=WORDS)
    model: str = column("name of the network", format=WORDS)
    seed: int = column("seed of the run", format=WORDS)
    artifact: str = column("the file, `<variant>.<target>.<ending>`", format=WORDS)
    sha256: str = column("of the file; of its parts together if a format has two", format=WORDS)
    identity: str = column(
        "of the stage that was exported: `artifacts/<identity>/stage.json` says what was done, layer by layer",
        format=WORDS,
    )
    weights_kept: str = column("which epoch's weights: best on validation, last, or as given", format=WORDS)
    machine: str = column("what it was measured on", format=WORDS)
    measured_at: str = column("when all but the times was measured; a row that is found again keeps it", format=WORDS)
    timed_at: str | None = column("when the times were taken", format=WORDS)
    unavailable: Mapping[str, str] = column("the reason for each column that could not be measured", format=WORDS)

    def numbers(self) -> dict[str, float]:
        """Every measured number that is known, by the name of its column."""
        return {
            column.name: value
            for column in COLUMNS
            if isinstance(value := getattr(self, column.name), (int, float)) and column.format is not WORDS
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Row:
        """From its fields as JSON holds them; a column that an older record does not have is None."""
        known = {name: record.get(name) for name in BY_NAME}
        known |= {"precision": Precision.of(record["precision"]), "runtime": Runtime.of(record["runtime"])}
        return cls(**known)  # type: ignore[arg-type]


COLUMNS: tuple[Column, ...] = tuple(Column(name=each.name, **each.metadata) for each in fields(Row))
BY_NAME: Mapping[str, Column] = {each.name: each for each in COLUMNS}


@dataclass(frozen=True)
class Entry:
    """A row beside others.

    Attributes:
        row: The row.
        settings: What its survey varies beside method and seed, e.g. ``model=resnet20``; empty for a single run.
        member: The folder of its run below the survey's; empty for a single run.
    """

    row: Row
    settings: tuple[str, ...] = ()
    member: str = ""


@dataclass(frozen=True)
class Refused:
    """A variant that has no row for a target, and why.

    Attributes:
        variant, target: Their names.
        reason: Why, in one line.
        failed: Whether there was a file, and its runtime failed on it or computed something else; if not, the target
            has no form for the network.
    """

    variant: str
    target: str
    reason: str
    failed: bool = False

    def row(self) -> dict[str, Any]:
        """A row without figures, as JSON holds it: every column is null but two, and ``unavailable`` has the reason."""
        named = {"variant": self.variant, "target": self.target}
        return {**dict.fromkeys(BY_NAME), **named, "unavailable": {"artifact": self.reason}}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Refused | None:
        """Read a row without figures; None if ``record`` is the row of a file."""
        if record.get("artifact", "") is not None:
            return None
        return cls(record["variant"], record["target"], record["unavailable"]["artifact"], failed=True)
