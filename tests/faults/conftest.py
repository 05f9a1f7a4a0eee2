from tests.system.conftest import cluster

__all__ = ["cluster"]
