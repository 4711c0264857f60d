"""From a composed config to the objects of an experiment, before any work: every mistake surfaces with its key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.command.config_checks import COMPUTE, check_keys, check_types, check_values
from src.command.exits import CONF, explain_constructor, explain_instantiation

if TYPE_CHECKING:
    from src.contracts import Target, Tracker
    from src.experiment.plan import Plan
    from src.models.build import NetworkSource

# Keys that change nothing while they are null or false.
OPTIONAL = {
    "data": ("height", "width", "interpolation", "crop", "fit", "background", "mixing"),
    "model": ("weights_key", "replace_head", "output", "published_input"),
    "training": ("auxiliary_weight",),
    "budget": ("size_packed_bytes",),
}


def register_resolvers() -> None:
    """The two calculations that configs may use: ``${times:value,factor}`` and ``${share:count,share}``."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("times", lambda value, factor: value * factor, replace=True)
    OmegaConf.register_new_resolver("share", lambda count, share: max(1, round(count * share)), replace=True)


def composed(overrides: Sequence[str], config_name: str = "config") -> tuple[dict[str, Any], dict[str, str]]:
    """Compose as a command does, with no run started: the resolved config, and Hydra's choices."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    register_resolvers()
    outer, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None  # a command may compose once more
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose(config_name, list(overrides), return_hydra_config=True)
    finally:
        GlobalHydra.instance().hydra = outer
    HydraConfig.instance().set_config(config)
    choices = dict(config.hydra.runtime.choices)
    OmegaConf.set_struct(config, False)
    OmegaConf.set_readonly(config, False)
    del config["hydra"]
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    check_keys(plain, OmegaConf.to_container(config), config_name)
    return plain, choices


def set_values(group: str, config: dict[str, Any]) -> dict[str, Any]:
    """A config without the optional keys that are not set, so that a new one changes no identity until it is."""
    optional = OPTIONAL.get(group, ())
    return {
        key: value for key, value in config.items() if key not in optional or (value is not None and value is not False)
    }


def build_plan(resolved: dict[str, Any], chosen: dict[str, str]) -> Plan:
    """Build every object of an experiment from a resolved config, before any work.

    Args:
        resolved: The composed config as plain dicts and lists.
        chosen: Hydra's choices: which file each group came from.
    """
    check_values(resolved)
    from src.contracts import InputError, ModelBuilder, Target, as_method
    from src.experiment.plan import Part, Plan
    from src.methods.chain import Chain
    from src.metrics.timing import Clock
    from src.training.recipe import Compute

    source, model_config, model_name = network_of(resolved["model"], chosen["model"])
    training_config = set_values("training", resolved["training"])
    compute_config = {key: training_config.pop(key) for key in COMPUTE if key in training_config}
    compute = build({"training": compute_config}, "training", Compute.resolve)
    data = Part(build(resolved, "data"), set_values("data", resolved["data"]))
    model: Part[ModelBuilder] = Part(source, model_config)
    training = Part(build({"training": training_config}, "training"), training_config)
    method = build(resolved, "method")
    if isinstance(method, Chain):
        variant = method.name
        steps = {name: Part(step, resolved["method"]["steps"][name]) for name, step in method.steps.items()}
    else:
        variant = chosen["method"]
        try:
            steps = {variant: Part(as_method(method), resolved["method"])}
        except TypeError as error:
            raise InputError(f"method is {error}") from error
    targets = {
        name: Part(build(resolved["target"], name, key=f"target.{name}"), config)
        for name, config in resolved["target"].items()
    }
    for name, target in targets.items():
        if not isinstance(target.value, Target):
            raise InputError(f"target.{name} is a {type(target.value).__name__}, which is no src.contracts.Target")
    return Plan(
        name=chosen.get("experiment") or chosen.get("search") or "run",
        variant=variant,
        seed=resolved["seed"],
        data=data,
        model=model,
        model_name=model_name,
        weights=source.weights,
        training=training,
        compute=compute,
        steps=steps,
        targets=targets,
        clock=build(resolved, "timing", Clock),
        board=build(resolved, "board"),
    )


def network_of(config: dict[str, Any], choice: str) -> tuple[NetworkSource, dict[str, Any], str]:
    """The network of a ``model`` config, all that determines it beside the file of its weights, and what it is called.

    It is called as its library, its file or its class calls it, else as the file of conf/model, ``choice``.
    """
    from src.contracts import InputError
    from src.models.build import NetworkSource
    from src.models.weights import Weights

    builder = set_values("model", config)
    file = builder.pop("weights", None)
    given = {key: builder.pop(key) for key in OPTIONAL["model"] if key in builder}
    if given.get("replace_head", True) is not True:
        raise InputError(f"model.replace_head must be true or false, and is {given['replace_head']!r}")
    if not file and {"replace_head", "weights_key"} & set(given):
        raise InputError("model.replace_head and model.weights_key need model.weights, which is not given")
    path = Path(file).expanduser() if file else None
    weights = Weights(path, given.get("weights_key"), given.get("replace_head", False)) if path else None
    partial = build({"model": {**builder, "_partial_": True}}, "model")
    name = str(builder.get("name") or choice)
    if choice == "custom":
        name = builder["_target_"].rpartition(".")[2]
    elif choice == "onnx" and path is not None:
        name = path.stem
    return NetworkSource(partial, given.get("output"), weights), {**builder, **given}, name


def target_of(file: Path, *, trust: bool = False) -> Target:
    """The target that a file's name says: ``<variant>.<target>.<ending>``, as runs call their files; else its ending.

    Args:
        file: The exported file. The ``config.yaml`` beside it may choose options of the target.
        trust: Whether that config may name any class instead.

    Raises:
        InputError: The file is missing, no runtime here reads files of its ending, or the config beside it asks for
            more than options.
    """
    from hydra.utils import get_class
    from omegaconf import OmegaConf

    from src.command.trust import plain_options, read_config
    from src.contracts import InputError

    if not file.is_file():
        raise InputError(f"There is no file {file}")
    configs: dict[str, dict[str, Any]] = {}
    for path in sorted((CONF / "target").glob("*.yaml")):
        config: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        configs[path.stem] = config[path.stem]
    endings = {name: f".{get_class(config['_target_']).ending}" for name, config in configs.items()}  # type: ignore[attr-defined]
    readers = [name for name, ending in endings.items() if file.suffix == ending]
    if not readers:
        known = ", ".join(sorted(set(endings.values())))
        raise InputError(f"{file}: no runtime here reads '{file.suffix}' files; {known} can be read")
    named = [name for name in readers if file.name.endswith(f".{name}{file.suffix}")]
    name = [*named, *readers][0]
    beside = file.parent / "config.yaml"  # of the run that wrote it, perhaps with options of its own
    if named and beside.is_file():
        run = read_config(beside).get("target") or {}
        if not isinstance(run, dict):
            raise InputError(f"{beside}: target is no mapping of targets")
        if name in run:
            configs[name] = run[name] if trust else plain_options(run[name], f"target.{name}", configs[name], beside)
    target: Target = build(configs, name, key=f"target.{name}")
    return target


def build(config: dict[str, Any], name: str, call: Any = None, key: str | None = None) -> Any:
    """Instantiate ``config[name]``; a mistake surfaces with the full key in front."""
    from hydra.utils import instantiate

    from src.contracts import InputError

    check_types(config[name], key or name)
    try:
        return call(**config[name]) if call is not None else instantiate(config[name], _convert_="all")
    except (ValueError, TypeError) as error:
        raise InputError(explain_constructor(str(error), key or name)) from error
    except Exception as error:
        from hydra.errors import InstantiationException

        if not isinstance(error, InstantiationException):
            raise
        raise InputError(explain_instantiation(error, key or name)) from error


def build_tracker(config: dict[str, Any]) -> Tracker:
    """The tracking store of a ``tracking`` config.

    Raises:
        InputError: The config builds no tracker.
    """
    from src.contracts import InputError, Tracker

    tracker = build({"tracking": config}, "tracking")
    if not isinstance(tracker, Tracker) and callable(tracker):  # a partial, as configs had it before
        tracker = tracker()
    if not isinstance(tracker, Tracker):
        raise InputError(f"tracking is a {type(tracker).__name__}, which is no src.contracts.Tracker")
    return tracker


def tracker_of(name: str, uri: str | None, **settings: Any) -> Tracker:
    """The tracking store that a record names by its file of ``conf/tracking`` and its address.

    Args:
        name: Name of the file.
        uri: Address of the store; None for the file's.
        settings: Other settings; those that the file does not have are left out.

    Raises:
        InputError: There is no such file.
    """
    from omegaconf import OmegaConf

    from src.contracts import InputError

    path = CONF / "tracking" / f"{name}.yaml"
    if not re.fullmatch(r"[\w-]+", name) or not path.is_file():
        raise InputError(f"there is no tracking '{name}' in conf/tracking")
    config: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    given = {key: value for key, value in settings.items() if key in config}
    return build_tracker({**config, **given, **({"uri": uri} if uri is not None else {})})
