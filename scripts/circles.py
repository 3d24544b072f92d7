#!/usr/bin/env python3
"""Fails where files of a crate import each other in a circle: such files cannot be read, moved or tested one by one.

    scripts/circles.py      from anywhere; prints each circle with the names that tie it

Test code is left out, and so are imports between a file and the files of the folder that bears its name (a module and its
parts). Reads `use crate::…`, `use super::…` and paths written in full, as text.
"""
import pathlib
import re
import subprocess
import sys


def modules(src):
    found = {}
    for path in src.rglob("*.rs"):
        parts = path.relative_to(src).with_suffix("").parts
        if "tests" in parts or "testing" in parts or path.name in ("main.rs", "testing.rs"):
            continue
        found[() if parts == ("lib",) else parts] = path
    return found

def code(path):
    text = path.read_text(errors="replace")
    text = re.sub(r"//[^\n]*", "", text)
    return re.sub(r"#\[cfg\(test\)\]\s*(pub\S*\s+)?mod \w+ \{.*\Z", "", text, flags=re.S)

def expand(tree):
    match = re.match(r"^([^{]*)\{(.*)\}$", tree.strip(), re.S)
    if not match:
        return [re.sub(r"\s+as\s+\w+", "", tree.strip())]
    parts, depth, part = [], 0, ""
    for char in match.group(2):
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            parts, part = parts + [part], ""
        else:
            part += char
    return [match.group(1) + one for each in parts + [part] if each.strip() for one in expand(each)]

def target(name, path, known):
    path = [piece.strip() for piece in path if piece.strip()]
    if path[0] == "crate":
        base, path = [], path[1:]
    elif path[0] in ("self", "super"):
        base = list(name)
        while path and path[0] in ("self", "super"):
            base, path = (base[:-1] if path[0] == "super" else base), path[1:]
    else:
        return None
    full = base + path
    return next((tuple(full[:n]) for n in range(len(full), 0, -1) if tuple(full[:n]) in known), None)

def circles(edges):
    """Tarjan's strongly connected components of two files or more."""
    index, low, stack, out = {}, {}, [], []
    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = []
            while not group or group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                out.append(sorted(group))
    for node in edges:
        if node not in index:
            visit(node)
    return out

def main():
    sys.setrecursionlimit(10_000)
    root = pathlib.Path(__file__).resolve().parent.parent
    total = 0
    listed = subprocess.run(["git", "ls-files", "*Cargo.toml"], cwd=root, check=True, capture_output=True, text=True)
    for manifest in (root / line for line in listed.stdout.split()):
        src = manifest.parent / "src"
        if not src.is_dir():
            continue
        known = modules(src)
        edges = {name: {} for name in known}
        for name, path in known.items():
            text = code(path)
            trees = re.findall(r"\buse\s+((?:crate|super|self)\b[^;]*);", text)
            paths = [one.split("::") for tree in trees for one in expand(tree)]
            paths += [one.split("::") for one in re.findall(r"\b((?:crate|super)(?:::\w+)+)", re.sub(r"\buse\s+[^;]*;", "", text))]
            for path in paths:
                other = target(name, path, known)
                if other and other != name and other[: len(name)] != name and name[: len(other)] != other:
                    edges[name][other] = path[-1].strip()
        for group in circles(edges):
            total += 1
            print(f"{manifest.parent.relative_to(root)}: {len(group)} files: " + ", ".join("/".join(one) + ".rs" for one in group[:12]))
            for name in group[:12]:
                ties = [f"{'/'.join(other)} ({what})" for other, what in edges[name].items() if other in group]
                print(f"    {'/'.join(name)} -> {'; '.join(ties)}")
    print(f"circles: {total}")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
