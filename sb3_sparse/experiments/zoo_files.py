"""Files of the RL Zoo, read without executing what is in them."""

import ast
from pathlib import Path
from typing import Any


def read_yaml(path: Path) -> Any:
    """
    Read YAML as the zoo writes it: with ordered dictionaries, which come back as plain ones. Other objects are refused.

    :param path: The file
    :raises yaml.YAMLError: if it is no YAML, or holds objects.
    """
    import yaml  # comes with the zoo, whose files these are

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered)
    Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)
    return yaml.load(path.read_text(), Loader=Loader)


def read_keywords(text: str) -> dict[str, Any]:
    """
    Read what the zoo has as text for keyword arguments, ``dict(sparsity=0.8, net_arch=[64])``: numbers, strings, and
    containers of these. Arguments that are code (``activation_fn=nn.ReLU``) are left out.

    :param text: A call of ``dict`` with keywords, or a literal dictionary
    :raises ValueError: if it is neither.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"Keyword arguments look like dict(sparsity=0.8), got {text!r}.") from error
    if isinstance(node, ast.Dict):
        pairs = [(_literal(key), value) for key, value in zip(node.keys, node.values, strict=True) if key is not None]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
    else:
        raise ValueError(f"Keyword arguments look like dict(sparsity=0.8), got {text!r}.")
    return {str(key): _literal(value) for key, value in pairs if key is not None and _is_literal(value)}


def _ordered(loader: Any, node: Any) -> dict[Any, Any]:
    (pairs,) = loader.construct_sequence(node, deep=True)
    return dict(pairs)


def _tuple(loader: Any, node: Any) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node))


def _literal(node: ast.expr) -> Any:
    if _is_dict_call(node):
        return read_keywords(ast.unparse(node))
    return ast.literal_eval(node)


def _is_literal(node: ast.expr) -> bool:
    if _is_dict_call(node):
        return True
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError):
        return False
    return True


def _is_dict_call(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict"
