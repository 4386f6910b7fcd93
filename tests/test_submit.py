"""--submit: what it refuses, the script that it sends, and what becomes a job. No job is run here."""

import subprocess

import pytest
import slurm_stand_in
from submitting import SLURM, dtp

from dtp_jax.run.arguments import parse
from dtp_jax.run.config import validate
from dtp_jax.run.gpus import visible_gpus
from dtp_jax.run.workdir import Workdir
from dtp_jax.submit import command, jobs, local, options

pytest_plugins = ["run_fixtures"]


@pytest.mark.parametrize(
    "text, minutes",
    [
        ("1", 1),
        ("90", 90),
        ("4:00:00", 240),
        ("04:00:00", 240),
        ("00:00:30", 1),
        ("0:59:01", 60),
        ("100:00:00", 6000),
        ("1-00:00:00", 1440),
        ("7-12:30:00", 7 * 1440 + 750),
    ],
)
def test_times(text, minutes):
    assert options.read([("submit", "slurm"), ("submit.time", text)]).time == minutes


@pytest.mark.parametrize(
    "text",
    ["", "0", "4:00", "1-12", "1-4:00", "1-24:00:00", "0:60:00", "4h", "-5", "0:00:00", "1.5"],
)
def test_times_that_are_none(text):
    with pytest.raises(
        ValueError, match="submit.time is .*; allowed: minutes, HH:MM:SS or D-HH:MM:SS"
    ):
        options.read([("submit", "slurm"), ("submit.time", text)])


@pytest.mark.parametrize(
    "args, said",
    [
        (["--submit=slrum"], "--submit is 'slrum'; allowed: slurm or local"),
        (["--submit"], "--submit is ''; allowed: --submit=VALUE"),
        (["--submit.time=10"], "--submit is ''; allowed: slurm or local"),
        (["--submit=slurm"], "--submit.time is missing; allowed: minutes"),
        ([*SLURM, "--submit.gpu=1"], "--submit.gpu is no flag; allowed"),
        ([*SLURM, "--submit.gpus=two"], "--submit.gpus is 'two'; allowed: a number"),
        ([*SLURM, "--submit.nodes=0"], "--submit.nodes is '0'; allowed: a whole number, 1 or more"),
        ([*SLURM, "--submit.memory=64"], "--submit.memory is '64'; allowed: a number and K, M"),
        ([*SLURM, "--submit.partition=a b"], "--submit.partition is 'a b'; allowed: a word"),
        ([*SLURM, "--submit.grace=600"], "--submit.grace is 600; allowed: less than the 600 s"),
        (
            [*SLURM, "--submit.extra.signal=x"],
            "submit.extra.signal is given already, by submit.grace",
        ),
        ([*SLURM, "--submit.setup=a\nb"], "--submit.setup is 'a\\nb'; allowed: a line of shell"),
        ([*SLURM, "--submit.print=yes"], "--submit.print is 'yes'; allowed: --submit.print alone"),
        ([*SLURM, "--submit-file=none.toml"], "--submit-file is 'none.toml'; allowed: a TOML file"),
        (["--submit=local", "--submit.nodes=2"], "--submit.nodes is 2; allowed: 1 with"),
        (["--submit=local", "--submit.print"], "--submit.print prints the script for sbatch"),
        ([*SLURM, "--config.epochs=0"], "config.epochs is 0; allowed: a whole number, 1 or more"),
        ([*SLURM, "--config.epohcs=3"], "config.epohcs: no such field; did you mean epochs"),
        ([*SLURM, "--config=nix"], "--config is 'nix', which does not exist"),
        ([*SLURM, "--workdir=file"], "--workdir is 'file'; allowed: a writable folder"),
        (
            [*SLURM, "--submit.nodes=2"],
            "--workdir is missing; allowed: a folder that all nodes see",
        ),
        (
            [*SLURM, "--submit.nodes=2", "--workdir=w", "--config.seed=-1"],
            "config.seed is -1; allowed: 0 or more on several nodes",
        ),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_what_is_not_valid_is_refused_and_nothing_sent(slurm, place, args, said):
    (place / "file").write_text("")
    code, out, err = dtp("train", *args)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    assert said in err
    assert not list(slurm.iterdir()) and [path.name for path in place.iterdir()] == ["file"]


def test_a_comparison_that_is_not_valid_is_not_sent(slurm, place):
    code, out, err = dtp("compare", "--configs=digits_dtp,digits_dtp[beta=-1]", *SLURM)
    assert (code, out) == (2, "") and "config.beta is -1" in err and err.count("\n") == 1
    assert not list(slurm.iterdir()) and not list(place.iterdir())


@pytest.mark.parametrize(
    "text, said",
    [
        ("time = ", "--submit-file is 'c.toml'; allowed: a TOML file; "),
        ("gpu = 1", "c.toml: gpu is no key; allowed: partition, time, gpus, nodes"),
        ("gpus = true", "c.toml: gpus is True; allowed: text or a whole number"),
        ("gpus = 1.5", "c.toml: gpus is 1.5; allowed: text or a whole number"),
        ("time = '4h'", "c.toml: time is '4h'; allowed: minutes, HH:MM:SS"),
        ("extra = 3", "c.toml: extra is no table; allowed: [extra]"),
        ("[extra]\nMAIL = 'x'", "c.toml: extra.MAIL is no parameter of sbatch"),
        ("[extra]\nexclusive = false", "c.toml: extra.exclusive is False; allowed: text"),
    ],
)
def test_files_of_options_that_are_not_valid(slurm, place, text, said):
    (place / "c.toml").write_text(text)
    code, out, err = dtp("train", *SLURM, "--submit-file=c.toml")
    assert (code, out) == (2, "") and err.count("\n") == 1 and said in err, err
    assert not list(slurm.iterdir())


def test_flags_win_over_the_file(place):
    (place / "c.toml").write_text(
        'partition = "gpu"\ntime = 04:00:00\ngpus = 2\nmemory = "64G"\n'
        'setup = ["module load cuda", "ulimit -c 0"]\n[extra]\nmail-type = "END"\nexclusive = true\n'
    )
    flags, others = options.split(
        ["--config=x", "--submit", "slurm", "--submit-file=c.toml", "--submit.gpus", "a100:4"]
    )
    found = options.read(flags)
    assert others == ["--config=x"]
    assert (found.partition, found.time, found.memory) == ("gpu", 240, "64G")
    assert (found.gpus, found.gpu_count) == ("a100:4", 4)
    assert found.setup == ("module load cuda", "ulimit -c 0")
    assert found.extra == {"mail-type": "END", "exclusive": True}


def test_every_flag_arrives_in_the_script(place):
    """Printed also where there is no Slurm. Printing leaves nothing behind."""
    code, script, err = dtp(
        "train",
        "--workdir=w",
        "--submit=slurm",
        "--submit.time=1-02:00:00",
        "--submit.partition=gpu,long",
        "--submit.gpus=a100:2",
        "--submit.nodes=2",
        "--submit.cpus=8",
        "--submit.memory=64G",
        "--submit.account=lab",
        "--submit.qos=high",
        "--submit.constraint=a100&ib",
        "--submit.name=mine",
        "--submit.grace=300",
        "--submit.setup=module load cuda",
        "--submit.setup=ulimit -c 0",
        "--submit.extra.mail-type=END,FAIL",
        "--submit.extra.comment=it's mine",
        "--submit.print",
    )
    assert (code, err) == (0, "") and not list(place.iterdir())
    logs = place / "w" / "submitted"
    assert slurm_stand_in.parameters(script) == {
        "account": "lab",
        "comment": "it's mine",
        "constraint": "a100&ib",
        "cpus-per-task": "8",
        "error": f"{logs}/%j_0_log.err",
        "gpus-per-node": "a100:2",
        "job-name": "mine",
        "mail-type": "END,FAIL",
        "mem": "64G",
        "nodes": "2",
        "ntasks-per-node": "1",
        "open-mode": "append",
        "output": f"{logs}/%j_0_log.out",
        "partition": "gpu,long",
        "qos": "high",
        "requeue": "",
        "signal": "USR2@300",
        "time": "1560",
    }
    body = script[script.index("# setup") :].splitlines()
    assert body[1] == "# dtp train --workdir=w"
    assert body.index("export DTP_JAX_SUBMITTED=1") < body.index("module load cuda")
    assert body[body.index("module load cuda") + 1] == "ulimit -c 0"
    assert body[-1].startswith("srun --unbuffered ") and "--cpus-per-task=8" in body[-1]
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_no_slurm_here(place, monkeypatch):
    monkeypatch.setenv("PATH", str(place))
    code, out, err = dtp("train", *SLURM, "--workdir=w")
    assert (code, out) == (2, "") and not list(place.iterdir())
    assert err == "error: --submit is 'slurm'; allowed: where Slurm's sbatch is found; or local\n"


def test_slurm_refuses(slurm, place):
    (place.parent / "slurm/bin/sbatch").write_text(
        "#!/bin/sh\necho 'invalid account' >&2\nexit 1\n"
    )
    code, out, err = dtp("train", *SLURM, "--workdir=w")
    assert (code, out, err) == (2, "", "error: sbatch refuses: invalid account\n")


def test_submitit_is_missing(place, monkeypatch):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    code, out, err = dtp("train", *SLURM)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "submitit is missing" in err and "pip install submitit" in err


@pytest.mark.parametrize(
    "flags, environment, expected",
    [
        ({}, {}, [None]),
        ({"array": "3"}, {}, [None] * 3),
        ({"array": "2"}, {"CUDA_VISIBLE_DEVICES": "1"}, ["1", "1"]),
        ({"array": "2"}, {"CUDA_VISIBLE_DEVICES": "-1"}, ["-1", "-1"]),
        ({"gpus": "1"}, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, ["0", "1", "2", "3"]),
        ({"gpus": "2"}, {"CUDA_VISIBLE_DEVICES": "4,5,6,7,8"}, ["4,5", "6,7"]),
        (
            {"gpus": "1", "array": "2"},
            {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b,GPU-c"},
            ["GPU-a", "GPU-b"],
        ),
    ],
)
def test_each_job_has_gpus_of_its_own(flags, environment, expected):
    given = [("submit", "local"), *((f"submit.{key}", value) for key, value in flags.items())]
    assert local.slots(options.read(given), environment) == expected


@pytest.mark.parametrize("flags", [("gpus", "3"), ("array", "3")])
def test_more_gpus_than_there_are(flags):
    given = [("submit", "local"), ("submit.gpus", "1"), (f"submit.{flags[0]}", flags[1])]
    with pytest.raises(
        ValueError, match="--submit.gpus is .*; allowed: what this machine has: 2 GPUs"
    ):
        local.slots(options.read(given), {"CUDA_VISIBLE_DEVICES": "0,1"})


def test_gpus_that_are_hidden():
    """CUDA uses those in front of the first that is none."""
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2,-1,3"}) == ["2"]


def test_gpus_are_counted(place, monkeypatch):
    (place / "nvidia-smi").write_text(
        "#!/bin/sh\necho 'GPU 0: H100 (UUID)'\necho 'GPU 1: H100 (UUID)'\n"
    )
    (place / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(place))
    assert visible_gpus({}) == ["0", "1"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3, 5"}) == ["3", "5"]
    monkeypatch.setenv("PATH", str(place / "none"))
    assert visible_gpus({}) == []


def test_a_job_for_each_seed(place):
    args = ["--config=digits_dtp", "--config.seed=3", "--config.seeds", "2", "--workdir=w"]
    asked = options.read([("submit", "slurm"), ("submit.time", "9"), ("submit.array", "2")])
    found = jobs.train(args, asked, print)
    assert [job.label for job in found.jobs] == ["seed 3", "seed 4"]
    for seed, job in zip((3, 4), found.jobs):
        tool, *flags = job.arguments
        own = ["--config.seeds=1", f"--config.seed={seed}", f"--workdir=w/seed_{seed}"]
        assert tool == "train" and flags == ["--config=digits_dtp", *args[1:2], "--workdir=w", *own]
    assert found.afterwards == ("train", *args)
    with pytest.raises(ValueError, match="config.seeds is 'x'; allowed: a whole number, 1 or more"):
        jobs.train(["--config.seeds=x", "--workdir=w"], asked, print)


def test_seeds_that_are_new_in_a_folder_have_its_config(place):
    """--workdir alone goes on: not with the quick start's config, where a seed has none of its own."""
    asked = options.read([("submit", "slurm"), ("submit.time", "9"), ("submit.array", "2")])
    small = ("--config.epochs=2", "--config.max_steps=2", "--workdir=w")
    code, _, err = dtp("train", "--config=digits_backprop", "--config.seeds=2", *small)
    assert code == 0, err
    found = jobs.train(["--workdir=w", "--config.seeds=3"], asked, print)
    assert found.finished == ["seed 0", "seed 1"]
    (job,) = found.jobs
    config = parse(["dtp train", *job.arguments[1:]]).config
    assert (config["rule"], config["epochs"], config["seed"]) == ("backprop", 2, 2)


@pytest.mark.slow
def test_seeds_that_would_have_other_rates_than_others_are_not_sent(place):
    """Runs that are made longer, and new ones of so many epochs: their table would be refused in the end."""
    asked = options.read([("submit", "slurm"), ("submit.time", "9"), ("submit.array", "2")])
    short = ["--config=digits_backprop", "--workdir=w"]
    code, _, err = dtp("train", *short, "--config.epochs=1", "--config.seeds=2")
    assert code == 0, err
    longer = ["--config.epochs=2", "--config.seeds=3"]
    with pytest.raises(
        ValueError, match="config.epochs is 2: seed 0 in w becomes longer than it was, and seed 2"
    ):
        jobs.train([*short, *longer], asked, print)
    assert (
        len(jobs.train([*short, "--config.epochs=2", "--config.seeds=2"], asked, print).jobs) == 2
    )
    assert dtp("train", *short, *longer)[0] == 0
    assert len(jobs.train(["--workdir=w", "--config.seeds=4"], asked, print).jobs) == 1
    with pytest.raises(ValueError, match="w/seed_0.*it holds one run, and config.seeds is 2"):
        jobs.train([*short[:1], "--workdir=w/seed_0", "--config.seeds=2"], asked, print)


def test_seeds_are_compared_where_their_images_are_not(place):
    """Only the jobs see them."""
    asked = options.read([("submit", "slurm"), ("submit.time", "9"), ("submit.array", "2")])
    flags = ["--config=cifar10_dtp", "--workdir=w", "--config.data_dir=/nowhere"]
    config = validate(parse(["dtp train", *flags, "--config.epochs=2"]).config).config
    Workdir(place / "w/seed_0").create(config)
    with pytest.raises(ValueError, match="becomes longer than it was, and seed 1"):
        jobs.train([*flags, "--config.epochs=3", "--config.seeds=2"], asked, print)


def test_a_default_folder_is_fixed_when_the_job_is_sent(place):
    """So that a job that is queued again goes on in it."""
    asked = options.read([("submit", "slurm"), ("submit.time", "9")])
    found = jobs.train(["--config=digits_dtp"], asked, print)
    (job,) = found.jobs
    assert job.arguments[-1] == f"--workdir={found.folder}" and found.folder.parts[0] == "runs"
    assert not list(place.iterdir())
    found.folder.mkdir(parents=True)
    assert jobs._unused(found.folder) == found.folder.with_name(f"{found.folder.name}-2")


def test_data_that_is_not_on_this_machine_is_a_warning(slurm, place, monkeypatch):
    monkeypatch.setattr("dtp_jax.data.download.why_unreachable", lambda remote: "no network")
    code, out, err = dtp(
        "train", "--config=imagenet32_dtp", "--workdir=w", *SLURM, "--submit.print"
    )
    assert code == 0 and out.startswith("#!/bin/bash\n")
    assert err.startswith("warning: on this machine: ") and "imagenet32" in err


def test_a_script_shows_no_password(place):
    storage = "--storage=postgresql://me:secret@host/sweeps"
    code, out, err = dtp(
        "sweep", "--config=digits_dtp", "--trials=4", storage, *SLURM, "--submit.print"
    )
    assert (code, err) == (0, "") and "secret" not in out and "//me:***@host/sweeps" in out


def test_workers_of_a_sweep_are_jobs(place, capsys):
    pytest.importorskip("dtp_jax.sweep.plan")
    asked = options.read([("submit", "slurm"), ("submit.time", "9")])
    args = ["--config=digits_dtp", "--trials=4", "--workers=2", "--config.epochs=1"]
    found = jobs.sweep(args, asked, print)
    assert [job.label for job in found.jobs] == ["worker 0", "worker 1"] and found.together
    wanted = ("sweep", "--config=digits_dtp", "--trials=4", "--workdir=runs/sweep/digits_dtp")
    assert {job.arguments for job in found.jobs} == {(*wanted, "--config.epochs=1")}
    more = ("--storage=s.journal", "--pruner=none", "--from-config", "--plugin=colorsys")
    (first, _) = jobs.sweep([*args, *more], asked, print).jobs
    assert set(more) < set(first.arguments)
    for flag in ("--config.beta=-1", "--status", "--nix=1", "--storage=nonsense://x"):
        with pytest.raises(ValueError, match="; allowed"):
            jobs.sweep([*args, flag], asked, print)
    for flag in ("--workers=0", "--trials=0", "--pruner=nix"):
        with pytest.raises(SystemExit):
            jobs.sweep([*args, flag], asked, print)
        assert flag.partition("=")[0] in capsys.readouterr().err
    (place / "own.py").write_text(
        "from dtp_jax.configs.digits_dtp import get_config\n"
        "from dtp_jax.sweep.space import Uniform\n"
        "space = {'beta': Uniform(0.01, 0.02)}\n"
    )
    with pytest.raises(ValueError, match="--from-config: config.beta is .* outside of"):
        jobs.sweep(["--config=own.py", "--trials=2", "--from-config"], asked, print)
    assert [file.name for file in place.iterdir()] == ["own.py"]


@pytest.mark.slow
def test_a_sweep_that_has_begun_is_checked_before_it_is_sent(place):
    """And one that is done needs no workers."""
    asked = options.read([("submit", "slurm"), ("submit.time", "9")])
    config = ("--config=digits_dtp", "--config.epochs=1", "--config.max_steps=1", "--workdir=w")
    code, _, err = dtp("sweep", *config, "--trials=1")
    assert code == 0, err
    before = sorted(place.rglob("*"))
    found = jobs.sweep([*config, "--trials=1"], asked, print)
    assert not found.jobs and found.finished == ["the sweep of 1 trial in w"]
    assert len(jobs.sweep([*config, "--trials=2"], asked, print).jobs) == 1
    for more, said in (
        ("--config.beta=0.5", "its sweep has another space: its beta is"),
        ("--from-config", "--from-config comes too late"),
        ("--pruner=none", "another pruner"),
    ):
        with pytest.raises(ValueError, match=said):
            jobs.sweep([*config, "--trials=2", more], asked, print)
    assert sorted(place.rglob("*")) == before
