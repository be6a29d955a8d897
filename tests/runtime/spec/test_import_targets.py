"""Both readings of a service's path."""

from __future__ import annotations

import pytest

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.spec import ImportTarget, candidate_imports


@pytest.mark.parametrize(
    ("path", "source_name", "expected"),
    [
        # as 0.8.1 reads it, then as its documentation writes it
        ("src/workflow:w", "src", [("workflow", "src"), ("workflow", "src/src")]),
        ("workflow:w", "src", [("workflow", "."), ("workflow", "src")]),
        ("src:w", "src", [("src", "."), ("src", "src")]),
        ("a/b/flow:w", "./src", [("flow", "a/b"), ("flow", "src/a/b")]),
        # the source is the folder itself
        ("workflow:w", None, [("workflow", ".")]),
        ("pkg/workflow:w", ".", [("workflow", "pkg")]),
        # a dotted module
        ("src/pkg.flow:w", None, [("pkg.flow", "src")]),
    ],
)
def test_places_in_order(path, source_name, expected):
    found = candidate_imports(path, source_name)
    assert found == [ImportTarget(module, "w", entry) for module, entry in expected]


def test_the_files_of_a_target():
    assert ImportTarget("pkg.flow", "w", "src").files == (
        "src/pkg/flow.py",
        "src/pkg/flow/__init__.py",
    )
    assert ImportTarget("flow", "w", ".").files == ("flow.py", "flow/__init__.py")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("workflow", "path: got 'workflow'; write 'dir/module:attribute'"),
        ("workflow:", "path: got 'workflow:'; write 'dir/module:attribute'"),
        (":w", "path: got ':w'; write 'dir/module:attribute'"),
        (
            "../other/flow:w",
            "path: '../other/flow:w' leads outside of the source; write it relative to the source",
        ),
        (
            "/etc/flow:w",
            "path: '/etc/flow:w' leads outside of the source; write it relative to the source",
        ),
    ],
)
def test_what_is_no_path(path, message):
    with pytest.raises(ConfigurationError) as caught:
        candidate_imports(path, "src")
    assert str(caught.value) == message
