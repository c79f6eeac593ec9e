"""How much memory is free for this process: what the machine has left, and what its control groups still allow."""

from pathlib import Path

# Version 1 and 2 of control groups: where they are mounted, their limit, their usage, and in it what can be given back.
_GROUPS = {
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
}


def free_memory(root="/"):
    """Bytes that can be taken before something is ended for lack of memory; None where the system does not say.

    Parameters
    ----------
    root : path
        Where the system's files are.
    """
    root = Path(root)
    found = [_numbers(root / "proc/meminfo").get("MemAvailable")]
    for line in _lines(root / "proc/self/cgroup"):
        controllers, _, path = line.partition(":")[2].partition(":")
        for name in _GROUPS.keys() & set(controllers.split(",")):
            mounted, *names = _GROUPS[name]
            group = Path(path.strip().lstrip("/"))
            found += [_left(root / mounted / folder, *names) for folder in (group, *group.parents)]
    return min((count for count in found if count is not None), default=None)


def _left(folder, limit, usage, cache):
    """Bytes that a control group may still take; None where there is no limit."""
    try:
        most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
    except (OSError, ValueError):
        return None
    return max(most - used + _numbers(folder / "memory.stat").get(cache, 0), 0)


def _numbers(path):
    """{word: number} of a file with a line for each; kB are told as bytes."""
    rows = (line.replace(":", " ").split() for line in _lines(path))
    return {row[0]: int(row[1]) * (1024 if row[2:] == ["kB"] else 1) for row in rows if row[1:] and row[1].isdigit()}


def _lines(path):
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
