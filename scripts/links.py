#!/usr/bin/env python3
"""Checks links: of the pages at the root to files and headings, and with --book those of the
built book (`make docs`)."""
import html
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BOOK = ROOT / "target/book"


def headings(page):
    """The anchors of a Markdown page, as GitHub and mdBook make them."""
    names = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in names}


def markdown(page):
    text = re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", link):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            if not target.exists():
                yield f"{page.relative_to(ROOT)}: {link}: no such file"
            elif anchor and anchor not in headings(target):
                yield f"{page.relative_to(ROOT)}: {link}: no such heading"


def built(page, ids):
    for link in re.findall(r'<(?:a|img|script|link)\b[^>]*?\b(?:href|src)="([^"]*)"', page.read_text()):
        if not re.match(r"[a-z]+:|//", link):
            name, _, anchor = html.unescape(link).partition("#")
            target = (page.parent / name).resolve() if name else page
            if not target.exists():
                yield f"{page.relative_to(BOOK)}: {link}: no such page"
            elif anchor and target.suffix == ".html" and anchor not in ids(target):
                yield f"{page.relative_to(BOOK)}: {link}: no such heading"


def main():
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files", "*.md"], capture_output=True, text=True, check=True).stdout
    wrong = [line for name in tracked.split() for line in markdown(ROOT / name)]
    known = {}

    def ids(page):
        if page not in known:
            known[page] = set(re.findall(r'\bid="([^"]*)"', page.read_text()))
        return known[page]

    found = BOOK.glob("**/*.html") if "--book" in sys.argv else ()
    pages = [page for page in found if page.name not in ("404.html", "print.html", "toc.html")]
    wrong += [line for page in pages for line in built(page, ids)]
    listed = (ROOT / "docs/SUMMARY.md").read_text()
    wrong += [f"docs/{page.name}: not in SUMMARY.md" for page in (ROOT / "docs").glob("*.md") if f"({page.name})" not in listed and page.name != "SUMMARY.md"]
    print("\n".join(wrong + [f"links: {len(wrong)}"]))
    return bool(wrong)


sys.exit(main())
