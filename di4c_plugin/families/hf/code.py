"""Code of others: modules in a folder, or of a hub id, that the user named and trusts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from di4c_plugin.announce import announce_once
from di4c_plugin.errors import STRANGE, UserError, quoted, reason
from di4c_plugin.families.hf.mends import mend


def class_of(class_path: str, code: str | Path) -> Any:
    """Return a class by its entry in an `auto_map`, and announce whose code runs.

    Args:
        class_path: `module.Class`; of `repository--module.Class` the repository is not asked.
        code: the folder or hub id, optionally with @revision, that the user trusts.

    Raises:
        UserError: where there is no such module, or it does not load.
    """
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    mend()
    named, _, class_path = class_path.rpartition("--")
    name, revision = split(str(code))
    announce_once(f"runs code of {code}: {class_path.rpartition('.')[0]}.py")
    try:
        return get_class_from_dynamic_module(class_path, name, revision=revision)
    except (ImportError, OSError, *STRANGE) as error:
        hint = f", and the file says that it is of {quoted(named)}" if named else ""
        raise UserError(
            f"the code of {class_path} in {code} does not load{hint}: {reason(error)}"
        ) from error


def split(source: str) -> tuple[str, str | None]:
    """Return folder or hub id, and the revision of a hub id, of what a user or a `Place` names."""
    if (path := Path(source).expanduser()).exists():
        return str(path.parent if path.is_file() else path), None
    name, _, revision = source.partition(" ")[0].partition("@")
    return name, revision or None


def open_tokenizer(source: str, *, trust: bool) -> Any:
    """Return the tokenizer in a folder or of a hub id.

    Args:
        source: as `split` takes it.
        trust: whether the user trusts its code, where it has some; without, it is read as data.

    Raises:
        UserError: if there is none, or transformers cannot make it without its code.
    """
    from transformers import AutoTokenizer
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    name, revision = split(source)
    try:
        class_path = _tokenizer_class(get_tokenizer_config(name, revision=revision))
        if trust and class_path is not None:
            return class_of(class_path, source).from_pretrained(name, revision=revision)
        options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
        return AutoTokenizer.from_pretrained(name, **options)
    except (ImportError, OSError, *STRANGE) as error:
        raise UserError(f"there is no tokenizer in {source}: {reason(error)}") from error


def _tokenizer_class(config: Any) -> str | None:
    """Return the class that a tokenizer_config.json says is its own, of two the fast one."""
    entry = config.get("auto_map")
    entry = entry.get("AutoTokenizer") if isinstance(entry, Mapping) else entry
    entries = entry if isinstance(entry, list | tuple) else [entry]
    return next((each for each in reversed(entries) if isinstance(each, str)), None)
