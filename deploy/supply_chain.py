"""What ships and what is known against it: checks the bill of materials, and runs pip-audit so that "not asked" never reads "nothing found".

    python -m deploy.supply_chain sbom FILE          every dependency of the package is in it, pinned, with a usable licence
    python -m deploy.supply_chain audit DIRECTORY [OPTION ..]    pip-audit of what is installed there; its own options follow

Exit codes: 0 done, 1 something was found, 2 the service could not be asked, or a usage error.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
EXTRAS = ("hooks",)
"""What the containers and `make sbom` install."""

NOT_TO_BE_SHIPPED = re.compile(
    r"AGPL|Affero|SSPL|BUSL|Proprietary|(?<!L)GPL-|General Public License v3(?! or later \(LGPL)"
)
TOLD = 5

UNASKED = """error: the vulnerability service did not answer for {count} of {total} packages ({names}): nothing is known about them, good or bad.
pip-audit asks pypi.org unless told otherwise; a mirror of PyPI does not serve advisories. Where it can be reached, run this again, or name another:
  make audit ARGS='--vulnerability-service osv'                     asks osv.dev
  make audit ARGS='--vulnerability-service osv --osv-url URL'       asks your own copy of it
or take build/sbom.cdx.json (make sbom) to a machine that can, into any scanner that reads CycloneDX."""


def requirement_name(requirement: str) -> str:
    """`kafka-python[crc32c]>=3` -> `kafka-python`, normalised as PyPI does."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def shipped(pyproject: Path = PYPROJECT) -> list[str]:
    """The requirements of the package with `EXTRAS`."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(r for extra in EXTRAS for r in project["optional-dependencies"][extra])]


def _licences(component: dict[str, Any]) -> list[str]:
    found = []
    for entry in component.get("licenses", ()):
        licence = entry.get("license", {})
        found.append(str(entry.get("expression") or licence.get("id") or licence.get("name")))
    return found


def sbom_problems(bom: dict[str, Any], requirements: Iterable[str]) -> list[str]:
    """What is wrong with it, a sentence each."""
    problems = []
    if bom.get("bomFormat") != "CycloneDX":
        problems.append("it is not CycloneDX")
    if bom.get("metadata", {}).get("component", {}).get("name") != "exfilguard":
        problems.append("it is not about exfilguard")
    components = {requirement_name(c["name"]): c for c in bom.get("components", ())}
    problems += [f"{name} is missing" for r in requirements if (name := requirement_name(r)) not in components]
    for name, component in components.items():
        if not component.get("version") or not str(component.get("purl", "")).startswith("pkg:pypi/"):
            problems.append(f"{name} has no version or no package URL")
        licences = _licences(component)
        if not licences:
            problems.append(f"{name} has no licence")
        elif all(NOT_TO_BE_SHIPPED.search(text) for text in licences):  # several: the user chooses
            problems.append(f"{name} is under {', '.join(licences)}: it may not be shipped with this")
    reached = {d["ref"] for d in bom.get("dependencies", ()) if d.get("dependsOn")}
    root = bom.get("metadata", {}).get("component", {}).get("bom-ref")
    if root not in reached:
        problems.append("it does not say what exfilguard depends on")
    return problems


def audit_outcome(report: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(what was found, a line each; the packages that nobody was asked about), of pip-audit's JSON."""
    found, unasked = [], []
    for package in report["dependencies"]:
        if "skip_reason" in package:
            unasked.append(package["name"])
            continue
        for known in package["vulns"]:
            fixed = ", ".join(known["fix_versions"]) or "no release yet"
            found.append(f"{package['name']} {package['version']}: {known['id']}; mended in {fixed}")
    return found, unasked


def audit(directory: str, options: list[str]) -> int:
    program = Path(sys.executable).with_name("pip-audit")
    command = [str(program), "--path", directory, "--format", "json", "--progress-spinner", "off", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    try:
        found, unasked = audit_outcome(json.loads(done.stdout))
    except (ValueError, KeyError):
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        print(UNASKED.format(count="any", total="all", names=last[0][:200]), file=sys.stderr)
        return 2
    for line in found:
        print(line)
    if unasked:
        names = ", ".join(unasked[:TOLD]) + (", .." if len(unasked) > TOLD else "")
        total = len(json.loads(done.stdout)["dependencies"])
        print(UNASKED.format(count=len(unasked), total=total, names=names), file=sys.stderr)
    if not found and not unasked:
        print("no known vulnerability in what ships")
    return 1 if found else 2 if unasked else 0


def main(arguments: list[str]) -> int:
    match arguments:
        case ["requirements"]:
            print("\n".join(shipped()))
            return 0
        case ["sbom", file]:
            bom = json.loads(Path(file).read_text(encoding="utf-8"))
            problems = sbom_problems(bom, shipped())
            for problem in problems:
                print(f"error: {file}: {problem}", file=sys.stderr)
            if not problems:
                print(f"{file}: {len(bom['components'])} components")
            return 1 if problems else 0
        case ["audit", directory, *options]:
            return audit(directory, options)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
