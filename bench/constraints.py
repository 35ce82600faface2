"""Write ``constraints.txt``: one tested version of every distribution, for each Python, without any address.

    python bench/constraints.py .venv-3.10 .venv .venv-3.12 .venv-3.13 >constraints.txt

Each argument is an environment in which ``.[dev]`` was installed and tested. A version that differs between
Pythons gets a marker.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict

OURS = ("edgectl", "pip", "setuptools", "wheel")


def main() -> None:
    found: dict[str, dict[str, str]] = defaultdict(dict)
    pythons = []
    for environment in sys.argv[1:]:
        python = f"{environment}/bin/python"
        version = subprocess.run(
            [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        pythons.append(version)
        listed = subprocess.run(
            [python, "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
        )
        for row in json.loads(listed.stdout):
            name = re.sub(r"[-_.]+", "-", row["name"]).lower()
            if name not in OURS:
                found[name][version] = row["version"]
    print(
        "# One version of each that fits the others: pip install -c constraints.txt 'edgectl[cpu]'. Written by bench/constraints.py."
    )
    for name in sorted(found):
        versions = set(found[name].values())
        if len(versions) == 1:
            print(f"{name}=={versions.pop()}")
            continue
        for version in sorted(versions):
            where = [p for p in pythons if found[name].get(p) == version]
            print(f"{name}=={version} ; {' or '.join(f'python_version == {p!r}' for p in where)}")


if __name__ == "__main__":
    main()
