"""The model registry: versions with their numbers, and aliases that move only to something better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from src.contracts import InputError, TrackingError
from src.tracking.mlflow import answering

# What an alias compares, less being better; all of them only between models for one target.
RULES: Mapping[str, str] = {
    "smallest": "a smaller file (size_bytes, then size_gzip_bytes)",
    "fastest": "a latency_ms_p50 smaller by more than 2 %, measured on the same machine",
    "best_within_budget": "a better value of the same objective under the same budget",
}
NOISE = 0.98  # of a latency: what is less apart may be chance


def register(uri: str, name: str, row: Mapping[str, Any], about: Mapping[str, Any], card: str) -> str:
    """Make the logged model of a row a version of the registered model ``name``.

    Args:
        uri: Of the tracking store.
        name: Of the registered model, e.g. ``mnist-mnist_cnn``.
        row: As in ``results.json``; its file has been logged.
        about: ``objective``, ``budget`` (JSON), ``within_budget`` (true or false), ``command``, ``git_commit``.
        card: What it was made from and its numbers, Markdown.

    Returns:
        The version; the one that was made before of the same measurement for the same question, where there is one.

    Raises:
        TrackingError: The store or its registry refuses.
    """
    from mlflow import MlflowClient

    with answering(uri):
        client = MlflowClient(tracking_uri=uri)
        if not client.search_registered_models(filter_string=f"name = '{name}'"):
            client.create_registered_model(name)
        for version in client.search_model_versions(f"name = '{name}'"):
            told = {**about, "sha256": row["sha256"], "measured_at": row["measured_at"]}
            if all(version.tags.get(key) == told[key] for key in ("sha256", "measured_at", "objective", "budget")):
                return str(version.version)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        wanted = " and ".join(f"params.{key} = '{row[key]}'" for key in ("variant", "sha256", "measured_at"))
        found = client.search_logged_models(experiments, filter_string=wanted, max_results=1)
        if not found:
            raise TrackingError(f"the model registry at {uri} has no logged model of {row['artifact']}")
        tags = {key: str(row[key]) for key in ("sha256", "measured_at", "identity", "machine", "target", "runtime")}
        tags |= {key: str(value) for key, value in row.items() if isinstance(value, (int, float))}
        version = client.create_model_version(
            name,
            source=found[0].artifact_location,
            run_id=found[0].source_run_id,
            tags={**tags, **{key: str(value) for key, value in about.items() if key != "point"}},
            description=card,
            model_id=found[0].model_id,
        )
        return str(version.version)


def promote(uri: str, name: str, version: str, alias: str) -> tuple[bool, str]:
    """Move ``alias`` to ``version`` if that is better by the alias's rule.

    Returns:
        Whether it stands there now, and why, in one line.

    Raises:
        InputError: There is no such model, version or alias.
        TrackingError: The store refuses.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    if "'" in name:
        raise InputError(f"no model can be called {name}")
    if alias not in RULES:
        raise InputError(f"there is no alias {alias}; there are {', '.join(RULES)}")
    with answering(uri):
        client = MlflowClient(tracking_uri=uri)
        versions = {str(each.version): each for each in client.search_model_versions(f"name = '{name}'")}
    if version not in versions:
        there = f"versions {', '.join(sorted(versions, key=int))}" if versions else "no version"
        raise InputError(f"the registry at {uri} has {there} of {name!r}, and not {version}")
    new = versions[version].tags
    with answering(uri):
        try:
            holder = str(client.get_model_version_by_alias(name, alias).version)
        except MlflowException:
            holder = None
        if holder == version:
            return True, f"{alias} stands at version {version} already"
        if new.get("within_budget") != "true":
            return False, f"version {version} misses the budget that it was made for ({new.get('budget')})"
        why = None if holder is None else _not_better(alias, new, versions[holder].tags)
        if why is not None:
            return False, f"{alias} stays at version {holder}: {why}; the rule is {RULES[alias]}"
        client.set_registered_model_alias(name, alias, version)
    return True, f"{alias} moved to version {version}" + (f" from {holder}" if holder else "")


def _not_better(alias: str, new: Mapping[str, str], old: Mapping[str, str]) -> str | None:
    """Why ``new`` is not better than ``old``, by the alias's rule; None where it is."""
    if new.get("target") != old.get("target"):
        return f"it is for target {old.get('target')}, the other for {new.get('target')}"
    if alias == "smallest":
        ours, theirs = ([int(tags[key]) for key in ("size_bytes", "size_gzip_bytes")] for tags in (new, old))
        return None if ours < theirs else f"it has {theirs[0]:,} bytes, the other {ours[0]:,}"
    if alias == "fastest":
        if "latency_ms_p50" not in new or "latency_ms_p50" not in old:
            return "one of them has no latency"
        if new.get("machine") != old.get("machine"):
            return f"it was measured on {old.get('machine')}, the other on {new.get('machine')}"
        fast, slow = float(new["latency_ms_p50"]), float(old["latency_ms_p50"])
        return None if fast < NOISE * slow else f"it takes {slow:.3f} ms, the other {fast:.3f}"
    if (new.get("objective"), new.get("budget")) != (old.get("objective"), old.get("budget")):
        return f"it is the best in {old.get('objective')} under {old.get('budget')}, another question"
    column = str(new["objective"])
    if column not in new or column not in old:
        return f"one of them has no {column}"
    sign = -1 if column.startswith("accuracy") else 1
    better = sign * float(new[column]) < sign * float(old[column])
    return None if better else f"its {column} is {old[column]}, the other's {new[column]}"


def model_card(name: str, rows: list[dict[str, Any]], about: Mapping[str, Any]) -> str:
    """What a registered model is, Markdown: what it was made from, its numbers, and on which target each holds.

    Args:
        name: Of the registered model.
        rows: Of the model's files, one a target, then of the baseline's.
        about: ``command``, ``point``, ``budget``, ``git_commit``.
    """
    first = rows[0]
    lines = [
        f"# {name}: {first['variant']}",
        "",
        f"{first['model']} on {first['data']}, stage `{first['identity']}`, commit {about['git_commit']}.",
        f"Made by: `{about['command']}`",
        f"Budget: {about['budget']} (accuracy on validation data)",
        f"Choices: {about['point']}",
        "",
        "| target | runtime | precision | accuracy (test) | accuracy (validation) | bytes | gzipped | latency p50 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        latency = "?" if row["latency_ms_p50"] is None else f"{row['latency_ms_p50']:.3f} ms"
        label = f"{row['target']} (baseline)" if row["variant"] == "baseline" else row["target"]
        lines.append(
            f"| {label} | {row['runtime']} | {row['precision']} | {row['accuracy']:.2%} | "
            f"{row['accuracy_validation']:.2%} | {row['size_bytes']:,} | {row['size_gzip_bytes']:,} | {latency} |"
        )
    return "\n".join([*lines, "", f"Measured on {first['machine']}, each number on the file of its target."])
