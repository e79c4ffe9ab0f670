"""`di4c run`: runs the unmodified program of a host, with what it lacks on this machine."""

import argparse

HELP = "run a host's own program"
DESCRIPTION = (
    "Run a host's own program. Packages that cannot be installed here get "
    "stand-ins. Among the arguments of programs without Hydra, --sampler NAME, "
    "--student PATH and --sampler-option NAME=VALUE put one of our samplers in the place of "
    "the host's, and a student in the place of its network; what else the sampler takes is as "
    "the host's own flags say. For example: di4c run external/maskgit/main.py --test-only "
    "--resume ... --step 4 --cfg_w 3 --sampler di4c --student student.safetensors. "
    "Programs with Hydra take sampler=NAME instead."
)
EXAMPLE = "di4c run external/mdlm/main.py algo=di4c teacher=teacher.ckpt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `di4c_plugin.cli.main.Command`."""
    parser.add_argument("script", help="path of the program")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="…", help="the program's arguments"
    )


def run(args: argparse.Namespace) -> int:
    """Run the program; it ends the process itself if something fails."""
    from di4c_plugin.programs.launch import launch

    launch(args.script, args.arguments)
    return 0
