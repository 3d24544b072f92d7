"""Google's discovery document as a judge of both directions of Compute Engine traffic.

Owns: finding the method of a request, checking parameters, bodies and answers against the schemas.
Leaves to others: what a method means (compute.py). The document comes with google-api-python-client.
Invariant: whatever the document does not know is an error: unknown methods, parameters, fields, enum values.
"""

import importlib.util
import json
import os
import re
import urllib.parse

# Parameters that every Google API takes: https://cloud.google.com/apis/docs/system-parameters
SYSTEM_PARAMETERS = {
    "alt", "$alt", "fields", "key", "oauth_token", "prettyPrint", "quotaUser", "userIp", "access_token",
    "callback", "$.xgafv", "$apiVersion", "upload_protocol", "uploadType",
}


def document_path(name):
    """The document inside the installed google-api-python-client, without importing that package."""
    package = importlib.util.find_spec("googleapiclient")
    if package is None:
        raise SystemExit("google-api-python-client is missing: run scripts/emulator-gce.sh setup")
    return os.path.join(package.submodule_search_locations[0], "discovery_cache", "documents", f"{name}.json")


class Document:
    def __init__(self, name="compute.v1"):
        with open(document_path(name), encoding="utf-8") as file:
            document = json.load(file)
        self.schemas = document["schemas"]
        self.base = document.get("basePath") or "/" + document["servicePath"]
        self.routes = []
        self._collect(document)
        # The most literal first: …/aggregated/forwardingRules before …/{zone}/{resource}.
        self.routes.sort(key=lambda route: -route[2])

    def _collect(self, node):
        for resource in node.get("resources", {}).values():
            for method in resource.get("methods", {}).values():
                self.routes.append(self._route(method))
            self._collect(resource)

    @staticmethod
    def _route(method):
        pattern, literal = "", 0
        for part in re.split(r"(\{\+?[^}]+\})", method.get("flatPath", method["path"])):
            variable = re.fullmatch(r"\{\+?([^}]+)\}", part)
            pattern += f"(?P<{variable[1]}>[^/]+)" if variable else re.escape(part)
            literal += 0 if variable else len(part)
        return method["httpMethod"], re.compile(pattern + r"\Z"), literal, method

    def find(self, verb, path):
        """The method and its path parameters, or (None, {})."""
        if not path.startswith(self.base):
            return None, {}
        rest = path[len(self.base):]
        for http, pattern, _, method in self.routes:
            match = pattern.match(rest) if http == verb else None
            if match:
                return method, {key: urllib.parse.unquote(value) for key, value in match.groupdict().items()}
        return None, {}

    def check_request(self, method, path_parameters, query, body):
        errors = []
        parameters = method.get("parameters", {})
        for key, value in path_parameters.items():
            pattern = parameters.get(key, {}).get("pattern")
            if pattern and not re.fullmatch(pattern, value):
                errors.append(f"path {key}={value!r} is not {pattern}")
        for key, value in query:
            if key not in SYSTEM_PARAMETERS:
                self._check_query(parameters.get(key), key, value, errors)
        for key, parameter in parameters.items():
            if parameter.get("required") and parameter["location"] == "query" and key not in dict(query):
                errors.append(f"query parameter {key} is missing")
        if "request" in method:
            if body is None:
                errors.append("the body is missing")
            else:
                self._object(method["request"]["$ref"], body, method["request"]["$ref"], errors, method["id"])
        elif body not in (None, {}):
            errors.append("a body where none belongs")
        return errors

    @staticmethod
    def _check_query(parameter, key, value, errors):
        if not parameter or parameter.get("location") != "query":
            errors.append(f"query parameter {key} is unknown")
        elif "enum" in parameter and value not in parameter["enum"]:
            errors.append(f"query {key}={value!r} is none of {parameter['enum']}")
        elif parameter.get("type") == "integer" and not re.fullmatch(r"-?\d+", value):
            errors.append(f"query {key}={value!r} is no integer")
        elif parameter.get("type") == "boolean" and value not in ("true", "false"):
            errors.append(f"query {key}={value!r} is no boolean")

    def check_response(self, method, status, body):
        errors = []
        if status >= 400:
            error = body.get("error") if isinstance(body, dict) else None
            if not isinstance(error, dict) or error.get("code") != status or "message" not in error:
                errors.append('an error body must be {"error": {"code", "message", …}}')
        elif "response" in method:
            self._object(method["response"]["$ref"], body, method["response"]["$ref"], errors, None)
        return errors

    def _object(self, name, value, where, errors, request):
        self._value(dict(self.schemas[name], type="object"), value, where, errors, request)

    def _value(self, schema, value, where, errors, request):
        """`request` is the method's id in a request and None in an answer, where more forms are strict."""
        if "$ref" in schema:
            return self._object(schema["$ref"], value, where, errors, request)
        kind = schema.get("type")
        if value is None or kind == "any":  # null clears a field of a PATCH
            return None
        if kind == "array":
            if not isinstance(value, list):
                return errors.append(f"{where}: not an array")
            for index, item in enumerate(value):
                self._value(schema["items"], item, f"{where}[{index}]", errors, request)
        elif kind == "object":
            self._fields(schema, value, where, errors, request)
        elif kind == "string":
            self._string(schema, value, where, errors, request)
        elif kind == "integer" and (isinstance(value, bool) or not isinstance(value, int)):
            errors.append(f"{where}: not an integer: {value!r}")
        elif kind == "number" and (isinstance(value, bool) or not isinstance(value, (int, float))):
            errors.append(f"{where}: not a number: {value!r}")
        elif kind == "boolean" and not isinstance(value, bool):
            errors.append(f"{where}: not a boolean: {value!r}")
        return None

    def _fields(self, schema, value, where, errors, request):
        if not isinstance(value, dict):
            return errors.append(f"{where}: not an object")
        properties = schema.get("properties", {})
        for key, item in value.items():
            inner = properties.get(key, schema.get("additionalProperties"))
            if inner is None:
                errors.append(f"{where}.{key}: unknown field")
            else:
                self._value(inner, item, f"{where}.{key}", errors, request)
        for key, item in properties.items():
            if request and request in item.get("annotations", {}).get("required", []) and key not in value:
                errors.append(f"{where}.{key}: required by {request}")
        return None

    @staticmethod
    def _string(schema, value, where, errors, request):
        format_ = schema.get("format")
        if format_ in ("int64", "uint64", "fixed64"):
            decimal = isinstance(value, str) and re.fullmatch(r"-?\d+", value)
            number = request and isinstance(value, int) and not isinstance(value, bool)
            if not decimal and not number:
                errors.append(f"{where}: {format_} must be a decimal string: {value!r}")
        elif not isinstance(value, str):
            errors.append(f"{where}: not a string: {value!r}")
        elif "enum" in schema and value not in schema["enum"]:
            errors.append(f"{where}: {value!r} is none of {schema['enum'][:8]}")
        elif format_ == "byte" and not re.fullmatch(r"[A-Za-z0-9+/_-]*={0,2}", value):
            errors.append(f"{where}: not base64: {value!r}")
        elif "pattern" in schema and request and not re.fullmatch(schema["pattern"], value):
            errors.append(f"{where}: {value!r} is not {schema['pattern']}")
