"""What reaches the terminal: every text as it is, whatever is in it, on any stream."""

import ast
import io
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from mnet_jax.commands import arguments, entry
from mnet_jax.commands.terminal import Terminal
from mnet_jax.validation import one_line, printable

ROOT = Path(__file__).parents[2]
WIDTH = 4096
HOSTILE = (
    "\x1b[31mred", "\x9b31mred", "a\nexperiments.train: forged", "a\rb", "tab\tbed", "\x07\x08",
    "[bold]b[/red]", "[/]", ":smile:", "\\[red]", "\u202egpj.exe", "\u2066\u2069", "\u2028\u2029",
    os.fsdecode(b"\xff\xfe.png"), "\ud800", "\x00", "", "±²…⁻¹ⁿ─", "é", "漢字",
)  # fmt: skip
texts = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(exclude_categories=[])),
    st.lists(st.sampled_from(HOSTILE)).map("".join),
)
# Control, format (bidirectional overrides), surrogate; separators of lines and paragraphs.
OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")


def obeyed(text):
    """The characters that a terminal or an editor does not show but act on."""
    return {c for c in text if unicodedata.category(c) in OBEYED}


@given(texts)
@example("\x1b[31m\n")
def test_printable_text_is_itself_and_of_the_rest_nothing_is_obeyed(text):
    shown = printable(text)
    assert not obeyed(shown)
    assert printable(shown) == shown
    kept = [c for c in text if c.isprintable()]
    assert shown == text if len(kept) == len(text) else len(shown) > len(text)
    shown.encode()  # surrogates are escaped


@given(texts)
def test_one_line_is_one(text):
    line = one_line(text)
    assert not obeyed(line) and "  " not in line.rstrip(".")
    assert len(line.splitlines()) <= 1


def printed(encoding, *objects, **options):
    """What a terminal writes on a stream of an encoding that raises where it lacks something."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="strict", newline="\n")
    Terminal(file, WIDTH).print(*objects, **options)
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
@given(text=texts)
def test_a_printed_string_is_one_line_in_which_nothing_is_obeyed(encoding, text):
    out = printed(encoding, text, soft_wrap=True)
    assert out.endswith("\n") and "\n" not in out[:-1]
    assert not obeyed(out[:-1])
    if text.isprintable() and text.isascii():
        assert out[:-1] == text  # brackets and colons too


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@given(first=texts, second=texts)
def test_a_table_has_a_line_a_row_whatever_its_cells_are(encoding, first, second):
    table = Table(box=None, title="a[b]", caption=first)
    table.add_column(second)
    table.add_column("column")
    table.add_row(first, second)
    out = printed(encoding, table)
    assert not obeyed(out.replace("\n", ""))
    lines = out.splitlines()
    assert len(lines) <= 4  # title, header, row and caption, of which what is empty has none
    assert "a[b]" in lines[0]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@given(lines=st.lists(texts, min_size=1))
def test_a_layout_of_our_own_has_lines_and_in_them_nothing_is_obeyed(encoding, lines):
    out = printed(encoding, Text("\n".join(lines)))
    assert not obeyed(out.replace("\n", ""))


def test_columns_are_as_wide_as_what_is_shown():
    table = Table(box=None, padding=0, pad_edge=False, show_header=False)
    for name in ("\x1b[31m", "[b]", "±", "plain"):
        table.add_row(name, "|")
    columns = {line.index("|") for line in printed("ascii", table).splitlines()}
    assert columns == {len("\\x1b[31m")}


@given(texts)
def test_a_refusal_is_one_line_in_which_nothing_is_obeyed(text):
    file = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", file)
        with pytest.raises(SystemExit) as leaving:
            arguments.refuse("evaluate", f"image: {text}")
    assert leaving.value.code == entry.REFUSED
    (line,) = file.getvalue().split("\n")[:-1]
    assert line.startswith("experiments.evaluate: image: ") and not obeyed(line)


GATES = {
    "entry.py": {"os.write"},
    "messages.py": {"sys.stderr.write"},
    "terminal.py": {"super().print"},
}
PRINTERS = {  # what reaches a stream by another way than those
    "print", "rich.print", "sys.stdout.write", "sys.stderr.write", "os.write", "Console",
    "rich.console.Console", "Text.from_markup", "Text.from_ansi", "traceback.print_exc",
    "traceback.print_exception", "sys.stdout.writelines", "sys.stderr.writelines",
}  # fmt: skip
ANSWERS_ITS_PARENT = {"platforms.py": {"sys.stdout.write"}}


@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/*.py")), ids=lambda p: p.stem)
def test_commands_print_by_the_terminal_alone(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    used = {ast.unparse(call.func) for call in calls}
    allowed = GATES.get(path.name, set()) | ANSWERS_ITS_PARENT.get(path.name, set())
    assert not (used & PRINTERS) - allowed
    for call in calls:
        marked = [k for k in call.keywords if k.arg in ("markup", "emoji")]
        assert all(ast.unparse(k.value) == "False" for k in marked), ast.unparse(call)
        if ast.unparse(call.func) == "TextColumn":  # which is markup unless it says otherwise
            assert marked, ast.unparse(call)
