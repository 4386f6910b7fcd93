"""What programs tell JAX before it starts."""

import os
import subprocess
import sys
from functools import partial

import jax
import pytest
from helpers import REPOSITORY

import dtp_jax
from dtp_jax.run import backend


@pytest.fixture(autouse=True)
def as_before():
    folder = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", folder)


def test_programs_are_kept_beside_decoded_images(monkeypatch, tmp_path):
    monkeypatch.setenv("DTP_JAX_CACHE", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    backend.prepare()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "compiled")


def test_what_the_user_has_set_is_kept(monkeypatch):
    mine = (
        "--xla_gpu_exclude_nondeterministic_ops=false --xla_cpu_prefer_vector_width=128"
        " --xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_DEFAULT"
    )
    monkeypatch.setenv("XLA_FLAGS", mine)
    monkeypatch.setattr(backend, "has_gpu_plugin", lambda: True)
    jax.config.update("jax_compilation_cache_dir", "mine")
    backend.prepare()
    assert jax.config.jax_compilation_cache_dir == "mine"
    assert os.environ["XLA_FLAGS"] == mine


@pytest.mark.parametrize("gpu", [False, True])
def test_flags(monkeypatch, gpu):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    monkeypatch.setattr(backend, "has_gpu_plugin", lambda: gpu)
    backend.prepare()
    expected = ["--xla_a=1", *backend.CPU_FLAGS]
    if gpu:
        expected.append("--xla_gpu_exclude_nondeterministic_ops=true")
    assert os.environ["XLA_FLAGS"].split() == expected


def test_a_second_process_does_not_compile_again(tmp_path):
    program = (
        "import jax; import dtp_jax; dtp_jax.prepare();"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0);"
        "from jax._src import monitoring; seen = [];"
        "monitoring.register_event_listener(lambda name, **_: seen.append(name));"
        "jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((8, 8))).block_until_ready();"
        "print(sum('cache_hits' in name for name in seen))"
    )
    environment = {**os.environ, "DTP_JAX_CACHE": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    hits = [
        int(
            subprocess.run(
                [sys.executable, "-c", program],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
                cwd=REPOSITORY,
            ).stdout
        )
        for _ in range(2)
    ]
    assert hits[0] == 0 < hits[1]


def test_a_flag_that_some_xla_does_not_know_is_not_set(monkeypatch, tmp_path):
    """XLA ends the process at an unknown flag. The name must stand there whole."""
    flags = ["--xla_one=1", "--xla_two=x", "--xla_thr=3"]
    both, one = tmp_path / "both.so", tmp_path / "one.so"
    both.write_bytes(b"..\0xla_one\0..\0xla_two\0..\0xla_three\0..my_xla_thr\0")
    one.write_bytes(b"..\0xla_two\0..")
    assert backend.known(flags, [both]) == ["--xla_one=1", "--xla_two=x"]
    assert backend.known(flags, [both, one]) == ["--xla_two=x"]
    assert backend.known(flags, []) == []
    monkeypatch.setattr(backend, "libraries", lambda: [one])
    monkeypatch.setenv("XLA_FLAGS", "--mine=1")
    backend.prepare()
    assert os.environ["XLA_FLAGS"] == "--mine=1"


def test_the_xla_that_is_here_is_found_and_starts_with_the_flags(monkeypatch):
    libraries = backend.libraries()
    assert any("jaxlib" in file.parts for file in libraries)
    assert backend.known(["--xla_no_such_flag=1"], libraries) == []
    flags = backend.known(backend.CPU_FLAGS, libraries)
    done = subprocess.run(
        [sys.executable, "-c", "import jax; print(jax.devices()[0].platform)"],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0 and done.stdout == "cpu\n", done.stderr


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--xla_no_such_flag=1", "Unknown flag in XLA_FLAGS: --xla_no_such_flag=1"),
        (
            "--xla_cpu_prefer_vector_width=wide",
            "Couldn't interpret value wide for flag xla_cpu_prefer",
        ),
        ("--xla_dump_to", "Unknown flag in XLA_FLAGS: --xla_dump_to"),
        ("no_such_file", 'Could not open file "no_such_file"'),
    ],
)
def test_flags_for_which_xla_would_end_the_process(monkeypatch, flags, said, single_precision):
    monkeypatch.setenv("XLA_FLAGS", flags)
    with pytest.raises(ValueError) as error:
        backend.check_flags()
    line = str(error.value)
    assert (
        line.startswith(f"$XLA_FLAGS is {flags!r}; allowed: ") and said in line and "\n" not in line
    )


def test_float64_that_a_session_has_switched_on(tmp_path):
    line = "^jax_enable_x64 is True; allowed: False, for a run computes in float32$"
    for call in (backend.check_flags, partial(dtp_jax.train, "digits_dtp", tmp_path / "w")):
        with pytest.raises(ValueError, match=line):
            call()


def test_flags_that_xla_takes(monkeypatch, tmp_path, single_precision):
    """Also from a file, to which this program's own are added."""
    (tmp_path / "flags").write_text("--xla_cpu_prefer_vector_width=128\n")
    for flags in ("", "  ", "--xla_cpu_prefer_vector_width=128", str(tmp_path / "flags")):
        monkeypatch.setenv("XLA_FLAGS", flags)
        backend.check_flags()
    backend.set_flags(["--xla_cpu_prefer_vector_width=512", "--xla_dump_to=x"])
    told = os.environ["XLA_FLAGS"].split()
    assert told == ["--xla_cpu_prefer_vector_width=128", "--xla_dump_to=x"]


def test_a_flag_of_a_plugin_is_not_refused(monkeypatch, tmp_path, single_precision):
    (tmp_path / "plugin.so").write_bytes(b"..\0xla_of_a_plugin\0..")
    monkeypatch.setenv("XLA_FLAGS", "--xla_of_a_plugin=1")
    monkeypatch.setattr(backend, "libraries", lambda: [tmp_path / "plugin.so"])
    backend.check_flags()


@pytest.mark.parametrize(
    "problem, said",
    [
        (AssertionError(), "no such device can be used here"),
        (RuntimeError("no cuda\nx"), "no cuda"),
    ],
)
def test_devices_that_are_not_there(monkeypatch, problem, said):
    def fail():
        raise problem

    backend.require_devices()
    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(ValueError, match=rf"\$JAX_PLATFORMS is '\w+': {said}; allowed: cpu, or"):
        backend.require_devices()


def test_a_platform_that_is_not_there_is_one_line(tmp_path):
    """JAX itself says no more than AssertionError of cuda."""
    done = subprocess.run(
        [sys.executable, REPOSITORY / "launch.py", "--workdir=w"],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cuda" if not backend.has_gpu_plugin() else "tpu"},
        cwd=tmp_path,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: $JAX_PLATFORMS is '")
    assert done.stderr.count("\n") == 1 and not any(tmp_path.iterdir())


def test_without_a_home_programs_are_not_kept(monkeypatch):
    def nobody():
        raise OSError("that home folder is not known")

    monkeypatch.setattr(backend, "cache_folder", nobody)
    jax.config.update("jax_compilation_cache_dir", None)
    backend.prepare()
    assert jax.config.jax_compilation_cache_dir is None
