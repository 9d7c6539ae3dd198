"""Writes what the chart has in common with `kubectl kustomize`: `python -m helm.generate`.

manifests/ and policies/ are the one source. Their text goes into the chart as it is, comments included; in the
controller's Deployment, and nowhere else, a few values become the chart's. Tests compare what helm renders by default
with what kustomize builds, object for object, and the files here with what this would write.
"""

import shutil
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "serin"
GENERATED = ("crds", "files", "templates")
VALUES = {
    "replicas: 2": "replicas: {{ .Values.replicas }}",
    "image: serin:0.1.0": 'image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"',
    "value: http://prometheus.monitoring:9090": "value: {{ .Values.prometheusUrl | quote }}",
    "secretName: serin-sinks": "secretName: {{ .Values.sinksSecret | quote }}",
    "secretName: serin-alert-token": "secretName: {{ .Values.alertTokenSecret | quote }}",
    "emptyDir: {sizeLimit: 1Gi}": (
        "{{ if .Values.auditClaim }}persistentVolumeClaim: { claimName: {{ .Values.auditClaim | quote }} }"
        "{{ else }}emptyDir: {sizeLimit: 1Gi}{{ end }}"
    ),
    "resources:\n          requests: {cpu: 100m, memory: 128Mi}\n          limits: {memory: 512Mi}": (
        "resources: {{- .Values.resources | toYaml | nindent 10 }}"
    ),
}
"""What stands in manifests/controller.yaml, once each, and what stands in the chart instead."""
HEAD = "{{- /* Generated from %s: edit that, then run `python -m helm.generate`. */ -}}\n"
PLACE = """{{- if ne .Release.Namespace "serin-system" }}
{{- fail "the admission policies know Serin as system:serviceaccount:serin-system:serin: --namespace serin-system" }}
{{- end }}
"""


def resources(folder: str) -> list[Path]:
    """The files that a kustomization names, those of its folders included."""
    directory = ROOT / folder
    found: list[Path] = []
    for name in yaml.safe_load((directory / "kustomization.yaml").read_text())["resources"]:
        found += resources(f"{folder}/{name}") if (directory / name).is_dir() else [directory / name]
    return found


def literal(text: str) -> str:
    """As it is, though helm would take braces for its own."""
    return text.replace("{{", '{{ "{{" }}')


def switched(value: str, files: list[Path]) -> str:
    text = "---\n".join(literal(file.read_text()) for file in files)
    return f"{{{{- if .Values.{value}.install }}}}\n{text}{{{{- end }}}}\n"


def controller() -> str:
    text = literal((ROOT / "manifests/controller.yaml").read_text())
    for there, here in VALUES.items():
        if text.count(there) != 1:
            raise SystemExit(f"manifests/controller.yaml has {there!r} {text.count(there)} times, not once")
        text = text.replace(there, here)
    return text


def config_maps() -> str:
    """The ConfigMaps that kustomize generates, their files taken from the chart's."""
    kustomization = yaml.safe_load((ROOT / "manifests/kustomization.yaml").read_text())
    texts = []
    for each in kustomization["configMapGenerator"]:
        metadata = {"name": each["name"], "namespace": each["namespace"], **each.get("options", {})}
        head = yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}, sort_keys=False)
        names = [Path(file).name for file in each["files"]]
        data = "".join(f'  {name}: {{{{- .Files.Get "files/{name}" | toYaml | nindent 4 }}}}\n' for name in names)
        texts.append(f"{head}data:\n{data}")
    return "---\n".join(texts)


def generated() -> dict[str, str]:
    """Path in the chart to text."""
    manifests = resources("manifests")
    crds = [file for file in manifests if file.parent.name == "crds"]
    kustomization = yaml.safe_load((ROOT / "manifests/kustomization.yaml").read_text())
    files = [ROOT / "manifests" / file for each in kustomization["configMapGenerator"] for file in each["files"]]
    admission = resources("policies/admission")
    policies = [file for file in resources("policies") if file not in admission]
    templates = {
        "rbac": ("manifests/rbac.yaml", PLACE + literal((ROOT / "manifests/rbac.yaml").read_text())),
        "controller": ("manifests/controller.yaml", controller()),
        "monitoring": ("manifests/kustomization.yaml", config_maps()),
        "policies": ("policies/", switched("policies", policies)),
        "admission": ("policies/admission/", switched("admission", admission)),
    }
    return {
        **{f"crds/{file.name}": file.read_text() for file in crds},
        **{f"files/{file.name}": file.read_text() for file in files},
        **{f"templates/{name}.yaml": HEAD % source + text for name, (source, text) in templates.items()},
    }


def main() -> None:
    for folder in GENERATED:
        shutil.rmtree(CHART / folder, ignore_errors=True)
    for path, text in generated().items():
        target = CHART / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


if __name__ == "__main__":
    main()
