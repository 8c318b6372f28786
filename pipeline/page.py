"""A page of text, tables, pictures and listings, as HTML that needs nothing else, and as Markdown."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1c1c1c; background: #fff;
  max-width: 62rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; padding-top: .7rem;
  border-top: 1px solid #ddd; }
p.verdict { font-size: 1.08rem; border-left: 4px solid #0072B2; padding: .5rem .9rem; background: #f3f7fb; }
table { border-collapse: collapse; margin: .8rem 0; font-size: .9rem; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .32rem .55rem; border-bottom: 1px solid #e4e4e4;
  overflow-wrap: break-word; }
th { background: #f6f6f6; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
img { max-width: 100%; height: auto; } pre { background: #f6f6f6; padding: .8rem; font-size: .8rem; overflow-x: auto; }
details summary { cursor: pointer; color: #0072B2; }
"""


@dataclass(frozen=True)
class Text:
    """A paragraph; a verdict stands out."""

    text: str
    verdict: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under a head; the columns numbered in `numbers` hold numbers."""

    head: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Image:
    """A PNG and what it shows."""

    png: bytes
    about: str


@dataclass(frozen=True)
class Listing:
    """A text as it is, folded away under its title."""

    title: str
    text: str


Block = Text | Table | Image | Listing


@dataclass(frozen=True)
class Section:
    """A part of a page under its own title."""

    title: str
    blocks: Sequence[Block]


def to_html(title: str, sections: Sequence[Section]) -> str:
    """One file that opens nothing else. All text is escaped: a model's answer cannot become part of the page."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        body += [f"<h2>{html.escape(section.title)}</h2>"] if section.title else []
        body += [_html(block) for block in section.blocks]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _html(block: Block) -> str:
    if isinstance(block, Text):
        kind = ' class="verdict"' if block.verdict else ""
        return f"<p{kind}>{html.escape(block.text)}</p>"
    if isinstance(block, Image):
        data = base64.b64encode(block.png).decode()
        return f'<img alt="{html.escape(block.about)}" src="data:image/png;base64,{data}">'
    if isinstance(block, Listing):
        return f"<details><summary>{html.escape(block.title)}</summary><pre>{html.escape(block.text)}</pre></details>"

    def cells(row: Sequence[str], tag: str) -> str:
        kinds = [' class="n"' if i in block.numbers else "" for i in range(len(row))]
        return (
            "<tr>" + "".join(f"<{tag}{k}>{html.escape(c)}</{tag}>" for c, k in zip(row, kinds, strict=True)) + "</tr>"
        )

    rows = "\n".join(cells(row, "td") for row in block.rows)
    head = f"<thead>{cells(block.head, 'th')}</thead>" if any(block.head) else ""
    return f"<table>{head}<tbody>\n{rows}\n</tbody></table>"


def to_markdown(title: str, sections: Sequence[Section], pictures: str) -> tuple[str, dict[str, bytes]]:
    """The same as Markdown, and its pictures by file name, in the folder `pictures` beside it."""
    lines, files = [f"# {title}", ""], dict[str, bytes]()
    for section in sections:
        lines += [f"## {section.title}", ""] if section.title else []
        for block in section.blocks:
            if isinstance(block, Image):
                name = f"{len(files) + 1}.png"
                files[name] = block.png
                lines += [f"![{block.about}]({pictures}/{name})", ""]
            else:
                lines += [_markdown(block), ""]
    return "\n".join(lines), files


def _markdown(block: Text | Table | Listing) -> str:
    if isinstance(block, Text):
        return f"**{_inline(block.text)}**" if block.verdict else _inline(block.text)
    if isinstance(block, Listing):
        return f"### {block.title}\n\n" + "\n".join(f"    {line}" for line in block.text.splitlines())
    rule = "|" + "|".join("---:" if i in block.numbers else "---" for i in range(len(block.head))) + "|"
    rows = ["| " + " | ".join(_inline(cell) for cell in row) + " |" for row in (block.head, *block.rows)]
    return "\n".join([rows[0], rule, *rows[1:]])


def _inline(text: str) -> str:
    """On one line, with nothing that Markdown or HTML would take for its own."""
    escaped = "".join(f"\\{c}" if c in "\\`*_|[]#" else c for c in " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def write(folder: Path, title: str, sections: Sequence[Section]) -> tuple[Path, Path]:
    """Write report.html and report.md (with its pictures in report_files/) into `folder`."""
    page, text = folder / "report.html", folder / "report.md"
    markdown, files = to_markdown(title, sections, "report_files")
    page.write_text(to_html(title, sections), encoding="utf-8")
    text.write_text(markdown, encoding="utf-8")
    (folder / "report_files").mkdir(exist_ok=True)
    for name, png in files.items():
        (folder / "report_files" / name).write_bytes(png)
    return page, text
