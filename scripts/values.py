#!/usr/bin/env python3
"""Writes the chart's README from the comments of values.yaml, or with --check says whether it is stale."""
import pathlib
import re
import sys

CHART = pathlib.Path(__file__).resolve().parent.parent / "helm/portico"
HEAD = """# The Portico chart

Load balancers and a node proxy for Kubernetes Services. Made from `values.yaml` by `scripts/values.py`; lint says when it is stale.
`examples/` has values for kubeadm, k3s, EKS, GKE and bare metal. `values.schema.json` says what each value may be: helm refuses
anything else, and names the key. How to install, upgrade and uninstall: `docs/install.md` and `docs/upgrade.md` of the repository.

"""


def entries(text):
    """Each key with its path, its default (None: it has keys of its own) and its comment."""
    path, comment = [], []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if not line.strip():
            comment = []
            continue
        if line.strip().startswith("#"):
            comment.append(line.strip().lstrip("# "))
            continue
        indent, key, rest = re.match(r"( *)([\w-]+):(.*)$", line).groups()
        value, _, trailing = rest.partition(" #") if not rest.strip().startswith('"') else re.match(r'( *"[^"]*")()(.*)$', rest).groups()
        path = path[: len(indent) // 2] + [key]
        following = next((later for later in lines[number + 1:] if later.strip()), "")
        nested = not value.strip() and len(following) - len(following.lstrip()) > len(indent)
        said = " ".join(comment + [trailing.strip().lstrip("# ")]).strip()
        yield ".".join(path), None if nested else value.strip(), said
        comment = []


def page():
    rows, part = [HEAD], None
    for path, default, comment in entries((CHART / "values.yaml").read_text()):
        top = path.split(".")[0]
        if top != part and top in ("operator", "nodeproxy"):
            rows.append(f"\n## {top}\n\n")
        if part is None or (top != part and top in ("operator", "nodeproxy")):
            rows.append("| key | default | |\n|---|---|---|\n")
        part = top
        if default is None and not comment:
            continue
        comment = comment.replace("|", "\\|").replace("<", "&lt;")
        shown = "" if default is None else f"`{default}`"
        rows.append(f"| `{path}` | {shown} | {comment} |\n".replace("|  |", "| |"))
    return "".join(rows)


def main():
    readme = CHART / "README.md"
    if "--check" not in sys.argv:
        readme.write_text(page())
    elif not readme.exists() or readme.read_text() != page():
        sys.exit("values: helm/portico/README.md is stale: run scripts/values.py")


main()
