"""`python -m flows.cli` is `hullward`."""

from flows.cli.main import app

if __name__ == "__main__":
    app()
