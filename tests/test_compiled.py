"""What the benchmark reads of a compiled program: text whose numbers are known, and real compilers."""

import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from helpers import REPOSITORY

from benchmarks.operations import Program, nbytes

TEXT = """\
HloModule jit_f, is_scheduled=true

FileNames
1 "/home/user/dtp_jax/rules/ldrl.py"
2 "/usr/lib/jax/core.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=52 end_line=52 column=22 end_column=55}
2 {file_name_id=2 function_name_id=1 line=9 end_line=9 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}

%taken (p0: f32[10,8], p1: s32[]) -> bf16[1,8] {
  %p0 = f32[10,8]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %bitcast.1 = f32[10,8]{1,0} bitcast(%p0)
  %zero = s32[] constant(0)
  %dynamic-slice.1 = f32[1,8]{1,0} dynamic-slice(%bitcast.1, %p1, %zero), dynamic_slice_sizes={1,8}
  ROOT %convert.1 = bf16[1,8]{1,0} convert(%dynamic-slice.1)
}

%put (p0.1: f32[10,8], p1.1: f32[1,8], p2.1: s32[]) -> f32[10,8] {
  %p0.1 = f32[10,8]{1,0} parameter(0)
  %p1.1 = f32[1,8]{1,0} parameter(1)
  %p2.1 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %dynamic-update-slice.1 = f32[10,8]{1,0} dynamic-update-slice(%p0.1, %p1.1, %p2.1, %zero.1)
}

%body (arg: (s32[], f32[10,8])) -> (s32[], f32[10,8]) {
  %arg = (s32[], f32[10,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %x = f32[10,8]{1,0} get-tuple-element(%arg), index=1
  %row = bf16[1,8]{1,0} fusion(%x, %i), calls=%taken,metadata={op_name="IN/s" stack_frame_id=2} "estimated_cycles":"30"
  %wide = f32[1,8]{1,0} copy(%row), metadata={op_name="IN/convert"}
  %y = f32[10,8]{1,0} fusion(%x, %wide, %i), kind=kLoop, calls=%put, metadata={op_name="IN/put"}
  ROOT %out = (s32[], f32[10,8]{1,0}) tuple(%i, %y)
}

%condition (arg.1: (s32[], f32[10,8])) -> pred[] {
  %arg.1 = (s32[], f32[10,8]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%arg.1), index=0
  %n = s32[] constant(7)
  ROOT %less = pred[] compare(%i.1, %n), direction=LT
}

ENTRY %main (x.1: f32[10,8]) -> f32[10,8] {
  %x.1 = f32[10,8]{1,0} parameter(0)
  %start = s32[] constant(0)
  %init = (s32[], f32[10,8]{1,0}) tuple(%start, %x.1)
  %loop = (s32[], f32[10,8]{1,0:T(8,128)S(1)}) while(%init), condition=%condition, body=%body
  %z = f32[10,8]{1,0} get-tuple-element(%loop), index=1
  ROOT %sine = f32[10,8]{1,0} sine(%z), metadata={op_name="jit(f)/update.all/sin"}
}
""".replace("IN/", "jit(f)/feedback.conv_1/while/body/")


def test_operations_of_a_text():
    row, wide, put, sine = Program(TEXT).operations
    assert [o.name for o in (row, wide, put, sine)] == ["row", "wide", "y", "sine"]
    assert (row.times, row.loops, row.phase, row.block) == (7, (7,), "feedback", "conv_1")
    # A fused slice reads what it takes (and its index), a fused update writes what it puts.
    assert (row.read, row.written) == (32 + 4, 16)
    assert (put.read, put.written) == (0 + 32 + 4, 32)
    assert row.shapes == ((8,),) and put.shapes == ((10, 8),)
    assert (row.cycles, put.cycles) == (30, None)
    assert row.source == "rules/ldrl.py:52" and put.source == "put"
    assert wide.is_layout_copy and not row.is_layout_copy
    assert (sine.times, sine.loops, sine.phase, sine.block) == (1, (), "update", "all")
    assert (sine.read, sine.written) == (320, 320)


def test_sizes_of_types():
    assert (
        nbytes("(f32[3,4]{1,0:T(8,128)S(1)}, pred[5], bf16[2,2], u8[0], s32[])") == 48 + 5 + 8 + 4
    )


def test_loops_of_a_real_program():
    def f(x):
        outer = lambda _, x: jax.lax.fori_loop(0, 5, lambda _, x: jnp.sin(x) @ x, x)
        return jax.lax.fori_loop(0, 3, outer, x)

    program = Program(jax.jit(f).lower(jnp.ones((64, 64), jnp.float32)).compile().as_text())
    sines = [o for o in program.operations if "sin" in o.name]
    assert [(o.times, o.loops) for o in sines] == [(15, (3, 5))]
    assert [(o.read, o.written) for o in sines] == [(4 * 64**2, 4 * 64**2)]


MOST_CYCLES, MOST_COPIES = 820_000, 0
"""Of the feedback training of the narrow step; measured with jax 0.10.2 and a quarter added."""


def compiled(*flags):
    command = [sys.executable, "-m", "benchmarks.compiled", *flags]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=900)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="it is here")
@pytest.mark.parametrize("platform", ["tpu-v5e", "tpu-v6e"])
def test_a_compiler_that_is_not_here(platform):
    found = compiled("--config=configs/digits_dtp.py", f"--platform={platform}")
    assert found.returncode == 2 and not found.stdout
    assert "the compiler of this chip is not here" in found.stderr.splitlines()[-1]
    assert 'pip install "dtp-jax[compiled]"' in found.stderr.splitlines()[-1]


def test_bad_flags():
    for flags, said in (
        (["--platform=npu"], "invalid choice: 'npu'"),
        (["--platform=h100", "--mesh=4"], "is 4; allowed: DATAxLAYERS"),
        (["--platform=h100", "--chips=0"], "is 0; allowed: 1, 2, ..."),
        (["--platform=h100", "--chips=8", "--mesh=4x2"], "not allowed with argument"),
    ):
        found = compiled("--config=configs/digits_dtp.py", *flags)
        assert found.returncode == 2 and said in found.stderr


NARROW = (
    "--config=configs/cifar10_dtp.py",
    "--config.channels=128,128",
    "--config.feedback_iterations=4,4",
    "--config.noise=.4,.1",
    "--config.feedback_lr=1e-4,1e-2",
    "--config.precision=bfloat16",
)
needs_tpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="its compiler is not here: make compiled"
)


@needs_tpu
def test_a_narrow_step_on_a_tpu(tmp_path):
    """An upper bound of what its compiler estimates, and no more copies in the iterations than today."""
    file = tmp_path / "found.json"
    narrow = (*NARROW, "--config.batch_size=32", "--platform=tpu-v5e")
    found = compiled(*narrow, f"--json={file}")
    assert found.returncode == 0, found.stderr
    result = json.loads(file.read_text())
    feedback = [row for row in result["rows"] if row["phase"] == "feedback"]
    assert {row["block"] for row in feedback} == {"conv_1", "fc"}
    assert 0 < sum(row["cycles"] for row in feedback) < MOST_CYCLES
    assert sum(row["copies"] for row in feedback) <= MOST_COPIES


@needs_tpu
@pytest.mark.parametrize("mesh", ["8x1", "4x2", "1x2", "64x4", "256x1"])
def test_a_narrow_step_on_many_tpus(mesh, tmp_path):
    """One all-reduce an iteration where the batch is divided, one a step where the maps are; nothing else."""
    file = tmp_path / "found.json"
    flags = ("--config.batch_size=512", "--platform=tpu-v5e", f"--mesh={mesh}")
    found = compiled(*NARROW, *flags, f"--json={file}")
    assert found.returncode == 0, found.stderr
    result = json.loads(file.read_text())
    assert {one["kind"] for one in result["collectives"]} == {"all-reduce"}
    data, layers = map(int, mesh.split("x"))
    # float32 gradients of four iterations of conv_1 and fc, or of one of them in a group; then bfloat16 forward
    # gradients, and between groups all maps with their momenta. XLA may send both maps' in one all-reduce.
    conv, fc = 3 * 3 * 128 * 128, 8 * 8 * 128 * 10
    least, most = (conv + fc, conv + fc) if layers == 1 else (min(conv, fc), max(conv, fc))
    iterations = 4 if data > 1 else 0
    forward = 2 * (conv + fc + 27 * 128) if data > 1 else 0
    exchanged = 2 * 4 * (conv + 128 + fc + 8 * 8 * 128) if layers > 1 else 0  # with their biases
    once = forward + exchanged
    sent = sum(one["bytes"] for one in result["collectives"])
    assert 4 * iterations * least + once <= sent <= 4 * iterations * most + once + 8000
    times = sum(one["times"] for one in result["collectives"])
    assert iterations < times <= iterations * (2 if layers == 1 else 1) + 4
    assert sum(result["memory"].values()) < result["assumed"]["memory"]
