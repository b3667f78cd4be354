"""Every message that the source can give to a caller or an operator: `python scripts/messages.py`.

A row a message: the place, the error, the text with `{}` for each value, and the settings and
limits that it names. The last line counts messages that show a name of this source, a path or a
sentence of a validation library: there must be none.
"""

import ast
import builtins
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
SOURCE: Final = ROOT / "src" / "vlserve"
# What makes or carries a message, and which argument is the text.
MAKERS: Final = {
    "invalid": 1,
    "ServeError": 1,
    "Refused": 0,
    "ModelError": 0,
    "DescribeError": 0,
    "WrongSettings": 0,
    "BadParameter": 0,
}
LOGGERS: Final = ("warning", "error", "exception", "critical")
_LIBRARY: Final = re.compile(
    r"validation error|Input should|Field required|Extra inputs|List should|String should"
    r"|Traceback|after validation|type=\w+_type"
)
_PATH: Final = re.compile(r"(?<![\w.{}])/(?:[a-z]+/)+|\.py\b")
_CLASS: Final = re.compile(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+(?:Error)?\b")
# Names that a reader knows from elsewhere.
_KNOWN: Final = {
    *("RetryInfo", "InternVL", "SmolVLM"),
    *("ModelInfer", "ModelMetadata", "ModelStreamInfer"),
}


@dataclass(frozen=True)
class Message:
    """One message of the source. `names` are the settings and limits in its text."""

    place: str
    error: str
    text: str
    names: tuple[str, ...]

    @property
    def faults(self) -> list[str]:
        """What it must not show."""
        found = []
        if _LIBRARY.search(self.text):
            found.append("library")
        if _PATH.search(self.text):
            found.append("path")
        words = set(_CLASS.findall(self.text)) - _KNOWN
        words |= {
            word for word in re.findall(r"\b\w+Error\b", self.text) if hasattr(builtins, word)
        }
        if words:
            found.append(f"class name {', '.join(sorted(words))}")
        return found


def messages(source: Path = SOURCE) -> Iterator[Message]:
    """All messages, by file and line."""
    names = _setting_names(source)
    bounds = _settings_of_bounds(source)
    for path in sorted(source.rglob("*.py")):
        if "pb" in path.parts:
            continue
        tree = ast.parse(path.read_text())
        for node, constants in _calls(tree, {}):
            error = _name(node.func)
            at = MAKERS.get(error, 0 if _is_log(node.func) else None)
            if at is None:
                continue
            text = _argument(node, at, constants)
            if text:
                bound = _bound(node, bounds) if error == "Refused" else ""
                text += f" ({bound})" if bound else ""
                place = f"{path.relative_to(source)}:{node.lineno}"
                named = tuple(name for name in names if re.search(rf"\b{re.escape(name)}\b", text))
                yield Message(place, error, text, named)


def _setting_names(source: Path) -> list[str]:
    """`room.name` of every setting."""
    tree = ast.parse((source / "settings.py").read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    names = []
    for field in classes["Settings"].body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            room = classes.get(_name(field.annotation))
            names += [
                f"{field.target.id}.{each.target.id}"
                for each in (room.body if room else [])
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
            ]
    return names


def _settings_of_bounds(source: Path) -> dict[str, str]:
    """The setting behind each bound that a picture may be beyond."""
    path = source / "media" / "bounds.py"
    for node in ast.parse(path.read_text()).body if path.exists() else []:
        if isinstance(node, ast.AnnAssign) and _name(node.target) == "_SETTINGS" and node.value:
            settings: dict[str, str] = ast.literal_eval(node.value)
            return settings
    return {}


def _bound(call: ast.Call, bounds: dict[str, str]) -> str:
    """What is named in brackets behind the text of a Refused, the server's where it may be both."""
    bound = _text(call.args[1], {}) if len(call.args) > 1 else ""
    return bounds.get(bound, bound)


def _calls(node: ast.AST, known: dict[str, str]) -> Iterator[tuple[ast.Call, dict[str, str]]]:
    """Every call, with the texts that have a name where it stands."""
    if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef):
        known = known | _texts(node, known)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield child, known
        yield from _calls(child, known)


def _texts(
    scope: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef, known: dict[str, str]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in scope.body if isinstance(scope, ast.Module) else ast.walk(scope):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            text = _text(node.value, known | found)
            if isinstance(target, ast.Name) and text:
                before = found.get(target.id, "") if isinstance(node, ast.AugAssign) else ""
                found[target.id] = before + text
    return found


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_log(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and _name(node.value) == "_log" and node.attr in LOGGERS


def _argument(call: ast.Call, at: int, constants: dict[str, str]) -> str:
    named = next((each.value for each in call.keywords if each.arg == "message"), None)
    value = named or (call.args[at] if len(call.args) > at else None)
    return "" if value is None else _text(value, constants)


def _text(node: ast.expr, constants: dict[str, str]) -> str:
    """The text of an expression, `{}` where a value stands; "" where none of it is written here."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        parts = [
            str(part.value)
            if isinstance(part, ast.Constant)
            else constants.get(_name(part.value), "{}")
            if isinstance(part, ast.FormattedValue)
            else "{}"
            for part in node.values
        ]
        return "".join(parts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, constants) + _text(node.right, constants)
    if isinstance(node, ast.IfExp):
        return " | ".join(
            filter(None, (_text(each, constants) for each in (node.body, node.orelse)))
        )
    return constants.get(_name(node), "")


def main() -> int:
    """Print all; 1 where a message shows what it must not."""
    found = list(messages())
    for each in found:
        print(f"{each.place}\t{each.error}\t{each.text}\t{', '.join(each.names) or '-'}")
    faulty = [each for each in found if each.faults]
    for each in faulty:
        print(f"fault: {each.place}: {'; '.join(each.faults)}: {each.text}")
    print(
        f"messages {len(found)}, naming a setting {sum(bool(m.names) for m in found)},"
        f" faults {len(faulty)}"
    )
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
