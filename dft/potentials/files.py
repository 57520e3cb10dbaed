"""The three files of a matgl potential, read so that nothing they name is imported or run.

matgl's own loader imports the module that model.json and each argument in model.pt name, and calls what it finds
there with arguments of the file's choice: a folder from elsewhere would be a program. Here a folder is data. Each file
is read once; what its pickle and its dictionaries name is compared with a list, as text, before anything is unpickled;
then torch's restricted unpickler reads the same bytes, and classes are taken from a table of matgl's own.
"""

from __future__ import annotations

import io
import json
import pickletools
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct

from dft.stored_classes import CLASS, MODULE, ForeignClassError, check_classes, shown

MODEL_FILES = ("model.json", "model.pt", "state.pt")

BYTES_MAX = 2**31
"""Of one file: a potential of 500 million parameters."""

MODELS = ("CHGNet", "M3GNet", "MEGNet", "QET", "SO3Net", "TensorNet")
"""matgl's networks, all in matgl.models; which private module of it a file names depends on matgl's version."""
POTENTIAL = "Potential"
OTHERS = ("TransformedTargetModel",)
"""Of matgl too, but no energy."""

_KINDS = ("Bool", "Byte", "Char", "Double", "Float", "Half", "BFloat16", "Int", "Long")
_DTYPES = {"bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"}
PICKLED = frozenset(
    {("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")}
    | {("torch", name) for name in (*(f"{kind}Storage" for kind in _KINDS), *_DTYPES, "Size", "device")}
    # arrays, as matgl before version 3 kept reference energies
    | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
    | {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
)
"""What the pickles in model.pt and state.pt may name: module, name."""

_OTHERWISE = {"OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"}
"""Opcodes of pickle that call a class in other ways than torch.save writes it down."""
_TEXT = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"}


def read_potential(folder: Path) -> Any:
    """matgl's Potential from a folder, with its weights, on the CPU.

    Raises:
        ForeignClassError: if a file names a class or a function that no potential needs. Nothing of it was run.
        ValueError: if a file is damaged, or the folder holds another model of matgl's.
    """
    files = {name: _bytes(folder / name) for name in MODEL_FILES}
    kind = _kind(files["model.json"])
    arguments, state = (unpickled(files[name], name) for name in ("model.pt", "state.pt"))
    if not isinstance(arguments, dict) or not isinstance(state, dict):
        raise ValueError("model.pt and state.pt hold no arguments and no weights by name: expected both")
    check_classes(arguments, "model.pt", _is_matgl)
    for name, value in arguments.items():
        _check_argument(value, str(name))
    if kind != POTENTIAL:
        raise ValueError(
            f"{folder.name} holds a {kind}, not an interatomic potential: choose a model whose name ends in -PES or "
            "contains PES"
        )
    return _built(arguments, state)


def _bytes(file: Path) -> bytes:
    """Read once: what was checked is what is loaded, whoever writes to the folder meanwhile."""
    with file.open("rb") as stream:
        content = stream.read(BYTES_MAX + 1)
    if len(content) > BYTES_MAX:
        raise ValueError(f"{file.name} is larger than {BYTES_MAX / 2**30:g} GiB: expected a potential's file")
    return content


def _kind(text: bytes) -> str:
    """The class that model.json says the folder holds; all that it names are matgl's."""
    try:
        stated = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"model.json is no JSON ({error})") from None
    check_classes(stated, "model.json", _is_matgl)
    if not isinstance(stated, dict) or MODULE not in stated or CLASS not in stated:
        raise ValueError(f"model.json names no {MODULE} and {CLASS}: expected matgl's")
    return str(stated[CLASS])


def _is_matgl(module: str, name: str) -> bool:
    """Whether a file may name the class: one of matgl's models, in whichever of its modules a version had it."""
    if name == POTENTIAL:
        return module == "matgl.apps.pes" or _is_private(module, "matgl.apps._pes")
    return name in (*MODELS, *OTHERS) and (module == "matgl.models" or _is_private(module, "matgl.models._"))


def _is_private(module: str, start: str) -> bool:
    rest = module.removeprefix(start)
    return rest != module and (not rest or f"_{rest}".isidentifier())


def unpickled(content: bytes, name: str) -> Any:
    """What torch.save wrote, once its pickle is known to name tensors and plain values alone."""
    is_archive = content.startswith(b"PK\x03\x04")
    if not is_archive:
        _check_pickle(content, name)
        raise ValueError(f"{name} is no archive of torch.save's")
    reader = torch._C.PyTorchFileReader(io.BytesIO(content))  # torch.load's own: both see the same pickle
    if "constants.pkl" in reader.get_all_records():
        raise ForeignClassError(f"{name} holds a TorchScript program, which no such file needs; nothing of it was run")
    _check_pickle(reader.get_record("data.pkl"), name)
    allowed: list[Any] = [_reconstruct, np.ndarray, np.dtype, OrderedDict]
    allowed.append((_reconstruct, "numpy.core.multiarray._reconstruct"))  # its name before numpy 2
    allowed += [np.dtypes.Float32DType, np.dtypes.Float64DType, np.dtypes.Int32DType, np.dtypes.Int64DType]
    with torch.serialization.safe_globals(allowed):
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _check_pickle(content: bytes, file: str) -> None:
    """Refuse a pickle by what it names, without running it.

    Raises:
        ForeignClassError: if it names something that PICKLED does not.
        ValueError: if it is no pickle.
    """
    try:
        for module, name in _named(content):
            if (module, name) not in PICKLED:
                raise ForeignClassError(
                    f"{file} names the class {shown(module)}.{shown(name)}, which no such file needs; nothing of it "
                    "was run"
                )
    except ForeignClassError:
        raise
    except Exception as error:  # pickletools raises ValueError, IndexError, UnicodeDecodeError, ... on other bytes
        raise ValueError(f"{file} is no pickle of torch.save's ({type(error).__name__}: {error})") from None


def _named(pickled: bytes) -> Iterator[tuple[str, str]]:
    """What a pickle imports, in order: module and name.

    Where the name comes from the stack, which torch's unpickler refuses whatever it is, the last two words before it.
    """
    words = ["?", "?"]
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in _TEXT:
            words.append(str(argument))
        elif opcode.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            yield module, name
        elif opcode.name == "STACK_GLOBAL":
            yield words[-2], words[-1]
        elif opcode.name in _OTHERWISE:
            yield "pickle", opcode.name


def _check_argument(value: Any, name: str) -> None:
    """Arguments of matgl's models are numbers, words, tensors, and lists and dictionaries of these."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"argument {name} in model.pt has the key {key!r}: expected words")
            _check_argument(inner, f"{name}.{key}"[:100])
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_argument(inner, name)
    elif not (value is None or type(value) in _PLAIN):
        raise ForeignClassError(
            f"argument {name} in model.pt is a {type(value).__module__}.{type(value).__name__}: expected numbers, "
            "words and tensors"
        )


_PLAIN = {bool, int, float, str, torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype, torch.device, np.ndarray}


def _built(arguments: dict[str, Any], state: dict[str, Any]) -> Any:
    """What matgl's IOMixIn.load does with the same contents, by a table in the place of imports."""
    import matgl.models
    from matgl.apps.pes import Potential
    from matgl.utils.io import _check_state_dict_keys

    given = {name: value for name, value in arguments.items() if not name.startswith("@")}
    for name, value in given.items():
        if isinstance(value, dict) and CLASS in value and MODULE in value:
            if value[CLASS] not in MODELS:
                expected = ", ".join(MODELS)
                raise ValueError(f"argument {name} in model.pt is a {value[CLASS]}: expected one of {expected}")
            given[name] = getattr(matgl.models, value[CLASS])(**value["init_args"])
    # A compiled network is another program per machine, and one relaxation does not repay it.
    potential = Potential(**{**given, "compile_model": False})
    result = potential.load_state_dict(state, strict=False)
    _check_state_dict_keys(potential, result.missing_keys, result.unexpected_keys)
    return potential
