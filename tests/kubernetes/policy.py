"""Evaluates ValidatingAdmissionPolicies as an API server does, with Google's implementation of CEL.

An API server adds functions of its own to the language (quantities, URLs, authorizer …); policies that need those can't be
tried here. Expressions that fail refuse, as `failurePolicy: Fail` has it, and are told as failures."""

import re

from cel_expr_python import cel
from cel_expr_python.ext import ext_optional, ext_strings

NAMES = ("object", "oldObject", "request", "namespaceObject", "variables")
ENVIRONMENT = cel.NewEnv(variables={name: cel.Type.DYN for name in NAMES},
                         extensions=[ext_optional.ExtOptional(), ext_strings.ExtStrings()])
GROUP = {"pods": "", "pods/ephemeralcontainers": "", "resourceslices": "resource.k8s.io"}


class Failure(Exception):
    """An expression that could not be evaluated."""


def evaluate(expression, **given):
    value = ENVIRONMENT.compile(expression).eval(data={name: given.get(name) for name in NAMES})
    if value.type() == cel.Type.ERROR:
        raise Failure(f"{expression}: {value}")
    return value.plain_value()


class Policy:
    """A policy and its binding, out of a list of objects."""

    def __init__(self, objects, name):
        def only(kind):
            found = [one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name]
            assert len(found) == 1, f"{len(found)} of {kind} {name}"
            return found[0]["spec"]

        self.policy = only("ValidatingAdmissionPolicy")
        self.binding = only("ValidatingAdmissionPolicyBinding")
        assert self.policy["failurePolicy"] == "Fail" and self.binding["validationActions"] == ["Deny"]
        assert self.binding["policyName"] == name

    def expressions(self):
        """All of them, for looking at."""
        for kind in ("matchConditions", "variables", "validations"):
            for one in self.policy.get(kind, []):
                yield one["expression"]
                if "messageExpression" in one:
                    yield one["messageExpression"]

    def refusals(self, resource, operation, new=None, old=None, user=None, namespace_labels=None):
        """What the policy has against a request; nothing if it is admitted."""
        if not self.concerns(resource, operation, namespace_labels or {}):
            return []
        given = {"object": new, "oldObject": old, "request": {"operation": operation, "userInfo": user or {}}}
        try:
            if not all(evaluate(one["expression"], **given) for one in self.policy.get("matchConditions", [])):
                return []
            given["variables"] = {}
            for one in self.policy.get("variables", []):
                given["variables"][one["name"]] = evaluate(one["expression"], **given)
            return [self.message(one, given) for one in self.policy["validations"]
                    if not evaluate(one["expression"], **given)]
        except Failure as failure:
            return [f"failed: {failure}"]

    @staticmethod
    def message(validation, given):
        if "messageExpression" not in validation:
            return validation["message"]
        text = evaluate(validation["messageExpression"], **given)
        # An API server leaves others out, and says only that the expression was false.
        assert text.strip() and "\n" not in text and len(text) < 5120, repr(text)
        return text

    def concerns(self, resource, operation, namespace_labels):
        rules = self.policy["matchConstraints"]["resourceRules"]
        if not any(resource in rule["resources"] and operation in rule["operations"] and
                   GROUP[resource] in rule["apiGroups"] for rule in rules):
            return False
        selector = self.binding.get("matchResources", {}).get("namespaceSelector", {})
        for one in selector.get("matchExpressions", []):
            assert one["operator"] == "NotIn", one
            if namespace_labels.get(one["key"]) in one["values"]:
                return False
        return True


def identifiers(expression):
    """The fields that an expression reads, to be compared with those that exist."""
    without_texts = re.sub(r'"(\\.|[^"])*"', '""', expression)
    return set(re.findall(r"\.\??([A-Za-z]\w*)\b(?!\s*\()", without_texts))
