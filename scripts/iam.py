#!/usr/bin/env python3
"""Compares docs/iam with the permissions that docs/aws.md and docs/gce.md list; a test of providers/aws compares docs/aws.md with the calls."""
import json
import pathlib
import re
import sys

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"


def aws_page():
    block = (DOCS / "aws.md").read_text().split("## Permissions")[1].split("```")[1]
    prefix, actions = "", set()
    for word in block.split():
        if word.endswith(":"):
            prefix = word
        else:
            actions.add(prefix + word)
    return actions


def aws_policy():
    statements = json.loads((DOCS / "iam/aws-policy.json").read_text())["Statement"]
    return [action for statement in statements for action in statement["Action"]]


def gce_page():
    """Rows of kinds and verbs; a verb with a dot names its kind itself."""
    table = (DOCS / "gce.md").read_text().split("| on | permissions |\n|---|---|\n")[1].split("\n\n")[0]
    permissions = set()
    for row in table.splitlines():
        kinds, verbs = row.strip("| ").split(" | ")
        for verb in " ".join(re.findall(r"`([^`]+)`", verbs)).split():
            named = [verb] if "." in verb else [f"{kind}.{verb}" for kind in re.findall(r"`([a-zA-Z]+)`", kinds)]
            permissions.update(f"compute.{name}" for name in named)
    return permissions


def gce_role():
    lines = (DOCS / "iam/gcp-role.yaml").read_text().split("includedPermissions:\n")[1].splitlines()
    return [line.removeprefix("- ") for line in lines]


wrong = 0
for name, page, granted in [("aws-policy.json", aws_page(), aws_policy()), ("gcp-role.yaml", gce_page(), gce_role())]:
    twice = {permission for permission in granted if granted.count(permission) > 1}
    for why, permissions in [("missing", page - set(granted)), ("not on the page", set(granted) - page), ("twice", twice)]:
        for permission in sorted(permissions):
            print(f"iam: docs/iam/{name}: {permission}: {why}", file=sys.stderr)
            wrong += 1
sys.exit(wrong > 0)
