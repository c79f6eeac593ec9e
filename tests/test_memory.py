"""What memory is free: the machine's own, under the limits of every control group above."""

import pytest

from llmc.system.free_memory import free_memory

GIB = 1 << 30


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def system(tmp_path):
    """The files of a machine with 8 GiB to spare."""
    write(tmp_path, {"proc/meminfo": f"MemTotal: {16 << 20} kB\nMemAvailable:   {8 << 20} kB\nHugePages_Total: 0\n"})
    return tmp_path


def test_without_control_groups_it_is_what_the_machine_has_left(system):
    assert free_memory(system) == 8 * GIB
    write(system, {"proc/self/cgroup": "0::/user.slice\n"})
    assert free_memory(system) == 8 * GIB


def test_the_closest_limit_of_all_groups_above_counts_and_what_can_be_given_back_is_free(system):
    write(system, {
        "proc/self/cgroup": "0::/outer/inner\n",
        "sys/fs/cgroup/outer/memory.max": f"{4 * GIB}\n", "sys/fs/cgroup/outer/memory.current": f"{3 * GIB}\n",
        "sys/fs/cgroup/outer/memory.stat": f"anon {2 * GIB}\ninactive_file {GIB}\n",
        "sys/fs/cgroup/outer/inner/memory.max": "max\n", "sys/fs/cgroup/outer/inner/memory.current": "5\n",
    })  # fmt: skip
    assert free_memory(system) == 2 * GIB


def test_the_first_version_of_control_groups_is_read_too(system):
    write(system, {
        "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/docker/1\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{3 * GIB}\n",  # within a container the path is not there
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
    })  # fmt: skip
    assert free_memory(system) == 2 * GIB


def test_a_group_beyond_its_limit_leaves_nothing(system):
    group = {"sys/fs/cgroup/memory.max": "5\n", "sys/fs/cgroup/memory.current": "7\n"}
    write(system, {"proc/self/cgroup": "0::/\n", **group})
    assert free_memory(system) == 0


def test_where_the_system_does_not_say_it_is_unknown(tmp_path):
    assert free_memory(tmp_path) is None


def test_here_it_is_some():
    assert 0 < (free_memory() or 1) < 1 << 50
