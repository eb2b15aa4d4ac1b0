from tests.cli.conftest import cache, made, refused, run, trained

__all__ = ["cache", "made", "refused", "run", "trained"]
