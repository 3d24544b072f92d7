#!/usr/bin/env python3
"""Compares docs/conditions.md with the code: types of conditions, the tables of reasons, and Events, in both directions."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Where a match gives each kind its reason.
TABLES = ["providers/core/src/error.rs", "providers/core/src/plan.rs", "operator/src/desired/problem.rs"]


def sources():
    for folder in ("operator/src", "providers", "nodeproxy/src"):
        for path in (ROOT / folder).glob("**/*.rs"):
            if not re.search(r"/tests?[/.]|/testing", path.as_posix()):
                yield path.read_text().split("#[cfg(test)]")[0]


def main():
    code = "\n".join(sources())
    literals = set(re.findall(r'"((?:portico\.dev/)?[A-Z][A-Za-z]+)"', code))
    needed = {literal for literal in literals if literal.startswith("portico.dev/")}
    for table in TABLES:
        needed |= set(re.findall(r'=> "([A-Z]\w+)"', (ROOT / table).read_text()))
    for place in (r"Severity::\w+, ", r"Truth::\w+, ", r"waits_for\(service, ", r"\breason: "):
        needed |= set(re.findall(place + r'"([A-Z]\w+)"', code))
    page = (ROOT / "docs/conditions.md").read_text()
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    mentioned = set(re.findall(r"`((?:portico\.dev/)?[A-Z][A-Za-z]+)`", page))
    wrong = [f"docs/conditions.md lacks {name}" for name in sorted(needed - mentioned)]
    wrong += [f"docs/conditions.md has {name}, which the code has not" for name in sorted(named - literals)]
    print("\n".join(wrong + [f"conditions: {len(wrong)}"]))
    return bool(wrong)


sys.exit(main())
