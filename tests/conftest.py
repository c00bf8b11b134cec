"""Which layer each test belongs to, by where it stands."""

from pathlib import Path

import pytest

FOLDERS = {"contract": "cluster", "on_cluster": "cluster", "e2e": "e2e"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        layer = FOLDERS.get(item.path.relative_to(here).parts[0])
        if layer is not None:
            item.add_marker(layer)
        elif "real" in getattr(getattr(item, "callspec", None), "params", {}).values():
            # The contract suite runs each test on the in-memory cluster and on the real one.
            item.add_marker("cluster")
