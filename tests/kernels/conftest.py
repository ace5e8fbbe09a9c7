import shutil

import pytest


@pytest.fixture(params=["c", "torch"])
def kernel(request, monkeypatch):
    """Both implementations of the row statistics."""
    if request.param == "c":
        _need_compiler()
    monkeypatch.setenv("NLL_ROW_KERNEL", request.param)
    return request.param


@pytest.fixture
def compiled(monkeypatch):
    """The compiled implementation, or an error."""
    _need_compiler()
    monkeypatch.setenv("NLL_ROW_KERNEL", "c")


def _need_compiler():
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler")
