"""Files of weights packed and unpacked; the format is told by a file's ending."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from src.coding import container, safetensors_file
from src.coding.errors import DnncError
from src.device.packed import Packed, Tensor
from src.device.packed_streams import DTYPES, PackedError
from src.files.writing import replacing, write_bytes

TORCH = (".pt", ".pth")
TORCH_NAMES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E5M2": "float8_e5m2"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz"},
    **{"F8_E5M2FNUZ": "float8_e5m2fnuz", "C64": "complex64", "I64": "int64", "I32": "int32", "I16": "int16"},
    **{"I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool"},
}


def pack_file(file: Path, to: Path, profile: str, exact: str) -> str:
    """Pack a ``.safetensors``, ``.pt``, ``.pth`` or ``.onnx`` file; return a line that says what it takes.

    Raises:
        DnncError: The file cannot be read or packed.
    """
    if not file.is_file():
        raise DnncError(f"There is no file {file}")
    card = graph = b""
    if file.suffix == ".safetensors":
        tensors = safetensors_file.read_safetensors(file)
    elif file.suffix in TORCH:
        tensors = _from_torch(file)
    elif file.suffix == ".onnx":
        from src.coding.graph import from_onnx

        tensors, graph, card = from_onnx(file)
    else:
        raise DnncError(f"{file}: '{file.suffix}' files cannot be packed; .safetensors, .pt, .pth and .onnx can")
    content = container.pack(tensors, profile, card=card, graph=graph, exact=exact)
    write_bytes(to, content)
    before = file.stat().st_size
    return f"{file.name}: {before:,} bytes; {to.name}: {len(content):,} bytes, {before / len(content):.1f}x smaller"


def unpack_file(file: Path, to: Path) -> str:
    """Unpack a file to ``.safetensors``, ``.pt``, ``.pth`` or ``.onnx``; return a line that says what was written.

    Raises:
        DnncError: The file cannot be read, or has no graph for an ``.onnx`` file.
    """
    packed = _read(file)
    if to.suffix == ".safetensors":
        safetensors_file.write_safetensors(packed.tensors, to)
    elif to.suffix in TORCH:
        _to_torch(packed.tensors, to)
    elif to.suffix == ".onnx":
        from src.device.packed_graph import onnx_bytes

        try:
            write_bytes(to, onnx_bytes(packed))
        except PackedError as error:
            raise DnncError(f"{file}: {error}") from error
    else:
        raise DnncError(f"{to}: '{to.suffix}' files cannot be written; .safetensors, .pt, .pth and .onnx can")
    return f"{to}: {len(packed.tensors)} tensors"


def statistics(file: Path) -> str:
    """A table of what each tensor of a packed file takes."""
    from src.coding.stat import table

    return table(_read(file), file.stat().st_size)


def _read(file: Path) -> Packed:
    if not file.is_file():
        raise DnncError(f"There is no file {file}")
    return container.read(file)


def _from_torch(file: Path) -> dict[str, Tensor]:
    import torch

    from src.models.weights import read_weights

    names = {getattr(torch, name): dtype for dtype, name in TORCH_NAMES.items()}
    tensors = {}
    for name, value in read_weights(file).items():
        if value.dtype not in names or value.layout is not torch.strided or value.is_quantized:
            raise DnncError(f"{file}: '{name}' is of {value.dtype}, which cannot be packed")
        dtype = names[value.dtype]
        flat = value.detach().cpu().contiguous().reshape(-1)
        bits = (
            flat.view(torch.uint8).numpy().view(f"<u{DTYPES[dtype]}")
            if flat.numel()
            else flat.view(torch.uint8).numpy()
        )
        tensors[name] = Tensor(dtype, tuple(value.shape), bits.view(f"<u{DTYPES[dtype]}"))
    return tensors


def _to_torch(tensors: Mapping[str, Tensor], to: Path) -> None:
    import torch

    state = {}
    for name, tensor in tensors.items():
        raw = torch.from_numpy(tensor.bits.copy().view("u1"))
        state[name] = raw.view(getattr(torch, TORCH_NAMES[tensor.dtype])).reshape(tensor.shape)
    with replacing(to) as part:
        torch.save(state, part)
