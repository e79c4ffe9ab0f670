"""Options of text metrics from the command line or a host's config, as `TextOptions`."""

from functools import partial

from di4c_plugin.evaluation.scorer import Scorer
from di4c_plugin.evaluation.text_metric import TextOptions
from di4c_plugin.values import Count


def text_options(
    *,
    scorer: str | None = None,
    scorer_dtype: str = "float32",
    scorer_batch: Count = 8,
    after_end: str = "hosts",
    ngram_order: Count = 5,
    mauve_model: str | None = None,
    mauve_buckets: int | None = None,
    device: str = "cpu",
) -> TextOptions:
    """Return the options, their language models loaded.

    Args:
        scorer: a causal language model, a folder or hub id; None: there is none.
        scorer_dtype: of its computations.
        scorer_batch: texts scored at once.
        after_end: which tokens count after the first end of text, see `GenPPL`.
        ngram_order: of `bits`.
        mauve_model: the model whose features MAUVE compares; None: the scorer.
        mauve_buckets: None: a tenth of the samples.
        device: of the models.

    Raises:
        UserError: as `Scorer`.
    """
    load = partial(Scorer, device=device, dtype=scorer_dtype, batch_size=scorer_batch)
    return TextOptions(
        None if scorer is None else load(scorer),
        None if mauve_model is None else load(mauve_model),
        after_end,
        ngram_order,
        mauve_buckets,
    )
