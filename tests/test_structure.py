"""The rules of docs/architecture.md, held by reading the code's own imports and docstrings."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "caches": "",
    "closing": "",
    "errors": "",
    "urls": "",
    "sharing": "urls",
    "version": "",
    "files": "",
    "parsing": "",
    "guard": "urls",
    "locks": "files",
    "progress": "",
    "resolution": "",
    "formats": "",
    "resize": "wsisr_kernels",
    "plan": "resolution",
    "slides": "formats resize resolution files parsing",
    "models": "resize files parsing guard wsisr_kernels",
    "pyramid": "plan formats resize files urls parsing guard locks",
    "tissue": "slides resize parsing files guard",
    "transcode": "pyramid slides formats resolution progress files sharing guard",
    "engine": "models pyramid slides tissue plan resize resolution progress files "
    "urls sharing guard wsisr_kernels",
    "evaluation": "slides tissue pyramid models.files resize resolution files formats "
    "urls caches parsing sharing guard",
    "scaleout": "engine evaluation models pyramid slides plan progress files urls "
    "caches parsing sharing guard locks",
    "viewer": "scaleout evaluation engine pyramid slides tissue plan files",
}
"""Room of wsisr -> the rooms it may import, beside those that are open to all."""
OPEN_TO_ALL = ("closing", "errors", "version")
OPEN_ROOMS = {"cli", "api", "api_cohort", "api_remote", "doctor", "__init__", "__main__"}
"""These may import everything."""
OPTIONAL = {
    "spandrel",
    "torchvision",
    "transformers",
    "instanseg",
    "triton",
    "torch_xla",
    "aiohttp",
    "distributed",
}
"""Imported only where an extra, or the user's own installation, brings them."""
PACKAGES = ("wsisr", "train", "bench", "kernels/wsisr_kernels")


@cache
def module_files() -> dict[str, Path]:
    """Gives the file of each module of the project by its dotted name."""
    found = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT / package).with_suffix("").parts
            name = ".".join((Path(package).name, *(p for p in parts if p != "__init__")))
            found[name] = file
    return found


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(file: Path, *, at_load: bool = False) -> Iterator[tuple[str, int]]:
    """Yields each imported module, or module.name, with its line.

    Args:
        file: the module's file.
        at_load: only what runs when the module is loaded.
    """
    stack: list[ast.AST] = list(tree_of(file).body)
    while stack:
        node = stack.pop()
        if is_type_checking(node):
            continue
        if at_load and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            modules = module_files()
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                yield (longer if longer in modules else node.module), node.lineno
        else:
            stack.extend(ast.iter_child_nodes(node))


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] != "wsisr" else parts[1] if len(parts) > 1 else "__init__"


def is_allowed(room: str, target: str) -> bool:
    if room in OPEN_ROOMS or room_of(target) in (room, *OPEN_TO_ALL):
        return True
    return any(
        target == f"wsisr.{allowed}" or target.startswith(f"wsisr.{allowed}.") or target == allowed
        for allowed in MAY_IMPORT[room].split()
    )


def test_imports_point_down() -> None:
    wrong = []
    for module, file in module_files().items():
        if not module.startswith("wsisr") or module.startswith("wsisr_kernels"):
            continue
        for target, line in imports_of(file):
            if target.split(".")[0] not in ("wsisr", "wsisr_kernels", "train", "bench", "tests"):
                continue
            if not is_allowed(room_of(module), target):
                wrong.append(f"{file.relative_to(ROOT)}:{line} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_only_the_face_of_a_folder_is_imported_from_outside() -> None:
    modules = module_files()
    folders = {name for name, file in modules.items() if file.name == "__init__.py"}
    wrong = []
    for module, file in modules.items():
        own = module if module in folders else module.rpartition(".")[0]
        for target, line in imports_of(file):
            folder = target.rpartition(".")[0]
            if target not in modules or target in folders or "." not in folder:
                continue
            if folder.startswith("wsisr_kernels") and own.startswith("wsisr_kernels"):
                continue
            if own != folder and not own.startswith(f"{folder}."):
                wrong.append(f"{file.relative_to(ROOT)}:{line} imports {target}, not from {folder}")
    assert not wrong, "\n".join(wrong)


def test_no_import_cycles() -> None:
    modules = module_files()
    graph = {
        name: {t for t, _ in imports_of(file, at_load=True) if t in modules and t != name}
        for name, file in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in graph[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_every_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def names(requirements: list[str]) -> set[str]:
        found = (re.match(r"[\w.-]+", each) for each in requirements)
        return {m[0].lower().replace("_", "-") for m in found if m}

    core = names(project["dependencies"])
    declared = {"wsisr": core, "wsisr_kernels": core}
    declared["bench"] = core | names(extras["test"]) | names(extras["train"])
    declared["train"] = core | names(extras["train"])
    distributions = packages_distributions()
    missing = set()
    for module, file in module_files().items():
        top = module.split(".")[0]
        for target, _ in imports_of(file):
            package = target.split(".")[0]
            if package in sys.stdlib_module_names or package in OPTIONAL:
                continue
            if package in ("wsisr", "wsisr_kernels", "train", "bench"):
                continue
            found = {d.lower().replace("_", "-") for d in distributions.get(package, ())}
            if not found & declared[top]:
                missing.add(f"{package} ({top})")
    assert not missing, sorted(missing)


def docstrings() -> Iterator[tuple[str, str, set[str]]]:
    """Yields place, text and the names of arguments or fields of every docstring."""
    for file in module_files().values():
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                names = {argument.arg for argument in every}
            elif isinstance(node, ast.ClassDef):
                fields = (n.target for n in node.body if isinstance(n, ast.AnnAssign))
                names = {field.id for field in fields if isinstance(field, ast.Name)}
            else:
                continue
            text = ast.get_docstring(node)
            if text:
                yield f"{file.relative_to(ROOT)}:{node.lineno} {node.name}", text, names


SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Memory|Example|Note|References):$")


@pytest.mark.parametrize("kind", ["arguments", "errors"])
def test_docstrings_have_one_dialect(kind: str) -> None:
    """Arguments and errors stand in Google's sections and nowhere else."""
    wrong = []
    for place, text, names in docstrings():
        lines = re.split(r"^(?:Args|Attributes|Returns|Yields|Raises):$", text, flags=re.M)[0]
        if kind == "errors":
            if re.search(r"(?:^|[.;:(]\s+)Raises?\s+`?[A-Z]\w+", lines):
                wrong.append(place)
            continue
        for listed in re.findall(r"(?:^|[.]\s+)((?:\w+, )*\w+): ", lines, flags=re.M):
            if set(listed.split(", ")) <= names:
                wrong.append(f"{place}: {listed}")
    assert not wrong, "\n".join(wrong)


def test_no_file_is_longer_than_400_lines() -> None:
    long = {
        str(file.relative_to(ROOT)): count
        for file in module_files().values()
        if (count := len(file.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long, long


def test_no_function_of_the_engine_is_longer_than_50_lines() -> None:
    long = []
    for name, file in module_files().items():
        if not name.startswith("wsisr.engine"):
            continue
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 50:
                long.append(f"{name}.{node.name}: {node.end_lineno - node.lineno + 1}")
    assert not long, "\n".join(long)
