from tests.stand_ins.fixtures import real_root, root, seeded

__all__ = ["real_root", "root", "seeded"]
