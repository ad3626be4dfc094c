"""What lies behind the numbers: commands, versions, seeds, hashes, and where they are not the same for all results."""

import json
from typing import Any

from g2l.evaluation.report.alike import sha_of
from g2l.evaluation.report.study import Study


def provenance(study: Study) -> dict[str, Any]:
    """Commands and versions once each with the number of results made by them; hashes of encoders and data."""
    commands: dict[str, int] = {}
    versions: dict[str, int] = {}
    for result in study:
        run = result.about.get("run", {})
        command = run.get("command") or "unknown"
        command = " ".join(map(str, command)) if isinstance(command, list) else str(command)
        commands[command] = commands.get(command, 0) + 1
        key = json.dumps(run.get("versions") or {}, sort_keys=True)
        versions[key] = versions.get(key, 0) + 1
    data = {
        task.name: (str(task.first.about.get("data", {}).get("name", "–")), sha_of(task.first.about.get("data", {})))
        for task in study.tasks
    }
    return {
        "commands": list(commands.items()),
        "versions": [(json.loads(key), count) for key, count in versions.items()],
        "seeds": sorted({str(result.about.get("run", {}).get("seed", "unknown")) for result in study}),
        "finished": sorted({str(result.about.get("run", {}).get("finished", "")) for result in study} - {""}),
        "encoders": [(name, sha_of(about) or "unknown") for name, about in study.encoders.items()],
        "data": [(task, name, sha or "unknown") for task, (name, sha) in data.items()],
        "same_data": _same_data(study),
    }


def _same_data(study: Study) -> list[list[str]]:
    """Groups of ranked tasks over one data set: they do not count as independent evidence.

    By its name, because the hash is also that of the split.
    """
    groups: dict[str, list[str]] = {}
    for task in study.tasks:
        name = str(task.first.about.get("data", {}).get("name") or "")
        if name and task.primary is not None:
            groups.setdefault(name, []).append(task.name)
    return [tasks for tasks in groups.values() if len(tasks) > 1]
