import pytest


@pytest.fixture(scope="session", autouse=True)
def _browsers(browsers: None) -> None:
    """Tests of pages run on one event loop and share browsers."""
