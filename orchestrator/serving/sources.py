"""Which source files a task needs elsewhere, and which packages: read from its imports, nothing is run.

What a module imports by a name that it computes is not seen, and neither are files that it opens.
"""

import ast
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import import_module
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

import orchestrator

_PACKAGE = "orchestrator"
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def sources_of(modules: Iterable[str]) -> tuple[dict[str, Path], list[str]]:
    """The source files that ``modules`` need, by the path that they have below an import folder, and the installed
    packages that these import, each as ``name==version``.

    Those are the user's own modules and this package's, as far as they are imported from each other; what is
    installed from elsewhere is named as a package.
    """
    files: dict[str, Path] = {}
    packages: set[str] = set()
    waiting, seen = list(modules), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if "." in name:
            # Looking for a module imports what is above it, which for installed packages may take seconds.
            if _is_installed(name.partition(".")[0]):
                waiting.append(name.partition(".")[0])
                continue
            waiting.append(name.rpartition(".")[0])
        origin = _origin(name)
        if origin is None or name in sys.stdlib_module_names:
            continue
        if not _is_source(name, origin):
            packages.add(name.partition(".")[0])
            continue
        is_package = origin.name == "__init__.py"
        files[_place(name, is_package)] = origin
        waiting += _imports(origin.read_text(encoding="utf-8"), name, is_package)
    return files, _pinned(packages)


def copy_sources(files: dict[str, Path], folder: Path) -> None:
    """Copy ``files`` below ``folder``."""
    for place, source in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / place)


def modules_of(target: str) -> list[str]:
    """The modules along the import path ``target`` of a class: ``a.b.C`` gives a and a.b."""
    parts = target.replace(":", ".").split(".")
    found = []
    for end in range(1, len(parts)):
        try:
            import_module(name := ".".join(parts[:end]))
        except ImportError:
            break
        found.append(name)
    return found


def _origin(name: str) -> Path | None:
    """The file of a module; None where it has none (namespace packages, built-in modules), or is not there."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None


def _is_installed(top: str) -> bool:
    origin = _origin(top)
    return top in sys.stdlib_module_names or (origin is not None and not _is_source(top, origin))


def _is_source(name: str, origin: Path) -> bool:
    own = name == _PACKAGE or name.startswith(f"{_PACKAGE}.")
    return origin.suffix == ".py" and (own or not str(origin).startswith(_LIBRARIES))


def _place(name: str, is_package: bool) -> str:
    return name.replace(".", "/") + ("/__init__.py" if is_package else ".py")


def _imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Every module that ``source`` may import, submodules taken for names included."""
    for node in _statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".") if is_package else module.split(".")[:-1]
                above = parents[: len(parents) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield base
            if base == _PACKAGE:
                homes = (orchestrator._HOMES.get(alias.name) for alias in node.names)
                yield from (f"{_PACKAGE}.{home}" for home in homes if home)
            if _is_ours(base):
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _is_ours(name: str) -> bool:
    """Whether a name taken from ``name`` may be a module to copy: not where it is installed."""
    if _is_installed(name.partition(".")[0]):
        return False
    origin = _origin(name)
    return origin is None or _is_source(name, origin)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes, without what only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _statements(node)


@lru_cache(maxsize=1)
def _distributions() -> dict[str, list[str]]:
    return dict(packages_distributions())


def _pinned(packages: Iterable[str]) -> list[str]:
    found = set()
    for package in packages:
        known = sorted(set(_distributions().get(package, [])))
        for name in [package] if package in known else known:
            # A local version (2.6.0+cpu) cannot be asked of an index.
            found.add(f"{name}=={version(name).partition('+')[0]}")
    return sorted(found)
