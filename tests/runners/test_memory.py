import pytest

from voxlive.checkpoints.resolve import resolve
from voxlive.errors import RequestRefused
from voxlive.runners.contract import RunnerSpec
from voxlive.runners.process import Memory, available, refuse_oversized, refuse_unless_free

GIB = 1 << 30


def spec(gib):
    return RunnerSpec(
        "big/model", "mlx_audio", "whisper", resolve("whisper-tiny.en"), needed_bytes=int(gib * GIB)
    )


@pytest.mark.parametrize(
    ("total", "headroom"), [(1, 0.25), (8, 0.8), (16, 1.6), (32, 3.2), (64, 4), (512, 4)]
)
def test_headroom_grows_with_the_machine_within_bounds(total, headroom):
    assert Memory(total * GIB, 0).headroom == int(headroom * GIB)


def test_a_model_over_70_percent_is_always_refused():
    machine = Memory(16 * GIB, 16 * GIB)
    refuse_oversized(spec(11.1), machine)
    with pytest.raises(
        RequestRefused, match=r"big/model needs 11.3 GiB, .* 11.2 GiB, 70% .* 16.0"
    ) as bad:
        refuse_oversized(spec(11.3), machine)
    assert (bad.value.status, bad.value.code) == (507, "insufficient_memory")
    assert bad.value.retry_after_s is None


def test_a_model_and_its_headroom_must_fit_into_free_memory():
    assert refuse_unless_free(spec(4), Memory(16 * GIB, int(5.7 * GIB)), 9) is None
    refusal = refuse_unless_free(spec(4), Memory(16 * GIB, int(5.5 * GIB)), 9)
    assert (refusal.status, refusal.retry_after_s) == (507, 9)
    assert "4096 MiB and 1638 MiB beside it, and 5632 MiB are free" in refusal.message


def machine(root, groups, files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_containers_memory_is_used(tmp_path):
    root = machine(
        tmp_path,
        "0::/\n",
        {
            "memory.max": f"{2 << 20}\n",
            "memory.current": f"{3 << 19}\n",
            "memory.stat": f"anon 5\ninactive_file {1 << 19}\n",
        },
    )
    assert available(root) == Memory(2 << 20, 1 << 20)


def test_the_tightest_of_the_groups_around_counts(tmp_path):
    root = machine(
        tmp_path,
        "1:name=systemd:/x\n0::/user.slice/app.scope\n",
        {
            "user.slice/app.scope/memory.max": "max\n",
            "user.slice/app.scope/memory.current": "1000\n",
            "user.slice/memory.max": "9000\n",
            "user.slice/memory.current": "9500\n",
        },
    )
    assert available(root) == Memory(9000, 0)


def test_the_first_version_of_control_groups(tmp_path):
    root = machine(
        tmp_path,
        "5:cpu,memory:/docker/abc\n",
        {
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/memory.usage_in_bytes": "77\n",
            "memory/docker/abc/memory.limit_in_bytes": "4000000\n",
            "memory/docker/abc/memory.usage_in_bytes": "1000000\n",
            "memory/docker/abc/memory.stat": "cache 1\ntotal_inactive_file 500000\n",
        },
    )
    assert available(root) == Memory(4_000_000, 3_500_000)


def test_a_machine_without_control_groups(tmp_path):
    found = available(tmp_path)
    assert 0 < found.free < found.total
