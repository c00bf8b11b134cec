"""Writes every file that is derived from the code: `python -m vllm_operator.generate`, from the repository's root.

With `--check` it writes nothing, names each file that differs, and exits 1 if there is one.
"""

import argparse
import ast
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from vllm_operator.api import conditions
from vllm_operator.api.crd import CRD_NAME, Schema, crd
from vllm_operator.api.types import API_VERSION, KIND
from vllm_operator.cluster.permissions import (
    CLUSTER_RULES,
    GATEWAY_OPERATOR_RULES,
    GATEWAY_RULES,
    LOG_RULES,
    NODE_RULES,
    OWN_NAMESPACE_RULES,
    Rule,
)
from vllm_operator.engine.recipes import Recipe, recipes
from vllm_operator.hub.chat_template import MARKERS

NAME = "vllm-operator"
NAMESPACE = "vllm-operator-system"
LEADER_ELECTION = f"{NAME}-leader-election"
NODES = f"{NAME}-nodes"

CHART_RULES = {
    "cluster-rules": CLUSTER_RULES,
    "log-rules": LOG_RULES,
    "node-rules": NODE_RULES,
    "own-namespace-rules": OWN_NAMESPACE_RULES,
    "gateway-rules": GATEWAY_RULES,
    "gateway-operator-rules": GATEWAY_OPERATOR_RULES,
}
"""The chart's files of rules."""

YAML_HEADER = "# Written by `python -m vllm_operator.generate`. Do not edit.\n"
MARKDOWN_HEADER = "<!-- Written by `python -m vllm_operator.generate`. Do not edit. -->\n\n"


def files() -> dict[str, str]:
    """Return the text of every generated file, by its path from the repository's root."""
    definition = crd()
    return {
        "crds/vllm-operator.io_vllmmodels.yaml": YAML_HEADER + to_yaml(definition),
        "charts/vllm-operator/files/crds/vllm-operator.io_vllmmodels.yaml": YAML_HEADER + to_yaml(definition),
        **{
            f"charts/vllm-operator/files/rbac/{name}.yaml": YAML_HEADER + rules_yaml(rules)
            for name, rules in CHART_RULES.items()
        },
        "manifests/base/rbac.yaml": YAML_HEADER + rbac_yaml(),
        "docs/reference/vllmmodel.md": MARKDOWN_HEADER + model_reference(definition),
        "docs/reference/conditions.md": MARKDOWN_HEADER + conditions_reference(),
        "docs/reference/recipes.md": MARKDOWN_HEADER + recipes_reference(),
    }


class _Dumper(yaml.SafeDumper):
    """YAML as people write it: lists indented under their key, no anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(value: Any) -> str:
    """Return the value as YAML with keys in the order in which they stand."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def rules_yaml(rules: Iterable[Rule], *, indent: str = "") -> str:
    """Return rules as a YAML list, each below its reason."""
    lines = []
    for rule in rules:
        lines.append(f"# {rule.reason}")
        lines.extend(to_yaml([rule.as_rbac()]).splitlines())
    return "".join(f"{indent}{line}\n" for line in lines)


def rbac_yaml() -> str:
    """Return the roles of an installation without Helm. Its ServiceAccount is another file's."""
    parts = []
    for name, suffix, namespace, rules in (
        (NAME, "ClusterRole", None, (*CLUSTER_RULES, *LOG_RULES)),
        (NODES, "ClusterRole", None, NODE_RULES),
        (LEADER_ELECTION, "Role", NAMESPACE, OWN_NAMESPACE_RULES),
    ):
        metadata: dict[str, Any] = {"name": name} | ({"namespace": namespace} if namespace else {})
        head = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": suffix, "metadata": metadata}
        parts.append(to_yaml(head) + "rules:\n" + rules_yaml(rules, indent="  "))
        parts.append(
            to_yaml(
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": f"{suffix}Binding",
                    "metadata": metadata,
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": suffix, "name": name},
                    "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
                }
            )
        )
    return "---\n".join(parts)


def model_reference(definition: Mapping[str, Any]) -> str:
    """Return the reference of every field of the resource, as Markdown."""
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    lines = [
        f"# {KIND}",
        "",
        f"`apiVersion: {API_VERSION}`, `kind: {KIND}`. The same text is in `kubectl explain {CRD_NAME.split('.')[0]}`.",
        "A field's name ends with `[]` where its value is a list, and `.*` stands for any key of a map.",
        "Only `spec.model` must be given. “Default” is what the API server writes; what the operator does without a",
        "field is in its description.",
        "",
        "## Rules for the whole object",
        "",
        *(f"- {rule['message']}" for rule in schema.get("x-kubernetes-validations", ())),
        "",
    ]
    for part in ("spec", "status"):
        lines += [f"## {part}", ""]
        lines += _rows(("Field", "Type", "Bounds", "Default", "Description"))
        for path, node, required in _nodes(schema["properties"][part], part):
            lines += _row(
                f"`{path}`",
                _type(node) + (" (required)" if required else ""),
                _bounds(node),
                f"`{node['default']}`" if "default" in node else "",
                _description(node),
            )
        lines.append("")
    return "\n".join(lines)


def conditions_reference() -> str:
    """Return the conditions and reasons, as Markdown."""
    documented = _enum_docstrings(conditions.ConditionType)
    lines = ["# Conditions", "", *_rows(("Type", "True means"))]
    for condition in conditions.ConditionType:
        lines += _row(f"`{condition}`", documented[condition.name])
    lines += ["", "## Reasons", "", *_rows(("Reason", "What it means", "What to do"))]
    for reason in sorted(conditions.Reason):
        meaning, remedy = conditions.REASONS[reason]
        lines += _row(f"`{reason}`", meaning, remedy)
    return "\n".join([*lines, ""])


def recipes_reference() -> str:
    """Return what is chosen for which model, as Markdown."""
    lines = [
        "# Parsers and options by model",
        "",
        "What the operator chooses where the spec does not say it, from `operator/vllm_operator/engine/recipes.yaml`. [Tool calls and",
        "reasoning](../parsers.md) says how. *with* and *without* speak of the chat template. A name counts only where there is no",
        "template to be read.",
        "",
        *_rows(("Family", "Known by", "Parser of tool calls", "Parser of reasoning", "Options")),
    ]
    for recipe in recipes():
        lines += _row(
            recipe.family,
            "; ".join(_known_by(recipe)),
            _first_of(recipe.tool_call_parser),
            _first_of(recipe.reasoning_parser) + _when(recipe),
            "<br>".join(f"`{name}: {json.dumps(value)}`" for name, value in recipe.options.items()),
        )
    return "\n".join([*lines, ""])


def _known_by(recipe: Recipe) -> Iterator[str]:
    """Yield what a model of the family is known by, in words."""
    if recipe.repositories:
        yield "repository " + ", ".join(f"`{name}`" for name in recipe.repositories)
    config = [f"`{name}`" for name in (*recipe.architectures, *recipe.model_types)]
    template = [f"with `{MARKERS[name]}`" for name in recipe.template]
    template += [f"without `{MARKERS[name]}`" for name in recipe.template_lacks]
    if config or template:
        yield ", ".join([" or ".join(config) or "any architecture", *template])
    if recipe.names:
        yield "by the name: " + " or ".join(f"`{name}`" for name in recipe.names)


def _first_of(names: Iterable[str]) -> str:
    return ", else ".join(f"`{name}`" for name in names)


def _when(recipe: Recipe) -> str:
    """Return when a model of the family reasons, in words; nothing if all of them do."""
    if not recipe.reasoning_template:
        return ""
    return " with " + " or ".join(f"`{MARKERS[name]}`" for name in recipe.reasoning_template)


def _nodes(schema: Schema, path: str, required: bool = False) -> Iterator[tuple[str, Schema, bool]]:
    """Yield every node of the schema below `path`, parents first: its path, its schema, whether it must be given."""
    for name, child in schema.get("properties", {}).items():
        here, node = f"{path}.{name}", child
        must = name in schema.get("required", ())
        # A list's or map's own row tells of its elements, unless those have fields of their own.
        yield here + ("[]" if node.get("type") == "array" else ""), node, must
        if node.get("type") == "array":
            yield from _nodes(node["items"], f"{here}[]")
        elif isinstance(node.get("additionalProperties"), dict):
            yield from _nodes(node["additionalProperties"], f"{here}.*")
        # What a free object declares, it declares in order to refuse it; the object's own row says so.
        elif not node.get("x-kubernetes-preserve-unknown-fields"):
            yield from _nodes(node, here)


def _type(node: Schema) -> str:
    """Return the type in words."""
    if node.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if node.get("type") == "array":
        return f"list of {_type(node['items'])}"
    if isinstance(node.get("additionalProperties"), dict):
        return f"map of {_type(node['additionalProperties'])}"
    if node.get("x-kubernetes-preserve-unknown-fields"):
        return "object with any fields" if node.get("type") == "object" else "any"
    return str(node["type"])


def _bounds(node: Schema) -> str:
    """Return enum, bounds and pattern in words."""
    parts = []
    if "enum" in node:
        parts.append("one of " + ", ".join(f"`{value}`" if value else '`""`' for value in node["enum"]))
    least, most = node.get("minimum"), node.get("maximum")
    if least is not None:
        parts.append(f"{'>' if node.get('exclusiveMinimum') else '≥'} {least}")
    if most is not None:
        parts.append(f"{'<' if node.get('exclusiveMaximum') else '≤'} {most}")
    for kind, unit in (("Length", "characters"), ("Items", "elements"), ("Properties", "keys")):
        least, most = node.get(f"min{kind}"), node.get(f"max{kind}")
        if least is not None and most is not None:
            parts.append(f"{least} to {most} {unit}")
        elif most is not None:
            parts.append(f"at most {most} {unit}")
        elif least is not None:
            parts.append(f"at least {least} {unit}")
    if "pattern" in node:
        parts.append(f"matches `{node['pattern']}`")
    text = "; ".join(parts)
    below = node.get("items") or node.get("additionalProperties")
    if isinstance(below, dict) and "properties" not in below and (element := _bounds(below)):
        text = f"{text}; each: {element}" if text else f"each: {element}"
    return text


def _description(node: Schema) -> str:
    """Return the description and, after it, the rules in words."""
    parts = [node["description"]] if "description" in node else []
    for holder in (node, node.get("items"), node.get("additionalProperties")):
        if isinstance(holder, dict):
            parts += [f"Rule: {rule['message']}." for rule in holder.get("x-kubernetes-validations", ())]
    if node.get("x-kubernetes-list-type") == "map":
        parts.append(f"Merged by {', '.join(node['x-kubernetes-list-map-keys'])}.")
    return " ".join(parts)


def _rows(headings: tuple[str, ...]) -> list[str]:
    return [*_row(*headings), "|" + " --- |" * len(headings)]


def _row(*cells: str) -> list[str]:
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"]


def _enum_docstrings(enum: type) -> dict[str, str]:
    """Return the docstrings below an enum's members, which Python itself does not keep."""
    (definition,) = ast.parse(inspect.getsource(enum)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(statement, ast.Assign) and isinstance(following, ast.Expr):
            (target,) = statement.targets
            assert isinstance(target, ast.Name)
            found[target.id] = " ".join(str(ast.literal_eval(following.value)).split())
    return found


def write(root: Path, report: Callable[[str], None]) -> None:
    """Write every file that differs below the repository's root."""
    for name, text in files().items():
        path = root / name
        if not _same(path, text):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            report(f"wrote {name}")


def differing(root: Path) -> list[str]:
    """Return the names of the files that are not as they would be generated."""
    return [name for name, text in files().items() if not _same(root / name, text)]


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or check them. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m vllm_operator.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 and name each file that differs")
    options = parser.parse_args(arguments)
    root = Path()
    if not (root / "crds").is_dir():
        parser.error("run this from the root of the repository")
    if not options.check:
        write(root, print)
        return 0
    names = differing(root)
    for name in names:
        print(f"{name} differs from what `python -m vllm_operator.generate` writes", file=sys.stderr)
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
