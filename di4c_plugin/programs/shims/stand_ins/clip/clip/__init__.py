"""Stand-in for OpenAI's CLIP: MaskGIT's evaluation imports it, and uses it only for captions."""

from di4c_plugin.programs.shims.refuse import refuses

__version__ = "0.0"

tokenize = refuses("clip", "clip.tokenize", "git+https://github.com/openai/CLIP.git")
