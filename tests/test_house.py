"""The laws of the house, checked by machine: what imports what, how fast it starts, what is public, how large
a file or a function may grow, and that what the pages say is what the tree has.

Nothing here knows what the code does.
"""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from machine import ROOT

SRC, NATIVE, DOCS = ROOT / "src" / "gpt2", ROOT / "native", ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
SKIPPED_FOLDERS = {"build", "dist", "__pycache__", "node_modules"}

MAX_FILE_LINES, MAX_FUNCTION_LINES = 500, 60

TOO_LONG_WITH_A_REASON: dict[str, str] = {
    "tests/weights/hostile_safetensors.py": "a catalogue: one function of a few lines for each lie of a file",
    "tests/weights/hostile_torch.py": "a catalogue: one function of a few lines for each lie or attack",
}
"""What may be longer: "path" for a file, "path::function" for a function, and why splitting would make it
worse."""

PUBLIC = {
    "__version__",
    "Chunk",
    "Completion",
    "Error",
    "GPT2Config",
    "LanguageModel",
    "NextToken",
    "SamplingParams",
    "Score",
    "Session",
    "Suggestion",
    "Template",
    "Tokenizer",
    "Turn",
    "compare_templates",
    "load",
    "open_weights",
}
"""The names of `gpt2` itself. A change here is a change of the public API: say so in CHANGELOG.md."""

NATIVE_LAW = {
    "base": set(),
    "kernels": {"base"},
    "tokenizer": {"base"},
    "model": {"kernels", "base"},
    "sampling": {"kernels", "base"},
    "scheduler": {"base"},
    "engine": {"scheduler", "sampling", "model", "kernels", "base"},
    "bindings": {"engine", "scheduler", "sampling", "model", "kernels", "tokenizer", "base"},
    "tests": {"engine", "scheduler", "sampling", "model", "kernels", "tokenizer", "base"},
}
"""What each room of native/ may include from the others: downward only (rooms on one level do not know each
other)."""


def files(*suffixes: str) -> list[Path]:
    """The project's own files with these suffixes, without build folders and environments."""
    return [
        path
        for path in sorted(ROOT.rglob("*"))
        if path.suffix in suffixes and path.is_file() and not _outside(path.relative_to(ROOT))
    ]


def _outside(path: Path) -> bool:
    folders = path.parts[:-1]
    return any(part in SKIPPED_FOLDERS or (part.startswith(".") and part != ".ci") for part in folders)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- the map ---


def rooms_in_readme() -> set[str]:
    """The paths of the README's table of rooms: the first column of the lines that begin with | `."""
    return {path.rstrip("/") for path in re.findall(r"^\| `([^`]+)` \|", README, flags=re.MULTILINE)}


def rooms_on_disk() -> set[str]:
    top = {
        p
        for p in ROOT.iterdir()
        if p.is_dir() and not p.name.startswith(".") and p.name not in SKIPPED_FOLDERS
    }
    inside = {p for p in (*SRC.iterdir(), *NATIVE.iterdir()) if p.is_dir() or p.suffix == ".py"}
    kept = {p for p in top | inside if not p.name.startswith("__") and p.name not in ("src", "native")}
    return {name(p) for p in kept if p.is_file() or any(p.rglob("*.*"))}


def test_readme_maps_every_room_and_no_other() -> None:
    assert rooms_in_readme() == rooms_on_disk()


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    """A newcomer's two commands are what CI proves, to the letter."""
    commands = [line.strip() for line in re.findall(r"```sh\n(.*?)\n```", README, flags=re.DOTALL)]
    assert len(commands) == 2
    ci = [line.strip().removesuffix(" || exit 1") for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert [line for line in ci if line in commands] == commands
    assert ci[-1] == commands[1], "the tests come last, so that the run ends with their closing line"


# --- imports ---


def python(code: str, *flags: str) -> str:
    """What a new interpreter prints for `code`."""
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_import_law() -> None:
    linter = shutil.which(
        "lint-imports", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    assert linter, "lint-imports is not installed: pip install -e '.[dev]'"
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_native_include_law() -> None:
    wrong = []
    for path in files(".cc", ".h"):
        if NATIVE not in path.parents:
            continue
        room = path.relative_to(NATIVE).parts[0]
        for included in re.findall(
            r'^\s*#\s*include\s+"(\w+)/', path.read_text(encoding="utf-8"), flags=re.MULTILINE
        ):
            if included in NATIVE_LAW and included != room and included not in NATIVE_LAW[room]:
                wrong.append(f"{name(path)} includes {included}/")
    assert not wrong, wrong


def test_every_native_room_is_under_the_law() -> None:
    assert {p.name for p in NATIVE.iterdir() if p.is_dir()} <= set(NATIVE_LAW)


HEAVY = (
    "torch",
    "transformers",
    "huggingface_hub",
    "tokenizers",
    "safetensors",
    "tiktoken",
    "llguidance",
    "pydantic",
    "rich",
)


@pytest.mark.parametrize("module", ["gpt2", "gpt2.cli.main", "gpt2.config", "gpt2.protocols"])
def test_import_is_light(module: str) -> None:
    loaded = python(f"import sys, {module}; print(*sys.modules)").split()
    assert not set(HEAVY) & set(loaded)
    if module != "gpt2.config":
        assert "numpy" not in loaded, f"import {module} must not wait for numpy"


def seconds(*command: str) -> float:
    """Processor time of a new process, the best of several: what it takes where nobody else is at work."""

    def once() -> float:
        process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_utime + usage.ru_stime

    return min(once() for _ in range(7))


def test_import_takes_less_than_150_ms() -> None:
    assert seconds("-c", "import gpt2") < 0.150


def test_help_takes_less_than_150_ms() -> None:
    assert seconds("-m", "gpt2", "--help") < 0.150


def test_public_names() -> None:
    import gpt2

    assert set(gpt2.__all__) == PUBLIC
    assert all(hasattr(gpt2, public) for public in PUBLIC)


def members(thing: object) -> set[str]:
    return {member for member in dir(thing) if not member.startswith("_")}


def members_of_stub(node: ast.ClassDef) -> set[str]:
    found = {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
    found |= {
        n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    }
    return {member for member in found if not member.startswith("_")}


def test_the_stub_names_what_the_native_module_has() -> None:
    from gpt2 import _native

    tree = ast.parse((SRC / "_native.pyi").read_text(encoding="utf-8"))
    stub = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert set(stub) == members(_native)
    for title, node in stub.items():
        if isinstance(node, ast.ClassDef):
            assert members_of_stub(node) == members(getattr(_native, title)), title


# --- sizes ---


def python_functions(text: str) -> Iterator[tuple[str, int]]:
    """(name, lines) of every function; lines count from its `def` to its end, the docstring not included."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            is_doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            doc = (first.end_lineno or 0) - first.lineno + 1 if is_doc else 0
            yield node.name, (node.end_lineno or 0) - node.lineno + 1 - doc


CXX_NOISE = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', flags=re.DOTALL
)
CXX_NOT_A_FUNCTION = re.compile(r"^\s*(namespace|class|struct|union|enum|extern)\b|[=]\s*$")


def cxx_functions(text: str) -> Iterator[tuple[str, int]]:
    """(name, lines) of every function that is no lambda, by counting braces; good enough to ask a
    question."""
    clean = CXX_NOISE.sub(lambda m: "\n" * m.group().count("\n") if m.group()[0] == "/" else '""', text)
    clean = re.sub(
        r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: "\n" * m.group().count("\n"), clean, flags=re.MULTILINE
    )
    depth, inside, start, head = 0, 0, 0, 0  # inside: depth of the function that is open, 0 for none
    title = ""
    for match in re.finditer(r"[{};]", clean):
        i = match.start()
        before = clean[head:i]
        if match.group() == "{":
            depth += 1
            if not inside and "(" in before and not CXX_NOT_A_FUNCTION.search(before):
                inside, start, title = depth, head + len(before) - len(before.lstrip()), before
        elif match.group() == "}":
            if inside == depth:
                found = re.search(r"([\w:~]+)\s*\(", title)
                yield found.group(1) if found else "?", clean.count("\n", start, i) + 1
                inside = 0
            depth -= 1
        head = i + 1


def too_long() -> dict[str, int]:
    """Everything above the limits, with its lines."""
    found = {}
    for path in files(".py", ".cc", ".h"):
        text = path.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > MAX_FILE_LINES:
            found[name(path)] = lines
        functions = python_functions(text) if path.suffix == ".py" else cxx_functions(text)
        found |= {f"{name(path)}::{f}": lines for f, lines in functions if lines > MAX_FUNCTION_LINES}
    return found


def test_long_files_and_functions_have_a_reason() -> None:
    found = too_long()
    asked = {key: lines for key, lines in found.items() if key not in TOO_LONG_WITH_A_REASON}
    assert not asked, f"split these, or give the reason in TOO_LONG_WITH_A_REASON: {asked}"
    gone = set(TOO_LONG_WITH_A_REASON) - set(found)
    assert not gone, f"no longer too long; delete the reason: {gone}"


def test_the_scanners_count_lines() -> None:
    body = "\n".join(f"  f({i});" for i in range(70))
    cxx = f"// a {{\nnamespace a {{\nint g() {{ return 1; }}\nvoid A::h(int x) {{\n{body}\n}}\n}}\n"
    assert list(cxx_functions(cxx)) == [("g", 1), ("A::h", 72)]
    assert list(
        python_functions(f'def f():\n    """Doc."""\n{body.replace("  f", "    f").replace(";", "")}\n')
    ) == [("f", 71)]


# --- words ---


def test_every_file_opens_by_saying_what_it_is() -> None:
    """A .cc beside a header of the same name may leave that to the header."""
    silent = [p for p in files(".py") if not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]
    spoken = {
        p for p in files(".h", ".cc") if p.read_text(encoding="utf-8").lstrip().startswith(("//", "/*"))
    }
    silent += [p for p in files(".h", ".cc") if p not in spoken and p.with_suffix(".h") not in spoken]
    assert not [name(p) for p in silent]


FORBIDDEN = {
    "a note to self instead of an issue": re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b"),
    "a path of somebody's machine": re.compile(r"(?<![\w.])/(wo" r"rk|ro" r"ot|ho" r"me/\w+|Use" r"rs)/"),
    "instructions of the build machine": re.compile(r"-m(arch|tune)=na" r"tive"),
    "floating point other than as written": re.compile(r"-ff" r"ast-math|-Of" r"ast"),
    "loading that can run code": re.compile(r"weights_only\s*=\s*Fal" r"se"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_forbidden_words(what: str) -> None:
    texts = files(".py", ".cc", ".h", ".md", ".toml", ".txt", ".cmake", ".json", ".yml", "")
    found = []
    for path in texts:
        if SRC / "assets" in path.parents or path.stat().st_size > 1_000_000 or path.name == ".git":
            continue  # .git: in a linked working tree it is a file that says where the repository is
        text = path.read_text(encoding="utf-8", errors="replace")
        if what == "floating point other than as written" and path.suffix == ".md":
            continue  # the pages explain why we do without
        found += [f"{name(path)}: {m.group()}" for m in FORBIDDEN[what].finditer(text)]
    assert not found, f"{what}: {found}"


def test_library_code_never_asserts_prints_or_unpickles() -> None:
    """assert vanishes under -O, print belongs to the command line, and a pickle is a program."""
    wrong = []
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assert):
                wrong.append(f"{name(path)}:{node.lineno}: assert")
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if called in ("eval", "exec") or (called == "print" and SRC / "cli" not in path.parents):
                wrong.append(f"{name(path)}:{node.lineno}: {called}()")
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = (
                    [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                )
                wrong += [
                    f"{name(path)}:{node.lineno}: import {m}"
                    for m in modules
                    if m in ("pickle", "marshal", "dill")
                ]
    assert not wrong, wrong


def test_skips_give_their_reason() -> None:
    bare = re.compile(
        r"pytest\.skip\(\s*\)|mark\.skip\b(?!\()|mark\.skip\(\s*\)|mark\.skipif\((?:(?!reason=).)*?\)\n",
        re.DOTALL,
    )
    found = [
        name(p) for p in files(".py") if p != Path(__file__) and bare.search(p.read_text(encoding="utf-8"))
    ]
    assert not found


# --- pages ---


def links(page: Path) -> Iterator[Path]:
    """The local targets of a page's links."""
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            yield (page.parent / target).resolve()


def test_every_page_is_linked_from_the_index() -> None:
    pages = {p.resolve() for p in DOCS.rglob("*.md")} - {DOCS / "index.md"}
    assert not [name(p) for p in pages - set(links(DOCS / "index.md"))]


def test_links_of_the_pages_lead_somewhere() -> None:
    broken = [f"{name(page)} -> {t}" for page in files(".md") for t in links(page) if not t.exists()]
    assert not broken


def test_printed_pages_are_what_the_code_prints() -> None:
    printer = runpy.run_path(str(DOCS / "reference" / "print_pages.py"))
    for page, text in printer["pages"]().items():
        assert (DOCS / "reference" / page).read_text(encoding="utf-8") == text, (
            f"{page} is out of date: just docs"
        )


def test_the_number_of_the_version_is_said_once() -> None:
    number = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert number
    assert (
        f"## {number.group(1)}" in (ROOT / "CHANGELOG.md").read_text()
        or "Unreleased" in (ROOT / "CHANGELOG.md").read_text()
    )
