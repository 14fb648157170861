"""Write the rules as a PrometheusRule object: `python -m deploy.prometheus.kubernetes`.

The file goes into deploy/kubernetes/base: kustomize reads no file outside its folder and cannot generate the object.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
FILE = HERE.parent / "kubernetes/base/prometheus-rules.yaml"
_HEAD = """\
# Written by `python -m deploy.prometheus.kubernetes` from deploy/prometheus/rules.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: phema
spec:
  groups:
"""


def rule_object() -> str:
    """The text of `FILE`: every group of rules/*.yml."""
    groups = [path.read_text().partition("\ngroups:\n")[2] for path in sorted((HERE / "rules").glob("*.yml"))]
    lines = [line for group in groups for line in group.splitlines() if line]
    return _HEAD + "".join(f"  {line}\n" for line in lines)


def main() -> None:
    FILE.write_text(rule_object())


if __name__ == "__main__":
    main()
