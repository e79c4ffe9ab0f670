from tests.stand_ins.fixtures import lab, launch, real_root, root, seeded

__all__ = ["lab", "launch", "real_root", "root", "seeded"]
