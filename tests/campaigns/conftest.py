from tests.stand_ins.fixtures import lab

__all__ = ["lab"]
