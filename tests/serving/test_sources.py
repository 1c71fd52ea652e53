"""Which files and packages a task needs elsewhere."""

import sys
from pathlib import Path

import numpy as np
import pytest

from orchestrator.serving.sources import copy_sources, modules_of, sources_of

FILES = {
    "shop/__init__.py": "",
    "shop/task.py": """
from typing import TYPE_CHECKING
import json
import numpy.linalg
from orchestrator import ClassificationTask
from . import layers
from .parts.head import Head
if TYPE_CHECKING:
    from shop import only_types
def later():
    from shop import inside
""",
    "shop/layers.py": "import shop_tools\n",
    "shop/parts/head.py": "from ..sizes import SIZE\nclass Head: ...\n",
    "shop/sizes.py": "SIZE = 1\n",
    "shop/inside.py": "",
    "shop/only_types.py": "",
    "shop/unused.py": "",
    "shop_tools.py": "try:\n    import not_installed\nexcept ImportError:\n    pass\n",
}


@pytest.fixture
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path / "user"), *sys.path])
    for place, text in FILES.items():
        path = tmp_path / "user" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.usefixtures("_shop")
def test_what_is_imported_from_each_other_is_found_and_the_rest_is_left() -> None:
    files, packages = sources_of(["shop.task"])
    own = {place for place in files if place.startswith("shop")}
    assert own == FILES.keys() - {"shop/only_types.py", "shop/unused.py"}
    ours = {place for place in files if not place.startswith("shop")}
    assert {"orchestrator/__init__.py", "orchestrator/tasks/base.py", "orchestrator/types.py"} <= ours
    # The search itself is not needed to predict.
    assert not {place for place in ours if "study" in place or "stages" in place or "config" in place}
    assert f"numpy=={np.__version__}" in packages
    assert {line.partition("==")[0] for line in packages} == {"numpy", "torch"}
    assert all("+" not in line for line in packages)


@pytest.mark.usefixtures("_shop")
def test_copies_lie_where_an_import_finds_them(tmp_path: Path) -> None:
    files, _ = sources_of(["shop.task"])
    copy_sources(files, tmp_path / "copy")
    assert (tmp_path / "copy/shop/parts/head.py").read_text() == FILES["shop/parts/head.py"]


@pytest.mark.usefixtures("_shop")
def test_the_modules_along_an_import_path() -> None:
    assert modules_of("shop.parts.head.Head") == ["shop", "shop.parts", "shop.parts.head"]
    assert modules_of("shop.parts.head:Head") == ["shop", "shop.parts", "shop.parts.head"]
