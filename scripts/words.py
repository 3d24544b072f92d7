#!/usr/bin/env python3
"""Fails where a name is not the field's: identifiers, file names and metric names with a word of Portico's former dialect.

    scripts/words.py        from anywhere; prints file, line, name and the term to use

Comments and messages are English and are left alone, and so are names of five words or more: those are sentences, as tests
have them. A word that another part of the code uses in the field's own sense (`memory` in megabytes, `stage` of a plan,
Compute Engine's `firewall`) is refused only in the folders listed with it.
"""
import pathlib
import re
import subprocess
import sys

# Words, the field's term, and the folders where it is refused ("": all).
FORMER = [
    ("go goes", "attempt", ("operator/", "providers/", "e2e/")),
    ("gate gates", "limiter, permits, readiness", ("operator/", "nodeproxy/", "e2e/tests/")),
    ("lane lanes", "lock, locks; priority class", ("operator/", "providers/")),
    ("cause", "trigger", ("operator/",)),
    ("world worlds", "cache, fixture", ("",)),
    ("look looks", "read, check, poll", ("",)),
    ("believe believed believes belief beliefs doubt doubts doubted", "cached, cache, invalidate", ("",)),
    ("memory", "cache", ("providers/aws/", "providers/gce/")),
    ("seal seals sealed unseal unsealed", "synced hash, mark synced, mark dirty", ("providers/",)),
    ("ledger ledgers", "shadow state", ("",)),
    ("stir stirs stirred contends", "requeue, blocked by group", ("",)),
    ("company companies farewell crowd crowds somebody", "members, leave group, over quota, another owner", ("",)),
    ("widen widens narrow narrows", "additive, destructive", ("",)),
    ("audience", "reporters", ("nodeproxy/", "operator/")),
    ("tell tells told telling complain complains", "report, reported, sender, warn", ("",)),
    ("carrier carriers", "dataplane setup", ("",)),
    ("facts", "input events", ("nodeproxy/",)),
    ("rival rivals stray strays", "other proxy, misrouted", ("nodeproxy/",)),
    ("theatre scene scenes ground", "shared cluster, fixture", ("",)),
    ("stage", "shared cluster", ("e2e/tests/", "e2e/src/scenario")),
    ("firewall firewalls", "security group", ("providers/aws/", "emulators/aws/")),
]
SENTENCE = 5
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
METRIC = re.compile(r'"(portico_[a-z0-9_]+)"')
REGISTERED = re.compile(r'(\bregister\(\s*)"([a-z0-9_]+)"')


def code(text, python):
    """The text without comments and without what is in quotes; names of metrics stay."""
    comment, quoted = (r"#[^\n]*", r'"""(?:.|\n)*?"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'')
    if not python:
        comment, quoted = (r"//[^\n]*", r'r#"(?:.|\n)*?"#|"(?:\\(?:.|\n)|[^"\\])*"|\'(?:\\[^\'\n]+|[^\'\\\n])\'')

    def blank(found):
        return METRIC.sub(r"\1", found[0]) if METRIC.fullmatch(found[0]) else "\n" * found[0].count("\n")

    return re.sub(f"{quoted}|{comment}", blank, REGISTERED.sub(r"\1\2", text))


def offences(path, text):
    """Each line, name and term in `text`, and in the path itself."""
    terms = {
        word: term
        for words, term, folders in FORMER
        if any(path.startswith(folder) for folder in folders)
        for word in words.split()
    }
    names = pathlib.PurePath(path).with_suffix("").parts
    lines = [*((0, name) for name in names), *enumerate(text.split("\n"), 1)]
    for number, line in lines:
        for name in NAME.findall(line):
            parts = [part.lower() for part in WORD.findall(name)]
            if len(parts) < SENTENCE:
                yield from ((number, name, terms[part]) for part in parts if part in terms)


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    listed = subprocess.run(["git", "ls-files", "*.rs", "*.py"], cwd=root, check=True, capture_output=True, text=True)
    found = 0
    for path in listed.stdout.split():
        if path.startswith("scripts/"):
            continue
        text = code((root / path).read_text(), path.endswith(".py"))
        for number, name, term in offences(path, text):
            found += 1
            print(f"{path}:{number}: {name}: the field says {term}")
    print(f"words: {found}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
