"""What code does, as a hash that does not change when code only moves.

The digest of a definition at the top of a module (a function, a class, an assignment) is that of its syntax tree
without docstrings, comments, annotations, the decorator that checks arguments against these, and imports. A name of
this package is written as the digest of what it names, a name of another package as its absolute dotted name, and a
local name as it is. So neither the module where a definition lies counts, nor its own name, nor what else is there; but
every default, other decorator, table and base class that it reaches. Nothing is run.

To be sure that nothing is missed:
- statements of a module that are neither definitions nor imports count for every definition of the module,
- a module of the package that is used as an object counts as a whole, a package with all that lies in it,
- a name that is bound more than once counts with all that it may be.
What code builds names of (`importlib.import_module("xaikit." + name)`) is not followed, and of `ONLY_KEEP` only the
names count.
"""

import ast
import functools
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xaikit.storage.paths import ROOT

PACKAGE = "xaikit"
# Modules and definitions that only find, check or keep what others make: no result depends on what they do.
ONLY_KEEP = {
    "xaikit.arguments",
    "xaikit.companion.profiles.FOLDER",
    "xaikit.models.cards",
    "xaikit.models.clip._check_folder",
    "xaikit.models.hub",
    "xaikit.storage.cache",
    "xaikit.storage.canonical",
    "xaikit.storage.files",
    "xaikit.storage.keys",
    "xaikit.storage.paths",
    "xaikit.storage.sources",
}
# Fields that differ between Python versions or say nothing about what the code does.
_IGNORED_FIELDS = {"annotation", "ctx", "kind", "returns", "simple", "type_comment", "type_ignores", "type_params"}
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_MATCHED = (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
_FIELD_KINDS = {"ClassVar", "InitVar", "KW_ONLY"}  # annotations that say what a dataclass does with a field
_ONLY_CHECKS = "kept public"  # how `arguments.public` is written, which says of arguments what their annotations say
_WHOLE, _EFFECTS = "*", "!"  # in place of a definition's name: the module as a whole, and its other statements


@dataclass(frozen=True, slots=True)
class _Use:
    """A path of attributes from a module, or, where `module` is empty, from a name of the module where the code is."""

    module: str
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Decorator:
    """A decorator that is a name or a path of attributes."""

    use: _Use


@dataclass(frozen=True, slots=True)
class _Node:
    """A definition, by its module and its name there."""

    module: str
    name: str


_Piece = str | _Use | _Decorator


@dataclass
class _Bound:
    """The names that some code binds: by imports, with what they may stand for, and otherwise."""

    plain: set[str] = field(default_factory=set)
    imports: dict[str, list[_Use]] = field(default_factory=dict)
    of_module: set[str] = field(default_factory=set)  # names declared global


@dataclass
class _Scope:
    bound: _Bound
    outer: "_Scope | None"
    is_class: bool = False


@dataclass
class _Module:
    """A module as written: `definitions` has the statements that bind each name, in order."""

    definitions: dict[str, list[tuple[_Piece, ...]]] = field(default_factory=dict)
    imports: dict[str, list[_Use]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    effects: list[tuple[_Piece, ...]] = field(default_factory=list)
    loose: set[str] = field(default_factory=set)  # names bound in statements that do more than define them


class Code:
    """The package under a root as it is at one moment, and `outside` files that use it; see `read`."""

    def __init__(self, root: Path, texts: dict[Path, str]) -> None:
        self.root, self.texts = root, texts
        self._paths = {_dotted(path, root): path for path in texts if path.suffix == ".py"}
        self._folders = {parent for name in self._paths if _is_ours(name) for parent in _parents(name)}
        self._digests: dict[_Node, str] = {}
        self._linked: dict[_Node, tuple[str | _Node, ...]] = {}
        self._files: dict[_Node, set[Path]] = {}

    def digest(self, file: Path, names: Iterable[str] | None = None) -> str:
        """The digest of the definitions `names` of a module, in any order, or of the module as a whole.

        Raises ValueError for a file that was not read, and for a name that it does not define.
        """
        digests = sorted(self._digest(node) for node in self._nodes(file, names))
        return _sha256(" ".join(digests)) if len(digests) > 1 else digests[0]

    def files(self, file: Path, names: Iterable[str] | None = None) -> set[Path]:
        """The files that the digest of these definitions comes from."""
        return {path for node in self._reached(file, names) for path in self._files[node]}

    def definitions(self, file: Path, names: Iterable[str] | None = None) -> dict[str, str]:
        """The digest of every definition that these reach, themselves among them, by its dotted name."""
        found = {f"{node.module}.{node.name}": self._digest(node) for node in self._reached(file, names)}
        return dict(sorted(found.items()))

    def script(self, cells: Sequence[str]) -> list[str]:
        """The digest of each part of a script. Its own names are written as they are, whatever cell binds them."""
        digests = []
        for form in _script(tuple(cells)):
            pieces, _ = self._link(form, "")
            digests.append(_sha256("".join(self._digest(p) if isinstance(p, _Node) else p for p in pieces)))
        return digests

    def _nodes(self, file: Path, names: Iterable[str] | None) -> list[_Node]:
        module = _dotted(file, self.root)
        if module not in self._paths:
            raise ValueError(f"{file} is no module of {PACKAGE}, and was not read beside it.")
        known = self._module(module).definitions
        if missing := [name for name in names or () if name not in known]:
            raise ValueError(f"{file} does not define {missing[0]} at its top; name one of its definitions.")
        return [_Node(module, _WHOLE)] if names is None else [_Node(module, name) for name in names]

    def _reached(self, file: Path, names: Iterable[str] | None) -> set[_Node]:
        pending = self._nodes(file, names)
        reached = set(pending)
        while pending:
            used = {piece for piece in self._pieces(pending.pop()) if isinstance(piece, _Node)}
            pending += used - reached
            reached |= used
        return reached

    def _module(self, name: str) -> _Module:
        path = self._paths.get(name)
        if path is None:  # a folder without __init__.py
            return _Module()
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        stub = self.texts.get(path.with_suffix(".pyi"), "")
        return _module(self.texts[path], str(path), package if _is_ours(name) else "", stub)

    # Linking: what each name stands for.

    def _pieces(self, node: _Node) -> tuple[str | _Node, ...]:
        """The text of a definition, with the definitions that it uses."""
        if node not in self._linked:
            module, form = self._module(node.module), []
            if node.name == _EFFECTS:
                forms = module.effects
            elif node.name == _WHOLE:
                forms = list(self._whole(node.module))
            else:
                forms = module.definitions[node.name]
            for each in forms:
                form += [*each, ";"]
            pieces, files = self._link(form, node.module)
            if module.effects and node.name != _EFFECTS:
                pieces.append(_Node(node.module, _EFFECTS))
            self._linked[node], self._files[node] = tuple(pieces), files
        return self._linked[node]

    def _whole(self, name: str) -> Iterator[tuple[_Piece, ...]]:
        """All that one can get from a module: its definitions, and of a package what it hands on and holds."""
        module = self._module(name)
        for each in sorted(module.definitions):
            yield f"{each}=", _Use("", (each,))
        if name in self._folders or self._paths[name].name == "__init__.py":
            for each in sorted(module.imports):
                yield f"{each}=", _Use(name, (each,))
            for each in sorted(self._paths):
                if each.rpartition(".")[0] == name and not each.endswith(".__main__"):
                    yield f"{each.rpartition('.')[2]}=", _Use(each, ())

    def _link(self, form: Iterable[_Piece], module: str) -> tuple[list[str | _Node], set[Path]]:
        pieces: list[str | _Node] = []
        walked = {module}
        for piece in form:
            if isinstance(piece, str):
                pieces.append(piece)
                continue
            use = piece.use if isinstance(piece, _Decorator) else piece
            found = self._resolve(use.module or module, use.path, not use.module, frozenset(), walked)
            if not isinstance(piece, _Decorator):
                pieces += ["<", *found, ">"]
            elif found != [_ONLY_CHECKS]:
                pieces += ["(<", *found, ">),"]
        return pieces, {self._paths[name] for name in walked if name in self._paths}

    def _resolve(
        self, module: str, path: tuple[str, ...], inside: bool, seen: frozenset[_Use], walked: set[str]
    ) -> list[str | _Node]:
        """What a path from a module leads to; `inside` the module a name that it lacks is a builtin."""
        if not inside and not _is_ours(module):
            return [".".join((module, *path))]
        walked.add(module)
        if not path:
            return self._kept(_Node(module, _WHOLE))
        here, found = self._module(module), []
        name, rest = path[0], path[1:]
        if name in here.definitions:
            found += [f"{name}:"] if name in here.loose else []
            found += [*self._kept(_Node(module, name)), *(f".{attribute}" for attribute in rest)]
        seen |= {_Use(module, path)}
        for use in here.imports.get(name, ()):
            target = _Use(use.module, use.path + rest)
            if target not in seen:
                found += self._resolve(target.module, target.path, False, seen, walked)
        if found:
            return found
        if not inside and f"{module}.{name}" in {*self._paths, *self._folders}:
            return self._resolve(f"{module}.{name}", rest, False, seen, walked)
        for other in here.stars:
            if _is_ours(other) and name in {*self._module(other).definitions, *self._module(other).imports}:
                return self._resolve(other, path, False, seen, walked)
        if inside:
            return [".".join(path), *(f" or {other}.{name}" for other in here.stars if not _is_ours(other))]
        return [*self._kept(_Node(module, _WHOLE)), *(f".{attribute}" for attribute in path)]

    def _kept(self, node: _Node) -> list[str | _Node]:
        """The node, or only its name where it is left out."""
        if {node.module, f"{node.module}.{node.name}"} & ONLY_KEEP:
            return [f"kept {node.name}"]
        return [node]

    # Digests: of definitions that use each other all at once.

    def _digest(self, start: _Node) -> str:
        """Tarjan's algorithm: a component is digested when all that it uses is."""
        if start in self._digests:
            return self._digests[start]
        order: dict[_Node, int] = {start: 0}
        lowest, open_nodes = {start: 0}, [start]
        work = [(start, iter(self._uses(start)))]
        while work:
            node, uses = work[-1]
            for used in uses:
                if used in self._digests:
                    continue
                if used not in order:
                    order[used] = lowest[used] = len(order)
                    open_nodes.append(used)
                    work.append((used, iter(self._uses(used))))
                    break
                lowest[node] = min(lowest[node], order[used])
            else:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[node])
                if lowest[node] == order[node]:
                    first = open_nodes.index(node)
                    self._close(open_nodes[first:])
                    del open_nodes[first:]
        return self._digests[start]

    def _uses(self, node: _Node) -> list[_Node]:
        return [piece for piece in self._pieces(node) if isinstance(piece, _Node)]

    def _close(self, component: list[_Node]) -> None:
        """Digest definitions that use each other: each by what it says, then again and again by what those it uses say.

        After as many rounds as there are definitions, two have one digest only where nothing can tell them apart.
        """
        now = dict.fromkeys(component, "itself")
        for _ in component:
            now = {
                node: _sha256(
                    "".join(
                        piece if isinstance(piece, str) else now.get(piece) or self._digests[piece]
                        for piece in self._pieces(node)
                    )
                )
                for node in component
            }
        self._digests |= now


_read: dict[tuple[Path, ...], Code] = {}


def read(root: Path = ROOT, *outside: Path) -> Code:
    """The code of the package under `root` as it is on disk now, and of files `outside` of it.

    What has not changed since the last call is not parsed and digested again. Raises SyntaxError for code that is none,
    when it is reached.
    """
    package = root / PACKAGE
    paths = [path for suffix in ("py", "pyi") for path in package.rglob(f"*.{suffix}")]
    paths = [path for path in paths if not path.is_relative_to(package / "shipped")]  # a wheel's notebooks
    texts = {path: path.read_text(encoding="utf-8") for path in (*sorted(paths), *outside)}
    if (root, *outside) not in _read or _read[root, *outside].texts != texts:
        _read[root, *outside] = Code(root, texts)
    return _read[root, *outside]


def read_with(file: Path, root: Path = ROOT) -> Code:
    """The code of the package, and of `file` where that lies outside of it."""
    return read(root, *([] if file.is_relative_to(root / PACKAGE) else [file]))


def place_of(thing: Callable[..., object] | type) -> tuple[Path, str]:
    """The file where a function or class is defined, and the name at the top of that file that it is in."""
    return Path(sys.modules[thing.__module__].__file__ or "").resolve(), thing.__qualname__.partition(".")[0]


def digest_of(*things: Callable[..., object] | type) -> str:
    """The digest of functions and classes, in any order, from what is on disk."""
    places = map(place_of, things)
    return _sha256(" ".join(sorted(read_with(file).digest(file, [name]) for file, name in places)))


# Reading a module.


@functools.cache  # a process asks for the digests of the same modules at every step of its way
def _module(text: str, file: str, package: str, stub: str) -> _Module:
    found = _Module()
    for statement in _undocumented(ast.parse(text, file)):
        _add(found, statement, package, stub)
    return found


@functools.cache
def _script(cells: tuple[str, ...]) -> list[tuple[_Piece, ...]]:
    trees = [ast.parse(cell) for cell in cells]
    scope = _Scope(_bound(trees, ""), None)
    writers = [_Writer("") for _ in trees]
    for writer, tree in zip(writers, trees, strict=True):
        writer.write(tree.body, scope)
    return [tuple(writer.pieces) for writer in writers]


def _undocumented(node: ast.AST) -> list[ast.stmt]:
    return node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body


def _add(module: _Module, statement: ast.stmt, package: str, stub: str) -> None:
    """Sort a statement at the top of a module into what it is."""

    def define(name: str, *form: _Piece) -> None:
        module.definitions.setdefault(name, []).append(form)

    def written(node: object) -> list[_Piece]:
        writer = _Writer(package)
        writer.write(node, None)
        return writer.pieces

    match statement:
        case ast.Import() | ast.ImportFrom():
            bound = _bound([statement], package)
            for name, uses in bound.imports.items():
                module.imports.setdefault(name, []).extend(uses)
            module.stars += [use.module for use in bound.imports.get("*", ())]
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            writer = _Writer(package)
            writer.write_definition(statement, None)
            define(statement.name, *writer.pieces)
        case ast.Assign(targets=targets, value=ast.Call() as value) if lazily := _lazy(targets, value, package, stub):
            for name, use in lazily.items():
                module.imports.setdefault(name, []).append(use)
        case ast.Assign() if all(_is_name(target) for target in statement.targets):
            for target in statement.targets:
                for name, place in _places(target):
                    define(name, f"Assign({place}", *written(statement.value), ")")
        case ast.AnnAssign(target=ast.Name(id=name), value=value):
            if value is not None:
                define(name, "Assign(", *written(value), ")")
        case ast.AugAssign(target=ast.Name(id=name)):
            define(name, f"AugAssign({type(statement.op).__name__}", *written(statement.value), ")")
        case ast.If() if _is_type_checking(statement) or _is_main(statement):
            for each in statement.body if _is_type_checking(statement) else ():
                if isinstance(each, ast.Import | ast.ImportFrom):
                    _add(module, each, package, stub)
            for each in statement.orelse:
                _add(module, each, package, stub)
        case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.Global():
            pass
        case _:
            form, bound = tuple(written([statement])), _bound([statement], package)
            module.effects.append(form)
            for name in bound.plain:
                define(name, *form)
            module.loose |= bound.plain
            for name, uses in bound.imports.items():
                module.imports.setdefault(name, []).extend(uses)


def _is_name(target: ast.expr) -> bool:
    match target:
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return all(map(_is_name, parts))
        case ast.Starred(value=value):
            return _is_name(value)
    return isinstance(target, ast.Name)


def _places(target: ast.expr, place: str = "") -> Iterator[tuple[str, str]]:
    """The names in the target of an assignment, and where in the value each one's is."""
    match target:
        case ast.Name(id=name):
            yield name, place
        case ast.Starred(value=value):
            yield from _places(value, f"{place}*")
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            for index, part in enumerate(parts):
                yield from _places(part, f"{place}[{index} of {len(parts)}]")


def _is_type_checking(node: object) -> bool:
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            return True
    return False


def _is_main(node: ast.If) -> bool:
    return ast.unparse(node.test) == "__name__ == '__main__'"


def _lazy(targets: list[ast.expr], value: ast.Call, package: str, stub: str) -> dict[str, _Use]:
    """The names that lazy_loader hands on, from its stub or its arguments; empty for any other assignment."""
    names = {name for target in targets if _is_name(target) for name, _ in _places(target)}
    called = ast.unparse(value.func).rpartition(".")[2]
    if "__getattr__" not in names or called not in ("attach", "attach_stub"):
        return {}
    if called == "attach_stub":
        bound = _bound(ast.parse(stub).body, package)
        return {name: uses[0] for name, uses in bound.imports.items()}
    given = dict(zip(("package_name", "submodules", "submod_attrs"), value.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in value.keywords}
    attributes = ast.literal_eval(given["submod_attrs"]) if "submod_attrs" in given else {}
    return {name: _Use(f"{package}.{module}", (name,)) for module, names in attributes.items() for name in names}


# What names some code binds.


def _bound(nodes: Iterable[ast.AST], package: str) -> _Bound:
    """The names that code binds in its own scope, which inner functions and classes are not."""
    found, further_out = _Bound(), set()
    pending = [(node, False) for node in nodes]
    while pending:
        node, in_comprehension = pending.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.plain.add(node.name)
                continue
            case ast.Lambda():
                continue
            case ast.Import():
                for alias in node.names:
                    name, whole = alias.asname or alias.name.partition(".")[0], alias.asname is not None
                    use = _Use(alias.name if whole else name, ())
                    found.imports.setdefault(name, []).append(use)
            case ast.ImportFrom():
                base = _base(node, package)
                for alias in node.names:
                    path = () if alias.name == "*" else (alias.name,)
                    found.imports.setdefault(alias.asname or alias.name, []).append(_Use(base, path))
            case ast.NamedExpr():
                found.plain.add(node.target.id)
            case ast.Name(ctx=ast.Store() | ast.Del()) if not in_comprehension:
                found.plain.add(node.id)
            case ast.Global():
                found.of_module |= set(node.names)
            case ast.Nonlocal():
                further_out |= set(node.names)
            case ast.MatchMapping(rest=str() as name):
                found.plain.add(name)
            case _ if isinstance(node, _MATCHED) and node.name:
                found.plain.add(node.name)
        inside = in_comprehension or isinstance(node, _COMPREHENSIONS)
        pending += [(child, inside) for child in ast.iter_child_nodes(node)]
    found.plain -= found.of_module | further_out
    return found


def _base(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    above = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def _look_up(name: str, scope: _Scope | None) -> Iterator[str | _Use]:
    """What a name may be where it is read: text for a local one, else a use."""
    at = scope
    while at is not None and name not in at.bound.of_module:
        is_visible = at is scope or not at.is_class
        if is_visible and (name in at.bound.plain or name in at.bound.imports):
            if name in at.bound.plain:
                yield f"local {name}"
            yield from at.bound.imports.get(name, ())
            if not at.is_class:  # what a class has not bound yet, or only on some ways, is read from further out
                return
        at = at.outer
    yield _Use("", (name,))


# Writing code down.


class _Writer:
    """The canonical text of syntax trees, in pieces; what they use from outside of their scopes stays a `_Use`."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.pieces: list[_Piece] = []

    def write(self, node: object, scope: _Scope | None) -> None:
        say = self.pieces.append
        match node:
            case ast.Name():
                self._write_name((node.id,), scope, isinstance(node.ctx, ast.Store))
            case ast.Attribute() if names := _chain(node):
                self._write_name(names, scope, False)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                say(f"{node.name}=")
                self.write_definition(node, scope)
            case ast.Lambda():
                self.write_definition(node, scope)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self._write_comprehension(node, scope)
            case ast.AnnAssign() if scope is not None and scope.is_class:
                say(f"Field({' '.join(sorted(_field_kinds(node.annotation)))}")
                self.write([node.target, node.value], scope)
                say(")")
            case ast.AnnAssign():  # one without a value is left out of its block
                self.write(ast.Assign(targets=[node.target], value=node.value), scope)
            case ast.AST():
                say(f"{type(node).__name__}(")
                for name, value in ast.iter_fields(node):
                    if name not in _IGNORED_FIELDS and value is not None and value != []:
                        say(f"{name}=")
                        self.write(_without_empty(value) if isinstance(node, ast.JoinedStr) else value, scope)
                        say(",")
                say(")")
            case list():
                say("[")
                for item in _counted(node, scope):
                    self.write(item, scope)
                    say(",")
                say("]")
            case _:
                say(repr(node))

    def write_definition(self, node: ast.AST, scope: _Scope | None) -> None:
        """A function or class without its own name: what surrounds its body is evaluated outside of its scope."""
        self.pieces.append(f"{type(node).__name__}(")
        self._write_decorators(getattr(node, "decorator_list", []), scope)
        if isinstance(node, ast.ClassDef):
            self.write([*node.bases, *node.keywords], scope)
            inner = _Scope(_bound(node.body, self.package), scope, is_class=True)
        else:
            self.write(node.args, scope)
            inner = _Scope(_bound([node.body] if isinstance(node, ast.Lambda) else node.body, self.package), scope)
            inner.bound.plain |= {arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)}
        self.write(node.body if isinstance(node, ast.Lambda) else _undocumented(node), inner)
        self.pieces.append(")")

    def _write_decorators(self, decorators: list[ast.expr], scope: _Scope | None) -> None:
        self.pieces.append("[")
        for node in decorators:
            names = (
                (node.id,) if isinstance(node, ast.Name) else _chain(node) if isinstance(node, ast.Attribute) else ()
            )
            meanings = list(_look_up(names[0], scope)) if names else []
            if len(meanings) == 1 and isinstance(meanings[0], _Use):
                self.pieces.append(_Decorator(_Use(meanings[0].module, meanings[0].path + names[1:])))
            else:
                self.write(node, scope)
                self.pieces.append(",")
        self.pieces.append("]")

    def _write_comprehension(self, node: ast.expr, scope: _Scope | None) -> None:
        inner = _Scope(_bound([part.target for part in node.generators], self.package), scope)
        self.pieces.append(f"{type(node).__name__}(")
        self.write(node.generators[0].iter, scope)
        for index, part in enumerate(node.generators):
            self.pieces.append(f" for {part.is_async}")
            self.write([part.target, *([part.iter] if index else []), *part.ifs], inner)
        self.write([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt], inner)
        self.pieces.append(")")

    def _write_name(self, names: tuple[str, ...], scope: _Scope | None, is_bound: bool) -> None:
        if is_bound and scope is not None and scope.is_class and names[0] in scope.bound.plain:
            self.pieces.append(f"(local {names[0]})")
            return
        self.pieces.append("(")
        for meaning in _look_up(names[0], scope):
            if isinstance(meaning, str):
                self.pieces.append(".".join((meaning, *names[1:])))
            else:
                self.pieces.append(_Use(meaning.module, meaning.path + names[1:]))
        self.pieces.append(")")


def _counted(nodes: list, scope: _Scope | None) -> Iterator[object]:
    """The items of a list, of statements those that do something when they are run."""
    for node in nodes:
        if _is_type_checking(node):
            yield from _counted(node.orelse, scope)
            continue
        declares = isinstance(node, ast.AnnAssign) and node.value is None and not (scope and scope.is_class)
        if not declares and not isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def _without_empty(pieces: list[ast.expr]) -> list[ast.expr]:
    """The pieces of an f-string; Python 3.12 leaves empty ones in some."""
    return [piece for piece in pieces if getattr(piece, "value", None) != ""]


def _chain(node: ast.Attribute) -> tuple[str, ...]:
    """`np.linalg.norm` as its three names; empty where it does not begin with a name."""
    match node.value:
        case ast.Name(id=name):
            return (name, node.attr)
        case ast.Attribute() as inner if names := _chain(inner):
            return (*names, node.attr)
    return ()


def _field_kinds(annotation: ast.expr) -> set[str]:
    said = {getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(annotation)}
    text = annotation.value if isinstance(annotation, ast.Constant) else ""
    return {kind for kind in _FIELD_KINDS if kind in said or kind in str(text)}


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] == PACKAGE


def _parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts)))


def _dotted(path: Path, root: Path) -> str:
    """`xaikit.models.clip` for its file; for files outside the package the path itself."""
    if not path.is_relative_to(root / PACKAGE):
        return str(path)
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
