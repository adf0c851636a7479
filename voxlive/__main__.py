"""``python -m voxlive``."""

from voxlive.cli.main import app

if __name__ == "__main__":
    app()
