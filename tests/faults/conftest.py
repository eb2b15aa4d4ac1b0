from tests.cli.conftest import cache, refused, run

__all__ = ["cache", "refused", "run"]
