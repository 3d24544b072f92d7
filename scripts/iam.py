#!/usr/bin/env python3
"""Compares docs/iam with the permissions that docs/aws.md and docs/gce.md list; a test of providers/aws compares
docs/aws.md with the calls, and this docs/gce.md with those in the code of providers/gce."""
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


# The permission of each method of Compute Engine's API, where it has another name.
# Source: <https://cloud.google.com/compute/docs/reference/rest/v1>, each method's "IAM Permissions".
VERBS = {
    "insert": "create", "patch": "update", "aggregated_list": "list", "get_health": "get", "list_network_endpoints": "get",
    "attach_network_endpoints": "attachNetworkEndpoints", "detach_network_endpoints": "detachNetworkEndpoints",
    "add_instances": "update", "remove_instances": "update", "list_instances": "list",
}


def gce_calls():
    """The permission of each call that the provider's code can make."""
    code = (DOCS.parent / "providers/gce/src/cloud/sdk.rs").read_text()
    code += "".join(path.read_text() for path in (DOCS.parent / "providers/gce/src/cloud/sdk").glob("*.rs"))
    fields = re.search(r"pub struct SdkCloud \{(.*?)\n\}", code, re.S).group(1)
    kinds = {field: kind[0].lower() + kind[1:] for field, kind in re.findall(r"(\w+): ([A-Z]\w+),", fields)}
    calls = re.findall(r"self\s*\.(\w+)\s*\.([a-z_]+)\(\)", code)
    return {f"compute.{kinds[field]}.{VERBS.get(verb, verb)}" for field, verb in calls if field in kinds}


wrong = 0
# Other permissions are for what a call refers to: `use`, `createInternal`, `updatePolicy`.
called = {permission for permission in gce_page() if re.search(r"\.(create|delete|get|list|update|(at|de)tachNetworkEndpoints)$", permission)}
called = {permission for permission in called if "publicDelegatedPrefixes" not in permission}
for why, permissions in [("is called, and not on the page", gce_calls() - called), ("is on the page, and never called", called - gce_calls())]:
    for permission in sorted(permissions):
        print(f"iam: docs/gce.md: {permission} {why}", file=sys.stderr)
        wrong += 1
for name, page, granted in [("aws-policy.json", aws_page(), aws_policy()), ("gcp-role.yaml", gce_page(), gce_role())]:
    twice = {permission for permission in granted if granted.count(permission) > 1}
    for why, permissions in [("missing", page - set(granted)), ("not on the page", set(granted) - page), ("twice", twice)]:
        for permission in sorted(permissions):
            print(f"iam: docs/iam/{name}: {permission}: {why}", file=sys.stderr)
            wrong += 1
sys.exit(wrong > 0)
