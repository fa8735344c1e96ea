"""Files of the RL Zoo, read without executing what is in them."""

import ast
import contextlib
from pathlib import Path
from typing import Any

from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from sb3_sparse.deployment.known_classes import argument_class

# What the zoo's own evaluation knows by these names.
_CLASSES: dict[str, type] = {"RMSpropTFLike": RMSpropTFLike, "HerReplayBuffer": HerReplayBuffer}
_PACKAGES = {"nn": "torch.nn", "th.nn": "torch.nn", "th.optim": "torch.optim"}


def read_yaml(path: Path) -> Any:
    """
    Read YAML as the zoo writes it: with ordered dictionaries, which come back as plain ones, and classes, which come back as
    their names. Other objects are refused.

    :param path: The file
    :raises yaml.YAMLError: if it is no YAML, or holds objects.
    """
    import yaml  # comes with the zoo, whose files these are

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered)
    Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)
    Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda loader, name, node: name)
    return yaml.load(path.read_text(), Loader=Loader)


def read_value(text: str) -> Any:
    """
    Read what the zoo's files have as text and the zoo evaluates, ``dict(net_arch=[64], activation_fn=nn.ReLU)``, without
    executing it: numbers, strings, containers of these, and the classes that such files name: of ``nn`` and ``th.optim``,
    ``RMSpropTFLike``, ``HerReplayBuffer``.

    :param text: The text
    :raises ValueError: if there is anything else in it, such as calls, functions or arithmetic.
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError) as error:
        problem = "it is no expression of Python" if isinstance(error, SyntaxError) else str(error)
        raise ValueError(
            f"{text!r} is not read: {problem}. It may hold numbers, strings, lists, dict(...), and classes by the names nn.*, "
            f"th.optim.*, {', '.join(_CLASSES)}."
        ) from error


def read_keywords(text: str) -> dict[str, Any]:
    """
    Read what the zoo has as text for keyword arguments, ``dict(sparsity=0.8, net_arch=[64])``, as :func:`read_value` does, for
    display: what it refuses is left out.

    :param text: A call of ``dict`` with keywords, or a literal dictionary
    :raises ValueError: if it is neither.
    """
    try:
        pairs = _pairs(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"Keyword arguments look like dict(sparsity=0.8), got {text!r}.") from error
    found = {}
    for key, value in pairs:
        with contextlib.suppress(ValueError):
            found[key] = _value(value)
    return found


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call | ast.Dict):
        return {key: _value(entry) for key, entry in _pairs(node)}
    if isinstance(node, ast.List):
        return [_value(entry) for entry in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(entry) for entry in node.elts)
    if isinstance(node, ast.Name | ast.Attribute):
        return _class(ast.unparse(node))
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{ast.unparse(node)} would have to be executed") from error


def _pairs(node: ast.expr) -> list[tuple[Any, ast.expr]]:
    """Keys and values of a dictionary, literal or by ``dict(...)``."""
    if isinstance(node, ast.Dict) and None not in node.keys:
        return [(ast.literal_eval(key), value) for key, value in zip(node.keys, node.values, strict=True) if key is not None]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
        if all(key is not None for key, _ in pairs):
            return pairs
    raise ValueError(f"{ast.unparse(node)} would have to be executed")


def _class(name: str) -> type:
    if name in _CLASSES:
        return _CLASSES[name]
    package, _, kind = name.rpartition(".")
    return argument_class(f"{_PACKAGES.get(package, package)}.{kind}")


def _ordered(loader: Any, node: Any) -> dict[Any, Any]:
    (pairs,) = loader.construct_sequence(node, deep=True)
    return dict(pairs)


def _tuple(loader: Any, node: Any) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node))
