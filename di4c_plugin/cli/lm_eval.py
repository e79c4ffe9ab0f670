"""`di4c lm-eval`: the program of lm-eval, with teachers and students as its model "di4c"."""

import argparse

HELP = "run lm-eval with a teacher or student as its model"
DESCRIPTION = (
    "Run EleutherAI's lm-eval, which then has the model di4c. Further "
    "model_args: masks, latents, sampler, steps, seed, host, "
    "and options of the sampler."
)
EXAMPLE = (
    "di4c lm-eval run --model di4c "
    "--model_args pretrained=student.safetensors,tokenizer=gpt2 --tasks lambada_openai"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `di4c_plugin.cli.main.Command`."""
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="…", help="the arguments of lm-eval"
    )


def run(args: argparse.Namespace) -> int:
    """Run the program; it ends the process itself if something fails."""
    import sys
    from importlib import import_module

    import di4c_plugin.lm_eval  # noqa: F401 (it registers the model)

    sys.argv = ["lm-eval", *args.arguments]
    import_module("lm_eval.__main__").cli_evaluate()
    return 0
