"""Methods that are switches of D-MMD.

idlm  IDLM of masked diffusion (2026): z_s is masked afresh at a time of its own, the auxiliary
      learns p itself and not the teacher, with the weights of the likelihood bound
dimo  Di[M]O (Zhu et al. 2025, arXiv 2503.15457): one step from t = 1; the gradient of a
      divergence of auxiliary and teacher is carried to the student's logits
"""

from functools import partial

from di4c_plugin.algorithms.dmmd import DMMD

# The masked branch of IDLM; the authors use lr 1e-6 for both networks and batches of 512.
IDLM = partial(
    DMMD,
    steps=None,
    times="independent",
    renoise="forward",
    target="soft",
    teacher_weight=0.0,
    weight="elbo",
    input_noise=False,
    auxiliary_first=True,
    betas=(0.9, 0.999),
)
# Di[M]O as released (github.com/yuanzhi-zhu/DiMO), but from masks only: the authors start with a
# share of random tokens, and use label smoothing .1 and guidance 2.
DIMO = partial(
    DMMD,
    steps=1,
    times="grid",
    renoise="forward",
    teacher_weight=0.0,
    jeffreys=0.0,
    betas=(0.9, 0.999),
)
