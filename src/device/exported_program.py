"""Exported programs of torch (``.pt2``), read only if all that they hold is data.

``torch.export.load`` by itself unpickles several members of the archive, and evaluates or compiles several texts of
``models/model.json``. So all members and all texts are compared with what ``torch.export.save`` writes for a network of
tensor operators; a file with anything else is not loaded.
"""

import os
import re
import zipfile
from pathlib import Path
from typing import Any, Dict, Optional

from .schema import read_json

TENSORS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # lets no torch.load unpickle, whatever its caller asks for
GRAPH = "models/model.json"
TENSORS = {"data/weights/model_weights_config.json": "weight_", "data/constants/model_constants_config.json": "tensor_"}
EMPTY = "data/sample_inputs/model.pt"  # the one member that is always unpickled if it holds anything
MEMBER = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|extra/\w+|archive_format|archive_version|byteorder"
    r"|\.data/(version|serialization_id)|\.format_version|\.storage_alignment"
)
ARITHMETIC = "add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|lshift|rshift|getitem"
# from_file maps any file of the machine; fbgemm and mkldnn operators take addresses of memory for tensors.
OPERATOR = re.compile(
    r"torch\.ops\.aten\.((?!__|from_file|_print|\w*fbgemm|\w*mkldnn)\w+|__(and|or|xor|lshift|rshift)__)\.(?!_)\w+"
    r"|torch\.ops\.quantized_decomposed\.(?!_)\w+\.(?!_)\w+"
    r"|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
    r"|_operator\.(" + ARITHMETIC + r")|torch\.sym_(not|int|float|ite|max|min|sqrt)|math\.trunc"
)
# A size as sympy's srepr writes it: Mul(Integer(2), Symbol('s34', positive=True, integer=True)).
SIZE = re.compile(
    r"(Symbol\('[a-z]\w*'(, [a-z_]+=(True|False))*\)"
    r"|(Add|Mul|Pow|Integer|Rational|Max|Min|FloorDiv|ModularIndexing|PythonMod|Mod|CleanDiv|CeilDiv|IntTrueDiv"
    r"|Equality|Unequality|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|And|Or|Not)(?=\()|[(), \d-])*"
)
IDENTIFIER = re.compile(r"\w*")
WORDS = re.compile(r"[\w.+@/-]*")
TEXT = re.compile(r"[\w .,;:<>+@/()\[\]-]*")
# The grammar of a text by the key that it stands under; under any other key it is of WORDS.
GRAMMARS = {
    "expr_str": SIZE,
    "name": IDENTIFIER,  # names become variables of the Python code that torch makes of the graph
    "as_name": IDENTIFIER,
    "forward_arg_names": IDENTIFIER,
    "as_string": TEXT,  # an option of an operator: rounding_mode="floor"
    "as_strings": TEXT,
    "nn_module_stack": TEXT,
    "source_fn_stack": TEXT,
    "torch_fn": TEXT,
}
REFUSED = ("guards_code", "as_operator", "as_custom_obj", "custom_obj_values", "custom_obj", "custom", "from_node")
CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")


class UnsafeProgramError(Exception):
    """The file holds more than a network of tensor operators; the message says what, in one line."""


def read_program(path: Path, extra_files: Optional[Dict[str, Any]] = None) -> Any:
    """Load an exported program after all of its members are checked.

    Args:
        path: The ``.pt2`` file.
        extra_files: Its values are replaced by the texts that the file holds under its keys, as by
            ``torch.export.load``.

    Raises:
        UnsafeProgramError: A member of the archive, or a text in it, is not one of a network's plain data.
        Exception: The file is damaged, or no exported program that this torch reads.
    """
    import torch
    import torch.ao.quantization.fx._decomposed  # defines the operators that INT8 programs hold

    check_program(path)
    before = os.environ.get(TENSORS_ONLY)
    os.environ[TENSORS_ONLY] = "1"
    try:
        return torch.export.load(str(path), extra_files=extra_files)
    finally:
        if before is None:
            del os.environ[TENSORS_ONLY]
        else:
            os.environ[TENSORS_ONLY] = before


def check_program(path: Path) -> None:
    """Raise UnsafeProgramError if the file holds more than a network of tensor operators."""
    import torch

    with zipfile.ZipFile(str(path)) as archive:
        _check_members(archive, path.stat().st_size)
        names = [_member(info.filename) for info in archive.infolist()]
    reader = torch._C.PyTorchFileReader(str(path))  # what torch itself will see, should the two read a zip differently
    if sorted(reader.get_all_records()) != sorted(names):
        raise UnsafeProgramError("two readers of zip archives find different members in it")
    if EMPTY in names and reader.get_record(EMPTY):
        raise UnsafeProgramError("it holds a pickle ({})".format(EMPTY))
    for config, prefix in TENSORS.items():
        _check_tensors(read_json(reader.get_record(config).decode()), config, prefix, path.stat().st_size)
    _check_texts(read_json(reader.get_record(GRAPH).decode()), "")


def _member(name: str) -> str:
    """Name of a member without the archive's own folder."""
    return name.partition("/")[2]


def _check_members(archive: zipfile.ZipFile, size_bytes: int) -> None:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if len({name.lower() for name in names}) != len(names) or len({name.partition("/")[0] for name in names}) != 1:
        raise UnsafeProgramError("two of its members have one name")
    for info in infos:
        if not MEMBER.fullmatch(_member(info.filename)):
            raise UnsafeProgramError("it has a member that no network needs ({})".format(_plain(info.filename)))
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise UnsafeProgramError("its member {} is compressed or encrypted".format(_plain(info.filename)))
    if sum(info.file_size for info in infos) > size_bytes:
        raise UnsafeProgramError("its members claim more bytes than the file has")


def _check_tensors(content: Any, config: str, prefix: str, size_bytes: int) -> None:
    """Check the description of the stored tensors: each is made of plain bytes, and is no larger than the file."""
    for name, about in content["config"].items():
        if about.get("use_pickle"):
            raise UnsafeProgramError("it holds a pickle ({} in {})".format(_plain(name), config))
        if not re.fullmatch(re.escape(prefix) + r"\d+", about["path_name"]):
            raise UnsafeProgramError("{} of {} is no tensor".format(_plain(name), config))
        elements = 1
        for size in about["tensor_meta"]["sizes"]:
            elements *= size["as_int"]
        if elements > size_bytes:
            raise UnsafeProgramError("{} claims more values than the file has bytes".format(_plain(name)))
    _check_texts(content, "")


def _check_texts(value: Any, key: str) -> None:
    """Check every key and text of decoded JSON by the grammar of its place."""
    if isinstance(value, dict):
        for name, held in value.items():
            if name in REFUSED and held:
                raise UnsafeProgramError("its graph holds {}, which can name code".format(name))
            _check_text(name, WORDS, key)
            _check_texts(held, name)
    elif isinstance(value, list):
        for held in value:
            _check_texts(held, key)
    elif isinstance(value, str) and key in ("in_spec", "out_spec"):
        _check_structure(read_json(value)[1])
    elif isinstance(value, str):
        _check_text(value, GRAMMARS.get(key, WORDS), key)


def _check_text(text: str, grammar: Any, key: str) -> None:
    if not (is_operator_of_tensors(text) if key == "target" else grammar.fullmatch(text)):
        what = "calls {}" if key == "target" else "holds the text {}"
        raise UnsafeProgramError("its graph {}, which no network needs".format(what.format(_plain(text))))


def is_operator_of_tensors(target: str) -> bool:
    """Whether the target of a graph's node computes tensors or sizes, and does nothing else."""
    import torch

    if not OPERATOR.fullmatch(target):
        return False
    if not target.startswith("torch.ops.aten."):
        return True
    _, _, _, name, overload = target.split(".")
    return bool(torch._C._dispatch_has_kernel("aten::" + name + ("" if overload == "default" else "." + overload)))


def _check_structure(spec: Any) -> None:
    """Check how the network's arguments are nested: in tuples, lists and dicts only."""
    context = spec["context"]
    keys = read_json(context) if isinstance(context, str) else context
    plain = keys is None or (isinstance(keys, list) and all(isinstance(each, str) for each in keys))
    if spec["type"] not in CONTAINERS or not plain:
        raise UnsafeProgramError("its arguments hold a {}".format(_plain(str(spec["type"]))))
    for child in spec["children_spec"]:
        _check_structure(child)


def _plain(text: str) -> str:
    """A text from the file as a message may show it: short, and with no control characters."""
    return repr(text[:60] + ("…" if len(text) > 60 else ""))
