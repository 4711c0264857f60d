"""Writes what the site is built from into ``build/docs``: the pages of ``docs/``, and those of the code."""

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BUILT = ROOT / "build" / "docs"
TOP = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")  # pages that lie beside README.md


def main() -> int:
    """Write every page; return the exit code."""
    shutil.rmtree(BUILT, ignore_errors=True)
    shutil.copytree(DOCS, BUILT, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    shutil.copytree(ROOT / "examples", BUILT / "examples")
    for name in TOP:
        _write(name, _of_top((ROOT / name).read_text(encoding="utf-8")))
    _write("index.md", _of_top((ROOT / "README.md").read_text(encoding="utf-8")))
    for page in BUILT.glob("**/*.md"):  # links to what lies beside docs/
        text = page.read_text(encoding="utf-8")
        page.write_text(re.sub(r"\]\(((?:\.\./)+)(?=(?:README|[A-Z]+)\.md)", _inside, text), encoding="utf-8")
    for name, text in pages():
        _write(name, text)
    return 0


def _inside(link: re.Match[str]) -> str:
    """``../SECURITY.md`` of a page in docs/ is ``SECURITY.md`` of the site."""
    return "](" + link[1].removeprefix("../")


def _of_top(text: str) -> str:
    """A page that lies beside README.md, with its links as from inside ``docs/``."""
    return text.replace("](docs/", "](").replace("](LICENSE)", "](https://www.apache.org/licenses/LICENSE-2.0)")


def _write(name: str, text: str) -> None:
    path = BUILT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def pages() -> Iterator[tuple[str, str]]:
    """The pages of the reference by name: one for each room, the Python interface, all config keys."""
    rooms = sorted(path.parent for path in (ROOT / "src").glob("*/__init__.py"))
    yield "reference/config.md", config_page()
    yield "reference/api.md", room_page("src.api", [ROOT / "src" / "command" / name for name in INTERFACE])
    lines = ["# The rooms", "", "Each page has the public classes and functions of a room, from its source.", ""]
    for room in rooms:
        modules = sorted(room.rglob("*.py"))
        yield f"reference/{room.name}.md", room_page(f"src.{room.name}", modules)
        lines.append(f"- [{room.name}]({room.name}.md): {_docstring(room / '__init__.py').splitlines()[0]}")
    yield "reference/rooms.md", "\n".join(lines) + "\n"


INTERFACE = ("calling.py", "named.py")


def room_page(title: str, modules: list[Path]) -> str:
    """The public names of modules: signatures and docstrings, read without an import."""
    lines = [f"# {title}", ""]
    for module in modules:
        tree = ast.parse(module.read_text(encoding="utf-8"))
        named = ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        public = [node for node in tree.body if isinstance(node, PUBLIC) and not node.name.startswith("_")]
        if public or module.name == "__init__.py":
            lines += [f"## {named}", "", ast.get_docstring(tree) or "", ""]
        for node in public:
            lines += [*_entry(node, 3)]
    return "\n".join(lines) + "\n"


PUBLIC = (ast.ClassDef, ast.FunctionDef)


def _entry(node: ast.ClassDef | ast.FunctionDef, level: int) -> Iterator[str]:
    """A class with its methods, or a function."""
    yield from [f"{'#' * level} {node.name}", "", "```python", _signature(node), "```", ""]
    docstring = ast.get_docstring(node)
    if docstring:
        yield from ["```text", docstring.replace("```", "'''"), "```", ""]
    for inner in node.body if isinstance(node, ast.ClassDef) else []:
        if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_") and ast.get_docstring(inner):
            yield from _entry(inner, level + 1)


def _signature(node: ast.ClassDef | ast.FunctionDef) -> str:
    if isinstance(node, ast.ClassDef):
        fields = [f"    {ast.unparse(each)}" for each in node.body if isinstance(each, ast.AnnAssign)]
        made = next((each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None)
        bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
        return "\n".join([f"class {node.name}{bases}:", *fields, *([f"    {_signature(made)}"] if made else [])])
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {node.name}({ast.unparse(node.args)}){returns}"


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def config_page() -> str:
    """Every key of every file of ``conf/`` with its type, as the constructor says it, and its value."""
    import yaml

    lines = [
        "# Configuration",
        "",
        "Every file of `conf/`: its keys, their types as the constructors declare them, and",
    ]
    lines += ["what they are if nothing is given. `group=file` chooses a file, `group.key=value` sets a key.", ""]
    folders = [ROOT / "conf", *sorted(path for path in (ROOT / "conf").iterdir() if path.is_dir())]
    for folder in folders:
        lines += [f"## {folder.name if folder != ROOT / 'conf' else 'The top'}", ""]
        for path in sorted(folder.glob("*.yaml")):
            text = path.read_text(encoding="utf-8")
            said = [line[2:] for line in text.splitlines() if line.startswith("# ") and "@package" not in line]
            lines += [f"### {path.stem}", "", said[0] if said else "", ""]
            rows = list(_keys(yaml.safe_load(text) or {}, ""))
            lines += [*(["| key | type | default |", "|---|---|---|", *rows, ""] if rows else [])]
    return "\n".join(lines) + "\n"


def _keys(config: dict[str, Any], above: str) -> Iterator[str]:
    from src.command.signatures import signature_of

    target = config.get("_target_")
    signature = signature_of(target) if isinstance(target, str) else None
    if isinstance(config.get("defaults"), list) and not above:
        yield f"| `defaults` | | {_cell(', '.join(map(str, config['defaults'])))} |"
    for key, value in config.items():
        if key in ("defaults", "hydra"):
            continue
        kind = signature.hints.get(key, "") if signature is not None else ""
        if isinstance(value, dict) and value:
            yield f"| `{above}{key}` | {_cell(kind)} | |"
            yield from _keys(value, f"{above}{key}.")
        else:
            yield f"| `{above}{key}` | {_cell(kind)} | {_cell('null' if value is None else str(value))} |"


def _cell(text: str) -> str:
    escaped = text.replace("|", "\\|")
    return f"`{escaped}`" if escaped else ""


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
